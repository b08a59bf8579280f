//! The Agents' side: WebSocket connections and HTTP requests, and what comes in on them.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use opamp_proto::WireUid;

use super::incoming::{FromAgent, Incoming};
use super::session::{Agent, Link, Polling};
use super::{AgentId, DownstreamId, Gateway, Ready, Timer, size};
use crate::core::{Refusal, later};
use crate::websocket::CloseCode;

/// What is to be done on a downstream connection, or with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ToAgent {
    /// Send this encoded `ServerToAgent`; over WebSocket with the header in front. To a request it
    /// is the answer, with status 200.
    Message(Bytes),
    /// Answer the request with 503 and `Retry-After`.
    Unavailable {
        /// The time the client is told to wait.
        retry_after: Duration,
    },
    /// Answer the request with 413 (SIZE-23).
    TooLarge,
    /// Close the WebSocket, and call [`Gateway::close`] when that is done.
    Close(Closing),
}

/// Why a downstream WebSocket is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Closing {
    /// It takes too little of what waits for it.
    Slow,
    /// Too many of its messages were malformed.
    Malformed,
    /// A message was larger than what the Server takes.
    TooLarge,
    /// The gateway stops.
    GoingAway,
}

impl Closing {
    /// The code of the Close frame.
    #[must_use]
    pub const fn code(self) -> CloseCode {
        match self {
            Self::Slow | Self::Malformed => CloseCode::POLICY,
            Self::TooLarge => CloseCode::TOO_LARGE,
            Self::GoingAway => CloseCode::GOING_AWAY,
        }
    }

    /// The reason in the Close frame.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Slow => "the peer does not read",
            Self::Malformed => "too many malformed messages",
            Self::TooLarge => "message above the size limit",
            Self::GoingAway => "the gateway stops",
        }
    }
}

pub(super) struct Downstream {
    pub(super) kind: Kind,
    /// Somebody is to look at it.
    pub(super) ready: bool,
    pub(super) agents: BTreeSet<AgentId>,
    /// Bytes received on it that wait to be sent to the Server.
    pub(super) waiting: usize,
    /// It is not read until there is less to send on this upstream connection.
    pub(super) held_up_by: Option<usize>,
    malformed_in_a_row: u32,
}

pub(super) enum Kind {
    WebSocket {
        unread: VecDeque<Bytes>,
        unread_bytes: usize,
        closing: Option<Closing>,
        told: bool,
    },
    Request {
        agent: Option<AgentId>,
        /// The message has not been sent to the Server yet.
        queued: bool,
        deadline: Option<Instant>,
        answer: Option<ToAgent>,
        answered: bool,
    },
}

impl Downstream {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            ready: false,
            agents: BTreeSet::new(),
            waiting: 0,
            held_up_by: None,
            malformed_in_a_row: 0,
        }
    }

    /// Whatever it says is of no interest any more.
    fn is_given_up(&self) -> bool {
        match &self.kind {
            Kind::WebSocket { closing, .. } => closing.is_some_and(|why| why != Closing::GoingAway),
            Kind::Request { answered, .. } => *answered,
        }
    }
}

/// Why a message is not passed on.
enum Refused {
    Superseded,
    Unavailable(&'static str),
    TooLarge,
}

/// What an Agent's driver calls.
impl Gateway {
    /// Whether a further WebSocket should be opened.
    ///
    /// # Errors
    ///
    /// How long its Agent should stay away: the handshake is answered with 503 and `Retry-After`
    /// (THR-07, THR-08), as no upstream connection has been there for a while, or the gateway
    /// stops.
    pub fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        let hopeless = self.upstreams.iter().all(|it| !it.connected && it.hopeless);
        if !hopeless && !self.stopping {
            return Ok(());
        }
        self.counters.unavailable += 1;
        Err(self.pause(now))
    }

    /// A WebSocket was opened. Later ones are newer: an Agent belongs to the newest it spoke on.
    #[must_use]
    pub fn open_websocket(&mut self) -> DownstreamId {
        let closing = self.stopping.then_some(Closing::GoingAway);
        let (unread, unread_bytes) = (VecDeque::new(), 0);
        self.open(Kind::WebSocket { unread, unread_bytes, closing, told: false })
    }

    /// An HTTP request came in; it gets exactly one answer.
    #[must_use]
    pub fn open_request(&mut self) -> DownstreamId {
        let (agent, deadline, answer) = (None, None, None);
        self.open(Kind::Request { agent, queued: false, deadline, answer, answered: false })
    }

    fn open(&mut self, kind: Kind) -> DownstreamId {
        self.last_downstream += 1;
        let id = DownstreamId(self.last_downstream);
        let closing = matches!(kind, Kind::WebSocket { closing: Some(_), .. });
        self.downstreams.insert(id, Downstream::new(kind));
        if closing {
            self.wake(id);
        }
        id
    }

    /// A message of an Agent came in. It is passed on as it is, or refused: there is an answer to
    /// each (STATUS-07).
    pub fn receive(&mut self, from: DownstreamId, message: FromAgent, now: Instant) {
        let stopping = self.stopping;
        let Some(downstream) = self.downstreams.get_mut(&from) else { return };
        if downstream.is_given_up() {
            return;
        }
        let FromAgent { body, read } = message;
        let message = match read {
            Ok(message) => message,
            Err((uid, refusal)) => return self.refuse_malformed(from, uid.as_ref(), &refusal, now),
        };
        downstream.malformed_in_a_row = 0;
        let refused = match self.check(from, &message, body.len()) {
            Ok(_) if stopping && !message.goodbye => Refused::Unavailable("the gateway stops"),
            Ok(slot) => return self.pass_on(from, &message, body, slot, now),
            Err(refused) => refused,
        };
        let why = match refused {
            Refused::TooLarge => {
                self.counters.too_large += 1;
                if self.is_request(from) {
                    return self.answer(from, ToAgent::TooLarge);
                }
                return self.give_up(from, Closing::TooLarge, now);
            }
            Refused::Superseded => {
                self.counters.superseded += 1;
                "another connection speaks for this instance uid"
            }
            Refused::Unavailable(why) => {
                self.counters.unavailable += 1;
                why
            }
        };
        self.refuse_for_now(from, &message.uid, why, now);
    }

    /// Decides about a message, and by which upstream connection it goes; nothing changes.
    fn check(&self, from: DownstreamId, message: &Incoming, len: usize) -> Result<usize, Refused> {
        let Some(downstream) = self.downstreams.get(&from) else {
            return Err(Refused::Superseded);
        };
        // The Server's connections are WebSockets, where the header counts (SIZE-01).
        if len >= self.config.max_message_bytes {
            return Err(Refused::TooLarge);
        }
        let is_request = matches!(downstream.kind, Kind::Request { .. });
        let known = self.by_uid.get(&message.uid).and_then(|id| Some((*id, self.agents.get(id)?)));
        // A uid that an Agent had before says nothing of that Agent when another one speaks.
        let known = known.filter(|(_, agent)| agent.former.as_ref() != Some(&message.uid));
        if let Some((_, agent)) = known {
            let newest = match &agent.link {
                Link::Gone => from,
                Link::WebSocket(connection) => *connection,
                Link::Http(polling) if is_request => {
                    if polling.waiting.len() >= self.config.max_requests_per_agent {
                        return Err(Refused::Unavailable("too many requests of this Agent"));
                    }
                    from
                }
                Link::Http(polling) => polling.last,
            };
            if newest > from {
                return Err(Refused::Superseded);
            }
        } else if self.agents.len() >= self.config.max_agents {
            return Err(Refused::Unavailable("the gateway serves no more Agents"));
        }
        let joins = known.is_none_or(|(id, _)| !downstream.agents.contains(&id));
        if joins && downstream.agents.len() >= self.config.max_agents_per_connection {
            return Err(Refused::Unavailable("the connection carries no more Agents"));
        }
        if self.waiting > 0 && self.waiting + size(len) > self.config.max_waiting_bytes {
            return Err(Refused::Unavailable("too much waits to be sent to the Server"));
        }
        let seat = known.map(|(_, agent)| (agent.slot, agent.seated));
        self.choose(seat).ok_or(Refused::Unavailable("the Server cannot be reached"))
    }

    /// Queues a message for the Server.
    fn pass_on(
        &mut self,
        from: DownstreamId,
        message: &Incoming,
        body: Bytes,
        slot: usize,
        now: Instant,
    ) {
        let id = self.identify(from, message, slot, now);
        self.link(id, from, now);
        self.seat(id, slot);
        let Some(agent) = self.agents.get_mut(&id) else { return };
        agent.sequence_num = message.sequence_num;
        if message.capabilities != 0 {
            agent.capabilities = message.capabilities;
        }
        self.enqueue(id, Some(from), body);
        if message.goodbye {
            self.leave(id, now);
        }
        self.hold_up(from, slot);
    }

    /// The Agent that speaks. If it does so on another connection than before, its session has
    /// ended.
    fn identify(
        &mut self,
        from: DownstreamId,
        message: &Incoming,
        slot: usize,
        now: Instant,
    ) -> AgentId {
        if let Some(&id) = self.by_uid.get(&message.uid) {
            self.disown(id, &message.uid);
        }
        let Some(&id) = self.by_uid.get(&message.uid) else {
            self.last_agent += 1;
            let id = AgentId(self.last_agent);
            self.agents.insert(id, Agent::new(message.uid, slot));
            self.by_uid.insert(message.uid, id);
            return id;
        };
        let request = self.is_request(from);
        let Some(agent) = self.agents.get(&id) else { return id };
        match &agent.link {
            Link::WebSocket(connection) if *connection == from => {}
            Link::Http(_) if request => {
                // A full report that does not follow on: another process, which has to be told the
                // Server's mask again, and what it announces.
                let last = agent.sequence_num;
                let follows = [last, last.wrapping_add(1)].contains(&message.sequence_num);
                if message.described && !follows {
                    self.end_session(id);
                }
            }
            Link::Gone | Link::WebSocket(_) | Link::Http(_) => self.unlink(id, now),
        }
        if self.agents.get(&id).is_some_and(|agent| agent.given.as_ref() == Some(&message.uid)) {
            self.take_given(id);
        }
        if let Some(agent) = self.agents.get(&id).filter(|agent| !agent.seated)
            && let Some(former) = agent.former
        {
            // What still names it is for the session before.
            self.disown(id, &former);
        }
        id
    }

    fn is_request(&self, id: DownstreamId) -> bool {
        matches!(self.downstreams.get(&id), Some(Downstream { kind: Kind::Request { .. }, .. }))
    }

    /// The Agent is reached where it has just spoken.
    fn link(&mut self, id: AgentId, from: DownstreamId, now: Instant) {
        let Some(downstream) = self.downstreams.get_mut(&from) else { return };
        let Some(agent) = self.agents.get_mut(&id) else { return };
        match &mut downstream.kind {
            Kind::WebSocket { .. } => {
                downstream.agents.insert(id);
                agent.link = Link::WebSocket(from);
                self.set_timer(id, None);
            }
            Kind::Request { agent: of, queued, deadline, .. } => {
                if !matches!(agent.link, Link::Http(_)) {
                    agent.link = Link::Http(Polling::new(from, now));
                }
                let Link::Http(polling) = &mut agent.link else { return };
                polling.last = from;
                polling.last_seen = now;
                polling.waiting.push_back(from);
                (*of, *queued) = (Some(id), true);
                let due = later(now, self.config.reply_deadline);
                *deadline = Some(due);
                self.timers.insert((due, Timer::Request(from)));
                let offline = later(now, self.config.http_offline_after);
                self.set_timer(id, Some(offline));
            }
        }
    }

    /// Whether no more should be read from this connection for now: too much of it waits to be sent
    /// to the Server. [`Ready::Downstream`] says when to ask again.
    #[must_use]
    pub fn is_held_up(&self, id: DownstreamId) -> bool {
        self.downstreams.get(&id).is_some_and(|it| {
            it.held_up_by.is_some() || it.waiting >= self.config.connection_high_water
        })
    }

    fn hold_up(&mut self, from: DownstreamId, slot: usize) {
        let upstream = &mut self.upstreams[slot];
        if upstream.bytes >= self.config.upstream_high_water
            && let Some(downstream) = self.downstreams.get_mut(&from)
            && downstream.held_up_by.is_none()
        {
            downstream.held_up_by = Some(slot);
            upstream.holds_up.push(from);
        }
    }

    /// What is to be done next on a connection, or with a request: to be called when it can take
    /// something, until it returns `None`.
    pub fn poll_downstream(&mut self, id: DownstreamId) -> Option<ToAgent> {
        match &mut self.downstreams.get_mut(&id)?.kind {
            Kind::Request { answer, .. } => answer.take(),
            Kind::WebSocket { unread, unread_bytes, closing, told } => {
                if let Some(message) = unread.pop_front() {
                    *unread_bytes -= size(message.len());
                    self.unread -= size(message.len());
                    self.counters.to_agents += 1;
                    return Some(ToAgent::Message(message));
                }
                let closing = closing.filter(|_| !std::mem::replace(told, true))?;
                Some(ToAgent::Close(closing))
            }
        }
    }

    /// The connection is gone, or the request was answered or given up. The Agents on a connection
    /// that have not said goodbye have left without (CLOSE-11).
    pub fn close(&mut self, id: DownstreamId, now: Instant) {
        let Some(downstream) = self.downstreams.get_mut(&id) else { return };
        for agent in std::mem::take(&mut downstream.agents) {
            self.unlink(agent, now);
        }
        let Some(downstream) = self.downstreams.remove(&id) else { return };
        match downstream.kind {
            Kind::WebSocket { unread_bytes, .. } => self.unread -= unread_bytes,
            Kind::Request { agent, deadline, .. } => {
                if let Some(deadline) = deadline {
                    self.timers.remove(&(deadline, Timer::Request(id)));
                }
                self.no_longer_waits(agent, id);
            }
        }
    }

    fn no_longer_waits(&mut self, agent: Option<AgentId>, request: DownstreamId) {
        let agent = agent.and_then(|agent| self.agents.get_mut(&agent));
        if let Some(Agent { link: Link::Http(polling), .. }) = agent {
            polling.waiting.retain(|waiting| *waiting != request);
        }
    }
}

/// Answers.
impl Gateway {
    /// Queues a message on a connection; one that is too far behind is closed instead.
    pub(super) fn push(&mut self, id: DownstreamId, message: Bytes, now: Instant) {
        let limit = self.config.max_unread_bytes;
        let Some(downstream) = self.downstreams.get_mut(&id) else { return };
        let Kind::WebSocket { unread, unread_bytes, closing, .. } = &mut downstream.kind else {
            return;
        };
        if closing.is_some_and(|why| why != Closing::GoingAway) {
            return;
        }
        *unread_bytes += size(message.len());
        self.unread += size(message.len());
        unread.push_back(message);
        if *unread_bytes > limit && unread.len() > 1 {
            return self.give_up(id, Closing::Slow, now);
        }
        self.wake(id);
        self.relieve(now);
    }

    /// Closes whoever is furthest behind, as long as too much waits for all together.
    pub(super) fn relieve(&mut self, now: Instant) {
        while self.unread > self.config.max_unread_bytes_in_all {
            let unread = |(id, it): (&DownstreamId, &Downstream)| match &it.kind {
                Kind::WebSocket { unread_bytes, .. } => Some((*unread_bytes, *id)),
                Kind::Request { .. } => None,
            };
            let connection = self.downstreams.iter().filter_map(unread).max();
            let held = |(id, it): (&AgentId, &Agent)| match &it.link {
                Link::Http(polling) => Some((polling.held_bytes, *id)),
                Link::Gone | Link::WebSocket(_) => None,
            };
            let agent = self.agents.iter().filter_map(held).max();
            match (connection, agent) {
                (connection, Some((held, agent)))
                    if held > connection.map_or(0, |(unread, _)| unread) =>
                {
                    self.drop_held(agent);
                    self.end_session(agent);
                }
                (Some((unread, id)), _) if unread > 0 => self.give_up(id, Closing::Slow, now),
                _ => return,
            }
        }
    }

    /// Closes a connection without what waits for it. What the Server said is lost, so it is told
    /// that the Agents are gone, as they will be.
    fn give_up(&mut self, id: DownstreamId, why: Closing, now: Instant) {
        let Some(downstream) = self.downstreams.get_mut(&id) else { return };
        if let Kind::WebSocket { unread, unread_bytes, closing, told } = &mut downstream.kind {
            *unread = VecDeque::new();
            self.unread -= std::mem::take(unread_bytes);
            *told &= *closing == Some(why);
            *closing = Some(why);
            self.counters.slow += u64::from(why == Closing::Slow);
        }
        for agent in std::mem::take(&mut downstream.agents) {
            self.unlink(agent, now);
        }
        self.wake(id);
    }

    /// Answers a request, once.
    pub(super) fn answer(&mut self, id: DownstreamId, with: ToAgent) {
        let Some(Downstream { kind: Kind::Request { answer, answered, deadline, .. }, .. }) =
            self.downstreams.get_mut(&id)
        else {
            return;
        };
        if std::mem::replace(answered, true) {
            return;
        }
        if let Some(deadline) = deadline.take() {
            self.timers.remove(&(deadline, Timer::Request(id)));
        }
        self.counters.to_agents += u64::from(matches!(with, ToAgent::Message(_)));
        *answer = Some(with);
        self.wake(id);
    }

    pub(super) fn answer_unavailable(&mut self, id: DownstreamId, now: Instant) {
        let retry_after = self.pause(now);
        self.answer(id, ToAgent::Unavailable { retry_after });
    }

    /// A request was not answered in time.
    pub(super) fn request_due(&mut self, id: DownstreamId, now: Instant) {
        if let Some(Downstream { kind: Kind::Request { agent, deadline, .. }, .. }) =
            self.downstreams.get_mut(&id)
        {
            let agent = *agent;
            *deadline = None;
            self.no_longer_waits(agent, id);
            self.counters.timed_out += 1;
            self.answer_unavailable(id, now);
        }
    }

    /// Tells an Agent to come back later: with UNAVAILABLE, or 503 to a request (THR-01, THR-06).
    pub(super) fn refuse_for_now(
        &mut self,
        to: DownstreamId,
        uid: &WireUid,
        why: &'static str,
        now: Instant,
    ) {
        if self.is_request(to) {
            return self.answer_unavailable(to, now);
        }
        let mut refusal = Vec::new();
        Refusal::unavailable(why, Some(self.pause(now))).encode(Some(uid), &mut refusal);
        self.push(to, refusal.into(), now);
    }

    fn refuse_malformed(
        &mut self,
        to: DownstreamId,
        uid: Option<&WireUid>,
        refusal: &Refusal,
        now: Instant,
    ) {
        self.counters.malformed += 1;
        let mut message = Vec::new();
        refusal.encode(uid, &mut message);
        if self.is_request(to) {
            return self.answer(to, ToAgent::Message(message.into()));
        }
        self.push(to, message.into(), now);
        let Some(downstream) = self.downstreams.get_mut(&to) else { return };
        downstream.malformed_in_a_row += 1;
        let agents = u32::try_from(downstream.agents.len()).unwrap_or(u32::MAX);
        if downstream.malformed_in_a_row > self.config.max_malformed.saturating_add(agents) {
            self.give_up(to, Closing::Malformed, now);
        }
    }

    pub(super) fn wake(&mut self, id: DownstreamId) {
        if let Some(downstream) = self.downstreams.get_mut(&id)
            && !std::mem::replace(&mut downstream.ready, true)
        {
            self.ready.push_back(Ready::Downstream(id));
        }
    }
}
