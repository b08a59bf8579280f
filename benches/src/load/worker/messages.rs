//! What agents say and how they answer.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use opamp_proto::{Message as _, v1};

use super::super::agent::{Sent, State};
use super::super::scan::Reply;
use super::super::stage::Step;
use super::super::stats::Trouble;
use super::super::template::{Kind, applied};
use super::super::websocket::{self, opcode};
use super::{AT_A_TIME, HELD_BACK, ROUND_AT_A_TIME, Wake, Worker};

/// The flag ReportFullState of a ServerToAgent.
const REPORT_FULL_STATE: u64 = v1::ServerToAgentFlags::ReportFullState as u64;
/// An agent reports in full that often at most, as some servers ask for it in each reply.
const FULL_PERIOD: u64 = 1_000_000_000;
/// Close 1000.
const NORMAL: [u8; 2] = 1000u16.to_be_bytes();

impl Worker {
    /// Sends a message, or lines it up on plain HTTP.
    pub(super) fn send(&mut self, index: usize, agent: u32, kind: Kind, due: u64) {
        let connection = &self.connections[index];
        match connection.state {
            State::Open => {}
            _ if !connection.renewed => return,
            State::Down => self.to_connect.push_back(index),
            _ => {}
        }
        self.agents[agent as usize].unanswered.push_back(Sent { at: due, kind });
        self.progress.unanswered.add(1);
        if self.plan.options.server.websocket {
            self.compose(agent, kind);
        } else {
            self.connections[index].turns.push_back((agent, kind));
            self.next_request(index);
        }
    }

    /// Sends the request whose turn it is, unless one is under way.
    pub(super) fn next_request(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let open = matches!(connection.state, State::Open | State::Leaving);
        if self.plan.options.server.websocket || !open || connection.asking.is_some() {
            return;
        }
        let Some((agent, kind)) = connection.turns.pop_front() else { return };
        connection.asking = Some(agent);
        self.compose(agent, kind);
    }

    fn compose(&mut self, agent: u32, kind: Kind) {
        let key = self.mask_key();
        let (plan, agent) = (&self.plan, &mut self.agents[agent as usize]);
        agent.sequence_num += 1;
        self.stats.sent += 1;
        let len = plan.templates.len(kind, agent.sequence_num, &agent.status);
        let out = &mut self.out;
        if plan.options.server.websocket {
            websocket::write_header(opcode::BINARY, len + 1, key, out);
            let start = out.len();
            out.push(0);
            plan.templates.write(kind, &agent.uid, agent.sequence_num, &agent.status, out);
            websocket::mask(&mut out[start..], key);
        } else {
            plan.post.write(len, out);
            plan.templates.write(kind, &agent.uid, agent.sequence_num, &agent.status, out);
        }
    }

    pub(super) fn mask_key(&mut self) -> [u8; 4] {
        (self.random() as u32).to_ne_bytes()
    }

    /// The first reports on a connection.
    pub(super) fn report_first(&mut self, index: usize) {
        for agent in self.connections[index].agents.clone() {
            self.send(index, agent, Kind::First, self.now);
        }
    }

    pub(super) fn say_goodbye(&mut self, index: usize) {
        let websocket = self.plan.options.server.websocket;
        for agent in self.connections[index].agents.clone() {
            match websocket {
                // Nobody waits for an answer.
                true => self.compose(agent, Kind::Goodbye),
                false => self.send(index, agent, Kind::Goodbye, self.now),
            }
        }
        if websocket {
            let key = self.mask_key();
            websocket::write_frame(opcode::CLOSE, &NORMAL, key, &mut self.out);
        }
    }

    /// Sends the message of a pace that was due then.
    pub(super) fn paced(&mut self, due: u64) {
        let agent = self.turn % self.agents.len();
        self.turn = agent + 1;
        if !self.agents[agent].ready {
            return;
        }
        if self.agents[agent].unanswered.len() >= HELD_BACK.max(self.plan.options.depth) {
            return self.trouble(Trouble::HeldBack, 1);
        }
        let (random, agent) = (self.random(), agent as u32);
        let connection = self.connection_of(agent);
        self.send(connection, agent, self.plan.options.mix.pick(random), due);
        self.write_out(connection);
    }

    /// Sends as many messages as an agent that need not keep a pace may.
    pub(super) fn refill(&mut self, index: usize, agent: u32) {
        let options = &self.plan.options;
        let (depth, burst) = (options.depth, options.burst);
        if self.step != Step::Traffic || options.paced().is_some() {
            return;
        }
        let waiting = self.agents[agent as usize].unanswered.len();
        if !self.agents[agent as usize].ready || (burst && waiting > 0) {
            return;
        }
        for _ in waiting..depth {
            let random = self.random();
            self.send(index, agent, self.plan.options.mix.pick(random), self.now);
        }
    }

    /// Lets each agent send such a message once, some at a time.
    pub(super) fn begin_round(&mut self, kind: Kind) {
        self.round = 0;
        (0..ROUND_AT_A_TIME).for_each(|_| self.next_in_round(kind));
    }

    /// Lets the next agent have its turn.
    fn next_in_round(&mut self, kind: Kind) {
        for _ in 0..AT_A_TIME {
            if self.round >= self.agents.len() {
                return;
            }
            let agent = self.round as u32;
            self.round += 1;
            if self.agents[agent as usize].ready {
                self.wakes.push(Reverse((self.now, Wake::Report(agent, kind))));
                return;
            }
        }
    }

    /// A message of the Server has arrived; over plain HTTP it answers this agent.
    pub(super) fn take(&mut self, index: usize, reply: &Reply<'_>, asked: Option<u32>) {
        let own = &self.connections[index].agents;
        let agent = match asked {
            Some(agent) => Some(agent),
            None if reply.uid.is_empty() && own.len() == 1 => Some(own.start),
            None => self.find(reply.uid).filter(|agent| own.contains(agent)),
        };
        let Some(number) = agent else { return self.trouble(Trouble::ForeignUid, 1) };

        if let Some(error) = reply.error {
            let error = v1::ServerErrorResponse::decode(error).unwrap_or_default();
            self.trouble(Trouble::ErrorResponse(error.r#type), 1);
            let retry = match error.details {
                Some(v1::server_error_response::Details::RetryInfo(retry)) => {
                    Some(retry.retry_after_nanoseconds.div_ceil(1_000_000_000))
                }
                _ => None,
            };
            return self.refused(number, retry);
        }

        let answered = self.answered(number);
        let agent = &mut self.agents[number as usize];
        if let Some(uid) = reply.new_uid.and_then(|uid| <[u8; 16]>::try_from(uid).ok()) {
            agent.uid = uid;
            self.renamed.insert(uid, number);
        }
        if reply.flags & REPORT_FULL_STATE != 0 {
            self.stats.full_demanded += 1;
            let agent = &mut self.agents[number as usize];
            if agent.full_at.is_none_or(|at| at + FULL_PERIOD <= self.now) {
                agent.full_at = Some(self.now);
                self.send(index, number, Kind::Full, self.now);
            }
        }
        if let Some(hash) = reply.config_hash {
            self.offered(index, number, hash);
        }
        match (answered, self.step) {
            (Some(Kind::Large), _) => self.send(index, number, Kind::Full, self.now),
            (Some(Kind::Full), Step::Large) => {
                self.progress.done.add(1);
                self.next_in_round(Kind::Large);
            }
            (Some(Kind::Heartbeat), Step::Beat) => {
                self.progress.done.add(1);
                self.next_in_round(Kind::Heartbeat);
            }
            _ => self.refill(index, number),
        }
    }

    fn find(&self, uid: &[u8]) -> Option<u32> {
        let uid: [u8; 16] = uid.try_into().ok()?;
        let (prefix, number) = uid.split_at(12);
        if *prefix != self.plan.uid_prefix {
            return self.renamed.get(&uid).copied();
        }
        // The number among all agents; threads take turns at connections.
        let number = u32::from_be_bytes(number.try_into().ok()?) as usize;
        let (each, threads) = (self.plan.options.agents_per_connection, self.plan.options.threads);
        let connection = number / each;
        if connection % threads != self.thread {
            return None;
        }
        let connection = self.connections.get(connection / threads)?;
        Some(connection.agents.start + (number % each) as u32)
    }

    /// The oldest message of the agent is answered.
    fn answered(&mut self, number: u32) -> Option<Kind> {
        let agent = &mut self.agents[number as usize];
        let Some(sent) = agent.unanswered.pop_front() else {
            self.stats.unprompted += 1;
            return None;
        };
        self.progress.unanswered.subtract(1);
        self.progress.answered.add(1);
        self.stats.answered += 1;
        self.stats.answers[sent.kind as usize].record(self.now.saturating_sub(sent.at));
        if sent.kind == Kind::First && !std::mem::replace(&mut agent.ready, true) {
            self.progress.ready.add(1);
        }
        Some(sent.kind)
    }

    /// The Server has not taken a message: the agent waits before the next.
    pub(super) fn refused(&mut self, number: u32, retry_after: Option<u64>) {
        let agent = &mut self.agents[number as usize];
        let Some(sent) = agent.unanswered.pop_front() else { return };
        self.progress.unanswered.subtract(1);
        let wake = match sent.kind {
            Kind::Heartbeat | Kind::Config | Kind::Health | Kind::Goodbye => Wake::Resume(number),
            kind => Wake::Report(number, kind),
        };
        self.wake_after(retry_after, wake);
    }

    /// A configuration is offered.
    fn offered(&mut self, index: usize, number: u32, hash: &[u8]) {
        if self.applied.0 != hash {
            self.applied = (hash.to_vec(), applied(hash));
        }
        let agent = &mut self.agents[number as usize];
        if agent.status == self.applied.1 {
            // It was offered already; the answer may be under way.
            return;
        }
        self.stats.offers += 1;
        agent.status = Arc::clone(&self.applied.1);
        if let Step::Push { round } = self.step
            && agent.round != round
        {
            agent.round = round;
            let began = self.stage.push_began.load(Ordering::Relaxed);
            self.stats.push.record(self.now.saturating_sub(began));
            self.progress.done.add(1);
        }
        if !self.plan.options.no_ack {
            self.send(index, number, Kind::Ack, self.now);
        }
    }
}
