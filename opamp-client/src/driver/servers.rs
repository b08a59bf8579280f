//! Which server is connected with, and how: the connectors of the settings in use.

use std::sync::Arc;

use opamp_proto::v1;

use super::base::Base;
use super::connector::Connector;
use crate::core::{Failure, FailureKind, Transport};
use crate::error::Error;

pub(super) type SharedSettings = Arc<v1::OpAmpConnectionSettings>;

/// What connects, with whatever settings. It keeps the connector of the settings used last, and with
/// it idle connections and TLS sessions; other settings share nothing with it.
pub(crate) struct Servers {
    base: Base,
    settings: Option<SharedSettings>,
    connector: Connector,
    /// Whether it failed for a reason that another one may not have.
    doubted: bool,
}

impl Servers {
    /// Fails when no connection can be made with what the agent is started with.
    pub(crate) fn new(base: Base) -> Result<Self, Error> {
        let connector = base.try_connector(None)?;
        Ok(Self { base, settings: None, connector, doubted: false })
    }

    /// The transport of what the agent is started with, as long as nothing else is in use.
    pub(crate) fn transport(&self) -> Transport {
        self.connector.transport()
    }

    /// Whether a connection can be made with these settings at all. Makes none.
    pub(super) fn check(&self, settings: &v1::OpAmpConnectionSettings) -> Result<(), Failure> {
        self.base.connector(Some(settings)).map(drop)
    }

    /// An attempt failed. After a failure of TLS the next one is made with what the system trusts by
    /// then: an authority that was added to its store must not need a restart of the agent.
    pub(super) fn failed(&mut self, failure: &Failure) {
        self.doubted |= failure.kind == FailureKind::Tls;
    }

    fn connector(&mut self, settings: Option<SharedSettings>) -> Result<&Connector, Failure> {
        let doubted = std::mem::take(&mut self.doubted);
        if settings != self.settings {
            let connector = self.base.connector(settings.as_deref());
            self.connector = connector.map_err(|failure| match settings {
                Some(_) => Failure { kind: FailureKind::UnusableSettings, ..failure },
                None => failure,
            })?;
            self.settings = settings;
        } else if doubted || self.connector.is_stale() {
            match self.base.connector(settings.as_deref()) {
                Ok(renewed) => self.connector = renewed,
                // Somebody may be writing them just now.
                Err(Failure { message, .. }) => {
                    tracing::warn!(message, "the new certificates cannot be used yet");
                }
            }
        }
        Ok(&self.connector)
    }

    #[cfg(feature = "ws")]
    pub(super) fn dialer(
        &mut self,
        settings: Option<SharedSettings>,
    ) -> Result<super::websocket::Dialer, Failure> {
        self.connector(settings)?.websocket.clone().ok_or_else(other_transport)
    }

    #[cfg(feature = "http")]
    pub(super) fn exchanger(
        &mut self,
        settings: Option<SharedSettings>,
    ) -> Result<super::http::Exchanger, Failure> {
        self.connector(settings)?.http.clone().ok_or_else(other_transport)
    }
}

fn other_transport() -> Failure {
    let message = "the URL is for the other transport".to_owned();
    Failure { kind: FailureKind::Configuration, message }
}
