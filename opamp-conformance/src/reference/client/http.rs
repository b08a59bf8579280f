//! The reference client on plain HTTP.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use opamp_proto::v1::{AgentToServer, ServerToAgent};
use prost::Message as _;
use tokio::time::{sleep_until, timeout};

use super::mind::Next;
use super::{Body, Order, Over};
use crate::server::agent::PROTOBUF;
use crate::wire::body;
use crate::wire::http_client::{Dialer, HttpConnection, field};
use crate::wire::uid;

/// How long an exchange may take.
const PATIENCE: Duration = Duration::from_secs(30);

impl Body {
    pub(super) async fn by_http(&mut self, dialer: &Dialer) -> Over {
        let mut http = match timeout(PATIENCE, dialer.http()).await {
            Ok(Ok(http)) => http,
            Ok(Err(_)) | Err(_) => return Over::Again(self.mind.backoff()),
        };
        self.linger().await;
        loop {
            let message = self.mind.compose();
            if message.sequence_num == 2 {
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
                    let goodbye = self.mind.goodbye();
                    let _ = self.exchange(dialer, &mut http, goodbye).await;
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
            while !self.mind.is_due() {
                tokio::select! {
                    order = self.orders.recv() => match order {
                        None | Some(Order::Stop) => {
                            let goodbye = self.mind.goodbye();
                            // It is the last there is to say, heard or not.
                            let _ = self.exchange(dialer, &mut http, goodbye).await;
                            return Over::Stop;
                        }
                        Some(order) => self.obey(order),
                    },
                    () = sleep_until(self.mind.heartbeat_at()) => break,
                }
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
        let response = match timeout(PATIENCE, http.send(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) | Err(_) => return Err(self.mind.backoff()),
        };
        if response.status() != 200 {
            if self.faults.has("polls-go-on-while-refused") {
                return Err(Duration::from_secs(1));
            }
            return Err(self.put_off(response.status().as_u16(), response.headers()));
        }
        let body = match field(response.headers(), header::CONTENT_ENCODING).as_str() {
            "gzip" => body::gunzip(response.body(), self.limit).ok(),
            _ => Some(response.body().clone()).filter(|body| body.len() <= self.limit),
        };
        match body.and_then(|body| ServerToAgent::decode(body).ok()) {
            Some(message) => Ok(self.mind.receive(message)),
            None => Err(self.mind.backoff()),
        }
    }
}
