//! A TCP relay between an agent and its server, whose connections can be cut.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::check::{Failed, Needed as _};

/// Relays until it is dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    addr: SocketAddr,
    cuts: watch::Sender<()>,
    task: AbortHandle,
}

impl Relay {
    pub(crate) async fn to(server: &str) -> Result<Self, Failed> {
        let listener = TcpListener::bind("127.0.0.1:0").await.needed("the relay listens")?;
        let addr = listener.local_addr().needed("the relay has an address")?;
        let (cuts, cut) = watch::channel(());
        let server = server.to_owned();
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, server.clone(), cut.clone()));
            }
        });
        Ok(Self { addr, cuts, task: task.abort_handle() })
    }

    pub(crate) fn addr(&self) -> String {
        self.addr.to_string()
    }

    /// Cuts every connection there is. New ones are carried as before.
    pub(crate) fn cut(&self) {
        self.cuts.send_replace(());
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(mut near: TcpStream, server: String, mut cut: watch::Receiver<()>) {
    cut.mark_unchanged();
    let Ok(mut far) = TcpStream::connect(server).await else { return };
    tokio::select! {
        // How a connection ends is for its two ends to judge.
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
        _ = cut.changed() => {}
    }
}
