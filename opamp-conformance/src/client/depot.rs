//! What the cases about packages have in common: a client that accepts packages, the server it
//! talks to, and the server it downloads from.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use opamp_proto::v1::{
    AgentToServer, DownloadableFile, PackageAvailable, PackageStatus, PackageStatusEnum,
    PackageStatuses, PackageType, PackagesAvailable, ServerToAgent,
};
use rand::RngExt as _;

use crate::client::download_server::{DownloadServer, Manner};
use crate::client::{ClientStage, Host, Running};
use crate::judge::Stop;
use crate::mask::agent as mask;
use crate::pace::Pace;
use crate::wire::body::sha256;

/// What the names of the packages begin with, so that they can be told from a client's own.
pub const PREFIX: &str = "conformance-";
/// How large the package files are.
const SIZE: usize = 8 << 10;

/// A client, its server and its download server.
pub struct Depot {
    /// The server.
    pub host: Host,
    /// Where packages are downloaded from.
    pub downloads: DownloadServer,
    /// The client's first message.
    pub first: AgentToServer,
    /// What was offered last.
    pub offered: PackagesAvailable,
    /// Every report of package statuses since that offer.
    pub reports: Vec<PackageStatuses>,
    /// The client; it runs for as long as this is there.
    pub client: Box<dyn Running>,
    heartbeat: Duration,
    pace: Pace,
}

impl Depot {
    /// Starts a client, which has to have AcceptsPackages and `capabilities`.
    ///
    /// # Errors
    ///
    /// When the client does not come or lacks a capability.
    pub async fn open(stage: &mut ClientStage, capabilities: u64) -> Result<Self, Stop> {
        let (host, client, first) = stage.meet().await?;
        stage.requires(&first, mask::ACCEPTS_PACKAGES | capabilities)?;
        let downloads = DownloadServer::open(&stage.subject.network(), &stage.log).await?;
        Ok(Self {
            host,
            downloads,
            first,
            offered: PackagesAvailable::default(),
            reports: Vec::new(),
            client,
            heartbeat: stage.heartbeat(),
            pace: stage.pace,
        })
    }

    /// A new addon package whose file is handed out in this manner at `/NAME/VERSION`. Its hash is
    /// made up, as hashes of packages are opaque (A22); content_hash is the SHA-256 of the file.
    pub fn package(
        &self,
        stage: &mut ClientStage,
        name: &str,
        version: &str,
        manner: Manner,
    ) -> PackageAvailable {
        let mut content = format!("{name} {version}\n").into_bytes();
        content.extend((content.len()..SIZE).map(|_| stage.rng.random_range(b' '..=b'~')));
        let content = Bytes::from(content);
        let content_hash = sha256(&content);
        let download_url = self.downloads.put(&path(name, version), content, manner);
        PackageAvailable {
            r#type: PackageType::Addon as i32,
            version: version.to_owned(),
            file: Some(DownloadableFile { download_url, content_hash, ..Default::default() }),
            hash: random(stage, 21),
        }
    }

    /// Offers these packages as a new set.
    ///
    /// # Errors
    ///
    /// When the client is gone.
    pub async fn offer(
        &mut self,
        stage: &mut ClientStage,
        packages: &[(&str, &PackageAvailable)],
    ) -> Result<(), Stop> {
        let all_packages_hash = random(stage, 23);
        self.offer_as(packages, all_packages_hash).await
    }

    /// Offers these packages as the set with this hash.
    ///
    /// # Errors
    ///
    /// When the client is gone.
    pub async fn offer_as(
        &mut self,
        packages: &[(&str, &PackageAvailable)],
        all_packages_hash: Bytes,
    ) -> Result<(), Stop> {
        let of =
            |(name, package): &(&str, &PackageAvailable)| (name.to_string(), (*package).clone());
        let packages: BTreeMap<_, _> = packages.iter().map(of).collect();
        let offer = PackagesAvailable { packages, all_packages_hash };
        // Over HTTP the offer then goes out at once and not with a later request.
        if !self.host.is_connected() {
            self.host.first(self.heartbeat + self.pace.comeback()).await?;
        }
        self.offered = offer.clone();
        self.reports.clear();
        let message = self.host.message();
        self.host.send(ServerToAgent { packages_available: Some(offer), ..message }).await
    }

    /// Waits until the client has told what became of every package offered, for as long as work
    /// may take, and gives its last report since the offer.
    pub async fn settle(&mut self) -> Option<PackageStatuses> {
        self.settle_within(self.pace.work() + self.heartbeat).await
    }

    /// As [`settle`](Self::settle), but waits for this long.
    pub async fn settle_within(&mut self, within: Duration) -> Option<PackageStatuses> {
        let (offered, reports) = (&self.offered, &mut self.reports);
        if reports.last().is_some_and(|last| is_settled(offered, last)) {
            return reports.last().cloned();
        }
        self.host
            .hear(within, |message| {
                let Some(statuses) = &message.package_statuses else { return false };
                reports.push(statuses.clone());
                is_settled(offered, statuses)
            })
            .await;
        self.reports.last().cloned()
    }

    /// Offers these packages, has the client install them all, and gives its last report.
    ///
    /// # Errors
    ///
    /// [`Stop::Unreached`] when they do not get installed.
    pub async fn install(
        &mut self,
        stage: &mut ClientStage,
        packages: &[(&str, &PackageAvailable)],
    ) -> Result<PackageStatuses, Stop> {
        self.offer(stage, packages).await?;
        let statuses = self.settle().await;
        let none = || Stop::Unreached("the client reports no package_statuses".to_owned());
        let statuses = statuses.ok_or_else(none)?;
        for (name, _) in packages {
            let status = statuses.packages.get(*name);
            if !status.is_some_and(|status| is(status, PackageStatusEnum::Installed)) {
                let told = told(status);
                return Err(Stop::Unreached(format!("{name:?} does not get installed: {told}")));
            }
        }
        Ok(statuses)
    }

    /// Lets the client do what it wants until there is a request for this file, for as long as that
    /// may take; whether there is one.
    pub async fn fetched(&mut self, name: &str, version: &str) -> bool {
        let path = path(name, version);
        let slices = self.pace.work().div_duration_f64(self.pace.poll()).ceil();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "80")]
        for _ in 0..slices as u32 {
            if !self.downloads.requests(&path).is_empty() {
                return true;
            }
            self.watch(self.pace.poll()).await;
        }
        false
    }

    /// Lets the client do what it wants for this long.
    pub async fn watch(&mut self, within: Duration) {
        let seen = self.host.collect(within).await;
        self.reports.extend(seen.into_iter().filter_map(|message| message.package_statuses));
    }

    /// Lets the client do what it wants for as long as something unwanted would take to come.
    pub async fn idle(&mut self) {
        self.watch(self.pace.quiet()).await;
    }

    /// How many requests there were for this file.
    #[must_use]
    pub fn count(&self, name: &str, version: &str) -> usize {
        self.downloads.requests(&path(name, version)).len()
    }
}

/// Where the file of a package is on the download server.
#[must_use]
pub fn path(name: &str, version: &str) -> String {
    format!("/{}/{version}", if name.is_empty() { "agent" } else { name })
}

/// Random bytes.
pub fn random(stage: &mut ClientStage, size: usize) -> Bytes {
    (0..size).map(|_| stage.rng.random::<u8>()).collect()
}

/// Whether the package is in this state.
#[must_use]
pub fn is(status: &PackageStatus, state: PackageStatusEnum) -> bool {
    status.status == state as i32
}

/// Whether the work on the package is over, for good or ill.
#[must_use]
pub fn is_over(status: &PackageStatus) -> bool {
    is(status, PackageStatusEnum::Installed) || is(status, PackageStatusEnum::InstallFailed)
}

/// Whether the report tells the outcome of this offer for every package in it.
#[must_use]
pub fn is_settled(offered: &PackagesAvailable, statuses: &PackageStatuses) -> bool {
    offered.packages.iter().all(|(name, package)| {
        let status = statuses.packages.get(name);
        status.is_some_and(|status| is_over(status) && status.server_offered_hash == package.hash)
    })
}

/// A status in words.
#[must_use]
pub fn told(status: Option<&PackageStatus>) -> String {
    let Some(status) = status else { return "it is not listed".to_owned() };
    let state = PackageStatusEnum::try_from(status.status)
        .map_or_else(|_| format!("status {}", status.status), |state| format!("{state:?}"));
    format!(
        "{state}, has version {:?}, offered version {:?}, error {:?}",
        status.agent_has_version, status.server_offered_version, status.error_message
    )
}
