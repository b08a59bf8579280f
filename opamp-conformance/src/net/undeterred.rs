//! A connection on which writing does not fail. A peer that refuses something large answers and
//! hangs up while it is still being written; what it said before is to be read all the same, and
//! reading tells how the connection ended.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::BoxStream;

/// The connection. What cannot be written is dropped.
pub struct Undeterred {
    inner: BoxStream,
    is_over: bool,
}

impl Undeterred {
    /// Wraps a connection.
    #[must_use]
    pub fn new(inner: BoxStream) -> Self {
        Self { inner, is_over: false }
    }

    fn forgive<T>(&mut self, polled: Poll<io::Result<T>>, instead: T) -> Poll<io::Result<T>> {
        polled.map(|result| {
            Ok(result.unwrap_or_else(|_| {
                self.is_over = true;
                instead
            }))
        })
    }
}

impl AsyncRead for Undeterred {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Undeterred {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_over {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.forgive(written, buf.len())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.forgive(flushed, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.forgive(shut, ())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_was_said_before_the_end_is_read_after_a_failed_write() {
        let (ours, mut theirs) = tokio::io::duplex(8);
        theirs.write_all(b"no").await.unwrap();
        drop(theirs);
        let mut ours = Undeterred::new(Box::new(ours));
        ours.write_all(b"much more than fits").await.unwrap();
        ours.flush().await.unwrap();
        let mut heard = String::new();
        ours.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "no");
    }
}
