//! Saving the state: what the core asks of a store, and what it does when the store fails.
//!
//! The state is saved as a whole, one version at a time, and always the newest:
//!
//! ```text
//!              poll_save                handle_saved, of the newest
//!   changed ─────────────► under way ───────────────────────────────► saved
//!      ▲                    │     │                                     │
//!      │ Save fires         │     └─ handle_saved, of an older one ─┐   │ a change
//!      └───── failed ◄──────┘                                       ▼   ▼
//!            handle_save_failed                                   changed
//! ```
//!
//! Where something must not be lost, as a key that a request was made with, whatever follows waits
//! until it is saved. Everything else goes on meanwhile.

use std::time::Instant;

use super::config::Storage;
use super::state::ClientState;
use super::timer::Timer;
use super::{ClientCore, Event};

/// A state to be saved: answer with [`ClientCore::handle_saved`] or
/// [`ClientCore::handle_save_failed`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[must_use = "it has to be saved and answered"]
pub struct Save {
    /// To be given back in the answer.
    pub version: u64,
    /// What to save, in place of all that was saved before.
    pub state: ClientState,
}

#[derive(Debug, Default)]
pub(super) struct Saving {
    /// The newest version that is surely stored.
    saved: Option<u64>,
    under_way: Option<u64>,
    /// Failures in a row.
    failures: u32,
    /// Until [`Timer::Save`] fires.
    pub(super) paused: bool,
}

impl ClientCore {
    /// A state to save, if there is one that is not saved. There is no other until this one is
    /// answered; `None` unless the [`storage`](super::ClientConfig::storage) is a store. It works
    /// also when the client has stopped: what changed last is saved last.
    pub fn poll_save(&mut self) -> Option<Save> {
        let saving = &mut self.saving;
        let version = self.state_version;
        if self.config.storage != Storage::Store
            || saving.under_way.is_some()
            || saving.paused
            || saving.saved == Some(version)
        {
            return None;
        }
        saving.under_way = Some(version);
        Some(Save { version, state: self.state.clone() })
    }

    /// The state of that version is stored and survives a crash.
    pub fn handle_saved(&mut self, version: u64, now: Instant) {
        if self.saving.under_way != Some(version) {
            return;
        }
        self.saving = Saving { saved: Some(version), ..Saving::default() };
        self.send_saved_request();
        self.continue_saved_trial(now);
    }

    /// The state of that version could not be stored, or perhaps not. It is tried again, with
    /// backoff; [`Event::SaveFailed`] tells the application once.
    pub fn handle_save_failed(&mut self, version: u64, why: impl Into<String>, now: Instant) {
        if self.saving.under_way != Some(version) {
            return;
        }
        let failures = self.saving.failures;
        let retry_in = self.backoff.delay_of(failures);
        self.saving.under_way = None;
        self.saving.failures = failures.saturating_add(1);
        if !self.is_stopped() {
            self.saving.paused = true;
            self.timers.set(Timer::Save, now.checked_add(retry_in));
        }
        if failures == 0 {
            self.events.push(Event::SaveFailed { reason: why.into(), retry_in });
        }
    }

    /// Whether the state is stored as it was at this version or later, where there is a store.
    pub(super) fn is_saved(&self, version: u64) -> bool {
        self.config.storage != Storage::Store
            || self.saving.saved.is_some_and(|saved| saved >= version)
    }

    pub(super) fn retry_saving(&mut self) {
        self.saving.paused = false;
    }
}
