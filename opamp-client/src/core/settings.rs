//! Offered settings of the OpAMP connection itself: they are tried out before they are kept, and no
//! outcome leaves the agent without a server (CONN-11 to CONN-23, A37).
//!
//! ```text
//!                              poll_settings_check      handle_settings_checked
//!   offered ── policy ──► Checking ──────────────────────────────► Saving
//!      │          │          │ unusable                              │ handle_saved; Resting, if
//!      │          ▼          ▼                                       ▼ there were many before
//!      │        failed     failed                                 Leaving: APPLYING, goodbye,
//!      │                                                             │     Close, by the old server
//!      │ only the interval is new        failed, or no good          ▼
//!      ▼                                 reply in time            Verifying: connect to the new one
//!   applied ◄──────────────────────┐  ┌──────────────────────────◄───┤
//!                    in time ▲     │  ▼                              │ a good reply
//!                 ┌──────────┘  Returning: connect to the old one    ▼
//!                 │                │  │ a good reply             applied: kept, the old settings
//!              failed ◄────────────┼──┘                            are forgotten
//!                                  │ refused, or no good reply in time
//!                                  └──────────────────► Verifying
//! ```
//!
//! Nothing is left before the candidate is saved, so that whoever is started next goes on with it.
//! The candidate is dropped only when the old server has answered again: a server that has seen the
//! new credentials forgets the old ones (CONN-15), and a reply that was lost must not leave an
//! agent with neither. As long as no server answers, both are tried in turn, each for twice as long
//! as before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use opamp_proto::v1;

use super::config::Transport;
use super::event::Failure;
use super::fallback::Standing;
use super::link::{After, Closing, Link};
use super::server_url::Scheme;
use super::state::SettingsCandidate;
use super::timer::Timer;
use super::{ClientCore, ConnectionKinds, Event, MAX_PENDING_STARTS};

/// The shortest interval between polls that a server can ask for.
const SHORTEST_POLL: Duration = Duration::from_secs(1);

/// How often the time a server is given doubles, while two are tried in turn.
const MAX_DOUBLINGS: u32 = 5;

/// Settings of which the driver is to find out whether a connection can be made with them at all:
/// whether URL, headers and proxy are usable, certificates readable, a key belongs to its
/// certificate. Answer with [`ClientCore::handle_settings_checked`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[must_use = "it has to be answered"]
pub struct SettingsCheck {
    /// To be given back in the answer.
    pub id: u64,
    /// The settings, complete but for what the agent is started with.
    pub settings: Arc<v1::OpAmpConnectionSettings>,
}

/// The settings in force, and those on trial.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// Those of the accepted offers; `None` stands for what the agent is started with.
    in_force: Option<Arc<v1::OpAmpConnectionSettings>>,
    pub(super) standing: Standing,
    trial: Option<Trial>,
    last_check: u64,
}

#[derive(Debug)]
struct Trial {
    settings: Arc<v1::OpAmpConnectionSettings>,
    heartbeat_interval_seconds: Option<u64>,
    phase: Phase,
    /// Why the last attempt to connect failed.
    failure: Option<String>,
    /// How often it was given up, for one server or the other.
    rounds: u32,
    /// It was on trial when the process started: there is no connection yet.
    resumed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Checking {
        id: u64,
        asked: bool,
    },
    Saving {
        version: u64,
    },
    /// Saved; too many others were tried just before.
    Resting,
    Leaving,
    Verifying,
    Returning {
        why: String,
    },
}

impl Settings {
    /// Whether no connection is to be made, as it would have to be left at once.
    pub(super) fn hold_connecting(&self) -> bool {
        let trial = self.trial.as_ref();
        trial.is_some_and(|t| matches!(t.phase, Phase::Checking { .. } | Phase::Saving { .. }))
    }

    /// Whether nothing at all is to be sent, as the process begins with a trial.
    pub(super) fn hold_requests(&self) -> bool {
        self.hold_connecting() && self.trial.as_ref().is_some_and(|trial| trial.resumed)
    }

    /// Whether the old server is being left: it is told what it is not told yet.
    pub(super) fn leaving(&self) -> bool {
        self.trial.as_ref().is_some_and(|trial| trial.phase == Phase::Leaving)
    }

    /// Whether the connection, which is being left, is one that was not proven: what its server
    /// offers is of no interest.
    pub(super) fn abandoned(&self, link: &Link) -> bool {
        let trial = self.trial.as_ref();
        matches!(link, Link::Closing { .. })
            && trial.is_some_and(|trial| {
                matches!(trial.phase, Phase::Verifying | Phase::Returning { .. })
            })
    }

    /// What the connection is made with; `None` stands for what the agent is started with.
    pub(super) fn present(&self) -> Option<Arc<v1::OpAmpConnectionSettings>> {
        match &self.trial {
            Some(Trial { phase: Phase::Verifying, settings, .. }) => Some(Arc::clone(settings)),
            _ if self.standing.replaced => None,
            _ => self.in_force.clone(),
        }
    }

    pub(super) fn verifying(&self) -> bool {
        self.trial.as_ref().is_some_and(|trial| trial.phase == Phase::Verifying)
    }

    pub(super) fn forget_in_force(&mut self) {
        self.in_force = None;
    }

    pub(super) fn in_force(&self) -> Option<&Arc<v1::OpAmpConnectionSettings>> {
        self.in_force.as_ref()
    }

    /// A number for a check of settings that none had before.
    pub(super) fn next_check(&mut self) -> u64 {
        self.last_check += 1;
        self.last_check
    }

    fn phase(&mut self) -> Option<&mut Phase> {
        self.trial.as_mut().map(|trial| &mut trial.phase)
    }
}

impl ClientCore {
    /// The OpAMP settings in force that came by offers; `None` as long as none was accepted.
    #[must_use]
    pub fn opamp_settings(&self) -> Option<&v1::OpAmpConnectionSettings> {
        self.settings.in_force.as_deref()
    }

    /// The transport in use; the endpoint of accepted settings may have changed it.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// What the process before this one left (CONN-11, CONN-16).
    pub(super) fn restore_settings(&mut self, now: Instant) {
        let endpoint = &self.config.endpoint;
        let pending = self.state.pending_connection_settings.as_ref();
        let accepted_any = self.state.opamp_settings.is_some()
            || self.state.heartbeat_interval_seconds.is_some()
            || self.state.settings_candidate.is_some()
            || pending.is_some_and(|pending| pending.opamp.is_some());
        let reason = if accepted_any && !self.state.settings_endpoint.means_the_same_as(endpoint) {
            // Whoever starts the agent with another server means that one.
            Some("the agent is started with another server than before".to_owned())
        } else {
            // So does whoever allows less than before.
            self.state.opamp_settings.as_ref().and_then(|kept| self.permit(kept, "").err())
        };
        if let Some(reason) = reason {
            self.state.settings_endpoint.clone_from(endpoint);
            self.state.opamp_settings = None;
            self.state.heartbeat_interval_seconds = None;
            self.state.settings_candidate = None;
            self.state.connection_settings_status = None;
            // No outcome of half an offer is true of it: whoever is the server now may make it
            // anew.
            self.state.pending_connection_settings = None;
            self.state_changed();
            self.events.push(Event::OpampSettingsFailed { reason });
        }
        self.settings.in_force = self.state.opamp_settings.clone().map(Arc::new);
        self.transport = self.transport_of(self.settings.in_force.as_deref());
        let Some(candidate) = self.state.settings_candidate.as_mut() else { return };
        candidate.starts = candidate.starts.saturating_add(1);
        let candidate = candidate.clone();
        self.state_changed();
        if !self.config.accepted_settings.contains(ConnectionKinds::OPAMP) {
            return self.drop_trial("the agent takes no such settings any more".to_owned());
        }
        let present = self.opamp_settings().map_or("", |kept| &kept.destination_endpoint);
        if let Err(why) = self.permit(&candidate.settings, present) {
            return self.drop_trial(why);
        }
        self.try_out(candidate.settings, candidate.heartbeat_interval_seconds, true, now);
        if candidate.starts > MAX_PENDING_STARTS {
            // Settings that may bring the agent down are not tried first any more.
            let why = format!("the agent started {} times without an outcome", candidate.starts);
            if let Some(phase) = self.settings.phase() {
                *phase = Phase::Returning { why };
            }
        }
    }

    /// The agent takes no such settings any more: those that are not being tried yet are dropped.
    pub(super) fn withdraw_opamp_settings(&mut self) {
        let trial = self.settings.trial.as_ref();
        if self.settings.hold_connecting() || trial.is_some_and(|t| t.phase == Phase::Resting) {
            self.drop_trial("the agent takes no such settings any more".to_owned());
        }
    }

    /// Whether offered settings have no outcome yet.
    pub(super) fn opamp_settings_pending(&self) -> bool {
        self.settings.trial.is_some()
    }

    /// The OpAMP part of an offer. It supersedes one that is on trial: there is never more than
    /// one.
    pub(super) fn offer_opamp_settings(
        &mut self,
        offered: v1::OpAmpConnectionSettings,
        now: Instant,
    ) {
        self.state.settings_endpoint.clone_from(&self.config.endpoint);
        let before = self.settings.trial.take();
        let mut pending = None;
        if let Some(before) = before {
            self.timers.stop(Timer::Settings);
            self.forget_candidate();
            // A newer offer leaves out what the server has said already.
            pending = Some((before.settings, before.heartbeat_interval_seconds));
        }
        let proposal = match self.lay_over(offered, pending) {
            Ok(proposal) => proposal,
            Err(why) => return self.settings_failed(why),
        };
        if self.settings.in_force.as_deref().unwrap_or(&Default::default()) == &proposal.settings {
            self.state.heartbeat_interval_seconds = proposal.heartbeat_interval_seconds;
            self.state_changed();
            self.opamp_settings_resolved(Ok(()));
            if self.timers.is_set(Timer::Heartbeat) || self.link == Link::Open {
                self.schedule_heartbeat(now);
            }
            return;
        }
        self.try_out(proposal.settings, proposal.heartbeat_interval_seconds, false, now);
    }

    fn try_out(
        &mut self,
        settings: v1::OpAmpConnectionSettings,
        heartbeat_interval_seconds: Option<u64>,
        resumed: bool,
        now: Instant,
    ) {
        self.put_off_look(now);
        let phase = Phase::Checking { id: self.settings.next_check(), asked: false };
        self.settings.trial = Some(Trial {
            settings: Arc::new(settings),
            heartbeat_interval_seconds,
            phase,
            failure: None,
            rounds: 0,
            // A first connection that was never made need not be left either.
            resumed: resumed || self.epoch == super::Epoch::FIRST && self.last_request == 0,
        });
        self.timers.set(Timer::Settings, now.checked_add(self.config.settings_timeout));
    }

    /// Settings of which it is to be found out whether they are usable, if there are any. The
    /// answer to an earlier check is of no interest then.
    pub fn poll_settings_check(&mut self) -> Option<SettingsCheck> {
        let Some(trial) = self.settings.trial.as_mut() else {
            return self.poll_unusable_settings_check();
        };
        let Phase::Checking { id, asked: asked @ false } = &mut trial.phase else {
            return None;
        };
        *asked = true;
        Some(SettingsCheck { id: *id, settings: Arc::clone(&trial.settings) })
    }

    /// What came of a [`SettingsCheck`]. Unusable settings fail without the server being left.
    pub fn handle_settings_checked(&mut self, id: u64, outcome: Result<(), Failure>, now: Instant) {
        self.unusable_settings_checked(id, outcome.is_ok(), now);
        let Some(trial) = self.settings.trial.as_ref() else { return };
        if trial.phase != (Phase::Checking { id, asked: true }) {
            return;
        }
        if let Err(failure) = outcome {
            return self.cannot_try(failure.message, now);
        }
        let starts = self.state.settings_candidate.as_ref().map_or(0, |kept| kept.starts);
        let candidate = SettingsCandidate {
            settings: v1::OpAmpConnectionSettings::clone(&trial.settings),
            heartbeat_interval_seconds: trial.heartbeat_interval_seconds,
            starts: if trial.resumed { starts } else { 0 },
        };
        if self.state.settings_candidate.as_ref() != Some(&candidate) {
            self.state.settings_candidate = Some(candidate);
            self.state_changed();
        }
        let version = self.state_version;
        if let Some(phase) = self.settings.phase() {
            *phase = Phase::Saving { version };
        }
        self.continue_saved_trial(now);
    }

    /// Something was saved.
    pub(super) fn continue_saved_trial(&mut self, now: Instant) {
        let Some(Phase::Saving { version }) = self.settings.phase() else { return };
        let version = *version;
        if !self.is_saved(version) || self.is_stopped() {
            return;
        }
        self.begin_in_turn(now);
    }

    fn begin_in_turn(&mut self, now: Instant) {
        let resumed = self.settings.trial.as_ref().is_some_and(|trial| trial.resumed);
        if !resumed && let Err(later) = self.trial_ration.take(now) {
            if let Some(phase) = self.settings.phase() {
                *phase = Phase::Resting;
            }
            return self.timers.set(Timer::Settings, later);
        }
        if let Some(phase) = self.settings.phase() {
            *phase = Phase::Leaving;
        }
        self.timers.stop(Timer::Settings);
        self.leave_for_other_settings(now);
    }

    /// Leaves whatever connection there is, and goes on with
    /// [`change_server`](Self::change_server).
    pub(super) fn leave_for_other_settings(&mut self, now: Instant) {
        let verified = self.good;
        match &mut self.link {
            Link::Open => self.leave(Closing::Goodbye, After::Switch, now),
            Link::Closing { then: After::Stop, .. } | Link::Stopped => {}
            Link::Closing { then, .. } => *then = After::Switch,
            Link::Idle { paused: false } if self.transport == Transport::Http && verified => {
                self.leave(Closing::Goodbye, After::Switch, now);
            }
            Link::Idle { .. } | Link::Connecting => {
                if self.link == Link::Connecting || self.outstanding_request.is_some() {
                    self.abort = Some(self.epoch);
                }
                self.change_server(now);
            }
        }
    }

    /// The connection is left, and the next one is made with what is to be used now. The server
    /// there may know nothing of this agent, and nothing is known of the server.
    pub(super) fn change_server(&mut self, now: Instant) {
        self.timers.stop(Timer::Connect);
        self.timers.stop(Timer::Retry);
        self.custom_server_changed();
        self.report.lost();
        self.report.forget_delivered();
        self.report.withhold(super::certificate::UNKNOWN_SERVER);
        self.server_capabilities = None;
        self.outstanding_request = None;
        self.good = false;
        self.heartbeat_due = false;
        if let Some(trial) = self.settings.trial.as_mut() {
            if trial.phase == Phase::Leaving {
                trial.phase = Phase::Verifying;
                self.backoff.reset();
            }
            if matches!(trial.phase, Phase::Verifying | Phase::Returning { .. }) {
                trial.failure = None;
                let window = self
                    .config
                    .settings_timeout
                    .saturating_mul(1 << trial.rounds.min(MAX_DOUBLINGS));
                self.timers.set(Timer::Settings, now.checked_add(window));
            }
        }
        self.transport = self.transport_of(self.settings.present().as_deref());
        self.pause(Duration::ZERO, now);
    }

    /// A reply that is not an error came over the present connection (A37).
    pub(super) fn settings_proven(&mut self, now: Instant) {
        if matches!(self.link, Link::Closing { .. }) {
            // What comes while a server is left says nothing of the next one.
            return;
        }
        if !self.settings.verifying() {
            self.settings_in_force_proven(now);
        }
        match self.settings.phase() {
            Some(Phase::Verifying) => {}
            Some(Phase::Returning { why }) => {
                let why = std::mem::take(why);
                return self.drop_trial(why);
            }
            _ => return,
        }
        let Some(trial) = self.settings.trial.take() else { return };
        self.timers.stop(Timer::Settings);
        let before = self.opamp_settings().and_then(|settings| settings.certificate.clone());
        self.state.opamp_settings = Some(v1::OpAmpConnectionSettings::clone(&trial.settings));
        self.state.heartbeat_interval_seconds = trial.heartbeat_interval_seconds;
        self.state.settings_candidate = None;
        self.settings.in_force = Some(trial.settings);
        self.settings.standing = Standing::default();
        self.state_changed();
        self.certificate_in_force(before.as_ref(), now);
        self.events.push(Event::OpampSettingsApplied);
        self.opamp_settings_resolved(Ok(()));
        self.schedule_heartbeat(now);
    }

    /// An attempt to reach the present server failed. Says whether another server is tried next.
    pub(super) fn settings_disproved(&mut self, failure: &Failure, now: Instant) -> bool {
        self.settings_in_force_failed(failure, now);
        let Some(trial) = self.settings.trial.as_mut() else { return false };
        let why = match trial.phase {
            Phase::Verifying if failure.kind.is_final() => failure.message.clone(),
            Phase::Verifying => {
                trial.failure = Some(failure.message.clone());
                return false;
            }
            // Credentials that the new settings replaced may be void by now.
            Phase::Returning { .. } if failure.kind.is_refusal() => String::new(),
            _ => return false,
        };
        // A server that refuses is not asked again at once.
        let delay = self.backoff.next_delay();
        self.turn(why, now);
        if matches!(self.settings.phase(), Some(Phase::Verifying)) {
            self.pause(delay, now);
        }
        true
    }

    /// A server that took the connection did not take what it was told.
    /// Says whether it is left for that.
    pub(super) fn settings_refused(&mut self, reason: &str, now: Instant) -> bool {
        let refused = !matches!(self.link, Link::Closing { .. })
            && matches!(self.settings.phase(), Some(Phase::Verifying));
        if refused {
            self.turn(format!("the server answered with an error: {reason}"), now);
        }
        refused
    }

    /// The connection on trial ended before the good reply.
    pub(super) fn settings_connection_lost(&mut self, reason: &str) {
        if let Some(trial) = self.settings.trial.as_mut()
            && trial.phase == Phase::Verifying
        {
            trial.failure = Some(reason.to_owned());
        }
    }

    /// Neither the check, nor saving, nor a server took the time it may take.
    pub(super) fn settings_overdue(&mut self, now: Instant) {
        let Some(trial) = self.settings.trial.as_mut() else { return };
        let seconds = self.config.settings_timeout.as_secs();
        match trial.phase {
            Phase::Checking { .. } => {
                let why = format!("the settings could not be checked within {seconds} s");
                self.cannot_try(why, now);
            }
            Phase::Saving { .. } => {
                self.cannot_try(format!("the settings could not be saved within {seconds} s"), now);
            }
            Phase::Resting => self.begin_in_turn(now),
            Phase::Leaving => {}
            Phase::Verifying => {
                let last = trial.failure.take();
                let why = last.unwrap_or_else(|| format!("no reply within {seconds} s"));
                self.turn(why, now);
            }
            Phase::Returning { .. } => self.turn(String::new(), now),
        }
    }

    /// Goes from the new server to the old one, because of `why`, or back.
    fn turn(&mut self, why: String, now: Instant) {
        let Some(trial) = self.settings.trial.as_mut() else { return };
        trial.phase = match &trial.phase {
            Phase::Returning { .. } => Phase::Verifying,
            _ => Phase::Returning { why },
        };
        trial.rounds = trial.rounds.saturating_add(1);
        self.timers.stop(Timer::Settings);
        self.leave_for_other_settings(now);
    }

    /// The trial cannot begin, or not go on. What a process before this one may have shown to the
    /// new server is dropped only when the old one has answered, as ever (CONN-15).
    fn cannot_try(&mut self, why: String, now: Instant) {
        match self.settings.trial.as_mut() {
            Some(trial) if trial.resumed && self.state.settings_candidate.is_some() => {
                trial.phase = Phase::Returning { why };
                self.timers.set(Timer::Settings, now.checked_add(self.config.settings_timeout));
            }
            _ => self.drop_trial(why),
        }
    }

    /// The trial is over without success, and the settings in force remain so.
    fn drop_trial(&mut self, why: String) {
        self.settings.trial = None;
        self.timers.stop(Timer::Settings);
        self.forget_candidate();
        self.settings_failed(why);
    }

    pub(super) fn settings_failed(&mut self, why: String) {
        let reason = super::offer::cut(why);
        self.events.push(Event::OpampSettingsFailed { reason: reason.clone() });
        self.opamp_settings_resolved(Err(reason));
    }

    fn forget_candidate(&mut self) {
        if self.state.settings_candidate.take().is_some() {
            self.state_changed();
        }
    }

    /// The scheme of an offered endpoint decides where it is another one than that of the URL the
    /// agent is started with; otherwise the transport that goes with that URL is kept.
    pub(super) fn transport_of(&self, settings: Option<&v1::OpAmpConnectionSettings>) -> Transport {
        let scheme = |url: &str| Scheme::of(url).map(|scheme| scheme.transport);
        let offered = settings.and_then(|settings| scheme(&settings.destination_endpoint));
        match offered {
            Some(offered) if scheme(self.config.endpoint.as_str()) != Some(offered) => offered,
            _ => self.config.transport,
        }
    }

    /// Sets the agent's own heartbeat interval; `None` opts out of heartbeats (HB-14). It counts as
    /// long as the server has offered none (HB-17), and polls over HTTP go on at their own
    /// [interval](super::ClientConfig::polling_interval). An interval of zero is none.
    pub fn set_heartbeat_interval(&mut self, interval: Option<Duration>, now: Instant) {
        let interval = interval.filter(|interval| !interval.is_zero());
        if self.config.heartbeat_interval == interval {
            return;
        }
        self.config.heartbeat_interval = interval;
        self.update_capabilities();
        if self.link == Link::Open {
            self.schedule_heartbeat(now);
        }
    }

    /// The heartbeat interval over WebSocket: the server's, or else the agent's own. An agent that
    /// opts out has none (HB-04, HB-05, HB-14, HB-17).
    pub(super) fn heartbeat_interval(&self) -> Option<Duration> {
        let own = self.config.heartbeat_interval?;
        match self.state.heartbeat_interval_seconds {
            None => Some(own),
            Some(0) => None,
            Some(seconds) => Some(Duration::from_secs(seconds)),
        }
    }

    /// The interval between polls over HTTP: polling goes on whatever the server says, as it cannot
    /// say anything otherwise (HB-07, A03).
    pub(super) fn polling_interval(&self) -> Duration {
        match self.state.heartbeat_interval_seconds {
            None | Some(0) => self.config.polling_interval,
            Some(seconds) => {
                // Who obeys no server for long still polls no faster than one can ask for.
                let longest = self.config.backoff.max_retry_after.max(SHORTEST_POLL);
                Duration::from_secs(seconds).min(longest)
            }
        }
    }
}
