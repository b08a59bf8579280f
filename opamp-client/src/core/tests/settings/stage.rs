//! A client that takes connection settings, and the steps of a change of servers.

use std::sync::Arc;

use bytes::Bytes;
use opamp_proto::v1;
use opamp_proto::v1::ConnectionSettingsStatuses;

use crate::core::tests::pair::{Http, Pair, WebSocket};
use crate::core::tests::values::acknowledgement;
use crate::core::{
    ClientConfig, ClientState, ConnectionAction, ConnectionKinds, Event, Failure, FailureKind,
    Loss, Parts, Save, Storage, Transport,
};

/// Every way to go from one transport to one.
pub(super) const ROUTES: [(Transport, Transport); 4] =
    [(WebSocket, WebSocket), (WebSocket, Http), (Http, WebSocket), (Http, Http)];

/// Where the agent is started with.
pub(super) fn home(transport: Transport) -> &'static str {
    match transport {
        WebSocket => "wss://home.example.com/v1/opamp",
        Http => "https://home.example.com/v1/opamp",
    }
}

/// Where it is sent.
pub(super) fn away(transport: Transport) -> &'static str {
    match transport {
        WebSocket => "wss://away.example.com/v1/opamp",
        Http => "https://away.example.com/v1/opamp",
    }
}

pub(super) fn to(endpoint: &str) -> v1::OpAmpConnectionSettings {
    v1::OpAmpConnectionSettings { destination_endpoint: endpoint.to_owned(), ..Default::default() }
}

pub(super) fn headers(value: &str) -> v1::Headers {
    let header = v1::Header { key: "Authorization".to_owned(), value: value.to_owned() };
    v1::Headers { headers: vec![header] }
}

pub(super) fn certificate(name: &'static str, key: &'static str) -> v1::TlsCertificate {
    v1::TlsCertificate {
        cert: Bytes::from_static(name.as_bytes()),
        private_key: Bytes::from_static(key.as_bytes()),
        ca_cert: Bytes::new(),
    }
}

pub(super) fn offer(hash: &str, settings: v1::OpAmpConnectionSettings) -> v1::ServerToAgent {
    v1::ServerToAgent {
        connection_settings: Some(v1::ConnectionSettingsOffers {
            hash: Bytes::copy_from_slice(hash.as_bytes()),
            opamp: Some(settings),
            ..Default::default()
        }),
        ..acknowledgement()
    }
}

pub(super) fn status(
    hash: &str,
    status: ConnectionSettingsStatuses,
    why: &str,
) -> Option<v1::ConnectionSettingsStatus> {
    Some(v1::ConnectionSettingsStatus {
        last_connection_settings_hash: Bytes::copy_from_slice(hash.as_bytes()),
        status: status.into(),
        error_message: why.to_owned(),
    })
}

pub(super) fn taking(transport: Transport) -> impl FnOnce(&mut ClientConfig) {
    move |config| {
        config.storage = Storage::Store;
        config.accepted_settings = ConnectionKinds::OPAMP;
        config.endpoint = home(transport).into();
    }
}

pub(super) fn failure(kind: FailureKind) -> Failure {
    Failure { kind, message: format!("{kind:?}") }
}

impl Pair {
    /// An agent that takes settings, at home with nothing to tell or to save.
    pub(super) fn at_home(transport: Transport) -> Self {
        let mut pair = Self::settled_with(transport, taking(transport));
        pair.save();
        pair
    }

    /// The agent is started anew with what was last saved.
    pub(super) fn restarted(saved: &ClientState, transport: Transport) -> Self {
        let saved = ClientState::from_bytes(&saved.to_bytes()).expect("as it was saved");
        Self::new(transport, |config| {
            taking(transport)(config);
            config.state = saved;
        })
    }

    /// An offer arrives: pushed, or as the answer to a poll.
    pub(super) fn receive_offer(&mut self, hash: &str, settings: v1::OpAmpConnectionSettings) {
        if self.core.transport() == Http {
            self.advance(self.core.polling_interval());
            self.expect_heartbeat();
        }
        self.receive(offer(hash, settings));
    }

    /// The driver finds that a connection can be made with the settings.
    pub(super) fn check_settings(&mut self) -> Arc<v1::OpAmpConnectionSettings> {
        let check = self.core.poll_settings_check().expect("something is to be checked");
        assert_eq!(self.core.poll_settings_check(), None, "once");
        self.core.handle_settings_checked(check.id, Ok(()), self.now);
        check.settings
    }

    /// The store takes whatever is to be saved; returns the last of it.
    pub(super) fn save(&mut self) -> Option<ClientState> {
        let mut last = None;
        while let Some(Save { version, state }) = self.core.poll_save() {
            last = Some(state);
            self.core.handle_saved(version, self.now);
        }
        last
    }

    /// The server is left in an orderly way; what it was last told of the settings.
    pub(super) fn leave(&mut self) -> Option<v1::ConnectionSettingsStatus> {
        let mut told = None;
        loop {
            let message = self.expect();
            told = message.connection_settings_status.or(told);
            let leaving = message.agent_disconnect.is_some();
            if self.core.transport() == Http {
                self.acknowledge();
            } else if leaving {
                let close = self.core.poll_connection(self.now);
                assert!(matches!(close, Some(ConnectionAction::Close { code: 1000, .. })));
                self.lose_with(Loss::Closed { code: Some(1000), reason: String::new() });
            }
            if leaving {
                return told;
            }
        }
    }

    /// The first report with these settings goes out: a full one. Over WebSocket the connection is
    /// made.
    pub(super) fn arrive(
        &mut self,
        settings: Option<&v1::OpAmpConnectionSettings>,
    ) -> v1::AgentToServer {
        self.said_goodbye = false;
        if self.core.transport() == WebSocket {
            let (epoch, with) = self.expect_connect_with();
            assert_eq!(with.as_deref(), settings);
            self.core.handle_connected(epoch, self.now);
        }
        let report = self.expect();
        if self.core.transport() == Http {
            assert_eq!(self.requested_with.as_deref(), settings);
        }
        let all = Parts::DESCRIPTION | Parts::HEALTH | Parts::EFFECTIVE_CONFIG;
        assert!(super::super::values::parts(&report).contains(all), "a full report: {report:?}");
        report
    }

    /// The server cannot be reached, or answers with a failure.
    pub(super) fn fail_to_arrive(
        &mut self,
        settings: Option<&v1::OpAmpConnectionSettings>,
        kind: FailureKind,
    ) {
        self.said_goodbye = false;
        if self.core.transport() == WebSocket {
            let (epoch, with) = self.expect_connect_with();
            assert_eq!(with.as_deref(), settings);
            self.core.handle_connect_failed(epoch, failure(kind), None, self.now);
        } else {
            self.expect();
            assert_eq!(self.requested_with.as_deref(), settings);
            let ticket = self.take_ticket();
            self.core.handle_request_failed(ticket, failure(kind), self.now);
        }
    }

    pub(super) fn settings_status(&self) -> Option<v1::ConnectionSettingsStatus> {
        self.core.state().connection_settings_status.clone()
    }

    /// What the application was told of settings.
    pub(super) fn settings_events(&mut self) -> Vec<Event> {
        let ours = |event: &Event| {
            matches!(event, Event::OpampSettingsApplied | Event::OpampSettingsFailed { .. })
        };
        self.events().into_iter().filter(ours).collect()
    }
}
