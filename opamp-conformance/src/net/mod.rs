//! Where connections come from: the sockets of this machine, or a network in memory on which the
//! selftest runs a tester and its peers in virtual time.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

mod lag;
mod undeterred;

use lag::Lagging;
pub use undeterred::Undeterred;

/// A connection: bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection of whatever kind.
pub type BoxStream = Box<dyn Stream>;

/// How many connections may wait to be accepted.
const BACKLOG: usize = 1024;
/// How many bytes a connection in memory holds in each direction.
const PIPE: usize = 64 * 1024;

/// A way to connect and to listen. Cheap to clone; clones share one network.
#[derive(Debug, Clone, Default)]
pub enum Network {
    /// TCP, listening on 127.0.0.1 only.
    #[default]
    Sockets,
    /// TCP, listening at this address where it is free, else at another port of it.
    At(SocketAddr),
    /// A network of its own in memory, where every host name leads to the same place.
    Memory(Memory),
}

/// The listeners of a network in memory.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<Ports>>);

#[derive(Debug, Default)]
struct Ports {
    listeners: HashMap<u16, mpsc::Sender<tokio::io::DuplexStream>>,
    last: u16,
}

impl Network {
    /// A new network in memory.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::Memory(Memory::default())
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// Those of the operating system; on a network in memory, `ConnectionRefused` where nobody
    /// listens.
    pub async fn connect(&self, host: &str, port: u16) -> io::Result<BoxStream> {
        match self {
            Self::Sockets | Self::At(_) => {
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let stream = TcpStream::connect((host, port)).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Memory(memory) => {
                let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
                let listener = memory.ports().listeners.get(&port).cloned().ok_or_else(refused)?;
                let (ours, theirs) = tokio::io::duplex(PIPE);
                listener.send(theirs).await.map_err(|_| refused())?;
                Ok(Box::new(Lagging::new(ours)))
            }
        }
    }

    /// The host of its listeners, as in a URL.
    #[must_use]
    pub fn host(&self) -> String {
        match self.ip() {
            IpAddr::V6(ip) => format!("[{ip}]"),
            IpAddr::V4(ip) => ip.to_string(),
        }
    }

    fn ip(&self) -> IpAddr {
        match self {
            Self::At(address) => address.ip(),
            Self::Sockets | Self::Memory(_) => Ipv4Addr::LOCALHOST.into(),
        }
    }

    async fn bind(&self, port: u16) -> io::Result<TcpListener> {
        if let (Self::At(address), 0) = (self, port)
            && let Ok(listener) = TcpListener::bind(address).await
        {
            return Ok(listener);
        }
        TcpListener::bind((self.ip(), port)).await
    }

    /// Listens on a port; 0 picks a free one.
    ///
    /// # Errors
    ///
    /// Those of the operating system; `AddrInUse` where the port is taken.
    pub async fn listen(&self, port: u16) -> io::Result<Listener> {
        match self {
            Self::Sockets | Self::At(_) => {
                let listener = self.bind(port).await?;
                Ok(Listener { port: listener.local_addr()?.port(), kind: Kind::Socket(listener) })
            }
            Self::Memory(memory) => {
                let mut ports = memory.ports();
                let port = if port == 0 { ports.free()? } else { port };
                if ports.listeners.get(&port).is_some_and(|listener| !listener.is_closed()) {
                    return Err(io::ErrorKind::AddrInUse.into());
                }
                let (sender, receiver) = mpsc::channel(BACKLOG);
                ports.listeners.insert(port, sender);
                Ok(Listener { port, kind: Kind::Memory(receiver) })
            }
        }
    }

    /// Keeps a port of 127.0.0.1 without listening on it: connecting is refused, and nobody else
    /// gets the port.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn hold(&self, port: u16) -> io::Result<Held> {
        match self {
            Self::Sockets | Self::At(_) => {
                let address = SocketAddr::new(self.ip(), port);
                let socket =
                    if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
                socket.set_reuseaddr(true)?;
                socket.bind(address)?;
                Ok(Held { port, socket: Some(socket) })
            }
            // There ports are given out in turn.
            Self::Memory(_) => Ok(Held { port, socket: None }),
        }
    }
}

/// A port that is kept while nobody listens on it.
#[derive(Debug)]
pub struct Held {
    port: u16,
    socket: Option<TcpSocket>,
}

impl Held {
    /// Listens on it.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub async fn listen(self, network: &Network) -> io::Result<Listener> {
        match self.socket {
            Some(socket) => {
                let listener = socket.listen(BACKLOG as u32)?;
                Ok(Listener { port: self.port, kind: Kind::Socket(listener) })
            }
            None => network.listen(self.port).await,
        }
    }
}

impl Memory {
    fn ports(&self) -> std::sync::MutexGuard<'_, Ports> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ports {
    fn free(&mut self) -> io::Result<u16> {
        for _ in 0..u16::MAX {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if self.listeners.get(&self.last).is_none_or(mpsc::Sender::is_closed) {
                return Ok(self.last);
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }
}

/// Accepts connections; dropping it gives its port back, and connecting is refused from then on.
#[derive(Debug)]
pub struct Listener {
    port: u16,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Socket(TcpListener),
    Memory(mpsc::Receiver<tokio::io::DuplexStream>),
}

impl Listener {
    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The next connection. Cancel safe.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub async fn accept(&mut self) -> io::Result<BoxStream> {
        match &mut self.kind {
            Kind::Socket(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Kind::Memory(receiver) => match receiver.recv().await {
                Some(stream) => Ok(Box::new(Lagging::new(stream))),
                None => Err(io::ErrorKind::NotConnected.into()),
            },
        }
    }

    /// Takes connections until that fails, each on a task of its own. Dropping the future ends the
    /// listening and every connection.
    pub(crate) async fn serve<F>(mut self, mut enter: impl FnMut(BoxStream) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.accept() => match accepted {
                    Ok(stream) => {
                        connections.spawn(enter(stream));
                    }
                    Err(_) => return,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}
