//! The admin API: the fleet as JSON over HTTP. Errors are `{"error": "…"}` with a fitting status.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRef, FromRequestParts, Path, Query, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use opamp_proto::{ConfigHash, InstanceUid, WireUid, v1};
use opamp_server::{
    ConnectionSettings, Fleet, OperationError, RemoteConfig, Revocations, StoreHandle, Transport,
};
use serde_json::json;

use super::args::ServerArgs;
use super::certificates::Certificates;
use super::mailbox::Mailbox;
use super::offers_json::{Custom, PackageOffer, Settings};
use super::state::Hosted;
use super::{agent_json, certificates, metrics};

/// What the admin API acts on.
pub(super) struct Admin<I> {
    pub(super) fleet: Fleet<I>,
    pub(super) mailbox: Mailbox,
    pub(super) store: StoreHandle<I>,
    pub(super) files: Hosted,
    pub(super) place: Place,
    pub(super) certificates: Option<Certificates>,
    pub(super) revocations: Option<Revocations>,
}

/// Where agents reach the server, as far as it knows.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) tls: bool,
    /// Host and port; empty if it listens on every address and cannot know which one agents use.
    pub(super) authority: String,
    pub(super) path: String,
}

/// The path below which the files of packages are.
pub(super) const PACKAGES: &str = "/packages";

impl Place {
    /// Where agents reach a server that listens at this address.
    pub(super) fn new(args: &ServerArgs, addr: SocketAddr) -> Self {
        let endpoint = args.endpoint.as_deref().and_then(|endpoint| endpoint.split_once("://"));
        if let Some((scheme, rest)) = endpoint {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            return Self {
                tls: matches!(scheme, "wss" | "https"),
                authority: authority.to_owned(),
                path: if path.is_empty() { args.path.clone() } else { path.to_owned() },
            };
        }
        Self {
            tls: args.tls.cert.is_some(),
            authority: if addr.ip().is_unspecified() { String::new() } else { addr.to_string() },
            path: args.path.clone(),
        }
    }

    /// The endpoint over one transport, from which that over the other follows.
    pub(super) fn base(&self) -> String {
        self.endpoint(Transport::WebSocket)
    }

    /// The endpoint over a transport; empty if it is not known.
    pub(super) fn endpoint(&self, transport: Transport) -> String {
        let scheme = match (transport, self.tls) {
            (Transport::WebSocket, false) => "ws",
            (Transport::WebSocket, true) => "wss",
            (Transport::Http, false) => "http",
            (Transport::Http, true) => "https",
        };
        match self.authority.as_str() {
            "" => String::new(),
            authority => format!("{scheme}://{authority}{}", self.path),
        }
    }

    /// What the URLs of packages begin with.
    fn packages(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{PACKAGES}", self.authority)
    }
}

impl<I> Clone for Admin<I> {
    fn clone(&self) -> Self {
        Self {
            fleet: self.fleet.clone(),
            mailbox: self.mailbox.clone(),
            store: self.store.clone(),
            files: self.files.clone(),
            place: self.place.clone(),
            certificates: self.certificates.clone(),
            revocations: self.revocations.clone(),
        }
    }
}

impl<I> FromRef<Admin<I>> for Fleet<I> {
    fn from_ref(admin: &Admin<I>) -> Self {
        admin.fleet.clone()
    }
}

/// The routes of the admin API.
///
/// It has no authentication: serve it to those only who may do all that it offers.
pub(super) fn router<I: Clone + Send + Sync + 'static>(admin: Admin<I>) -> Router {
    // Base64 makes content a third longer.
    let limit = admin.fleet.config().limits.max_send().saturating_mul(2);
    Router::new()
        .route("/v1/agents", get(agents::<I>))
        .route("/v1/agents/{uid}", get(agent::<I>))
        .route("/v1/config", put(set_default_config::<I>))
        .route("/v1/agents/{uid}/config", put(set_config::<I>).delete(clear_config::<I>))
        .route("/v1/agents/{uid}/config-files", put(set_config_files::<I>))
        .route("/v1/agents/{uid}/restart", post(restart::<I>))
        .route("/v1/agents/{uid}/disconnect", post(disconnect::<I>))
        .route("/v1/agents/{uid}/report-full-state", post(report_full_state::<I>))
        .route("/v1/agents/{uid}/new-instance-uid", post(new_instance_uid::<I>))
        .route("/v1/agents/{uid}/connection-settings", put(set_connection_settings::<I>))
        .route("/v1/agents/{uid}/packages", put(set_packages::<I>))
        .route("/v1/agents/{uid}/custom-message", post(send_custom_message::<I>))
        .route("/v1/agents/{uid}/custom-messages", get(custom_messages::<I>))
        .route("/v1/unavailable", put(set_unavailable::<I>).delete(set_available::<I>))
        .merge(certificates::routes::<I>())
        .route("/metrics", get(metrics::<I>))
        .route("/healthz", get(|| async { "ok\n" }))
        .fallback(|uri: Uri| async move {
            Refused(StatusCode::NOT_FOUND, format!("nothing is served at {}", uri.path()))
        })
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            let error = format!("{} does not take {method}", uri.path());
            Refused(StatusCode::METHOD_NOT_ALLOWED, error)
        })
        .layer(from_fn_with_state(admin.store.clone(), stored::<I>))
        .layer(DefaultBodyLimit::max(limit))
        .with_state(admin)
}

/// Answers a request that changed something when the change is stored.
async fn stored<I>(
    State(store): State<StoreHandle<I>>,
    request: Request,
    next: Next,
) -> Result<Response, Refused> {
    let changes = !request.method().is_safe();
    let response = next.run(request).await;
    if changes && response.status().is_success() {
        store.flush().await.map_err(|error| {
            Refused(StatusCode::SERVICE_UNAVAILABLE, format!("the change holds, but {error}"))
        })?;
    }
    Ok(response)
}

/// Why a request is not served: the status, and words for `error`.
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

impl From<OperationError> for Refused {
    fn from(error: OperationError) -> Self {
        let status = match error {
            OperationError::UnknownAgent => StatusCode::NOT_FOUND,
            OperationError::NotAccepted
            | OperationError::NotOffered
            | OperationError::NoCertificateRequest
            | OperationError::UidInUse => StatusCode::CONFLICT,
            OperationError::QueueFull => StatusCode::TOO_MANY_REQUESTS,
            OperationError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, error.to_string())
    }
}

impl From<PathRejection> for Refused {
    fn from(rejection: PathRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Refused {
    fn from(rejection: QueryRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

impl From<BytesRejection> for Refused {
    fn from(rejection: BytesRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

impl From<JsonRejection> for Refused {
    fn from(rejection: JsonRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

/// The agent that the path of a request names.
pub(super) struct Uid(pub(super) WireUid);

impl<S: Send + Sync> FromRequestParts<S> for Uid {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let Path(text) = Path::<String>::from_request_parts(parts, state).await?;
        parse_uid(&text).map(Self)
    }
}

/// The id in a path: canonical UUID text, or the hexadecimal digits of an id that is not 16 bytes.
fn parse_uid(text: &str) -> Result<WireUid, Refused> {
    if let Ok(uid) = text.parse::<InstanceUid>() {
        return Ok(uid.into());
    }
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
    let bytes = digits.filter(|digits| digits.len() % 2 == 0).map(|digits| {
        digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect::<Vec<_>>()
    });
    bytes
        .filter(|bytes| bytes.len() != 16)
        .and_then(|bytes| WireUid::new(&bytes).ok())
        .ok_or_else(|| Refused(StatusCode::BAD_REQUEST, format!("{text:?} is not an instance uid")))
}

async fn agents<I>(State(fleet): State<Fleet<I>>) -> Response {
    let mut agents = fleet.agents();
    agents.sort_unstable_by_key(|agent| *agent.uid());
    let agents: Vec<_> = agents.iter().map(|agent| agent_json::agent_of(&fleet, agent)).collect();
    Json(json!({ "agents": agents })).into_response()
}

async fn agent<I>(State(fleet): State<Fleet<I>>, Uid(uid): Uid) -> Result<Response, Refused> {
    let agent = fleet.agent(uid).ok_or(OperationError::UnknownAgent)?;
    Ok(Json(agent_json::agent_of(&fleet, &agent)).into_response())
}

#[derive(serde::Deserialize)]
struct File {
    #[serde(default)]
    name: String,
    #[serde(default)]
    content_type: String,
}

impl File {
    fn into_config(self, body: Bytes) -> RemoteConfig {
        let file = v1::AgentConfigFile { body, content_type: self.content_type };
        RemoteConfig::new(v1::AgentConfigMap { config_map: [(self.name, file)].into() })
    }
}

fn hash_reply(hash: ConfigHash) -> Response {
    Json(json!({ "config_hash": hash.to_string() })).into_response()
}

async fn set_default_config<I>(
    State(fleet): State<Fleet<I>>,
    file: Result<Query<File>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    let Query(file) = file?;
    let config = file.into_config(body?);
    let hash = config.hash();
    fleet.set_default_remote_config(config)?;
    Ok(hash_reply(hash))
}

async fn set_config<I>(
    State(fleet): State<Fleet<I>>,
    Uid(uid): Uid,
    file: Result<Query<File>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    let Query(file) = file?;
    let config = file.into_config(body?);
    let hash = config.hash();
    fleet.set_remote_config(uid, config)?;
    Ok(hash_reply(hash))
}

/// A file of several in a request.
#[derive(serde::Deserialize)]
struct NamedFile {
    #[serde(default)]
    content_type: String,
    body_base64: String,
}

async fn set_config_files<I>(
    State(fleet): State<Fleet<I>>,
    Uid(uid): Uid,
    files: Result<Json<BTreeMap<String, NamedFile>>, JsonRejection>,
) -> Result<Response, Refused> {
    let Json(files) = files?;
    let mut config = v1::AgentConfigMap::default();
    for (name, NamedFile { content_type, body_base64 }) in files {
        let body = BASE64
            .decode(body_base64)
            .map_err(|error| Refused(StatusCode::BAD_REQUEST, format!("{name:?}: {error}")))?;
        config.config_map.insert(name, v1::AgentConfigFile { body: body.into(), content_type });
    }
    let config = RemoteConfig::new(config);
    let hash = config.hash();
    fleet.set_remote_config(uid, config)?;
    Ok(hash_reply(hash))
}

#[derive(serde::Deserialize)]
struct Pause {
    retry_after: Option<u32>,
}

async fn set_unavailable<I>(
    State(fleet): State<Fleet<I>>,
    pause: Result<Query<Pause>, QueryRejection>,
) -> Result<StatusCode, Refused> {
    let Query(Pause { retry_after }) = pause?;
    fleet.set_unavailable(retry_after.map(|seconds| Duration::from_secs(seconds.into())));
    Ok(StatusCode::NO_CONTENT)
}

async fn set_available<I>(State(fleet): State<Fleet<I>>) -> StatusCode {
    fleet.set_available();
    StatusCode::NO_CONTENT
}

async fn clear_config<I>(
    State(fleet): State<Fleet<I>>,
    Uid(uid): Uid,
) -> Result<StatusCode, Refused> {
    fleet.clear_remote_config(uid)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn restart<I>(State(fleet): State<Fleet<I>>, Uid(uid): Uid) -> Result<StatusCode, Refused> {
    fleet.restart(uid, Instant::now())?;
    Ok(StatusCode::ACCEPTED)
}

async fn disconnect<I>(
    State(fleet): State<Fleet<I>>,
    Uid(uid): Uid,
) -> Result<StatusCode, Refused> {
    fleet.disconnect(uid)?;
    Ok(StatusCode::ACCEPTED)
}

async fn report_full_state<I>(
    State(fleet): State<Fleet<I>>,
    Uid(uid): Uid,
) -> Result<StatusCode, Refused> {
    fleet.request_full_state(uid)?;
    Ok(StatusCode::ACCEPTED)
}

async fn new_instance_uid<I>(
    State(fleet): State<Fleet<I>>,
    Uid(uid): Uid,
) -> Result<Response, Refused> {
    let new = InstanceUid::generate();
    fleet.rename(uid, new, Instant::now())?;
    Ok(Json(json!({ "new_instance_uid": new.to_string() })).into_response())
}

async fn set_connection_settings<I>(
    State(admin): State<Admin<I>>,
    Uid(uid): Uid,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Refused> {
    let agent = admin.fleet.agent(uid).ok_or(OperationError::UnknownAgent)?;
    let settings: Settings = parse(body)?;
    let held = admin.fleet.connection_settings(uid).map(|held| held.to_message());
    let endpoint = admin.place.endpoint(agent.transport());
    let settings = settings.over(held.unwrap_or_default(), &endpoint).map_err(wrong)?;
    let settings = ConnectionSettings::new(settings).map_err(|error| wrong(error.to_string()))?;
    admin.fleet.set_connection_settings(uid, settings)?;
    Ok(StatusCode::ACCEPTED)
}

async fn set_packages<I>(
    State(admin): State<Admin<I>>,
    Uid(uid): Uid,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Refused> {
    admin.fleet.agent(uid).ok_or(OperationError::UnknownAgent)?;
    let offer: PackageOffer = parse(body)?;
    let packages = offer.into_packages(&admin.files, &admin.place.packages()).map_err(wrong)?;
    admin.fleet.set_packages(uid, packages)?;
    Ok(StatusCode::ACCEPTED)
}

async fn send_custom_message<I>(
    State(fleet): State<Fleet<I>>,
    Uid(uid): Uid,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Refused> {
    fleet.agent(uid).ok_or(OperationError::UnknownAgent)?;
    let message = parse::<Custom>(body)?.into_message().map_err(wrong)?;
    fleet.send_custom_message(uid, message, Instant::now())?;
    Ok(StatusCode::ACCEPTED)
}

async fn custom_messages<I>(
    State(admin): State<Admin<I>>,
    Uid(uid): Uid,
) -> Result<Response, Refused> {
    admin.fleet.agent(uid).ok_or(OperationError::UnknownAgent)?;
    Ok(Json(json!({ "custom_messages": admin.mailbox.of(&uid) })).into_response())
}

/// A body of JSON, whatever the request says it is.
fn parse<T: serde::de::DeserializeOwned>(
    body: Result<Bytes, BytesRejection>,
) -> Result<T, Refused> {
    serde_json::from_slice(&body?).map_err(|error| wrong(error.to_string()))
}

fn wrong(what: String) -> Refused {
    Refused(StatusCode::BAD_REQUEST, what)
}

async fn metrics<I>(State(fleet): State<Fleet<I>>) -> Response {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::text(&fleet)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids_or_the_hex_of_other_lengths() {
        let uuid = "01890a5d-ac96-774b-bcce-b302099a8057";
        assert_eq!(parse_uid(uuid).ok().map(|uid| uid.to_string()).as_deref(), Some(uuid));
        let odd = parse_uid("6167656e74").ok();
        assert_eq!(odd.map(|uid| uid.as_bytes().to_vec()).as_deref(), Some(&b"agent"[..]));
        let hex = &uuid.replace('-', "");
        for wrong in ["", "x", "abc", "zz", "é0", hex, &"00".repeat(37)] {
            assert!(parse_uid(wrong).is_err(), "{wrong}");
        }
    }
}
