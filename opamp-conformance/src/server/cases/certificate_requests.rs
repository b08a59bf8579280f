//! Certificates that agents ask for. Whether the server approves by itself or waits for somebody to
//! do so is its own affair: where nothing comes at once, the hook approves.

use bytes::Bytes;
use opamp_proto::v1::{
    AgentToServer, CertificateRequest, ConnectionSettingsRequest, OpAmpConnectionSettings,
    OpAmpConnectionSettingsRequest, ServerErrorResponseType, ServerToAgent,
};

use super::certificates::judge_flaw;
use crate::case::{Case, Script};
use crate::hook::Action;
use crate::judge::Stop;
use crate::mask::{agent as mask, server};
use crate::report::Transport;
use crate::server::{Agent, Heard, ServerStage};
use crate::wire::certificate::{Chain, Csr, Flaw};
use crate::wire::uid;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/certificate-requests/another-agent",
        judges: &["CSR-15", "CSR-20"],
        transports: Transport::BOTH,
        does: "sends a certificate request that names another agent's instance_uid",
        expects: "an error of type BadRequest, and no certificate for the other agent",
        alone: false,
        broken_by: &[
            "csr-of-another-agent-is-taken",
            "csr-refusal-is-no-bad-request",
            "wrong-csr-is-dropped",
        ],
        script: Script::Server(|stage| Box::pin(another_agent(stage))),
    },
    Case {
        name: "server/certificate-requests/broken-signature",
        judges: &["CSR-15", "CSR-17"],
        transports: Transport::BOTH,
        does: "sends a certificate request whose signature is wrong",
        expects: "an error of type BadRequest, and no certificate",
        alone: false,
        broken_by: &[
            "csr-is-not-verified",
            "csr-refusal-is-no-bad-request",
            "wrong-csr-is-dropped",
        ],
        script: Script::Server(|stage| Box::pin(broken_signature(stage))),
    },
    Case {
        name: "server/certificate-requests/empty",
        judges: &["CSR-07"],
        transports: Transport::BOTH,
        does: "sends a ConnectionSettingsRequest that asks for nothing",
        expects: "a reply as to any other message: no error and no offer",
        alone: false,
        broken_by: &["empty-request-is-refused"],
        script: Script::Server(|stage| Box::pin(empty(stage))),
    },
    Case {
        name: "server/certificate-requests/issue",
        judges: &["CSR-10", "CSR-11", "CSR-12", "CSR-14", "CSR-18", "CSR-24"],
        transports: Transport::BOTH,
        does: "asks for a certificate, and has the request approved if need be",
        expects: "an offer of a certificate for the key of the request, without a private key, \
                  with the authority that signed it",
        alone: false,
        broken_by: &[
            "ca-of-a-certificate-is-left-out",
            "certificate-is-not-pem",
            "csr-bit-is-not-announced",
            "issued-certificate-comes-with-a-key",
            "issued-certificate-has-another-key",
            "opamp-settings-are-kept-back",
            "capabilities-are-missing",
        ],
        script: Script::Server(|stage| Box::pin(issue(stage))),
    },
    Case {
        name: "server/certificate-requests/no-request",
        judges: &["CSR-15", "CSR-17"],
        transports: Transport::BOTH,
        does: "sends text that is no certificate request as one",
        expects: "an error of type BadRequest, and no certificate",
        alone: false,
        broken_by: &["csr-refusal-is-no-bad-request", "wrong-csr-is-dropped"],
        script: Script::Server(|stage| Box::pin(no_request(stage))),
    },
    Case {
        name: "server/certificate-requests/refused",
        judges: &["CSR-10", "CSR-15"],
        transports: Transport::BOTH,
        does: "asks for a certificate and has the request refused",
        expects: "an error of type BadRequest, and no certificate",
        alone: false,
        broken_by: &["csr-refusal-is-no-bad-request", "refused-csr-is-signed"],
        script: Script::Server(|stage| Box::pin(refused(stage))),
    },
    Case {
        name: "server/certificate-requests/while-pending",
        judges: &["TOFU-02"],
        transports: Transport::BOTH,
        does: "asks for a certificate without having one and goes on reporting meanwhile",
        expects: "the reports are taken as before",
        alone: false,
        broken_by: &["agents-awaiting-approval-are-refused"],
        script: Script::Server(|stage| Box::pin(while_pending(stage))),
    },
];

/// What became of a certificate request.
pub(super) enum Outcome {
    Issued(Box<OpAmpConnectionSettings>),
    Refused(ServerErrorResponseType, String),
    Nothing,
}

/// An agent that may be given certificates and has reported, and the reply.
pub(super) async fn asking(stage: &mut ServerStage) -> Result<(Agent, ServerToAgent), Stop> {
    let bits = mask::REPORTS_STATUS | mask::ACCEPTS_OPAMP_CONNECTION_SETTINGS;
    stage.reported(bits).await
}

/// As [`asking`], with a server that says it takes requests (A25).
pub(super) async fn ready_to_ask(stage: &mut ServerStage) -> Result<Agent, Stop> {
    let (agent, reply) = asking(stage).await?;
    stage.requires(&reply, server::ACCEPTS_CONNECTION_SETTINGS_REQUEST)?;
    Ok(agent)
}

fn request(agent: &mut Agent, csr: impl Into<Bytes>) -> AgentToServer {
    let certificate_request = Some(CertificateRequest { csr: csr.into() });
    let opamp = Some(OpAmpConnectionSettingsRequest { certificate_request });
    let connection_settings_request = Some(ConnectionSettingsRequest { opamp });
    AgentToServer { connection_settings_request, ..agent.message() }
}

/// What a message says about a certificate request.
fn outcome(message: ServerToAgent) -> Outcome {
    if let Some(error) = message.error_response {
        return Outcome::Refused(error.r#type(), error.error_message);
    }
    let opamp = message.connection_settings.and_then(|settings| settings.opamp);
    match opamp.filter(|opamp| opamp.certificate.is_some()) {
        Some(opamp) => Outcome::Issued(Box::new(opamp)),
        None => Outcome::Nothing,
    }
}

/// Sends a request and waits a little for what comes of it without anybody's doing.
pub(super) async fn ask(
    stage: &ServerStage,
    agent: &mut Agent,
    csr: impl Into<Bytes>,
) -> Result<Outcome, Stop> {
    let request = request(agent, csr);
    let reply = match agent.ask(request).await? {
        Heard::Message(reply) => outcome(*reply),
        Heard::Closed(_, how) => return Err(Stop::Unreached(how)),
        Heard::Malformed(what) => return Err(Stop::Unreached(what)),
        Heard::Silence => Outcome::Nothing,
    };
    match reply {
        Outcome::Nothing => await_outcome(agent, stage.pace.quiet()).await,
        outcome => Ok(outcome),
    }
}

async fn await_outcome(agent: &mut Agent, within: std::time::Duration) -> Result<Outcome, Stop> {
    let is_outcome =
        |message: &ServerToAgent| !matches!(outcome(message.clone()), Outcome::Nothing);
    let heard = agent.hear(within, is_outcome).await?;
    Ok(heard.map_or(Outcome::Nothing, outcome))
}

/// Has the hook decide; a server may refuse to when there is nothing to decide.
pub(super) async fn decide(
    stage: &mut ServerStage,
    agent: &mut Agent,
    approve: bool,
) -> Result<Outcome, Stop> {
    let instance_uid = agent.uid_text();
    let action = Action::DecideCertificateRequest { instance_uid, approve };
    // A refusal is no end: a server that has its certificates from elsewhere may take its time.
    let _ = stage.try_hook(action).await?;
    await_outcome(agent, stage.pace.work()).await
}

async fn issue(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, reply) = asking(stage).await?;
    let is_announced = reply.capabilities & server::ACCEPTS_CONNECTION_SETTINGS_REQUEST != 0;
    let csr = new_csr(&agent.uid_text())?;
    let mut outcome = ask(stage, &mut agent, csr.pem).await?;
    let is_automatic = !matches!(outcome, Outcome::Nothing);
    if !is_automatic {
        outcome = match decide(stage, &mut agent, true).await {
            Ok(outcome) => outcome,
            Err(stop) => {
                // A server that takes no requests has no hook for them either.
                stage.requires(&reply, server::ACCEPTS_CONNECTION_SETTINGS_REQUEST)?;
                return Err(stop);
            }
        };
    }
    let opamp = match outcome {
        Outcome::Issued(opamp) => opamp,
        Outcome::Refused(_, why) => {
            stage.requires(&reply, server::ACCEPTS_CONNECTION_SETTINGS_REQUEST)?;
            return Err(Stop::Unreached(format!("the request is refused: {why:?}")));
        }
        Outcome::Nothing => {
            stage.requires(&reply, server::ACCEPTS_CONNECTION_SETTINGS_REQUEST)?;
            for row in ["CSR-10", "CSR-18"] {
                let expected = "an offer of a certificate once the request is approved";
                stage.judge.expect(row, false, expected, "none came");
            }
            return Ok(());
        }
    };
    let by = if is_automatic { "without anybody's doing" } else { "after the approval" };
    let expected = "the certificate after approval, by somebody or automatic";
    stage.judge.expect("CSR-10", true, expected, format!("it came {by}"));
    stage.judge.expect(
        "CSR-24",
        is_announced,
        "AcceptsConnectionSettingsRequest in the mask of a server that issues certificates",
        format!("the mask is {:#x}", reply.capabilities),
    );
    stage.judge.note(
        "CSR-14",
        format!(
            "beside the certificate: {}",
            if opamp.headers.is_some() { "headers" } else { "-" }
        ),
    );
    let certificate = opamp.certificate.unwrap_or_default();
    let chain = Chain::read(&certificate.cert);
    let read = chain.as_ref().map(|_| ()).map_err(Clone::clone);
    judge_flaw(&mut stage.judge, "CSR-18", "the issued certificate in cert", read);
    let Ok(chain) = chain else { return Ok(()) };
    let key = chain.has_key(&csr.public_key);
    judge_flaw(&mut stage.judge, "CSR-11", "a certificate for the key of the request", key);
    stage.judge.expect(
        "CSR-12",
        certificate.private_key.is_empty(),
        "no private key, as the agent has it",
        format!("{} bytes of private_key", certificate.private_key.len()),
    );
    if !chain.is_self_signed() {
        let verified = match Chain::read(&certificate.ca_cert) {
            Ok(authority) => chain.verify(&authority),
            Err(flaw) => Err(Flaw::Wrong(format!("ca_cert: {flaw}"))),
        };
        judge_flaw(&mut stage.judge, "CSR-12", "a ca_cert that verifies it", verified);
    }
    Ok(())
}

async fn empty(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = ready_to_ask(stage).await?;
    let empty = AgentToServer {
        connection_settings_request: Some(ConnectionSettingsRequest::default()),
        ..agent.message()
    };
    let heard = agent.ask(empty).await?;
    let holds = match &heard {
        Heard::Message(reply) => matches!(outcome(*reply.clone()), Outcome::Nothing),
        _ => false,
    };
    stage.judge.expect("CSR-07", holds, "neither error nor certificate", super::told(&heard));
    Ok(())
}

async fn while_pending(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = ready_to_ask(stage).await?;
    let csr = new_csr(&agent.uid_text())?;
    if let Outcome::Refused(_, why) = ask(stage, &mut agent, csr.pem).await? {
        return Err(Stop::Unreached(format!("the request is refused: {why:?}")));
    }
    let report = agent.full_report();
    let heard = agent.ask(report).await?;
    let is_good = super::is_good(&heard);
    stage.judge.expect("TOFU-02", is_good, "a reply without an error", super::told(&heard));
    Ok(())
}

async fn refused(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = ready_to_ask(stage).await?;
    let csr = new_csr(&agent.uid_text())?;
    match ask(stage, &mut agent, csr.pem).await? {
        Outcome::Nothing => {}
        Outcome::Issued(_) => {
            return Err(Stop::NotApplicable("the server approves by itself".to_owned()));
        }
        Outcome::Refused(_, why) => {
            return Err(Stop::Unreached(format!("the request is refused: {why:?}")));
        }
    }
    let outcome = decide(stage, &mut agent, false).await?;
    let is_issued = matches!(outcome, Outcome::Issued(_));
    let actual = if is_issued { "a certificate came" } else { "none came" };
    stage.judge.expect("CSR-10", !is_issued, "no certificate without approval", actual);
    judge_refusal(stage, &outcome);
    Ok(())
}

async fn broken_signature(stage: &mut ServerStage) -> Result<(), Stop> {
    let agent = ready_to_ask(stage).await?;
    let csr = new_csr(&agent.uid_text())?.with_broken_signature();
    wrong_request(stage, agent, csr, "a wrong signature").await
}

async fn no_request(stage: &mut ServerStage) -> Result<(), Stop> {
    let agent = ready_to_ask(stage).await?;
    wrong_request(stage, agent, "please".to_owned(), "no request").await
}

async fn wrong_request(
    stage: &mut ServerStage,
    mut agent: Agent,
    csr: String,
    what: &str,
) -> Result<(), Stop> {
    let outcome = decided(stage, &mut agent, csr).await?;
    let is_issued = matches!(outcome, Outcome::Issued(_));
    let actual = if is_issued { "a certificate came" } else { "no certificate came" };
    let expected = format!("no certificate for a request with {what}");
    stage.judge.expect("CSR-17", !is_issued, expected, actual);
    judge_refusal(stage, &outcome);
    Ok(())
}

/// What becomes of a request that cannot be granted, even if somebody approves it.
pub(super) async fn decided(
    stage: &mut ServerStage,
    agent: &mut Agent,
    csr: String,
) -> Result<Outcome, Stop> {
    match ask(stage, agent, csr).await? {
        Outcome::Nothing => decide(stage, agent, true).await,
        outcome => Ok(outcome),
    }
}

fn judge_refusal(stage: &mut ServerStage, outcome: &Outcome) {
    let (holds, actual) = match outcome {
        Outcome::Refused(kind, why) => {
            let is_bad_request = *kind == ServerErrorResponseType::BadRequest;
            (is_bad_request, format!("an error of type {kind:?}, {why:?}"))
        }
        Outcome::Issued(_) => (false, "a certificate came".to_owned()),
        Outcome::Nothing => (false, "no error came".to_owned()),
    };
    stage.judge.expect("CSR-15", holds, "an error of type BadRequest", actual);
}

async fn another_agent(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = ready_to_ask(stage).await?;
    let other = uid::text(&stage.new_uid());
    let csr = new_csr(&other)?;
    let outcome = decided(stage, &mut agent, csr.pem).await?;
    if let Outcome::Issued(opamp) = &outcome {
        let cert = opamp.certificate.as_ref().map(|certificate| &certificate.cert);
        let chain = cert.and_then(|cert| Chain::read(cert).ok());
        if !chain.is_some_and(|chain| chain.mentions(&other)) {
            // It goes by what it knows of the agent, and never looks for an id in the request.
            let why = "the certificate has nothing of the request but its key";
            return Err(Stop::NotApplicable(why.to_owned()));
        }
    }
    let (is_refused, actual) = match &outcome {
        Outcome::Refused(_, why) => (true, format!("it is refused: {why:?}")),
        Outcome::Issued(_) => (false, "a certificate with the id of the other came".to_owned()),
        Outcome::Nothing => (true, "no certificate came".to_owned()),
    };
    let expected = "no certificate with the instance_uid of another agent";
    stage.judge.expect("CSR-20", is_refused, expected, actual);
    judge_refusal(stage, &outcome);
    Ok(())
}

pub(super) fn new_csr(uid: &str) -> Result<Csr, Stop> {
    Csr::new(uid).map_err(|error| Stop::Harness(format!("no certificate request: {error}")))
}
