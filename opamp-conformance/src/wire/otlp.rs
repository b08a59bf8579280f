//! What the tester reads and writes of OTLP over HTTP: enough of the export requests to see whose
//! telemetry it is and which metrics it has. Traces and logs have the same shape; their records are
//! only counted.

use bytes::Bytes;
use opamp_proto::v1::KeyValue;

/// What is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// `own_metrics`.
    Metrics,
    /// `own_traces`.
    Traces,
    /// `own_logs`.
    Logs,
}

impl Signal {
    /// The usual path to export it to.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Metrics => "/v1/metrics",
            Self::Traces => "/v1/traces",
            Self::Logs => "/v1/logs",
        }
    }
}

/// ExportMetricsServiceRequest, ExportTraceServiceRequest or ExportLogsServiceRequest.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExportRequest {
    /// The telemetry of each resource.
    #[prost(message, repeated, tag = "1")]
    pub resources: Vec<OfResource>,
}

/// ResourceMetrics, ResourceSpans or ResourceLogs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OfResource {
    /// What it comes from.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// By the part of the program it comes from.
    #[prost(message, repeated, tag = "2")]
    pub scopes: Vec<OfScope>,
}

/// Resource.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    /// Its attributes.
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

/// ScopeMetrics, ScopeSpans or ScopeLogs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OfScope {
    /// Metrics, spans or log records, each as encoded.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub records: Vec<Bytes>,
}

/// Metric.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Metric {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its unit.
    #[prost(string, tag = "3")]
    pub unit: String,
    /// Set if it is a gauge.
    #[prost(message, optional, tag = "5")]
    pub gauge: Option<Points>,
    /// Set if it is a sum.
    #[prost(message, optional, tag = "7")]
    pub sum: Option<Points>,
}

/// Gauge or Sum.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Points {
    /// The data points, each as encoded.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub points: Vec<Bytes>,
    /// How a sum relates to the one before: 2 if it counts from the beginning.
    #[prost(int32, tag = "2")]
    pub temporality: i32,
    /// Whether a sum can only grow.
    #[prost(bool, tag = "3")]
    pub is_monotonic: bool,
}
