//! What a client reports when a package cannot be had or is not what it should be.

use bytes::Bytes;
use opamp_proto::v1::{DownloadableFile, PackageAvailable, PackageStatus, PackageStatusEnum};

use crate::case::{Case, Script};
use crate::client::ClientStage;
use crate::client::depot::{Depot, is, is_over, random, told};
use crate::client::download_server::Manner;
use crate::judge::Stop;
use crate::mask::agent::REPORTS_PACKAGE_STATUSES;
use crate::report::Transport;
use crate::wire::hex;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/package-failures/first-install",
        judges: &["PKG-26", "PKG-46", "PKG-48", "PKG-59", "PKG-60", "PKG-67"],
        transports: Transport::BOTH,
        does: "offers a new package whose file is answered with 404, and then the same version again \
               under a new all_packages_hash",
        expects: "InstallFailed with what was offered, and without what the client does not have",
        alone: false,
        broken_by: &[
            "server-mask-of-zero-counts",
            "packages-are-ignored",
            "package-is-not-downloaded",
            "failed-install-is-not-reported",
            "failed-install-tells-a-version",
            "failed-install-tells-a-hash",
            "failed-install-lacks-the-offered-hash",
        ],
        script: Script::Client(|stage| Box::pin(first_install(stage))),
    },
    Case {
        name: "client/package-failures/upgrade",
        judges: &["PKG-51", "PKG-54"],
        transports: Transport::BOTH,
        does: "offers a version of an installed package whose file is answered with 500",
        expects: "the versions and hashes of what the client has and of what was offered differ",
        alone: false,
        broken_by: &["failed-install-tells-a-version", "failed-install-tells-a-hash"],
        script: Script::Client(|stage| Box::pin(upgrade(stage))),
    },
    Case {
        name: "client/package-failures/unusable",
        judges: &["PKG-26", "PKG-27"],
        transports: Transport::BOTH,
        does: "offers packages without a file, without a URL, with something that is no URL, at an \
               address where nobody listens and in an endless redirect, and a good one",
        expects: "one report with the outcome of all of them",
        alone: false,
        broken_by: &[
            "server-mask-of-zero-counts",
            "packages-are-ignored",
            "install-is-never-finished",
            "failed-install-is-not-reported",
            "failed-package-ends-the-work",
            "statuses-list-failed-packages-only",
            "package-without-file-ends-the-client",
            "redirects-are-followed-for-ever",
        ],
        script: Script::Client(|stage| Box::pin(unusable(stage))),
    },
    Case {
        name: "client/package-failures/wrong-content",
        judges: &["PKG-71"],
        transports: Transport::BOTH,
        does: "hands out a file that does not match its content_hash",
        expects: "the package does not get installed",
        alone: false,
        broken_by: &["content-is-not-verified", "package-is-not-downloaded"],
        script: Script::Client(|stage| Box::pin(wrong_content(stage))),
    },
    Case {
        name: "client/package-failures/cut-download",
        judges: &["PKG-26", "PKG-71"],
        transports: Transport::BOTH,
        does: "cuts the connection in the middle of the file, once",
        expects: "the package fails, or gets installed after the rest of the file was fetched",
        alone: false,
        broken_by: &[
            "server-mask-of-zero-counts",
            "packages-are-ignored",
            "cut-download-is-taken-as-whole",
            "failed-install-is-not-reported",
        ],
        script: Script::Client(|stage| Box::pin(cut_download(stage))),
    },
    Case {
        name: "client/package-failures/bad-signature",
        judges: &["PKG-72", "SEC-13"],
        transports: Transport::BOTH,
        does: "offers a package with a signature that is random bytes",
        expects: "the package does not get installed by a client that verifies signatures",
        alone: false,
        broken_by: &["signature-is-not-verified", "package-is-not-downloaded"],
        script: Script::Client(|stage| Box::pin(bad_signature(stage))),
    },
];

const ADDON: &str = "conformance-addon";

/// Offers this one package and gives the status it comes to.
async fn outcome(
    depot: &mut Depot,
    stage: &mut ClientStage,
    package: &PackageAvailable,
) -> Result<Option<PackageStatus>, Stop> {
    depot.offer(stage, &[(ADDON, package)]).await?;
    let last = depot.settle().await;
    Ok(last.and_then(|mut statuses| statuses.packages.remove(ADDON)))
}

async fn first_install(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut depot = Depot::open(stage, REPORTS_PACKAGE_STATUSES).await?;
    let package = depot.package(stage, ADDON, "1.0.0", Manner::Refused(404));
    let status = outcome(&mut depot, stage, &package).await?;
    let actual = told(status.as_ref());
    let failed = status.as_ref().is_some_and(|status| is(status, PackageStatusEnum::InstallFailed));
    stage.judge.expect("PKG-26", failed, "InstallFailed when the work is done", &actual);
    let Some(status) = status.filter(|_| failed) else {
        return Err(Stop::Unreached("the client does not report that it failed".to_owned()));
    };
    let has = (&status.agent_has_version, &status.agent_has_hash);
    stage.judge.expect("PKG-46", has.0.is_empty(), "no version of what it does not have", &actual);
    stage.judge.expect("PKG-48", has.1.is_empty(), "no hash of what it does not have", hex(has.1));
    stage.judge.expect(
        "PKG-59",
        status.server_offered_hash == package.hash,
        "server_offered_hash as offered",
        hex(&status.server_offered_hash),
    );
    stage.judge.note("PKG-60", format!("error_message {:?}", status.error_message));
    let before = depot.count(ADDON, "1.0.0");
    outcome(&mut depot, stage, &package).await?;
    let again = depot.count(ADDON, "1.0.0") - before;
    let seen = format!("{before} requests for the file, and {again} after the second offer");
    stage.judge.note("PKG-67", seen);
    Ok(())
}

async fn upgrade(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut depot = Depot::open(stage, REPORTS_PACKAGE_STATUSES).await?;
    let package = depot.package(stage, ADDON, "1.0.0", Manner::Well);
    depot.install(stage, &[(ADDON, &package)]).await?;
    let newer = depot.package(stage, ADDON, "2.0.0", Manner::Refused(500));
    let status = outcome(&mut depot, stage, &newer).await?;
    let actual = told(status.as_ref());
    let Some(status) = status.filter(|status| is(status, PackageStatusEnum::InstallFailed)) else {
        return Err(Stop::Unreached(format!("the upgrade does not fail: {actual}")));
    };
    // A client that lost the old version on the way has nothing to tell of it.
    let versions = status.agent_has_version != status.server_offered_version;
    stage.judge.expect("PKG-51", versions, "the version of what the client has", &actual);
    let hashes = status.agent_has_hash != status.server_offered_hash;
    stage.judge.expect("PKG-54", hashes, "the hash of what the client has", &actual);
    Ok(())
}

async fn unusable(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut depot = Depot::open(stage, REPORTS_PACKAGE_STATUSES).await?;
    let file = |stage: &mut ClientStage, url: &str| {
        let download_url = url.to_owned();
        let content_hash = random(stage, 32);
        Some(DownloadableFile { download_url, content_hash, ..Default::default() })
    };
    let mut nowhere = stage.host().await?.endpoint;
    nowhere.refuse().await;
    let url_of_nobody = format!("http://{}/package", nowhere.url().authority());
    let redirect = depot.package(stage, "conformance-b-redirect", "1.0.0", Manner::Well);
    let url = redirect.file.as_ref().map(|file| file.download_url.clone()).unwrap_or_default();
    depot.downloads.put("/conformance-b-redirect/1.0.0", Bytes::new(), Manner::Elsewhere(url));
    let mut broken = vec![("conformance-b-redirect", redirect)];
    for (name, url) in [
        ("conformance-a-no-file", None),
        ("conformance-b-no-url", Some("")),
        ("conformance-b-no-such-url", Some("this is no URL")),
        ("conformance-b-nobody", Some(url_of_nobody.as_str())),
    ] {
        let mut package = depot.package(stage, name, "1.0.0", Manner::Well);
        package.file = match url {
            Some(url) => file(stage, url),
            None => None,
        };
        broken.push((name, package));
    }
    let good = depot.package(stage, "conformance-good", "1.0.0", Manner::Well);
    let mut offer: Vec<_> = broken.iter().map(|(name, package)| (*name, package)).collect();
    offer.push(("conformance-good", &good));
    depot.offer(stage, &offer).await?;
    let Some(last) = depot.settle().await else {
        let actual = "no package_statuses after the offer";
        stage.judge.expect("PKG-26", false, "a report of the outcome of all", actual);
        return Ok(());
    };
    let of = |name: &str| format!("{name}: {}", told(last.packages.get(name)));
    let all: Vec<_> = offer.iter().map(|(name, _)| of(name)).collect();
    let over = offer.iter().all(|(name, _)| last.packages.get(*name).is_some_and(is_over));
    stage.judge.expect("PKG-26", over, "the outcome of all in one report", all.join("; "));
    let missing: Vec<_> = offer.iter().map(|(name, _)| *name).collect();
    let missing: Vec<_> =
        missing.into_iter().filter(|name| !last.packages.contains_key(*name)).collect();
    let actual = format!("not listed: {missing:?}");
    stage.judge.expect("PKG-27", missing.is_empty(), "every package of the offer", actual);
    Ok(())
}

async fn wrong_content(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut depot = Depot::open(stage, REPORTS_PACKAGE_STATUSES).await?;
    let mut package = depot.package(stage, ADDON, "1.0.0", Manner::Well);
    if let Some(file) = &mut package.file {
        file.content_hash = random(stage, 32);
    }
    let status = outcome(&mut depot, stage, &package).await?;
    let actual = told(status.as_ref());
    let status = status.filter(is_over).ok_or_else(|| Stop::Unreached(actual.clone()))?;
    let installed = is(&status, PackageStatusEnum::Installed);
    stage.judge.expect("PKG-71", !installed, "InstallFailed", actual);
    Ok(())
}

async fn cut_download(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut depot = Depot::open(stage, REPORTS_PACKAGE_STATUSES).await?;
    let package = depot.package(stage, ADDON, "1.0.0", Manner::CutOnce);
    let status = outcome(&mut depot, stage, &package).await?;
    let over = status.as_ref().is_some_and(is_over);
    let requests = depot.count(ADDON, "1.0.0");
    let actual = format!("{} after {requests} requests", told(status.as_ref()));
    stage.judge.expect("PKG-26", over, "Installed or InstallFailed in the end", &actual);
    let installed = status.as_ref().is_some_and(|status| is(status, PackageStatusEnum::Installed));
    if requests == 0 || !over {
        return Err(Stop::Unreached(format!("no outcome of a download: {actual}")));
    }
    let expected = "InstallFailed, or Installed after another request";
    stage.judge.expect("PKG-71", !installed || requests > 1, expected, actual);
    Ok(())
}

async fn bad_signature(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut depot = Depot::open(stage, REPORTS_PACKAGE_STATUSES).await?;
    let mut package = depot.package(stage, ADDON, "1.0.0", Manner::Well);
    if let Some(file) = &mut package.file {
        file.signature = random(stage, 64);
    }
    let status = outcome(&mut depot, stage, &package).await?;
    let actual = told(status.as_ref());
    let status = status.filter(is_over).ok_or_else(|| Stop::Unreached(actual.clone()))?;
    let failed = is(&status, PackageStatusEnum::InstallFailed);
    // Whether and how an agent verifies is its own affair, so a client that does not only gets
    // told.
    stage.judge.note("PKG-72", &actual);
    stage.judge.expect("SEC-13", failed, "InstallFailed", actual);
    Ok(())
}
