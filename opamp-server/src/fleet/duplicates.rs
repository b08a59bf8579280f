//! Agents that are heard on one connection while they are served on another: they have come back,
//! or there are two with one uid (reading A13). The decision is made by [`Contest`]; here it is
//! applied.
//!
//! | served on | heard on | |
//! | --- | --- | --- |
//! | a WebSocket | anything | takes over if its number continues; else a [`Contest`] |
//! | HTTP | HTTP | takes over, unless two sequences [take turns](Interleaving) |
//! | HTTP | a newer WebSocket | takes over |
//! | HTTP | an older WebSocket | takes over with a later number, or with the complete report it is asked for: anything else may be what a dead connection still brings |

use std::sync::Arc;
use std::time::Instant;

use opamp_proto::InstanceUid;

use super::received::Answer;
use super::route::{Route, RouteShared};
use super::shard::{PendingRename, Slot};
use super::{Accepted, AgentKey, Fleet, Now};
use crate::core::{
    Changes, Contest, Heard, Interleaving, Refusal, RivalId, Scan, ServerConfig, Sign, Terms,
    Transport, later,
};

/// What is to be done with a message that came on another connection than its Agent is served on.
pub(super) enum Arrival {
    /// The Agent is served here from now on.
    TakesOver,
    /// It is answered and changes nothing.
    StandsBy(StandBy),
    /// As before, and the incumbent is asked for a sign of life.
    Claims,
}

/// The reply to a message that changes nothing.
#[derive(Clone, Copy)]
pub(super) enum StandBy {
    Plain,
    AskForFullState,
    Rename(InstanceUid),
    Refuse,
}

/// What a slot keeps of others under its uid. Boxed, as hardly any has some.
pub(super) struct Others<I> {
    contest: Contest<Arc<RouteShared<I>>>,
    interleaving: Option<Box<Interleaving>>,
    /// The older WebSocket on which the full state was asked for.
    asked: Option<u64>,
    /// The shard knows that there are some to look at as time passes.
    listed: bool,
}

impl<I> Default for Others<I> {
    fn default() -> Self {
        Self { contest: Contest::default(), interleaving: None, asked: None, listed: false }
    }
}

impl<I> RouteShared<I> {
    pub(super) const fn rival_id(&self) -> RivalId {
        match self.transport {
            Transport::WebSocket => RivalId::Route(self.id),
            Transport::Http => RivalId::Http,
        }
    }
}

impl<I> Slot<I> {
    /// Decides about a message on this route, which is not the one the Agent is served on.
    pub(super) fn arrival(
        &mut self,
        route: &Route<I>,
        scan: &Scan<'_>,
        terms: Terms<'_>,
        config: &ServerConfig,
        now: Instant,
        fresh: &mut dyn FnMut() -> InstanceUid,
    ) -> Arrival {
        let number = scan.sequence_num();
        let id = route.shared.rival_id();
        let continues = self.agent.continues_with(number);
        if let Some(others) = &mut self.others
            && others.is_heard_from(id, number, continues)
            && let Some(heard) = others.contest.heard(id, number, now, config.offer_pause)
        {
            return match heard {
                Heard::Waits => Arrival::StandsBy(StandBy::Plain),
                Heard::Tell(new) => Arrival::StandsBy(StandBy::Rename(new)),
                Heard::Refuse => Arrival::StandsBy(StandBy::Refuse),
                Heard::TakesOver => Arrival::TakesOver,
            };
        }
        match (self.route.transport, route.shared.transport) {
            (Transport::WebSocket, _) if continues => Arrival::TakesOver,
            (Transport::WebSocket, _) => Arrival::Claims,
            (Transport::Http, Transport::Http) => self.interleaves(route, number, now, fresh),
            (Transport::Http, Transport::WebSocket) => {
                let newer = route.shared.id > self.route.id;
                let later = self.agent.sequence_num().is_none_or(|last| number > last);
                let others = self.others.get_or_insert_default();
                let asked = others.asked.replace(route.shared.id) == Some(route.shared.id);
                match newer || later || asked && self.agent.is_complete(scan, terms) {
                    true => Arrival::TakesOver,
                    false => Arrival::StandsBy(StandBy::AskForFullState),
                }
            }
        }
    }

    fn interleaves(
        &mut self,
        route: &Route<I>,
        number: u64,
        now: Instant,
        fresh: &mut dyn FnMut() -> InstanceUid,
    ) -> Arrival {
        let last = self.agent.sequence_num().unwrap_or(number);
        if number == last || self.agent.continues_with(number) {
            return Arrival::TakesOver;
        }
        let others = self.others.get_or_insert_default();
        if !Interleaving::follow(&mut others.interleaving, last, number) {
            return Arrival::TakesOver;
        }
        let (way, new) = (Arc::clone(&route.shared), fresh());
        others.contest.convict(RivalId::Http, way, number, new, now);
        Arrival::StandsBy(StandBy::Rename(new))
    }

    /// The Agent has spoken where it is served. True if that proves that another one is a
    /// duplicate.
    pub(super) fn spoke(&mut self) -> bool {
        self.others.as_mut().is_some_and(|others| others.contest.spoke())
    }

    /// The incumbent has given a sign of life: duplicates are told.
    pub(super) fn proved(&mut self) -> Changes {
        let key = self.key();
        let others = self.others.iter();
        let ways = others.flat_map(|others| others.contest.untold());
        ways.filter_map(|way| way.waker.as_ref()).for_each(|waker| waker.wake(&key));
        Changes::DUPLICATE
    }

    /// Whether the shard has to be told that there are others here.
    pub(super) fn must_be_listed(&mut self) -> bool {
        self.others.as_mut().is_some_and(|others| {
            !others.contest.is_over() && !std::mem::replace(&mut others.listed, true)
        })
    }

    /// The Agent is served on another route than before.
    pub(super) fn incumbent_changed(&mut self) {
        let key = self.key();
        let Some(others) = &mut self.others else { return };
        others.contest.leave(self.route.rival_id());
        match self.route.transport {
            Transport::WebSocket => {
                (others.interleaving, others.asked) = (None, None);
                if let Some(probe) = others.contest.restart() {
                    self.route.probe(&key, probe);
                }
            }
            Transport::Http => others.contest.give_up(),
        }
        self.forget_others();
    }

    fn forget_others(&mut self) {
        self.others = self.others.take().filter(|others| !others.is_nothing());
    }

    fn leaves_contest(&mut self, id: RivalId) {
        if let Some(others) = &mut self.others {
            others.contest.leave(id);
            self.forget_others();
        }
    }

    /// The incumbent is gone, or counts as gone. Whoever waits first is served instead.
    fn succeed(&mut self) -> Changes {
        let Some(next) = self.others.as_mut().and_then(|others| others.contest.successor()) else {
            return Changes::empty();
        };
        self.route = next;
        self.released = false;
        let changes = self.agent.handle_connected(Transport::WebSocket);
        // Of what it has said so far nothing was taken.
        self.agent.request_full_state();
        self.wake();
        self.incumbent_changed();
        changes
    }
}

impl<I> Others<I> {
    fn is_nothing(&self) -> bool {
        self.contest.is_over() && self.interleaving.is_none() && self.asked.is_none()
    }

    /// Whether a message is of a newcomer that is known. Of requests, where nothing else tells who
    /// sends them, one that continues the incumbent's numbers and not the newcomer's is not.
    fn is_heard_from(&self, id: RivalId, number: u64, continues: bool) -> bool {
        match (id, self.contest.number_of(id)) {
            (RivalId::Http, Some(last)) if self.interleaving.is_some() => {
                (number == last || number == last.wrapping_add(1)) && !continues
            }
            (RivalId::Http, Some(last)) => !continues || number == last.wrapping_add(1),
            (_, known) => known.is_some(),
        }
    }
}

impl<I> RouteShared<I> {
    fn probe(&self, key: &AgentKey, probe: u64) {
        if let Some(waker) = &self.waker {
            waker.probe(key, probe);
        }
    }
}

impl<I> Fleet<I> {
    /// Answers a message that changes nothing.
    pub(super) fn stand_by(
        &self,
        route: &mut Route<I>,
        key: AgentKey,
        slot: &mut Slot<I>,
        goodbye: bool,
        how: StandBy,
    ) -> Result<Accepted, Refusal> {
        let counting = &self.inner.counting;
        counting.stale.add();
        if goodbye {
            slot.leaves_contest(route.shared.rival_id());
            route.leave(&key);
        }
        let new = match how {
            StandBy::Refuse => {
                let text = "another Agent with this instance uid is connected";
                return Err(Refusal::denied(text));
            }
            StandBy::Rename(new) => {
                counting.duplicates_told.add();
                Some(new)
            }
            StandBy::Plain | StandBy::AskForFullState => None,
        };
        let full_state = matches!(how, StandBy::AskForFullState);
        if full_state {
            counting.full_state_replies.add();
        }
        let due = slot.agent.stand_by(route.shared.transport, full_state, new);
        Ok(Accepted {
            key: Some(key),
            changes: Changes::empty(),
            queue: false,
            ticket: 0,
            unsaved: 0,
            answer: Answer::Acknowledge(due),
        })
    }

    /// A newcomer has spoken under the uid of an Agent that is connected: the incumbent is asked
    /// for a sign of life. Returns the uid that the newcomer gets should there be one.
    pub(super) fn claim(
        &self,
        route: &mut Route<I>,
        key: AgentKey,
        slot: &mut Slot<I>,
        number: u64,
        now: Instant,
        fresh: &mut dyn FnMut() -> InstanceUid,
    ) -> Option<InstanceUid> {
        let id = route.shared.rival_id();
        let offered = route.offered.iter().find(|(_, old)| *old == key);
        let new = offered.map_or_else(&mut *fresh, |(new, _)| *new);
        let until = later(now, self.config().duplicate_probe_timeout);
        let others = slot.others.get_or_insert_default();
        let way = Arc::clone(&route.shared);
        let probe = others.contest.claim(id, way, number, new, now, until)?;
        if id != RivalId::Http {
            route.offer(new, key);
            route.join(key);
        }
        self.inner.counting.duplicates_suspected.add();
        slot.route.probe(&key, probe);
        Some(new)
    }

    /// A newcomer that may not speak under another uid keeps this one, and is refused under it.
    pub(super) fn authorize_duplicate(&self, route: &Route<I>, key: AgentKey, new: InstanceUid) {
        if self.authorize(&route.shared, &key.tenant().agent(new), None).is_err()
            && let Some(slot) = self.shard(&key).slots.get_mut(&key)
            && let Some(others) = &mut slot.others
        {
            others.contest.bar(route.shared.rival_id());
        }
    }

    /// A message has come under a uid that this route was offered for a duplicate. If the duplicate
    /// has taken the Agent over meanwhile, that is what is renamed; else an Agent of its own
    /// begins.
    pub(super) fn take_offered(
        &self,
        route: &mut Route<I>,
        new: &AgentKey,
        now: Now,
    ) -> Option<PendingRename> {
        let old = route.take_offer(new)?;
        let mut shard = self.shard(&old);
        let slot = shard.slots.get_mut(&old)?;
        if slot.is_served_on(route) {
            let expires = later(now.instant, self.config().rename_expiry);
            return Some(PendingRename { old, serial: slot.serial, expires });
        }
        slot.leaves_contest(route.shared.rival_id());
        route.leave(&old);
        None
    }

    /// A probe of [`RouteWaker::probe`](super::RouteWaker::probe) was answered: this connection is
    /// alive, and was when the probe was sent. Returns the Agent if it has to be queued for
    /// handling.
    #[must_use = "the Agent has to be queued for handling"]
    pub fn probe_answered(
        &self,
        route: &Route<I>,
        key: impl Into<AgentKey>,
        probe: u64,
    ) -> Option<AgentKey> {
        let key = key.into();
        let mut shard = self.shard(&key);
        let slot = shard.slots.get_mut(&key).filter(|slot| slot.is_served_on(route))?;
        let shared = route.agents.len() > 1;
        match slot.others.as_mut()?.contest.answered(probe, shared) {
            Sign::Nothing => None,
            Sign::AskAgent => {
                slot.agent.request_full_state();
                slot.wake();
                None
            }
            Sign::Proved => {
                let changes = slot.proved();
                self.note_changes(slot, changes).then_some(key)
            }
        }
    }

    /// The route of an Agent, or of a newcomer under its uid, is gone. True if the Agent has to be
    /// queued for handling.
    pub(super) fn route_lost(&self, slot: &mut Slot<I>, route: &Route<I>) -> bool {
        if slot.route.id != route.shared.id {
            slot.leaves_contest(route.shared.rival_id());
            return false;
        }
        self.lost(slot)
    }

    fn lost(&self, slot: &mut Slot<I>) -> bool {
        let mut changes = slot.agent.handle_lost();
        changes |= self.replace(slot);
        self.note_changes(slot, changes)
    }

    pub(super) fn note_changes(&self, slot: &mut Slot<I>, changes: Changes) -> bool {
        if !changes.is_empty() {
            self.inner.watching.note(self.place(&slot.key()), &mut slot.changed_at);
        }
        slot.news.note(changes)
    }

    fn replace(&self, slot: &mut Slot<I>) -> Changes {
        let changes = slot.succeed();
        if !changes.is_empty() {
            self.inner.counting.duplicates_replaced.add();
        }
        changes
    }

    /// Has newcomers take over from incumbents that have given no sign of life in time: to be
    /// called every second or so. Returns the Agents that have to be queued for handling.
    #[must_use = "the Agents have to be queued for handling"]
    pub fn settle_duplicates(&self, now: Now) -> Vec<AgentKey> {
        let config = self.config();
        let end = later(now.instant, config.duplicate_probe_timeout);
        let silent = now.instant.checked_sub(config.http_offline_after).unwrap_or(now.instant);
        let mut queue = Vec::new();
        for mut shard in self.shards() {
            if shard.contested.is_empty() {
                continue;
            }
            let contested = std::mem::take(&mut shard.contested);
            let contested = contested.into_iter().filter(|key| {
                let Some(slot) = shard.slots.get_mut(key) else { return false };
                let Some(others) = &mut slot.others else { return false };
                if others.contest.advance(now.instant, end, silent) && self.lost(slot) {
                    queue.push(*key);
                }
                if let Some(others) = &mut slot.others {
                    others.listed = !others.contest.is_over();
                }
                slot.forget_others();
                slot.others.as_ref().is_some_and(|others| others.listed)
            });
            let contested = contested.collect();
            shard.contested = contested;
        }
        queue
    }

    /// What there is to push to a newcomer under the uid of this Agent: its new uid.
    pub(super) fn poll_rename(
        &self,
        slot: &mut Slot<I>,
        route: &Route<I>,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> bool {
        let id = route.shared.rival_id();
        let new = slot.others.as_mut().and_then(|others| others.contest.poll_tell(id, now));
        if let Some(new) = new {
            self.inner.counting.duplicates_told.add();
            slot.agent.rename_duplicate(new, out);
        }
        new.is_some()
    }
}
