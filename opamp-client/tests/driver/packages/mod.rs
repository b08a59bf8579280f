//! Packages: offers over a real connection, downloads from a server that does what a test says, a
//! store on a real disk.

mod downloads;
mod installing;
mod limits;
mod resuming;

use std::path::Path;

use opamp_client::core::Event;
use opamp_client::packages::{
    FilePackageStore, PackageOffer, PackageRemoval, Packages, PackagesConfig,
};
use opamp_proto::v1::{self, PackageStatusEnum as State};
use opamp_proto::{ServerCapabilities, v1::AgentToServer};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::support::{Agent, agent, http, soon, websocket};

/// Larger than what goes to a store at once.
pub(super) const LARGE: usize = 700_000;

/// Bytes that differ wherever one looks.
pub(super) fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 31 + at / 251) % 256).unwrap()).collect()
}

pub(super) fn sha256(content: &[u8]) -> bytes::Bytes {
    let hash: [u8; 32] = Sha256::digest(content).into();
    bytes::Bytes::copy_from_slice(&hash)
}

pub(super) fn package(version: &str, url: &str, content: &[u8]) -> v1::PackageAvailable {
    v1::PackageAvailable {
        r#type: v1::PackageType::Addon.into(),
        version: version.to_owned(),
        file: Some(v1::DownloadableFile {
            download_url: url.to_owned(),
            content_hash: sha256(content),
            ..Default::default()
        }),
        hash: format!("hash of {version}").into(),
    }
}

/// Little time between attempts.
pub(super) fn hasty(config: &mut PackagesConfig) {
    config.backoff.initial = std::time::Duration::from_millis(10);
    config.backoff.max = std::time::Duration::from_millis(20);
}

/// An agent that takes packages, the server it talks to, and one that it downloads from.
pub(super) struct Scene {
    pub(super) dir: TempDir,
    server: websocket::Server,
    pub(super) peer: websocket::Peer,
    pub(super) agent: Agent,
    pub(super) downloads: http::Server,
    offers: u32,
    first: AgentToServer,
}

impl Scene {
    pub(super) async fn new() -> Self {
        Self::with(|packages| packages).await
    }

    pub(super) async fn with(adapt: impl FnOnce(Packages) -> Packages) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = websocket::Server::start().await;
        let agent = Self::agent(dir.path(), &server, adapt);
        let downloads = http::Server::start().await;
        let (peer, first) = welcome(&server).await;
        Self { dir, server, peer, agent, downloads, offers: 0, first }
    }

    fn agent(
        dir: &Path,
        server: &websocket::Server,
        adapt: impl FnOnce(Packages) -> Packages,
    ) -> Agent {
        let store = FilePackageStore::open(dir).unwrap();
        let packages = adapt(Packages::verified_by_hash(store).configure(hasty));
        Agent::start(agent(server.url()).packages(packages))
    }

    /// The same agent after its process was killed.
    pub(super) async fn restarted(mut self) -> Self {
        self.agent.abort_driver().await;
        drop(self.agent);
        // An operation of the store that was under way holds it open.
        let store = async {
            while let Err(error) = FilePackageStore::open(self.dir.path()) {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                tokio::task::yield_now().await;
            }
        };
        soon(store).await;
        self.agent = Self::agent(self.dir.path(), &self.server, |packages| packages);
        (self.peer, self.first) = welcome(&self.server).await;
        self
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.downloads.url())
    }

    pub(super) fn first_statuses(&self) -> v1::PackageStatuses {
        self.first.package_statuses.clone().expect("in the first report")
    }

    /// Offers these packages as a new set.
    pub(super) async fn offer(&mut self, packages: &[(&str, &v1::PackageAvailable)]) {
        self.offers += 1;
        let packages = packages.iter().map(|(name, p)| ((*name).to_owned(), (*p).clone()));
        let offer = v1::PackagesAvailable {
            packages: packages.collect(),
            all_packages_hash: format!("set {}", self.offers).into(),
        };
        let message = v1::ServerToAgent { packages_available: Some(offer), ..reply() };
        self.peer.send(&message).await;
    }

    /// Offers one package.
    pub(super) async fn offer_one(&mut self, package: &v1::PackageAvailable) {
        self.offer(&[("plugin", package)]).await;
    }

    /// The next package that the agent is handed.
    pub(super) async fn handed(&mut self) -> PackageOffer {
        self.agent
            .until(|event| match event {
                Event::Package(offer) => Some(offer),
                _ => None,
            })
            .await
    }

    pub(super) async fn removal(&mut self) -> PackageRemoval {
        self.agent
            .until(|event| match event {
                Event::PackageRemoval(removal) => Some(removal),
                _ => None,
            })
            .await
    }

    /// Why the next package that fails does.
    pub(super) async fn failed(&mut self) -> String {
        self.agent
            .until(|event| match event {
                Event::PackageFailed { why, .. } => Some(why),
                Event::Package(offer) => panic!("it is handed over: {offer:?}"),
                _ => None,
            })
            .await
    }

    /// The next statuses that `wanted` accepts; every report is answered.
    pub(super) async fn statuses(
        &mut self,
        mut wanted: impl FnMut(&v1::PackageStatuses) -> bool,
    ) -> v1::PackageStatuses {
        loop {
            let report = self.peer.report().await;
            self.peer.send(&reply()).await;
            if let Some(statuses) = report.package_statuses.filter(&mut wanted) {
                return statuses;
            }
        }
    }

    /// The status of the package when it is this.
    pub(super) async fn status(&mut self, state: State) -> v1::PackageStatus {
        let is = |status: &v1::PackageStatus| status.status == state as i32;
        let mut all = self.statuses(|all| all.packages.get("plugin").is_some_and(is)).await;
        all.packages.remove("plugin").unwrap()
    }

    /// The agent is handed exactly this content, and installs it.
    pub(super) async fn install(&mut self, content: &[u8]) {
        let offer = self.handed().await;
        assert!(std::fs::read(offer.location()).unwrap() == content, "the bytes are the same");
        assert_eq!(offer.len(), content.len() as u64);
        self.agent.client.resolve_package(offer.installed());
        let status = self.status(State::Installed).await;
        assert_eq!(status.agent_has_version, status.server_offered_version);
    }
}

async fn welcome(server: &websocket::Server) -> (websocket::Peer, AgentToServer) {
    let mut peer = server.accept().await;
    let report = peer.report().await;
    peer.send(&reply()).await;
    (peer, report)
}

/// An acknowledgement by a server that can do everything.
fn reply() -> v1::ServerToAgent {
    v1::ServerToAgent { capabilities: ServerCapabilities::all().to_wire(), ..Default::default() }
}
