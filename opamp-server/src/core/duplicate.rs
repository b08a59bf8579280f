//! Two that speak under one instance uid (DUP-03 to DUP-09, reading A13).
//!
//! An Agent that comes back on a new connection looks exactly like another one that was copied with
//! its uid, except for one thing: the connection it had before is dead. So a newcomer whose number
//! does not continue the Agent's makes the incumbent be asked for a sign of life, and nobody is
//! renamed without one that was given after the newcomer came.
//!
//! ```text
//!                              pong, of a connection of its own
//!   claim ──▶ Probing ────────────────────────────────────────▶ Duplicate ──▶ told its new uid at
//!                │  │  pong, of a shared      the incumbent's       ▲         once, and then with
//!                │  │  connection             next message          │         replies, at a pace
//!                │  └──────────────▶ Listening ─────────────────────┘
//!                │                       │
//!                ▼                       ▼
//!         no sign in time, or the incumbent's connection ends: takes over
//! ```
//!
//! A pong counts if it answers a ping that was sent after the claim; other bytes may have been on
//! their way since before the connection died. It proves the connection only. Where several Agents
//! share one, the incumbent is asked for its full state after the pong, and its next message is the
//! sign: what comes after the pong was sent on a living connection.
//!
//! A newcomer that waits gets plain replies, and its messages change nothing. If it takes over it
//! is asked for its full state. A duplicate that takes its new uid is an Agent of its own; one that
//! goes on under the old one, as some clients cannot be renamed, is told again with a reply now and
//! then, and changes nothing for as long as the incumbent is connected.
//!
//! Over HTTP there is no connection to ask for a sign. An incumbent on HTTP is therefore replaced
//! by whoever comes, and [`Interleaving`] sees when two go on to take turns.

use std::time::Instant;

use opamp_proto::InstanceUid;

/// Newcomers of one uid that are looked at at a time. The messages of others get plain replies
/// until there is room.
const MAX_RIVALS: usize = 16;

/// Who came under the uid of an Agent that is connected elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RivalId {
    /// Whoever speaks on this WebSocket.
    Route(u64),
    /// Whoever sends requests. Of several only the numbers would tell which is which.
    Http,
}

/// The newcomers under the uid of one connected Agent, the incumbent. `C` is the way to a newcomer.
#[derive(Debug)]
pub(crate) struct Contest<C> {
    /// The number of the last probe.
    probe: u64,
    rivals: Vec<Rival<C>>,
}

#[derive(Debug)]
struct Rival<C> {
    id: RivalId,
    way: C,
    /// The number of its last message, and when that came.
    number: u64,
    heard: Instant,
    /// The uid it gets should it be a duplicate; `None` if it may have none.
    new: Option<InstanceUid>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The incumbent's connection was asked for a sign with this probe. The wait has no end yet if
    /// the incumbent has just changed.
    Probing { probe: u64, until: Option<Instant> },
    /// The incumbent's connection lives, and the incumbent itself was asked.
    Listening { until: Option<Instant> },
    /// The incumbent lives.
    Duplicate { told: Option<Instant> },
}

impl Stage {
    const fn is_open(self) -> bool {
        matches!(self, Self::Probing { .. } | Self::Listening { .. })
    }

    fn is_overdue(self, now: Instant) -> bool {
        match self {
            Self::Probing { until, .. } | Self::Listening { until } => {
                until.is_some_and(|until| until <= now)
            }
            Self::Duplicate { .. } => false,
        }
    }
}

/// What to do about a newcomer's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It gets a plain reply.
    Waits,
    /// Its reply tells it the new uid.
    Tell(InstanceUid),
    /// It is a duplicate that may have no other uid.
    Refuse,
    /// The incumbent has given no sign: it takes over.
    TakesOver,
}

/// What a sign of life led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    /// Nothing.
    Nothing,
    /// The incumbent itself has to be asked.
    AskAgent,
    /// There are duplicates to be told.
    Proved,
}

impl<C> Default for Contest<C> {
    fn default() -> Self {
        Self { probe: 0, rivals: Vec::new() }
    }
}

impl<C> Contest<C> {
    fn rival(&mut self, id: RivalId) -> Option<&mut Rival<C>> {
        self.rivals.iter_mut().find(|rival| rival.id == id)
    }

    /// Nobody is left.
    pub(crate) fn is_over(&self) -> bool {
        self.rivals.is_empty()
    }

    /// The number of a newcomer's last message.
    pub(crate) fn number_of(&self, id: RivalId) -> Option<u64> {
        self.rivals.iter().find(|rival| rival.id == id).map(|rival| rival.number)
    }

    /// Somebody new has spoken. Returns the probe the incumbent has to be sent; `None` if there are
    /// too many newcomers already.
    pub(crate) fn claim(
        &mut self,
        id: RivalId,
        way: C,
        number: u64,
        new: InstanceUid,
        now: Instant,
        until: Instant,
    ) -> Option<u64> {
        if self.rivals.len() >= MAX_RIVALS {
            return None;
        }
        self.probe += 1;
        let stage = Stage::Probing { probe: self.probe, until: Some(until) };
        self.rivals.push(Rival { id, way, number, heard: now, new: Some(new), stage });
        Some(self.probe)
    }

    /// Somebody new is a duplicate for sure, and is told so now.
    pub(crate) fn convict(
        &mut self,
        id: RivalId,
        way: C,
        number: u64,
        new: InstanceUid,
        now: Instant,
    ) {
        self.leave(id);
        if self.rivals.len() < MAX_RIVALS {
            let stage = Stage::Duplicate { told: Some(now) };
            self.rivals.push(Rival { id, way, number, heard: now, new: Some(new), stage });
        }
    }

    /// A newcomer may have no other uid.
    pub(crate) fn bar(&mut self, id: RivalId) {
        if let Some(rival) = self.rival(id) {
            rival.new = None;
        }
    }

    /// A newcomer speaks again; `None` if it is unknown. `pace` is how often a duplicate is told.
    pub(crate) fn heard(
        &mut self,
        id: RivalId,
        number: u64,
        now: Instant,
        pace: std::time::Duration,
    ) -> Option<Heard> {
        let rival = self.rival(id)?;
        (rival.number, rival.heard) = (number, now);
        Some(match (&mut rival.stage, rival.new) {
            (stage, _) if stage.is_overdue(now) => Heard::TakesOver,
            (Stage::Duplicate { .. }, None) => Heard::Refuse,
            (Stage::Duplicate { told }, Some(new))
                if told.is_none_or(|told| now.saturating_duration_since(told) >= pace) =>
            {
                *told = Some(now);
                Heard::Tell(new)
            }
            _ => Heard::Waits,
        })
    }

    /// The incumbent's connection has answered this probe. `shared` says that it carries others.
    pub(crate) fn answered(&mut self, probe: u64, shared: bool) -> Sign {
        let mut sign = Sign::Nothing;
        for rival in &mut self.rivals {
            match rival.stage {
                Stage::Probing { probe: sent, until } if sent <= probe && shared => {
                    rival.stage = Stage::Listening { until };
                    sign = Sign::AskAgent;
                }
                Stage::Probing { probe: sent, .. } if sent <= probe => {
                    rival.stage = Stage::Duplicate { told: None };
                    sign = Sign::Proved;
                }
                _ => {}
            }
        }
        sign
    }

    /// The incumbent has spoken. True if that was the sign somebody waited for.
    pub(crate) fn spoke(&mut self) -> bool {
        let mut proved = false;
        for rival in &mut self.rivals {
            if let Stage::Listening { .. } = rival.stage {
                rival.stage = Stage::Duplicate { told: None };
                proved = true;
            }
        }
        proved
    }

    /// The ways to the duplicates that were not told yet.
    pub(crate) fn untold(&self) -> impl Iterator<Item = &C> {
        let untold = |rival: &&Rival<C>| {
            rival.new.is_some() && rival.stage == Stage::Duplicate { told: None }
        };
        self.rivals.iter().filter(untold).map(|rival| &rival.way)
    }

    /// The uid a duplicate is to be told without having been asked, once.
    pub(crate) fn poll_tell(&mut self, id: RivalId, now: Instant) -> Option<InstanceUid> {
        let rival = self.rival(id)?;
        match rival.stage {
            Stage::Duplicate { told: None } => {
                rival.stage = Stage::Duplicate { told: Some(now) };
                rival.new
            }
            _ => None,
        }
    }

    /// A newcomer is gone, or is none any more.
    pub(crate) fn leave(&mut self, id: RivalId) {
        self.rivals.retain(|rival| rival.id != id);
    }

    /// Another incumbent: whoever waits for a sign waits for one of this. Returns the probe it has
    /// to be sent, if anybody waits.
    pub(crate) fn restart(&mut self) -> Option<u64> {
        let probe = self.probe + 1;
        for rival in self.rivals.iter_mut().filter(|rival| rival.stage.is_open()) {
            rival.stage = Stage::Probing { probe, until: None };
            self.probe = probe;
        }
        (self.probe == probe).then_some(probe)
    }

    /// The incumbent cannot be asked for a sign: nobody waits for one.
    pub(crate) fn give_up(&mut self) {
        self.rivals.retain(|rival| !rival.stage.is_open());
    }

    /// Time passes. Waits without an end get this one, and requests that were not heard since
    /// `silent` are forgotten. True if a wait on a WebSocket is over.
    pub(crate) fn advance(&mut self, now: Instant, end: Instant, silent: Instant) -> bool {
        self.rivals.retain(|rival| rival.id != RivalId::Http || rival.heard > silent);
        for rival in &mut self.rivals {
            if let Stage::Probing { until, .. } | Stage::Listening { until } = &mut rival.stage {
                until.get_or_insert(end);
            }
        }
        let overdue = |rival: &Rival<C>| rival.stage.is_overdue(now) && rival.id != RivalId::Http;
        self.rivals.iter().any(overdue)
    }

    /// The incumbent is gone or counts as gone: takes out who follows it, the first on a WebSocket
    /// that waits.
    pub(crate) fn successor(&mut self) -> Option<C> {
        let waits = |rival: &Rival<C>| rival.stage.is_open() && rival.id != RivalId::Http;
        let index = self.rivals.iter().position(waits)?;
        Some(self.rivals.remove(index).way)
    }
}

/// How often two sequences have to take turns before they are two Agents.
const MAX_TURNS: u8 = 5;

/// Two interleaved sequences of numbers under one uid.
///
/// An Agent that starts anew begins another sequence, and does not return to the one before. Where
/// both go on by turns, each of them from where it was, there are two Agents.
#[derive(Debug)]
pub(crate) struct Interleaving {
    /// The last number of the sequence that is not the present one.
    other: u64,
    turns: u8,
    /// The present sequence is the one that began later.
    later: bool,
}

impl Interleaving {
    /// Follows a message that does not continue the last one, of the number `last`. True if it is
    /// of a duplicate: of the later one of two sequences that take turns.
    pub(crate) fn follow(this: &mut Option<Box<Self>>, last: u64, number: u64) -> bool {
        match this {
            Some(known) if number == known.other.wrapping_add(1) => {
                known.other = last;
                known.turns = known.turns.saturating_add(1);
                known.later = !known.later;
                known.later && known.turns >= MAX_TURNS
            }
            _ => {
                *this = Some(Box::new(Self { other: last, turns: 0, later: true }));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const WAIT: Duration = Duration::from_secs(5);
    const PACE: Duration = Duration::from_secs(60);

    fn uid(number: u8) -> InstanceUid {
        InstanceUid::from_bytes([number; 16])
    }

    struct Bench {
        contest: Contest<u64>,
        now: Instant,
    }

    impl Bench {
        #[allow(clippy::disallowed_methods, reason = "any instant will do as an origin")]
        fn new() -> Self {
            Self { contest: Contest::default(), now: Instant::now() }
        }

        fn claim(&mut self, id: u64) -> Option<u64> {
            let new = uid(id.to_le_bytes()[0]);
            self.contest.claim(RivalId::Route(id), id, 1, new, self.now, self.now + WAIT)
        }

        fn heard(&mut self, id: u64) -> Option<Heard> {
            self.contest.heard(RivalId::Route(id), 2, self.now, PACE)
        }

        fn overdue(&mut self) -> bool {
            self.contest.advance(self.now, self.now + WAIT, self.now - PACE)
        }
    }

    #[test]
    fn a_sign_of_life_makes_a_duplicate_that_is_told_at_once_and_then_at_a_pace() {
        let mut bench = Bench::new();
        let probe = bench.claim(1).expect("room");
        assert_eq!(bench.heard(1), Some(Heard::Waits));
        assert_eq!(bench.contest.answered(probe - 1, false), Sign::Nothing, "an older ping");
        assert_eq!(bench.contest.answered(probe, false), Sign::Proved);
        assert_eq!(bench.contest.untold().collect::<Vec<_>>(), [&1]);
        assert_eq!(bench.contest.poll_tell(RivalId::Route(1), bench.now), Some(uid(1)));
        assert_eq!(bench.contest.poll_tell(RivalId::Route(1), bench.now), None);
        assert_eq!(bench.heard(1), Some(Heard::Waits));
        bench.now += PACE;
        assert_eq!(bench.heard(1), Some(Heard::Tell(uid(1))));
        assert_eq!(bench.heard(1), Some(Heard::Waits));
        assert!(!bench.overdue() && bench.contest.successor().is_none());
    }

    #[test]
    fn without_a_sign_the_newcomer_takes_over() {
        let mut bench = Bench::new();
        let probe = bench.claim(1).expect("room");
        bench.now += WAIT - Duration::from_millis(1);
        assert!(!bench.overdue());
        assert_eq!(bench.heard(1), Some(Heard::Waits));
        bench.now += Duration::from_millis(1);
        assert!(bench.overdue());
        assert_eq!(bench.heard(1), Some(Heard::TakesOver));
        assert_eq!(bench.contest.successor(), Some(1));
        assert!(bench.contest.is_over());
        assert_eq!(bench.contest.answered(probe, false), Sign::Nothing, "too late");
    }

    #[test]
    fn of_a_shared_connection_the_agent_itself_has_to_speak_after_the_pong() {
        let mut bench = Bench::new();
        let probe = bench.claim(1).expect("room");
        assert!(!bench.contest.spoke(), "that may have been on its way");
        assert_eq!(bench.contest.answered(probe, true), Sign::AskAgent);
        assert_eq!(bench.contest.answered(probe, true), Sign::Nothing);
        assert_eq!(bench.contest.untold().count(), 0);
        assert!(bench.contest.spoke());
        assert_eq!(bench.contest.untold().count(), 1);

        bench.claim(2);
        assert_eq!(bench.contest.answered(u64::MAX, true), Sign::AskAgent);
        bench.now += WAIT;
        assert!(bench.overdue(), "the connection lives, and the Agent does not");
    }

    #[test]
    fn each_claim_needs_a_sign_of_its_own_and_of_the_present_incumbent() {
        let mut bench = Bench::new();
        let first = bench.claim(1).expect("room");
        let second = bench.claim(2).expect("room");
        assert_eq!(bench.contest.answered(first, false), Sign::Proved);
        assert_eq!(bench.heard(2), Some(Heard::Waits));
        bench.claim(3);
        assert_eq!(bench.contest.successor(), Some(2), "the first one that waits");
        let third = bench.contest.restart().expect("one waits");
        assert_eq!(bench.contest.answered(second, false), Sign::Nothing);
        // Its time begins anew as well.
        bench.now += WAIT * 2;
        assert!(!bench.overdue());
        bench.now += WAIT;
        assert!(bench.overdue());
        assert_eq!(bench.contest.answered(third, false), Sign::Proved);
        assert_eq!(bench.contest.restart(), None);
    }

    #[test]
    fn newcomers_are_bounded_and_leave() {
        let mut bench = Bench::new();
        for id in 0..MAX_RIVALS as u64 {
            assert!(bench.claim(id).is_some());
        }
        assert_eq!(bench.claim(99), None);
        assert_eq!(bench.heard(99), None);
        bench.contest.leave(RivalId::Route(0));
        assert!(bench.claim(99).is_some());
        bench.contest.bar(RivalId::Route(99));
        assert_eq!(bench.contest.answered(u64::MAX, false), Sign::Proved);
        assert_eq!(bench.heard(99), Some(Heard::Refuse));
        bench.contest.give_up();
        assert!(!bench.contest.is_over(), "only who waits is gone");
        assert_eq!(bench.contest.restart(), None);
    }

    #[test]
    fn who_is_convicted_was_told_and_is_told_again_at_a_pace() {
        let mut bench = Bench::new();
        let convict = |bench: &mut Bench, id: u64| {
            let new = uid(id.to_le_bytes()[0]);
            bench.contest.convict(RivalId::Route(id), id, 1, new, bench.now);
        };
        convict(&mut bench, 1);
        assert_eq!(bench.contest.untold().count(), 0);
        assert_eq!(bench.heard(1), Some(Heard::Waits));
        bench.now += PACE;
        assert_eq!(bench.heard(1), Some(Heard::Tell(uid(1))));
        // Once more is no other newcomer.
        convict(&mut bench, 1);
        for id in 2..=MAX_RIVALS as u64 {
            convict(&mut bench, id);
            assert_eq!(bench.heard(id), Some(Heard::Waits));
        }
        convict(&mut bench, 99);
        assert_eq!(bench.heard(99), None);
        assert_eq!(bench.heard(1), Some(Heard::Waits));
    }

    #[test]
    fn who_waits_for_a_sign_of_one_that_cannot_be_asked_waits_no_more() {
        let mut bench = Bench::new();
        let first = bench.claim(1).expect("room");
        bench.claim(2);
        assert_eq!(bench.contest.answered(first, false), Sign::Proved);
        bench.contest.give_up();
        assert_eq!(bench.heard(1), Some(Heard::Tell(uid(1))), "that is decided");
        assert_eq!(bench.heard(2), None);
        assert!(bench.contest.successor().is_none());
    }

    #[test]
    fn requests_that_stop_are_forgotten_and_do_not_take_over_by_themselves() {
        let mut bench = Bench::new();
        let end = bench.now + WAIT;
        bench.contest.claim(RivalId::Http, 0, 7, uid(1), bench.now, end);
        assert_eq!(bench.contest.number_of(RivalId::Http), Some(7));
        bench.now += WAIT;
        assert!(!bench.overdue() && bench.contest.successor().is_none());
        let heard = bench.contest.heard(RivalId::Http, 8, bench.now, PACE);
        assert_eq!(heard, Some(Heard::TakesOver));
        bench.now += PACE;
        assert!(!bench.overdue() && bench.contest.is_over());
    }

    #[test]
    fn two_sequences_by_turns_are_two_agents_and_a_new_start_is_one() {
        let judge = |numbers: &[u64]| {
            let (mut this, mut last, mut found) = (None, numbers[0], Vec::new());
            for number in &numbers[1..] {
                if *number != last + 1
                    && *number != last
                    && Interleaving::follow(&mut this, last, *number)
                {
                    found.push(*number);
                }
                last = *number;
            }
            found
        };
        assert_eq!(judge(&[10, 1, 11, 2, 12, 3, 13, 4]), [4]);
        assert_eq!(judge(&[10, 1, 2, 11, 12, 3, 13, 4, 14, 15, 5]), [5]);
        assert!(judge(&[10, 1, 2, 3, 1, 2, 9, 10, 1]).is_empty());
        // However often one begins anew.
        assert!(judge(&[10, 1, 20, 3, 30, 5, 40, 7, 50, 9, 60, 11, 70]).is_empty());
        // A request of the process before comes late, even twice.
        assert!(judge(&[10, 1, 11, 2, 3, 12, 4, 5, 6]).is_empty());
    }
}
