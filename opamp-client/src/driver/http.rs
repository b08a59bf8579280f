//! HTTP exchanges: a POST, its response, and the limits on both.

use std::error::Error as _;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use opamp_proto::{InstanceUid, gzip};

use super::base::{Target, failure};
use super::coding::Requests;
use super::connector::{Credentials, TlsConfig, retry_after};
use super::endpoint::Endpoint;
use super::patience::{Meter, Patience};
use super::proxy::Route;
use super::redirect::Hops;
use crate::core::{Failure, FailureKind, Response};
use crate::error::{Error, ErrorKind};

const OPAMP_INSTANCE_UID: HeaderName = HeaderName::from_static("opamp-instance-uid");
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
const GZIP: HeaderValue = HeaderValue::from_static("gzip");

/// Makes requests of one server with one set of settings. Cheap to clone; the clones share the
/// connection that is kept between requests.
#[derive(Clone)]
pub(super) struct Exchanger {
    inner: Arc<Inner>,
}

struct Inner {
    target: Target,
    credentials: Credentials,
    /// For the configured server.
    home: reqwest::Client,
    requests: Requests,
}

impl Exchanger {
    pub(super) fn new(target: Target) -> Result<Self, Error> {
        let credentials = Credentials::of(&target)?;
        let route = target.proxy.route_to(&target.endpoint);
        let tls = credentials.for_all(&target.endpoint, route.as_ref(), false);
        let tls = tls.map_err(|failure| Error::new(ErrorKind::Tls, failure.message))?;
        let home = client(route.as_ref(), tls)?;
        url(&target.endpoint)?;
        let requests = Requests::new(target.compress_requests);
        Ok(Self { inner: Arc::new(Inner { target, credentials, home, requests }) })
    }

    pub(super) fn is_stale(&self) -> bool {
        self.inner.credentials.are_stale()
    }

    /// Makes the request and reads the response (HTTP-01, HTTP-02, HTTP-14, HTTP-22).
    pub(super) async fn exchange(
        self,
        instance_uid: InstanceUid,
        body: Bytes,
    ) -> Result<Response, Unanswered> {
        let patience = Patience::new(self.inner.target.times.connect);
        let response = self.request(instance_uid, body, &patience).await;
        response.map_err(|failure| match patience.has_begun() {
            true => Unanswered::Lost(failure),
            false => Unanswered::Unsent(failure),
        })
    }

    async fn request(
        &self,
        instance_uid: InstanceUid,
        body: Bytes,
        patience: &Patience,
    ) -> Result<Response, Failure> {
        let Inner { target, requests, .. } = &*self.inner;
        let mut headers = target.headers.get(target.times.connect).await?;
        headers.insert(CONTENT_TYPE, PROTOBUF);
        headers.insert(ACCEPT_ENCODING, GZIP);
        let uid = HeaderValue::try_from(instance_uid.to_string());
        // A UUID has no character that a header could not have.
        headers.extend(uid.ok().map(|uid| (OPAMP_INSTANCE_UID, uid)));

        if requests.compresses(&body) {
            let compressed = blocking(body.len(), {
                let body = body.clone();
                move || Bytes::from(gzip::compress(&body))
            });
            let mut coded = headers.clone();
            coded.insert(CONTENT_ENCODING, GZIP);
            let response = self.follow(&coded, compressed.await?, patience).await?;
            if requests.took(&response) {
                return Ok(response);
            }
            // What it could not read it has not acted on.
            let response = self.follow(&headers, body, patience).await?;
            requests.took_plain(&response);
            return Ok(response);
        }
        self.follow(&headers, body, patience).await
    }

    /// Makes the request wherever redirects lead.
    async fn follow(
        &self,
        headers: &HeaderMap,
        body: Bytes,
        patience: &Patience,
    ) -> Result<Response, Failure> {
        let Inner { target, .. } = &*self.inner;
        let mut hops = Hops::new(Method::POST, &target.endpoint, target.max_redirects);
        loop {
            let client = self.client_for(&hops)?;
            let url = url(hops.here()).map_err(|error| failure(&error))?;
            let mut admitted = hops.admit(headers.clone());
            for own in [CONTENT_TYPE, ACCEPT_ENCODING, CONTENT_ENCODING, OPAMP_INSTANCE_UID] {
                if let Some(value) = headers.get(&own) {
                    admitted.insert(own, value.clone());
                }
            }
            let meter = Meter::new(body.clone());
            let request =
                client.post(url).headers(admitted).body(reqwest::Body::wrap(meter.body()));
            let response = patience.send(request.send(), &meter).await?.map_err(broken)?;
            let status = response.status();
            if hops.is_redirect(status) {
                hops.follow(status, response.headers())?;
                continue;
            }
            return self.response(response, patience).await;
        }
    }

    /// A redirect to another origin is followed with another client: without the certificate, and
    /// through the proxy that is for that origin.
    fn client_for(&self, hops: &Hops) -> Result<reqwest::Client, Failure> {
        let Inner { target, credentials, home, .. } = &*self.inner;
        if !hops.is_abroad() {
            return Ok(home.clone());
        }
        let route = target.proxy.route_to(hops.here());
        let tls = credentials.for_all(hops.here(), route.as_ref(), true)?;
        client(route.as_ref(), tls).map_err(|error| failure(&error))
    }

    async fn response(
        &self,
        response: reqwest::Response,
        patience: &Patience,
    ) -> Result<Response, Failure> {
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let body = match status {
            StatusCode::OK => self.body(response, patience).await?,
            // Only a 200 has a ServerToAgent (A09); other bodies are not worth reading.
            _ => Bytes::new(),
        };
        Ok(Response { status: status.as_u16(), retry_after, body })
    }

    /// The body within the limit, which holds before and after decompression (SIZE-25, SIZE-26).
    async fn body(
        &self,
        mut response: reqwest::Response,
        patience: &Patience,
    ) -> Result<Bytes, Failure> {
        let max_receive = self.inner.target.limits.max_receive();
        let coding = match response.headers().get(CONTENT_ENCODING) {
            None => Coding::Identity,
            Some(coding) => match coding.as_bytes().to_ascii_lowercase().as_slice() {
                b"identity" => Coding::Identity,
                b"gzip" | b"x-gzip" => Coding::Gzip,
                _ => return Err(bad_response("the response has an unknown content coding")),
            },
        };
        let too_large = || {
            bad_response(&format!(
                "the response is larger than {max_receive} bytes and was discarded"
            ))
        };
        let mut body = BytesMut::new();
        while let Some(chunk) = patience.more(response.chunk()).await?.map_err(broken)? {
            if body.len() + chunk.len() > max_receive {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        let body = body.freeze();
        match coding {
            Coding::Identity => Ok(body),
            Coding::Gzip => {
                self.inner.requests.server_compresses();
                let whole = blocking(body.len(), move || gzip::decompress(&body, max_receive));
                whole.await?.map_err(|error| match error {
                    gzip::GzipError::TooLarge { .. } => too_large(),
                    _ => bad_response("the response is not the gzip it claims to be"),
                })
            }
        }
    }
}

/// Why there is no response.
pub(super) enum Unanswered {
    /// Nothing of the request has left.
    Unsent(Failure),
    /// It may have arrived.
    Lost(Failure),
}

enum Coding {
    Identity,
    Gzip,
}

/// Work on this many bytes takes about a millisecond when they are compressed; more is not done on
/// the runtime's threads.
const BLOCKING: usize = 256 * 1024;

async fn blocking<T: Send + 'static>(
    size: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    if size < BLOCKING {
        return Ok(work());
    }
    // It neither panics nor is aborted, but for a runtime that shuts down.
    tokio::task::spawn_blocking(work).await.map_err(|error| bad_response(&error.to_string()))
}

fn url(endpoint: &Endpoint) -> Result<reqwest::Url, Error> {
    reqwest::Url::parse(&endpoint.http_url()).map_err(|error| {
        Error::with_source(ErrorKind::Url, "the server's URL cannot be read", error)
    })
}

fn client(route: Option<&Route>, tls: Option<TlsConfig>) -> Result<reqwest::Client, Error> {
    let builder = reqwest::Client::builder()
        // A redirect would take the credentials along, wherever it leads.
        .redirect(reqwest::redirect::Policy::none())
        // The environment was asked already.
        .no_proxy()
        .referer(false)
        // The limit is for what comes out, whatever else the library is built with.
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate();
    let builder = match route {
        None => builder,
        Some(route) => builder.proxy(route.for_requests()?),
    };
    // Without a configuration of ours the library looks for a process-wide crypto provider, and
    // panics when there is none, also for a URL that needs no TLS.
    #[cfg(feature = "tls")]
    let builder = builder.tls_backend_preconfigured(match tls {
        Some(tls) => (*tls).clone(),
        None => crate::tls::trusting_nobody()?,
    });
    #[cfg(not(feature = "tls"))]
    let _ = tls;
    builder
        .build()
        .map_err(|error| Error::with_source(ErrorKind::Config, "no HTTP client can be made", error))
}

fn bad_response(message: &str) -> Failure {
    Failure { kind: FailureKind::BadResponse, message: message.to_owned() }
}

fn broken(error: reqwest::Error) -> Failure {
    // The URL may hold a token in its query.
    let error = error.without_url();
    #[cfg(feature = "tls")]
    if let Some(message) = crate::tls::explain(&error) {
        let message = format!("no TLS connection: {message}");
        return Failure { kind: FailureKind::Tls, message };
    }
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    let kind = if error.is_decode() || error.is_body() {
        FailureKind::BadResponse
    } else if message.ends_with("proxy authorization required") {
        // The library tells this apart from other failures of a tunnel by its text alone.
        FailureKind::Unauthorized
    } else {
        FailureKind::Unreachable
    };
    Failure { kind, message }
}
