//! A WebSocket at either end of the gateway, from its handshake to its end.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, SinkExt as _, StreamExt as _};
use opamp_proto::{MessageLimits, frame};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::hub::{End, Hub, Next, Wakers};

/// Buffers of connections that mostly idle.
const BUFFER: usize = 4 * 1024;

/// Silence after which a peer is pinged.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long a peer may stay silent after a ping.
const PONG_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a peer may take for a message, beside a second for each of [`BYTES_PER_SECOND`].
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
const BYTES_PER_SECOND: usize = 32 * 1024;

/// How long the closing handshake may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn config(limits: MessageLimits) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_write_buffer_size(limits.max_send().saturating_add(4 * BUFFER))
        .max_message_size(Some(limits.max_receive()))
        .max_frame_size(Some(limits.max_receive()))
}

/// How a connection ends.
enum Over {
    /// The peer closed, or is gone.
    Gone(String),
    /// It is to be closed.
    Close(u16, &'static str),
}

/// Passes messages both ways until the connection ends. Says how it did.
pub(super) async fn serve<S>(
    hub: &Hub,
    end: End,
    wakers: &Wakers,
    socket: WebSocketStream<S>,
) -> String
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut sink, mut stream) = socket.split();
    let silent = Notify::new();
    // Both at once: a peer that waits to be read before it reads must not stop either.
    let over = tokio::select! {
        over = read(hub, end, wakers, &silent, &mut stream) => over,
        over = write(hub, end, wakers, &silent, &mut sink) => over,
    };
    let (code, reason) = match over {
        Over::Gone(why) => return why,
        Over::Close(code, reason) => (code, reason),
    };
    let close = CloseFrame { code: CloseCode::from(code), reason: Utf8Bytes::from_static(reason) };
    let handshake = async {
        sink.send(Message::Close(Some(close))).await?;
        // An agent may still have a goodbye to say.
        while let Some(message) = stream.next().await {
            if let Message::Binary(message) = message? {
                hub.take_in(end, message);
            }
        }
        Ok::<_, Error>(())
    };
    // Beyond its time it is given up, whatever its state.
    let _ = timeout(CLOSE_TIMEOUT, handshake).await;
    reason.to_owned()
}

async fn read(
    hub: &Hub,
    end: End,
    wakers: &Wakers,
    silent: &Notify,
    stream: &mut (impl futures_util::Stream<Item = Result<Message, Error>> + Unpin),
) -> Over {
    let mut pinged = false;
    let mut closed = "the peer closed".to_owned();
    loop {
        while hub.is_held_up(end) {
            wakers.read.notified().await;
        }
        let patience = if pinged { PONG_TIMEOUT } else { PING_INTERVAL };
        let message = match timeout(patience, stream.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(Error::ConnectionClosed)) | None) => return Over::Gone(closed),
            Ok(Some(Err(error))) => return fault(&error),
            Err(_elapsed) if pinged => return Over::Close(1008, "no answer to a ping"),
            Err(_elapsed) => {
                pinged = true;
                silent.notify_one();
                continue;
            }
        };
        pinged = false;
        match message {
            Message::Binary(message) => hub.take_in(end, message),
            Message::Text(_) => return Over::Close(1003, "OpAMP messages are binary"),
            // It is answered as the stream is read to its end.
            Message::Close(Some(close)) => closed = format!("the peer closed: {close}"),
            _ => {}
        }
    }
}

async fn write(
    hub: &Hub,
    end: End,
    wakers: &Wakers,
    silent: &Notify,
    sink: &mut (impl Sink<Message, Error = Error> + Unpin),
) -> Over {
    loop {
        let mut unflushed = 0;
        while let Some(next) = hub.next(end) {
            let message = match next {
                Next::Send(message) => message,
                // Only requests are answered so.
                Next::Unavailable(_) | Next::TooLarge => continue,
                Next::Close(code, reason) => return Over::Close(code, reason),
            };
            unflushed += message.len();
            if let Err(over) = in_time(unflushed, sink.feed(framed(&message))).await {
                return over;
            }
        }
        if let Err(over) = in_time(unflushed, sink.flush()).await {
            return over;
        }
        tokio::select! {
            () = wakers.write.notified() => {}
            () = silent.notified() => {
                if let Err(over) = in_time(0, sink.send(Message::Ping(Bytes::new()))).await {
                    return over;
                }
            }
        }
    }
}

/// With the header of WebSocket messages in front.
fn framed(message: &[u8]) -> Message {
    Message::Binary([&[frame::HEADER], message].concat().into())
}

/// Waits for so many bytes to be written.
async fn in_time(
    bytes: usize,
    written: impl Future<Output = Result<(), Error>>,
) -> Result<(), Over> {
    let seconds = u64::try_from(bytes / BYTES_PER_SECOND).unwrap_or(u64::MAX);
    let patience = WRITE_TIMEOUT.saturating_add(Duration::from_secs(seconds));
    match timeout(patience, written).await {
        Ok(Ok(())) => Ok(()),
        // The peer has closed; whoever reads will come to the end of it.
        Ok(Err(Error::Protocol(ProtocolError::SendAfterClosing) | Error::ConnectionClosed)) => {
            std::future::pending().await
        }
        Ok(Err(error)) => Err(Over::Gone(error.to_string())),
        Err(_elapsed) => Err(Over::Gone("the peer does not read".to_owned())),
    }
}

/// What a peer is told that breaks the rules; one that is gone is told nothing.
fn fault(error: &Error) -> Over {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => {
            Over::Close(1009, "message above the size limit")
        }
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            Over::Gone("closed without a closing handshake".to_owned())
        }
        Error::Protocol(_) => Over::Close(1002, "WebSocket protocol error"),
        Error::Utf8(_) => Over::Close(1007, "text that is not UTF-8"),
        error => Over::Gone(error.to_string()),
    }
}
