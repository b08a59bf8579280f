//! The reference client on plain HTTP.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, header};
use opamp_proto::v1::AgentToServer;
use prost::Message as _;
use tokio::time::{Instant, sleep_until, timeout};

use super::mind::{NEVER, Next};
use super::strays::send_twice;
use super::{Body, Order, Over};
use crate::server::agent::PROTOBUF;
use crate::wire::body;
use crate::wire::http_client::{Dialer, HttpConnection, field};
use crate::wire::uid;
use crate::wire::ws::MAX_MESSAGE;

/// How long an exchange may take.
const PATIENCE: Duration = Duration::from_secs(30);

impl Body {
    pub(super) async fn by_http(&mut self, dialer: &Dialer) -> Over {
        let mut http = match timeout(PATIENCE, dialer.http()).await {
            Ok(Ok(http)) => http,
            Ok(Err(_)) | Err(_) => return Over::Again(self.mind.patience().unconnected()),
        };
        self.linger().await;
        loop {
            let mut message = self.compose();
            self.spoil(&mut message);
            if message.sequence_num == 2 && self.heard_at.is_some() {
                self.stray_requests(dialer, &message).await;
            }
            match self.exchange(dialer, &mut http, message).await {
                Ok(Next::GoOn) => {}
                Ok(Next::Wait(wait)) => return Over::Again(wait),
                Ok(Next::Move) => {
                    self.keep();
                    let applying = self.mind.compose();
                    // What becomes of these two does not keep the client here.
                    let _ = self.exchange(dialer, &mut http, applying).await;
                    if !self.faults.has("moves-without-goodbye") {
                        let goodbye = self.mind.goodbye();
                        let _ = self.exchange(dialer, &mut http, goodbye).await;
                    }
                    return Over::Again(Duration::ZERO);
                }
                Ok(Next::Restart) => {
                    let goodbye = self.mind.goodbye();
                    // The next request begins a new session, whether this one was heard or not.
                    let _ = self.exchange(dialer, &mut http, goodbye).await;
                    self.mind.restart();
                    return Over::Again(Duration::ZERO);
                }
                Err(wait) => {
                    self.mind.lost();
                    return Over::Again(wait);
                }
            }
            self.keep();
            while !self.mind.is_due() || self.faults.has("changes-wait-for-the-next-poll") {
                if self.stopping {
                    if !self.faults.has("leaves-without-goodbye") {
                        let goodbye = self.mind.goodbye();
                        // It is the last there is to say, heard or not.
                        let _ = self.exchange(dialer, &mut http, goodbye).await;
                    }
                    return Over::Stop;
                }
                tokio::select! {
                    order = self.orders.recv() => match order {
                        None | Some(Order::Stop) => self.stopping = true,
                        Some(order) => self.obey(order),
                    },
                    () = sleep_until(self.mind.heartbeat_at()),
                        if !self.faults.has("never-polls") => break,
                }
            }
            if !http.is_open() && self.faults.has("needs-keep-alive") {
                return Over::Again(NEVER);
            }
            if !http.is_open() {
                return Over::Again(Duration::ZERO);
            }
        }
    }

    /// One request and its response; an error is how long to wait before the next.
    async fn exchange(
        &mut self,
        dialer: &Dialer,
        http: &mut HttpConnection,
        message: AgentToServer,
    ) -> Result<Next, Duration> {
        let mut headers = HeaderMap::new();
        if !self.faults.has("content-type-is-missing") {
            headers.insert(header::CONTENT_TYPE, PROTOBUF);
        }
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        let id = match self.faults.has("uid-field-is-hexadecimal") {
            true => crate::wire::hex(self.mind.uid()),
            false => uid::text(self.mind.uid()),
        };
        if let Ok(id) = HeaderValue::from_str(&id)
            && !self.faults.has("uid-field-is-missing")
        {
            headers.insert("opamp-instance-uid", id);
        }
        let body: Bytes = message.encode_to_vec().into();
        let Ok(request) = dialer.request(Method::POST, &headers, body) else {
            return Err(self.mind.backoff());
        };
        let also = self.faults.has("does-not-wait-for-the-answer").then_some(dialer);
        let answered = async {
            match also {
                Some(dialer) => send_twice(dialer, http, request).await,
                None => http.send(request).await,
            }
        };
        let answered = timeout(self.within(PATIENCE), answered);
        tokio::pin!(answered);
        let response = loop {
            tokio::select! {
                answered = &mut answered => break answered,
                order = self.orders.recv(), if !self.stopping => match order {
                    None | Some(Order::Stop) => self.stopping = true,
                    Some(order) => self.obey(order),
                },
            }
        };
        let response = match response {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => return Err(self.mind.patience().unconnected()),
            Err(_) => return Err(self.mind.backoff()),
        };
        match response.status().as_u16() {
            200 => self.take(&response),
            413 => {
                self.mind.too_large();
                Err(self.mind.backoff())
            }
            _ if self.faults.has("polls-go-on-while-refused") => Err(Duration::from_secs(1)),
            status => {
                self.follow(dialer, &response).await;
                Err(self.mind.patience().put_off(status, response.headers()))
            }
        }
    }

    /// Takes in an answer with status 200.
    fn take(&mut self, response: &Response<Bytes>) -> Result<Next, Duration> {
        let headers = response.headers();
        let coding = field(headers, header::CONTENT_ENCODING);
        let is_chunked = headers.contains_key(header::TRANSFER_ENCODING);
        if is_chunked && self.faults.has("chunks-are-refused") {
            return Err(self.mind.backoff());
        }
        let body = match coding.as_str() {
            "gzip" if self.faults.has("announces-gzip-and-cannot-read-it") => None,
            "gzip" if self.faults.has("limit-counts-gzipped-bytes") => {
                body::gunzip(response.body(), MAX_MESSAGE).ok()
            }
            "gzip" => body::gunzip(response.body(), MAX_MESSAGE)
                .ok()
                .filter(|body| !self.is_too_large(body.len())),
            _ if self.is_too_large(response.body().len())
                && self.faults.has("oversized-answer-acknowledges") =>
            {
                Some(Bytes::new())
            }
            _ => Some(response.body().clone()).filter(|body| !self.is_too_large(body.len())),
        };
        let Some(message) = body.and_then(|body| self.read(body)) else {
            let is_final = self.faults.has("broken-answer-is-final");
            return Err(if is_final { NEVER } else { self.mind.backoff() });
        };
        self.heard_at = Some(Instant::now());
        let next = self.mind.receive(message);
        match field(headers, header::RETRY_AFTER).parse() {
            Ok(seconds) if self.faults.has("retry-after-on-success-is-used") => {
                Err(Duration::from_secs(seconds))
            }
            _ => Ok(next),
        }
    }

    /// Breaks what is only sent over HTTP.
    fn spoil(&self, message: &mut AgentToServer) {
        if self.faults.has("reports-less-over-http") {
            message.available_components = None;
        }
        if self.faults.has("polls-have-health") && message.sequence_num > 2 {
            message.health.get_or_insert_default();
        }
    }
}
