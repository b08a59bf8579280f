//! Certificate requests of the agent: when it sends one, what is in it, and what it does with the
//! certificate or the refusal it gets.

use opamp_proto::v1::{
    AgentIdentification, AgentToServer, ConnectionSettingsRequest, ServerErrorResponse,
    ServerErrorResponseType, ServerToAgent, TlsCertificate,
};

use super::certificates::{Certificates, presents};
use crate::case::{Case, Script};
use crate::client::offer::Outcome;
use crate::client::{ClientStage, Heard, Host, Running, Start};
use crate::hook::{Action, HookError};
use crate::judge::Stop;
use crate::mask::server as mask;
use crate::report::Transport;
use crate::wire::authority::{Authority, server_config};
use crate::wire::certificate::{Flaw, SigningRequest};
use crate::wire::uid;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/certificate-requests/content",
        judges: &["CSR-01", "CSR-04", "CSR-05", "CSR-06", "CSR-08", "CSR-16", "CSR-19"],
        transports: Transport::BOTH,
        does: "has the client ask for a certificate",
        expects: "a signing request for the OpAMP connection, in PEM, signed with its own key",
        alone: false,
        broken_by: &[
            "certificate-request-is-not-pem",
            "certificate-request-is-signed-wrongly",
            "certificate-request-is-empty",
        ],
        script: Script::Client(|stage| Box::pin(content(stage))),
    },
    Case {
        name: "client/certificate-requests/untrusted-server",
        judges: &["CSR-02"],
        transports: Transport::BOTH,
        does: "has the client ask for a certificate at a server it cannot trust",
        expects: "no request arrives",
        alone: false,
        broken_by: &["servers-are-not-verified"],
        script: Script::Client(|stage| Box::pin(untrusted_server(stage))),
    },
    Case {
        name: "client/certificate-requests/not-announced",
        judges: &["CSR-25"],
        transports: Transport::BOTH,
        does: "has the client ask a server that does not take certificate requests",
        expects: "no request arrives",
        alone: false,
        broken_by: &["certificate-request-to-any-server"],
        script: Script::Client(|stage| Box::pin(not_announced(stage))),
    },
    Case {
        name: "client/certificate-requests/issued",
        judges: &["CSR-13"],
        transports: Transport::BOTH,
        does: "offers the certificate the client asked for, and starts the client again",
        expects: "the client presents it, and does so again after the start",
        alone: false,
        broken_by: &[
            "issued-certificate-is-not-used",
            "certificates-are-lost-with-the-process",
            "accepted-settings-are-not-kept",
        ],
        script: Script::Client(|stage| Box::pin(issued(stage))),
    },
    Case {
        name: "client/certificate-requests/refused",
        judges: &["ERR-14"],
        transports: Transport::BOTH,
        does: "answers a certificate request with BAD_REQUEST",
        expects: "the client does not send the same request again",
        alone: false,
        broken_by: &["bad-request-is-retried", "refused-certificate-request-is-repeated"],
        script: Script::Client(|stage| Box::pin(refused(stage))),
    },
    Case {
        name: "client/certificate-requests/new-instance-uid",
        judges: &["CSR-21"],
        transports: Transport::BOTH,
        does: "gives a new instance uid to a client whose certificate names the one it had",
        expects: "another certificate request, which names the new one",
        alone: false,
        broken_by: &["certificate-stays-with-the-old-uid"],
        script: Script::Client(|stage| Box::pin(new_instance_uid(stage))),
    },
];

/// A client that has asked for a certificate.
struct Asked {
    certificates: Certificates,
    start: Start,
    client: Box<dyn Running>,
    host: Host,
    /// The message with the request; it waits for its answer.
    message: AgentToServer,
}

/// Starts a client and has it ask, over TLS where it can be told whom to trust. One that does not
/// ask by itself is told to by a hook.
async fn ask(stage: &mut ClientStage) -> Result<Asked, Stop> {
    let certificates = Certificates::new(stage)?;
    let mut host = if stage.subject.takes("ca") {
        certificates.server(stage).await?
    } else {
        stage.host().await?
    };
    let start = certificates.start(stage, &host);
    let (mut client, first) = stage.admit(&mut host, start.clone()).await?;
    let by_itself = hear_request(&mut host, stage.pace.quiet(), first).await;
    let message = match by_itself {
        Some(message) => message,
        None => again(stage, client.as_mut(), &mut host).await?,
    };
    Ok(Asked { certificates, start, client, host, message })
}

/// Has the client ask by a hook, and waits for the request.
async fn again(
    stage: &ClientStage,
    client: &mut dyn Running,
    host: &mut Host,
) -> Result<AgentToServer, Stop> {
    // Over HTTP a client may be deaf to its hooks until its request is answered.
    host.answer().await;
    stage.hook(client, Action::RequestCertificate).await?;
    let within = stage.pace.work() + stage.heartbeat();
    let asks = |message: &AgentToServer| message.connection_settings_request.is_some();
    let message = host.hear(within, asks).await;
    message.ok_or_else(|| Stop::Unreached("the client does not ask for a certificate".to_owned()))
}

/// Waits for a request, in this message or a later one.
async fn hear_request(
    host: &mut Host,
    within: std::time::Duration,
    first: AgentToServer,
) -> Option<AgentToServer> {
    if first.connection_settings_request.is_some() {
        return Some(first);
    }
    host.hear(within, |message| message.connection_settings_request.is_some()).await
}

/// The signing request in a message; empty where there is none.
fn csr(message: &AgentToServer) -> &[u8] {
    let opamp = message.connection_settings_request.as_ref();
    let opamp = opamp.and_then(|request: &ConnectionSettingsRequest| request.opamp.as_ref());
    let request = opamp.and_then(|opamp| opamp.certificate_request.as_ref());
    request.map_or(&[], |request| &request.csr)
}

fn read(message: &AgentToServer) -> Result<SigningRequest, Stop> {
    SigningRequest::read(csr(message)).map_err(|flaw| Stop::Unreached(flaw.to_string()))
}

async fn content(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut asked = ask(stage).await?;
    let opamp = asked.message.connection_settings_request.as_ref();
    let opamp = opamp.and_then(|request| request.opamp.as_ref());
    let has_csr = opamp.is_some_and(|opamp| opamp.certificate_request.is_some());
    let visitor = asked.host.visitor.as_ref();
    let over_tls = visitor.is_some_and(|visitor| visitor.negotiated.is_some());
    let judge = &mut stage.judge;
    if stage.subject.takes("ca") {
        let actual = if over_tls { "it is" } else { "it is not" };
        judge.expect("CSR-01", over_tls, "a connection with TLS", actual);
    } else {
        judge.untestable("CSR-01", "the client cannot be told whom to trust");
    }
    let actual = if opamp.is_some() { "it is there" } else { "there is none" };
    judge.expect("CSR-08", opamp.is_some(), "a request for the OpAMP connection", actual);
    let actual = if has_csr { "it is there" } else { "there is none" };
    judge.expect("CSR-06", has_csr, "a certificate_request in the request", actual);
    match SigningRequest::read(csr(&asked.message)) {
        Ok(request) => {
            judge.expect("CSR-05", true, "a signing request in PEM", "it is one");
            match request.is_signed() {
                Ok(()) => judge.expect("CSR-04", true, "signed with its own key", "it is"),
                Err(Flaw::Wrong(why)) => {
                    judge.expect("CSR-04", false, "signed with its own key", why)
                }
                Err(unknown) => {
                    judge.untestable("CSR-04", unknown.to_string());
                    false
                }
            };
            let names = request.names(&asked.message.instance_uid);
            let actual = if names { "names the instance uid" } else { "names no instance uid" };
            judge.note("CSR-19", format!("the request {actual}"));
        }
        Err(flaw) => {
            let wrong = flaw.to_string();
            judge.expect("CSR-05", false, "a signing request in PEM", wrong.as_str());
            judge.expect("CSR-04", false, "a signing request", wrong);
            judge.untestable("CSR-19", "there is no request to look at");
        }
    }
    let repeated = again(stage, asked.client.as_mut(), &mut asked.host).await.is_ok();
    let actual = if repeated { "the client asks again when it is told to" } else { "it does not" };
    stage.judge.note("CSR-16", actual);
    Ok(())
}

async fn untrusted_server(stage: &mut ClientStage) -> Result<(), Stop> {
    stage.takes("ca")?;
    let certificates = Certificates::new(stage)?;
    let stranger = Authority::new("an authority nobody knows")?;
    let tls = server_config(&stranger.server()?, None, false)?;
    let mut host = stage.host_with_tls(Some(tls)).await?;
    let start = certificates.start(stage, &host);
    let mut client = stage.start(start).await?;
    // Whether it can be asked while it is not connected is its own affair.
    let _ = client.call(&Action::RequestCertificate).await;
    let until = tokio::time::Instant::now() + stage.pace.start();
    let mut came = false;
    while !came && tokio::time::Instant::now() < until && host.endpoint.attempts().len() < 2 {
        came = matches!(host.next(stage.pace.of(0.1)).await, Heard::Message(_));
    }
    if host.endpoint.attempts().is_empty() {
        return Err(Stop::Unreached("the client does not try to connect".to_owned()));
    }
    let actual = if came { "a message arrives" } else { "nothing arrives" };
    stage.judge.expect("CSR-02", !came, "nothing said to a server that is not trusted", actual);
    Ok(())
}

async fn not_announced(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut host = stage.host().await?;
    host.capabilities = mask::ALL & !mask::ACCEPTS_CONNECTION_SETTINGS_REQUEST;
    let start = stage.start_for(&host);
    let (mut client, first) = stage.admit(&mut host, start).await?;
    let mut came = hear_request(&mut host, stage.pace.quiet(), first).await.is_some();
    if !came {
        stage.log.remark("hook request_certificate");
        // A hook that refuses is as good as one that has no effect.
        if client.call(&Action::RequestCertificate).await == Err(HookError::Unsupported) {
            return Err(Stop::Missing("the hook `request_certificate`".to_owned()));
        }
        let within = stage.pace.quiet() + stage.heartbeat();
        let asks = |message: &AgentToServer| message.connection_settings_request.is_some();
        came = host.hear(within, asks).await.is_some();
    }
    let actual = if came { "a request arrives" } else { "none arrives" };
    stage.judge.expect("CSR-25", !came, "no certificate request", actual);
    Ok(())
}

/// A server with the certificate that the client asked for, and the client's way there.
async fn issue(
    stage: &mut ClientStage,
    asked: &mut Asked,
) -> Result<(String, Host, crate::client::offer::Offer, Outcome), Stop> {
    let pem = String::from_utf8_lossy(csr(&asked.message)).into_owned();
    let cert = asked.certificates.issuer.sign(&pem).map_err(|error| {
        Stop::Unreached(format!("the tester cannot issue the certificate: {error}"))
    })?;
    let mut new = asked.certificates.server(stage).await?;
    // The key is the client's own (A19).
    let certificate = TlsCertificate {
        cert: cert.clone().into(),
        ca_cert: asked.certificates.issuer.pem().to_owned().into(),
        ..Default::default()
    };
    let settings = asked.certificates.settings(stage, &new, Some(certificate));
    let mut offer = stage.offer(&mut asked.host, &asked.message, settings).await?;
    let outcome = offer.follow(stage, &mut asked.host, &mut new).await;
    Ok((cert, new, offer, outcome))
}

async fn issued(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut asked = ask(stage).await?;
    let (cert, mut new, mut offer, outcome) = issue(stage, &mut asked).await?;
    let told = format!("the client {}", offer.told(&outcome));
    let expected = "the issued certificate in the next handshake";
    let Outcome::Arrived(arrival) = outcome else {
        if !new.endpoint.attempts().is_empty() {
            stage.judge.expect("CSR-13", false, expected, told.as_str());
        }
        return Err(Stop::Unreached(told));
    };
    let (holds, actual) = presents(&new, &cert);
    if !stage.judge.expect("CSR-13", holds, expected, actual) || asked.start.state.is_none() {
        return Ok(());
    }
    offer.settle(stage, &mut new, *arrival).await;
    asked.client.kill().await;
    stage.log.remark("the client is killed");
    asked.host.cut();
    new.cut();
    new.visitor = None;
    let _client = stage.start(asked.start).await?;
    let (holds, actual) = match offer.resume(stage, &mut asked.host, &mut new).await {
        true => presents(&new, &cert),
        false => (false, "the client does not connect with the offered settings any more"),
    };
    stage.judge.expect("CSR-13", holds, "the issued certificate after a restart", actual);
    Ok(())
}

async fn refused(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut asked = ask(stage).await?;
    let refused = csr(&asked.message).to_vec();
    let error = ServerErrorResponse {
        r#type: ServerErrorResponseType::BadRequest as i32,
        error_message: "no certificate for you".to_owned(),
        ..Default::default()
    };
    // An error goes alone (A08).
    let refusal = ServerToAgent {
        instance_uid: asked.message.instance_uid.clone(),
        error_response: Some(error),
        ..Default::default()
    };
    asked.host.send(refusal).await?;
    let within = stage.pace.quiet() + 2 * stage.heartbeat();
    let same = |message: &AgentToServer| csr(message) == refused && !refused.is_empty();
    let again = asked.host.hear(within, same).await.is_some();
    let actual = if again { "it comes again" } else { "it does not come again" };
    stage.judge.expect("ERR-14", !again, "not the same request again", actual);
    Ok(())
}

async fn new_instance_uid(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut asked = ask(stage).await?;
    if !read(&asked.message)?.names(&asked.message.instance_uid) {
        let why = "the certificate request does not name the instance uid".to_owned();
        return Err(Stop::NotApplicable(why));
    }
    let (cert, mut new, mut offer, outcome) = issue(stage, &mut asked).await?;
    let told = format!("the client {}", offer.told(&outcome));
    let Outcome::Arrived(arrival) = outcome else { return Err(Stop::Unreached(told)) };
    if !presents(&new, &cert).0 {
        return Err(Stop::Unreached("the client does not present the certificate".to_owned()));
    }
    offer.settle(stage, &mut new, *arrival).await;
    let given = uid::fresh(&mut stage.rng, uid::now_ms());
    let identification = AgentIdentification { new_instance_uid: given.clone() };
    let message = new.message();
    new.send(ServerToAgent { agent_identification: Some(identification), ..message }).await?;
    let within = stage.pace.work() + 2 * stage.heartbeat();
    let asks = |message: &AgentToServer| message.connection_settings_request.is_some();
    let request = new.hear(within, asks).await;
    if request.is_none() && *new.uid() != given {
        let why = "the client does not take the instance uid it is given".to_owned();
        return Err(Stop::Unreached(why));
    }
    let holds = request.as_ref().is_some_and(|message| {
        SigningRequest::read(csr(message)).is_ok_and(|request| request.names(&given))
    });
    let actual = match (&request, holds) {
        (None, _) => "no request",
        (Some(_), true) => "it comes",
        (Some(_), false) => "a request that does not name it",
    };
    stage.judge.expect("CSR-21", holds, "a certificate request with the new id", actual);
    Ok(())
}
