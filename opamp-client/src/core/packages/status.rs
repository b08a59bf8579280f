//! What the server is told: the statuses of all packages, made anew from what is true whenever
//! something changed.

use opamp_proto::v1::{self, PackageStatusEnum};

use super::work::{Stage, Told, Work};
use super::{InstalledPackage, Loading, PackageRecord, Packages, Token};
use crate::core::offer::cut;

impl Packages {
    /// The statuses, where they may have changed. None before the records are loaded: what an agent
    /// has is then not known, and a list without it would be wrong (PKG-27).
    pub(super) fn take_statuses(&mut self) -> Option<v1::PackageStatuses> {
        if !std::mem::take(&mut self.stale) {
            return None;
        }
        let mut packages: std::collections::BTreeMap<_, _> = self
            .config
            .local
            .iter()
            .map(|(name, package)| (name.clone(), named(name, Some(package), None)))
            .collect();
        match &self.loading {
            Loading::Done => {}
            Loading::Due | Loading::UnderWay => return None,
            Loading::Failed { why, .. } | Loading::Retrying { why, .. } => {
                return Some(v1::PackageStatuses {
                    packages,
                    error_message: cut(format!("the package store cannot be read: {why}")),
                    ..Default::default()
                });
            }
        }
        for (name, record) in &self.records.packages {
            packages.insert(name.clone(), self.status(name, record));
        }
        Some(v1::PackageStatuses {
            packages,
            server_provided_all_packages_hash: self.records.all_packages_hash.clone(),
            error_message: self.error_message(),
        })
    }

    /// What went wrong beyond the packages of the offer (PKG-41, PKG-42).
    fn error_message(&self) -> String {
        let mut message = self.records.error_message.clone();
        for (name, record) in self.records.packages.iter().filter(|(_, record)| !record.wanted) {
            if let Some(failure) = &record.failure {
                let separator = if message.is_empty() { "" } else { "; " };
                let why = &failure.why;
                message = format!("{message}{separator}{name:?} could not be removed: {why}");
            }
        }
        cut(message)
    }

    fn status(&self, name: &str, record: &PackageRecord) -> v1::PackageStatus {
        let handed = self.handed.get(name);
        let has = record.has.as_ref();
        if !record.wanted {
            return unwanted(name, record, handed.map(|handed| &handed.token));
        }
        let as_offered = record.as_offered();
        let mut status = named(name, has, as_offered.as_ref());
        let handed = match (handed, &record.offered) {
            (Some(handed), Some(offered)) if handed.installs(offered) => Some(handed),
            _ => None,
        };
        let state = if record.is_installed() {
            PackageStatusEnum::Installed
        } else if let Some(failure) = &record.failure {
            status.error_message.clone_from(&failure.why);
            PackageStatusEnum::InstallFailed
        } else if let Some(handed) = handed {
            match handed.pending {
                true => PackageStatusEnum::InstallPending,
                false => PackageStatusEnum::Installing,
            }
        } else if let Some(why) = self.work.get(name).and_then(Work::stuck) {
            why.clone_into(&mut status.error_message);
            PackageStatusEnum::InstallFailed
        } else if let Some(told) = self.work.get(name).and_then(Work::downloading) {
            status.download_details = Some(details(told));
            PackageStatusEnum::Downloading
        } else {
            PackageStatusEnum::InstallPending
        };
        status.status = state.into();
        status
    }
}

/// What is no longer offered, and is not gone yet.
fn unwanted(name: &str, record: &PackageRecord, handed: Option<&Token>) -> v1::PackageStatus {
    let has = record.has.as_ref();
    let status = |offered, state: PackageStatusEnum| v1::PackageStatus {
        status: state.into(),
        ..named(name, has, offered)
    };
    match (record.server_package(), handed) {
        (Some(offered), _) if has.is_some() => status(Some(offered), PackageStatusEnum::Installed),
        (_, Some(Token::Install(offer))) => {
            status(Some(&offer.package), PackageStatusEnum::Installing)
        }
        (Some(offered), _) => v1::PackageStatus {
            error_message: "it is not known whether it was installed; it is being removed"
                .to_owned(),
            ..status(Some(offered), PackageStatusEnum::InstallFailed)
        },
        (None, _) => status(None, PackageStatusEnum::Installed),
    }
}

impl Work {
    /// What is told of the download; once it has begun, it is under way until it succeeds or fails.
    fn downloading(&self) -> Option<Told> {
        match self.stage {
            Stage::Queued | Stage::Fetching { .. } | Stage::Waiting { .. } => self.told,
            Stage::Verified { .. } | Stage::Recording { .. } => None,
        }
    }
}

/// Name, and what the agent has and was offered (PKG-43 to PKG-54).
fn named(
    name: &str,
    has: Option<&InstalledPackage>,
    offered: Option<&InstalledPackage>,
) -> v1::PackageStatus {
    let version = |package: Option<&InstalledPackage>| {
        package.map(|package| package.version.clone()).unwrap_or_default()
    };
    let hash = |package: Option<&InstalledPackage>| {
        package.map(|package| package.hash.clone()).unwrap_or_default()
    };
    v1::PackageStatus {
        name: name.to_owned(),
        agent_has_version: version(has),
        agent_has_hash: hash(has),
        server_offered_version: version(offered),
        server_offered_hash: hash(offered),
        ..Default::default()
    }
}

fn details(told: Told) -> v1::PackageDownloadDetails {
    let total = told.progress.total.filter(|total| *total > 0);
    #[expect(clippy::cast_precision_loss, reason = "a percentage need not be exact")]
    let download_percent =
        total.map_or(0.0, |total| told.progress.received.min(total) as f64 * 100.0 / total as f64);
    v1::PackageDownloadDetails {
        download_percent,
        download_bytes_per_second: told.bytes_per_second,
    }
}
