//! Fuzzing a client: what a server says.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use opamp_proto::v1::{
    AgentConfigFile, AgentConfigMap, AgentRemoteConfig, ConnectionSettingsOffers,
    CustomCapabilities, CustomMessage, DownloadableFile, Header, Headers, OpAmpConnectionSettings,
    PackageAvailable, PackagesAvailable, ServerErrorResponse, ServerToAgent,
    TelemetryConnectionSettings, server_error_response,
};
use prost::Message as _;
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::{Options, Send, Step, Trouble};
use crate::client::{ClientUnderTest, Heard, Host, Running, Start};
use crate::judge::Stop;
use crate::log::Log;
use crate::mask::{flag, server as mask};
use crate::pace::Pace;
use crate::report::{Side, Transport};
use crate::wire::body;
use crate::wire::mutate::mutate;

/// The longest wait a fuzzed message may ask of the client; more would look like a hang.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// The longest heartbeat interval a fuzzed message may offer, in seconds.
const MAX_HEARTBEAT: u64 = 5;

/// What a server says in one round; some of it changed. Ids are filled in when it is played.
pub(super) fn conversation(transport: Transport, rng: &mut StdRng, url: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for _ in 0..rng.random_range(1..6) {
        let message = message(rng, url).encode_to_vec();
        let (changed, send) = match rng.random_range(0..16) {
            0..5 => (String::new(), Send::Message(message)),
            5..12 => {
                let (bytes, what) = mutate("ServerToAgent", &message, rng);
                (what, Send::Message(bytes.to_vec()))
            }
            12 => Send::random_header(&message, rng),
            13 => Send::random_bytes(rng),
            14 if transport == Transport::Http => Send::damaged_gzip(&message, rng),
            _ => (String::new(), Send::Reconnect),
        };
        let lost = matches!(&send, Send::Message(bytes) if sends_away(bytes, url));
        if !lost {
            steps.push(Step { changed, send });
        }
    }
    steps
}

/// Whether a client that obeys would go elsewhere, or fall silent for longer than the tester waits.
fn sends_away(bytes: &[u8], url: &str) -> bool {
    let Ok(message) = ServerToAgent::decode(bytes) else { return false };
    let wait = message.error_response.and_then(|error| error.details);
    let waits = wait.is_some_and(|server_error_response::Details::RetryInfo(info)| {
        Duration::from_nanos(info.retry_after_nanoseconds) > MAX_WAIT
            || info.retry_after_nanoseconds == 0
    });
    let opamp = message.connection_settings.and_then(|settings| settings.opamp);
    let elsewhere = |opamp: OpAmpConnectionSettings| {
        !(1..=MAX_HEARTBEAT).contains(&opamp.heartbeat_interval_seconds)
            || ![url, ""].contains(&&*opamp.destination_endpoint)
    };
    waits || opamp.is_some_and(elsewhere)
}

fn message(rng: &mut StdRng, url: &str) -> ServerToAgent {
    let hash = Bytes::from(rng.random::<[u8; 8]>().to_vec());
    let file = |text: &'static str| AgentConfigFile {
        body: Bytes::from_static(text.as_bytes()),
        content_type: "text/yaml".to_owned(),
    };
    let headers = || {
        Some(Headers { headers: vec![Header { key: "x-fuzz".to_owned(), value: "1".to_owned() }] })
    };
    let base = ServerToAgent { capabilities: mask::ALL, ..Default::default() };
    match rng.random_range(0..9) {
        0 | 1 => {
            let text = if rng.random() { "a: 1\n" } else { "a: [\n" };
            let config_map = BTreeMap::from([(String::new(), file(text))]);
            let config = Some(AgentConfigMap { config_map });
            let remote_config = Some(AgentRemoteConfig { config, config_hash: hash });
            ServerToAgent { remote_config, ..base }
        }
        2 => {
            let opamp = OpAmpConnectionSettings {
                destination_endpoint: url.to_owned(),
                headers: headers(),
                heartbeat_interval_seconds: rng.random_range(1..=2),
                ..Default::default()
            };
            let offers =
                ConnectionSettingsOffers { hash, opamp: Some(opamp), ..Default::default() };
            ServerToAgent { connection_settings: Some(offers), ..base }
        }
        3 => {
            let telemetry = TelemetryConnectionSettings {
                destination_endpoint: "http://127.0.0.1:9/v1/metrics".to_owned(),
                headers: headers(),
                ..Default::default()
            };
            let offers = ConnectionSettingsOffers {
                hash,
                own_metrics: Some(telemetry),
                ..Default::default()
            };
            ServerToAgent { connection_settings: Some(offers), ..base }
        }
        4 => {
            let file = DownloadableFile {
                download_url: "http://127.0.0.1:9/package".to_owned(),
                content_hash: body::sha256(b"package"),
                ..Default::default()
            };
            let package = PackageAvailable {
                version: "1".to_owned(),
                file: Some(file),
                hash: hash.clone(),
                ..Default::default()
            };
            let packages = BTreeMap::from([("p".to_owned(), package)]);
            let all = PackagesAvailable { packages, all_packages_hash: hash };
            ServerToAgent { packages_available: Some(all), ..base }
        }
        5 => ServerToAgent {
            error_response: Some(ServerErrorResponse {
                r#type: rng.random_range(0..2),
                error_message: "fuzz".to_owned(),
                details: None,
            }),
            ..base
        },
        6 => ServerToAgent {
            custom_capabilities: Some(CustomCapabilities {
                capabilities: vec!["com.example.fuzz/v1".to_owned()],
            }),
            custom_message: Some(CustomMessage {
                capability: "com.example.fuzz/v1".to_owned(),
                r#type: "any".to_owned(),
                data: Bytes::from_static(b"data"),
            }),
            ..base
        },
        7 => ServerToAgent { flags: rng.random_range(0..4), ..base },
        _ => base,
    }
}

/// Plays a server to one running client for each transport.
pub(super) struct Player {
    pace: Pace,
    heartbeat: Duration,
    clients: Vec<(Transport, Host, Box<dyn Running>)>,
}

impl Player {
    pub(super) async fn new(
        subject: &dyn ClientUnderTest,
        options: &Options,
    ) -> Result<Self, Stop> {
        let pace = options.pace;
        let settable = subject.takes("heartbeat");
        let heartbeat = if settable { pace.of(1.0) } else { subject.heartbeat() };
        let mut clients = Vec::new();
        for transport in options.transports.iter().filter(|one| subject.speaks(**one)) {
            let log = Log::new(Side::Client);
            let mut host = Host::open(&subject.network(), *transport, None, &log, pace).await?;
            let start = Start {
                url: host.url(),
                heartbeat: settable.then_some(heartbeat),
                ..Default::default()
            };
            let client = subject.start(start).await?;
            host.first(pace.start()).await?;
            clients.push((*transport, host, client));
        }
        Ok(Self { pace, heartbeat, clients })
    }

    pub(super) fn url(&self, transport: Transport) -> String {
        let client = self.clients.iter().find(|(own, ..)| *own == transport);
        client.map(|(_, host, _)| host.url()).unwrap_or_default()
    }

    pub(super) async fn play(
        &mut self,
        transport: Transport,
        steps: &[Step],
    ) -> Option<(Trouble, String)> {
        let (pace, heartbeat) = (self.pace, self.heartbeat);
        let (_, host, client) = self.clients.iter_mut().find(|(own, ..)| *own == transport)?;
        for step in steps {
            // Whatever comes of it shows when the client is asked how it is.
            let _ = say(host, step).await;
            if transport == Transport::Http {
                host.next(heartbeat + pace.quiet()).await;
            } else if matches!(step.send, Send::Raw(_)) {
                // The bytes may be the beginning of a frame, so nothing can follow them.
                host.next(pace.quiet()).await;
                host.cut();
            }
        }
        let within = pace.comeback() + 3 * heartbeat;
        let answered = asked(host, within, pace).await;
        if let Some(how) = client.ended() {
            return Some((Trouble::Crash, format!("the client's program {how}")));
        }
        (!answered).then(|| {
            let seconds = within.as_secs_f64();
            (Trouble::Hang, format!("no full report within {seconds:.0} s, though asked for"))
        })
    }
}

/// Asks for a full report until one comes.
async fn asked(host: &mut Host, within: Duration, pace: Pace) -> bool {
    let until = tokio::time::Instant::now() + within;
    loop {
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        if left.is_zero() {
            return false;
        }
        match host.next(left.min(pace.reply())).await {
            Heard::Message(message) if message.agent_description.is_some() => return true,
            // One that sends no heartbeats has to be asked all the same.
            Heard::Message(_) | Heard::Silence if host.is_connected() => {
                let flags = flag::REPORT_FULL_STATE;
                // A connection that is gone is opened again by the client.
                let _ = host.send(ServerToAgent { flags, ..host.message() }).await;
            }
            Heard::Message(_) | Heard::Malformed(_) | Heard::Closed(..) | Heard::Silence => {}
        }
    }
}

async fn say(host: &mut Host, step: &Step) -> Result<(), Stop> {
    let (bytes, is_raw) = match &step.send {
        Send::Reconnect => {
            host.cut();
            return Ok(());
        }
        Send::Message(bytes) => {
            let mut bytes = bytes.clone();
            // The id comes last, so that it is the one that counts.
            bytes.extend([0x0a, u8::try_from(host.uid().len()).unwrap_or(0)]);
            bytes.extend_from_slice(host.uid());
            (bytes, false)
        }
        Send::Payload(bytes) => (bytes.clone(), false),
        Send::Raw(bytes) => (bytes.clone(), true),
    };
    if let Ok(request) = host.take_request() {
        let coding = if is_raw { ("content-encoding", "gzip") } else { ("x-fuzz", "1") };
        let headers = [("content-type", "application/x-protobuf"), coding];
        request.respond(200, &headers, bytes.into());
        return Ok(());
    }
    let framed = match &step.send {
        Send::Message(_) => body::frame(&bytes),
        _ => bytes.into(),
    };
    let websocket = host.websocket()?;
    let sent = if is_raw { websocket.send_raw(framed).await } else { websocket.send(framed).await };
    sent.map_err(|ended| Stop::Unreached(ended.to_string()))
}
