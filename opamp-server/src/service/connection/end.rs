//! How a connection ends, and the counts of that.

use super::super::handler::Handler;
use super::super::websocket::Fault;
use super::Connection;
use crate::fleet::Fleet;
use crate::websocket::{CloseCode, Violation};

/// Why a connection ends.
pub(super) enum End {
    /// The peer closed, and was answered.
    Closed,
    /// The connection is gone.
    Lost(String),
    /// The server closes.
    Close { cause: Cause, code: CloseCode, reason: &'static str },
}

/// Why the server closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Timeout,
    Protocol,
    TooLarge,
    Malformed,
    Denied,
    Operator,
    Crowded,
    Shutdown,
}

impl End {
    pub(super) const fn close(cause: Cause, code: CloseCode, reason: &'static str) -> Self {
        Self::Close { cause, code, reason }
    }
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Violation(violation) => {
                let (cause, reason) = match violation {
                    Violation::TooLarge { .. } => (Cause::TooLarge, "message above the size limit"),
                    Violation::Text => (Cause::Protocol, "OpAMP messages are binary"),
                    _ => (Cause::Protocol, "WebSocket protocol error"),
                };
                Self::close(cause, violation.close_code(), reason)
            }
            Fault::Lost(why) => Self::Lost(why),
        }
    }
}

impl<H: Handler> Connection<H> {
    /// Ends the sessions, and then the connection.
    pub(super) async fn finish(self, end: End) {
        let Self { inner, socket, route, held, peer, .. } = self;
        // The sessions are over; the closing handshake is the connection's own business.
        drop(route);
        let within = inner.config.close_timeout;
        match end {
            End::Closed => {
                tracing::debug!(?peer, "closed by the peer");
                socket.end(within).await;
            }
            End::Lost(why) => tracing::debug!(?peer, why, "connection lost"),
            End::Close { code, reason, .. } => {
                if code == CloseCode::GOING_AWAY {
                    tracing::debug!(?peer, reason, "closing");
                } else {
                    tracing::info!(?peer, %code, reason, "closing");
                }
                let unread = held.map(|held| held.rest).unwrap_or_default();
                socket.close(code, reason, unread, within).await;
            }
        }
    }
}

/// Counts a WebSocket as open, until it is dropped.
pub(super) struct Open<'a, I> {
    fleet: &'a Fleet<I>,
    counted: bool,
}

impl<'a, I> Open<'a, I> {
    pub(super) fn new(fleet: &'a Fleet<I>) -> Self {
        fleet.counting().websockets_opened.add();
        fleet.counting().websockets_open.add();
        Self { fleet, counted: false }
    }

    pub(super) fn ended(mut self, end: &End) {
        let counting = self.fleet.counting();
        let count = match end {
            End::Closed => &counting.websockets_closed_by_peer,
            End::Lost(_) => &counting.websockets_lost,
            End::Close { cause, .. } => match cause {
                Cause::Timeout => &counting.websockets_timed_out,
                Cause::Protocol => &counting.websockets_broken,
                Cause::TooLarge => &counting.websockets_oversized,
                Cause::Malformed => &counting.websockets_malformed,
                Cause::Denied => &counting.websockets_denied,
                Cause::Operator => &counting.websockets_ended,
                Cause::Crowded => &counting.websockets_crowded,
                Cause::Shutdown => &counting.websockets_shut_down,
            },
        };
        count.add();
        self.counted = true;
    }
}

impl<I> Drop for Open<'_, I> {
    fn drop(&mut self) {
        let counting = self.fleet.counting();
        counting.websockets_open.remove();
        // The task was ended from outside.
        if !self.counted {
            counting.websockets_shut_down.add();
        }
    }
}
