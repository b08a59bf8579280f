//! Bytes as the body of a plain HTTP request, packed or not, in pieces, and broken off.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode};
use opamp_proto::{Message as _, MessageLimits, gzip, v1};
use opamp_server::{AcceptAll, OpampService, ServerConfig, ServiceConfig};

/// Of what a body holds once it is unpacked.
const LIMIT: usize = 4096;

#[derive(Debug, Arbitrary)]
struct Input {
    /// Says that it is packed.
    says_gzip: bool,
    /// Is packed.
    is_gzip: bool,
    accepts_gzip: bool,
    /// Where it is cut.
    pieces: Vec<u8>,
    bytes: Vec<u8>,
}

struct Pieces(VecDeque<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    if let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(bytes)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime without I/O").block_on(exchange(input));
    }
}

async fn exchange(input: Input) {
    let mut config = ServerConfig::default();
    config.limits = MessageLimits::new().with_max_receive(LIMIT);
    let service = OpampService::new(AcceptAll, config, ServiceConfig::default());
    let mut body =
        Bytes::from(if input.is_gzip { gzip::compress(&input.bytes) } else { input.bytes });
    let mut pieces = VecDeque::new();
    for size in input.pieces {
        pieces.push_back(body.split_to(body.len().min(size.into())));
    }
    pieces.push_back(body);
    let mut request = Request::new(Pieces(pieces));
    *request.method_mut() = Method::POST;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    if input.says_gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if input.accepts_gzip {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    }
    let response = hyper::service::Service::call(&service, request).await.expect("infallible");
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("it is whole").to_bytes();
    match head.status {
        StatusCode::OK => {
            let body = match head.headers.get(CONTENT_ENCODING) {
                Some(_) => gzip::decompress(&body, LIMIT).expect("it was packed just now"),
                None => body,
            };
            assert_eq!(head.headers[CONTENT_TYPE], "application/x-protobuf");
            v1::ServerToAgent::decode(body).expect("a reply");
        }
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => {}
        status => panic!("{status} is for nothing that a body can do"),
    }
}
