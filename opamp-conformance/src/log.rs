//! The record of a conversation: everything that went over the wire, in order, as typed events. The
//! transcript of a report is made from it, and the checks that look at every message read it.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use opamp_proto::v1::{AgentToServer, ServerToAgent};
use prost::Message as _;
use tokio::time::Instant;

use crate::report::{By, Line, Side};
use crate::wire::{self, body, text};

/// How many events a case keeps.
const MAX_ENTRIES: usize = 4_096;
/// How many bytes of payload a case keeps.
const MAX_BYTES: usize = 64 << 20;
/// How many bytes of a payload the tester itself sent are kept whole.
const MAX_OWN: usize = 1 << 20;
/// How many bytes of a payload a transcript shows in hexadecimal.
const HEX_SHOWN: usize = 1_024;
/// How many characters of decoded text a line of a transcript has.
const TEXT_SHOWN: usize = 8_192;
/// How many characters of text and hexadecimal a whole transcript has.
const TRANSCRIPT_SHOWN: usize = 4 << 20;

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A connection was opened or accepted.
    Opened,
    /// A connection ended, and how.
    Ended(String),
    /// An HTTP request, a WebSocket handshake included.
    Request {
        /// Its method.
        method: Method,
        /// Path and query.
        target: String,
        /// Its header fields.
        headers: HeaderMap,
        /// Its body as sent.
        body: Bytes,
    },
    /// An HTTP response.
    Response {
        /// Its status.
        status: u16,
        /// Its header fields.
        headers: HeaderMap,
        /// Its body as sent.
        body: Bytes,
    },
    /// A WebSocket message of data.
    Message {
        /// Whether it was of type text.
        is_text: bool,
        /// In how many frames it came.
        frames: usize,
        /// Its payload, decompressed.
        payload: Bytes,
    },
    /// A WebSocket ping.
    Ping(Bytes),
    /// A WebSocket pong.
    Pong(Bytes),
    /// A WebSocket Close frame.
    Close(Option<u16>, String),
    /// Bytes that are no part of a message, such as garbage sent on purpose.
    Raw(Bytes),
    /// What the tester has to say.
    Remark(String),
}

impl Event {
    fn payload(&mut self) -> Option<&mut Bytes> {
        match self {
            Self::Request { body, .. } | Self::Response { body, .. } => Some(body),
            Self::Message { payload, .. } => Some(payload),
            Self::Raw(bytes) | Self::Ping(bytes) | Self::Pong(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// An event: when, on which connection, and whose.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Time since the case began.
    pub at: Duration,
    /// Number of the connection within the case, from 1; 0 for none.
    pub connection: u32,
    /// Who did it.
    pub by: By,
    /// What it was.
    pub event: Event,
}

impl Entry {
    /// The bytes of the OpAMP message in it: the data of a WebSocket message without its header, or
    /// the decompressed body of a plain HTTP request or response. `None` where it has none.
    #[must_use]
    pub fn opamp(&self) -> Option<Bytes> {
        // What the tester makes larger than this is meant to be too large.
        let limit = if self.by == By::Tester { MAX_OWN } else { MAX_BYTES };
        match &self.event {
            Event::Message { is_text: false, payload, .. } => {
                let (header, length, _) = body::unframe(payload).ok()?;
                (header == 0).then(|| payload.slice(length..))
            }
            Event::Request { method, headers, body, .. } if *method == Method::POST => {
                decoded(headers, body, limit)
            }
            Event::Response { status: 200, headers, body } => decoded(headers, body, limit),
            _ => None,
        }
    }

    /// The AgentToServer in it, if it has one.
    #[must_use]
    pub fn agent_to_server(&self) -> Option<AgentToServer> {
        AgentToServer::decode(self.opamp()?).ok()
    }

    /// The ServerToAgent in it, if it has one.
    #[must_use]
    pub fn server_to_agent(&self) -> Option<ServerToAgent> {
        ServerToAgent::decode(self.opamp()?).ok()
    }
}

fn decoded(headers: &HeaderMap, body: &Bytes, limit: usize) -> Option<Bytes> {
    let gzipped = headers
        .get(http::header::CONTENT_ENCODING)
        .is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"gzip"));
    if gzipped { body::gunzip(body, limit).ok() } else { Some(body.clone()) }
}

/// The record of a case. Clones write to the same record.
#[derive(Debug, Clone)]
pub struct Log {
    subject: Side,
    began: Instant,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: Vec<Entry>,
    bytes: usize,
    connections: u32,
    dropped: usize,
}

impl Log {
    /// An empty record of a conversation with a subject of this side.
    #[must_use]
    pub fn new(subject: Side) -> Self {
        Self { subject, began: Instant::now(), inner: Arc::default() }
    }

    /// Which side is being tested.
    #[must_use]
    pub fn subject(&self) -> Side {
        self.subject
    }

    /// A number for a new connection.
    #[must_use]
    pub fn new_connection(&self) -> u32 {
        let mut inner = self.inner();
        inner.connections += 1;
        inner.connections
    }

    /// Records what happened now; gives its index.
    pub fn push(&self, connection: u32, by: By, mut event: Event) -> usize {
        let at = self.began.elapsed();
        let mut size = 0;
        if let Some(payload) = event.payload() {
            size = payload.len();
            if by == By::Tester && size > MAX_OWN {
                // A copy, so that the rest is not kept with it.
                *payload = Bytes::copy_from_slice(&payload[..HEX_SHOWN]);
                self.remark(format!(
                    "of the following {size} bytes the first {HEX_SHOWN} are kept"
                ));
                size = HEX_SHOWN;
            }
        }
        let mut inner = self.inner();
        if inner.entries.len() >= MAX_ENTRIES || inner.bytes + size > MAX_BYTES {
            inner.dropped += 1;
            return inner.entries.len().saturating_sub(1);
        }
        inner.bytes += size;
        inner.entries.push(Entry { at, connection, by, event });
        inner.entries.len() - 1
    }

    /// Records a remark.
    pub fn remark(&self, text: impl Into<String>) {
        self.push(0, By::Remark, Event::Remark(text.into()));
    }

    /// Shows an event of another record in this one.
    pub fn quote(&self, entry: &Entry) {
        let mut inner = self.inner();
        if inner.entries.len() < MAX_ENTRIES {
            inner.entries.push(entry.clone());
        }
    }

    /// Everything so far.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.inner().entries.clone()
    }

    /// How many events there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner().entries.len()
    }

    /// How many bytes of payload there are.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.inner().bytes
    }

    /// Whether nothing happened yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything so far as the lines of a report.
    #[must_use]
    pub fn transcript(&self) -> Vec<Line> {
        let inner = self.inner();
        let mut room = TRANSCRIPT_SHOWN;
        let mut lines = Vec::with_capacity(inner.entries.len());
        for entry in &inner.entries {
            let mut line = line(entry, self.subject);
            match room.checked_sub(line.text.len() + line.hex.len()) {
                Some(left) => room = left,
                None => (line.text, line.hex) = ("not shown".to_owned(), String::new()),
            }
            lines.push(line);
        }
        if inner.dropped > 0 {
            lines.push(Line {
                at_ms: millis(self.began.elapsed()),
                connection: 0,
                by: By::Remark,
                what: format!("{} further events were not kept", inner.dropped),
                text: String::new(),
                hex: String::new(),
            });
        }
        lines
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn line(entry: &Entry, subject: Side) -> Line {
    let of_agent = (subject == Side::Client) == (entry.by == By::Subject);
    let root = if of_agent { "AgentToServer" } else { "ServerToAgent" };
    let message = |head: String| match entry.opamp() {
        Some(bytes) => join(head, text::read(root, &bytes).text),
        None => head,
    };
    let (what, text, bytes) = match &entry.event {
        Event::Opened => ("connection opened".to_owned(), String::new(), None),
        Event::Ended(how) => (format!("connection ended: {how}"), String::new(), None),
        Event::Request { method, target, headers, body } => {
            let what = format!("{method} {target}, {} bytes", body.len());
            (what, message(fields(headers)), Some(body))
        }
        Event::Response { status, headers, body } => {
            let what = format!("HTTP status {status}, {} bytes", body.len());
            (what, message(fields(headers)), Some(body))
        }
        Event::Message { is_text, frames, payload } => {
            let kind = if *is_text { "text message" } else { "message" };
            let frames = if *frames > 1 { format!(" in {frames} frames") } else { String::new() };
            let what = format!("WebSocket {kind}, {} bytes{frames}", payload.len());
            (what, message(String::new()), Some(payload))
        }
        Event::Ping(data) => ("WebSocket ping".to_owned(), String::new(), Some(data)),
        Event::Pong(data) => ("WebSocket pong".to_owned(), String::new(), Some(data)),
        Event::Close(code, reason) => {
            let code = code.map_or_else(|| "without code".to_owned(), |code| code.to_string());
            (format!("WebSocket Close {code}"), reason.clone(), None)
        }
        Event::Raw(data) => (format!("{} bytes", data.len()), String::new(), Some(data)),
        Event::Remark(remark) => (remark.clone(), String::new(), None),
    };
    Line {
        at_ms: millis(entry.at),
        connection: entry.connection,
        by: entry.by,
        what,
        text: cut(text, TEXT_SHOWN),
        hex: bytes.map(|bytes| hex(bytes)).unwrap_or_default(),
    }
}

fn join(head: String, message: String) -> String {
    if head.is_empty() { message } else { format!("{head}\n\n{message}") }
}

fn fields(headers: &HeaderMap) -> String {
    headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect::<Vec<_>>()
        .join("\n")
}

fn cut(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let more = text.len() - limit;
        let end = (0..=limit).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        let _ = write!(text, "\n… {more} bytes of text not shown");
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(HEX_SHOWN)];
    let mut hex = wire::hex(shown);
    if shown.len() < bytes.len() {
        let _ = write!(hex, "… {} more", bytes.len() - shown.len());
    }
    hex
}
