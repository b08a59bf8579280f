//! One end of a connection in memory, with a little lag. Without it two peers that answer each
//! other for ever would do so in no time at all, and virtual time would stand still.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::time::{Duration, Instant, Sleep, sleep};

/// How long what was written takes to arrive.
const LAG: Duration = Duration::from_millis(1);
/// How much is read ahead.
const AHEAD: usize = 8 * 1024;

pub(super) struct Lagging {
    inner: DuplexStream,
    /// What has arrived and may be read once `lag` is over.
    arrived: BytesMut,
    /// Whether the peer has ended its side; it is told once `lag` is over.
    is_over: bool,
    lag: Pin<Box<Sleep>>,
}

impl Lagging {
    pub(super) fn new(inner: DuplexStream) -> Self {
        Self { inner, arrived: BytesMut::new(), is_over: false, lag: Box::pin(sleep(LAG)) }
    }
}

impl AsyncRead for Lagging {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.arrived.is_empty() && !this.is_over {
            let mut ahead = [0; AHEAD];
            let mut ahead = ReadBuf::new(&mut ahead);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut ahead))?;
            this.arrived.extend_from_slice(ahead.filled());
            this.is_over = ahead.filled().is_empty();
            this.lag.as_mut().reset(Instant::now() + LAG);
        }
        ready!(this.lag.as_mut().poll(cx));
        let amount = this.arrived.len().min(buf.remaining());
        buf.put_slice(&this.arrived[..amount]);
        this.arrived.advance(amount);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Lagging {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_written_arrives_later_and_then_the_end() {
        let (mut ours, theirs) = tokio::io::duplex(64);
        let mut theirs = Lagging::new(theirs);
        let began = Instant::now();
        ours.write_all(b"last words").await.unwrap();
        drop(ours);
        let mut heard = String::new();
        theirs.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "last words");
        assert!(began.elapsed() >= 2 * LAG);
        assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0);
    }
}
