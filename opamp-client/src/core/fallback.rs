//! Settings in force that serve no more: credentials that a server refuses for long, as an agent has
//! slept past the end of its certificate; or settings that no connection can be made with.
//!
//! ```text
//!               refused for refusal_timeout              refused, unreachable
//!   in force ──────────────────────────────► as started ──────────────────────► in force …
//!      ▲                                         │
//!      └── a good reply: nothing has changed     └── a good reply: the settings in force are
//!                                                    forgotten, the server is told FAILED
//! ```
//!
//! What the agent is started with is its operator's word, and stays good for a first contact.

use std::time::Instant;

use super::event::{Failure, FailureKind};
use super::settings::is_refusal;
use super::{ClientCore, Event};

/// How the settings in force have fared.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// What the agent is started with serves instead.
    pub(super) replaced: bool,
    /// Since when they are refused, and why.
    refused: Option<(Instant, String)>,
}

impl ClientCore {
    /// An attempt to reach a server failed: decides what the next one is made with, unless there is a
    /// trial, which decides for itself.
    pub(super) fn settings_in_force_failed(&mut self, failure: &Failure, now: Instant) {
        let unusable = failure.kind == FailureKind::UnusableSettings;
        if self.settings.verifying() || self.opamp_settings().is_none() {
            return;
        }
        let pending = self.opamp_settings_pending();
        let limit = self.config.refusal_timeout;
        let standing = &mut self.settings.standing;
        if standing.replaced {
            // One that cannot be used at all does not take turns.
            standing.replaced = standing.refused.is_none();
        } else if unusable {
            standing.replaced = true;
        } else if is_refusal(failure.kind) && !pending {
            let (since, why) = standing.refused.get_or_insert_with(|| (now, String::new()));
            why.clone_from(&failure.message);
            let time = now.saturating_duration_since(*since);
            standing.replaced = limit.is_some_and(|limit| time >= limit);
        }
        self.transport = self.transport_of(self.settings.present().as_deref());
    }

    /// A server has given a good reply.
    pub(super) fn settings_in_force_proven(&mut self) {
        let standing = &mut self.settings.standing;
        let Some((_, why)) = standing.refused.take().filter(|_| standing.replaced) else { return };
        standing.replaced = false;
        self.settings.forget_in_force();
        self.state.opamp_settings = None;
        self.state_changed();
        let reason = super::offer::cut(format!("no server takes them any more: {why}"));
        self.events.push(Event::OpampSettingsFailed { reason: reason.clone() });
        self.opamp_settings_void(reason);
        self.handle_certificate_due();
    }
}
