//! An agent that takes settings, its disk, and the servers it is sent to and fro between, in
//! virtual time. Whatever the driver does is an operation, before which the process may end or the
//! disk fail.

use std::time::{Duration, Instant};

use bytes::Bytes;
use opamp_proto::{InstanceUid, Message, ServerCapabilities, v1};

use super::stage::taking;
use crate::core::tests::pair::{Http, WebSocket, config, origin};
use crate::core::tests::values::seconds;
use crate::core::{
    CertificateRequest, ClientConfig, ClientCore, ClientState, ConnectionAction, Epoch, Failure,
    FailureKind, Loss, Received, Response, Transmit, Transport,
};

/// How a server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Good,
    Unauthorized,
    Unreachable,
    Silent,
    /// It takes the connection and what it is told, and its answers get lost.
    Mute,
    /// It answers with an error.
    Refuses,
    Overloaded,
}

pub(super) const WAYS: [Way; 7] = [
    Way::Good,
    Way::Unauthorized,
    Way::Unreachable,
    Way::Silent,
    Way::Mute,
    Way::Refuses,
    Way::Overloaded,
];

/// What goes wrong, and when: operations are counted from 0.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    /// The process ends before these operations.
    pub(super) crashes: [Option<usize>; 2],
    /// The disk fails from the first of these operations to before the second.
    pub(super) disk: Option<(usize, usize)>,
}

/// The places an agent can be sent to. The first is where it is started with.
pub(super) const PLACES: usize = 3;

pub(super) struct World {
    transports: [Transport; PLACES],
    pub(super) core: ClientCore,
    pub(super) now: Instant,
    pub(super) ways: [Way; PLACES],
    /// The credentials of the places before are void once this one has seen the agent (CONN-15).
    pub(super) revoking: bool,
    void: [bool; PLACES],
    /// The newest offer: its hash, and what it is.
    offer: Option<(Bytes, v1::OpAmpConnectionSettings)>,
    offered: u32,
    /// What the servers were last told.
    pub(super) told: Option<v1::ConnectionSettingsStatus>,
    disk: Option<Vec<u8>>,
    pub(super) disk_full: bool,
    first_uid: Option<InstanceUid>,
    faults: Faults,
    pub(super) operations: usize,
    socket: Option<(Epoch, usize)>,
    /// Where the last good reply was from.
    pub(super) at: Option<usize>,
    certificates: bool,
    /// A server that has refused or ignored reports asks for everything when it is well again.
    asks_for_all: bool,
}

pub(super) fn url(transport: Transport, place: usize) -> String {
    let scheme = if transport == WebSocket { "wss" } else { "https" };
    format!("{scheme}://place-{place}.example.com/v1/opamp")
}

fn config_at(transport: Transport, certificates: bool) -> ClientConfig {
    let mut config = config(transport);
    taking(transport)(&mut config);
    config.endpoint = url(transport, 0).into();
    config.requests_certificate = certificates;
    config
}

impl World {
    pub(super) fn new(transports: [Transport; PLACES], certificates: bool) -> Self {
        let now = origin();
        let config = config_at(transports[0], certificates);
        Self {
            transports,
            core: ClientCore::new(config, now).expect("the configuration is valid"),
            now,
            ways: [Way::Good; PLACES],
            revoking: false,
            void: [false; PLACES],
            offer: None,
            offered: 0,
            told: None,
            disk: None,
            disk_full: false,
            first_uid: None,
            faults: Faults::default(),
            operations: 0,
            socket: None,
            at: None,
            certificates,
            asks_for_all: false,
        }
    }

    pub(super) fn with(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// The servers want the agent to be at a place.
    pub(super) fn offer(&mut self, place: usize) {
        let endpoint = url(self.transports[place], place);
        self.offer_settings(v1::OpAmpConnectionSettings {
            destination_endpoint: endpoint,
            ..Default::default()
        });
        // New credentials for it, in effect.
        self.void[place] = false;
    }

    pub(super) fn offer_settings(&mut self, settings: v1::OpAmpConnectionSettings) {
        self.offered += 1;
        self.offer = Some((format!("offer {}", self.offered).into(), settings));
    }

    fn place_of(&self, settings: Option<&v1::OpAmpConnectionSettings>) -> usize {
        let endpoint = settings.map_or("", |settings| settings.destination_endpoint.as_str());
        if endpoint.is_empty() {
            return 0;
        }
        let place = (0..PLACES).find(|place| url(self.transports[*place], *place) == endpoint);
        place.expect("only what was offered is connected with")
    }

    /// Counts an operation; false when the process ended before it.
    fn operate(&mut self) -> bool {
        let operation = self.operations;
        self.operations += 1;
        if self.faults.crashes.contains(&Some(operation)) {
            self.crash();
            return false;
        }
        true
    }

    fn disk_fails(&self) -> bool {
        let in_time = |(from, to)| (from..to).contains(&self.operations);
        self.disk_full || self.faults.disk.is_some_and(in_time)
    }

    /// The process ends, and the next one starts a second later.
    pub(super) fn crash(&mut self) {
        let mut config = config_at(self.transports[0], self.certificates);
        if let Some(saved) = &self.disk {
            config.state = ClientState::from_bytes(saved).expect("as it was saved");
        }
        self.now += seconds(1);
        self.socket = None;
        self.core = ClientCore::new(config, self.now).expect("the configuration is valid");
    }

    /// The connection breaks.
    pub(super) fn cut(&mut self) {
        if let Some((epoch, _)) = self.socket.take() {
            let loss = Loss::Broken("reset".to_owned());
            self.core.handle_connection_lost(epoch, loss, self.now);
        }
    }

    /// A server need not wait for a message to make its offer, and an agent may have no heartbeats.
    fn push(&mut self) {
        let Some((epoch, place)) = self.socket else { return };
        if !matches!(self.ways[place], Way::Good | Way::Unauthorized | Way::Overloaded) {
            return;
        }
        let mut message = self.acknowledgement(self.core.instance_uid().to_bytes());
        self.add_offer(&mut message);
        if std::mem::take(&mut self.asks_for_all) {
            message.flags = v1::ServerToAgentFlags::ReportFullState as u64;
        }
        if message.connection_settings.is_some() || message.flags != 0 {
            let bytes = opamp_proto::frame::encode(&message);
            self.core.handle_received(epoch, Received::Binary(bytes), self.now);
        }
    }

    fn acknowledgement(&self, instance_uid: Bytes) -> v1::ServerToAgent {
        v1::ServerToAgent {
            instance_uid,
            capabilities: ServerCapabilities::all().to_wire(),
            ..Default::default()
        }
    }

    fn add_offer(&self, message: &mut v1::ServerToAgent) {
        let known = self.told.as_ref().map(|told| &told.last_connection_settings_hash);
        if let Some((hash, settings)) = &self.offer
            && known != Some(hash)
        {
            message.connection_settings = Some(v1::ConnectionSettingsOffers {
                hash: hash.clone(),
                opamp: Some(settings.clone()),
                ..Default::default()
            });
        }
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.push();
        while self.now < end {
            self.drive();
            self.now = match self.core.poll_timeout() {
                Some(due) if due < end => due.max(self.now),
                _ => end,
            };
            self.core.handle_timeout(self.now);
        }
        self.drive();
    }

    fn drive(&mut self) {
        for _ in 0..100 {
            if !self.step() {
                while self.core.poll_event().is_some() {}
                return;
            }
        }
        panic!("the agent and its servers are at it all the time");
    }

    /// One operation, if there is one.
    fn step(&mut self) -> bool {
        if let Some(check) = self.core.poll_settings_check() {
            if self.operate() {
                self.core.handle_settings_checked(check.id, Ok(()), self.now);
            }
        } else if let Some(order) = self.core.poll_certificate_request() {
            if self.operate() {
                let made = CertificateRequest::new(format!("key {}", self.operations), "csr");
                self.core.handle_certificate_made(order.id, Ok(made), self.now);
            }
        } else if let Some(save) = self.core.poll_save() {
            if !self.operate() {
                return true;
            }
            if self.disk_fails() {
                self.core.handle_save_failed(save.version, "disk full", self.now);
                return true;
            }
            self.disk = Some(save.state.to_bytes());
            self.first_uid.get_or_insert(save.state.instance_uid);
            // The process may end when it is written, too.
            if self.operate() {
                self.core.handle_saved(save.version, self.now);
            }
        } else if let Some(action) = self.core.poll_connection(self.now) {
            if self.operate() {
                self.connect(action);
            }
        } else if let Some(transmit) = self.core.poll_transmit(self.now) {
            if self.operate() {
                self.transmit(transmit);
            }
        } else {
            return false;
        }
        true
    }

    fn connect(&mut self, action: ConnectionAction) {
        match action {
            ConnectionAction::Connect { epoch, settings, .. } => {
                assert!(self.socket.is_none(), "one connection at a time");
                let place = self.place_of(settings.as_deref());
                let kind = match self.ways[place] {
                    _ if self.void[place] => FailureKind::Unauthorized,
                    Way::Unauthorized => FailureKind::Unauthorized,
                    Way::Unreachable => FailureKind::Unreachable,
                    Way::Overloaded => FailureKind::Throttled,
                    _ => {
                        self.socket = Some((epoch, place));
                        return self.core.handle_connected(epoch, self.now);
                    }
                };
                let failure = Failure { kind, message: format!("{kind:?}") };
                self.core.handle_connect_failed(epoch, failure, None, self.now);
            }
            ConnectionAction::Close { epoch, code, .. } => {
                self.socket = None;
                let loss = Loss::Closed { code: Some(code), reason: String::new() };
                self.core.handle_connection_lost(epoch, loss, self.now);
            }
            ConnectionAction::Abort { .. } => self.socket = None,
        }
    }

    fn transmit(&mut self, transmit: Transmit) {
        match transmit {
            Transmit::Message { epoch, message } => {
                let (open, place) = self.socket.expect("a message needs a connection");
                assert_eq!(open, epoch);
                let message = v1::AgentToServer::decode(message.slice(1..)).expect("well formed");
                if let Some(answer) = self.serve(place, &message) {
                    let bytes = opamp_proto::frame::encode(&answer);
                    self.core.handle_received(epoch, Received::Binary(bytes), self.now);
                }
            }
            Transmit::Ping { epoch } => {
                self.core.handle_received(epoch, Received::Control, self.now);
            }
            Transmit::Request { ticket, settings, body, .. } => {
                let place = self.place_of(settings.as_deref());
                let message = v1::AgentToServer::decode(body).expect("well formed");
                let status = match self.ways[place] {
                    _ if self.void[place] => 401,
                    Way::Unauthorized => 401,
                    Way::Overloaded => 503,
                    Way::Unreachable => 0,
                    _ => 200,
                };
                let answer = (status == 200).then(|| self.serve(place, &message)).flatten();
                match (status, answer) {
                    (200, Some(answer)) => {
                        let body = answer.encode_to_vec().into();
                        let response = Response { status: 200, retry_after: None, body };
                        self.core.handle_response(ticket, response, self.now);
                    }
                    // The driver gives a request up in the end.
                    (0 | 200, _) => {
                        let kind = FailureKind::Unreachable;
                        let failure = Failure { kind, message: format!("{kind:?}") };
                        self.core.handle_request_failed(ticket, failure, self.now);
                    }
                    _ => {
                        let response = Response { status, retry_after: None, body: Bytes::new() };
                        self.core.handle_response(ticket, response, self.now);
                    }
                }
            }
        }
    }

    /// What a server that was reached answers, if that arrives.
    fn serve(&mut self, place: usize, message: &v1::AgentToServer) -> Option<v1::ServerToAgent> {
        let way = self.ways[place];
        if way == Way::Silent {
            self.asks_for_all = true;
            return None;
        }
        let mut answer = self.acknowledgement(message.instance_uid.clone());
        if way == Way::Refuses {
            self.asks_for_all = true;
            answer.error_response = Some(v1::ServerErrorResponse::default());
            return Some(answer);
        }
        if self.revoking {
            // The agent is here, with the newest credentials: the others are of no use any more.
            for (other, void) in self.void.iter_mut().enumerate() {
                *void |= other < place;
            }
        }
        if message.connection_settings_status.is_some() {
            self.told.clone_from(&message.connection_settings_status);
        }
        if way == Way::Mute {
            return None;
        }
        if message.agent_disconnect.is_none() {
            self.at = Some(place);
        }
        if let Some(request) = &message.connection_settings_request {
            assert!(self.disk.is_some(), "the key is saved before: {request:?}");
            let state = ClientState::from_bytes(self.disk.as_deref().unwrap_or_default());
            assert!(state.is_ok_and(|saved| saved.certificate_request.is_some()));
        }
        if std::mem::take(&mut self.asks_for_all) {
            answer.flags = v1::ServerToAgentFlags::ReportFullState as u64;
        }
        self.add_offer(&mut answer);
        Some(answer)
    }

    /// What has to be true when the servers have been well for long enough.
    pub(super) fn assert_well(&self) {
        assert!(self.core.is_connected(), "the agent is connected");
        let uid = self.first_uid.expect("saved long ago");
        assert_eq!(self.core.instance_uid(), uid, "the agent is who it was");
        assert_eq!(self.core.state().settings_candidate, None, "nothing is on trial");
        if let Some((hash, _)) = &self.offer {
            let told = self.told.as_ref().expect("the servers know of the offer");
            assert_eq!(told.last_connection_settings_hash, hash);
            let outcomes = [
                v1::ConnectionSettingsStatuses::Applied as i32,
                v1::ConnectionSettingsStatuses::Failed as i32,
            ];
            assert!(outcomes.contains(&told.status), "every offer has an outcome: {told:?}");
        }
        let saved = self.disk.as_deref().map(ClientState::from_bytes);
        assert_eq!(saved, Some(Ok(self.core.state().clone())), "and everything is saved");
    }

    pub(super) fn is_applied(&self) -> bool {
        let applied = v1::ConnectionSettingsStatuses::Applied as i32;
        self.told.as_ref().is_some_and(|told| told.status == applied)
    }

    pub(super) fn transports() -> [[Transport; PLACES]; 4] {
        [
            [WebSocket, WebSocket, WebSocket],
            [WebSocket, Http, WebSocket],
            [Http, WebSocket, Http],
            [Http, Http, Http],
        ]
    }
}
