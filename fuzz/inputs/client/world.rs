//! The client core, and what a driver and an application do around it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use opamp_client::core::packages::{FetchRequest, PackageOffer, PackageRemoval};
use opamp_client::core::{
    ClientCore, ClientState, ConnectionAction, ConnectionSettingsOffer, CustomMessageId, Epoch,
    Event, Failure, FailureKind, Loss, Received, RemoteConfigOffer, Response, Storage, Ticket,
    Transmit,
};
use opamp_proto::{InstanceUid, Message as _, ServerCapabilities, v1};

use super::saying::ENDPOINTS;
use super::setup::{Job, Setup};

mod jobs;

use self::jobs::Jobs;

/// Offers that the application has not answered, also old ones: late answers do no harm.
const MAX_OFFERS: usize = 4;

/// What a core may want done at one instant.
const MAX_STEPS: usize = 512;

/// What waits for an application that takes no events: the queue, offers, and custom messages.
const MAX_EVENTS: usize = 192;

pub(super) struct World {
    pub(super) setup: Setup,
    pub(super) core: ClientCore,
    pub(super) now: Instant,
    /// Which servers can be reached, by the bits of a mask, and what comes of the others.
    pub(super) network: (u8, u8),
    /// The number of the last message that was sent.
    last: u64,
    max_send: usize,
    dialling: Option<Epoch>,
    socket: Option<Epoch>,
    /// Messages on the socket that the server has not answered.
    unanswered: usize,
    pinged: bool,
    request: Option<Ticket>,
    jobs: Jobs,
    fetches: Vec<FetchRequest>,
    disk: Option<Vec<u8>>,
    packages_disk: Option<Vec<u8>>,
    configs: Vec<RemoteConfigOffer>,
    settings: Vec<ConnectionSettingsOffer>,
    packages: Vec<HandedOver>,
    told_to_have_stopped: bool,
    /// Custom messages without an outcome.
    sent: BTreeSet<CustomMessageId>,
}

#[derive(Clone)]
enum HandedOver {
    Package(PackageOffer),
    Removal(PackageRemoval),
}

impl World {
    pub(super) fn new(setup: Setup) -> Self {
        Self::start(setup, new_state(), super::origin())
    }

    fn start(setup: Setup, state: ClientState, now: Instant) -> Self {
        let config = setup.config(state);
        let max_send = config.limits.max_send();
        let core = ClientCore::new(config, now).expect("the configuration works");
        Self {
            last: core.sequence_num(),
            setup,
            core,
            now,
            network: (u8::MAX, 0),
            max_send,
            dialling: None,
            socket: None,
            unanswered: 0,
            pinged: false,
            request: None,
            jobs: Jobs::default(),
            fetches: Vec::new(),
            disk: None,
            packages_disk: None,
            configs: Vec::new(),
            settings: Vec::new(),
            packages: Vec::new(),
            told_to_have_stopped: false,
            sent: BTreeSet::new(),
        }
    }

    /// The process ends; the next one has what is on the disks.
    pub(super) fn restart(&mut self, setup: Option<Setup>) {
        let setup = setup.unwrap_or_else(|| self.setup.clone());
        let state = self.disk.as_deref().map_or_else(new_state, |saved| {
            ClientState::from_bytes(saved).expect("it is as it was saved")
        });
        let next = Self::start(setup, state, self.now);
        let before = std::mem::replace(self, next);
        self.network = before.network;
        self.disk = before.disk;
        self.packages_disk = before.packages_disk;
    }

    /// Does all there is to do at this instant.
    pub(super) fn drive(&mut self) {
        let mut steps = 0;
        loop {
            self.core.handle_timeout(self.now);
            while self.step() {
                steps += 1;
                assert!(steps < MAX_STEPS, "settling ends");
            }
            if !self.setup.is_slow(Job::Events) {
                self.take_events();
            }
            if self.core.poll_timeout().is_none_or(|due| due > self.now) {
                return;
            }
            steps += 1;
            assert!(steps < MAX_STEPS, "what is due is done");
        }
    }

    /// The next thing that the core wants done, if there is one.
    fn step(&mut self) -> bool {
        if let Some((id, _)) = self.core.poll_custom_outcome() {
            assert!(self.sent.remove(&id), "a custom message has one outcome");
        } else if let Some(check) = self.core.poll_settings_check() {
            self.jobs.check = Some(check);
            self.begin(Job::Check);
        } else if let Some(order) = self.core.poll_certificate_request() {
            self.jobs.order = Some(order);
            self.begin(Job::Certificate);
        } else if let Some(save) = self.core.poll_save() {
            assert!(self.jobs.save.is_none(), "one state at a time is saved");
            self.jobs.save = Some(save);
            self.begin(Job::Save);
        } else if let Some(action) = self.core.poll_package_action(self.now) {
            self.package_action(action);
        } else if let Some(action) = self.core.poll_connection(self.now) {
            self.connection_action(action);
        } else if let Some(transmit) = self.core.poll_transmit(self.now) {
            self.transmit(transmit);
        } else {
            return false;
        }
        true
    }

    fn connection_action(&mut self, action: ConnectionAction) {
        match action {
            ConnectionAction::Connect { epoch, settings, .. } => {
                assert!(!self.core.is_stopped());
                assert!(self.socket.is_none() && self.dialling.is_none(), "one connection");
                self.dialling = Some(epoch);
                match self.failure(settings.as_deref()) {
                    None => self.connected(),
                    Some(None) => {}
                    Some(Some(failure)) => {
                        self.dialling = None;
                        self.core.handle_connect_failed(epoch, failure, None, self.now);
                    }
                }
            }
            ConnectionAction::Close { epoch, .. } => assert_eq!(self.socket, Some(epoch)),
            ConnectionAction::Abort { .. } => {
                self.dialling = None;
                self.socket = None;
                self.request = None;
            }
        }
    }

    /// What comes of contacting a server: a failure, nothing at all, or what it should.
    fn failure(&self, settings: Option<&v1::OpAmpConnectionSettings>) -> Option<Option<Failure>> {
        let endpoint = settings.map_or("", |settings| &settings.destination_endpoint);
        let place = ENDPOINTS.iter().position(|known| *known == endpoint).unwrap_or(0);
        let (reachable, how) = self.network;
        if reachable >> place & 1 == 1 {
            return None;
        }
        Some((how != 0).then(|| failure(how)))
    }

    fn transmit(&mut self, transmit: Transmit) {
        let (body, len) = match transmit {
            Transmit::Message { epoch, message } => {
                assert_eq!(self.socket, Some(epoch), "there is a connection");
                self.unanswered += 1;
                (message.slice(1..), message.len())
            }
            Transmit::Request { ticket, body, instance_uid, settings, .. } => {
                assert!(self.request.is_none(), "one request at a time");
                assert_eq!(instance_uid, self.core.instance_uid());
                self.request = Some(ticket);
                self.sent_message(&body);
                if let Some(Some(_)) = self.failure(settings.as_deref()) {
                    self.fail_request(self.network.1, self.network.1 > 127);
                }
                return;
            }
            Transmit::Ping { epoch } => {
                assert_eq!(self.socket, Some(epoch), "there is a connection");
                self.pinged = true;
                return;
            }
        };
        assert!(len <= self.max_send);
        self.sent_message(&body);
    }

    fn sent_message(&mut self, body: &Bytes) {
        assert!(!self.core.is_stopped());
        assert!(body.len() <= self.max_send, "no message is larger than it may be");
        let message = v1::AgentToServer::decode(body.clone()).expect("it is an AgentToServer");
        assert_eq!(message.sequence_num, self.last + 1);
        self.last = message.sequence_num;
        assert_eq!(message.instance_uid, self.core.instance_uid().to_bytes());
        assert_eq!(message.capabilities, self.core.capabilities().to_wire());
        if message.connection_settings_request.is_some() {
            let takes = ServerCapabilities::ACCEPTS_CONNECTION_SETTINGS_REQUEST;
            assert!(self.core.server_capabilities().is_some_and(|server| server.contains(takes)));
        }
        if let Some(custom) = message.custom_message {
            let server = self.core.server_custom_capabilities();
            assert!(server.is_some_and(|server| server.contains(&custom.capability)));
        }
    }

    pub(super) fn connected(&mut self) {
        if let Some(epoch) = self.dialling.take() {
            self.socket = Some(epoch);
            self.unanswered = 0;
            self.pinged = false;
            self.core.handle_connected(epoch, self.now);
        }
    }

    /// With a Close frame, or without one.
    pub(super) fn lose(&mut self, close: Option<Option<u16>>) {
        if let Some(epoch) = self.socket.take() {
            let reason = "fuzzed".to_owned();
            let loss = match close {
                Some(code) => Loss::Closed { code, reason },
                None => Loss::Broken(reason),
            };
            self.core.handle_connection_lost(epoch, loss, self.now);
        }
    }

    pub(super) fn fail(&mut self, status: u16, retry_after: Option<Duration>) {
        if let Some(ticket) = self.request.take() {
            let response = Response { status, retry_after, body: Bytes::new() };
            self.core.handle_response(ticket, response, self.now);
        } else if let Some(epoch) = self.dialling.take() {
            let kind = if status == 503 { FailureKind::Throttled } else { kind(status as u8) };
            let failure = Failure { kind, message: String::new() };
            self.core.handle_connect_failed(epoch, failure, retry_after, self.now);
        }
    }

    pub(super) fn fail_request(&mut self, how: u8, unsent: bool) {
        let Some(ticket) = self.request.take() else { return };
        if unsent {
            self.core.handle_request_unsent(ticket, failure(how), self.now);
            self.last -= 1;
            assert_eq!(self.core.sequence_num(), self.last, "its number is not used up");
        } else {
            self.core.handle_request_failed(ticket, failure(how), self.now);
        }
    }

    pub(super) fn say(&mut self, message: &v1::ServerToAgent) {
        match self.request.take() {
            Some(ticket) => self.respond(ticket, message.encode_to_vec().into()),
            None => self.receive(super::framed(message)),
        }
    }

    pub(super) fn receive_bytes(&mut self, bytes: Bytes) {
        match self.request.take() {
            Some(ticket) => self.respond(ticket, bytes),
            None => self.receive(Received::Binary(bytes)),
        }
    }

    fn respond(&mut self, ticket: Ticket, body: Bytes) {
        let response = Response { status: 200, retry_after: None, body };
        self.core.handle_response(ticket, response, self.now);
    }

    pub(super) fn receive(&mut self, received: Received) {
        if let Some(epoch) = self.socket {
            self.unanswered = self.unanswered.saturating_sub(1);
            self.pinged = false;
            self.core.handle_received(epoch, received, self.now);
        }
    }

    pub(super) fn is_answer_owed(&self) -> bool {
        let owed = self.unanswered > 0 || self.pinged;
        self.request.is_some() || self.socket.is_some() && owed
    }

    pub(super) fn send(&mut self, message: v1::CustomMessage) {
        if let Ok(id) = self.core.send_custom_message(message, self.now) {
            assert!(self.sent.insert(id));
            assert!(self.sent.len() <= 4, "no more wait than may");
        }
    }

    pub(super) fn take_events(&mut self) {
        let mut events = 0;
        loop {
            let more = self.core.has_events();
            let event = self.core.poll_event();
            assert_eq!(more, event.is_some());
            let Some(event) = event else { return };
            events += 1;
            assert!(events <= MAX_EVENTS, "events are bounded");
            let of_a_store =
                matches!(event, Event::SaveFailed { .. } | Event::PackageStoreFailed { .. });
            assert!(!self.told_to_have_stopped || of_a_store, "nothing follows: {event:?}");
            match event {
                Event::RemoteConfig(offer) => keep(&mut self.configs, offer),
                Event::ConnectionSettings(offer) => keep(&mut self.settings, offer),
                Event::Package(offer) => keep(&mut self.packages, HandedOver::Package(offer)),
                Event::PackageRemoval(removal) => {
                    keep(&mut self.packages, HandedOver::Removal(removal));
                }
                Event::StateChanged if self.setup.storage() == Storage::Application => {
                    self.disk = Some(saved(self.core.state()));
                }
                Event::Stopped => self.told_to_have_stopped = true,
                _ => {}
            }
        }
    }

    pub(super) fn answer(&mut self, which: u8, how: u8) {
        let Some(offer) = choose(&mut self.configs, which, how >= 64) else { return };
        // A late answer is refused, and does no harm.
        let _ = self.core.resolve(match how % 4 {
            0 => offer.applying(),
            1 => offer.applied(),
            2 => offer.applied_with(super::setup::effective(how)),
            _ => offer.failed("fuzzed"),
        });
    }

    pub(super) fn answer_settings(&mut self, which: u8, how: u8) {
        let Some(offer) = choose(&mut self.settings, which, how >= 64) else { return };
        let some: Vec<_> = offer.changed().iter().take(1).cloned().collect();
        assert!(!some.is_empty(), "something is to change");
        let _ = self.core.resolve_connection_settings(match how % 3 {
            0 => offer.applied(),
            1 => offer.applied_only(some, "fuzzed"),
            _ => offer.failed("fuzzed"),
        });
    }

    pub(super) fn answer_package(&mut self, which: u8, how: u8) {
        let Some(handed) = choose(&mut self.packages, which, how >= 64) else { return };
        let resolution = match (handed, how % 4) {
            (HandedOver::Package(offer), 0) => offer.installed(),
            (HandedOver::Package(offer), 1) => offer.pending(),
            (HandedOver::Package(offer), 2) => offer.installing(),
            (HandedOver::Package(offer), _) => offer.failed("fuzzed"),
            (HandedOver::Removal(removal), 0..=2) => removal.removed(),
            (HandedOver::Removal(removal), _) => removal.failed("fuzzed"),
        };
        let _ = self.core.resolve_package(resolution, self.now);
    }
}

fn new_state() -> ClientState {
    ClientState::new(InstanceUid::from_parts(1, [1; 10]))
}

/// What is saved, which is read again as it was.
fn saved(state: &ClientState) -> Vec<u8> {
    let bytes = state.to_bytes();
    assert_eq!(ClientState::from_bytes(&bytes).as_ref(), Ok(state));
    bytes
}

fn keep<T>(offers: &mut Vec<T>, offer: T) {
    if offers.len() == MAX_OFFERS {
        offers.remove(0);
    }
    offers.push(offer);
}

/// One of what waits, counted from the newest, taken out unless it stays.
fn choose<T: Clone>(waiting: &mut Vec<T>, which: u8, stays: bool) -> Option<T> {
    let count = waiting.len().checked_sub(1)? + 1;
    let at = count - 1 - usize::from(which) % count;
    if stays { waiting.get(at).cloned() } else { Some(waiting.remove(at)) }
}

fn failure(how: u8) -> Failure {
    Failure { kind: kind(how), message: "fuzzed".to_owned() }
}

fn kind(how: u8) -> FailureKind {
    match how % 9 {
        0 => FailureKind::Unreachable,
        1 => FailureKind::Tls,
        2 => FailureKind::Unauthorized,
        3 => FailureKind::NotFound,
        4 => FailureKind::Throttled,
        5 => FailureKind::UnexpectedStatus(500 + u16::from(how)),
        6 => FailureKind::BadResponse,
        7 => FailureKind::UnusableSettings,
        _ => FailureKind::Configuration,
    }
}
