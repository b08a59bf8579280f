//! The certificates in offers: their form, their key, and who signed them.

use base64::Engine as _;
use opamp_proto::v1::{ConnectionSettingsOffers, TlsCertificate};
use serde_json::json;

use crate::case::{Case, Observed, Script};
use crate::judge::{Judge, Stop};
use crate::mask::{agent as mask, server};
use crate::report::Transport;
use crate::server::ServerStage;
use crate::server::provision;
use crate::wire::authority::Authority;
use crate::wire::certificate::{Chain, Flaw};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/certificates/every-offer",
        judges: &["CERT-11", "CERT-12", "CERT-13", "CERT-14"],
        transports: &[],
        does: "looks at every certificate that was offered in the run",
        expects: "PEM, with the key it is for unless the agent has made that, and with the \
                  certificate of its authority if it has one",
        alone: false,
        broken_by: &[
            "ca-of-a-certificate-is-left-out",
            "certificate-is-not-pem",
            "issued-certificate-comes-with-a-key",
            "private-key-is-that-of-another",
        ],
        script: Script::Observer(every_offer),
    },
    Case {
        name: "server/certificates/certificate-only",
        judges: &["CERT-11", "CERT-12", "CERT-13", "CONN-29"],
        transports: Transport::BOTH,
        does: "has an offer made of which only the client certificate is new",
        expects: "the certificate with its key and its authority, and the endpoint in use",
        alone: false,
        broken_by: &[
            "ca-of-a-certificate-is-left-out",
            "certificate-is-not-pem",
            "private-key-is-that-of-another",
            "settings-endpoint-is-left-out",
        ],
        script: Script::Server(|stage| Box::pin(certificate_only(stage))),
    },
];

fn every_offer(observed: &Observed, judge: &mut Judge) {
    for offer in provision::all(observed) {
        for certificate in offer.message.connection_settings.iter().flat_map(all_in) {
            judge.quote(offer.entry, true);
            judge_certificate(judge, certificate, offer.has_asked);
            if let Ok(chain) = Chain::read(&certificate.cert)
                && chain.is_self_signed()
            {
                let with = if certificate.ca_cert.is_empty() { "without" } else { "with" };
                judge.note("CERT-14", format!("a self-signed certificate {with} ca_cert"));
            } else {
                judge.note("CERT-14", "no self-signed certificate");
            }
        }
    }
}

fn all_in(offer: &ConnectionSettingsOffers) -> Vec<&TlsCertificate> {
    let opamp = offer.opamp.iter().flat_map(|settings| &settings.certificate);
    let own = [&offer.own_metrics, &offer.own_traces, &offer.own_logs];
    let own = own.into_iter().flatten().flat_map(|settings| &settings.certificate);
    let other = offer.other_connections.values().flat_map(|settings| &settings.certificate);
    opamp.chain(own).chain(other).collect()
}

/// Judges a certificate by CERT-11, CERT-12 and CERT-13. `has_asked` says that the agent sent a
/// certificate request, so that the key may be its own (A19).
fn judge_certificate(judge: &mut Judge, certificate: &TlsCertificate, has_asked: bool) {
    let chain = match Chain::read(&certificate.cert) {
        Ok(chain) => {
            judge.expect("CERT-11", true, "cert in PEM form", "it is");
            chain
        }
        Err(flaw) => {
            judge.expect("CERT-11", false, "cert in PEM form", flaw.to_string());
            return;
        }
    };
    if !(certificate.private_key.is_empty() && has_asked) {
        let matching = chain.matches(&certificate.private_key);
        judge_flaw(judge, "CERT-12", "the private key of the certificate, PEM", matching);
    }
    if !chain.is_self_signed() {
        let verified = match Chain::read(&certificate.ca_cert) {
            Ok(authority) => chain.verify(&authority),
            Err(flaw) => Err(Flaw::Wrong(format!("ca_cert: {flaw}"))),
        };
        judge_flaw(judge, "CERT-13", "a ca_cert that verifies the certificate", verified);
    }
}

/// Judges a check of a certificate.
pub(super) fn judge_flaw(judge: &mut Judge, row: &str, expected: &str, checked: Result<(), Flaw>) {
    match checked {
        Ok(()) => {
            judge.expect(row, true, expected, "it is there");
        }
        Err(Flaw::Wrong(why)) => {
            judge.expect(row, false, expected, why);
        }
        Err(unknown @ Flaw::Unknown(_)) => judge.untestable(row, unknown.to_string()),
    }
}

async fn certificate_only(stage: &mut ServerStage) -> Result<(), Stop> {
    let bits = mask::REPORTS_STATUS | mask::ACCEPTS_OPAMP_CONNECTION_SETTINGS;
    let (mut agent, reply) = stage.reported(bits).await?;
    stage.requires(&reply, server::OFFERS_CONNECTION_SETTINGS)?;
    let made = Authority::new("conformance").and_then(|authority| {
        let identity = authority.client(&agent.uid_text())?;
        Ok((authority.pem().to_owned(), identity))
    });
    let (ca, identity) = made.map_err(|error| Stop::Harness(error.to_string()))?;
    let encode = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    let certificate = json!({
        "cert": encode(&identity.cert),
        "private_key": encode(&identity.key),
        "ca_cert": encode(&ca),
    });
    stage.offer_settings(&mut agent, json!({ "opamp": { "certificate": certificate } })).await?;
    let has_certificate = |offer: &ConnectionSettingsOffers| {
        offer.opamp.as_ref().is_some_and(|opamp| opamp.certificate.is_some())
    };
    let offer = provision::settings(&mut agent, stage.pace.work(), has_certificate).await?;
    let opamp = offer.and_then(|offer| offer.opamp);
    let Some((opamp, certificate)) =
        opamp.and_then(|opamp| opamp.certificate.clone().map(|certificate| (opamp, certificate)))
    else {
        return Err(Stop::Unreached("the offer asked for did not come".to_owned()));
    };
    stage.judge.expect(
        "CONN-29",
        !opamp.destination_endpoint.is_empty(),
        "an endpoint in every opamp offer, whatever it changes",
        format!("the endpoint is {:?}", opamp.destination_endpoint),
    );
    judge_certificate(&mut stage.judge, &certificate, false);
    Ok(())
}
