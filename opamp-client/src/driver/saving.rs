//! Saving the state beside everything else: a store may be slow, and the connection never waits for
//! it.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::warn;

use super::{Boxed, now};
use crate::core::{ClientCore, Save};
use crate::store::SettingsStore;

/// How long a store may take for one state.
const SAVE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long what changed last is given, when the client stops.
const LAST_SAVE: Duration = Duration::from_secs(5);

/// What saves the state: nothing where there is no store.
pub(super) struct Saver {
    store: Option<Arc<dyn SettingsStore>>,
    /// The version that is being saved.
    saving: Option<(u64, Boxed<io::Result<()>>)>,
}

/// What came of saving a version.
pub(super) struct Saved {
    version: u64,
    result: io::Result<()>,
}

impl Saver {
    pub(super) fn new(store: Option<Arc<dyn SettingsStore>>) -> Self {
        Self { store, saving: None }
    }

    /// Begins to save what is to be saved.
    pub(super) fn start(&mut self, core: &mut ClientCore) {
        if self.saving.is_none()
            && let Some(store) = &self.store
            && let Some(Save { version, state, .. }) = core.poll_save()
        {
            let store = Arc::clone(store);
            let saving = async move {
                timeout(SAVE_TIMEOUT, store.save(&state)).await.unwrap_or_else(|_| {
                    let seconds = SAVE_TIMEOUT.as_secs();
                    Err(io::Error::other(format!("the store took longer than {seconds} s")))
                })
            };
            self.saving = Some((version, Box::pin(saving)));
        }
    }

    /// Completes when a version is saved, or could not be. Cancelling loses nothing.
    pub(super) async fn saved(&mut self) -> Saved {
        let Some((version, saving)) = &mut self.saving else {
            return pending().await;
        };
        let (version, result) = (*version, saving.await);
        self.saving = None;
        Saved { version, result }
    }

    /// Saves what changed last; the client has stopped and nothing else waits.
    pub(super) async fn finish(&mut self, core: &mut ClientCore) {
        let save_all = async {
            loop {
                self.start(core);
                if self.saving.is_none() {
                    break;
                }
                let saved = self.saved().await;
                let failed = saved.result.is_err();
                if let Err(error) = &saved.result {
                    warn!(%error, "the last state is not stored: the agent will start with an older one");
                }
                saved.tell(core, now());
                if failed {
                    // Another attempt would follow at once.
                    break;
                }
            }
        };
        // What a store does not take by then is as if the process had been killed.
        let _ = timeout(LAST_SAVE, save_all).await;
    }
}

impl Saved {
    pub(super) fn tell(self, core: &mut ClientCore, now: Instant) {
        match self.result {
            Ok(()) => core.handle_saved(self.version, now),
            Err(error) => core.handle_save_failed(self.version, error.to_string(), now),
        }
    }
}
