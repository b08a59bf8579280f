//! The byte streams below a connection: a socket of the listener, and what is left of it after an
//! upgrade.
//!
//! Hyper writes a response for as long as that takes, so the [`Socket`] below it fails when its
//! peer takes nothing for too long; only while a write waits is there a timer.
//!
//! For an upgrade hyper hands over a boxed stream; where it is a TCP or TLS connection it is
//! unwrapped again, which saves a connection half of its memory. All that passes is counted, so
//! that silence and standstill can be noticed without a timer for each read and write.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::{Parts, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// Pieces that are no longer than this together are written as one: the kernel takes that more
/// cheaply, by more than the copy costs. It is a usual response with its head.
const SMALL_WRITE: usize = 512;

/// All pieces one after the other, if there is room for them.
fn gather<'a>(pieces: &[IoSlice<'_>], room: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut len = 0;
    for piece in pieces {
        room.get_mut(len..len + piece.len())?.copy_from_slice(piece);
        len += piece.len();
    }
    Some(&room[..len])
}

/// A connection of the listener. A write fails with [`TimedOut`](io::ErrorKind::TimedOut) if the
/// peer takes nothing for the time given.
pub(super) struct Socket<S> {
    io: S,
    /// `None` if somebody else looks after that.
    write_timeout: Option<Duration>,
    /// There while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Socket<S> {
    pub(super) const fn new(io: S, write_timeout: Duration) -> Self {
        Self { io, write_timeout: Some(write_timeout), stalled: None }
    }

    /// The connection itself.
    #[cfg(feature = "http2")]
    pub(super) const fn get_ref(&self) -> &S {
        &self.io
    }

    /// Lets writes wait for ever.
    #[cfg(feature = "tls")]
    fn lift_timeout(&mut self) {
        self.write_timeout = None;
        self.stalled = None;
    }

    /// Passes on what became of a write, unless that was nothing for too long.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Some(timeout) = self.write_timeout else { return polled };
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write(cx, buf);
        this.watch(cx, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut small = [0; SMALL_WRITE];
        let polled = match gather(bufs, &mut small) {
            Some(whole) => Pin::new(&mut this.io).poll_write(cx, whole),
            None => Pin::new(&mut this.io).poll_write_vectored(cx, bufs),
        };
        this.watch(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    // A TCP stream is flushed and shut down without waiting, and that is no sign of the peer.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// An upgraded connection.
pub(super) struct Stream {
    io: Io,
    read: u64,
    written: u64,
}

enum Io {
    Tcp(TcpStream),
    Other(Box<dyn ReadWrite>),
}

trait ReadWrite: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ReadWrite for S {}

impl Stream {
    /// The stream, and what was already read from it.
    pub(super) fn new(upgraded: Upgraded) -> (Self, Bytes) {
        let (io, read) = match upgraded.downcast::<TokioIo<Socket<TcpStream>>>() {
            Ok(Parts { io, read_buf, .. }) => (Io::Tcp(io.into_inner().io), read_buf),
            // A host of a mounted service may have a bare one.
            Err(upgraded) => match upgraded.downcast::<TokioIo<TcpStream>>() {
                Ok(Parts { io, read_buf, .. }) => (Io::Tcp(io.into_inner()), read_buf),
                Err(upgraded) => other(upgraded),
            },
        };
        (Self { io, read: 0, written: 0 }, read)
    }

    /// Bytes read so far.
    pub(super) const fn read(&self) -> u64 {
        self.read
    }

    /// Bytes written so far.
    pub(super) const fn written(&self) -> u64 {
        self.written
    }
}

#[cfg(feature = "tls")]
fn other(upgraded: Upgraded) -> (Io, Bytes) {
    use tokio_rustls::server::TlsStream;

    match upgraded.downcast::<TokioIo<Box<TlsStream<Socket<TcpStream>>>>>() {
        Ok(Parts { io, read_buf, .. }) => {
            let mut io = io.into_inner();
            io.get_mut().0.lift_timeout();
            (Io::Other(io), read_buf)
        }
        Err(upgraded) => match upgraded.downcast::<TokioIo<TlsStream<TcpStream>>>() {
            Ok(Parts { io, read_buf, .. }) => (Io::Other(Box::new(io.into_inner())), read_buf),
            Err(upgraded) => wrapped(upgraded),
        },
    }
}

#[cfg(not(feature = "tls"))]
fn other(upgraded: Upgraded) -> (Io, Bytes) {
    wrapped(upgraded)
}

fn wrapped(upgraded: Upgraded) -> (Io, Bytes) {
    (Io::Other(Box::new(TokioIo::new(upgraded))), Bytes::new())
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = match &mut this.io {
            Io::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Io::Other(io) => Pin::new(io).poll_read(cx, buf),
        };
        this.read += (buf.filled().len() - before) as u64;
        polled
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = match &mut this.io {
            Io::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Io::Other(io) => Pin::new(io).poll_write(cx, buf),
        };
        if let Poll::Ready(Ok(written)) = polled {
            this.written += written as u64;
        }
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = match &mut this.io {
            Io::Tcp(io) => Pin::new(io).poll_write_vectored(cx, slices),
            Io::Other(io) => Pin::new(io).poll_write_vectored(cx, slices),
        };
        if let Poll::Ready(Ok(written)) = polled {
            this.written += written as u64;
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Tcp(io) => io.is_write_vectored(),
            Io::Other(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Tcp(io) => Pin::new(io).poll_flush(cx),
            Io::Other(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Io::Other(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::{Instant, sleep};

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn connected() -> (Socket<DuplexStream>, DuplexStream) {
        let (near, far) = duplex(10);
        (Socket::new(near, TIMEOUT), far)
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_fails_when_nothing_is_taken_for_the_time_given() {
        let (mut socket, mut far) = connected();
        sleep(TIMEOUT * 2).await;
        socket.write_all(&[1; 10]).await.expect("idle time does not count");
        sleep(TIMEOUT * 2).await;
        let started = Instant::now();
        let read = async {
            sleep(TIMEOUT / 2).await;
            far.read_u8().await
        };
        let (written, read) = tokio::join!(socket.write_all(&[2; 10]), read);
        assert_eq!(read.expect("a byte"), 1);
        assert_eq!(written.expect_err("it stalls").kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 45, "since something was taken");
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_of_which_some_is_taken_in_time_may_last() {
        let (mut socket, mut far) = connected();
        let started = Instant::now();
        let read = async {
            for _ in 0..10 {
                sleep(TIMEOUT - Duration::from_secs(1)).await;
                far.read_exact(&mut [0; 10]).await.expect("ten bytes");
            }
        };
        let (written, ()) = tokio::join!(socket.write_all(&[1; 100]), read);
        written.expect("it is written");
        assert!(started.elapsed() > TIMEOUT * 9);
    }

    #[test]
    fn small_pieces_are_written_as_one_and_others_are_not_copied() {
        let pieces = [&[1; 100][..], &[], &[2; 50]].map(IoSlice::new);
        let expected = [[1; 100].as_slice(), &[2; 50]].concat();
        assert_eq!(gather(&pieces, &mut [0; 150]), Some(expected.as_slice()));
        assert_eq!(gather(&pieces, &mut [0; 149]), None);
        assert_eq!(gather(&[], &mut [0; 1]), Some(&[][..]));
    }
}
