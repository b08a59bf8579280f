//! Conversations of several agents with the registry, which is saved, ends, and comes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use opamp_proto::{InstanceUid, Message as _, WireUid, v1};
use opamp_server::fleet::{Batch, Fleet, Now, Route, SaveWaker};
use opamp_server::{
    CertificateOffer, CertificateRequestId, ConnectionSettings, CustomCapabilities, Packages,
    RemoteConfig, ServerConfig, Transport,
};

#[derive(Debug, Arbitrary)]
enum Operation {
    Report { route: u8, uid: u8, sequence_num: u64, capabilities: u64, flags: u8, parts: Vec<u8> },
    Bytes { route: u8, bytes: Vec<u8> },
    Reopen { route: u8, http: bool },
    Offer { body: u8 },
    OfferOne { uid: u8, body: u8 },
    Restart { uid: u8 },
    Rename { uid: u8, to: u8 },
    FullState { uid: u8 },
    Wait { seconds: u16 },
    Packages { uid: Option<u8>, version: Option<u8> },
    Settings { uid: Option<u8>, content: Option<u8> },
    Certificate { uid: u8, content: u8 },
    RefuseCertificate { uid: u8, csr: Vec<u8> },
    CustomMessage { uid: u8, size: u8 },
    Disconnect { uid: u8 },
    Save { lagging: bool },
    RestartServer { saved: bool },
}

const ROUTES: usize = 3;

const MAX_AGENTS: usize = 5;

fn uid(number: u8) -> [u8; 16] {
    [number % 4; 16]
}

fn agent(number: u8) -> WireUid {
    WireUid::from(InstanceUid::from_bytes(uid(number)))
}

fn config(body: u8) -> RemoteConfig {
    let file = v1::AgentConfigFile { body: vec![body].into(), ..Default::default() };
    RemoteConfig::new(v1::AgentConfigMap { config_map: [(String::new(), file)].into() })
}

fn packages(version: u8) -> Packages {
    let file = v1::DownloadableFile {
        download_url: "https://files.test/package".to_owned(),
        content_hash: vec![version; 32].into(),
        ..Default::default()
    };
    let package = v1::PackageAvailable {
        version: version.to_string(),
        file: Some(file),
        ..Default::default()
    };
    let packages = [("package".to_owned(), package)].into();
    Packages::new(v1::PackagesAvailable { packages, ..Default::default() }).expect("it is whole")
}

fn settings(content: u8) -> ConnectionSettings {
    let own_logs = v1::TelemetryConnectionSettings {
        destination_endpoint: format!("https://logs.test/{content}"),
        ..Default::default()
    };
    let settings = v1::ConnectionSettingsOffers {
        own_logs: Some(own_logs),
        opamp: content.is_multiple_of(2).then(|| opamp_settings(content)),
        ..Default::default()
    };
    ConnectionSettings::new(settings).expect("they are whole")
}

fn opamp_settings(content: u8) -> v1::OpAmpConnectionSettings {
    v1::OpAmpConnectionSettings {
        destination_endpoint: "wss://opamp.test/v1/opamp".to_owned(),
        heartbeat_interval_seconds: 1 + u64::from(content),
        ..Default::default()
    }
}

fn certificate(content: u8) -> CertificateOffer {
    let certificate = v1::TlsCertificate { cert: vec![content; 8].into(), ..Default::default() };
    let settings =
        v1::OpAmpConnectionSettings { certificate: Some(certificate), ..opamp_settings(content) };
    CertificateOffer::new(settings).expect("it is whole")
}

fn custom_message(size: u8) -> v1::CustomMessage {
    v1::CustomMessage {
        capability: "org.example.chat".to_owned(),
        r#type: "question".to_owned(),
        data: vec![0; size.into()].into(),
    }
}

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    let input = Unstructured::new(bytes);
    if let Ok(operations) = <Vec<Operation>>::arbitrary_take_rest(input) {
        let mut server = Server::new();
        for operation in operations {
            server.operate(operation);
            server.push();
            assert!(server.fleet.len() <= MAX_AGENTS);
        }
    }
}

struct Nobody;

impl SaveWaker for Nobody {
    fn wake(&self) {}
}

struct Server {
    fleet: Fleet<()>,
    routes: Vec<(Transport, Route<()>)>,
    now: Now,
    /// What is on the disk.
    entries: BTreeMap<Vec<u8>, Bytes>,
}

impl Server {
    #[allow(clippy::disallowed_methods, reason = "any instant will do as an origin")]
    fn new() -> Self {
        let fleet = fleet();
        let routes = [Transport::WebSocket; ROUTES].map(|it| (it, open(&fleet, it))).into();
        let now = Now { instant: Instant::now(), system: SystemTime::UNIX_EPOCH };
        Self { fleet, routes, now, entries: BTreeMap::new() }
    }

    fn operate(&mut self, operation: Operation) {
        let Self { fleet, now, .. } = self;
        match operation {
            Operation::Report { route, uid: number, sequence_num, capabilities, flags, parts } => {
                let mut body = v1::AgentToServer {
                    instance_uid: uid(number).to_vec().into(),
                    sequence_num,
                    capabilities,
                    flags: u64::from(flags),
                    ..Default::default()
                }
                .encode_to_vec();
                body.extend_from_slice(&parts);
                self.receive(route, &body);
            }
            Operation::Bytes { route, bytes } => self.receive(route, &bytes),
            Operation::Reopen { route, http } => {
                let transport = if http { Transport::Http } else { Transport::WebSocket };
                let place = &mut self.routes[usize::from(route) % ROUTES];
                let (_, old) = std::mem::replace(place, (transport, open(fleet, transport)));
                let _ = fleet.close_route(old);
            }
            Operation::Offer { body } => {
                fleet.set_default_remote_config(config(body)).expect("small")
            }
            // From here on an agent may not be known, or not accept what it is to get.
            Operation::OfferOne { uid: number, body } => {
                let _ = fleet.set_remote_config(agent(number), config(body));
            }
            Operation::Restart { uid: number } => {
                let _ = fleet.restart(agent(number), now.instant);
            }
            Operation::Rename { uid: number, to } => {
                let old = agent(number);
                let _ = fleet.rename(old, InstanceUid::from_bytes(uid(to)), now.instant);
            }
            Operation::FullState { uid: number } => {
                let _ = fleet.request_full_state(agent(number));
            }
            Operation::Wait { seconds } => {
                let passed = Duration::from_secs(seconds.into());
                *now = Now { instant: now.instant + passed, system: now.system + passed };
                let _ = fleet.sweep(*now);
            }
            Operation::Packages { uid, version } => {
                let _ = match (uid.map(agent), version.map(packages)) {
                    (Some(agent), Some(packages)) => fleet.set_packages(agent, packages),
                    (Some(agent), None) => fleet.clear_packages(agent),
                    (None, Some(packages)) => fleet.set_default_packages(packages),
                    (None, None) => {
                        fleet.clear_default_packages();
                        Ok(())
                    }
                };
            }
            Operation::Settings { uid, content } => {
                let _ = match (uid.map(agent), content.map(settings)) {
                    (Some(agent), Some(settings)) => {
                        fleet.set_connection_settings(agent, settings).map(drop)
                    }
                    (Some(agent), None) => fleet.clear_connection_settings(agent),
                    (None, Some(settings)) => fleet.set_default_connection_settings(settings),
                    (None, None) => {
                        fleet.clear_default_connection_settings();
                        Ok(())
                    }
                };
            }
            Operation::Certificate { uid, content } => {
                let agent = agent(uid);
                let offer = certificate(content);
                let _ = match fleet.pending_certificate(agent) {
                    Some(asked) => fleet.issue_certificate(agent, asked.id, offer, now.instant),
                    None => fleet.offer_certificate(agent, offer, now.instant),
                };
            }
            Operation::RefuseCertificate { uid, csr } => {
                let request = CertificateRequestId::of(&csr);
                let _ = fleet.refuse_certificate(agent(uid), request, "not here");
            }
            Operation::CustomMessage { uid, size } => {
                let _ = fleet.send_custom_message(agent(uid), custom_message(size), now.instant);
            }
            Operation::Disconnect { uid } => {
                let _ = fleet.disconnect(agent(uid));
            }
            Operation::Save { lagging } => self.save(lagging),
            Operation::RestartServer { saved } => self.restart(saved),
        }
    }

    fn receive(&mut self, route: u8, body: &[u8]) {
        let (_, route) = &mut self.routes[usize::from(route) % ROUTES];
        let mut out = Vec::new();
        let mut fresh = || InstanceUid::from_parts(7, [7; 10]);
        let received = self.fleet.receive(route, body, self.now, &mut fresh, &mut out);
        judge(&out, received.tail.as_deref());
        let refused = v1::AgentToServer::decode(body).is_err();
        assert!(!refused || received.refusal.is_some(), "what does not decode is refused");
    }

    fn push(&mut self) {
        for (_, route) in &self.routes {
            for key in route.agents().to_vec() {
                let mut out = Vec::new();
                let mut pushes = 0;
                while let Some(push) = self.fleet.poll_push(route, key, self.now, &mut out) {
                    judge(&out, push.tail.as_deref());
                    out.clear();
                    pushes += 1;
                    assert!(pushes < 8, "pushing ends");
                }
            }
        }
    }

    fn save(&mut self, lagging: bool) {
        let mut batch = self.fleet.take_unsaved(self.now, lagging, BATCH);
        while let Some(written) = batch {
            write(&mut self.entries, &written);
            self.fleet.saved(written);
            batch = self.fleet.take_unsaved(self.now, false, BATCH);
        }
    }

    /// The next process finds what is on the disk.
    fn restart(&mut self, saved: bool) {
        let known = self.fleet.len();
        if saved {
            self.save(true);
        }
        self.fleet = fleet();
        let mut restore = self.fleet.restore(self.now);
        for (key, value) in &self.entries {
            restore.add(key, value).expect("it was saved");
        }
        let restored = restore.finish();
        assert!(!saved || restored.agents + restored.forgotten == known, "{restored:?}");
        for (transport, route) in &mut self.routes {
            *route = open(&self.fleet, *transport);
        }
    }
}

/// Small, so that a generation takes several.
const BATCH: usize = 256;

fn fleet() -> Fleet<()> {
    let mut config = ServerConfig::default();
    config.max_agents = MAX_AGENTS;
    config.max_agents_per_connection = 3;
    config.max_retained_bytes = 4096;
    config.custom_capabilities =
        CustomCapabilities::new(["org.example.chat"]).expect("it is a good name");
    let fleet = Fleet::new(config);
    fleet.begin_saving(Arc::new(Nobody));
    fleet
}

fn open(fleet: &Fleet<()>, transport: Transport) -> Route<()> {
    fleet.open_route(transport, None, (), None)
}

fn write(entries: &mut BTreeMap<Vec<u8>, Bytes>, batch: &Batch) {
    for change in batch.changes().iter() {
        match change.value() {
            Some(value) => entries.insert(change.key().to_vec(), value.clone()),
            None => entries.remove(change.key()),
        };
    }
}

fn judge(head: &[u8], tail: Option<&[u8]>) {
    let message = [head, tail.unwrap_or_default()].concat();
    let message = v1::ServerToAgent::decode(message.as_slice()).expect("the reply decodes");
    if message.error_response.is_some() {
        assert!(message.remote_config.is_none() && message.flags == 0 && message.capabilities == 0);
    }
    if message.command.is_some() {
        assert!(message.remote_config.is_none() && message.flags == 0);
    }
}
