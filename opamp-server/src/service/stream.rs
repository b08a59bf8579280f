//! The byte stream below an upgraded connection.
//!
//! Hyper hands over a boxed stream; where it is a TCP or TLS connection it is unwrapped again, which
//! saves a connection half of its memory. All that passes is counted, so that silence and standstill
//! can be noticed without a timer for each read and write.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::upgrade::{Parts, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// An upgraded connection.
pub(super) struct Stream {
    io: Io,
    read: u64,
    written: u64,
}

enum Io {
    Tcp(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    Other(Box<TokioIo<Upgraded>>),
}

impl Stream {
    /// The stream, and what was already read from it.
    pub(super) fn new(upgraded: Upgraded) -> (Self, Bytes) {
        let (io, read) = match upgraded.downcast::<TokioIo<TcpStream>>() {
            Ok(Parts { io, read_buf, .. }) => (Io::Tcp(io.into_inner()), read_buf),
            Err(upgraded) => other(upgraded),
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
    match upgraded.downcast::<TokioIo<tokio_rustls::server::TlsStream<TcpStream>>>() {
        Ok(Parts { io, read_buf, .. }) => (Io::Tls(Box::new(io.into_inner())), read_buf),
        Err(upgraded) => (Io::Other(Box::new(TokioIo::new(upgraded))), Bytes::new()),
    }
}

#[cfg(not(feature = "tls"))]
fn other(upgraded: Upgraded) -> (Io, Bytes) {
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
            #[cfg(feature = "tls")]
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
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
            #[cfg(feature = "tls")]
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
            Io::Other(io) => Pin::new(io).poll_write(cx, buf),
        };
        if let Poll::Ready(Ok(written)) = polled {
            this.written += written as u64;
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Tcp(io) => Pin::new(io).poll_flush(cx),
            #[cfg(feature = "tls")]
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
            Io::Other(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            #[cfg(feature = "tls")]
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
            Io::Other(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
