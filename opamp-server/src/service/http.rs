//! The plain HTTP exchange: one request, one response (HTTP-03, HTTP-04, HTTP-19 to HTTP-25).

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::{
    ACCEPT_ENCODING, ALLOW, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue,
};
use http::{Method, Response, StatusCode, Version, request};
use opamp_proto::InstanceUid;
use opamp_proto::gzip::{self, GzipError};

use super::at_once::in_time;
use super::body::Body;
use super::handler::{Handler, Rejection};
use super::in_progress::{Exhausted, Share};
use super::large::LARGE;
use super::upload::{self, BodyFault, Pace};
use super::{Inner, Verdict, now};
use crate::core::{Refusal, RefusalKind, Transport};
use crate::fleet::{Accepted, AgentKey, Route};

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
const GZIP: HeaderValue = HeaderValue::from_static("gzip");

/// Whether a request is plain HTTP (HTTP-15, HTTP-16): the media type counts, in any case, and its
/// parameters do not (reading A04).
pub(super) fn is_plain(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
    if content_type == PROTOBUF.as_bytes() {
        return true;
    }
    let media_type = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    media_type.trim_ascii().eq_ignore_ascii_case(PROTOBUF.as_bytes())
}

/// A response without a body.
pub(super) fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = status;
    response
}

/// The rest of the request is not read, so that the connection cannot serve another.
fn closing(code: StatusCode) -> Rejection {
    Rejection::with_status(code).with_header(CONNECTION, HeaderValue::from_static("close"))
}

/// The runtime does no more work.
fn shutting_down() -> Rejection {
    Rejection::unavailable(Duration::ZERO)
}

/// Some clients look for a time to come back nowhere but in the header (THR-06, THR-08).
fn come_back_after(accepted: &Accepted) -> Result<(), Rejection> {
    let pause = accepted.refusal().and_then(Refusal::retry_after);
    pause.map_or(Ok(()), |pause| Err(Rejection::unavailable(pause)))
}

/// A refusal of what is wrong with the request's method, before anybody is asked to admit it.
pub(super) fn check_method(method: &Method) -> Result<(), Rejection> {
    if method == Method::POST {
        return Ok(());
    }
    let refusal = Rejection::with_status(StatusCode::METHOD_NOT_ALLOWED);
    Err(refusal.with_header(ALLOW, HeaderValue::from_static("POST")))
}

/// The coding of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Identity,
    Gzip,
}

/// HTTP-19 to HTTP-21, reading A38.
fn coding(headers: &HeaderMap) -> Result<Coding, Rejection> {
    let mut found = Coding::Identity;
    for value in headers.get_all(CONTENT_ENCODING) {
        for coding in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if coding.is_empty() || coding.eq_ignore_ascii_case(b"identity") {
                continue;
            }
            let gzip =
                coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip");
            if !gzip || found == Coding::Gzip {
                let refusal = Rejection::with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE);
                return Err(refusal.with_header(ACCEPT_ENCODING, GZIP));
            }
            found = Coding::Gzip;
        }
    }
    Ok(found)
}

/// Whether the client takes a compressed response (HTTP-24, HTTP-25; RFC 9110, section 12.5.3).
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let mut by_name = None;
    let mut by_star = None;
    for value in headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()) {
        for element in value.split(',') {
            let mut parameters = element.split(';').map(str::trim);
            let accepted = match parameters.next() {
                Some(coding) if coding.eq_ignore_ascii_case("gzip") => &mut by_name,
                Some(coding) if coding.eq_ignore_ascii_case("x-gzip") => &mut by_name,
                Some("*") => &mut by_star,
                _ => continue,
            };
            let weight = parameters.find_map(|parameter| {
                let (name, value) = parameter.split_once('=')?;
                name.trim().eq_ignore_ascii_case("q").then_some(value.trim())
            });
            let weight = weight.map_or(Some(1.0), |weight| weight.parse::<f32>().ok());
            *accepted = Some(weight.is_some_and(|weight| weight > 0.0));
        }
    }
    by_name.or(by_star).unwrap_or(false)
}

/// What is sent in answer to a message.
pub(super) struct Reply {
    body: Body,
    packing: Packing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    /// It goes as it is.
    No,
    /// It is worth it, and the client takes it.
    Due,
    Done,
}

impl Reply {
    pub(super) fn into_response(self) -> Response<Body> {
        let mut response = Response::new(self.body);
        response.headers_mut().insert(CONTENT_TYPE, PROTOBUF);
        if self.packing == Packing::Done {
            response.headers_mut().insert(CONTENT_ENCODING, GZIP);
        }
        response
    }
}

/// How far a message is answered.
enum Answer {
    Ready(Reply),
    /// There is something to wait for.
    Waits(Box<Waiting>),
}

/// A message whose reply has to wait.
struct Waiting {
    accepted: Accepted,
    out: Vec<u8>,
}

impl<H: Handler> Inner<H> {
    /// Answers an admitted request, unless its body cannot be read.
    ///
    /// Most messages are answered without waiting for anything but the body: what is done with
    /// those is no part of the future, which is allocated and moved for each request.
    pub(super) async fn exchange<B>(
        self: &Arc<Self>,
        request: &request::Parts,
        body: Pin<&mut B>,
        peer: Option<SocketAddr>,
        identity: H::Identity,
        span: &tracing::Span,
    ) -> Result<Reply, Rejection>
    where
        B: http_body::Body<Data: Buf> + Send,
    {
        let (body, share) = self.body(request, body).await?;
        let route = self.fleet.open_route(Transport::Http, peer, identity, None);
        let (accepted, out) = match body.len() <= LARGE {
            true => self.accept(route, body),
            false => {
                let inner = Arc::clone(self);
                let accepted = self.large.run_elsewhere(move || inner.accept(route, body));
                Box::pin(accepted).await.ok_or_else(shutting_down)?
            }
        };
        drop(share);
        let answer = self.answer(request, peer, accepted, out, span)?;
        let reply = match answer {
            Answer::Ready(reply) => reply,
            Answer::Waits(waiting) => Box::pin(self.reply(&request.headers, *waiting)).await?,
        };
        match reply.packing {
            Packing::Due => Box::pin(self.packed(reply.body)).await,
            _ => Ok(reply),
        }
    }

    /// Takes in a message, and composes its reply if there is nothing to wait for.
    fn accept(self: &Arc<Self>, mut route: Route<H::Identity>, body: Bytes) -> (Accepted, Vec<u8>) {
        let mut out = Vec::with_capacity(self.fleet.config().usual_reply());
        let fresh = &mut InstanceUid::generate;
        let accepted = self.fleet.accept_or_reply(&mut route, &body, now(), fresh, &mut out);
        // At once: whoever waits for this may be gone when it is done, and the registry counts on
        // an Agent to be queued that it said is to be.
        if let (Some(key), true) = (accepted.key, accepted.queue) {
            self.dispatch(key);
        }
        (accepted, out)
    }

    /// Answers a message that was taken in, as far as that is possible at once.
    fn answer(
        &self,
        request: &request::Parts,
        peer: Option<SocketAddr>,
        mut accepted: Accepted,
        out: Vec<u8>,
        span: &tracing::Span,
    ) -> Result<Answer, Rejection> {
        if let (Some(key), false) = (accepted.key, span.is_disabled()) {
            span.record("agent", tracing::field::display(key));
        }
        if let Some(refusal) = accepted.refusal() {
            tracing::debug!(agent = ?accepted.key, peer = ?peer, refusal = refusal.text(), "refused");
            if refusal.kind() == RefusalKind::Denied {
                return Err(Rejection::forbidden());
            }
        }
        if let Some(key) = accepted.key {
            if tracing::enabled!(tracing::Level::DEBUG) {
                self.note_header(&request.headers, &key);
            }
            super::note_odd_uid(&key, accepted.changes);
        }
        match accepted.composed() {
            Some(tail) => {
                come_back_after(&accepted)?;
                let reply = self.respond(&request.headers, accepted.key, out, tail);
                Ok(Answer::Ready(reply))
            }
            None => Ok(Answer::Waits(Box::new(Waiting { accepted, out }))),
        }
    }

    /// Replies to a message when there is nothing to wait for any longer.
    async fn reply(&self, headers: &HeaderMap, waiting: Waiting) -> Result<Reply, Rejection> {
        let Waiting { accepted, mut out } = waiting;
        let key = accepted.key;
        if let (Some(key), false) = (key, accepted.changes.is_empty()) {
            self.handled(key, accepted.ticket).await;
        }
        come_back_after(&accepted)?;
        if let Some(saver) = self.saver() {
            if saver.wait(&self.fleet, accepted.unsaved).await == Verdict::Refuse {
                saver.refuse(&self.fleet, accepted, &mut out);
                return Ok(self.respond(headers, key, out, None));
            }
            // A certificate that was issued just now need not wait for the next request.
            let held = key.map_or(0, |key| self.fleet.settings_held_until(key));
            let _left_out_if_not = saver.wait(&self.fleet, held).await;
        }
        let tail = self.fleet.reply(accepted, now(), &mut out);
        Ok(self.respond(headers, key, out, tail))
    }

    /// Waits within the deadline for the handler to have looked at an Agent's changes.
    async fn handled(&self, key: AgentKey, ticket: u64) {
        let handled = std::future::poll_fn(|cx| self.fleet.poll_handled(key, ticket, cx));
        if in_time(self.config.reply_deadline, pin!(handled)).await.is_err() {
            tracing::debug!(agent = %key, "the response does not wait for the handler any longer");
        }
    }

    /// Reads a request's body, whole and unpacked (SIZE-18, SIZE-21 to SIZE-23).
    async fn body<B>(
        &self,
        request: &request::Parts,
        body: Pin<&mut B>,
    ) -> Result<(Bytes, Share), Rejection>
    where
        B: http_body::Body<Data: Buf> + Send,
    {
        let headers = &request.headers;
        let coding = coding(headers)?;
        let limit = self.fleet.config().limits.max_receive();
        // What the client has declared.
        let declared = body.size_hint().lower();
        if usize::try_from(declared).map_or(true, |length| length > limit) {
            return Err(self.oversized());
        }
        let pace = Pace { deadline: self.config.body_deadline, rate: self.config.min_body_rate };
        let mut share = match request.version {
            Version::HTTP_2 => self.shares.in_progress.share_of_many(),
            _ => self.shares.in_progress.share(),
        };
        let body = match upload::collect(body, limit, pace, &mut share).await {
            Ok(body) => body,
            Err(BodyFault::TooLarge) => return Err(self.oversized()),
            Err(BodyFault::Broken) => return Err(closing(StatusCode::BAD_REQUEST)),
            Err(BodyFault::Crowded) => return Err(self.crowded()),
            Err(BodyFault::Slow) => {
                self.fleet.counting().timed_out.add();
                return Err(closing(StatusCode::REQUEST_TIMEOUT));
            }
        };
        if coding == Coding::Identity {
            return Ok((body, share));
        }
        match Box::pin(self.unpacked(body, limit, &mut share)).await? {
            Ok(body) => Ok((body, share)),
            Err(GzipError::TooLarge { .. }) => Err(self.oversized()),
            Err(_corrupt) => Err(Rejection::with_status(StatusCode::BAD_REQUEST)),
        }
    }

    /// What is large shows while it is unpacked, so a beginning is made here.
    async fn unpacked(
        &self,
        body: Bytes,
        limit: usize,
        share: &mut Share,
    ) -> Result<Result<Bytes, GzipError>, Rejection> {
        let here = limit.min(LARGE);
        if body.len() <= here {
            match gzip::decompress(&body, here) {
                Err(GzipError::TooLarge { .. }) if here < limit => {}
                unpacked => return Ok(unpacked),
            }
        }
        // Not knowing how large it will be, it takes what it may need, and gives back what it did
        // not.
        let granted = limit.min(share.most().saturating_sub(body.len()));
        share.set(body.len() + granted).map_err(|Exhausted| self.crowded())?;
        let unpacked = self.large.run(limit, move || gzip::decompress(&body, granted)).await;
        match unpacked.ok_or_else(shutting_down)? {
            Err(GzipError::TooLarge { .. }) if granted < limit => Err(self.crowded()),
            unpacked => {
                let size = unpacked.as_ref().map_or(0, Bytes::len);
                share.set(size).map_err(|Exhausted| self.crowded())?;
                Ok(unpacked)
            }
        }
    }

    /// Too many bodies are on their way, or being unpacked.
    fn crowded(&self) -> Rejection {
        self.fleet.counting().rejected(503);
        Rejection::unavailable(self.shares.crowded())
    }

    fn oversized(&self) -> Rejection {
        self.fleet.counting().oversized.add();
        closing(StatusCode::PAYLOAD_TOO_LARGE)
    }

    /// Makes a message the reply, or if it is too large an error in its place (SIZE-30 to SIZE-32,
    /// reading A10). The tail is not copied, as many may be sent the same at a time, but packed for
    /// each of those who take that, as long as there is memory for it.
    fn respond(
        &self,
        headers: &HeaderMap,
        key: Option<AgentKey>,
        mut head: Vec<u8>,
        tail: Option<Bytes>,
    ) -> Reply {
        let mut tail = tail.unwrap_or_default();
        if let Some(replacement) = self.unsendable(key.as_ref(), head.len() + tail.len()) {
            (head, tail) = (replacement, Bytes::new());
        }
        let size = head.len() + tail.len();
        let counting = self.fleet.counting();
        counting.http_messages_sent.add();
        counting.http_bytes_sent.add_all(size as u64);
        let packing = match size >= self.config.min_compressed && accepts_gzip(headers) {
            true => Packing::Due,
            false => Packing::No,
        };
        Reply { body: Body::with_shared(head.into(), tail), packing }
    }

    /// A reply whose body is packed, if there is memory for that.
    async fn packed(&self, body: Body) -> Result<Reply, Rejection> {
        let (head, tail) = body.parts();
        let pack = move || {
            let mut whole = Vec::with_capacity(head.len() + tail.len());
            whole.extend_from_slice(&head);
            whole.extend_from_slice(&tail);
            gzip::compress(&whole)
        };
        let size = body.len();
        let packed = self.large.run(size, pack).await.ok_or_else(shutting_down)?;
        // Many clients may take none of what was packed for each of them.
        let mut share = self.shares.in_progress.share();
        if share.set(packed.capacity()).is_err() {
            return Ok(Reply { body, packing: Packing::No });
        }
        Ok(Reply { body: Body::with_share(packed.into(), share), packing: Packing::Done })
    }

    /// What to send in place of a message of this size, if it is above the limit.
    pub(super) fn unsendable(&self, key: Option<&AgentKey>, size: usize) -> Option<Vec<u8>> {
        let limit = self.fleet.config().limits.max_send();
        if size <= limit {
            return None;
        }
        self.fleet.counting().unsendable.add();
        tracing::error!(agent = ?key, size, limit, "a message above the limit is not sent");
        let mut replacement = Vec::new();
        Refusal::unknown("the reply is above the size limit")
            .encode(key.map(AgentKey::uid), &mut replacement);
        replacement.truncate(if replacement.len() > limit { 0 } else { replacement.len() });
        Some(replacement)
    }

    /// The header is advice for load balancers; in the field it may differ from the message, which
    /// is what counts.
    fn note_header(&self, headers: &HeaderMap, key: &AgentKey) {
        let stated = headers.get("opamp-instance-uid").and_then(|value| value.to_str().ok());
        if stated.is_some_and(|stated| !stated.eq_ignore_ascii_case(&key.uid().to_string())) {
            tracing::debug!(agent = %key, "the OpAMP-Instance-UID header names another Agent");
        }
    }
}
