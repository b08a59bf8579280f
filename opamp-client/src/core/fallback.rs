//! Settings in force that serve no more: credentials that a server refuses for long, as an agent
//! has slept past the end of its certificate; or settings that no connection can be made with, as a
//! file they need cannot be read.
//!
//! ```text
//!               refused for refusal_timeout              refused, unreachable
//!   in force ──────────────────────────────► as started ──────────────────────► in force …
//!    │    ▲                                      │
//!    │    └── a good reply: nothing has changed  └── a good reply: the settings in force are
//!    │                                               forgotten, the server is told FAILED
//!    │          unusable for a minute                    the same
//!    └───────────────────────────────────────► as started ────────► in force …
//!         ▲                                      │ a good reply: serves until …
//!         └──────────────────────────────────────┘ … a check finds them usable again
//! ```
//!
//! What the agent is started with is its operator's word, and stays good for a first contact. A
//! server has said nothing against settings that are unusable here, so they are kept: what they
//! need may come back, or be in the next build.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::event::{Failure, FailureKind};
use super::settings::SettingsCheck;
use super::timer::Timer;
use super::{ClientCore, Event};

/// How long settings in force may be unusable before what the agent is started with serves:
/// somebody may be writing the files they need.
const UNUSABLE: Duration = Duration::from_secs(60);

/// Time between two looks whether they are usable again.
const LOOK: Duration = Duration::from_secs(300);

/// How the settings in force have fared.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// What the agent is started with serves instead.
    pub(super) replaced: bool,
    trouble: Option<Trouble>,
    /// A check whether they are usable again, and whether the driver has it.
    check: Option<(u64, bool)>,
}

/// What is wrong with them, and since when.
#[derive(Debug)]
enum Trouble {
    Refused(Instant, String),
    Unusable(Instant),
}

impl ClientCore {
    /// An attempt to reach a server failed: decides what the next one is made with, unless there is
    /// a trial, which decides for itself.
    pub(super) fn settings_in_force_failed(&mut self, failure: &Failure, now: Instant) {
        if self.settings.verifying() || self.opamp_settings().is_none() {
            return;
        }
        let pending = self.opamp_settings_pending();
        let limit = self.config.refusal_timeout;
        let standing = &mut self.settings.standing;
        if standing.replaced {
            standing.replaced = false;
        } else if failure.kind == FailureKind::UnusableSettings {
            let since = match standing.trouble {
                Some(Trouble::Unusable(since)) => since,
                _ => now,
            };
            standing.trouble = Some(Trouble::Unusable(since));
            standing.replaced = now.saturating_duration_since(since) >= UNUSABLE;
        } else if failure.kind.is_refusal() && !pending {
            let since = match standing.trouble {
                Some(Trouble::Refused(since, _)) => since,
                _ => now,
            };
            standing.trouble = Some(Trouble::Refused(since, failure.message.clone()));
            let time = now.saturating_duration_since(since);
            standing.replaced = limit.is_some_and(|limit| time >= limit);
        } else if matches!(standing.trouble, Some(Trouble::Unusable(_))) {
            // An attempt was made with them.
            standing.trouble = None;
        }
        self.transport = self.transport_of(self.settings.present().as_deref());
    }

    /// A server has given a good reply.
    pub(super) fn settings_in_force_proven(&mut self, now: Instant) {
        let standing = &mut self.settings.standing;
        if !standing.replaced {
            standing.trouble = None;
            return;
        }
        let why = match standing.trouble.take() {
            Some(Trouble::Refused(_, why)) => why,
            unusable => {
                standing.trouble = unusable;
                if standing.check.is_none() && !self.timers.is_set(Timer::Unusable) {
                    self.timers.set(Timer::Unusable, now.checked_add(LOOK));
                }
                return;
            }
        };
        standing.replaced = false;
        self.settings.forget_in_force();
        self.state.opamp_settings = None;
        self.state_changed();
        let reason = super::offer::cut(format!("no server takes them any more: {why}"));
        self.events.push(Event::OpampSettingsFailed { reason: reason.clone() });
        self.opamp_settings_void(reason);
        self.handle_certificate_due();
    }

    /// It is time to look whether the settings in force are usable again.
    pub(super) fn look_at_unusable_settings(&mut self) {
        if self.settings.standing.replaced {
            let id = self.settings.next_check();
            self.settings.standing.check = Some((id, false));
        }
    }

    /// Others are checked now.
    pub(super) fn put_off_look(&mut self, now: Instant) {
        if self.settings.standing.check.take().is_some() {
            self.timers.set(Timer::Unusable, now.checked_add(LOOK));
        }
    }

    pub(super) fn poll_unusable_settings_check(&mut self) -> Option<SettingsCheck> {
        let settings = Arc::clone(self.settings.in_force()?);
        let (id, asked @ false) = self.settings.standing.check.as_mut()? else { return None };
        *asked = true;
        Some(SettingsCheck { id: *id, settings })
    }

    /// What came of that look: usable ones serve again, if nothing newer is being tried.
    pub(super) fn unusable_settings_checked(&mut self, id: u64, usable: bool, now: Instant) {
        let standing = &mut self.settings.standing;
        if standing.check != Some((id, true)) {
            return;
        }
        standing.check = None;
        if !standing.replaced {
            return;
        }
        if !usable || self.opamp_settings_pending() {
            return self.timers.set(Timer::Unusable, now.checked_add(LOOK));
        }
        let standing = &mut self.settings.standing;
        standing.replaced = false;
        standing.trouble = None;
        self.leave_for_other_settings(now);
    }
}
