//! Counts of what a gateway passed on and what it did not.

/// What a gateway did since it was made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct GatewayCounters {
    /// Messages of Agents handed to upstream connections.
    pub to_server: u64,
    /// Messages of the Server handed to downstream connections and requests.
    pub to_agents: u64,
    /// Messages of Agents told BAD_REQUEST: malformed, or without an Agent that could be answered.
    pub malformed: u64,
    /// Messages of Agents told UNAVAILABLE, or 503, as the Server could not be reached or was too
    /// slow, or a bound was met.
    pub unavailable: u64,
    /// Messages of Agents larger than what the Server takes.
    pub too_large: u64,
    /// Messages told UNAVAILABLE as the same Agent has appeared on a newer connection.
    pub superseded: u64,
    /// Requests told 503 as the Server's reply did not come in time.
    pub timed_out: u64,
    /// Goodbyes said for Agents that went without.
    pub goodbyes: u64,
    /// Agents asked for their full state after the loss of an upstream connection.
    pub full_state: u64,
    /// Messages of the Server dropped as they name no Agent of that connection, or none at all.
    pub unroutable: u64,
    /// Messages of the Server dropped as their Agent had just gone.
    pub late: u64,
    /// Replies to what an earlier session had sent, which were kept from the session after it.
    pub stale: u64,
    /// Downstream connections closed as they take too little of what waits for them.
    pub slow: u64,
}
