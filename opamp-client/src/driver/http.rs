//! One HTTP exchange: a POST, its response, and the limits on it.

use std::error::Error as _;
#[cfg(feature = "tls")]
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use opamp_proto::{InstanceUid, gzip};

use super::connector::retry_after;
use super::endpoint::Endpoint;
use crate::core::{ClientConfig, Failure, FailureKind, Response};
use crate::error::{Error, ErrorKind};

const OPAMP_INSTANCE_UID: HeaderName = HeaderName::from_static("opamp-instance-uid");
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

#[derive(Clone)]
pub(super) struct Exchanger {
    client: reqwest::Client,
    url: reqwest::Url,
    max_receive: usize,
}

impl Exchanger {
    pub(super) fn new(
        endpoint: &Endpoint,
        headers: &[(HeaderName, HeaderValue)],
        config: &ClientConfig,
        #[cfg(feature = "tls")] tls: Option<Arc<rustls::ClientConfig>>,
    ) -> Result<Self, Error> {
        let mut defaults = http::HeaderMap::new();
        defaults.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        for (name, value) in headers {
            defaults.append(name, value.clone());
        }
        let builder = reqwest::Client::builder()
            .default_headers(defaults)
            .timeout(config.connect_timeout)
            // A redirect would take the credentials along, wherever it leads.
            .redirect(reqwest::redirect::Policy::none());
        // Without a configuration of ours the library looks for a process-wide crypto provider, and
        // panics when there is none, also for a URL that needs no TLS.
        #[cfg(feature = "tls")]
        let builder = builder.tls_backend_preconfigured(match tls {
            Some(tls) => (*tls).clone(),
            None => crate::tls::trusting_nobody()?,
        });
        let client = builder.build().map_err(|error| {
            Error::with_source(ErrorKind::Config, "no HTTP client can be made", error)
        })?;
        let url = reqwest::Url::parse(&endpoint.http_url()).map_err(|error| {
            Error::with_source(ErrorKind::Url, "the server's URL cannot be read", error)
        })?;
        Ok(Self { client, url, max_receive: config.limits.max_receive() })
    }

    /// Makes the request and reads the response (HTTP-01, HTTP-02, HTTP-14, HTTP-22).
    pub(super) async fn exchange(
        self,
        instance_uid: InstanceUid,
        body: Bytes,
    ) -> Result<Response, Failure> {
        let request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, PROTOBUF)
            .header(OPAMP_INSTANCE_UID, instance_uid.to_string())
            .body(body);
        let response = request.send().await.map_err(failure)?;
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let body = match status {
            StatusCode::OK => self.body(response).await?,
            // Only a 200 has a ServerToAgent (A09); other bodies are not worth reading.
            _ => Bytes::new(),
        };
        Ok(Response { status: status.as_u16(), retry_after, body })
    }

    /// The body within the limit, which holds before and after decompression (SIZE-25, SIZE-26).
    async fn body(&self, mut response: reqwest::Response) -> Result<Bytes, Failure> {
        let coding = match response.headers().get(CONTENT_ENCODING) {
            None => Coding::Identity,
            Some(coding) => match coding.as_bytes().to_ascii_lowercase().as_slice() {
                b"identity" => Coding::Identity,
                b"gzip" | b"x-gzip" => Coding::Gzip,
                _ => return Err(bad_response("the response has an unknown content coding")),
            },
        };
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(failure)? {
            if body.len() + chunk.len() > self.max_receive {
                return Err(self.too_large());
            }
            body.extend_from_slice(&chunk);
        }
        match coding {
            Coding::Identity => Ok(body.freeze()),
            Coding::Gzip => {
                gzip::decompress(&body, self.max_receive).map_err(|error| match error {
                    gzip::GzipError::TooLarge { .. } => self.too_large(),
                    _ => bad_response("the response is not the gzip it claims to be"),
                })
            }
        }
    }

    fn too_large(&self) -> Failure {
        let limit = self.max_receive;
        bad_response(&format!("the response is larger than {limit} bytes and was discarded"))
    }
}

enum Coding {
    Identity,
    Gzip,
}

fn bad_response(message: &str) -> Failure {
    Failure { kind: FailureKind::BadResponse, message: message.to_owned() }
}

fn failure(error: reqwest::Error) -> Failure {
    // The URL may hold a token in its query.
    let error = error.without_url();
    let mut message = error.to_string();
    let mut source = error.source();
    #[cfg_attr(not(feature = "tls"), expect(unused_mut))]
    let mut kind = match error.is_decode() || error.is_body() {
        true => FailureKind::BadResponse,
        false => FailureKind::Unreachable,
    };
    #[cfg(feature = "tls")]
    if crate::tls::is_cause_of(&error) {
        kind = FailureKind::Tls;
    }
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    Failure { kind, message }
}
