//! The certificates of the reference server: its authority, the requests that wait for approval,
//! and what becomes of them.

use bytes::Bytes;
use opamp_proto::v1::{
    ConnectionSettingsRequest, ServerErrorResponse, ServerErrorResponseType, ServerToAgent,
    TlsCertificate,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

use crate::hook::HookError;
use crate::reference::Faults;
use crate::wire::authority::{Authority, CertificateError};
use crate::wire::uid;

/// The request of an agent.
#[derive(Default)]
pub(super) struct Request {
    /// It waits for approval, PEM.
    pending: Option<String>,
    /// It was refused by now, and the agent is to be told why.
    refusal: Option<String>,
    /// Its certificate, if it has one, is for the id it had before.
    is_renamed: bool,
}

impl Request {
    /// Takes what an agent asks for in a message, if anything. Says what is to be answered with an
    /// error, if anything.
    pub(super) fn ask(
        &mut self,
        agent: &[u8],
        request: Option<&ConnectionSettingsRequest>,
        faults: &Faults,
    ) -> Option<String> {
        let Some(request) = request else {
            let is_kept_out =
                self.pending.is_some() && faults.has("agents-awaiting-approval-are-refused");
            let why = || "the agent waits for approval".to_owned();
            return if is_kept_out { Some(why()) } else { self.refusal() };
        };
        let Some(opamp) = &request.opamp else {
            let is_refused = faults.has("empty-request-is-refused");
            return is_refused.then(|| "the request asks for nothing".to_owned());
        };
        if self.is_renamed && faults.has("csr-for-a-new-id-is-refused") {
            return Some("the agent has a certificate of another id".to_owned());
        }
        let csr = opamp.certificate_request.as_ref().map(|request| request.csr.clone());
        match check(agent, &csr.unwrap_or_default(), faults) {
            Ok(csr) => self.pending = Some(csr),
            Err(_) if faults.has("wrong-csr-is-dropped") => {}
            Err(why) => return Some(why),
        }
        None
    }

    /// The agent has a new id.
    pub(super) fn renamed(&mut self) {
        self.is_renamed = true;
    }

    /// Decides about what the agent asked for; gives the certificate, if there is one.
    pub(super) fn decide(
        &mut self,
        approve: bool,
        authority: &Authority,
        faults: &Faults,
    ) -> Result<Option<TlsCertificate>, HookError> {
        let csr = self
            .pending
            .take()
            .ok_or_else(|| HookError::Failed("no request waits for approval".to_owned()))?;
        if !approve && !faults.has("refused-csr-is-signed") {
            self.refusal = Some("the certificate request was refused".to_owned());
            return Ok(None);
        }
        let cert = if faults.has("issued-certificate-has-another-key") {
            authority.client("another").map(|identity| identity.cert)
        } else {
            authority.sign(&csr)
        };
        let cert = cert.or_else(|_| authority.client("unverified").map(|identity| identity.cert));
        let key = if faults.has("issued-certificate-comes-with-a-key") {
            authority.client("another").map_err(|error| failed(&error))?.key
        } else {
            String::new()
        };
        let certificate = TlsCertificate {
            cert: cert.map_err(|error| failed(&error))?.into(),
            private_key: key.into(),
            ca_cert: authority.pem().to_owned().into(),
        };
        Ok(Some(certificate))
    }

    /// Why the agent's request was refused, once.
    pub(super) fn refusal(&mut self) -> Option<String> {
        self.refusal.take()
    }
}

/// A certificate with its key for an agent that asked for none.
pub(super) fn personal(authority: &Authority, name: &str) -> Result<TlsCertificate, HookError> {
    let identity = authority.client(name).map_err(|error| failed(&error))?;
    Ok(TlsCertificate {
        cert: identity.cert.into(),
        private_key: identity.key.into(),
        ca_cert: authority.pem().to_owned().into(),
    })
}

/// The server's authority, made when it is first needed.
pub(super) fn authority(made: &mut Option<Authority>) -> Result<&Authority, HookError> {
    if made.is_none() {
        *made = Some(Authority::new("reference server").map_err(|error| failed(&error))?);
    }
    made.as_ref().ok_or_else(|| HookError::Failed("there is no authority".to_owned()))
}

/// Tells an agent that its request is refused.
pub(super) fn refused(instance_uid: Bytes, why: &str, faults: &Faults) -> ServerToAgent {
    let kind = if faults.has("csr-refusal-is-no-bad-request") {
        ServerErrorResponseType::Unknown
    } else {
        ServerErrorResponseType::BadRequest
    };
    let error =
        ServerErrorResponse { r#type: kind as i32, error_message: why.to_owned(), details: None };
    ServerToAgent { instance_uid, error_response: Some(error), ..Default::default() }
}

/// Makes a certificate wrong in the way of a fault.
pub(super) fn spoil(certificate: &mut TlsCertificate, faults: &Faults) {
    if faults.has("certificate-is-not-pem")
        && let Ok(der) = CertificateDer::from_pem_slice(&certificate.cert)
    {
        certificate.cert = Bytes::copy_from_slice(&der);
    }
    if faults.has("ca-of-a-certificate-is-left-out") {
        certificate.ca_cert.clear();
    }
    if faults.has("private-key-is-that-of-another") && !certificate.private_key.is_empty() {
        let other = Authority::new("another").and_then(|authority| authority.client("another"));
        certificate.private_key = other.map(|other| other.key.into()).unwrap_or_default();
    }
}

/// The text of a request that is in order.
fn check(agent: &[u8], csr: &[u8], faults: &Faults) -> Result<String, String> {
    let text = String::from_utf8(csr.to_vec()).map_err(|_| "the request is not PEM".to_owned())?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(csr).map_err(|_| "the request is not PEM")?;
    let request = parsed(&pem)?;
    if request.verify_signature().is_err() && !faults.has("csr-is-not-verified") {
        return Err("the signature of the request is wrong".to_owned());
    }
    let subject = &request.certification_request_info.subject;
    let named = subject.iter_common_name().filter_map(|name| name.as_str().ok());
    let is_other = named.filter_map(uid::parse).any(|named| named != agent);
    if is_other && !faults.has("csr-of-another-agent-is-taken") {
        return Err("the request names another agent".to_owned());
    }
    Ok(text)
}

fn parsed(pem: &Pem) -> Result<X509CertificationRequest<'_>, String> {
    let parsed = X509CertificationRequest::from_der(&pem.contents);
    parsed.map(|(_, request)| request).map_err(|_| "there is no certificate request".to_owned())
}

fn failed(error: &CertificateError) -> HookError {
    HookError::Failed(error.to_string())
}
