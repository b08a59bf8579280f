//! Client certificates over TLS. For a server that is tested without TLS, or that does not ask for
//! client certificates, there is nothing to see.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use opamp_proto::v1::AgentToServer;

use super::certificate_requests::{Outcome, decided, new_csr, ready_to_ask};
use crate::case::{Case, Script};
use crate::judge::Stop;
use crate::mask::agent as mask;
use crate::mask::flag::REQUEST_INSTANCE_UID;
use crate::report::Transport;
use crate::server::provision::leave;
use crate::server::{Agent, ServerStage};
use crate::wire::authority::{Authority, CertificateError, Identity, presenting};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/tls/renamed-agent",
        judges: &["CSR-19", "CSR-22"],
        transports: Transport::BOTH,
        does: "connects with a certificate that names it, has itself given another id, and asks for \
               a certificate with that",
        expects: "the certificate, although the connection is that of the old one",
        alone: false,
        broken_by: &["csr-for-a-new-id-is-refused"],
        script: Script::Server(|stage| Box::pin(renamed_agent(stage))),
    },
    Case {
        name: "server/tls/unknown-certificate",
        judges: &["CSR-09"],
        transports: Transport::BOTH,
        does: "presents a certificate of an authority nobody knows and asks for another one",
        expects: "a refusal, or at least no certificate",
        alone: false,
        broken_by: &["client-certificates-are-not-verified"],
        script: Script::Server(|stage| Box::pin(unknown_certificate(stage))),
    },
];

/// Has an agent present a certificate; the flag tells whether the server asked for it.
fn present(
    stage: &ServerStage,
    agent: &mut Agent,
    identity: Result<Identity, CertificateError>,
) -> Result<Arc<AtomicBool>, Stop> {
    let Some(tls) = stage.target.tls.as_ref().filter(|_| stage.target.url.tls) else {
        return Err(Stop::NotApplicable("the server is tested without TLS".to_owned()));
    };
    let is_asked = Arc::default();
    let settings = identity.and_then(|identity| presenting(tls, &identity, &is_asked));
    let settings = settings
        .map_err(|error| Stop::Unreached(format!("the certificate cannot be used: {error}")))?;
    agent.dialer.tls = Some(settings);
    Ok(is_asked)
}

fn not_asked() -> Stop {
    Stop::NotApplicable("the server does not ask for client certificates".to_owned())
}

async fn unknown_certificate(stage: &mut ServerStage) -> Result<(), Stop> {
    // First without a certificate, to see that it is not something else that is refused.
    ready_to_ask(stage).await?;
    let mut agent = stage.agent(mask::REPORTS_STATUS | mask::ACCEPTS_OPAMP_CONNECTION_SETTINGS);
    let identity = Authority::new("nobody").and_then(|nobody| nobody.client(&agent.uid_text()));
    let is_asked = present(stage, &mut agent, identity)?;
    let csr = new_csr(&agent.uid_text())?;
    let outcome = match connected(&mut agent).await {
        Ok(()) => decided(stage, &mut agent, csr.pem).await.map(Some),
        Err(Stop::Unreached(_)) => Ok(None),
        Err(other) => Err(other),
    };
    if !is_asked.load(Ordering::SeqCst) {
        return Err(not_asked());
    }
    let (holds, actual) = match outcome? {
        None => (true, "the connection is refused".to_owned()),
        Some(Outcome::Refused(_, why)) => (true, format!("the request is refused: {why:?}")),
        Some(Outcome::Nothing) => (true, "no certificate came".to_owned()),
        Some(Outcome::Issued(_)) => (false, "a certificate came".to_owned()),
    };
    let expected = "no certificate for an agent that shows one of an unknown authority";
    stage.judge.expect("CSR-09", holds, expected, actual);
    Ok(())
}

async fn renamed_agent(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = ready_to_ask(stage).await?;
    let csr = new_csr(&agent.uid_text())?;
    let Outcome::Issued(opamp) = decided(stage, &mut agent, csr.pem).await? else {
        return Err(Stop::Unreached("the server issues no certificate".to_owned()));
    };
    leave(&mut agent).await?;
    let cert = opamp.certificate.unwrap_or_default().cert;
    let cert = String::from_utf8_lossy(&cert).into_owned();
    let is_asked = present(stage, &mut agent, Ok(Identity { cert, key: csr.key }))?;
    let connected_now = connected(&mut agent).await;
    if !is_asked.load(Ordering::SeqCst) {
        return Err(not_asked());
    }
    connected_now?;
    // Another agent with the certificate of this one.
    let mut other = stage.agent(mask::REPORTS_STATUS);
    other.dialer = agent.dialer.clone();
    let seen = match connected(&mut other).await {
        Ok(()) => "they are taken".to_owned(),
        Err(Stop::Unreached(why)) => format!("they are refused: {why}"),
        Err(stop) => return Err(stop),
    };
    stage
        .judge
        .note("CSR-19", format!("messages with an id that is not the certificate's: {seen}"));
    let report = AgentToServer { flags: REQUEST_INSTANCE_UID, ..agent.full_report() };
    let renaming = agent.provoke(report, |message| message.agent_identification.is_some()).await?;
    let new = renaming.and_then(|message| message.agent_identification);
    let new = new.map(|identification| identification.new_instance_uid);
    let Some(new) = new.filter(|new| new.len() == 16) else {
        return Err(Stop::Unreached("the server gives no new id".to_owned()));
    };
    agent.uid = new;
    let csr = new_csr(&agent.uid_text())?;
    let (holds, actual) = match decided(stage, &mut agent, csr.pem).await? {
        Outcome::Issued(_) => (true, "it came".to_owned()),
        Outcome::Refused(_, why) => (false, format!("the request is refused: {why:?}")),
        Outcome::Nothing => (false, "none came".to_owned()),
    };
    let expected = "a certificate for the new id over a connection with the old certificate";
    stage.judge.expect("CSR-22", holds, expected, actual);
    Ok(())
}

/// Connects and reports in full.
async fn connected(agent: &mut Agent) -> Result<(), Stop> {
    agent.connect().await?;
    let report = agent.full_report();
    match agent.exchange(report).await?.error_response {
        None => Ok(()),
        Some(error) => Err(Stop::Unreached(format!("an error: {:?}", error.error_message))),
    }
}
