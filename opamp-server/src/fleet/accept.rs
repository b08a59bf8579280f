//! A message on its way into the registry: read without a lock, taken over under the lock of its
//! Agent's shard, and answered.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use opamp_proto::{InstanceUid, LegacyUid, WireUid};

use super::budget::Reservation;
use super::duplicates::{Arrival, StandBy};
use super::inbox::Inbox;
use super::received::Answer;
use super::shard::{News, Shard, Slot};
use super::slots::Hashed;
use super::{Accepted, AgentKey, Fleet, Now, Received, Route};
use crate::core::{
    Agent, AgentState, Changes, Handled, Part, Refusal, RefusalKind, Scan, Terms, Transport,
};
use crate::counters::Stripe;

/// Parts of a message above this size are validated, compared and copied before the lock is taken.
const LARGE_PART: usize = 16 * 1024;

/// An Agent that was found or taken in.
struct Found<'a, I> {
    shard: MutexGuard<'a, Shard<I>>,
    changes: Changes,
    /// Room for what the message brings, where that is known already.
    reserved: Option<Reservation<'a>>,
}

/// A message did not take over the Agent it names.
struct Stays {
    accepted: Result<Accepted, Refusal>,
    /// The uid its sender is to get, if it is found to be another Agent.
    claimed: Option<InstanceUid>,
}

const BOTH_HTTP: (Transport, Transport) = (Transport::Http, Transport::Http);

impl<I> Fleet<I> {
    /// Takes in a message and appends the head of its reply to `out`.
    ///
    /// `body` is the encoded `AgentToServer`, without the header of WebSocket messages. `fresh`
    /// makes an instance uid if the Agent asks for one: a new one each time, of version 7.
    ///
    /// There is always a reply, whatever the bytes are (STATUS-07, ERR-11).
    pub fn receive(
        &self,
        route: &mut Route<I>,
        body: &[u8],
        now: Now,
        fresh: &mut dyn FnMut() -> InstanceUid,
        out: &mut Vec<u8>,
    ) -> Received {
        let accepted = self.accept_into(route, body, now, fresh, Some(&mut *out));
        if accepted.unsaved > 0 {
            return Received::later(accepted);
        }
        let Accepted { key, changes, queue, .. } = accepted;
        let refusal = accepted.refusal().cloned();
        let unanswered = matches!(accepted.answer, Answer::Nothing);
        let (tail, push) = self.compose(accepted, now, out);
        Received { key, changes, queue, tail, push, refusal, unanswered, unsaved: None }
    }

    /// Takes in a message on a connection where replies wait, so that its reply is to wait behind
    /// them: it is in [`Received::unsaved`], whether or not there is something to be saved.
    pub fn receive_later(
        &self,
        route: &mut Route<I>,
        body: &[u8],
        now: Now,
        fresh: &mut dyn FnMut() -> InstanceUid,
    ) -> Received {
        Received::later(self.accept_into(route, body, now, fresh, None))
    }

    /// Takes in a message whose reply is composed later by [`reply`](Self::reply), so that what a
    /// handler makes of its changes can go out in it.
    pub fn accept(
        &self,
        route: &mut Route<I>,
        body: &[u8],
        now: Now,
        fresh: &mut dyn FnMut() -> InstanceUid,
    ) -> Accepted {
        self.accept_into(route, body, now, fresh, None)
    }

    /// Takes in a message of an HTTP request. If it brings nothing that a handler is told of, its
    /// reply is composed at once, under the same lock: see [`Accepted::composed`].
    #[cfg(feature = "service")]
    pub(crate) fn accept_or_reply(
        &self,
        route: &mut Route<I>,
        body: &[u8],
        now: Now,
        fresh: &mut dyn FnMut() -> InstanceUid,
        out: &mut Vec<u8>,
    ) -> Accepted {
        self.accept_into(route, body, now, fresh, Some(out))
    }

    /// Accepts a message. With `out` its reply is composed at once, under the same lock, where that
    /// is possible.
    fn accept_into(
        &self,
        route: &mut Route<I>,
        body: &[u8],
        now: Now,
        fresh: &mut dyn FnMut() -> InstanceUid,
        out: Option<&mut Vec<u8>>,
    ) -> Accepted {
        let counting = &**self.inner.counting;
        match route.shared.transport {
            Transport::WebSocket => {
                counting.websocket_messages.add();
                counting.websocket_bytes.add_all(body.len() as u64);
            }
            Transport::Http => {
                counting.http_messages.add();
                counting.http_bytes.add_all(body.len() as u64);
            }
        }
        let tenant = route.tenant();
        let mut scan = Scan::empty();
        let (key, refusal) = match self.read(body, &mut scan) {
            Ok(uid) => {
                let key = AgentKey::new(tenant, uid);
                let hashed = route.hashed(key, &self.inner.hasher);
                self.prepare(&hashed, &mut scan);
                match self.fold(route, hashed, &mut scan, now, fresh, out) {
                    Ok(accepted) => {
                        if let Some(refusal) = accepted.refusal() {
                            count_refused(counting, refusal.kind());
                        }
                        return accepted;
                    }
                    Err(refusal) => (Some(key), refusal),
                }
            }
            Err((None, _)) if self.is_for_nobody(body) => {
                counting.missing_instance_uids.add();
                return Accepted::nothing();
            }
            Err((uid, refusal)) => (uid.map(|uid| AgentKey::new(tenant, uid)), refusal),
        };
        count_refused(counting, refusal.kind());
        Accepted {
            key,
            changes: Changes::empty(),
            queue: false,
            ticket: 0,
            unsaved: 0,
            answer: Answer::Refuse(refusal),
        }
    }

    /// Composes the reply to an accepted message: appends its head to `out`, and returns the rest
    /// if there is one.
    #[must_use = "the tail is a part of the message"]
    pub fn reply(&self, accepted: Accepted, now: Now, out: &mut Vec<u8>) -> Option<Bytes> {
        self.compose(accepted, now, out).0
    }

    /// Composes the answer to a message whose changes could not be saved in time: that it is to be
    /// sent again after a pause, as the Server cannot promise to remember it (ERR-08, THR-01).
    pub fn answer_unsaved(&self, accepted: Accepted, retry_after: Duration, out: &mut Vec<u8>) {
        self.inner.counting.unavailable.add();
        self.inner.counting.unsaved.add();
        if let (Some(key), Answer::Reply(_, due)) = (&accepted.key, &accepted.answer)
            && due.asks_full_state()
            && let Some(slot) = self.shard(key).slots.get_mut(key)
        {
            // What this message was owed is owed to the next one.
            slot.agent.request_full_state();
        }
        let refusal = match accepted.answer {
            Answer::Refuse(refusal) => refusal,
            _ => Refusal::unavailable("the Server cannot store what changed", Some(retry_after)),
        };
        refusal.encode(accepted.key.as_ref().map(AgentKey::uid), out);
    }

    fn compose(&self, accepted: Accepted, now: Now, out: &mut Vec<u8>) -> (Option<Bytes>, bool) {
        let config = &self.inner.config;
        let (key, route, due) = match accepted.answer {
            Answer::Composed { tail, push, .. } => return (tail, push),
            Answer::Nothing => return (None, false),
            Answer::Refuse(refusal) => {
                refusal.encode(accepted.key.as_ref().map(AgentKey::uid), out);
                return (None, false);
            }
            Answer::Acknowledge(due) => {
                due.acknowledge(config, out);
                return (None, false);
            }
            Answer::Reply(route, due) => (accepted.key, route, due),
        };
        if let Some(key) = key.map(|key| self.hashed(&key))
            // What is sent once a session, or once, is not for a connection that may be dead.
            && let mut shard = self.shard(&key)
            && let Some((slot, terms)) = shard.slot(&key, config)
            && slot.route.id == route
        {
            let terms = terms.holding_settings(slot.holds_settings(&self.inner.saving));
            let composed = slot.reply(due, terms, now, out);
            self.count(&mut slot.agent, false);
            return composed;
        }
        due.acknowledge(config, out);
        (None, false)
    }

    /// Everything that can be decided without a lock.
    fn read<'a>(
        &self,
        body: &'a [u8],
        scan: &mut Scan<'a>,
    ) -> Result<WireUid, (Option<WireUid>, Refusal)> {
        scan.read(body).map_err(|fault| (fault.uid().copied(), fault.into()))?;
        let uid = self.identify(scan.instance_uid())?;
        self.inner.availability.check().map_err(|refusal| (Some(uid), refusal))?;
        scan.validate_longer_than(LARGE_PART).map_err(|fault| (Some(uid), fault.into()))?;
        Ok(uid)
    }

    /// Everything that would take long under the lock. What is kept of the Agent may be another
    /// thing when the message is taken over; then it is done again.
    fn prepare(&self, key: &Hashed, scan: &mut Scan<'_>) {
        if scan.has_longer_than(LARGE_PART) {
            let kept = self.shard(key).slots.get(key).map(|slot| slot.agent.state().clone());
            scan.prepare(LARGE_PART, self.inner.config.max_retained_bytes, kept.as_ref());
        }
    }

    /// Whether a message without instance uid is one to take and drop: nothing but a custom
    /// message, where that is [tolerated](crate::Tolerances::missing_instance_uid).
    fn is_for_nobody(&self, body: &[u8]) -> bool {
        self.inner.config.tolerances.missing_instance_uid
            && Scan::new(body).is_ok_and(|scan| {
                let others = Part::ALL.into_iter().filter(|part| *part != Part::CustomMessage);
                scan.instance_uid().is_empty()
                    && scan.part(Part::CustomMessage).is_some()
                    && others.into_iter().all(|part| scan.part(part).is_none())
                    && scan.validate().is_ok()
            })
    }

    /// ID-01, ID-05, reading A33.
    fn identify(&self, bytes: &[u8]) -> Result<WireUid, (Option<WireUid>, Refusal)> {
        let uid = WireUid::new(bytes).map_err(|error| {
            (None, Refusal::malformed(format!("AgentToServer.instance_uid: {error}")))
        })?;
        if uid.instance_uid().is_some() {
            return Ok(uid);
        }
        if self.inner.config.tolerances.legacy_instance_uid && LegacyUid::parse(bytes).is_some() {
            self.inner.counting.legacy_instance_uids.add();
            return Ok(uid);
        }
        let text =
            format!("AgentToServer.instance_uid: there are {} bytes instead of 16", bytes.len());
        Err((Some(uid), Refusal::malformed(text)))
    }

    /// Takes over a message under the lock of its Agent's shard.
    fn fold(
        &self,
        route: &mut Route<I>,
        hashed: Hashed,
        scan: &mut Scan<'_>,
        now: Now,
        fresh: &mut dyn FnMut() -> InstanceUid,
        out: Option<&mut Vec<u8>>,
    ) -> Result<Accepted, Refusal> {
        let key = *hashed.key();
        let config = &self.inner.config;
        let Found { mut shard, mut changes, reserved } =
            self.find_or_add(route, &hashed, scan, now)?;
        let Some((slot, terms)) = shard.slot(&hashed, config) else {
            // It was found or inserted under this very lock.
            return Err(Refusal::unavailable("the Agent is being removed", None));
        };

        let elsewhere = slot.route.id != route.shared.id;
        // Who speaks under a uid it was given is known by that.
        let moved = changes.contains(Changes::INSTANCE_UID);
        if slot.is_connected() && elsewhere && !moved {
            if let Some(stays) = self.contest(route, slot, scan, terms, now, fresh)? {
                if slot.must_be_listed() {
                    shard.contested.push(key);
                }
                if let Some(new) = stays.claimed {
                    drop(shard);
                    self.authorize_duplicate(route, key, new);
                }
                return stays.accepted;
            }
        } else if slot.is_served_on(route) && slot.spoke() {
            changes |= slot.proved();
        }
        let arrives = elsewhere || !slot.is_connected() || moved;
        if arrives {
            self.admit(route, &key)?;
            // A message that is refused must not take the Agent away from where it is served.
            scan.validate_once()?;
        }
        let reserved = match reserved {
            Some(reserved) => reserved,
            None => self.reserve(slot.agent.state(), scan)?,
        };
        let _asking = self.reserve_request(scan)?;
        if arrives {
            route.join(key);
            let before = std::mem::replace(&mut slot.route, Arc::clone(&route.shared));
            slot.released = false;
            // Each request of an HTTP Agent is another route.
            if (before.transport, slot.route.transport) != BOTH_HTTP {
                slot.incumbent_changed();
            }
        }
        if elsewhere && slot.is_connected() && route.shared.transport == Transport::WebSocket {
            changes |= slot.agent.handle_connected(Transport::WebSocket);
        }
        slot.last_seen = now;
        let before = slot.agent.retained_bytes();
        let handled =
            slot.agent.handle_message(scan, route.shared.transport, terms, now.instant, fresh);
        reserved.settle(before, slot.agent.retained_bytes());
        let Handled { changes: folded, due, new_instance_uid, custom_message } = handled;
        changes |= folded;
        if changes.contains(Changes::CERTIFICATE_REQUEST) {
            self.inner.counting.certificates_requested.add();
        }
        if changes.contains(Changes::AVAILABLE_COMPONENTS) {
            self.note_components(key.tenant(), &mut slot.agent);
        } else if changes.contains(Changes::CONNECTED) {
            self.recall_components(key.tenant(), &mut slot.agent);
        }
        if let Some(message) = custom_message
            && self.keep(&mut slot.inbox, message)
        {
            changes |= Changes::CUSTOM_MESSAGES;
        }
        if due.is_goodbye() {
            route.leave(&key);
        }
        let queue = slot.news.note(changes);
        if !changes.is_empty() {
            self.inner.watching.note(self.place(&hashed), &mut slot.changed_at);
        }
        let ticket = slot.news.ticket();
        let noted = slot.note_message(changes, new_instance_uid.is_some(), &self.inner.saving);
        let held = slot.holds_settings(&self.inner.saving);
        let waits = match route.shared.transport {
            Transport::WebSocket => noted.due > 0,
            // What is pushed over a WebSocket has to go out in this reply, so it waits for that.
            Transport::Http => noted.due > 0 || !changes.is_empty() || held,
        };
        let answer = match (new_instance_uid, out) {
            (None, Some(out)) if !waits => {
                let refusal = due.refusal().cloned();
                let terms = terms.holding_settings(held);
                let (tail, push) = slot.reply(due, terms, now, out);
                self.count(&mut slot.agent, false);
                Answer::Composed { tail, push, refusal }
            }
            (new, _) => {
                let serial = slot.serial;
                let outdated = new.and_then(|new| slot.give(key.tenant().agent(new)));
                shard.queue(key, noted);
                drop(shard);
                // The Agent must not hear of its new uid before that is known here.
                if let Some(new) = new {
                    self.reserve_requested(route, key, serial, new, now);
                }
                self.forget_rename(outdated, serial);
                Answer::Reply(route.shared.id, due)
            }
        };
        let unsaved = noted.due;
        Ok(Accepted { key: Some(key), changes, queue, ticket, unsaved, answer })
    }

    /// The shard of an Agent that this route may speak for, with the Agent in it: if it is new, or was
    /// another before, it is taken in.
    fn find_or_add(
        &self,
        route: &mut Route<I>,
        hashed: &Hashed,
        scan: &mut Scan<'_>,
        now: Now,
    ) -> Result<Found<'_, I>, Refusal> {
        let key = *hashed.key();
        let mut changes = Changes::empty();
        let mut reserved = None;
        let (mut shard, is_served_here) = self.shard_for(route, hashed)?;
        let is_there = || shard.slots.get(hashed).is_some_and(|slot| slot.is_connected());
        if !is_served_here && !is_there() && !shard.renames.contains_key(&key) {
            self.admit_arrival(route, now.instant)?;
        }
        if !is_served_here && !shard.slots.contains_key(hashed) {
            // It stays until the slot is there, so that nobody else is given the uid meanwhile.
            let rename = shard.renames.get(&key).copied();
            let mut rename = rename.filter(|rename| now.instant < rename.expires);
            if rename.is_none() && route.was_offered(&key) {
                drop(shard);
                scan.validate_once()?;
                rename = self.take_offered(route, &key, now);
                (shard, _) = self.shard_for(route, hashed)?;
            }
            if let Some(rename) = rename {
                drop(shard);
                // Nobody takes what is another's along.
                drop(self.shard_for(route, &self.hashed(&rename.old))?);
                // Nor must a message that is refused move it: the Agent would be on no route.
                self.admit(route, &rename.old)?;
                scan.validate_once()?;
                reserved = Some(self.reserve_for_moved(&rename, scan)?);
                changes |= self.move_slot(&rename, key);
                // What did not move may be another Agent on this very route.
                if !changes.is_empty() {
                    route.leave(&rename.old);
                }
                (shard, _) = self.shard_for(route, hashed)?;
            }
            if !shard.slots.contains_key(hashed) {
                // Nor does it make an Agent known.
                scan.validate_once()?;
                let nothing = AgentState::default();
                nothing.check_room(scan, self.inner.config.max_retained_bytes)?;
                if reserved.is_none() {
                    reserved = Some(self.reserve(&nothing, scan)?);
                }
                let slot = Box::new(self.new_slot(route, key, now)?);
                shard.slots.insert(hashed, slot);
            }
        }
        Ok(Found { shard, changes, reserved })
    }

    /// What comes of a message on another route than the one an Agent is connected by; `None` if it
    /// takes the Agent over.
    fn contest(
        &self,
        route: &mut Route<I>,
        slot: &mut Slot<I>,
        scan: &mut Scan<'_>,
        terms: Terms<'_>,
        now: Now,
        fresh: &mut dyn FnMut() -> InstanceUid,
    ) -> Result<Option<Stays>, Refusal> {
        let key = slot.key();
        let arrival = slot.arrival(route, scan, terms, &self.inner.config, now.instant, fresh);
        let goodbye = scan.part(Part::AgentDisconnect).is_some();
        let mut claimed = None;
        let how = match arrival {
            Arrival::TakesOver => return Ok(None),
            Arrival::StandsBy(how) => {
                scan.validate_once()?;
                how
            }
            Arrival::Claims => {
                scan.validate_once()?;
                self.admit(route, &key)?;
                // Who says goodbye, or for whom there is no room, gets a plain reply.
                if !goodbye {
                    let number = scan.sequence_num();
                    claimed = self.claim(route, key, slot, number, now.instant, fresh);
                }
                StandBy::Plain
            }
        };
        let accepted = self.stand_by(route, key, slot, goodbye, how);
        Ok(Some(Stays { accepted, claimed }))
    }

    /// Whether a connection may carry one more Agent.
    fn admit(&self, route: &Route<I>, key: &AgentKey) -> Result<(), Refusal> {
        let limit = self.inner.config.max_agents_per_connection;
        if route.agents.len() < limit || route.is_on(key) {
            return Ok(());
        }
        let text = format!("the connection already carries {limit} Agents");
        Err(Refusal::unavailable(text, None))
    }

    fn new_slot(&self, route: &Route<I>, key: AgentKey, now: Now) -> Result<Slot<I>, Refusal> {
        self.admit(route, &key)?;
        let limit = self.inner.config.max_agents;
        if self.inner.agents.fetch_add(1, Ordering::Relaxed) >= limit {
            self.inner.agents.fetch_sub(1, Ordering::Relaxed);
            let text = format!("the Server already serves {limit} Agents");
            return Err(Refusal::unavailable(text, None));
        }
        Ok(Slot {
            serial: self.inner.serials.fetch_add(1, Ordering::Relaxed),
            tenant: key.tenant(),
            agent: Agent::new(*key.uid()),
            route: Arc::clone(&route.shared),
            last_seen: now,
            news: News::default(),
            changed_at: 0,
            inbox: Inbox::default(),
            others: None,
            given: Vec::new(),
            written: None,
            released: false,
        })
    }
}

fn count_refused(counting: &Stripe, kind: RefusalKind) {
    match kind {
        RefusalKind::Malformed => counting.malformed.add(),
        RefusalKind::OverLimit => counting.over_limit.add(),
        RefusalKind::Denied => counting.denied.add(),
        RefusalKind::Unavailable => counting.unavailable.add(),
        RefusalKind::Unknown => {}
    }
}
