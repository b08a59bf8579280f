//! A receiver of OTLP over HTTP that the tester plays: it takes what comes and remembers it. It is
//! no part of the OpAMP conversation, so the record shows its requests as remarks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use opamp_proto::v1::KeyValue;
use prost::Message as _;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::download_server::fields;
use crate::judge::Stop;
use crate::log::Log;
use crate::net::Network;
use crate::report::{Side, Transport};
use crate::wire::body;
use crate::wire::endpoint::{Arrival, Endpoint};
use crate::wire::http_client::field;
use crate::wire::otlp::{ExportRequest, Metric, Signal};

/// How many exports are remembered.
const MAX_EXPORTS: usize = 512;
/// The largest export that is read, in bytes.
const MAX_SIZE: usize = 16 << 20;
/// How long the sink waits for a request before it waits again.
const WAIT: Duration = Duration::from_secs(3_600);

/// A request that came.
#[derive(Debug, Clone)]
pub struct Export {
    /// When it came.
    pub at: Instant,
    /// Its method.
    pub method: Method,
    /// Path and query, or where a proxy is asked to connect to.
    pub target: String,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Whether the client presented a certificate.
    pub with_certificate: bool,
    /// What it says; `None` where it is no export in protobuf.
    pub content: Option<ExportRequest>,
}

impl Export {
    /// The attributes of each resource in it.
    pub fn resources(&self) -> impl Iterator<Item = &[KeyValue]> {
        let all = self.content.iter().flat_map(|content| &content.resources);
        all.filter_map(|of| Some(of.resource.as_ref()?.attributes.as_slice()))
    }

    /// How many metrics, spans or log records it has.
    #[must_use]
    pub fn count(&self) -> usize {
        self.records().count()
    }

    /// The metrics in it.
    pub fn metrics(&self) -> impl Iterator<Item = Metric> {
        self.records().filter_map(|record| Metric::decode(record.clone()).ok())
    }

    fn records(&self) -> impl Iterator<Item = &Bytes> {
        let all = self.content.iter().flat_map(|content| &content.resources);
        all.flat_map(|of| &of.scopes).flat_map(|scope| &scope.records)
    }
}

/// A receiver of telemetry. Dropping it closes it.
pub struct OtlpSink {
    base: String,
    exports: Arc<Mutex<Vec<Export>>>,
    /// Held for its being dropped.
    _receiving: JoinSet<()>,
}

impl OtlpSink {
    /// Opens one on a free port, over TLS where settings are given; `log` gets its remarks.
    ///
    /// # Errors
    ///
    /// [`Stop::Harness`] when it cannot listen.
    pub async fn open(
        network: &Network,
        tls: Option<Arc<rustls::ServerConfig>>,
        log: &Log,
    ) -> Result<Self, Stop> {
        let own = Log::new(Side::Client);
        let mut endpoint = Endpoint::open(network, Transport::Http, tls, &own)
            .await
            .map_err(|error| Stop::Harness(format!("cannot listen for telemetry: {error}")))?;
        let scheme = if endpoint.url().tls { "https" } else { "http" };
        let base = format!("{scheme}://{}", endpoint.url().authority());
        let exports = Arc::<Mutex<Vec<Export>>>::default();
        let (received, log) = (Arc::clone(&exports), log.clone());
        let mut receiving = JoinSet::new();
        receiving.spawn(async move {
            loop {
                if let Some(arrival) = endpoint.next(WAIT).await {
                    receive(arrival, &received, &log);
                }
            }
        });
        Ok(Self { base, exports, _receiving: receiving })
    }

    /// Where to export to.
    #[must_use]
    pub fn url(&self, signal: Signal) -> String {
        format!("{}{}", self.base, signal.path())
    }

    /// Scheme, host and port.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Every request so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Export> {
        self.exports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The exports of this signal so far that have anything in them.
    #[must_use]
    pub fn exports(&self, signal: Signal) -> Vec<Export> {
        let mut all = self.requests();
        all.retain(|export| export.target.ends_with(signal.path()) && export.count() > 0);
        all
    }
}

fn receive(arrival: Arrival, exports: &Mutex<Vec<Export>>, log: &Log) {
    let gzipped = field(&arrival.headers, header::CONTENT_ENCODING).eq_ignore_ascii_case("gzip");
    let bytes = if gzipped {
        body::gunzip(&arrival.body, MAX_SIZE).ok()
    } else {
        Some(arrival.body.clone())
    };
    let content = bytes
        .filter(|_| arrival.method == Method::POST)
        .and_then(|bytes| ExportRequest::decode(bytes).ok());
    let export = Export {
        at: Instant::now(),
        method: arrival.method.clone(),
        target: arrival.target.clone(),
        headers: arrival.headers.clone(),
        with_certificate: !arrival.client_certificates.is_empty(),
        content,
    };
    let what = if export.content.is_some() {
        let of = |attribute: &KeyValue| {
            let value = attribute.value.as_ref();
            let text = value.and_then(|value| value.as_str()).unwrap_or("(no text)");
            format!("{}={text:?}", attribute.key)
        };
        let resource: Vec<_> = export.resources().flatten().take(32).map(of).collect();
        let names: Vec<_> = if export.target.ends_with(Signal::Metrics.path()) {
            export.metrics().take(32).map(|metric| metric.name).collect()
        } else {
            Vec::new()
        };
        format!("{} records {names:?} of a resource with {}", export.count(), resource.join(", "))
    } else {
        "no export in protobuf".to_owned()
    };
    log.remark(format!(
        "OTLP receiver: {} {}, {} bytes: {what}; its header fields: {}",
        export.method,
        export.target,
        arrival.body.len(),
        fields(&export.headers)
    ));
    let mut exports = exports.lock().unwrap_or_else(PoisonError::into_inner);
    if exports.len() < MAX_EXPORTS {
        exports.push(export);
    }
    drop(exports);
    if arrival.method == Method::CONNECT {
        arrival.respond(502, &[], Bytes::new());
    } else {
        arrival.respond(200, &[("content-type", "application/x-protobuf")], Bytes::new());
    }
}
