//! A gateway between many agents and their server: the wiring of [`opamp_server::gateway`].
//!
//! Agents come over either transport, the server is reached over a few WebSockets. One task serves
//! each connection; where they meet is the [`hub`], whose lock is held for the time it takes to
//! look at one message.

mod addresses;
mod args;
mod downstream;
mod hub;
mod patient;
mod socket;
mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use opamp_server::gateway::GatewayCounters;
use opamp_server::service::tls::ListenerTls;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

pub use self::args::GatewayArgs;

use self::addresses::Addresses;
use self::downstream::Downstream;
use self::hub::Hub;
use self::upstream::Upstream;
use crate::program::Failure;

/// How long agents have to take their leave, and what waits to be sent.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the files of certificates are looked at.
const RELOAD_PERIOD: Duration = Duration::from_secs(30);

/// How often the counts are logged, if they have changed.
const LOG_PERIOD: Duration = Duration::from_secs(60);

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    addr: SocketAddr,
    hub: Arc<Hub>,
    stopping: watch::Sender<bool>,
    upstreams: JoinSet<()>,
    background: [JoinHandle<()>; 4],
    tls: Option<ListenerTls>,
}

impl Gateway {
    /// Starts to serve agents and to connect to the server. Has to be called in a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the address cannot be listened on, or the arguments cannot be used.
    pub async fn start(args: &GatewayArgs) -> Result<Self, Failure> {
        let upstream = Arc::new(Upstream::new(args)?);
        let tls = args.tls()?;
        let listener = TcpListener::bind(args.listen).await.map_err(|error| {
            Failure::caused_by(format!("cannot listen on the address {}", args.listen), error)
        })?;
        let addr = listener.local_addr();
        let addr = addr.map_err(|error| Failure::caused_by("the listener's address", error))?;

        let hub = Arc::new(Hub::new(args.config()));
        let mut upstreams = JoinSet::new();
        for slot in 0..args.connections.into() {
            upstreams.spawn(Arc::clone(&upstream).keep(Arc::clone(&hub), slot));
        }
        let addresses = Arc::new(Addresses::new(args.max_per_address));
        let (stopping, stopped) = watch::channel(false);
        let downstream = Arc::new(Downstream {
            hub: Arc::clone(&hub),
            path: args.path.clone(),
            limits: args.limits(),
            addresses: Arc::clone(&addresses),
            tls: tls.clone(),
            stopping: stopped,
        });
        let (timed, logged) = (Arc::clone(&hub), Arc::clone(&hub));
        let background = [
            tokio::spawn(downstream.accept(listener)),
            tokio::spawn(async move { timed.keep_time().await }),
            tokio::spawn(async move { log_counts(&logged, &addresses).await }),
            tokio::spawn(keep_current(tls.clone())),
        ];
        Ok(Self { addr, hub, stopping, upstreams, background, tls })
    }

    /// Where agents connect.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> GatewayCounters {
        self.hub.with(|gateway, _| gateway.counters())
    }

    /// Reads the files of certificates again, if there are some; those in use stay if they are not
    /// usable. The gateway also does so by itself, every half a minute.
    pub fn reload(&self) {
        if let Some(tls) = &self.tls {
            crate::tls::reload(tls);
        }
    }

    /// Stops in an orderly way: agents' connections are closed, what they have said goes to the
    /// server, then the connections to the server are closed. The agents go elsewhere or come back,
    /// so nobody says goodbye for them.
    pub async fn stop(mut self) {
        self.stopping.send_replace(true);
        self.hub.with(|gateway, _| gateway.stop());
        let empty = async {
            while !self.hub.is_empty() {
                self.hub.gone.notified().await;
            }
        };
        // Whoever takes longer is cut off.
        let _ = timeout(STOP_TIMEOUT, empty).await;
        self.hub.leave_server();
        let left = async { while self.upstreams.join_next().await.is_some() {} };
        let _ = timeout(STOP_TIMEOUT, left).await;
        self.background.iter().for_each(JoinHandle::abort);
        tracing::info!(counts = ?self.counters(), "stopped");
    }
}

/// Uses renewed certificates.
async fn keep_current(tls: Option<ListenerTls>) {
    let Some(tls) = tls else { return };
    let mut usable = true;
    loop {
        tokio::time::sleep(RELOAD_PERIOD).await;
        let files = tls.clone();
        // It ends early with the runtime only.
        let Ok(reloaded) = tokio::task::spawn_blocking(move || files.reload()).await else {
            return;
        };
        let was_usable = std::mem::replace(&mut usable, reloaded.is_ok());
        match reloaded {
            Ok(true) => tracing::info!("renewed certificates are in use"),
            Ok(false) => {}
            Err(error) if was_usable => {
                let what = "the renewed certificates are not usable, the last ones stay";
                tracing::error!("{}", Failure::caused_by(what, error));
            }
            Err(_) => {}
        }
    }
}

async fn log_counts(hub: &Hub, addresses: &Addresses) {
    let mut last = (GatewayCounters::default(), 0);
    loop {
        tokio::time::sleep(LOG_PERIOD).await;
        let (counts, agents) = hub.with(|gateway, _| (gateway.counters(), gateway.agents()));
        let refused_by_address = addresses.refused();
        if (counts, refused_by_address) != last {
            tracing::info!(agents, refused_by_address, ?counts);
            last = (counts, refused_by_address);
        }
    }
}
