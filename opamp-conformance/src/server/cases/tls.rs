//! Client certificates over TLS. For a server that is tested without TLS, or that does not ask for
//! client certificates, there is nothing to see.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::certificate_requests::{Outcome, decided, new_csr, ready_to_ask};
use crate::case::{Case, Script};
use crate::judge::Stop;
use crate::mask::agent as mask;
use crate::report::Transport;
use crate::server::{Agent, ServerStage};
use crate::wire::authority::{Authority, CertificateError, Identity, presenting};

pub(super) const CASES: &[Case] = &[Case {
    name: "server/tls/unknown-certificate",
    judges: &["CSR-09"],
    transports: Transport::BOTH,
    does: "presents a certificate of an authority nobody knows and asks for another one",
    expects: "a refusal, or at least no certificate",
    alone: false,
    broken_by: &["client-certificates-are-not-verified"],
    script: Script::Server(|stage| Box::pin(unknown_certificate(stage))),
}];

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
    agent.dialer.tls = Some(settings.map_err(|error| Stop::Harness(error.to_string()))?);
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

/// Connects and reports in full.
async fn connected(agent: &mut Agent) -> Result<(), Stop> {
    agent.connect().await?;
    let report = agent.full_report();
    match agent.exchange(report).await?.error_response {
        None => Ok(()),
        Some(error) => Err(Stop::Unreached(format!("an error: {:?}", error.error_message))),
    }
}
