//! The own telemetry of the reference client: where the server wants it, and the exporters that
//! send it there.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use opamp_proto::v1::{AgentDescription, ConnectionSettingsOffers, TelemetryConnectionSettings};
use prost::Message as _;
use tokio::time::{Instant, sleep, timeout};

use super::settings::Settings;
use crate::net::Network;
use crate::reference::Faults;
use crate::server::agent::PROTOBUF;
use crate::wire::attribute;
use crate::wire::authority::Identity;
use crate::wire::otlp::{ExportRequest, Metric, OfResource, OfScope, Points, Resource, Signal};

/// Between two exports of metrics (TEL-09).
const METRICS: Duration = Duration::from_secs(10);
/// Between two exports of traces or logs.
const OTHERS: Duration = Duration::from_secs(5);
/// How long an export may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where telemetry goes.
pub(super) struct Telemetry {
    destinations: BTreeMap<Signal, TelemetryConnectionSettings>,
    offered: Instant,
    has_changed: bool,
}

impl Telemetry {
    pub(super) fn new() -> Self {
        Self { destinations: BTreeMap::new(), offered: Instant::now(), has_changed: false }
    }

    /// Takes in an offer; whether it is about telemetry.
    pub(super) fn offer(&mut self, offer: &ConnectionSettingsOffers, faults: &Faults) -> bool {
        let mut any = false;
        for (signal, settings, fault) in [
            (Signal::Metrics, &offer.own_metrics, "metrics-are-not-sent"),
            (Signal::Traces, &offer.own_traces, "traces-are-not-sent"),
            (Signal::Logs, &offer.own_logs, "logs-are-not-sent"),
        ] {
            let Some(settings) = settings else {
                if faults.has("telemetry-left-out-ends") {
                    self.has_changed |= self.destinations.remove(&signal).is_some();
                }
                continue;
            };
            any = true;
            if faults.has(fault) {
                continue;
            }
            let mut settings = settings.clone();
            if faults.has("telemetry-keeps-its-old-certificate") && settings.certificate.is_none() {
                let old = self.destinations.get(&signal);
                settings.certificate = old.and_then(|old| old.certificate.clone());
            }
            self.destinations.insert(signal, settings);
            (self.offered, self.has_changed) = (Instant::now(), true);
        }
        any
    }

    /// Takes in a message without any settings.
    pub(super) fn nothing_offered(&mut self, faults: &Faults) {
        if faults.has("telemetry-ends-with-the-next-message")
            && self.offered.elapsed() > OTHERS
            && !self.destinations.is_empty()
        {
            self.destinations.clear();
            self.has_changed = true;
        }
    }

    /// The destinations, if they changed since this was asked.
    pub(super) fn changed(&mut self) -> Option<Vec<(Signal, TelemetryConnectionSettings)>> {
        let destinations = self.destinations.iter();
        std::mem::take(&mut self.has_changed)
            .then(|| destinations.map(|(signal, to)| (*signal, to.clone())).collect())
    }
}

/// An exporter of one signal.
pub(super) struct Exporter {
    pub(super) signal: Signal,
    pub(super) to: TelemetryConnectionSettings,
    /// The settings the client was started with, for the authority it trusts.
    pub(super) given: Settings,
    pub(super) description: AgentDescription,
    pub(super) network: Network,
    pub(super) faults: Faults,
}

impl Exporter {
    /// Exports for ever.
    pub(super) async fn run(self) {
        let faults = &self.faults;
        let interval = match self.signal {
            Signal::Metrics if faults.has("metrics-are-sent-every-minute") => 6 * METRICS,
            Signal::Metrics => METRICS,
            Signal::Traces | Signal::Logs => OTHERS,
        };
        loop {
            // The next export is another try.
            let _ = timeout(PATIENCE, self.export()).await;
            if faults.has("metrics-are-sent-once") {
                return;
            }
            sleep(interval).await;
        }
    }

    async fn export(&self) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let mut dialer = self.settings()?.dialer(&self.network, &Faults::none())?;
        if self.faults.has("telemetry-headers-are-not-sent") {
            dialer.headers.clear();
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, PROTOBUF);
        let mut body = Bytes::from(self.request().encode_to_vec());
        if self.signal == Signal::Metrics {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            body = crate::wire::body::gzip(&body);
        }
        let mut http = dialer.http().await.map_err(|error| text(&error))?;
        let request = dialer.request(Method::POST, &headers, body).map_err(|error| text(&error))?;
        http.send(request).await.map_err(|error| text(&error))?;
        Ok(())
    }

    fn settings(&self) -> Result<Settings, String> {
        let to = &self.to;
        let offered = to.headers.iter().flat_map(|headers| &headers.headers);
        let pem = |pem: &[u8]| String::from_utf8_lossy(pem).into_owned();
        let identity = to.certificate.as_ref().map(|certificate| Identity {
            cert: pem(&certificate.cert),
            key: pem(&certificate.private_key),
        });
        Ok(Settings {
            url: to.destination_endpoint.parse()?,
            headers: offered.map(|header| (header.key.clone(), header.value.clone())).collect(),
            ca: self.given.ca.clone(),
            identity: identity.filter(|_| !self.faults.has("telemetry-certificate-is-not-used")),
            tls: to.tls.clone(),
            proxy: to.proxy.clone(),
            heartbeat: Duration::ZERO,
        })
    }

    fn request(&self) -> ExportRequest {
        let description = self.description.clone();
        let mut attributes = description.identifying_attributes;
        if self.faults.has("resource-lacks-the-instance-id") {
            attributes.retain(|attribute| attribute.key != "service.instance.id");
        }
        attributes.extend(description.non_identifying_attributes);
        if self.faults.has("resource-has-another-host") {
            for host in attributes.iter_mut().filter(|found| found.key == "host.name") {
                *host = attribute("host.name", "another");
            }
        }
        if self.faults.has("resource-alone-has-a-namespace") {
            attributes.push(attribute("service.namespace", "conformance"));
        }
        let records = match self.signal {
            Signal::Metrics => self.metrics(),
            // The tester only counts them: field 2 of a span is its id, that of a log its severity.
            Signal::Traces => vec![Bytes::from_static(b"\x12\x08spanspan")],
            Signal::Logs => vec![Bytes::from_static(b"\x10\x09")],
        };
        let scopes = vec![OfScope { records }];
        let resource = Some(Resource { attributes });
        ExportRequest { resources: vec![OfResource { resource, scopes }] }
    }

    fn metrics(&self) -> Vec<Bytes> {
        let point = Bytes::from_static(b"\x31\x01\0\0\0\0\0\0\0");
        let sum = |name: &str, unit: &str, is_monotonic| Metric {
            name: name.to_owned(),
            unit: unit.to_owned(),
            gauge: None,
            sum: Some(Points { points: vec![point.clone()], temporality: 2, is_monotonic }),
        };
        let cpu = if self.faults.has("process-metric-has-another-unit") { "ms" } else { "s" };
        let mut metrics = vec![sum("opamp.messages", "{message}", true)];
        if !self.faults.has("process-metrics-are-missing") {
            metrics.push(sum("process.cpu.time", cpu, true));
            metrics.push(sum("process.memory.usage", "By", false));
        }
        metrics.iter().map(|metric| metric.encode_to_vec().into()).collect()
    }
}
