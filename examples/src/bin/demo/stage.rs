//! What the demo plays on: the servers, the agents, the files they need.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use opamp_examples::agent::{Agent, AgentArgs, Attribute};
use opamp_examples::program::Failure;
use opamp_examples::server::{Fleet, Server, ServerArgs};
use opamp_examples::tls::TlsArgs;
use opamp_proto::WireUid;
use opamp_server::AgentSnapshot;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The longest that a step may wait for anything.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the agents without a push channel ask.
const POLL: Duration = Duration::from_millis(200);

/// The agents, by their service.name.
pub(crate) const WEBSOCKET: &str = "edge-collector";
pub(crate) const HTTP: &str = "batch-collector";
pub(crate) const TLS: &str = "payments-collector";
pub(crate) const AGENTS: [&str; 3] = [WEBSOCKET, HTTP, TLS];

pub(crate) struct Stage {
    files: TempDir,
    plain: Option<Server>,
    secure: Option<Server>,
    /// The agents that were started, also those that have stopped since.
    uids: BTreeMap<&'static str, WireUid>,
    running: BTreeMap<&'static str, Running>,
}

/// An agent in its task.
struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), Failure>>,
}

impl Stage {
    pub(crate) fn new() -> Result<Self, Failure> {
        let files = tempfile::Builder::new().prefix("opamp-demo-").tempdir();
        let files = files
            .map_err(|error| Failure::caused_by("a temporary directory cannot be made", error))?;
        Ok(Self {
            files,
            plain: None,
            secure: None,
            uids: BTreeMap::new(),
            running: BTreeMap::new(),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Starts a server for both transports, and one for both over TLS.
    pub(crate) async fn start_servers(&mut self) -> Result<(), Failure> {
        self.make_certificates()?;
        self.plain = Some(Server::start(&ServerArgs::on_free_ports()).await?);
        let secure = ServerArgs {
            tls: TlsArgs {
                cert: Some(self.path("server.pem")),
                key: Some(self.path("server-key.pem")),
                ..TlsArgs::default()
            },
            ..ServerArgs::on_free_ports()
        };
        self.secure = Some(Server::start(&secure).await?);
        Ok(())
    }

    /// Stops the first server; what starts at its address knows nothing.
    pub(crate) async fn replace_plain_server(&mut self) -> Result<(), Failure> {
        let Some(old) = self.plain.take() else { return Ok(()) };
        let again = ServerArgs {
            listen: old.opamp_addr(),
            admin: old.admin_addr(),
            ..ServerArgs::on_free_ports()
        };
        old.stop().await?;
        self.plain = Some(Server::start(&again).await?);
        Ok(())
    }

    fn make_certificates(&self) -> Result<(), Failure> {
        let make = || -> Result<_, rcgen::Error> {
            let mut authority = CertificateParams::default();
            authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            authority.distinguished_name.push(DnType::CommonName, "OpAMP demo authority");
            let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
            let key = KeyPair::generate()?;
            let name = vec!["127.0.0.1".to_owned()];
            let server = CertificateParams::new(name)?.signed_by(&key, &authority)?;
            Ok([
                ("ca.pem", authority.pem()),
                ("server.pem", server.pem()),
                ("server-key.pem", key.serialize_pem()),
            ])
        };
        let made = make().map_err(|error| Failure::caused_by("certificates", error))?;
        for (name, pem) in made {
            fs::write(self.path(name), pem)
                .map_err(|error| Failure::caused_by(format!("cannot write {name}"), error))?;
        }
        Ok(())
    }

    /// Starts the three agents, each on another transport.
    pub(crate) async fn start_agents(&mut self) -> Result<(), Failure> {
        let plain = self.plain()?.opamp_addr();
        let secure = self.secure()?.opamp_addr();
        self.start_agent(WEBSOCKET, AgentArgs::new(format!("ws://{plain}"))).await?;
        let mut http = AgentArgs::new(format!("http://{plain}"));
        http.heartbeat_interval = Some(POLL);
        self.start_agent(HTTP, http).await?;
        let mut tls = AgentArgs::new(format!("wss://{secure}"));
        tls.ca = Some(self.path("ca.pem"));
        self.start_agent(TLS, tls).await
    }

    async fn start_agent(
        &mut self,
        name: &'static str,
        mut args: AgentArgs,
    ) -> Result<(), Failure> {
        args.state = Some(self.path(name));
        args.attributes = vec![Attribute("service.name".to_owned(), name.to_owned())];
        let agent = Agent::start(args).await?;
        self.uids.insert(name, agent.client().instance_uid().into());
        let (stop, stopped) = oneshot::channel();
        let run = agent.run(
            async {
                // A stage that is gone wants no agents either.
                let _ = stopped.await;
            },
            move |news| tracing::debug!(agent = name, %news),
        );
        let task = tokio::spawn(run);
        self.running.insert(name, Running { stop, task });
        Ok(())
    }

    /// Stops an agent in the orderly way.
    pub(crate) async fn stop_agent(&mut self, name: &str) -> Result<(), Failure> {
        let Some(Running { stop, task }) = self.running.remove(name) else { return Ok(()) };
        // One that has stopped by itself need not be told.
        let _ = stop.send(());
        match tokio::time::timeout(PATIENCE, task).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Err(Failure::caused_by(format!("{name} failed"), error)),
            Err(_) => Err(Failure::new(format!("{name} did not stop within {PATIENCE:?}"))),
        }
    }

    pub(crate) fn plain(&self) -> Result<&Server, Failure> {
        self.plain.as_ref().ok_or_else(|| Failure::new("the server is not running"))
    }

    pub(crate) fn secure(&self) -> Result<&Server, Failure> {
        self.secure.as_ref().ok_or_else(|| Failure::new("the TLS server is not running"))
    }

    /// The server that an agent talks to.
    fn server_of(&self, name: &str) -> Result<&Server, Failure> {
        if name == TLS { self.secure() } else { self.plain() }
    }

    /// The fleet that an agent belongs to, and its identifier there.
    pub(crate) fn place(&self, name: &str) -> Result<(&Fleet, WireUid), Failure> {
        let uid = self.uids.get(name);
        let uid = uid.ok_or_else(|| Failure::new(format!("{name} was not started")))?;
        Ok((self.server_of(name)?.fleet(), *uid))
    }

    /// What the server knows of an agent now; `None` when it knows none.
    pub(crate) fn agent(&self, name: &str) -> Option<AgentSnapshot> {
        let (fleet, uid) = self.place(name).ok()?;
        fleet.agent(uid)
    }

    /// Waits until the server knows of an agent what is expected.
    pub(crate) async fn until(
        &self,
        name: &str,
        expected: &str,
        check: impl Fn(&AgentSnapshot) -> bool,
    ) -> Result<AgentSnapshot, Failure> {
        let (fleet, uid) = self.place(name)?;
        let mut watch = fleet.watch();
        let wait = async {
            loop {
                // The first look is at what is known already.
                let _changes = watch.changed().await;
                if let Some(agent) = fleet.agent(uid).filter(&check) {
                    return agent;
                }
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        waited.map_err(|_| Failure::new(format!("{name}: not {expected} within {PATIENCE:?}")))
    }

    /// Completes when a server fails.
    pub(crate) async fn failed(&mut self) -> Failure {
        match (&mut self.plain, &mut self.secure) {
            (Some(plain), Some(secure)) => tokio::select! {
                failure = plain.failed() => failure,
                failure = secure.failed() => failure,
            },
            _ => Failure::new("a server is not running"),
        }
    }

    /// Stops everything, as well as it goes.
    pub(crate) async fn clear(mut self) {
        for name in AGENTS {
            if let Err(error) = self.stop_agent(name).await {
                tracing::warn!(%error, "an agent did not stop well");
            }
        }
        for server in [self.plain.take(), self.secure.take()].into_iter().flatten() {
            if let Err(error) = server.stop().await {
                tracing::warn!(%error, "a server did not stop well");
            }
        }
    }
}
