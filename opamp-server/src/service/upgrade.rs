//! The opening handshake of a WebSocket (NET-08; RFC 6455, section 4.2).

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{
    ALLOW, CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, Response, StatusCode, Version, request};
use sha1::{Digest as _, Sha1};

use super::body::Body;
use super::handler::Rejection;
use super::http::status;

/// The answer that switches the protocol, or the one that says why not. Never 404, which some
/// clients read as a server that is down.
pub(super) fn handshake(request: &request::Parts) -> Result<Response<Body>, Rejection> {
    let refuse = Rejection::with_status;
    if request.method != Method::GET {
        let methods = HeaderValue::from_static("GET, POST");
        return Err(refuse(StatusCode::METHOD_NOT_ALLOWED).with_header(ALLOW, methods));
    }
    if request.version != Version::HTTP_11 {
        return Err(refuse(StatusCode::BAD_REQUEST));
    }
    let headers = &request.headers;
    if !has_token(headers, &UPGRADE, "websocket") || !has_token(headers, &CONNECTION, "upgrade") {
        return Err(refuse(StatusCode::UPGRADE_REQUIRED));
    }
    let version = HeaderValue::from_static("13");
    if headers.get(SEC_WEBSOCKET_VERSION) != Some(&version) {
        let refusal = refuse(StatusCode::UPGRADE_REQUIRED);
        return Err(refusal.with_header(SEC_WEBSOCKET_VERSION, version));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).filter(|key| is_key(key));
    let accept = key.map(accept_key).and_then(|accept| HeaderValue::try_from(accept).ok());
    let accept = accept.ok_or_else(|| refuse(StatusCode::BAD_REQUEST))?;

    let mut response = status(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

/// The value of `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`.
fn accept_key(key: &[u8]) -> String {
    // The same for every WebSocket there is.
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    BASE64_STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

/// 16 bytes in base 64: 22 digits and two fillers.
fn is_key(key: &[u8]) -> bool {
    let digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(digit)
}

/// Whether a header that is a list of tokens has this one.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_rfc_6455_is_accepted_as_it_says() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
