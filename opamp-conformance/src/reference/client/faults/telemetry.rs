//! The ways in which the reference client can break over its own telemetry.

pub(super) const FAULTS: &[(&str, &str)] = &[
    ("metrics-are-not-sent", "the destination offered for metrics is not used"),
    ("metrics-are-sent-once", "telemetry is exported once and never again"),
    ("metrics-are-sent-every-minute", "metrics are exported every 60 s"),
    ("telemetry-ends-with-the-next-message", "a message without settings ends the telemetry"),
    ("telemetry-left-out-ends", "an offer without settings for a signal ends the signal"),
    ("traces-are-not-sent", "the destination offered for traces is not used"),
    ("logs-are-not-sent", "the destination offered for logs is not used"),
    ("process-metrics-are-missing", "the metrics have nothing of the process"),
    ("process-metric-has-another-unit", "process.cpu.time is in milliseconds"),
    ("resource-lacks-the-instance-id", "the resource has no service.instance.id"),
    ("resource-has-another-host", "host.name differs between resource and description"),
    ("resource-alone-has-a-namespace", "the resource has a namespace the description has not"),
    ("telemetry-headers-are-not-sent", "the header fields offered for telemetry are not sent"),
    ("telemetry-certificate-is-not-used", "the certificate offered for telemetry is not used"),
    ("telemetry-keeps-its-old-certificate", "settings without a certificate leave the last in use"),
    (
        "telemetry-tls-is-used-for-opamp",
        "the TLS settings for telemetry are used for OpAMP as well",
    ),
    ("telemetry-proxy-is-used-for-opamp", "the proxy for telemetry is used for OpAMP as well"),
];
