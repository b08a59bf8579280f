//! A TCP proxy on the loopback interface that breaks connections in the ways networks do.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to the bytes of every connection from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// They pass.
    None,
    /// Neither direction moves, and nobody is told: a half-open connection, a black hole.
    BlackHole,
    /// What the client sends is not taken; the other direction passes.
    StallClient,
    /// What the server sends does not arrive; the other direction passes.
    StallServer,
    /// What the client sends passes at a few MiB per second; the other direction passes.
    SlowClient,
    /// The connection breaks.
    Cut,
}

pub(crate) struct Proxy {
    port: u16,
    fault: Arc<watch::Sender<Fault>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Proxy {
    /// A proxy to a port on this host. Of what the client sends on a connection, no more than
    /// `cut_after` bytes pass before the connection breaks.
    pub(crate) async fn start(to: u16, cut_after: Option<usize>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let fault = Arc::new(watch::Sender::new(Fault::None));
        let faults = Arc::clone(&fault);
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                tokio::spawn(pass(client, server, faults.subscribe(), cut_after));
            }
        });
        Self { port, fault, accepting }
    }

    pub(crate) fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    pub(crate) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}", self.port)
    }
}

async fn pass(
    client: TcpStream,
    server: TcpStream,
    fault: watch::Receiver<Fault>,
    cut_after: Option<usize>,
) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let stalled_up = |fault| matches!(fault, Fault::BlackHole | Fault::StallClient);
    let stalled_down = |fault| matches!(fault, Fault::BlackHole | Fault::StallServer);
    let slow_up = |fault| fault == Fault::SlowClient;
    let mut cut = fault.clone();
    // Whatever ends first ends the connection: both sockets are dropped with the futures.
    tokio::select! {
        () = copy(from_client, to_server, fault.clone(), stalled_up, slow_up, cut_after) => {}
        () = copy(from_server, to_client, fault, stalled_down, |_| false, None) => {}
        _ = cut.wait_for(|fault| *fault == Fault::Cut) => {}
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut fault: watch::Receiver<Fault>,
    stalled: fn(Fault) -> bool,
    slow: fn(Fault) -> bool,
    mut left: Option<usize>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if fault.wait_for(|fault| !stalled(*fault)).await.is_err() {
            return;
        }
        let read = tokio::select! {
            // A stall that begins while nothing comes must not let the next bytes through.
            changed = fault.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            read = from.read(&mut buffer) => read,
        };
        let Ok(read @ 1..) = read else { return };
        if slow(*fault.borrow()) {
            tokio::time::sleep(Duration::from_millis(4)).await;
        }
        let passed = left.map_or(read, |left| left.min(read));
        if to.write_all(&buffer[..passed]).await.is_err() {
            return;
        }
        if let Some(left) = &mut left {
            *left -= passed;
            if *left == 0 {
                return;
            }
        }
    }
}
