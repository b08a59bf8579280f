//! Proxies in offers. The server behind the proxy speaks TLS, so that a client has to have an HTTP
//! proxy connect it and cannot hand it plain requests.

use opamp_proto::v1::{
    Header, Headers, OpAmpConnectionSettings, ProxyConnectionSettings, TlsCertificate,
    TlsConnectionSettings,
};

use crate::case::{Case, Script};
use crate::client::offer::Outcome;
use crate::client::{ClientStage, Host, Start};
use crate::judge::Stop;
use crate::report::Transport;
use crate::wire::authority::{Authority, server_config};
use crate::wire::proxy::{Kind, Proxy};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/proxy/connect",
        judges: &["PROXY-05"],
        transports: Transport::BOTH,
        does: "offers an HTTP proxy with a header field for it",
        expects: "the client connects through it, and the field is in its CONNECT request",
        alone: false,
        broken_by: &["proxy-is-ignored", "connect-headers-are-not-sent"],
        script: Script::Client(|stage| Box::pin(connect(stage))),
    },
    Case {
        name: "client/proxy/left-out",
        judges: &["PROXY-02"],
        transports: Transport::BOTH,
        does: "offers an HTTP proxy, and then another server without a proxy",
        expects: "the client goes on using the proxy",
        alone: false,
        broken_by: &["proxy-left-out-is-forgotten"],
        script: Script::Client(|stage| Box::pin(left_out(stage))),
    },
    Case {
        name: "client/proxy/socks5",
        judges: &["PROXY-06"],
        transports: Transport::BOTH,
        does: "offers a SOCKS5 proxy with a header field that is of no use there",
        expects: "the client connects through it",
        alone: false,
        broken_by: &["proxy-is-ignored", "socks5-with-headers-is-refused"],
        script: Script::Client(|stage| Box::pin(socks5(stage))),
    },
    Case {
        name: "client/proxy/certificate",
        judges: &["PROXY-03"],
        transports: Transport::BOTH,
        does: "offers a certificate, and a proxy with TLS that asks for it",
        expects: "the client presents it to the proxy, and trusts the proxy as it does the server",
        alone: false,
        broken_by: &[
            "no-certificate-for-the-proxy",
            "proxy-is-ignored",
            "offered-authority-is-not-trusted",
            "offered-certificate-is-not-presented",
        ],
        script: Script::Client(|stage| Box::pin(certificate(stage))),
    },
];

async fn open(
    stage: &ClientStage,
    kind: Kind,
    tls: Option<std::sync::Arc<rustls::ServerConfig>>,
) -> Result<Proxy, Stop> {
    Proxy::open(&stage.subject.network(), kind, tls, &stage.log)
        .await
        .map_err(|error| Stop::Harness(format!("cannot listen: {error}")))
}

async fn server(stage: &ClientStage, authority: &Authority) -> Result<Host, Stop> {
    let tls = server_config(&authority.server()?, None, false)?;
    stage.host_with_tls(Some(tls)).await
}

/// Settings for a server of this authority behind this proxy.
fn behind(
    stage: &ClientStage,
    proxy: &Proxy,
    authority: &Authority,
    host: &Host,
) -> OpAmpConnectionSettings {
    let field = Header { key: "X-Conformance-Proxy".to_owned(), value: "pass".to_owned() };
    OpAmpConnectionSettings {
        tls: Some(TlsConnectionSettings {
            ca_pem_contents: authority.pem().to_owned(),
            ..Default::default()
        }),
        proxy: Some(ProxyConnectionSettings {
            url: proxy.url().to_owned(),
            connect_headers: Some(Headers { headers: vec![field] }),
        }),
        ..stage.settings_for(host)
    }
}

/// Whether a connection to this server went through the proxy.
fn passed(proxy: &Proxy, host: &Host) -> bool {
    let target = host.endpoint.url().authority();
    proxy.passages().iter().any(|passage| passage.target == target)
}

async fn connect(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut old, _client, first) = stage.meet().await?;
    let authority = Authority::new("a private authority")?;
    let proxy = open(stage, Kind::Http, None).await?;
    let mut new = server(stage, &authority).await?;
    let settings = behind(stage, &proxy, &authority, &new);
    let mut offer = stage.offer(&mut old, &first, settings).await?;
    let outcome = offer.follow(stage, &mut old, &mut new).await;
    let told = format!("the client {}", offer.told(&outcome));
    if !matches!(outcome, Outcome::Arrived(_)) && proxy.passages().is_empty() {
        return Err(Stop::Unreached(told));
    }
    let passages = proxy.passages();
    let seen = passages.iter().any(|passage| {
        passage.headers.get("x-conformance-proxy").is_some_and(|value| value == "pass")
    });
    let actual = match passages.is_empty() {
        true => format!("{told}, and not through the proxy"),
        false if seen => "it is there".to_owned(),
        false => "a CONNECT request without the field".to_owned(),
    };
    stage.judge.expect("PROXY-05", seen, "a CONNECT request with the offered field", actual);
    Ok(())
}

async fn left_out(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut old, _client, first) = stage.meet().await?;
    let authority = Authority::new("a private authority")?;
    let proxy = open(stage, Kind::Http, None).await?;
    let mut new = server(stage, &authority).await?;
    let settings = behind(stage, &proxy, &authority, &new);
    let mut offer = stage.offer(&mut old, &first, settings.clone()).await?;
    let arrival = offer.arrive(stage, &mut old, &mut new).await?;
    if !passed(&proxy, &new) {
        return Err(Stop::Unreached("the client does not use the proxy".to_owned()));
    }
    let last = offer.settle(stage, &mut new, arrival).await;
    let mut third = server(stage, &authority).await?;
    let settings =
        OpAmpConnectionSettings { destination_endpoint: third.url(), proxy: None, ..settings };
    let mut offer = stage.offer(&mut new, &last, settings).await?;
    offer.arrive(stage, &mut new, &mut third).await?;
    let holds = passed(&proxy, &third);
    let actual = if holds { "through it" } else { "past it" };
    stage.judge.expect("PROXY-02", holds, "a connection through the proxy", actual);
    Ok(())
}

async fn socks5(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut old, _client, first) = stage.meet().await?;
    let authority = Authority::new("a private authority")?;
    let proxy = open(stage, Kind::Socks5, None).await?;
    let mut new = server(stage, &authority).await?;
    let settings = behind(stage, &proxy, &authority, &new);
    let mut offer = stage.offer(&mut old, &first, settings).await?;
    let outcome = offer.follow(stage, &mut old, &mut new).await;
    let told = format!("the client {}", offer.told(&outcome));
    let holds = !proxy.passages().is_empty();
    stage.judge.expect("PROXY-06", holds, "a connection through the proxy", told);
    Ok(())
}

async fn certificate(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut old = stage.host().await?;
    let state = stage.state();
    let start =
        Start { state: stage.subject.takes("state").then_some(state), ..stage.start_for(&old) };
    let (_client, first) = stage.admit(&mut old, start).await?;
    let (authority, issuer) = (Authority::new("a private authority")?, Authority::new("issuer")?);
    let tls = server_config(&authority.server()?, Some(issuer.pem()), true)?;
    let proxy = open(stage, Kind::Http, Some(tls)).await?;
    let mut new = server(stage, &authority).await?;
    let identity = issuer.client("client")?;
    let settings = OpAmpConnectionSettings {
        certificate: Some(TlsCertificate {
            cert: identity.cert.into(),
            private_key: identity.key.into(),
            ca_cert: issuer.pem().to_owned().into(),
        }),
        ..behind(stage, &proxy, &authority, &new)
    };
    let mut offer = stage.offer(&mut old, &first, settings).await?;
    let outcome = offer.follow(stage, &mut old, &mut new).await;
    let told = format!("the client {}", offer.told(&outcome));
    if proxy.attempts() == 0 && !matches!(outcome, Outcome::Arrived(_)) {
        return Err(Stop::Unreached(told));
    }
    let passages = proxy.passages();
    let holds = !passages.is_empty() && passages.iter().all(|passage| passage.with_certificate);
    let actual = if holds { "it does".to_owned() } else { told };
    stage.judge.expect("PROXY-03", holds, "the offered certificate at the proxy", actual);
    Ok(())
}
