//! The agent's own metrics, sent where the server wants them (TEL-08).
//!
//! OTLP over HTTP, every ten seconds (TEL-09), by the connection the server describes: headers,
//! certificate, TLS and proxy are those of the offer and concern this connection alone (TLS-09,
//! PROXY-07). What cannot be sent is lost: the next export says how things are then.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opamp_client::tls::Tls;
use opamp_proto::{Message as _, v1};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::otlp::{ExportMetricsServiceRequest, Resource, ResourceMetrics, Scope, ScopeMetrics};
use super::process;

/// Time between exports.
const INTERVAL: Duration = Duration::from_secs(10);

/// How long an export may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The exporter, which runs as long as this is there.
#[derive(Debug)]
pub(super) struct Exporter {
    destination: Arc<Destination>,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Exports metrics of this process, which started then, from now on. The resource is the
    /// agent's description, so that its telemetry can be found by it (TEL-14, TEL-15).
    pub(super) fn start(
        destination: Arc<Destination>,
        resource: v1::AgentDescription,
        started: SystemTime,
    ) -> Self {
        let task = tokio::spawn(Arc::clone(&destination).export(resource, started));
        Self { destination, task }
    }

    pub(super) fn destination(&self) -> Arc<Destination> {
        Arc::clone(&self.destination)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where metrics are to go, and how.
#[derive(Debug)]
pub(super) struct Destination {
    client: reqwest::Client,
    endpoint: reqwest::Url,
}

impl Destination {
    /// The destination of these settings, or why it cannot be one. Reads the system's certificates:
    /// not for a thread of the runtime.
    pub(super) fn of(settings: &v1::TelemetryConnectionSettings) -> Result<Self, String> {
        let endpoint = reqwest::Url::parse(&settings.destination_endpoint)
            .map_err(|error| format!("destination_endpoint: {error}"))?;
        if !matches!(endpoint.scheme(), "http" | "https") {
            return Err("destination_endpoint: neither http nor https".to_owned());
        }
        if settings.tls.as_ref().is_some_and(|tls| tls.insecure_skip_verify) {
            return Err("tls: the agent verifies whom it sends to".to_owned());
        }
        let tls = Tls::new()
            .with_offered(settings.tls.as_ref(), settings.certificate.as_ref())
            .and_then(|tls| tls.config())
            .map_err(|error| error.to_string())?;
        let mut headers = headers(settings.headers.as_ref())?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured((*tls).clone())
            .default_headers(headers)
            // It would take the credentials along.
            .redirect(reqwest::redirect::Policy::none())
            .timeout(PATIENCE);
        if let Some(offered) = &settings.proxy {
            let proxy = reqwest::Proxy::all(&offered.url)
                .map_err(|_| "proxy: its url cannot be used".to_owned())?;
            builder =
                builder.proxy(proxy.headers(self::headers(offered.connect_headers.as_ref())?));
        }
        let client = builder.build().map_err(|error| error.to_string())?;
        Ok(Self { client, endpoint })
    }

    /// The destination without what may be secret in it.
    pub(super) fn shown(&self) -> String {
        let host = self.endpoint.host_str().unwrap_or_default();
        let port = self.endpoint.port().map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}://{host}{port}{}", self.endpoint.scheme(), self.endpoint.path())
    }

    async fn export(self: Arc<Self>, resource: v1::AgentDescription, started: SystemTime) {
        let mut attributes = resource.identifying_attributes;
        attributes.extend(resource.non_identifying_attributes);
        let resource = Resource { attributes };
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reachable = true;
        loop {
            ticks.tick().await;
            let outcome = self.post(&request(resource.clone(), started)).await;
            match &outcome {
                Ok(()) => tracing::debug!("metrics are exported"),
                // A destination that is down is news once. The error does not show the URL.
                Err(error) if reachable => tracing::warn!(error, "metrics are not exported"),
                Err(error) => tracing::debug!(error, "metrics are not exported"),
            }
            reachable = outcome.is_ok();
        }
    }

    async fn post(&self, request: &ExportMetricsServiceRequest) -> Result<(), String> {
        let request = self.client.post(self.endpoint.clone()).body(request.encode_to_vec());
        let response = request.send().await.and_then(reqwest::Response::error_for_status);
        response.map(drop).map_err(|error| error.without_url().to_string())
    }
}

fn headers(offered: Option<&v1::Headers>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for header in offered.into_iter().flat_map(|offered| &offered.headers) {
        let illegal = || format!("headers: {:?} or its value is not legal", header.key);
        let name = HeaderName::try_from(&header.key).map_err(|_| illegal())?;
        let mut value = HeaderValue::try_from(&header.value).map_err(|_| illegal())?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

fn request(resource: Resource, started: SystemTime) -> ExportMetricsServiceRequest {
    let scope =
        Scope { name: "opamp-examples".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let metrics = process::metrics(started, SystemTime::now());
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope), metrics }];
    let resource = Some(resource);
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics { resource, scope_metrics }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_shown_without_its_secrets() {
        let settings = v1::TelemetryConnectionSettings {
            destination_endpoint: "http://user:hush@sink:4318/v1/metrics?key=hush".to_owned(),
            ..Default::default()
        };
        let shown = Destination::of(&settings).unwrap().shown();
        assert_eq!(shown, "http://sink:4318/v1/metrics");
    }

    #[test]
    fn settings_that_cannot_work_are_refused_with_the_reason() {
        let good = v1::TelemetryConnectionSettings {
            destination_endpoint: "http://127.0.0.1:4318/v1/metrics".to_owned(),
            ..Default::default()
        };
        Destination::of(&good).unwrap();
        let bad_header = v1::Header { key: "a b".to_owned(), value: "hush".to_owned() };
        for (bad, why) in [
            (
                v1::TelemetryConnectionSettings {
                    destination_endpoint: "sink:4318".to_owned(),
                    ..good.clone()
                },
                "destination_endpoint",
            ),
            (
                v1::TelemetryConnectionSettings {
                    headers: Some(v1::Headers { headers: vec![bad_header] }),
                    ..good.clone()
                },
                "headers",
            ),
            (
                v1::TelemetryConnectionSettings {
                    tls: Some(v1::TlsConnectionSettings {
                        insecure_skip_verify: true,
                        ..Default::default()
                    }),
                    ..good
                },
                "tls",
            ),
        ] {
            let error = Destination::of(&bad).unwrap_err();
            assert!(error.starts_with(why) && !error.contains("hush"), "{error}");
        }
    }
}
