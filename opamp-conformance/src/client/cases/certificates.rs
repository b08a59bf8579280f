//! Client certificates in offers. The servers they are for ask for a certificate without insisting
//! on one, so that a client which presents none is seen.

use opamp_proto::v1::{OpAmpConnectionSettings, TlsCertificate, TlsConnectionSettings};

use crate::case::{Case, Script};
use crate::client::offer::Outcome;
use crate::client::{ClientStage, Host, Running, Start};
use crate::judge::Stop;
use crate::report::Transport;
use crate::wire::authority::{self, Authority, Identity, server_config};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/certificates/offered",
        judges: &["CERT-01"],
        transports: Transport::BOTH,
        does: "offers a client certificate",
        expects: "the client presents it in the next TLS handshake",
        alone: false,
        broken_by: &["offered-certificate-is-not-presented"],
        script: Script::Client(|stage| Box::pin(offered(stage))),
    },
    Case {
        name: "client/certificates/left-out",
        judges: &["CERT-03"],
        transports: Transport::BOTH,
        does: "offers a client certificate, and then another server without a certificate",
        expects: "the client presents none any more",
        alone: false,
        broken_by: &["certificate-left-out-is-kept"],
        script: Script::Client(|stage| Box::pin(left_out(stage))),
    },
    Case {
        name: "client/certificates/authority",
        judges: &["CERT-16"],
        transports: Transport::BOTH,
        does: "offers a certificate with its authority, and a server that this authority vouches for",
        expects: "the client does not connect, since the authority is none it trusts",
        alone: false,
        broken_by: &["authority-of-the-certificate-is-trusted", "servers-are-not-verified"],
        script: Script::Client(|stage| Box::pin(authority_of_certificate(stage))),
    },
    Case {
        name: "client/certificates/restart",
        judges: &["CONN-20"],
        transports: Transport::BOTH,
        does: "offers a client certificate, and starts the client again",
        expects: "the client has kept it, unless it rejected the offer",
        alone: false,
        broken_by: &["certificates-are-lost-with-the-process", "accepted-settings-are-not-kept"],
        script: Script::Client(|stage| Box::pin(restart(stage))),
    },
];

/// What certificates there are in a case.
pub(super) struct Certificates {
    /// Vouches for the servers.
    pub(super) trusted: Authority,
    /// Issues the client's certificates.
    pub(super) issuer: Authority,
    /// Whether the client is told of `trusted` when it is started, or by the offers.
    told_at_start: bool,
}

impl Certificates {
    pub(super) fn new(stage: &ClientStage) -> Result<Self, Stop> {
        Ok(Self {
            trusted: Authority::new("the authority of the servers")?,
            issuer: Authority::new("the authority of the clients")?,
            told_at_start: stage.subject.takes("ca"),
        })
    }

    /// A server that the client can trust and that asks for a certificate.
    pub(super) async fn server(&self, stage: &ClientStage) -> Result<Host, Stop> {
        let tls = server_config(&self.trusted.server()?, Some(self.issuer.pem()), false)?;
        stage.host_with_tls(Some(tls)).await
    }

    /// What the client is told at its start: a place to keep a certificate, too.
    pub(super) fn start(&self, stage: &mut ClientStage, host: &Host) -> Start {
        let state = stage.state();
        Start {
            state: stage.subject.takes("state").then_some(state),
            ca: self.told_at_start.then(|| self.trusted.pem().to_owned()),
            ..stage.start_for(host)
        }
    }

    /// Settings for this server.
    pub(super) fn settings(
        &self,
        stage: &ClientStage,
        host: &Host,
        certificate: Option<TlsCertificate>,
    ) -> OpAmpConnectionSettings {
        let tls = TlsConnectionSettings {
            ca_pem_contents: self.trusted.pem().to_owned(),
            ..Default::default()
        };
        OpAmpConnectionSettings {
            certificate,
            tls: (!self.told_at_start).then_some(tls),
            ..stage.settings_for(host)
        }
    }

    /// A new identity of a client, and how it is offered.
    pub(super) fn client(&self) -> Result<(Identity, TlsCertificate), Stop> {
        let identity = self.issuer.client("the client")?;
        let certificate = TlsCertificate {
            cert: identity.cert.clone().into(),
            private_key: identity.key.clone().into(),
            ca_cert: self.issuer.pem().to_owned().into(),
        };
        Ok((identity, certificate))
    }
}

/// Whether the client presented this certificate when it came last, and what it did.
pub(super) fn presents(host: &Host, pem: &str) -> (bool, &'static str) {
    let presented = host.visitor.as_ref().and_then(|visitor| visitor.certificates.first());
    match presented {
        None => (false, "no certificate is presented"),
        Some(presented) if Some(presented) == authority::certificate(pem).as_ref() => {
            (true, "it is presented")
        }
        Some(_) => (false, "another certificate is presented"),
    }
}

/// The client at a server for which it was offered a certificate, and the message it came with.
struct Equipped {
    certificates: Certificates,
    identity: Identity,
    start: Start,
    client: Box<dyn Running>,
    old: Host,
    new: Host,
    outcome: Outcome,
    offer: crate::client::offer::Offer,
}

async fn equip(stage: &mut ClientStage) -> Result<Equipped, Stop> {
    let certificates = Certificates::new(stage)?;
    let mut old = stage.host().await?;
    let start = certificates.start(stage, &old);
    let (client, first) = stage.admit(&mut old, start.clone()).await?;
    let mut new = certificates.server(stage).await?;
    let (identity, certificate) = certificates.client()?;
    let settings = certificates.settings(stage, &new, Some(certificate));
    let mut offer = stage.offer(&mut old, &first, settings).await?;
    let outcome = offer.follow(stage, &mut old, &mut new).await;
    Ok(Equipped { certificates, identity, start, client, old, new, outcome, offer })
}

impl Equipped {
    fn unreached(&self) -> Stop {
        Stop::Unreached(format!("the client {}", self.offer.told(&self.outcome)))
    }
}

async fn offered(stage: &mut ClientStage) -> Result<(), Stop> {
    let equipped = equip(stage).await?;
    if !matches!(equipped.outcome, Outcome::Arrived(_)) {
        return Err(equipped.unreached());
    }
    let (holds, actual) = presents(&equipped.new, &equipped.identity.cert);
    stage.judge.expect("CERT-01", holds, "the offered certificate", actual);
    Ok(())
}

async fn left_out(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut equipped = equip(stage).await?;
    let why = equipped.unreached();
    let Outcome::Arrived(arrival) = equipped.outcome else { return Err(why) };
    if !presents(&equipped.new, &equipped.identity.cert).0 {
        return Err(Stop::Unreached("the client does not present the certificate".to_owned()));
    }
    let last = equipped.offer.settle(stage, &mut equipped.new, *arrival).await;
    let mut third = equipped.certificates.server(stage).await?;
    let settings = equipped.certificates.settings(stage, &third, None);
    let mut offer = stage.offer(&mut equipped.new, &last, settings).await?;
    offer.arrive(stage, &mut equipped.new, &mut third).await?;
    let none = third.visitor.as_ref().is_some_and(|visitor| visitor.certificates.is_empty());
    let actual = if none { "none is presented" } else { "a certificate is presented" };
    stage.judge.expect("CERT-03", none, "no certificate", actual);
    Ok(())
}

async fn authority_of_certificate(stage: &mut ClientStage) -> Result<(), Stop> {
    let certificates = Certificates::new(stage)?;
    let mut old = stage.host().await?;
    let start = certificates.start(stage, &old);
    let (_client, first) = stage.admit(&mut old, start).await?;
    let tls =
        server_config(&certificates.issuer.server()?, Some(certificates.issuer.pem()), false)?;
    let mut new = stage.host_with_tls(Some(tls)).await?;
    let (_, certificate) = certificates.client()?;
    let settings = certificates.settings(stage, &new, Some(certificate));
    let mut offer = stage.offer(&mut old, &first, settings).await?;
    let outcome = offer.follow(stage, &mut old, &mut new).await;
    let told = format!("the client {}", offer.told(&outcome));
    if new.endpoint.attempts().is_empty() {
        return Err(Stop::Unreached(told));
    }
    let holds = !matches!(outcome, Outcome::Arrived(_));
    stage.judge.expect("CERT-16", holds, "no connection", told);
    Ok(())
}

async fn restart(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut equipped = equip(stage).await?;
    let why = equipped.unreached();
    let Outcome::Arrived(arrival) = equipped.outcome else {
        if equipped.new.endpoint.attempts().is_empty() {
            stage.judge.expect("CONN-20", true, "the offer rejected or kept", why.to_string());
            return Ok(());
        }
        return Err(why);
    };
    if !presents(&equipped.new, &equipped.identity.cert).0 {
        return Err(Stop::Unreached("the client does not present the certificate".to_owned()));
    }
    equipped.offer.settle(stage, &mut equipped.new, *arrival).await;
    equipped.client.kill().await;
    stage.log.remark("the client is killed");
    equipped.old.cut();
    equipped.new.cut();
    equipped.new.visitor = None;
    let _client = stage.start(equipped.start).await?;
    let back = equipped.offer.resume(stage, &mut equipped.old, &mut equipped.new).await;
    let (holds, actual) = match back {
        true => presents(&equipped.new, &equipped.identity.cert),
        false => (false, "the client does not connect with the offered settings any more"),
    };
    stage.judge.expect("CONN-20", holds, "the certificate presented again", actual);
    Ok(())
}
