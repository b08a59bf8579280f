//! Which server is connected with, and how: the connectors of the settings in use.
//!
//! Making a connector reads files and the system's trust store, which takes milliseconds and may
//! hang with the disk, so it is done beside the runtime's threads, one at a time.

use std::sync::Arc;

use opamp_proto::v1;
use tokio::sync::Semaphore;

use super::Boxed;
use super::base::Base;
use super::connector::Connector;
use crate::core::{Failure, FailureKind, SettingsCheck, Transport};
use crate::error::Error;

pub(super) type SharedSettings = Arc<v1::OpAmpConnectionSettings>;

/// What connects, with whatever settings. It keeps the connector of the settings used last, and
/// with it idle connections and TLS sessions; other settings share nothing with it.
pub(crate) struct Servers {
    base: Arc<Base>,
    settings: Option<SharedSettings>,
    connector: Connector,
    /// Whether it failed for a reason that another one may not have.
    doubted: bool,
    /// Held by whoever makes a connector: one that hangs is waited for, not joined by others.
    making: Arc<Semaphore>,
}

/// A connector that was made, or not, for these settings.
pub(super) struct Made {
    settings: Option<SharedSettings>,
    connector: Result<Connector, Failure>,
}

/// What came of a check of settings.
pub(super) struct Checked {
    pub(super) id: u64,
    pub(super) outcome: Result<(), Failure>,
}

impl Servers {
    /// Fails when no connection can be made with what the agent is started with.
    pub(crate) fn new(base: Base) -> Result<Self, Error> {
        let connector = base.try_connector(None)?;
        let (base, making) = (Arc::new(base), Arc::new(Semaphore::new(1)));
        Ok(Self { base, settings: None, connector, doubted: false, making })
    }

    /// The transport of what the agent is started with, as long as nothing else is in use.
    pub(crate) fn transport(&self) -> Transport {
        self.connector.transport()
    }

    /// Finds out whether a connection can be made with these settings at all. Makes none.
    pub(super) fn check(&self, check: SettingsCheck) -> Boxed<Checked> {
        let SettingsCheck { id, settings, .. } = check;
        let made = self.make(Some(settings));
        Box::pin(async move { Checked { id, outcome: made.await.map(drop) } })
    }

    /// An attempt failed. After a failure of TLS the next one is made with what the system trusts
    /// by then: an authority that was added to its store must not need a restart of the agent.
    pub(super) fn failed(&mut self, failure: &Failure) {
        self.doubted |= failure.kind == FailureKind::Tls;
    }

    /// What has to be [adopted](Self::adopt) before a connection can be made with these settings;
    /// `None` when they have their connector.
    pub(super) fn prepare(&mut self, settings: Option<SharedSettings>) -> Option<Boxed<Made>> {
        let doubted = std::mem::take(&mut self.doubted);
        if settings == self.settings && !doubted && !self.connector.is_stale() {
            return None;
        }
        let made = self.make(settings.clone());
        Some(Box::pin(async move { Made { settings, connector: made.await } }))
    }

    /// Goes on with the connector that was made, or with the last one for the same settings.
    pub(super) fn adopt(&mut self, made: Made) -> Result<(), Failure> {
        let Made { settings, connector } = made;
        match connector {
            Ok(connector) => {
                self.connector = connector;
                self.settings = settings;
            }
            // Somebody may be writing them just now.
            Err(Failure { message, .. }) if settings == self.settings => {
                tracing::warn!(message, "the new certificates cannot be used yet");
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    fn make(
        &self,
        settings: Option<SharedSettings>,
    ) -> impl Future<Output = Result<Connector, Failure>> + Send + use<> {
        let (base, making) = (Arc::clone(&self.base), Arc::clone(&self.making));
        let kind = match settings {
            Some(_) => FailureKind::UnusableSettings,
            None => FailureKind::Configuration,
        };
        // What is left of the time for a connection is for making one with the last connector.
        let patience = base.times.connect / 3;
        let make = async move {
            let permit = making.acquire_owned().await;
            let make = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                base.connector(settings.as_deref())
            });
            // It neither panics nor is aborted, but for a runtime that shuts down.
            make.await.unwrap_or_else(|error| Err(Failure { kind, message: error.to_string() }))
        };
        async move {
            let made = tokio::time::timeout(patience, make).await.unwrap_or_else(|_| {
                let message = format!("certificates could not be read within {patience:?}");
                Err(Failure { kind, message })
            });
            made.map_err(|failure| Failure { kind, ..failure })
        }
    }

    #[cfg(feature = "ws")]
    pub(super) fn dialer(&self) -> Result<super::websocket::Dialer, Failure> {
        self.connector.websocket.clone().ok_or_else(other_transport)
    }

    #[cfg(feature = "http")]
    pub(super) fn exchanger(&self) -> Result<super::http::Exchanger, Failure> {
        self.connector.http.clone().ok_or_else(other_transport)
    }
}

fn other_transport() -> Failure {
    let message = "the URL is for the other transport".to_owned();
    Failure { kind: FailureKind::Configuration, message }
}
