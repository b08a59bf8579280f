//! The WebSocket, and the only place that knows which library speaks it.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink as _, Stream as _};
use hyper::upgrade::Upgraded;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

use super::stream::Stream;

/// What the library buffers for reading and writing; small, as there are many connections.
const BUFFER: usize = 4 * 1024;

/// Above this many unsent bytes a connection takes in no further message.
const HIGH_WATER: usize = 64 * 1024;

/// What a frame of the server takes beyond its payload, if that is short.
const FRAME_HEADER: u64 = 2;

/// The value of `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`.
pub(super) fn accept_key(key: &[u8]) -> String {
    derive_accept_key(key)
}

/// A WebSocket, server's side.
pub(super) struct Socket {
    inner: WebSocketStream<Stream>,
    /// Bytes handed to the library, and how many the stream had written when all of them were out.
    queued: u64,
    flushed: bool,
    /// Bytes of the pings whose answers may not be out yet.
    pongs: u64,
}

/// What a peer sends.
#[derive(Debug)]
pub(super) enum Incoming {
    Message(Bytes),
    Text,
    /// The peer closed, and was answered; or the connection is gone.
    End,
}

/// Why nothing more can be received.
#[derive(Debug)]
pub(super) enum Fault {
    /// A message above the limit: it is known before it is received.
    TooLarge,
    /// Not the WebSocket protocol.
    Protocol(String),
    /// The connection broke, or what was to be sent did not fit.
    Lost(String),
}

/// The codes a server closes with (RFC 6455, section 7.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Close {
    GoingAway,
    Protocol,
    Unsupported,
    Policy,
    TooLarge,
}

impl From<Close> for CloseCode {
    fn from(close: Close) -> Self {
        match close {
            Close::GoingAway => Self::Away,
            Close::Protocol => Self::Protocol,
            Close::Unsupported => Self::Unsupported,
            Close::Policy => Self::Policy,
            Close::TooLarge => Self::Size,
        }
    }
}

impl Socket {
    pub(super) async fn new(upgraded: Upgraded, max_receive: usize, max_send: usize) -> Self {
        let (stream, read) = Stream::new(upgraded);
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(BUFFER)
            .max_write_buffer_size(max_send.saturating_add(HIGH_WATER + BUFFER))
            .max_message_size(Some(max_receive))
            .max_frame_size(Some(max_receive));
        let inner =
            WebSocketStream::from_partially_read(stream, read.into(), Role::Server, Some(config));
        Self { inner: inner.await, queued: 0, flushed: true, pongs: 0 }
    }

    /// Bytes the peer has sent so far, of whatever kind.
    pub(super) fn read(&self) -> u64 {
        self.inner.get_ref().read()
    }

    /// Bytes the connection has taken so far.
    pub(super) fn written(&self) -> u64 {
        self.inner.get_ref().written()
    }

    /// Whether there is room to answer another message.
    pub(super) fn has_room(&self) -> bool {
        self.flushed || self.queued.saturating_sub(self.written()) < HIGH_WATER as u64
    }

    /// Queues a message. It leaves with the next flush, together with others.
    pub(super) fn send(&mut self, message: Bytes) -> Result<(), Fault> {
        self.queue(Message::Binary(message))
    }

    pub(super) fn ping(&mut self) -> Result<(), Fault> {
        self.queue(Message::Ping(Bytes::new()))
    }

    fn owe_flush(&mut self) {
        if self.flushed {
            // Control frames the library answers with are not counted: start from what is out.
            self.queued = self.written();
            self.flushed = false;
        }
    }

    fn queue(&mut self, message: Message) -> Result<(), Fault> {
        self.owe_flush();
        self.queued += message.len() as u64;
        Pin::new(&mut self.inner).start_send(message).map_err(Fault::from)
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        if self.flushed {
            return Poll::Ready(Ok(()));
        }
        let flushed = ready!(Pin::new(&mut self.inner).poll_flush(cx));
        self.flushed = true;
        self.pongs = 0;
        Poll::Ready(flushed.map_err(Fault::from))
    }

    /// The next message. Pings are answered here; a peer that does not take the answers is not read
    /// from, as they would pile up.
    pub(super) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming, Fault>> {
        loop {
            if self.pongs > HIGH_WATER as u64
                && let Err(fault) = ready!(self.poll_flush(cx))
            {
                return Poll::Ready(Err(fault));
            }
            let incoming = match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                None => Ok(Incoming::End),
                Some(Ok(Message::Binary(message))) => Ok(Incoming::Message(message)),
                Some(Ok(Message::Text(_))) => Ok(Incoming::Text),
                Some(Ok(Message::Ping(payload))) => {
                    self.pongs += FRAME_HEADER + payload.len() as u64;
                    self.owe_flush();
                    continue;
                }
                // The answer to a close frame is sent, and the end seen, by further polls.
                Some(Ok(Message::Pong(_) | Message::Close(_) | Message::Frame(_))) => continue,
                Some(Err(error)) => Err(Fault::from(error)),
            };
            return Poll::Ready(incoming);
        }
    }

    /// Closes with the closing handshake, and takes no longer than this (CLOSE-04).
    ///
    /// `broken` says that the peer's next bytes are no frames, since it is in the middle of something
    /// that was refused. They are read all the same, and dropped: a connection closed with bytes
    /// unread is reset, and the peer might lose the Close frame with it.
    pub(super) async fn close(
        mut self,
        code: Close,
        reason: &'static str,
        broken: bool,
        within: Duration,
    ) {
        // Beyond its time the handshake is given up, whatever its state.
        let _ = tokio::time::timeout(within, async {
            let _ = self.closing_handshake(code, reason, broken).await;
            self.finish().await;
        })
        .await;
    }

    async fn closing_handshake(
        &mut self,
        code: Close,
        reason: &'static str,
        broken: bool,
    ) -> Result<(), Fault> {
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        self.queue(Message::Close(Some(frame)))?;
        poll_fn(|cx| self.poll_flush(cx)).await?;
        while !broken && !matches!(poll_fn(|cx| self.poll_recv(cx)).await?, Incoming::End) {}
        Ok(())
    }

    /// Ends the sending side and reads until the peer does the same.
    async fn finish(&mut self) {
        let stream = self.inner.get_mut();
        // On the heap, as the future that holds it waits for a long time before it gets here.
        let mut discarded = vec![0; BUFFER];
        let _ = poll_fn(|cx| Pin::new(&mut *stream).poll_shutdown(cx)).await;
        loop {
            let mut buffer = ReadBuf::new(&mut discarded);
            let read = poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut buffer)).await;
            if read.is_err() || buffer.filled().is_empty() {
                return;
            }
        }
    }

    /// The peer has closed: ends the connection in turn.
    pub(super) async fn end(mut self, within: Duration) {
        let _ = tokio::time::timeout(within, self.finish()).await;
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::Capacity(CapacityError::MessageTooLong { .. }) => Self::TooLarge,
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                Self::Lost("closed without a closing handshake".to_owned())
            }
            Error::Protocol(error) => Self::Protocol(error.to_string()),
            Error::Utf8(error) => Self::Protocol(error),
            error => Self::Lost(error.to_string()),
        }
    }
}
