//! The least a server can do: what it costs to move the bytes of OpAMP, and nothing else.
//!
//! `opamp-floor websocket` answers each frame with as many bytes as an OpAMP server would, straight
//! from the socket: it looks at lengths, copies the uid, and knows nothing of WebSocket or Protobuf
//! otherwise. With `--admin` it also sends a configuration to every connection, one after the other.
//! `opamp-floor http` answers each POST by hyper with the uid of its body.
//!
//! These are no servers: whatever does not look like `opamp-load` is cut off.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use base64::Engine as _;
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opamp_proto::{Message as _, v1};
use sha1::{Digest as _, Sha1};
use tokio::io::AsyncReadExt as _;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// Moves the bytes of OpAMP and does nothing else, as a floor to compare servers with.
///
/// Prints `listening opamp=ADDR admin=ADDR` when it serves; it ends when it is killed.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// What is answered
    #[arg(value_enum)]
    transport: Transport,

    /// Where agents connect; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4320")]
    listen: SocketAddr,

    /// On websocket: where `PUT /v1/config` sends its body to all agents as a configuration
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4321")]
    admin: SocketAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Transport {
    /// A raw socket.
    Websocket,
    /// hyper.
    Http,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_io().build();
    let outcome = runtime.and_then(|runtime| runtime.block_on(serve(args)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(io::stderr(), format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Who does not listen any more need not be told.
fn say(mut to: impl io::Write, line: std::fmt::Arguments<'_>) {
    let _ = writeln!(to, "{line}");
}

async fn serve(args: Args) -> io::Result<()> {
    let (agents, admin) =
        (TcpListener::bind(args.listen).await?, TcpListener::bind(args.admin).await?);
    let line = (agents.local_addr()?, admin.local_addr()?);
    say(io::stdout(), format_args!("listening opamp={} admin={}", line.0, line.1));
    match args.transport {
        Transport::Http => loop {
            let (socket, _) = agents.accept().await?;
            socket.set_nodelay(true)?;
            tokio::spawn(async move {
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service_fn(respond));
                // The load generator has gone away.
                let _ = connection.await;
            });
        },
        Transport::Websocket => {
            let everyone = Arc::new(Everyone::default());
            tokio::spawn(take_configurations(admin, Arc::clone(&everyone)));
            loop {
                let (socket, _) = agents.accept().await?;
                let everyone = Arc::clone(&everyone);
                tokio::spawn(async move {
                    // It ends when the load generator drops it.
                    let _ = echo(socket, &everyone).await;
                });
            }
        }
    }
}

/// The opcode of a Close frame.
const CLOSE: u8 = 8;

/// The uid where `opamp-load` puts it, in the first field.
fn uid_of(message: &[u8]) -> [u8; 16] {
    message.get(2..18).and_then(|uid| uid.try_into().ok()).unwrap_or_default()
}

async fn respond(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let mut reply = vec![0x0a, 16];
    reply.extend_from_slice(&uid_of(&body));
    let mut response = Response::new(Full::new(reply.into()));
    response.headers_mut().insert(
        hyper::header::CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("application/x-protobuf"),
    );
    Ok(response)
}

/// The connections a configuration is sent to.
#[derive(Default)]
struct Everyone(Mutex<Vec<Weak<Agent>>>);

struct Agent {
    write: OwnedWriteHalf,
    uid: OnceLock<[u8; 16]>,
}

impl Agent {
    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write.try_write(bytes) {
                Ok(len) => bytes = &bytes[len..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.write.writable().await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

async fn echo(socket: TcpStream, everyone: &Everyone) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let (mut read, write) = socket.into_split();
    let agent = Arc::new(Agent { write, uid: OnceLock::new() });
    agent.write_all(&handshake(&mut read).await?).await?;
    everyone.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&agent));

    let mut buffer = vec![0; 4096];
    let (mut filled, mut out) = (0, Vec::new());
    loop {
        let len = read.read(&mut buffer[filled..]).await?;
        if len == 0 {
            return Ok(());
        }
        filled += len;
        let mut at = 0;
        out.clear();
        while let Some((payload, len)) = frame(&buffer[at..filled]) {
            if buffer[at] & 0x0f == CLOSE {
                return agent.write_all(&out).await;
            }
            let uid = unmasked_uid(&buffer[at..][payload..len]);
            if agent.uid.get().is_none() {
                // Only this task sets it.
                let _ = agent.uid.set(uid);
            }
            out.extend_from_slice(&[0x82, 19, 0, 0x0a, 16]);
            out.extend_from_slice(&uid);
            at += len;
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
        if filled == buffer.len() {
            buffer.resize(2 * buffer.len(), 0);
        }
        agent.write_all(&out).await?;
    }
}

/// Reads the request and makes the response.
async fn handshake(read: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let (mut request, mut filled) = ([0; 4096], 0);
    while !request[..filled].ends_with(b"\r\n\r\n") {
        match read.read(&mut request[filled..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => filled += len,
        }
    }
    let request = String::from_utf8_lossy(&request[..filled]);
    let key = request.split("Sec-WebSocket-Key: ").nth(1).and_then(|rest| rest.lines().next());
    let digest = Sha1::new()
        .chain_update(key.unwrap_or_default())
        .chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
        .finalize();
    let accept = base64::engine::general_purpose::STANDARD.encode(digest);
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
    .into_bytes())
}

/// Where the mask of the first frame begins, and its length as a whole.
fn frame(data: &[u8]) -> Option<(usize, usize)> {
    let (mask, payload) = match *data.get(1)? & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes([*data.get(2)?, *data.get(3)?]))),
        127 => {
            let len = data.get(2..10)?.try_into().ok()?;
            (10, usize::try_from(u64::from_be_bytes(len)).ok()?)
        }
        len => (2, usize::from(len)),
    };
    let len = mask + 4 + payload;
    (data.len() >= len).then_some((mask, len))
}

/// The uid in a masked payload, whose mask stands before it.
fn unmasked_uid(masked: &[u8]) -> [u8; 16] {
    let mut start = [0; 19];
    let (mask, payload) = masked.split_at(4);
    for (index, (byte, masked)) in start.iter_mut().zip(payload).enumerate() {
        *byte = masked ^ mask[index % 4];
    }
    uid_of(&start[1..])
}

/// Sends what is put to everyone, as one message that is made once.
async fn take_configurations(admin: TcpListener, everyone: Arc<Everyone>) -> io::Result<()> {
    loop {
        let (socket, _) = admin.accept().await?;
        let everyone = Arc::clone(&everyone);
        let put = service_fn(move |request: Request<Incoming>| {
            let everyone = Arc::clone(&everyone);
            async move {
                let body = request.into_body().collect().await?.to_bytes();
                send(&everyone, body).await;
                Ok::<_, hyper::Error>(Response::new(Full::<Bytes>::default()))
            }
        });
        let http = hyper::server::conn::http1::Builder::new();
        // Whoever asked has gone away.
        let _ = http.serve_connection(TokioIo::new(socket), put).await;
    }
}

async fn send(everyone: &Everyone, body: Bytes) {
    let hash = Sha1::digest(&body).to_vec().into();
    let file = v1::AgentConfigFile { body, content_type: String::new() };
    let config = Some(v1::AgentConfigMap { config_map: [(String::new(), file)].into() });
    let offer = v1::AgentRemoteConfig { config, config_hash: hash };
    let tail = v1::ServerToAgent { remote_config: Some(offer), ..Default::default() };
    let tail = tail.encode_to_vec();
    let len = 19 + tail.len();
    let mut head = match u16::try_from(len) {
        Ok(short @ 126..) => [&[0x82, 126][..], &short.to_be_bytes()].concat(),
        Ok(tiny) => vec![0x82, tiny as u8],
        Err(_) => [&[0x82, 127][..], &(len as u64).to_be_bytes()].concat(),
    };
    head.extend_from_slice(&[0, 0x0a, 16]);
    let uid_at = head.len();
    head.extend_from_slice(&[0; 16]);

    let agents = {
        let mut agents = everyone.0.lock().unwrap_or_else(PoisonError::into_inner);
        agents.retain(|agent| agent.strong_count() > 0);
        agents.clone()
    };
    for agent in agents.iter().filter_map(Weak::upgrade) {
        head[uid_at..].copy_from_slice(agent.uid.get().unwrap_or(&[0; 16]));
        let parts = [io::IoSlice::new(&head), io::IoSlice::new(&tail)];
        let sent = match agent.write.try_write_vectored(&parts) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            // It has gone away.
            Err(_) => continue,
        };
        if sent < head.len() + tail.len() {
            let rest = [head.as_slice(), &tail].concat().split_off(sent);
            tokio::spawn(async move { agent.write_all(&rest).await });
        }
    }
}
