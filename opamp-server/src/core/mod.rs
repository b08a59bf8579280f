//! The protocol of the Server's end without I/O: no socket, no clock, no lock, no task, no random
//! source. Everything comes in as an argument and goes out as a return value.
//!
//! [`Scan`] finds what an encoded message holds, [`AgentState`] keeps what an Agent reported, and
//! [`Agent`] is the machine that decides what to answer and what to push. Most programs use them
//! through the [`Fleet`](crate::Fleet).

mod agent;
mod arrivals;
mod certificate;
mod changes;
mod compose;
mod config;
mod connection_settings;
mod custom;
mod desired;
mod duplicate;
mod endpoint;
mod liveness;
mod offer;
mod pacing;
mod packages;
mod rate;
mod record;
mod remote_config;
mod reply;
mod scan;
mod sequence;
mod state;
mod tally;

pub use self::agent::{Agent, Due, Handled, Push, Terms, Transport};
pub use self::arrivals::Arrivals;
pub use self::certificate::{
    CertificateDecision, CertificateOffer, CertificateRequestId, CertificateRequestState,
    InvalidRequestId, PendingCertificate,
};
pub use self::changes::Changes;
pub(crate) use self::config::later;
pub use self::config::{ServerConfig, Tolerances};
pub use self::connection_settings::{ConnectionSettings, SettingsParts};
pub use self::custom::{CustomCapabilities, CustomMessages};
pub use self::desired::Desired;
pub(crate) use self::duplicate::{Contest, Heard, Interleaving, RivalId, Sign};
pub use self::endpoint::InvalidOffer;
pub use self::offer::{OfferHash, OfferState, Outcome};
pub use self::pacing::FullStatePace;
pub use self::packages::Packages;
pub use self::rate::Rate;
#[cfg(feature = "service")]
pub(crate) use self::rate::Since;
pub(crate) use self::rate::Spread;
pub(crate) use self::record::{Anchor, Dealings, Value, ValueKey, Values, Vitals, WantedRecord};
pub use self::remote_config::RemoteConfig;
pub use self::reply::{MAX_HEAD, Refusal, RefusalKind};
pub use self::scan::{Malformed, Part, Scan};
pub use self::state::AgentState;
pub(crate) use self::tally::{OfferEvents, Tally};

/// Why the Server does not do what its operator wants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OperationError {
    /// The registry holds no such Agent.
    #[error("no Agent has this instance uid")]
    UnknownAgent,
    /// The Agent lacks the capability for it, or for each part of it (CMD-05, CONN-02 to CONN-06,
    /// PKG-01, CUST-04, INTEROP-03).
    #[error("the Agent does not accept this")]
    NotAccepted,
    /// The Server's own mask, or its custom capabilities, do not have it: see
    /// [`ServerConfig::capabilities`] and [`ServerConfig::custom_capabilities`] (INTEROP-05,
    /// CUST-09).
    #[error("the Server does not announce the capability for this")]
    NotOffered,
    /// The Agent has no connection of its own at the moment.
    #[error("the Agent is on no WebSocket")]
    NotConnected,
    /// So many custom messages wait for the Agent already.
    #[error("too many custom messages wait for the Agent")]
    QueueFull,
    /// The message would exceed the greatest size the Server sends (SIZE-12, SIZE-30).
    #[error("the message would have up to {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Bytes of the message.
        size: usize,
        /// The limit, [`MessageLimits::max_send`](opamp_proto::MessageLimits::max_send).
        limit: usize,
    },
    /// The Agent waits for no such certificate: it was decided about, or the Agent has asked for
    /// another one since.
    #[error("the Agent does not wait for this certificate")]
    NoCertificateRequest,
    /// The identity that speaks for the Agent may not do so under the new instance uid.
    #[error("the Agent's identity may not speak for the new instance uid")]
    NotAuthorized,
    /// Another Agent has the instance uid or is about to get it.
    #[error("another Agent has this instance uid")]
    UidInUse,
}
