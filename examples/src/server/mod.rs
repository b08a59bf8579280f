//! An OpAMP server that keeps its fleet in memory, or in a directory as well, and an admin API to
//! look at the fleet and to act on it.

mod admin;
pub mod agent_json;
mod args;
mod certificates;
mod desk;
mod heartbeat;
mod mailbox;
mod metrics;
mod offers_json;
mod state;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use opamp_server::service::tls::ListenerTls;
use opamp_server::{BearerTokens, Server as OpampServer, ShutdownHandle};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub use self::args::{Csr, ServerArgs, Token, Tolerance};
pub use self::desk::Peer;

use self::admin::{Admin, PACKAGES, Place};
pub(crate) use self::args::{message_size, path};
use self::certificates::Certificates;
use self::desk::Desk;
use self::heartbeat::Heartbeat;
use self::mailbox::Mailbox;
use self::state::Hosted;
use crate::program::Failure;

/// How long requests to the admin API may take to finish at the end.
const ADMIN_STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// The registry of the agents.
pub type Fleet = opamp_server::Fleet<Peer>;

/// A running server.
#[derive(Debug)]
pub struct Server {
    opamp_addr: SocketAddr,
    admin_addr: SocketAddr,
    fleet: Fleet,
    tls: Option<ListenerTls>,
    shutdown: ShutdownHandle,
    opamp: JoinHandle<()>,
    admin_stop: oneshot::Sender<()>,
    admin: JoinHandle<io::Result<()>>,
}

impl Server {
    /// Starts to serve agents and the admin API. Has to be called in a tokio runtime.
    ///
    /// # Errors
    ///
    /// When an address cannot be listened on, or a file cannot be used.
    pub async fn start(args: &ServerArgs) -> Result<Self, Failure> {
        let remote_config = args.remote_config()?;
        let tokens: Vec<_> = args.tokens.iter().map(|token| &token.0).collect();
        let tokens = (!tokens.is_empty()).then(|| BearerTokens::new(tokens));

        let mailbox = Mailbox::default();
        let files = match &args.state {
            Some(directory) => Hosted::kept_in(directory)?,
            None => Hosted::default(),
        };
        let mut builder = OpampServer::bind(args.listen)
            .path(&args.path)
            .package_files(PACKAGES, files.served())
            .drain(Duration::from_secs(args.drain.into()))
            .config(args.server_config()?);
        let tls = certificates::tls(args)?;
        if let Some(tls) = &tls {
            builder = builder.tls(tls.clone());
        }
        let certificates = Certificates::new(args)?;
        let revocations = certificates::revocations_of(args);
        let mut service = args.service_config();
        service.certificates = certificates.as_ref().and_then(Certificates::issuing);
        service.revocations = revocations.clone();
        builder = builder.service_config(service);
        if let Some(directory) = &args.state {
            builder = builder.state_store(state::open(directory)?);
        }
        let heartbeat = args.heartbeat_interval.map(Heartbeat::new);
        let listening = |addr| move |error| Failure::caused_by(format!("{addr}"), error);
        let opamp = builder
            .listen(Desk {
                tokens,
                certificates: certificates.is_some(),
                heartbeat: heartbeat.clone(),
                mailbox: mailbox.clone(),
            })
            .await;
        let opamp = opamp.map_err(listening(args.listen))?;
        let admin = TcpListener::bind(args.admin).await.map_err(|error| {
            Failure::caused_by(format!("cannot listen on the admin address {}", args.admin), error)
        })?;
        let admin_addr =
            admin.local_addr().map_err(|error| Failure::caused_by("the admin address", error))?;
        if !admin_addr.ip().is_loopback() {
            tracing::warn!(%admin_addr, "the admin API is open to whoever reaches this address");
        }
        let fleet = opamp.fleet().clone();
        if let Some(config) = remote_config {
            fleet.set_default_remote_config(config).map_err(|error| {
                Failure::caused_by("the configuration cannot be offered", error)
            })?;
        }

        let addr = opamp.local_addr();
        let place = Place::new(args, addr);
        if let Some(certificates) = &certificates {
            certificates.set_place(&place)?;
        }
        if let Some(heartbeat) = &heartbeat {
            heartbeat.set_place(&place);
        }
        let store = opamp.store_handle();
        let admin_api =
            Admin { fleet: fleet.clone(), mailbox, store, files, place, certificates, revocations };
        let router = admin::router(admin_api);
        let (admin_stop, stopped) = oneshot::channel();
        let admin = axum::serve(admin, router).with_graceful_shutdown(async {
            // A server that is gone is as good as stopped.
            let _ = stopped.await;
        });
        Ok(Self {
            opamp_addr: opamp.local_addr(),
            admin_addr,
            fleet,
            tls,
            shutdown: opamp.shutdown_handle(),
            opamp: tokio::spawn(opamp.run()),
            admin_stop,
            admin: tokio::spawn(admin.into_future()),
        })
    }

    /// Where agents connect.
    #[must_use]
    pub fn opamp_addr(&self) -> SocketAddr {
        self.opamp_addr
    }

    /// Where the admin API is served.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// The registry of the agents.
    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Reads the files of certificates again, if there are some; those in use stay if they are not
    /// usable. The server also does so by itself, every half a minute.
    pub fn reload(&self) {
        if let Some(tls) = &self.tls {
            crate::tls::reload(tls);
        }
    }

    /// Completes when the server has ended without having been stopped.
    ///
    /// # Cancel safety
    ///
    /// Cancelling loses nothing.
    pub async fn failed(&mut self) -> Failure {
        let (part, ended) = tokio::select! {
            ended = &mut self.opamp => ("the server", ended.map(Ok)),
            ended = &mut self.admin => ("the admin API", ended),
        };
        match ended {
            Ok(Ok(())) => Failure::new(format!("{part} ended by itself")),
            Ok(Err(error)) => Failure::caused_by(part, error),
            Err(error) => Failure::caused_by(part, error),
        }
    }

    /// Stops in an orderly way: requests in progress are finished, WebSockets closed, over the time
    /// for it.
    ///
    /// # Errors
    ///
    /// When a part of it failed.
    pub async fn stop(self) -> Result<(), Failure> {
        self.stop_until(std::future::pending()).await
    }

    /// As [`stop`](Self::stop), until somebody does not want to wait any longer.
    ///
    /// # Errors
    ///
    /// When a part of it failed.
    pub async fn stop_until(mut self, at_once: impl Future<Output = ()>) -> Result<(), Failure> {
        self.shutdown.shutdown();
        let ended = tokio::select! {
            ended = &mut self.opamp => ended,
            () = at_once => {
                self.shutdown.shutdown_at_once();
                (&mut self.opamp).await
            }
        };
        // An admin API that is gone need not be told.
        let _ = self.admin_stop.send(());
        if tokio::time::timeout(ADMIN_STOP_TIMEOUT, &mut self.admin).await.is_err() {
            self.admin.abort();
        }
        ended.map_err(|error| Failure::caused_by("the server", error))
    }
}
