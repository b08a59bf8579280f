//! One Agent: where it is reached, on which upstream connection it speaks, and what the Server
//! believes.
//!
//! ```text
//!              first message                 own goodbye
//!   (unknown) ───────────────▶ in session ────────────────────────▶ left ──▶ forgotten
//!                 ▲             │    │  gone without: the gateway's    │  30 s
//!                 │             │    └─ goodbye on its behalf ─────────┤
//!                 │             │                                      │
//!                 │             └─ on a newer connection: goodbye, ──┐ │
//!                 └── and a new session ◀────────────────────────────┴─┘ a further message
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use opamp_proto::{Message as _, WireUid, v1};

use super::scan::Gist;
use super::{AgentId, DownstreamId, Gateway, ReplyScan, Timer, ToAgent, size};
use crate::core::later;

/// How long an Agent that has left is remembered, for what the Server may still say to it.
const LINGER: Duration = Duration::from_secs(30);

pub(super) struct Agent {
    pub(super) uid: WireUid,
    /// The uid it was given and has not used yet.
    pub(super) given: Option<WireUid>,
    /// The uid it had before; what the Server says may still name it (reading A33).
    pub(super) former: Option<WireUid>,
    pub(super) link: Link,
    /// The upstream connection it sticks to.
    pub(super) slot: usize,
    /// Which life of that connection it spoke on.
    pub(super) life: u64,
    /// It is in session, and takes up a place on the upstream connection.
    pub(super) seated: bool,
    /// The Server knows of the session, or will when it gets what waits.
    pub(super) known: bool,
    /// Its messages that wait to be sent.
    pub(super) queued: u32,
    pub(super) sequence_num: u64,
    pub(super) capabilities: u64,
    /// The Server's mask, as it was told the Agent last.
    server_mask: u64,
    /// Messages that had no reply so far.
    pub(super) unanswered: u32,
    /// Those of them that belong to an earlier session.
    pub(super) stale: u32,
    /// A reply was lost with an upstream connection.
    pub(super) lost_reply: bool,
    /// It is in the queue of those to be asked for their full state.
    pub(super) to_ask: bool,
    pub(super) timer: Option<Instant>,
}

/// How an Agent is reached.
pub(super) enum Link {
    /// Not at the moment.
    Gone,
    WebSocket(DownstreamId),
    Http(Polling),
}

/// An Agent that polls.
pub(super) struct Polling {
    pub(super) last: DownstreamId,
    pub(super) last_seen: Instant,
    /// Requests that wait for a reply, in their order.
    pub(super) waiting: VecDeque<DownstreamId>,
    /// What the Server said between requests, the newest of each kind (RETRY-09).
    held: VecDeque<Held>,
    pub(super) held_bytes: usize,
}

struct Held {
    message: Bytes,
    gist: Gist,
}

/// A message as a response: the Server gives its mask once on a connection, but a response belongs
/// to none, so there each has it (CAP-10, reading A07). Nothing else is added, and nothing changed.
fn response(message: Bytes, mask: u64) -> Bytes {
    let complete =
        ReplyScan::new(&message).is_none_or(|scan| scan.is_error() || scan.capabilities() != 0);
    if complete || mask == 0 {
        return message;
    }
    let mask = v1::ServerToAgent { capabilities: mask, ..Default::default() };
    [&message[..], &mask.encode_to_vec()].concat().into()
}

impl Polling {
    pub(super) fn new(request: DownstreamId, now: Instant) -> Self {
        Self {
            last: request,
            last_seen: now,
            waiting: VecDeque::new(),
            held: VecDeque::new(),
            held_bytes: 0,
        }
    }

    /// Keeps a message that says something, instead of those that say nothing more.
    fn hold(&mut self, message: &Bytes, scan: ReplyScan<'_>) {
        if scan.is_bare() {
            return;
        }
        let gist = scan.gist();
        let held_bytes = &mut self.held_bytes;
        self.held.retain(|earlier| {
            let replaced = gist.replaces(earlier.gist);
            *held_bytes -= if replaced { size(earlier.message.len()) } else { 0 };
            !replaced
        });
        *held_bytes += size(message.len());
        self.held.push_back(Held { message: message.clone(), gist });
    }

    fn take_oldest(&mut self) -> Option<Bytes> {
        let Held { message, .. } = self.held.pop_front()?;
        self.held_bytes -= size(message.len());
        Some(message)
    }
}

impl Agent {
    pub(super) fn new(uid: WireUid, slot: usize) -> Self {
        Self {
            uid,
            given: None,
            former: None,
            link: Link::Gone,
            slot,
            life: 0,
            seated: false,
            known: false,
            queued: 0,
            sequence_num: 0,
            capabilities: 0,
            server_mask: 0,
            unanswered: 0,
            stale: 0,
            lost_reply: false,
            to_ask: false,
            timer: None,
        }
    }

    /// The Agent's last message, as it did not come to send it (reading A12): with the next number,
    /// which the Agent does not know to be used. When it comes back the Server misses something and
    /// asks for the full state, as it should, having been told that the Agent was gone.
    fn goodbye(&mut self) -> Bytes {
        self.sequence_num = self.sequence_num.wrapping_add(1);
        let goodbye = v1::AgentToServer {
            instance_uid: self.uid.to_bytes(),
            sequence_num: self.sequence_num,
            capabilities: self.capabilities,
            agent_disconnect: Some(v1::AgentDisconnect {}),
            ..Default::default()
        };
        goodbye.encode_to_vec().into()
    }

    /// A request for the full state, in the Server's name.
    pub(super) fn full_state_request(&self) -> Bytes {
        let request = v1::ServerToAgent {
            instance_uid: self.uid.to_bytes(),
            flags: v1::ServerToAgentFlags::ReportFullState as u64,
            ..Default::default()
        };
        request.encode_to_vec().into()
    }
}

impl Gateway {
    /// Ends an Agent's session as far as the Server is concerned. While the connection to the
    /// Server is lost the Server knows of none, so what waits to be sent is dropped: none of it was
    /// answered.
    pub(super) fn end_session(&mut self, id: AgentId) {
        let Some(agent) = self.agents.get_mut(&id).filter(|agent| agent.seated) else { return };
        let slot = agent.slot;
        let known = std::mem::take(&mut agent.known);
        agent.seated = false;
        agent.lost_reply = false;
        self.upstreams[slot].agents.remove(&id);
        self.drop_held(id);
        if !self.upstreams[slot].connected {
            self.drop_queued(id);
        } else if known && !self.stopping {
            let Some(agent) = self.agents.get_mut(&id) else { return };
            let goodbye = agent.goodbye();
            self.counters.goodbyes += 1;
            self.enqueue(id, None, goodbye);
            if let Some(agent) = self.agents.get_mut(&id) {
                agent.stale = agent.unanswered;
            }
        }
    }

    /// An Agent cannot be reached any more.
    pub(super) fn unlink(&mut self, id: AgentId, now: Instant) {
        self.end_session(id);
        self.drop_held(id);
        let Some(agent) = self.agents.get_mut(&id) else { return };
        match std::mem::replace(&mut agent.link, Link::Gone) {
            Link::WebSocket(connection) => {
                if let Some(downstream) = self.downstreams.get_mut(&connection) {
                    downstream.agents.remove(&id);
                }
            }
            Link::Http(polling) => {
                for request in polling.waiting {
                    self.answer_unavailable(request, now);
                }
            }
            Link::Gone => {}
        }
        self.linger(id, now);
    }

    /// An Agent that has left is forgotten after a while.
    fn linger(&mut self, id: AgentId, now: Instant) {
        self.set_timer(id, Some(later(now, LINGER)));
    }

    /// An Agent said goodbye itself: its session is over, and a later message begins a new one
    /// (reading A12). The reply still finds it.
    pub(super) fn leave(&mut self, id: AgentId, now: Instant) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        agent.seated = false;
        agent.known = false;
        agent.lost_reply = false;
        self.upstreams[agent.slot].agents.remove(&id);
        if let Link::WebSocket(connection) = agent.link {
            if let Some(downstream) = self.downstreams.get_mut(&connection) {
                downstream.agents.remove(&id);
            }
            self.linger(id, now);
        }
    }

    /// An Agent's time has come: it has polled for too long ago, or has lingered long enough.
    pub(super) fn agent_due(&mut self, id: AgentId, now: Instant) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        agent.timer = None;
        match &agent.link {
            Link::WebSocket(_) if agent.seated => {}
            Link::Http(polling) => {
                let offline = later(polling.last_seen, self.config.http_offline_after);
                if offline <= now {
                    self.unlink(id, now);
                } else {
                    self.set_timer(id, Some(offline));
                }
            }
            Link::WebSocket(_) | Link::Gone if agent.queued > 0 => self.linger(id, now),
            Link::WebSocket(_) | Link::Gone => self.forget(id),
        }
    }

    fn forget(&mut self, id: AgentId) {
        let Some(agent) = self.agents.remove(&id) else { return };
        for uid in [Some(agent.uid), agent.given, agent.former].into_iter().flatten() {
            if self.by_uid.get(&uid) == Some(&id) {
                self.by_uid.remove(&uid);
            }
        }
    }

    pub(super) fn set_timer(&mut self, id: AgentId, at: Option<Instant>) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        if let Some(earlier) = std::mem::replace(&mut agent.timer, at) {
            self.timers.remove(&(earlier, Timer::Agent(id)));
        }
        if let Some(at) = at {
            self.timers.insert((at, Timer::Agent(id)));
        }
    }

    /// What the Server said to an HTTP Agent belongs to a session that is over.
    pub(super) fn drop_held(&mut self, id: AgentId) {
        if let Some(Agent { link: Link::Http(polling), .. }) = self.agents.get_mut(&id) {
            polling.held.clear();
            self.unread -= std::mem::take(&mut polling.held_bytes);
        }
    }

    /// The Server gives an Agent another uid: it is known under both from now on, as it may speak
    /// under the new one at any moment (ID-12).
    pub(super) fn give(&mut self, id: AgentId, new: WireUid) {
        if self.by_uid.contains_key(&new) {
            return;
        }
        let Some(agent) = self.agents.get_mut(&id) else { return };
        if let Some(outdated) = agent.given.replace(new) {
            self.by_uid.remove(&outdated);
        }
        self.by_uid.insert(new, id);
    }

    /// An Agent speaks under the uid it was given.
    pub(super) fn take_given(&mut self, id: AgentId) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        let Some(new) = agent.given.take() else { return };
        let old = std::mem::replace(&mut agent.uid, new);
        if let Some(outdated) = agent.former.replace(old) {
            self.by_uid.remove(&outdated);
        }
    }

    /// Somebody else speaks under a uid that an Agent had before: it is that Agent's no longer.
    pub(super) fn disown(&mut self, id: AgentId, uid: &WireUid) {
        if let Some(agent) = self.agents.get_mut(&id)
            && agent.former.as_ref() == Some(uid)
        {
            agent.former = None;
            self.by_uid.remove(uid);
        }
    }

    /// Passes a message of the Server on to an Agent, or keeps it until the Agent asks.
    pub(super) fn deliver(
        &mut self,
        id: AgentId,
        message: &Bytes,
        scan: ReplyScan<'_>,
        now: Instant,
    ) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        if scan.capabilities() != 0 {
            agent.server_mask = scan.capabilities();
        }
        let polling = match &mut agent.link {
            Link::Gone => {
                self.counters.late += 1;
                return;
            }
            Link::WebSocket(connection) => {
                let connection = *connection;
                return self.push(connection, message.clone(), now);
            }
            Link::Http(polling) => polling,
        };
        let before = polling.held_bytes;
        polling.hold(message, scan);
        if let Some(request) = polling.waiting.pop_front() {
            // With nothing else to say, the acknowledgement is it.
            let oldest = polling.take_oldest().unwrap_or_else(|| message.clone());
            let answer = ToAgent::Message(response(oldest, agent.server_mask));
            self.unread = self.unread + polling.held_bytes - before;
            return self.answer(request, answer);
        }
        self.unread = self.unread + polling.held_bytes - before;
        if polling.held_bytes > self.config.max_unread_bytes && polling.held.len() > 1 {
            // What is lost is lost to the Server's knowledge: the next request begins a session
            // anew.
            self.drop_held(id);
            self.end_session(id);
        }
        self.relieve(now);
    }
}
