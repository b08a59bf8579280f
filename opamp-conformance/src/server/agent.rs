//! An agent the tester plays. It numbers its messages, fills in its id and capabilities, and speaks
//! both transports the same way: over plain HTTP it polls to hear what the server has to say.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, header};
use opamp_proto::v1::{
    AgentConfigFile, AgentConfigMap, AgentDescription, AgentToServer, AvailableComponents,
    ComponentHealth, ConnectionSettingsStatus, EffectiveConfig, PackageStatuses,
    RemoteConfigStatus, RemoteConfigStatuses, ServerErrorResponse, ServerToAgent,
};
use prost::Message as _;
use tokio::time::{Instant, sleep, timeout};

use crate::judge::Stop;
use crate::mask::agent as mask;
use crate::pace::Pace;
use crate::report::Transport;
use crate::wire::attribute;
use crate::wire::body;
use crate::wire::http_client::{Dialer, Handshake, HttpConnection};
use crate::wire::uid;
use crate::wire::ws::{Incoming, WebSocket};

/// The content type of plain HTTP messages.
pub const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// What a scripted agent hears.
#[derive(Debug, Clone)]
pub enum Heard {
    /// A message.
    Message(Box<ServerToAgent>),
    /// Something that is no OpAMP message, and what is wrong with it.
    Malformed(String),
    /// The connection was closed: the code of the Close frame, and in words.
    Closed(Option<u16>, String),
    /// Nothing within the time.
    Silence,
}

impl Heard {
    /// The message, where it reports no error: what it answers was processed.
    #[must_use]
    pub fn good(&self) -> Option<&ServerToAgent> {
        match self {
            Self::Message(message) if message.error_response.is_none() => Some(message),
            _ => None,
        }
    }

    /// The error a message reports.
    #[must_use]
    pub fn error(&self) -> Option<&ServerErrorResponse> {
        match self {
            Self::Message(message) => message.error_response.as_ref(),
            _ => None,
        }
    }
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(message) => match &message.error_response {
                None => write!(f, "a reply without error"),
                Some(error) => {
                    write!(f, "an error of type {} {:?}", error.r#type, error.error_message)
                }
            },
            Self::Malformed(what) => write!(f, "a malformed reply: {what}"),
            Self::Closed(_, how) => f.write_str(how),
            Self::Silence => f.write_str("nothing"),
        }
    }
}

/// A scripted agent.
pub struct Agent {
    /// Its instance uid.
    pub uid: Bytes,
    /// Its capabilities.
    pub capabilities: u64,
    /// The number of its last message.
    pub sequence_num: u64,
    /// The hash it reports as the last remote configuration's.
    pub config_hash: Bytes,
    /// How it reaches the server.
    pub dialer: Dialer,
    /// How long it waits for a reply.
    pub patience: Duration,
    pub(super) pace: Pace,
    link: Link,
}

enum Link {
    Down,
    WebSocket(WebSocket),
    Http(HttpConnection),
}

impl Agent {
    /// An agent that is not connected.
    #[must_use]
    pub fn new(dialer: Dialer, uid: Bytes, capabilities: u64, pace: Pace) -> Self {
        Self {
            uid,
            capabilities,
            sequence_num: 0,
            config_hash: Bytes::new(),
            dialer,
            patience: pace.reply(),
            pace,
            link: Link::Down,
        }
    }

    /// Its id as hooks and people write it.
    #[must_use]
    pub fn uid_text(&self) -> String {
        uid::text(&self.uid)
    }

    /// The next message with nothing but what every message has: id, number, capabilities.
    pub fn message(&mut self) -> AgentToServer {
        self.sequence_num += 1;
        AgentToServer {
            instance_uid: self.uid.clone(),
            sequence_num: self.sequence_num,
            capabilities: self.capabilities,
            ..Default::default()
        }
    }

    /// The next message with everything the capabilities promise.
    pub fn full_report(&mut self) -> AgentToServer {
        let has = |bit| self.capabilities & bit != 0;
        let when = |bit| has(bit).then_some(());
        let health = when(mask::REPORTS_HEALTH).map(|()| ComponentHealth {
            healthy: true,
            start_time_unix_nano: 1_700_000_000_000_000_000,
            status: "running".to_owned(),
            status_time_unix_nano: 1_700_000_000_000_000_000,
            ..Default::default()
        });
        let effective_config = when(mask::REPORTS_EFFECTIVE_CONFIG).map(|()| effective("a: 1\n"));
        let remote_config_status = when(mask::REPORTS_REMOTE_CONFIG).map(|()| RemoteConfigStatus {
            last_remote_config_hash: self.config_hash.clone(),
            status: if self.config_hash.is_empty() {
                RemoteConfigStatuses::Unset.into()
            } else {
                RemoteConfigStatuses::Applied.into()
            },
            error_message: String::new(),
        });
        let package_statuses =
            when(mask::REPORTS_PACKAGE_STATUSES).map(|()| PackageStatuses::default());
        let connection_settings_status = when(mask::REPORTS_CONNECTION_SETTINGS_STATUS)
            .map(|()| ConnectionSettingsStatus::default());
        let available_components = when(mask::REPORTS_AVAILABLE_COMPONENTS)
            .map(|()| AvailableComponents { components: BTreeMap::new(), hash: self.uid.clone() });
        let name = uid::text(&self.uid);
        AgentToServer {
            agent_description: Some(AgentDescription {
                identifying_attributes: vec![
                    attribute("service.name", "conformance"),
                    attribute("service.instance.id", &name),
                ],
                non_identifying_attributes: vec![attribute("os.type", "linux")],
            }),
            health,
            effective_config,
            remote_config_status,
            package_statuses,
            connection_settings_status,
            available_components,
            ..self.message()
        }
    }

    /// Connects over its transport. Plain HTTP connects with the first request.
    ///
    /// # Errors
    ///
    /// [`Stop::Unreached`] when the server cannot be reached or refuses the WebSocket.
    pub async fn connect(&mut self) -> Result<(), Stop> {
        if self.dialer.url.transport == Transport::Http {
            return Ok(());
        }
        let none = HeaderMap::new();
        match timeout(self.pace.reply(), self.dialer.websocket(&none)).await {
            Ok(Ok(Handshake::Accepted(websocket))) => {
                self.link = Link::WebSocket(websocket);
                Ok(())
            }
            Ok(Ok(Handshake::Refused(response))) => Err(Stop::Unreached(format!(
                "the WebSocket handshake was answered with status {}",
                response.status()
            ))),
            Ok(Err(lost)) => Err(Stop::Unreached(lost.to_string())),
            Err(_) => Err(Stop::Unreached("the WebSocket handshake was not answered".to_owned())),
        }
    }

    /// The WebSocket, for what only a WebSocket can do.
    ///
    /// # Errors
    ///
    /// [`Stop::Harness`] when the agent has none.
    pub fn websocket(&mut self) -> Result<&mut WebSocket, Stop> {
        match &mut self.link {
            Link::WebSocket(websocket) => Ok(websocket),
            _ => Err(Stop::Harness("the case needs a WebSocket it has not opened".to_owned())),
        }
    }

    /// Drops the connection without a word, as a crash would.
    pub fn vanish(&mut self) {
        self.link = Link::Down;
    }

    /// Sends a message and gives the reply to it: over a WebSocket the next message, over HTTP the
    /// response.
    ///
    /// # Errors
    ///
    /// [`Stop::Unreached`] when none comes.
    pub async fn exchange(&mut self, message: AgentToServer) -> Result<ServerToAgent, Stop> {
        match self.ask(message).await? {
            Heard::Message(reply) => Ok(*reply),
            Heard::Malformed(what) => {
                Err(Stop::Unreached(format!("the reply is malformed: {what}")))
            }
            Heard::Closed(_, how) => Err(Stop::Unreached(format!("no reply, but {how}"))),
            Heard::Silence => Err(Stop::Unreached(format!(
                "no reply within {:.1} s",
                self.patience.as_secs_f64()
            ))),
        }
    }

    /// As [`exchange`](Self::exchange), for a case that judges what comes instead of a reply, too.
    ///
    /// # Errors
    ///
    /// [`Stop::Harness`] when there is no connection to send on.
    pub async fn ask(&mut self, message: AgentToServer) -> Result<Heard, Stop> {
        self.ask_bytes(message.encode_to_vec().into()).await
    }

    /// As [`ask`](Self::ask), with the bytes of a message, right or wrong; the header of a
    /// WebSocket message is added.
    ///
    /// # Errors
    ///
    /// [`Stop::Harness`] when there is no connection to send on.
    pub async fn ask_bytes(&mut self, message: Bytes) -> Result<Heard, Stop> {
        if self.dialer.url.transport == Transport::Http {
            return Ok(self.post(message).await);
        }
        self.send_bytes(message).await?;
        Ok(self.next(self.patience).await)
    }

    /// Sends a message over the WebSocket without waiting for anything.
    ///
    /// # Errors
    ///
    /// [`Stop::Harness`] when there is no WebSocket; one that has just ended says so at the next
    /// [`next`](Self::next).
    pub async fn send(&mut self, message: AgentToServer) -> Result<(), Stop> {
        self.send_bytes(message.encode_to_vec().into()).await
    }

    /// As [`send`](Self::send), with the bytes of a message.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub async fn send_bytes(&mut self, message: Bytes) -> Result<(), Stop> {
        let patience = self.patience;
        let websocket = self.websocket()?;
        // What the connection came to, or that it takes no more, is told by the next receive.
        let _ = timeout(patience, websocket.send(body::frame(&message))).await;
        Ok(())
    }

    /// What comes over the WebSocket next. Pings are answered on the way.
    pub async fn next(&mut self, within: Duration) -> Heard {
        let Link::WebSocket(websocket) = &mut self.link else {
            return Heard::Closed(None, "there is no connection".to_owned());
        };
        let until = Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(incoming) = timeout(left, websocket.receive()).await else {
                return Heard::Silence;
            };
            return match incoming {
                Incoming::Ping | Incoming::Pong(_) => continue,
                Incoming::Message { is_text: true, .. } => {
                    Heard::Malformed("a WebSocket message of type text".to_owned())
                }
                Incoming::Message { payload, .. } => heard(&payload),
                Incoming::Close(code, reason) => {
                    let code_text = code.map_or("no code".to_owned(), |code| code.to_string());
                    Heard::Closed(code, format!("a Close frame with {code_text} {reason:?}"))
                }
                Incoming::Ended(ended) => Heard::Closed(None, ended.to_string()),
            };
        }
    }

    /// Waits for a message for which `is_it` holds; all others are passed over. Over HTTP it polls,
    /// so that the server has requests to answer.
    ///
    /// # Errors
    ///
    /// [`Stop::Unreached`] when the connection ends meanwhile.
    pub async fn hear(
        &mut self,
        within: Duration,
        mut is_it: impl FnMut(&ServerToAgent) -> bool,
    ) -> Result<Option<ServerToAgent>, Stop> {
        let until = Instant::now() + within;
        loop {
            let heard = if self.dialer.url.transport == Transport::Http {
                let poll = self.message();
                let heard = self.ask(poll).await?;
                if Instant::now() >= until && !matches!(&heard, Heard::Message(m) if is_it(m)) {
                    return Ok(None);
                }
                heard
            } else {
                self.next(until.saturating_duration_since(Instant::now())).await
            };
            match heard {
                Heard::Message(message) if is_it(&message) => return Ok(Some(*message)),
                Heard::Message(_) | Heard::Malformed(_) => {}
                Heard::Silence => return Ok(None),
                Heard::Closed(_, how) => return Err(Stop::Unreached(how)),
            }
            if self.dialer.url.transport == Transport::Http {
                sleep(self.pace.poll()).await;
            }
        }
    }

    /// Whether the server goes on after what it was sent: a good report is answered, on this
    /// connection or, where the server has closed it, on a new one.
    ///
    /// # Errors
    ///
    /// What comes instead of an answer.
    pub async fn goes_on(&mut self) -> Result<(), String> {
        let is_good = |message: &ServerToAgent| message.error_response.is_none();
        let within = self.patience;
        if matches!(self.link, Link::WebSocket(_)) {
            let report = self.full_report();
            // Where this fails the connection is over, which the next step tells.
            let _ = self.send(report).await;
            match self.hear(within, is_good).await {
                Ok(Some(_)) => return Ok(()),
                Ok(None) => return Err("nothing in answer to a good report".to_owned()),
                Err(_) => self.vanish(),
            }
        }
        self.connect().await.map_err(|stop| stop.to_string())?;
        let report = self.full_report();
        match self.ask(report).await {
            Ok(heard) if heard.good().is_some() => Ok(()),
            Ok(heard) => Err(format!("{heard} in answer to a good report")),
            Err(stop) => Err(stop.to_string()),
        }
    }

    /// Posts a message as plain HTTP and reads the response as a reply.
    pub async fn post(&mut self, message: Bytes) -> Heard {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, PROTOBUF);
        if let Ok(uid) = HeaderValue::from_str(&self.uid_text()) {
            headers.insert("opamp-instance-uid", uid);
        }
        match self.request(Method::POST, &headers, message).await {
            Ok(response) if response.status().as_u16() == 200 => reply_in(&response),
            Ok(response) => Heard::Closed(
                Some(response.status().as_u16()),
                format!("HTTP status {}", response.status()),
            ),
            Err(Stop::Unreached(why)) => Heard::Closed(None, why),
            Err(other) => Heard::Closed(None, other.to_string()),
        }
    }

    /// Sends any HTTP request to the server, over the connection of the last one if it is still
    /// open.
    ///
    /// # Errors
    ///
    /// [`Stop::Unreached`] when there is no response in time.
    pub async fn request(
        &mut self,
        method: Method,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Bytes>, Stop> {
        let unreached = |why: &dyn std::fmt::Display| Stop::Unreached(why.to_string());
        let dialer = Dialer { url: self.dialer.url.over(Transport::Http), ..self.dialer.clone() };
        let request = dialer
            .request(method, headers, body)
            .map_err(|lost| Stop::Harness(lost.to_string()))?;
        let answered = async {
            let mut http = match std::mem::replace(&mut self.link, Link::Down) {
                Link::Http(http) if http.is_open() => http,
                other => {
                    self.link = other;
                    dialer.http().await?
                }
            };
            let response = http.send(request).await?;
            if !matches!(self.link, Link::WebSocket(_)) {
                self.link = Link::Http(http);
            }
            Ok(response)
        };
        let answered: Result<Result<_, crate::wire::http_client::Lost>, _> =
            timeout(self.patience, answered).await;
        match answered {
            Ok(response) => response.map_err(|lost| unreached(&lost)),
            Err(_) => Err(unreached(&"no HTTP response in time")),
        }
    }
}

/// The message in a WebSocket message.
fn heard(payload: &Bytes) -> Heard {
    match body::unframe(payload) {
        Ok((0, length, _)) => match ServerToAgent::decode(payload.slice(length..)) {
            Ok(message) => Heard::Message(Box::new(message)),
            Err(error) => Heard::Malformed(format!("no ServerToAgent: {error}")),
        },
        Ok((header, ..)) => Heard::Malformed(format!("the header is {header} and not 0")),
        Err(error) => Heard::Malformed(error),
    }
}

/// The message in the response to a plain HTTP request.
#[must_use]
pub fn reply_in(response: &Response<Bytes>) -> Heard {
    let coding = response.headers().get(header::CONTENT_ENCODING);
    let bytes = match coding.map(HeaderValue::as_bytes) {
        None => Ok(response.body().clone()),
        Some(b"gzip") => body::gunzip(response.body(), crate::wire::ws::MAX_MESSAGE)
            .map_err(|error| error.to_string()),
        Some(other) => Err(format!("Content-Encoding {:?}", String::from_utf8_lossy(other))),
    };
    match bytes.map(ServerToAgent::decode) {
        Ok(Ok(message)) => Heard::Message(Box::new(message)),
        Ok(Err(error)) => Heard::Malformed(format!("no ServerToAgent: {error}")),
        Err(error) => Heard::Malformed(error),
    }
}

/// An effective configuration of one file.
#[must_use]
pub fn effective(text: &str) -> EffectiveConfig {
    let file = AgentConfigFile {
        body: Bytes::copy_from_slice(text.as_bytes()),
        content_type: "text/yaml".to_owned(),
    };
    let config_map = BTreeMap::from([(String::new(), file)]);
    EffectiveConfig { config_map: Some(AgentConfigMap { config_map }) }
}
