//! The body of a response.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::in_progress::Share;

/// A body goes out in pieces of this size: whoever sends it asks for the next when there is room,
/// and so it shows whether the client takes any of it.
const PIECE: usize = 64 * 1024;

/// The body of a response: a message, a file, or nothing. Its length is known from the beginning.
///
/// ```
/// # use http_body::Body as _;
/// let body = opamp_server::service::Body::default();
/// assert!(body.is_end_stream());
/// assert_eq!(body.size_hint().exact(), Some(0));
/// ```
#[derive(Debug, Default)]
pub struct Body {
    rest: Bytes,
    /// Boxed, as most bodies are short and have nothing of it, and are moved often.
    more: Option<Box<More>>,
    /// Told of each piece that is taken.
    #[cfg(feature = "http2")]
    exchange: Option<super::listen::Exchange>,
}

#[derive(Debug, Default)]
struct More {
    /// What comes last: a part that others may be sent as well.
    shared: Bytes,
    /// What the body takes of the memory for messages, as long as the client has not taken it.
    #[expect(dead_code, reason = "held, not read")]
    share: Option<Share>,
}

impl Body {
    pub(super) fn new(content: Bytes) -> Self {
        Self { rest: content, ..Self::default() }
    }

    /// A body in two parts, the second of which is not copied.
    pub(super) fn with_shared(content: Bytes, shared: Bytes) -> Self {
        let more = (!shared.is_empty()).then(|| Box::new(More { shared, share: None }));
        Self { more, ..Self::new(content) }
    }

    /// A body that takes its share of the memory for messages.
    pub(super) fn with_share(content: Bytes, share: Share) -> Self {
        let more = Some(Box::new(More { shared: Bytes::new(), share: Some(share) }));
        Self { more, ..Self::new(content) }
    }

    /// The body as a part of an exchange, which is over when all of it is taken.
    #[cfg(feature = "http2")]
    pub(super) fn of(self, exchange: super::listen::Exchange) -> Self {
        Self { exchange: Some(exchange), ..self }
    }

    /// Both parts of what is left of it.
    pub(super) fn parts(&self) -> (Bytes, Bytes) {
        (self.rest.clone(), self.more.as_ref().map(|more| more.shared.clone()).unwrap_or_default())
    }

    /// The bytes that are left of it.
    pub(super) fn len(&self) -> usize {
        self.rest.len() + self.more.as_ref().map_or(0, |more| more.shared.len())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        #[cfg(feature = "http2")]
        if let Some(exchange) = &this.exchange {
            exchange.moved();
        }
        if this.rest.is_empty()
            && let Some(more) = &mut this.more
        {
            this.rest = std::mem::take(&mut more.shared);
        }
        if this.rest.is_empty() {
            return Poll::Ready(None);
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.len() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn all_of_it_comes_in_pieces() {
        for (own, shared) in [(0, 0), (1, 0), (0, 1), (PIECE, 1), (PIECE + 1, 5 * PIECE)] {
            let content: Bytes = (0..own + shared).map(|index| index as u8).collect();
            let mut body = Body::with_shared(content.slice(..own), content.slice(own..));
            assert_eq!(http_body::Body::size_hint(&body).exact(), Some(content.len() as u64));
            let mut received = Vec::new();
            while let Some(frame) = body.frame().await {
                let piece = frame.unwrap().into_data().unwrap();
                assert!(!piece.is_empty() && piece.len() <= PIECE);
                received.extend_from_slice(&piece);
                let left = content.len() - received.len();
                assert_eq!(http_body::Body::size_hint(&body).exact(), Some(left as u64));
            }
            assert_eq!(received, content);
            assert!(http_body::Body::is_end_stream(&body));
        }
    }
}
