//! The server's own TLS, the authority that issues certificates to agents, and the part of the
//! admin API that is about certificates.

use std::time::{Duration, SystemTime};

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use opamp_server::service::tls::ListenerTls;
use opamp_server::{
    ApprovalError, CertificateDecision, CertificateIssuing, CertificateRequest,
    CertificateRequestId, CertificateSerial, CsrApproval, LocalCa, OperationError, Revocations,
    Revoked,
};
use serde_json::{Value, json};

use super::admin::{Admin, Place, Refused, Uid};
use super::args::{Csr, ServerArgs, read};
use crate::program::Failure;

/// How long a list of revoked certificates is good for other verifiers.
const LIST_VALIDITY: Duration = Duration::from_secs(24 * 60 * 60);

/// What the server does with certificates of agents.
#[derive(Debug, Clone)]
pub(super) struct Certificates {
    ca: LocalCa,
    issuing: CertificateIssuing,
    /// Agents may ask by themselves.
    pub(super) takes_requests: bool,
}

impl Certificates {
    /// The authority, if there is to be one.
    pub(super) fn new(args: &ServerArgs) -> Result<Option<Self>, Failure> {
        let (Some(certificate), Some(key)) = (&args.ca, &args.ca_key) else { return Ok(None) };
        let ca = LocalCa::from_pem(&read(certificate)?, &read(key)?);
        let ca = ca.map_err(|error| Failure::caused_by("--ca and --ca-key", error))?;
        if args.endpoint.is_none() && args.listen.ip().is_unspecified() {
            let message = "--ca needs --endpoint when --listen is not an address that agents use";
            return Err(Failure::new(message).of_usage());
        }
        let mut addr = args.listen;
        if addr.port() == 0 {
            // Which one it is is known when the server listens.
            addr.set_port(opamp_server::service::DEFAULT_PORT);
        }
        let place = Place::new(args, addr);
        let issuing = CertificateIssuing::new(ca.clone(), place.base());
        let issuing =
            issuing.map_err(|error| Failure::caused_by("--endpoint", error).of_usage())?;
        let approval = match args.csr {
            Csr::Auto => CsrApproval::Auto,
            Csr::Manual | Csr::Off => CsrApproval::Manual,
        };
        let issuing = issuing.approval(approval);
        let takes_requests = args.csr != Csr::Off;
        Ok(Some(Self { ca, issuing, takes_requests }))
    }

    /// The server listens here.
    pub(super) fn set_place(&self, place: &Place) -> Result<(), Failure> {
        let set = self.issuing.set_endpoint(place.base());
        set.map_err(|error| Failure::caused_by("the endpoint cannot be offered", error))
    }

    pub(super) fn issuing(&self) -> Option<CertificateIssuing> {
        self.takes_requests.then(|| self.issuing.clone())
    }
}

/// What is revoked of the certificates that agents may present, if they may present some.
pub(super) fn revocations_of(args: &ServerArgs) -> Option<Revocations> {
    (args.ca.is_some() || args.tls.client_ca.is_some()).then(Revocations::new)
}

/// The server's TLS, if it has some.
pub(super) fn tls(args: &ServerArgs) -> Result<Option<ListenerTls>, Failure> {
    let Some(files) = args.tls.files() else { return Ok(None) };
    let files = match (&args.tls.client_ca, &args.ca) {
        (None, None) => files,
        // Who comes without a certificate can ask for one.
        (None, Some(ca)) => files.welcome_clients_of([ca]),
        (Some(clients), ca) => files.require_clients_of([clients].into_iter().chain(ca)),
    };
    let tls = ListenerTls::from_files(files).map_err(|error| Failure::caused_by("TLS", error))?;
    Ok(Some(tls))
}

/// The last request of an agent.
pub(super) fn request_json(agent: &opamp_server::AgentSnapshot) -> Option<Value> {
    let request = agent.certificate_request()?;
    let decision = match request.decision() {
        CertificateDecision::Pending => "PENDING",
        CertificateDecision::Issued => "ISSUED",
        CertificateDecision::Refused => "REFUSED",
        _ => "UNKNOWN",
    };
    Some(json!({ "id": request.id().to_string(), "decision": decision }))
}

pub(super) fn routes<I: Clone + Send + Sync + 'static>() -> Router<Admin<I>> {
    Router::new()
        .route("/v1/certificate-requests", get(requests::<I>))
        .route("/v1/agents/{uid}/certificate-request/approve", post(approve_request::<I>))
        .route("/v1/agents/{uid}/certificate-request/refuse", post(refuse_request::<I>))
        .route("/v1/agents/{uid}/approve", post(approve_agent::<I>))
        .route("/v1/agents/{uid}/revocation", put(revoke_agent::<I>).delete(reinstate_agent::<I>))
        .route("/v1/revocations", get(revocations::<I>))
        .route("/v1/revocations/list.pem", get(revocation_list::<I>))
        .route("/v1/revocations/{serial}", put(revoke::<I>).delete(reinstate::<I>))
}

fn of<I>(admin: &Admin<I>) -> Result<&Certificates, Refused> {
    let why = "the server has no certificate authority: start it with --ca and --ca-key";
    admin.certificates.as_ref().ok_or_else(|| Refused(StatusCode::NOT_IMPLEMENTED, why.to_owned()))
}

fn list<I>(admin: &Admin<I>) -> Result<&Revocations, Refused> {
    let why = "the server takes no certificates of agents: start it with --client-ca, or --ca";
    admin.revocations.as_ref().ok_or_else(|| Refused(StatusCode::NOT_IMPLEMENTED, why.to_owned()))
}

async fn requests<I>(State(admin): State<Admin<I>>) -> Response {
    let mut pending = admin.fleet.pending_certificates();
    pending.sort_unstable_by_key(|(key, _)| *key);
    let requests = pending.into_iter().map(|(key, pending)| {
        let mut object = json!({
            "instance_uid": key.uid().to_string(),
            "id": pending.id.to_string(),
            "csr": String::from_utf8_lossy(&pending.csr),
        });
        if let Ok(request) = CertificateRequest::parse(key, &pending.csr) {
            object["key_algorithm"] = request.key_algorithm().to_string().into();
            object["names"] = request.names().into();
        }
        object
    });
    let requests: Vec<_> = requests.collect();
    Json(json!({ "certificate_requests": requests })).into_response()
}

/// Which request is meant, where that matters: another one may come at any time.
#[derive(serde::Deserialize)]
struct Which {
    id: Option<String>,
    reason: Option<String>,
}

fn pending<I>(
    admin: &Admin<I>,
    uid: &opamp_proto::WireUid,
    which: &Which,
) -> Result<CertificateRequestId, Refused> {
    if let Some(id) = &which.id {
        let wrong =
            |error: &dyn std::fmt::Display| Refused(StatusCode::BAD_REQUEST, error.to_string());
        return id.parse().map_err(|error| wrong(&error));
    }
    if let Some(pending) = admin.fleet.pending_certificate(uid) {
        return Ok(pending.id);
    }
    let known = admin.fleet.agent(uid).is_some();
    let error =
        if known { OperationError::NoCertificateRequest } else { OperationError::UnknownAgent };
    Err(error.into())
}

async fn approve_request<I>(
    State(admin): State<Admin<I>>,
    Uid(uid): Uid,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<StatusCode, Refused> {
    let Query(which) = which?;
    let certificates = of(&admin)?;
    let request = pending(&admin, &uid, &which)?;
    match certificates.issuing.approve(&admin.fleet, uid, request).await {
        Ok(()) => Ok(StatusCode::ACCEPTED),
        Err(ApprovalError::Operation(error)) => Err(error.into()),
        Err(error) => Err(Refused(StatusCode::CONFLICT, error.to_string())),
    }
}

async fn refuse_request<I>(
    State(admin): State<Admin<I>>,
    Uid(uid): Uid,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<StatusCode, Refused> {
    let Query(which) = which?;
    of(&admin)?;
    let request = pending(&admin, &uid, &which)?;
    let reason = which.reason.as_deref().unwrap_or("the operator refused the certificate");
    admin.fleet.refuse_certificate(uid, request, reason)?;
    Ok(StatusCode::ACCEPTED)
}

/// Gives an agent that did not ask a certificate with its key.
async fn approve_agent<I>(
    State(admin): State<Admin<I>>,
    Uid(uid): Uid,
) -> Result<StatusCode, Refused> {
    let certificates = of(&admin)?;
    let agent = admin.fleet.agent(uid).ok_or(OperationError::UnknownAgent)?;
    if self::agent(&uid).is_ok_and(|agent| list(&admin).is_ok_and(|list| list.contains(&agent))) {
        let why = "the certificates of this Agent are revoked";
        return Err(Refused(StatusCode::CONFLICT, why.to_owned()));
    }
    let failed = |error: String| Refused(StatusCode::INTERNAL_SERVER_ERROR, error);
    let credentials =
        certificates.ca.credentials(uid).map_err(|error| failed(error.to_string()))?;
    let offer = certificates.issuing.offer(credentials, agent.transport());
    let offer = offer.map_err(|error| failed(error.to_string()))?;
    admin.fleet.offer_certificate(uid, offer, std::time::Instant::now())?;
    Ok(StatusCode::ACCEPTED)
}

async fn revocations<I>(State(admin): State<Admin<I>>) -> Result<Response, Refused> {
    let entries = list(&admin)?.entries().into_iter().map(|(what, since)| {
        let since = humantime::format_rfc3339_seconds(since).to_string();
        match what {
            Revoked::Serial(serial) => json!({ "serial": serial.to_string(), "since": since }),
            Revoked::InstanceUid(uid) => json!({ "instance_uid": uid.to_string(), "since": since }),
            _ => json!({ "since": since }),
        }
    });
    let entries: Vec<_> = entries.collect();
    Ok(Json(json!({ "revocations": entries })).into_response())
}

async fn revocation_list<I>(State(admin): State<Admin<I>>) -> Result<Response, Refused> {
    let certificates = of(&admin)?;
    let list = certificates.ca.revocation_list(list(&admin)?, LIST_VALIDITY);
    let list = list.map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        Refused(StatusCode::CONFLICT, source.unwrap_or_else(|| error.to_string()))
    })?;
    Ok(([(CONTENT_TYPE, "application/x-pem-file")], list).into_response())
}

fn add<I>(admin: &Admin<I>, what: Revoked) -> Result<StatusCode, Refused> {
    let added = list(admin)?.revoke(what, SystemTime::now());
    added.map_err(|full| Refused(StatusCode::INSUFFICIENT_STORAGE, full.to_string()))?;
    Ok(StatusCode::NO_CONTENT)
}

fn remove<I>(admin: &Admin<I>, what: &Revoked) -> Result<StatusCode, Refused> {
    match list(admin)?.reinstate(what) {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Refused(StatusCode::NOT_FOUND, "it is not revoked".to_owned())),
    }
}

fn agent(uid: &opamp_proto::WireUid) -> Result<Revoked, Refused> {
    let why = "certificates name instance uids of 16 bytes only";
    let uid = uid.instance_uid().ok_or_else(|| Refused(StatusCode::CONFLICT, why.to_owned()))?;
    Ok(Revoked::InstanceUid(uid))
}

async fn revoke_agent<I>(
    State(admin): State<Admin<I>>,
    Uid(uid): Uid,
) -> Result<StatusCode, Refused> {
    add(&admin, agent(&uid)?)
}

async fn reinstate_agent<I>(
    State(admin): State<Admin<I>>,
    Uid(uid): Uid,
) -> Result<StatusCode, Refused> {
    remove(&admin, &agent(&uid)?)
}

fn serial(text: Result<Path<String>, PathRejection>) -> Result<Revoked, Refused> {
    let Path(text) = text?;
    let serial: Result<CertificateSerial, _> = text.parse();
    let serial = serial.map_err(|error| Refused(StatusCode::BAD_REQUEST, error.to_string()))?;
    Ok(Revoked::Serial(serial))
}

async fn revoke<I>(
    State(admin): State<Admin<I>>,
    text: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Refused> {
    add(&admin, serial(text)?)
}

async fn reinstate<I>(
    State(admin): State<Admin<I>>,
    text: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Refused> {
    remove(&admin, &serial(text)?)
}
