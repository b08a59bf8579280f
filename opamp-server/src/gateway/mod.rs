//! A gateway's routing, without I/O: many Agents on either transport, few connections to the
//! Server.
//!
//! The Server sees WebSockets that are shared by many Agents (ID-11); the Agents see a Server.
//! Messages go through as the bytes they came in: they are looked at, not encoded anew, so that
//! what this crate does not know of survives, and uids, numbers and hashes are the Agent's own.
//!
//! ```text
//!   open_websocket ─┐                                          ┌─ upstream_opened, upstream_lost
//!   open_request   ─┤  receive ──▶ queue of the connection ──▶ │  poll_upstream
//!   close          ─┘              the Agent sticks to         │
//!   poll_downstream ◀── queue of the connection, or ◀───────── │  receive_upstream
//!                       the Agent's next request               └─
//!              poll_ready: who has something to do · poll_timeout, handle_timeout: when
//! ```
//!
//! # Rules
//!
//! **Stickiness.** An Agent sticks to one upstream connection, so that its messages stay in order.
//! It gets the least loaded one when its session begins; each takes a bounded number, as servers
//! bound the Agents of a connection. Who finds no room is told UNAVAILABLE.
//!
//! **A session downstream is a session upstream.** On a shared connection the Server cannot see an
//! Agent's own connection end, so the gateway says goodbye for it: when the connection is lost,
//! when the Agent appears on another one, and when an HTTP Agent falls silent. Else the Server
//! would take it for connected for ever, and would not offer again what was lost on the way. This
//! `agent_disconnect` takes the next sequence number (reading A12), which the Agent then uses
//! again: the Server misses something, asks, and gets the full state. So an unclean loss costs a
//! full report; that the Server believes what is true is worth it.
//!
//! **Whatever is lost is lost visibly.** Messages that wait are bounded in bytes, and their senders
//! are not read any more before they are refused. A refused Agent is told UNAVAILABLE, or 503, and
//! knows what it has to say again. A downstream connection that does not take what waits for it is
//! closed, without holding up others. A message of the Server that cannot be kept ends the Agent's
//! session.
//!
//! **A lost upstream connection** is the end of the sessions on it (CLOSE-11). Its Agents move to
//! the others with what was not sent yet, or wait a while for it to come back; then they are
//! refused. Agents on a WebSocket are asked, at a bounded pace, for their full state in the
//! Server's name: so the Server learns where they are, and what may have been lost without
//! anybody's knowing is said again.
//!
//! **The newest connection wins.** An Agent that speaks on another connection than before has left
//! the earlier one. What still comes on that is refused with UNAVAILABLE: it is the remains of a
//! dead connection, which nobody reads, or a second Agent with the same uid, which then backs off
//! rather than take turns with the first at full speed. Detecting duplicates is the Server's
//! business (DUP-05); a uid that it gives to an Agent is known here when the Agent is told (ID-12).
//!
//! **An HTTP request** is answered when the Server says something to its Agent after the message
//! was passed on: with that, or with what it had said in between, of which the newest of each kind
//! is kept (RETRY-09). If it says nothing in time, 503. A response without the Server's mask gets
//! it, appended, as the Server gives it once on a connection and a response belongs to none
//! (CAP-10).
//!
//! **One Agent's faults are its own.** What the Server would find malformed or too large does not
//! get onto a connection that others share. Such a message is refused here, as the Server would
//! refuse it.
//!
//! **Trust.** Who may connect, and speak for which uid, is decided by whoever accepts the
//! connections; the gateway vouches for its Agents with credentials of its own. A message of the
//! Server goes to the Agent that it names, if that is in session on the connection the message came
//! on, and to nobody else.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use opamp_proto::WireUid;

mod config;
mod counters;
mod downstream;
mod incoming;
mod scan;
mod session;
mod upstream;

pub use self::config::GatewayConfig;
pub use self::counters::GatewayCounters;
pub use self::downstream::{Closing, ToAgent};
pub use self::incoming::FromAgent;
pub use self::scan::ReplyScan;
pub use self::upstream::UpstreamStatus;

use self::downstream::Downstream;
use self::session::Agent;
use self::upstream::Upstream;
use crate::core::later;

/// What a message counts beside its bytes.
const OVERHEAD: usize = 64;

const fn size(len: usize) -> usize {
    len.saturating_add(OVERHEAD)
}

/// A downstream connection or request. Later ones compare greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DownstreamId(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct AgentId(u64);

/// Who has something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ready {
    /// [`Gateway::poll_downstream`] may have something, or the connection may be read again.
    Downstream(DownstreamId),
    /// [`Gateway::poll_upstream`] may have something.
    Upstream(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Request(DownstreamId),
    Agent(AgentId),
    Patience(usize),
}

/// The routing between many Agents and few connections to a Server; see the [module](self).
///
/// It is a machine without I/O: after each input the driver takes all of
/// [`poll_ready`](Self::poll_ready) and wakes whoever it names, and it calls
/// [`handle_timeout`](Self::handle_timeout) at [`poll_timeout`](Self::poll_timeout).
///
/// ```
/// use std::time::Instant;
///
/// use opamp_proto::{Message as _, v1};
/// use opamp_server::gateway::{FromAgent, Gateway, GatewayConfig, ToAgent};
///
/// # #[allow(clippy::disallowed_methods)]
/// let now = Instant::now();
/// let mut gateway = Gateway::new(GatewayConfig::default(), now);
/// gateway.upstream_opened(0, now);
///
/// // An Agent connects and reports; the report goes to the Server as it is.
/// let agent = gateway.open_websocket();
/// let report = v1::AgentToServer { instance_uid: vec![7; 16].into(), ..Default::default() };
/// gateway.receive(agent, FromAgent::read(report.encode_to_vec().into()), now);
/// assert_eq!(gateway.poll_upstream(0).unwrap(), report.encode_to_vec());
///
/// // The Server's reply finds its way back.
/// let reply = v1::ServerToAgent { instance_uid: vec![7; 16].into(), ..Default::default() };
/// gateway.receive_upstream(0, reply.encode_to_vec().into(), now);
/// let reply = ToAgent::Message(reply.encode_to_vec().into());
/// assert_eq!(gateway.poll_downstream(agent), Some(reply));
/// ```
pub struct Gateway {
    config: GatewayConfig,
    agents: BTreeMap<AgentId, Agent>,
    /// Under which uids Agents are known: present, given and former ones.
    by_uid: HashMap<WireUid, AgentId>,
    downstreams: BTreeMap<DownstreamId, Downstream>,
    upstreams: Vec<Upstream>,
    last_agent: u64,
    last_downstream: u64,
    ready: VecDeque<Ready>,
    timers: BTreeSet<(Instant, Timer)>,
    /// Agents to be asked for their full state.
    to_ask: VecDeque<AgentId>,
    next_ask: Instant,
    /// Bytes that wait to be sent to the Server.
    waiting: usize,
    /// Bytes that wait to be sent to Agents.
    unread: usize,
    /// Agents told to come back later.
    refusals: u32,
    stopping: bool,
    counters: GatewayCounters,
}

impl Gateway {
    /// A gateway without Agents whose upstream connections are still to be opened.
    #[must_use]
    pub fn new(config: GatewayConfig, now: Instant) -> Self {
        let patience = later(now, config.outage_patience);
        let slots = 0..config.connections.max(1);
        Self {
            upstreams: slots.clone().map(|_| Upstream::new(patience)).collect(),
            timers: slots.map(|slot| (patience, Timer::Patience(slot))).collect(),
            config,
            agents: BTreeMap::new(),
            by_uid: HashMap::new(),
            downstreams: BTreeMap::new(),
            last_agent: 0,
            last_downstream: 0,
            ready: VecDeque::new(),
            to_ask: VecDeque::new(),
            next_ask: now,
            waiting: 0,
            unread: 0,
            refusals: 0,
            stopping: false,
            counters: GatewayCounters::default(),
        }
    }

    /// What it was made with.
    #[must_use]
    pub const fn config(&self) -> &GatewayConfig {
        &self.config
    }

    /// Counts since it was made.
    #[must_use]
    pub const fn counters(&self) -> GatewayCounters {
        self.counters
    }

    /// Agents known, those included that have just left.
    #[must_use]
    pub fn agents(&self) -> usize {
        self.agents.len()
    }

    /// Bytes that wait to be sent to the Server.
    #[must_use]
    pub const fn waiting_bytes(&self) -> usize {
        self.waiting
    }

    /// Bytes that wait to be sent to Agents.
    #[must_use]
    pub const fn unread_bytes(&self) -> usize {
        self.unread
    }

    /// The next one that has something to do; each is named once until it is taken.
    pub fn poll_ready(&mut self) -> Option<Ready> {
        loop {
            let ready = self.ready.pop_front()?;
            match ready {
                Ready::Upstream(slot) => self.upstreams[slot].ready = false,
                Ready::Downstream(id) => match self.downstreams.get_mut(&id) {
                    Some(downstream) => downstream.ready = false,
                    None => continue,
                },
            }
            return Some(ready);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let ask = (!self.to_ask.is_empty()).then_some(self.next_ask);
        timer.into_iter().chain(ask).min()
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, timer)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Request(request) => self.request_due(request, now),
                Timer::Agent(agent) => self.agent_due(agent, now),
                Timer::Patience(slot) => self.lose_patience(slot, now),
            }
        }
        self.ask_due(now);
    }

    /// The gateway stops: downstream WebSockets are closed, new ones and messages refused. What
    /// waits is still sent, and so are the goodbyes of Agents that say theirs.
    ///
    /// It says none on their behalf: the Agents are not leaving, they lose a way to the Server and
    /// will take another. That they are on no connection the Server sees by the end of the
    /// gateway's own.
    pub fn stop(&mut self) {
        self.stopping = true;
        let open: Vec<_> = self.downstreams.keys().copied().collect();
        for id in open {
            self.close_for_good(id);
        }
    }

    fn close_for_good(&mut self, id: DownstreamId) {
        if let Some(Downstream { kind: downstream::Kind::WebSocket { closing, .. }, .. }) =
            self.downstreams.get_mut(&id)
        {
            closing.get_or_insert(Closing::GoingAway);
            self.wake(id);
        }
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway")
            .field("agents", &self.agents.len())
            .field("downstreams", &self.downstreams.len())
            .field("upstreams", &self.upstreams.len())
            .finish_non_exhaustive()
    }
}
