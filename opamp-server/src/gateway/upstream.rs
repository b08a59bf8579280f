//! The Server's side: a fixed number of connections, each with its Agents and what waits to be
//! sent.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use opamp_proto::WireUid;

use super::downstream::Kind;
use super::session::{Agent, Link};
use super::{AgentId, DownstreamId, Gateway, Ready, ReplyScan, Timer, size};
use crate::core::later;

/// Longer times are cut to this: no Server can send the Agents away for good.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);

/// Being late, the gateway makes up for so much time of asking for full states.
const MAX_CATCH_UP: Duration = Duration::from_millis(100);

pub(super) struct Upstream {
    pub(super) connected: bool,
    /// How often it was opened.
    pub(super) life: u64,
    /// It has been lost for so long that nothing waits for it any more.
    pub(super) hopeless: bool,
    patience: Option<Instant>,
    /// Not before this will another attempt be made to open it.
    retry_at: Option<Instant>,
    pub(super) queue: VecDeque<Waiting>,
    pub(super) bytes: usize,
    /// Agents in session on it.
    pub(super) agents: BTreeSet<AgentId>,
    /// Connections that are not read while there is so much to send.
    pub(super) holds_up: Vec<DownstreamId>,
    pub(super) ready: bool,
}

/// A message to the Server.
pub(super) struct Waiting {
    agent: AgentId,
    /// Where it came from; the gateway's own come from nowhere.
    from: Option<DownstreamId>,
    body: Bytes,
}

/// An upstream connection at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct UpstreamStatus {
    /// Whether it is open.
    pub connected: bool,
    /// Agents in session on it.
    pub agents: usize,
    /// Messages that wait to be sent on it.
    pub waiting: usize,
}

impl Upstream {
    pub(super) fn new(patience: Instant) -> Self {
        Self {
            connected: false,
            life: 0,
            hopeless: false,
            patience: Some(patience),
            retry_at: None,
            queue: VecDeque::new(),
            bytes: 0,
            agents: BTreeSet::new(),
            holds_up: Vec::new(),
            ready: false,
        }
    }
}

/// What an upstream connection's driver calls. Connections are numbered from 0.
impl Gateway {
    /// An upstream connection was opened. What waits for it is sent; the WebSocket Agents on it are
    /// asked for their full state one after the other, so that the Server learns that they are
    /// here.
    ///
    /// # Panics
    ///
    /// If there is no connection of this number.
    pub fn upstream_opened(&mut self, slot: usize, now: Instant) {
        self.upstream_lost(slot, None, now);
        let upstream = &mut self.upstreams[slot];
        upstream.connected = true;
        upstream.life += 1;
        upstream.hopeless = false;
        upstream.retry_at = None;
        if let Some(patience) = upstream.patience.take() {
            self.timers.remove(&(patience, Timer::Patience(slot)));
        }
        let life = self.upstreams[slot].life;
        for id in self.upstreams[slot].agents.clone() {
            if let Some(agent) = self.agents.get_mut(&id) {
                agent.life = life;
            }
            self.ask_for_full_state(id, now);
        }
        self.gather(now);
        self.wake_upstream(slot);
    }

    /// An upstream connection was lost, or an attempt to open it failed. `retry_after` is what the
    /// Server's answer said of when to come back.
    ///
    /// Its Agents move to the other connections as far as these have room, and with them what was
    /// not sent yet. The Server has lost sight of all of them (CLOSE-11).
    ///
    /// # Panics
    ///
    /// If there is no connection of this number.
    pub fn upstream_lost(&mut self, slot: usize, retry_after: Option<Duration>, now: Instant) {
        let upstream = &mut self.upstreams[slot];
        if let Some(pause) = retry_after {
            upstream.retry_at = Some(later(now, pause.min(LONGEST_PAUSE)));
        }
        if !std::mem::replace(&mut upstream.connected, false) {
            return;
        }
        let patience = later(now, self.config.outage_patience);
        upstream.patience = Some(patience);
        self.timers.insert((patience, Timer::Patience(slot)));
        for id in upstream.agents.clone() {
            self.lose_session(id, now);
        }
        self.gather(now);
    }

    /// The Server does not know of an Agent any more.
    fn lose_session(&mut self, id: AgentId, now: Instant) {
        self.drop_held(id);
        let Some(agent) = self.agents.get_mut(&id) else { return };
        agent.lost_reply |= agent.unanswered > agent.queued;
        agent.unanswered = agent.queued;
        agent.stale = 0;
        agent.known = agent.queued > 0;
        let Link::Http(polling) = &mut agent.link else { return };
        // Those whose messages were sent wait in vain.
        let downstreams = &self.downstreams;
        let is_queued = |request: &DownstreamId| {
            let request = downstreams.get(request).map(|it| &it.kind);
            matches!(request, Some(Kind::Request { queued: true, .. }))
        };
        let (queued, sent) = polling.waiting.drain(..).partition(is_queued);
        polling.waiting = queued;
        let sent: VecDeque<_> = sent;
        for request in sent {
            self.answer_unavailable(request, now);
        }
    }

    /// Moves Agents from connections that are lost to others that have room.
    fn gather(&mut self, now: Instant) {
        for slot in 0..self.upstreams.len() {
            if self.upstreams[slot].connected {
                continue;
            }
            let mut moved = false;
            for id in self.upstreams[slot].agents.clone() {
                let Some(to) = self.least_loaded(|it| it.connected) else { break };
                self.reseat(id, to);
                self.ask_for_full_state(id, now);
                moved = true;
            }
            if moved {
                self.move_queued(slot);
            }
        }
    }

    /// The connection that a message of an Agent goes by: the one it sticks to, if that is of any
    /// use.
    pub(super) fn choose(&self, seat: Option<(usize, bool)>) -> Option<usize> {
        let has_room = |slot: usize, seated: bool| {
            seated || self.upstreams[slot].agents.len() < self.config.max_agents_per_upstream
        };
        let own = seat.filter(|(slot, seated)| has_room(*slot, *seated)).map(|(slot, _)| slot);
        own.filter(|slot| self.upstreams[*slot].connected)
            .or_else(|| self.least_loaded(|it| it.connected))
            .or_else(|| own.filter(|slot| !self.upstreams[*slot].hopeless))
            .or_else(|| self.least_loaded(|it| !it.hopeless))
    }

    fn least_loaded(&self, is_candidate: impl Fn(&Upstream) -> bool) -> Option<usize> {
        let room = self.config.max_agents_per_upstream;
        let slots = self.upstreams.iter().enumerate();
        let slots = slots.filter(|(_, it)| is_candidate(it) && it.agents.len() < room);
        slots.min_by_key(|(_, it)| it.agents.len()).map(|(slot, _)| slot)
    }

    /// The Agent is in session on this connection.
    pub(super) fn seat(&mut self, id: AgentId, slot: usize) {
        let moved = self.agents.get(&id).map(|agent| agent.slot).filter(|from| *from != slot);
        self.reseat(id, slot);
        if let Some(from) = moved {
            self.move_queued(from);
        }
    }

    fn reseat(&mut self, id: AgentId, slot: usize) {
        let life = self.upstreams[slot].life;
        let Some(agent) = self.agents.get_mut(&id) else { return };
        if (agent.slot, agent.life) != (slot, life) {
            agent.unanswered = agent.queued;
            agent.stale = 0;
        }
        self.upstreams[agent.slot].agents.remove(&id);
        (agent.slot, agent.life, agent.seated) = (slot, life, true);
        self.upstreams[slot].agents.insert(id);
    }

    /// What waits on a connection goes to where its Agents are now.
    fn move_queued(&mut self, from: usize) {
        let waiting = std::mem::take(&mut self.upstreams[from].queue);
        self.upstreams[from].bytes = 0;
        for waiting in waiting {
            let slot = self.agents.get(&waiting.agent).map_or(from, |agent| agent.slot);
            let upstream = &mut self.upstreams[slot];
            upstream.bytes += size(waiting.body.len());
            upstream.queue.push_back(waiting);
            self.wake_upstream(slot);
        }
        self.release(from);
    }

    /// Queues a message to the Server.
    pub(super) fn enqueue(&mut self, id: AgentId, from: Option<DownstreamId>, body: Bytes) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        agent.known = true;
        agent.queued = agent.queued.saturating_add(1);
        agent.unanswered = agent.unanswered.saturating_add(1);
        let slot = agent.slot;
        let size = size(body.len());
        if let Some(downstream) = from.and_then(|from| self.downstreams.get_mut(&from)) {
            downstream.waiting += size;
        }
        self.waiting += size;
        self.upstreams[slot].bytes += size;
        self.upstreams[slot].queue.push_back(Waiting { agent: id, from, body });
        self.wake_upstream(slot);
    }

    /// The next message to send on an upstream connection: an encoded `AgentToServer`, to be sent
    /// with the header in front. To be called when the connection can take something, until it
    /// returns `None`.
    ///
    /// # Panics
    ///
    /// If there is no connection of this number.
    pub fn poll_upstream(&mut self, slot: usize) -> Option<Bytes> {
        let upstream = &mut self.upstreams[slot];
        if !upstream.connected {
            return None;
        }
        let waiting = upstream.queue.pop_front()?;
        upstream.bytes -= size(waiting.body.len());
        if upstream.bytes <= self.config.upstream_high_water / 2 {
            self.release(slot);
        }
        self.counters.to_server += 1;
        Some(self.unqueue(waiting))
    }

    /// A message does not wait any longer, for whatever reason.
    fn unqueue(&mut self, waiting: Waiting) -> Bytes {
        let Waiting { agent, from, body } = waiting;
        self.waiting -= size(body.len());
        if let Some(agent) = self.agents.get_mut(&agent) {
            agent.queued = agent.queued.saturating_sub(1);
        }
        if let Some(from) = from
            && let Some(downstream) = self.downstreams.get_mut(&from)
        {
            let limit = self.config.connection_high_water;
            let too_much = downstream.waiting >= limit;
            downstream.waiting -= size(body.len());
            if let Kind::Request { queued, .. } = &mut downstream.kind {
                *queued = false;
            }
            if too_much && downstream.waiting < limit {
                self.wake(from);
            }
        }
        body
    }

    /// Those who were not read because of this connection are read again.
    fn release(&mut self, slot: usize) {
        for id in std::mem::take(&mut self.upstreams[slot].holds_up) {
            if let Some(downstream) = self.downstreams.get_mut(&id) {
                downstream.held_up_by = None;
                self.wake(id);
            }
        }
    }

    /// Drops what an Agent has waiting.
    pub(super) fn drop_queued(&mut self, id: AgentId) {
        let Some(slot) = self.agents.get(&id).filter(|it| it.queued > 0).map(|it| it.slot) else {
            return;
        };
        let waiting = std::mem::take(&mut self.upstreams[slot].queue);
        let (dropped, kept): (VecDeque<_>, _) = waiting.into_iter().partition(|it| it.agent == id);
        self.upstreams[slot].queue = kept;
        for waiting in dropped {
            self.upstreams[slot].bytes -= size(waiting.body.len());
            self.unqueue(waiting);
        }
    }

    /// The connection has been lost for too long: what waits for it is refused, so that the Agents
    /// know.
    pub(super) fn lose_patience(&mut self, slot: usize, now: Instant) {
        let upstream = &mut self.upstreams[slot];
        upstream.patience = None;
        upstream.hopeless = true;
        upstream.bytes = 0;
        for waiting in std::mem::take(&mut upstream.queue) {
            let (id, from) = (waiting.agent, waiting.from);
            self.unqueue(waiting);
            let Some(agent) = self.agents.get_mut(&id) else { continue };
            agent.unanswered = agent.queued;
            agent.known = agent.queued > 0;
            let uid = agent.uid;
            let open = from.filter(|from| self.downstreams.contains_key(from));
            if let Some(from) = open {
                self.counters.unavailable += 1;
                self.stop_waiting(id, from);
                self.refuse_for_now(from, &uid, "the Server cannot be reached", now);
            }
        }
        self.release(slot);
    }

    fn stop_waiting(&mut self, id: AgentId, request: DownstreamId) {
        if let Some(Agent { link: Link::Http(polling), .. }) = self.agents.get_mut(&id) {
            polling.waiting.retain(|waiting| *waiting != request);
        }
    }

    /// An encoded `ServerToAgent` came in on an upstream connection. It goes to the one Agent that
    /// it names, if that is in session on this connection (ID-10), and to nobody else.
    ///
    /// # Panics
    ///
    /// If there is no connection of this number.
    pub fn receive_upstream(&mut self, slot: usize, body: Bytes, now: Instant) {
        let life = self.upstreams[slot].life;
        let scan = ReplyScan::new(&body);
        let uid = scan.and_then(|scan| WireUid::new(scan.instance_uid()).ok());
        let id = uid.and_then(|uid| self.by_uid.get(&uid).copied());
        let agent = id.and_then(|id| self.agents.get_mut(&id));
        let agent = agent.filter(|agent| (agent.slot, agent.life) == (slot, life));
        let (Some(scan), Some(id), Some(agent)) = (scan, id, agent) else {
            self.counters.unroutable += 1;
            return;
        };
        agent.unanswered = agent.unanswered.saturating_sub(1);
        if agent.stale > 0 && scan.is_empty() {
            agent.stale -= 1;
            self.counters.stale += 1;
            return;
        }
        // The first message of a session has the Server's mask (CAP-10), or at least says
        // something.
        agent.stale = 0;
        if let Some(new) = scan.new_instance_uid() {
            self.give(id, new.into());
        }
        self.deliver(id, &body, scan, now);
    }

    /// A connection at this moment; `None` if there is none of this number.
    #[must_use]
    pub fn upstream(&self, slot: usize) -> Option<UpstreamStatus> {
        let upstream = self.upstreams.get(slot)?;
        Some(UpstreamStatus {
            connected: upstream.connected,
            agents: upstream.agents.len(),
            waiting: upstream.queue.len(),
        })
    }

    /// How long a refused Agent should stay away: as long as the Server asks for, at least what is
    /// configured, and each a little longer than the one before, so that they do not return at
    /// once.
    pub(super) fn pause(&mut self, now: Instant) -> Duration {
        let asked = |it: &Upstream| Some(it.retry_at?.saturating_duration_since(now));
        let connected = self.upstreams.iter().any(|it| it.connected);
        let asked = (!connected).then(|| self.upstreams.iter().filter_map(asked).min()).flatten();
        let base = asked.unwrap_or_default().max(self.config.retry_after);
        self.refusals = self.refusals.wrapping_add(1);
        base + base / 32 * (self.refusals % 16)
    }

    fn wake_upstream(&mut self, slot: usize) {
        let upstream = &mut self.upstreams[slot];
        if upstream.connected && !upstream.queue.is_empty() && !upstream.ready {
            upstream.ready = true;
            self.ready.push_back(Ready::Upstream(slot));
        }
    }
}

/// The Agents whose connection to the Server was lost under them.
impl Gateway {
    /// The Server cannot know that an Agent is on this connection before it speaks, and many Agents
    /// speak seldom; nor does the Agent know that its last message may be lost. A request for the
    /// full state makes good both. An HTTP Agent will speak by itself, and was told 503 if it had
    /// to be.
    fn ask_for_full_state(&mut self, id: AgentId, now: Instant) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        if matches!(agent.link, Link::WebSocket(_)) && !std::mem::replace(&mut agent.to_ask, true) {
            if self.to_ask.is_empty() {
                self.next_ask = self.next_ask.max(now);
            }
            self.to_ask.push_back(id);
        }
    }

    /// Asks those whose turn it is.
    pub(super) fn ask_due(&mut self, now: Instant) {
        let pause = Duration::from_secs(1) / self.config.full_state_per_second.max(1);
        if let Some(earliest) = now.checked_sub(MAX_CATCH_UP) {
            self.next_ask = self.next_ask.max(earliest);
        }
        while self.next_ask <= now
            && let Some(id) = self.to_ask.pop_front()
        {
            let Some(agent) = self.agents.get_mut(&id) else { continue };
            agent.to_ask = false;
            let Link::WebSocket(connection) = agent.link else { continue };
            // An Agent that has spoken since, and misses nothing, need not be asked; one without a
            // connection is when it has one.
            let heard = agent.known && !agent.lost_reply;
            if heard || !agent.seated || !self.upstreams[agent.slot].connected {
                continue;
            }
            agent.lost_reply = false;
            let request = agent.full_state_request();
            self.counters.full_state += 1;
            self.next_ask += pause;
            self.push(connection, request, now);
        }
    }
}
