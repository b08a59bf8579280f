//! The well-behaved Agent beside the hostile ones, and what is needed to be hostile.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use opamp_server::{AcceptAll, Fleet, Server, ServerBuilder, ServerConfig, ServiceConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinHandle;

use crate::ALLOCATOR;
use crate::client::{MASK, Running, WebSocket, run, soon};
use crate::support::{full_report, heartbeat};

/// One test at a time, as they measure memory and time.
static TURN: Mutex<()> = Mutex::const_new(());

const UID: [u8; 16] = [0xee; 16];

/// The longest it may wait for an answer, unoptimized and on a machine that others use as well.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Stage {
    pub(crate) server: Running,
    witness: Witness,
    _turn: MutexGuard<'static, ()>,
}

struct Witness {
    stop: Arc<AtomicBool>,
    /// Exchanges, the slowest of them, and the most memory in use.
    seen: JoinHandle<(u64, Duration, usize)>,
    before: usize,
}

/// Times short enough for tests.
pub(crate) fn hasty() -> ServiceConfig {
    let mut config = ServiceConfig::default();
    config.body_deadline = Duration::from_millis(700);
    config.first_message_timeout = Duration::from_millis(700);
    config.ping_interval = Duration::from_millis(700);
    config.pong_timeout = Duration::from_millis(500);
    config.write_timeout = Duration::from_millis(700);
    config.close_timeout = Duration::from_millis(300);
    config
}

fn in_use() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated.wrapping_sub(stats.bytes_deallocated)
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with(|_, _| {}).await
    }

    pub(crate) async fn with(adjust: impl FnOnce(&mut ServerConfig, &mut ServiceConfig)) -> Self {
        Self::built(adjust, |builder| builder).await
    }

    pub(crate) async fn built(
        adjust: impl FnOnce(&mut ServerConfig, &mut ServiceConfig),
        build: impl FnOnce(ServerBuilder<&'static str>) -> ServerBuilder<&'static str>,
    ) -> Self {
        let turn = TURN.lock().await;
        let (mut config, mut service) = (ServerConfig::default(), hasty());
        adjust(&mut config, &mut service);
        let builder = Server::bind("127.0.0.1:0")
            .config(config)
            .service_config(service)
            .header_timeout(Duration::from_millis(500));
        let server = run(build(builder).listen(AcceptAll).await.expect("a free port"));
        let witness = Witness::start(server.addr).await;
        Self { server, witness, _turn: turn }
    }

    pub(crate) fn fleet(&self) -> &Fleet {
        &self.server.fleet
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        soon(TcpStream::connect(self.server.addr)).await.expect("a connection")
    }

    /// A WebSocket by its bytes.
    pub(crate) async fn websocket(&self) -> TcpStream {
        let mut stream = self.connect().await;
        upgrade(&mut stream).await;
        stream
    }

    /// The witness was served all the while, at most so much memory was in use at a time, and
    /// everything of the hostile peers is gone.
    pub(crate) async fn assert_unharmed(self, memory: usize) {
        self.server
            .until(|fleet| {
                let counters = fleet.counters();
                counters.listener_connections_open <= 1 && counters.websockets_open == 1
            })
            .await;
        self.witness.stop.store(true, Ordering::Relaxed);
        let (exchanges, slowest, most) = self.witness.seen.await.expect("it was served");
        assert!(exchanges >= 10, "{exchanges} exchanges");
        assert!(slowest < PATIENCE, "the witness waited for {slowest:?}");
        let used = most.saturating_sub(self.witness.before);
        assert!(used < memory, "{used} bytes were in use");
        self.server.shutdown.shutdown();
        soon(self.server.task).await.expect("no panic");
    }
}

impl Witness {
    /// Speaks from an address of its own, so that it does not share those of the hostile ones.
    async fn start(addr: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        #[cfg(target_os = "linux")]
        socket.bind("127.0.0.2:0".parse().expect("an address")).expect("it is the host's own");
        let stream = socket.connect(addr).await.expect("a connection");
        let mut socket = WebSocket::open(stream, &[]).await.expect("an upgrade");
        socket.send(&full_report(&UID, 1, MASK)).await;
        assert_eq!(socket.recv().await.error_response, None);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let before = in_use();
        let seen = tokio::spawn(async move {
            let (mut exchanges, mut slowest, mut most) = (0, Duration::ZERO, 0);
            while !stopped.load(Ordering::Relaxed) || exchanges < 10 {
                exchanges += 1;
                let asked = Instant::now();
                socket.send(&heartbeat(&UID, exchanges + 1, MASK)).await;
                assert_eq!(socket.recv().await.error_response, None);
                slowest = slowest.max(asked.elapsed());
                most = most.max(in_use());
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            (exchanges, slowest, most)
        });
        Self { stop, seen, before }
    }
}

pub(crate) async fn upgrade<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    let answer = handshake(stream, "").await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
}

/// Asks for a WebSocket, with these headers as well, and gives the head of the answer.
pub(crate) async fn handshake<S>(stream: &mut S, headers: &str) -> String
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = format!(
        "GET /v1/opamp HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("it is sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(soon(stream.read_u8()).await.expect("an answer"));
    }
    String::from_utf8(answer).expect("text")
}

/// A frame of a client, with a mask of zeros.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    [&header(first, payload.len()), payload].concat()
}

/// Its header alone.
pub(crate) fn header(first: u8, len: usize) -> Vec<u8> {
    let mut header = match len {
        ..126 => vec![first, 0x80 | len as u8],
        126..0x10000 => [&[first, 0xfe][..], &(len as u16).to_be_bytes()].concat(),
        _ => [&[first, 0xff][..], &(len as u64).to_be_bytes()].concat(),
    };
    header.extend([0; 4]);
    header
}

/// An OpAMP message on a WebSocket.
pub(crate) fn message(body: &[u8]) -> Vec<u8> {
    frame(0x82, &[&[0], body].concat())
}

/// Reads to the end. An error is an end as well.
pub(crate) async fn rest_of<S: AsyncRead + Unpin>(stream: &mut S) -> Vec<u8> {
    let mut rest = Vec::new();
    let read = async {
        let mut piece = vec![0; 4 * 1024];
        while let Ok(len @ 1..) = stream.read(&mut piece).await {
            rest.extend_from_slice(&piece[..len]);
        }
    };
    soon(read).await;
    rest
}

/// The code in the Close frame that the bytes of a WebSocket end with.
pub(crate) fn close_code(mut bytes: &[u8]) -> Option<u16> {
    while let [first, len, rest @ ..] = bytes {
        let (len, rest) = match len {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => (u64::from_be_bytes(rest[..8].try_into().ok()?) as usize, &rest[8..]),
            len => (usize::from(*len), rest),
        };
        if *first == 0x88 {
            return Some(u16::from_be_bytes([rest[0], rest[1]]));
        }
        bytes = rest.get(len..)?;
    }
    None
}

/// Ends a connection with a reset.
pub(crate) fn reset(stream: TcpStream) {
    let stream = stream.into_std().expect("a socket");
    let _ = linger_no_time(&stream);
    drop(stream);
}

fn linger_no_time(stream: &std::net::TcpStream) -> std::io::Result<()> {
    let socket = TcpSocket::from_std_stream(stream.try_clone()?);
    #[allow(deprecated, reason = "a linger of zero does not block")]
    socket.set_linger(Some(Duration::ZERO))
}
