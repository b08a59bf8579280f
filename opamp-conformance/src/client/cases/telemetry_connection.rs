//! How the client connects to where its telemetry goes: certificate, TLS and proxy, and that they
//! concern this connection alone.

use opamp_proto::v1::{
    ProxyConnectionSettings, TelemetryConnectionSettings, TlsCertificate, TlsConnectionSettings,
};
use tokio::time::Instant;

use super::telemetry::{offer, settings, until};
use crate::case::{Case, Script};
use crate::client::otlp_sink::OtlpSink;
use crate::client::{ClientStage, Host, Running};
use crate::judge::Stop;
use crate::mask::agent::REPORTS_OWN_METRICS;
use crate::report::Transport;
use crate::wire::authority::{Authority, CertificateError, server_config};
use crate::wire::otlp::Signal;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/telemetry-connection/certificate",
        judges: &["CERT-04", "CERT-06"],
        transports: Transport::BOTH,
        does: "offers a destination for metrics with a client certificate, and then without one",
        expects: "the certificate is presented there, and later no more",
        alone: false,
        broken_by: &["telemetry-certificate-is-not-used", "telemetry-keeps-its-old-certificate"],
        script: Script::Client(|stage| Box::pin(certificate(stage))),
    },
    Case {
        name: "client/telemetry-connection/own-tls",
        judges: &["TLS-09"],
        transports: Transport::BOTH,
        does: "offers TLS settings for metrics that trust another authority than that of the OpAMP \
               server, and closes the OpAMP connection before that and once metrics arrive",
        expects: "the client connects to the OpAMP server again",
        alone: false,
        broken_by: &["telemetry-tls-is-used-for-opamp"],
        script: Script::Client(|stage| Box::pin(own_tls(stage))),
    },
    Case {
        name: "client/telemetry-connection/own-proxy",
        judges: &["PROXY-07"],
        transports: Transport::BOTH,
        does: "offers a proxy for metrics, and closes the OpAMP connection before that and once the \
               proxy was asked",
        expects: "the client connects to the OpAMP server again without the proxy",
        alone: false,
        broken_by: &["telemetry-proxy-is-used-for-opamp"],
        script: Script::Client(|stage| Box::pin(own_proxy(stage))),
    },
];

/// How long the first export may take, in seconds.
const EXPORT_SECONDS: f64 = 70.0;

fn harness(error: CertificateError) -> Stop {
    Stop::Harness(error.to_string())
}

/// Starts a client for this server that trusts this authority, if it can be told to, and goes on
/// only if it sends metrics.
async fn start(
    stage: &mut ClientStage,
    host: &mut Host,
    authority: &Authority,
) -> Result<Box<dyn Running>, Stop> {
    let mut start = stage.start_for(host);
    start.ca = stage.subject.takes("ca").then(|| authority.pem().to_owned());
    let client = stage.start(start).await?;
    let first = host.first(stage.pace.start()).await?;
    stage.requires(&first, REPORTS_OWN_METRICS)?;
    Ok(client)
}

/// Goes on only if the client comes back after its connections end, as it has to do later on.
async fn must_come_back(stage: &ClientStage, host: &mut Host) -> Result<(), Stop> {
    let lost = || Stop::Unreached("the client does not come back to the OpAMP server".to_owned());
    come_back(stage, host).await.then_some(()).ok_or_else(lost)
}

/// Ends every connection of the client to the server, and waits for its next message.
async fn come_back(stage: &ClientStage, host: &mut Host) -> bool {
    host.answer().await;
    host.cut();
    host.endpoint.refuse().await;
    let listening = host.endpoint.listen().await.is_ok();
    let within = stage.pace.comeback() + stage.heartbeat();
    listening && host.hear(within, |_| true).await.is_some()
}

async fn certificate(stage: &mut ClientStage) -> Result<(), Stop> {
    let authority = Authority::new("telemetry").map_err(harness)?;
    let mut host = stage.host().await?;
    let _client = start(stage, &mut host, &authority).await?;
    let server = authority.server().map_err(harness)?;
    let tls = server_config(&server, Some(authority.pem()), false).map_err(harness)?;
    let sink = OtlpSink::open(&stage.subject.network(), Some(tls), &stage.log).await?;
    let identity = authority.client("telemetry of an agent").map_err(harness)?;
    let trust =
        TlsConnectionSettings { ca_pem_contents: authority.pem().to_owned(), ..Default::default() };
    let without =
        TelemetryConnectionSettings { tls: Some(trust), ..settings(&sink, Signal::Metrics) };
    let with = TelemetryConnectionSettings {
        certificate: Some(TlsCertificate {
            cert: identity.cert.into(),
            private_key: identity.key.into(),
            ca_cert: authority.pem().to_owned().into(),
        }),
        ..without.clone()
    };
    offer(stage, &mut host, Signal::Metrics, with).await?;
    let exports = || sink.exports(Signal::Metrics);
    if !until(stage, &mut host, EXPORT_SECONDS, || !exports().is_empty()).await {
        return Err(Stop::Unreached("no metrics arrive over https".to_owned()));
    }
    let presented = exports().iter().any(|export| export.with_certificate);
    let actual = if presented { "it was presented" } else { "no certificate was presented" };
    stage.judge.expect("CERT-04", presented, "the offered certificate", actual);
    if !presented {
        return Err(Stop::Unreached("the client does not use the certificate".to_owned()));
    }
    offer(stage, &mut host, Signal::Metrics, without).await?;
    let offered = Instant::now();
    let later = || exports().into_iter().filter(|export| export.at > offered).collect::<Vec<_>>();
    // What was under way when the offer came may still go out as before.
    let bare = || later().iter().any(|export| !export.with_certificate);
    let dropped =
        until(stage, &mut host, EXPORT_SECONDS, || bare() || later().len() > 4).await && bare();
    if !dropped && later().is_empty() {
        return Err(Stop::Unreached("no metrics arrive after the second offer".to_owned()));
    }
    let with = later().iter().filter(|export| export.with_certificate).count();
    let actual = format!("{with} of {} later exports came with it", later().len());
    stage.judge.expect("CERT-06", dropped, "exports without a certificate", actual);
    Ok(())
}

async fn own_tls(stage: &mut ClientStage) -> Result<(), Stop> {
    if !stage.subject.takes("ca") {
        return Err(Stop::Missing("a way to tell the client whom to trust".to_owned()));
    }
    let (authority, other) =
        (Authority::new("OpAMP").map_err(harness)?, Authority::new("other").map_err(harness)?);
    let of_opamp = authority.server().map_err(harness)?;
    let of_opamp = server_config(&of_opamp, None, false).map_err(harness)?;
    let mut host = stage.host_with_tls(Some(of_opamp)).await?;
    let _client = start(stage, &mut host, &authority).await?;
    must_come_back(stage, &mut host).await?;
    let of_sink = server_config(&other.server().map_err(harness)?, None, false).map_err(harness)?;
    let sink = OtlpSink::open(&stage.subject.network(), Some(of_sink), &stage.log).await?;
    let trust =
        TlsConnectionSettings { ca_pem_contents: other.pem().to_owned(), ..Default::default() };
    let offered =
        TelemetryConnectionSettings { tls: Some(trust), ..settings(&sink, Signal::Metrics) };
    offer(stage, &mut host, Signal::Metrics, offered).await?;
    let arrives = || !sink.exports(Signal::Metrics).is_empty();
    if !until(stage, &mut host, EXPORT_SECONDS, arrives).await {
        return Err(Stop::Unreached("no metrics arrive with the offered authority".to_owned()));
    }
    let back = come_back(stage, &mut host).await;
    let actual = if back { "it is back" } else { "it does not come back" };
    stage.judge.expect("TLS-09", back, "the client trusts the OpAMP server as before", actual);
    Ok(())
}

async fn own_proxy(stage: &mut ClientStage) -> Result<(), Stop> {
    let authority = Authority::new("unused").map_err(harness)?;
    let mut host = stage.host().await?;
    let _client = start(stage, &mut host, &authority).await?;
    must_come_back(stage, &mut host).await?;
    let network = stage.subject.network();
    let sink = OtlpSink::open(&network, None, &stage.log).await?;
    // What a proxy is asked for is all there is to see, so any HTTP server can play one.
    let proxy = OtlpSink::open(&network, None, &stage.log).await?;
    let through = ProxyConnectionSettings { url: proxy.base().to_owned(), ..Default::default() };
    let offered =
        TelemetryConnectionSettings { proxy: Some(through), ..settings(&sink, Signal::Metrics) };
    offer(stage, &mut host, Signal::Metrics, offered).await?;
    let asked = || proxy.requests();
    if !until(stage, &mut host, EXPORT_SECONDS, || !asked().is_empty()).await {
        return Err(Stop::Unreached("the client does not use the proxy offered".to_owned()));
    }
    let back = come_back(stage, &mut host).await;
    let targets: Vec<_> = asked().into_iter().map(|request| request.target).collect();
    let opamp = host.endpoint.url().authority();
    let direct = back && !targets.iter().any(|target| target.contains(&opamp));
    let back = if back { "it is back" } else { "it does not come back" };
    let actual = format!("{back}; the proxy was asked for {targets:?}");
    stage.judge.expect("PROXY-07", direct, "the OpAMP connection does without the proxy", actual);
    Ok(())
}
