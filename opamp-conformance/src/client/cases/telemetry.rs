//! The client's own telemetry: whether and how it is sent where the server wants it.

use std::collections::BTreeMap;
use std::time::Duration;

use opamp_proto::v1::{
    AgentDescription, AgentToServer, ConnectionSettingsOffers, Header, Headers, KeyValue,
    ServerToAgent, TelemetryConnectionSettings, TlsConnectionSettings,
};
use tokio::time::Instant;

use super::description::is_collector;
use crate::case::{Case, Script};
use crate::client::depot::random;
use crate::client::otlp_sink::{Export, OtlpSink};
use crate::client::{ClientStage, Host, Running};
use crate::judge::Stop;
use crate::mask::{agent as mask, names};
use crate::report::Transport;
use crate::wire::authority::{Authority, server_config};
use crate::wire::hex;
use crate::wire::otlp::{Metric, Signal};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/telemetry/metrics",
        judges: &["TEL-06", "TEL-08", "TEL-09", "TEL-18"],
        transports: Transport::BOTH,
        does: "offers a destination for metrics once, and nothing in later messages",
        expects: "metrics arrive there every 10 seconds",
        alone: false,
        broken_by: &[
            "metrics-are-not-sent",
            "metrics-are-sent-once",
            "metrics-are-sent-every-minute",
            "telemetry-ends-with-the-next-message",
        ],
        script: Script::Client(|stage| Box::pin(metrics(stage))),
    },
    Case {
        name: "client/telemetry/process-metrics",
        judges: &["TEL-10", "TEL-11"],
        transports: Transport::BOTH,
        does: "offers a destination for metrics",
        expects: "metrics of the process, with the names, units and kinds of the conventions",
        alone: false,
        broken_by: &["process-metrics-are-missing", "process-metric-has-another-unit"],
        script: Script::Client(|stage| Box::pin(process_metrics(stage))),
    },
    Case {
        name: "client/telemetry/traces",
        judges: &["TEL-12"],
        transports: Transport::BOTH,
        does: "offers a destination for traces",
        expects: "traces arrive there",
        alone: false,
        broken_by: &["traces-are-not-sent"],
        script: Script::Client(|stage| Box::pin(traces(stage))),
    },
    Case {
        name: "client/telemetry/logs",
        judges: &["TEL-13"],
        transports: Transport::BOTH,
        does: "offers a destination for logs",
        expects: "logs arrive there",
        alone: false,
        broken_by: &["logs-are-not-sent"],
        script: Script::Client(|stage| Box::pin(logs(stage))),
    },
    Case {
        name: "client/telemetry/resource",
        judges: &["DESC-02", "OTEL-06", "OTEL-08", "OTEL-09", "OTEL-10", "TEL-14", "TEL-15"],
        transports: Transport::BOTH,
        does: "offers a destination for telemetry",
        expects: "its resource has all identifying attributes, and no other value of any attribute; \
                  that of a language agent has nothing that the description has not",
        alone: false,
        broken_by: &[
            "resource-lacks-the-instance-id",
            "resource-has-another-host",
            "resource-alone-has-a-namespace",
        ],
        script: Script::Client(|stage| Box::pin(resource(stage))),
    },
    Case {
        name: "client/telemetry/headers",
        judges: &["TEL-19"],
        transports: Transport::BOTH,
        does: "offers a destination for telemetry with a token",
        expects: "the requests there have it",
        alone: false,
        broken_by: &["telemetry-headers-are-not-sent"],
        script: Script::Client(|stage| Box::pin(headers(stage))),
    },
    Case {
        name: "client/telemetry/status",
        judges: &["TEL-07"],
        transports: Transport::BOTH,
        does: "offers a destination for telemetry",
        expects: "connection_settings_status with the hash of the offer",
        alone: false,
        broken_by: &[
            "settings-status-is-never-reported",
            "settings-status-has-an-old-hash",
            "applied-is-not-reported",
        ],
        script: Script::Client(|stage| Box::pin(status(stage))),
    },
];

/// The longest usual interval of exporters, and a little more.
const EXPORT_SECONDS: f64 = 70.0;
const TOKEN: (&str, &str) = ("x-conformance-token", "telemetry");

/// What a client may send, the most telling first.
const SIGNALS: [(Signal, u64); 3] = [
    (Signal::Metrics, mask::REPORTS_OWN_METRICS),
    (Signal::Logs, mask::REPORTS_OWN_LOGS),
    (Signal::Traces, mask::REPORTS_OWN_TRACES),
];

/// A client that was offered a destination for telemetry.
pub(super) struct Sending {
    pub(super) host: Host,
    pub(super) first: AgentToServer,
    pub(super) sink: OtlpSink,
    pub(super) signal: Signal,
    /// Whether anything came in time.
    pub(super) arrives: bool,
    /// It runs for as long as this is there.
    pub(super) _client: Box<dyn Running>,
}

/// The settings for this destination.
pub(super) fn settings(sink: &OtlpSink, signal: Signal) -> TelemetryConnectionSettings {
    TelemetryConnectionSettings { destination_endpoint: sink.url(signal), ..Default::default() }
}

/// Offers these settings for one signal; gives the hash of the offer.
pub(super) async fn offer(
    stage: &mut ClientStage,
    host: &mut Host,
    signal: Signal,
    settings: TelemetryConnectionSettings,
) -> Result<bytes::Bytes, Stop> {
    let hash = random(stage, 19);
    let settings = Some(settings);
    let mut offers = ConnectionSettingsOffers { hash: hash.clone(), ..Default::default() };
    match signal {
        Signal::Metrics => offers.own_metrics = settings,
        Signal::Traces => offers.own_traces = settings,
        Signal::Logs => offers.own_logs = settings,
    }
    // Over HTTP the offer then goes out at once and not with a later request.
    if !host.is_connected() {
        host.first(stage.heartbeat() + stage.pace.comeback()).await?;
    }
    let message = ServerToAgent { connection_settings: Some(offers), ..host.message() };
    host.send(message).await?;
    Ok(hash)
}

/// Lets the client do what it wants until the sink has what `is_it` looks for, or the time is over;
/// whether it has.
pub(super) async fn until(
    stage: &ClientStage,
    host: &mut Host,
    seconds: f64,
    mut is_it: impl FnMut() -> bool,
) -> bool {
    let end = Instant::now() + stage.pace.of(seconds);
    while !is_it() {
        if Instant::now() >= end {
            return false;
        }
        host.collect(stage.pace.poll()).await;
    }
    true
}

/// Starts a client and offers it a destination for the first of these signals that it has the
/// capability for.
///
/// Clients may decline http (TEL-18). One from which nothing comes there is offered https instead,
/// if it can be told whom to trust; whether then anything comes is told in `arrives`.
pub(super) async fn sending(
    stage: &mut ClientStage,
    signals: &[(Signal, u64)],
) -> Result<Sending, Stop> {
    let unusable = |error: &dyn std::fmt::Display| Stop::Harness(error.to_string());
    let network = stage.subject.network();
    let authority = Authority::new("telemetry").map_err(|error| unusable(&error))?;
    let mut host = stage.host().await?;
    let mut start = stage.start_for(&host);
    let can_trust = stage.subject.takes("ca");
    start.ca = can_trust.then(|| authority.pem().to_owned());
    let client = stage.start(start).await?;
    let first = host.first(stage.pace.start()).await?;
    let has = signals.iter().find(|(_, capability)| first.capabilities & capability != 0);
    let Some((signal, _)) = has.copied() else {
        let any = signals.iter().fold(0, |all, (_, capability)| all | capability);
        let names = names("AgentCapabilities", any).join(" or ");
        return Err(Stop::NotApplicable(format!("the client does not announce {names}")));
    };
    let sink = OtlpSink::open(&network, None, &stage.log).await?;
    let with_token = with_token(settings(&sink, signal));
    offer(stage, &mut host, signal, with_token).await?;
    let mut arrives =
        until(stage, &mut host, EXPORT_SECONDS, || !sink.exports(signal).is_empty()).await;
    if arrives {
        return Ok(Sending { host, first, sink, signal, arrives, _client: client });
    }
    drop(sink);
    if !can_trust {
        let why = "no telemetry over http, which the client may decline";
        return Err(Stop::Unreached(why.to_owned()));
    }
    let identity = authority.server().map_err(|error| unusable(&error))?;
    let tls = server_config(&identity, None, false).map_err(|error| unusable(&error))?;
    let sink = OtlpSink::open(&network, Some(tls), &stage.log).await?;
    let tls =
        TlsConnectionSettings { ca_pem_contents: authority.pem().to_owned(), ..Default::default() };
    let secure = TelemetryConnectionSettings { tls: Some(tls), ..settings(&sink, signal) };
    offer(stage, &mut host, signal, self::with_token(secure)).await?;
    arrives = until(stage, &mut host, EXPORT_SECONDS, || !sink.exports(signal).is_empty()).await;
    Ok(Sending { host, first, sink, signal, arrives, _client: client })
}

fn with_token(settings: TelemetryConnectionSettings) -> TelemetryConnectionSettings {
    let header = Header { key: TOKEN.0.to_owned(), value: TOKEN.1.to_owned() };
    TelemetryConnectionSettings { headers: Some(Headers { headers: vec![header] }), ..settings }
}

/// As [`sending`], but goes on only if something arrives.
pub(super) async fn receiving(
    stage: &mut ClientStage,
    signals: &[(Signal, u64)],
) -> Result<(Sending, Export), Stop> {
    let sending = sending(stage, signals).await?;
    let export = sending.sink.exports(sending.signal).pop();
    let none = || Stop::Unreached("no telemetry arrives".to_owned());
    export.map(|export| (sending, export)).ok_or_else(none)
}

async fn metrics(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut sending = sending(stage, &SIGNALS[..1]).await?;
    let is_http = sending.sink.base().starts_with("http:");
    if !stage.judge.expect("TEL-08", sending.arrives, "metrics arrive", arrived(&sending)) {
        return Ok(());
    }
    let accepts = if is_http { "it sends to http" } else { "it sends to https only" };
    stage.judge.note("TEL-18", accepts);
    // An empty message may matter to one who heard none since the offer.
    if stage.transport == Transport::WebSocket && sending.host.is_connected() {
        let message = sending.host.message();
        sending.host.send(message).await?;
    }
    let Sending { host, sink, .. } = &mut sending;
    let more = |count: usize| move |sink: &OtlpSink| bursts(sink).len() > count;
    let again = until(stage, host, EXPORT_SECONDS, || more(1)(sink)).await;
    let actual = format!("exports at seconds {:?} after the first", gaps(sink));
    for row in ["TEL-06", "TEL-08"] {
        stage.judge.expect(row, again, "metrics go on arriving", &actual);
    }
    if !again {
        return Ok(());
    }
    // The first interval may be short or long, depending on when the exporter began to count.
    until(stage, host, EXPORT_SECONDS, || more(2)(sink)).await;
    let seconds = gaps(sink);
    let steps: Vec<_> = seconds.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let last = steps.last().copied().unwrap_or_default();
    let actual = format!("exports at seconds {seconds:?} after the first");
    let advised = (4.0..=16.0).contains(&last);
    stage.judge.expect("TEL-09", advised, "about 10 seconds between exports", actual);
    Ok(())
}

fn arrived(sending: &Sending) -> String {
    let all = sending.sink.requests();
    let count = sending.sink.exports(sending.signal).len();
    format!("{count} exports with content among {} requests", all.len())
}

/// When metrics were exported; what comes within a second counts as one export.
fn bursts(sink: &OtlpSink) -> Vec<Instant> {
    let mut times: Vec<_> = sink.exports(Signal::Metrics).iter().map(|export| export.at).collect();
    times.dedup_by(|later, earlier| later.duration_since(*earlier) < Duration::from_secs(1));
    times
}

/// The seconds from the first export to each.
fn gaps(sink: &OtlpSink) -> Vec<f64> {
    let times = bursts(sink);
    let Some(first) = times.first() else { return Vec::new() };
    let tenths = |time: &Instant| (time.duration_since(*first).as_secs_f64() * 10.0).round() / 10.0;
    times.iter().map(tenths).collect()
}

/// What the conventions say of a process metric: unit and kind, for each of their releases.
fn conventions() -> BTreeMap<&'static str, (&'static [&'static str], Kind)> {
    use Kind::{Counter, Gauge, UpDown};
    BTreeMap::from([
        ("process.cpu.time", (&["s"][..], Counter)),
        ("process.cpu.utilization", (&["1"], Gauge)),
        ("process.memory.usage", (&["By"], UpDown)),
        ("process.memory.virtual", (&["By"], UpDown)),
        ("process.disk.io", (&["By"], Counter)),
        ("process.network.io", (&["By"], Counter)),
        ("process.thread.count", (&["{thread}"], UpDown)),
        ("process.threads", (&["{thread}", "{threads}"], UpDown)),
        ("process.open_file_descriptor.count", (&["{count}", "{file_descriptor}"], UpDown)),
        ("process.unix.file_descriptor.count", (&["{file_descriptor}"], UpDown)),
        ("process.open_file_descriptors", (&["{count}"], UpDown)),
        ("process.windows.handle.count", (&["{handle}"], UpDown)),
        ("process.context_switches", (&["{count}", "{context_switch}"], Counter)),
        ("process.paging.faults", (&["{fault}"], Counter)),
        ("process.uptime", (&["s"], Gauge)),
    ])
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    UpDown,
    Gauge,
}

impl Kind {
    fn is(self, metric: &Metric) -> bool {
        match (self, &metric.sum) {
            (Self::Counter, Some(sum)) => sum.is_monotonic,
            (Self::UpDown, Some(sum)) => !sum.is_monotonic,
            (Self::Gauge, None) => metric.gauge.is_some(),
            _ => false,
        }
    }
}

async fn process_metrics(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut sending, _) = receiving(stage, &SIGNALS[..1]).await?;
    let Sending { host, sink, .. } = &mut sending;
    let all = |sink: &OtlpSink| -> Vec<Metric> {
        sink.exports(Signal::Metrics).iter().flat_map(Export::metrics).collect()
    };
    // Some exporters begin before all is measured.
    let of_process = |metric: &Metric| metric.name.contains("process");
    let found = until(stage, host, 15.0, || all(sink).iter().any(of_process)).await;
    let metrics = all(sink);
    let names: Vec<_> = metrics.iter().map(|metric| metric.name.as_str()).collect();
    let actual = format!("metrics {names:?}");
    stage.judge.expect("TEL-10", found, "metrics of the process", actual);
    let conventions = conventions();
    let mut any = false;
    for metric in &metrics {
        // Names the conventions do not have may be those of a later release.
        let Some((units, kind)) = conventions.get(metric.name.as_str()) else { continue };
        any = true;
        let actual = format!(
            "{} in {:?}, {:?}",
            metric.name,
            metric.unit,
            metric.sum.as_ref().map(|sum| sum.is_monotonic)
        );
        let expected = format!("{} in one of {units:?}, a {kind:?}", metric.name);
        let holds = units.contains(&metric.unit.as_str()) && kind.is(metric);
        stage.judge.expect("TEL-11", holds, expected, actual);
    }
    if !any {
        stage.judge.not_applicable("TEL-11", "there is no process metric of the conventions");
    }
    Ok(())
}

async fn traces(stage: &mut ClientStage) -> Result<(), Stop> {
    let sending = sending(stage, &SIGNALS[2..]).await?;
    stage.judge.expect("TEL-12", sending.arrives, "traces arrive", arrived(&sending));
    Ok(())
}

async fn logs(stage: &mut ClientStage) -> Result<(), Stop> {
    let sending = sending(stage, &SIGNALS[1..2]).await?;
    stage.judge.expect("TEL-13", sending.arrives, "logs arrive", arrived(&sending));
    Ok(())
}

async fn resource(stage: &mut ClientStage) -> Result<(), Stop> {
    let (sending, export) = receiving(stage, &SIGNALS).await?;
    let none = || Stop::Unreached("the client reports no description".to_owned());
    let description = sending.first.agent_description.clone().ok_or_else(none)?;
    for resource in export.resources() {
        let value = |key: &str| resource.iter().find(|found| found.key == key);
        let same = |attribute: &&KeyValue| value(&attribute.key) == Some(attribute);
        let named = |attribute: &KeyValue| attribute.key.clone();
        let identifying = &description.identifying_attributes;
        let missing: Vec<_> = identifying.iter().filter(|it| !same(it)).map(named).collect();
        let actual = format!("missing or other in the resource: {missing:?}");
        let mut rows = vec!["DESC-02", "TEL-14"];
        if is_collector(identifying) {
            rows.push("OTEL-06");
        } else {
            stage.judge.not_applicable("OTEL-06", "by its service.name it is no Collector");
        }
        for row in rows {
            let all = missing.is_empty();
            stage.judge.expect(row, all, "every identifying attribute, as described", &actual);
        }
        judge_language_agent(stage, &description, resource);
        let shared = description.non_identifying_attributes.iter();
        let shared = shared.filter(|attribute| value(&attribute.key).is_some());
        let other: Vec<_> = shared.filter(|it| !same(it)).map(named).collect();
        let actual = format!("other in the resource: {other:?}");
        stage.judge.expect("TEL-15", other.is_empty(), "the same values in both", actual);
    }
    Ok(())
}

/// Judges what concerns agents inside a program, which are told by the SDK they describe.
fn judge_language_agent(
    stage: &mut ClientStage,
    description: &AgentDescription,
    resource: &[KeyValue],
) {
    let identifying = &description.identifying_attributes;
    let others = &description.non_identifying_attributes;
    if !others.iter().chain(identifying).any(|it| it.key == "telemetry.sdk.language") {
        for row in ["OTEL-08", "OTEL-09", "OTEL-10"] {
            stage.judge.not_applicable(row, "by its description it is no language agent");
        }
        return;
    }
    let named = |attribute: &&KeyValue| attribute.key.clone();
    let is_identity = |attribute: &&KeyValue| {
        ["service.name", "service.instance.id", "service.namespace"]
            .contains(&attribute.key.as_str())
    };
    let identity = resource.iter().filter(is_identity);
    let left_out = identity.filter(|it| !identifying.contains(it));
    let left_out: Vec<_> = left_out.map(|it| named(&it)).collect();
    let actual = format!("not taken over: {left_out:?}");
    let expected =
        "name, namespace and instance id of the service in the resource identify the agent";
    stage.judge.expect("OTEL-08", left_out.is_empty(), expected, actual);
    let differing = identifying.iter().filter(|it| !resource.contains(it));
    let differing: Vec<_> = differing.map(|it| named(&it)).collect();
    let actual = format!("missing or other in the resource: {differing:?}");
    let expected = "identifying attributes as in the resource";
    stage.judge.expect("OTEL-09", differing.is_empty(), expected, actual);
    let known = |it: &&KeyValue| identifying.contains(it) || others.contains(it);
    let unknown: Vec<_> = resource.iter().filter(|it| !known(it)).map(|it| named(&it)).collect();
    let actual = format!("only in the resource: {unknown:?}");
    let expected = "everything in the resource is in the description";
    stage.judge.expect("OTEL-10", unknown.is_empty(), expected, actual);
}

async fn headers(stage: &mut ClientStage) -> Result<(), Stop> {
    let (_sending, export) = receiving(stage, &SIGNALS).await?;
    let sent = export.headers.get(TOKEN.0).map(|value| value.as_bytes().to_vec());
    let holds = sent.as_deref() == Some(TOKEN.1.as_bytes());
    let sent = sent.map(|sent| String::from_utf8_lossy(&sent).into_owned());
    let actual = format!("{}: {sent:?}", TOKEN.0);
    stage.judge.expect("TEL-19", holds, "the header field offered", actual);
    Ok(())
}

async fn status(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = stage.meet().await?;
    stage.requires(&first, mask::REPORTS_CONNECTION_SETTINGS_STATUS)?;
    let has = SIGNALS.iter().find(|(_, capability)| first.capabilities & capability != 0);
    let none = || Stop::NotApplicable("the client announces no telemetry of its own".to_owned());
    let (signal, _) = *has.ok_or_else(none)?;
    let sink = OtlpSink::open(&stage.subject.network(), None, &stage.log).await?;
    let hash = offer(stage, &mut host, signal, settings(&sink, signal)).await?;
    let mut seen = Vec::new();
    let within = stage.pace.work() + stage.heartbeat();
    let told = host.hear(within, |message| {
        let Some(status) = &message.connection_settings_status else { return false };
        seen.push((hex(&status.last_connection_settings_hash), status.status));
        // UNSET says nothing of the offer.
        status.last_connection_settings_hash == hash && status.status != 0
    });
    let told = told.await.is_some();
    let actual = format!("connection_settings_status with hash and status {seen:?}");
    let expected = format!("a status with the hash {}", hex(&hash));
    stage.judge.expect("TEL-07", told, expected, actual);
    Ok(())
}
