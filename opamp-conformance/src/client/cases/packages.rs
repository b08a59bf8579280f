//! What a client makes of an offer of packages: which it downloads, installs, leaves alone and
//! deletes.

use http::Method;
use opamp_proto::v1::{PackageStatusEnum, PackageStatuses, PackageType, ServerToAgent};

use crate::case::{Case, Script};
use crate::client::ClientStage;
use crate::client::depot::{Depot, is, is_settled, path, random, told};
use crate::client::download_server::Manner;
use crate::judge::Stop;
use crate::mask::agent::REPORTS_PACKAGE_STATUSES;
use crate::mask::flag::REPORT_FULL_STATE;
use crate::report::Transport;
use crate::wire::hex;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/packages/download",
        judges: &["PKG-06", "PKG-08", "PKG-11", "PKG-18", "PKG-20", "PKG-21"],
        transports: Transport::BOTH,
        does: "offers a new package whose file is on another server",
        expects: "the client gets the file from there with GET",
        alone: false,
        broken_by: &[
            "packages-are-ignored",
            "package-is-not-downloaded",
            "package-is-fetched-with-post",
        ],
        script: Script::Client(|stage| Box::pin(download(stage))),
    },
    Case {
        name: "client/packages/install",
        judges: &[
            "PKG-16", "PKG-26", "PKG-31", "PKG-36", "PKG-42", "PKG-45", "PKG-47", "PKG-49",
            "PKG-52", "PKG-73",
        ],
        transports: Transport::BOTH,
        does: "offers a new package under hashes that are random bytes, and asks for the full state",
        expects: "the package is reported as installed, with the versions and hashes as offered",
        alone: false,
        broken_by: &[
            "server-mask-of-zero-counts",
            "packages-are-ignored",
            "package-is-fetched-with-post",
            "install-is-never-finished",
            "package-hash-is-recomputed",
            "all-packages-hash-is-not-echoed",
            "good-offer-has-an-error",
            "installed-version-is-not-told",
            "installed-hash-is-not-told",
            "offered-version-is-not-told",
            "offered-hash-is-not-told",
            "full-report-lacks-package-statuses",
        ],
        script: Script::Client(|stage| Box::pin(install(stage))),
    },
    Case {
        name: "client/packages/same-set",
        judges: &["PKG-09", "PKG-34"],
        transports: Transport::BOTH,
        does: "offers an installed set again, the second time with the same all_packages_hash and a \
               new hash, content and version for its package",
        expects: "nothing is downloaded",
        alone: false,
        broken_by: &["all-packages-hash-is-ignored"],
        script: Script::Client(|stage| Box::pin(same_set(stage))),
    },
    Case {
        name: "client/packages/same-package",
        judges: &["PKG-10", "PKG-12", "PKG-13", "PKG-33"],
        transports: Transport::BOTH,
        does: "offers a new set: a new package, and an installed one with the same hash, but with \
               another version, file and content_hash",
        expects: "only the file of the new package is downloaded",
        alone: false,
        broken_by: &[
            "package-is-not-downloaded",
            "package-hash-is-ignored",
            "installed-package-ends-the-offer",
        ],
        script: Script::Client(|stage| Box::pin(same_package(stage))),
    },
    Case {
        name: "client/packages/same-file",
        judges: &["PKG-17", "PKG-19", "PKG-32"],
        transports: Transport::BOTH,
        does: "offers an installed package with a new hash and version and another URL, but with the \
               content_hash of the file the client has",
        expects: "the client takes the new version over without a download",
        alone: false,
        broken_by: &["content-hash-is-ignored"],
        script: Script::Client(|stage| Box::pin(same_file(stage))),
    },
    Case {
        name: "client/packages/upgrade",
        judges: &["PKG-03", "PKG-12", "PKG-15", "PKG-20"],
        transports: Transport::BOTH,
        does: "offers a new version of an installed package, at another URL",
        expects: "the file is downloaded from there, and the one entry of the package shows the new \
                  version",
        alone: false,
        broken_by: &[
            "package-is-not-downloaded",
            "installed-package-is-never-replaced",
            "old-version-stays-listed",
        ],
        script: Script::Client(|stage| Box::pin(upgrade(stage))),
    },
    Case {
        name: "client/packages/removal",
        judges: &["PKG-14"],
        transports: Transport::BOTH,
        does: "offers two packages and then one of them alone",
        expects: "the other disappears from package_statuses",
        alone: false,
        broken_by: &["unoffered-package-is-kept"],
        script: Script::Client(|stage| Box::pin(removal(stage))),
    },
    Case {
        name: "client/packages/newer-offer",
        judges: &["PKG-15", "PKG-36"],
        transports: Transport::BOTH,
        does: "offers a new version of a package while the client still downloads the last",
        expects: "the newer version is installed in the end, and the newer all_packages_hash echoed",
        alone: false,
        broken_by: &[
            "offer-during-work-is-dropped",
            "all-packages-hash-is-not-echoed",
            "offered-hash-is-not-told",
        ],
        script: Script::Client(|stage| Box::pin(newer_offer(stage))),
    },
    Case {
        name: "client/packages/empty-name",
        judges: &["PKG-04"],
        transports: Transport::BOTH,
        does: "offers a package with a name, and then in its place a top-level package whose name is \
               empty",
        expects: "the second is installed like the first, and listed under the empty name",
        alone: false,
        broken_by: &["empty-package-name-is-refused"],
        script: Script::Client(|stage| Box::pin(empty_name(stage))),
    },
];

const ADDON: &str = "conformance-addon";
const OTHER: &str = "conformance-other";

async fn download(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut depot = Depot::open(stage, 0).await?;
    let package = depot.package(stage, ADDON, "1.0.0", Manner::Well);
    depot.offer(stage, &[(ADDON, &package)]).await?;
    let fetched = depot.fetched(ADDON, "1.0.0").await;
    let requests = depot.downloads.requests(&path(ADDON, "1.0.0"));
    let methods: Vec<_> = requests.iter().map(|request| request.method.as_str()).collect();
    let actual = format!("requests for the file: {methods:?}");
    for row in ["PKG-08", "PKG-11", "PKG-18", "PKG-20"] {
        stage.judge.expect(row, fetched, "a request for the file of the new package", &actual);
    }
    if !fetched {
        return Err(Stop::Unreached("the client does not fetch the package".to_owned()));
    }
    // A client may look with HEAD first; give it the time to get the file then.
    if methods == ["HEAD"] {
        depot.settle().await;
    }
    let requests = depot.downloads.requests(&path(ADDON, "1.0.0"));
    let with_get = requests.iter().any(|request| request.method == Method::GET);
    for row in ["PKG-06", "PKG-21"] {
        stage.judge.expect(row, with_get, "a GET request for the file", &actual);
    }
    Ok(())
}

async fn install(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut depot = Depot::open(stage, REPORTS_PACKAGE_STATUSES).await?;
    let package = depot.package(stage, ADDON, "1.0.0", Manner::Well);
    depot.offer(stage, &[(ADDON, &package)]).await?;
    let last = depot.settle().await;
    let status = last.as_ref().and_then(|statuses| statuses.packages.get(ADDON));
    let over = |state| status.is_some_and(|status| is(status, state));
    let installed = over(PackageStatusEnum::Installed);
    let done = installed || over(PackageStatusEnum::InstallFailed);
    let actual = told(status);
    stage.judge.expect("PKG-26", done, "a last report when the work is done", &actual);
    stage.judge.expect("PKG-16", installed, "the package gets installed", &actual);
    let (Some(last), Some(status)) = (&last, status) else {
        return Err(Stop::Unreached("the client reports no status of the package".to_owned()));
    };
    let hash = &depot.offered.all_packages_hash;
    stage.judge.expect(
        "PKG-36",
        last.server_provided_all_packages_hash == hash,
        format!("server_provided_all_packages_hash {}", hex(hash)),
        hex(&last.server_provided_all_packages_hash),
    );
    stage.judge.expect(
        "PKG-49",
        status.server_offered_version == package.version,
        "server_offered_version as offered",
        &actual,
    );
    stage.judge.expect(
        "PKG-52",
        status.server_offered_hash == package.hash,
        "server_offered_hash as offered",
        hex(&status.server_offered_hash),
    );
    if !installed {
        return Err(Stop::Unreached(format!("the package does not get installed: {actual}")));
    }
    let has = &status.agent_has_hash;
    stage.judge.expect("PKG-45", !status.agent_has_version.is_empty(), "a version", &actual);
    if stage.judge.expect("PKG-47", !has.is_empty(), "agent_has_hash is set", "it is empty") {
        stage.judge.expect(
            "PKG-31",
            *has == package.hash,
            format!("agent_has_hash {}, as offered", hex(&package.hash)),
            hex(has),
        );
    }
    let error = &last.error_message;
    let actual = format!("error_message {error:?} of the set");
    stage.judge.expect("PKG-42", error.is_empty(), "no error of the set as a whole", actual);
    let message = ServerToAgent { flags: REPORT_FULL_STATE, ..depot.host.message() };
    depot.host.send(message).await?;
    let within = stage.pace.reply() + stage.heartbeat();
    let full = depot.host.hear(within, |message| message.agent_description.is_some()).await;
    let full = full.ok_or_else(|| Stop::Unreached("no full report when asked".to_owned()))?;
    let listed = full.package_statuses.is_some_and(|all| all.packages.contains_key(ADDON));
    let actual = if listed { "it lists the package" } else { "it does not list the package" };
    stage.judge.expect("PKG-73", listed, "package_statuses in a full report", actual);
    Ok(())
}

async fn same_set(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut depot = Depot::open(stage, REPORTS_PACKAGE_STATUSES).await?;
    let package = depot.package(stage, ADDON, "1.0.0", Manner::Well);
    depot.install(stage, &[(ADDON, &package)]).await?;
    let hash = depot.offered.all_packages_hash.clone();
    let before = depot.downloads.count();
    depot.offer_as(&[(ADDON, &package)], hash.clone()).await?;
    depot.idle().await;
    let again = depot.downloads.count() - before;
    let actual = format!("{again} requests for files");
    stage.judge.expect("PKG-09", again == 0, "no download for the same offer", actual);
    let other = depot.package(stage, ADDON, "2.0.0", Manner::Well);
    depot.offer_as(&[(ADDON, &other)], hash).await?;
    depot.idle().await;
    let again = depot.downloads.count() - before;
    let actual = format!("{again} requests for files");
    for row in ["PKG-09", "PKG-34"] {
        stage.judge.expect(row, again == 0, "no download for the same all_packages_hash", &actual);
    }
    Ok(())
}

async fn same_package(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut depot = Depot::open(stage, REPORTS_PACKAGE_STATUSES).await?;
    let package = depot.package(stage, ADDON, "1.0.0", Manner::Well);
    depot.install(stage, &[(ADDON, &package)]).await?;
    let mut same = depot.package(stage, ADDON, "1.0.0-again", Manner::Well);
    same.hash = package.hash;
    let new = depot.package(stage, OTHER, "1.0.0", Manner::Well);
    depot.offer(stage, &[(ADDON, &same), (OTHER, &new)]).await?;
    let fetched = depot.fetched(OTHER, "1.0.0").await;
    depot.settle().await;
    let of_same = depot.count(ADDON, "1.0.0-again");
    let expected = "a request for the file of the new package only";
    let actual = format!(
        "{} requests for the new package, {of_same} for the one with the same hash",
        depot.count(OTHER, "1.0.0")
    );
    stage.judge.expect("PKG-10", fetched && of_same == 0, expected, &actual);
    for row in ["PKG-12", "PKG-13", "PKG-33"] {
        stage.judge.expect(row, of_same == 0, "none for the package with the same hash", &actual);
    }
    Ok(())
}

async fn same_file(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut depot = Depot::open(stage, REPORTS_PACKAGE_STATUSES).await?;
    let package = depot.package(stage, ADDON, "1.0.0", Manner::Well);
    depot.install(stage, &[(ADDON, &package)]).await?;
    let mut same = depot.package(stage, ADDON, "1.0.1", Manner::Well);
    if let (Some(same), Some(file)) = (&mut same.file, &package.file) {
        same.content_hash = file.content_hash.clone();
    }
    depot.offer(stage, &[(ADDON, &same)]).await?;
    let last = depot.settle().await;
    if !last.as_ref().is_some_and(|statuses| is_settled(&depot.offered, statuses)) {
        return Err(Stop::Unreached("the client does not take the offer up".to_owned()));
    }
    let requests = depot.count(ADDON, "1.0.1");
    let actual = format!("{requests} requests for the file");
    for row in ["PKG-17", "PKG-19", "PKG-32"] {
        stage.judge.expect(row, requests == 0, "no request for a file the client has", &actual);
    }
    Ok(())
}

async fn upgrade(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut depot = Depot::open(stage, REPORTS_PACKAGE_STATUSES).await?;
    let package = depot.package(stage, ADDON, "1.0.0", Manner::Well);
    depot.install(stage, &[(ADDON, &package)]).await?;
    let newer = depot.package(stage, ADDON, "2.0.0", Manner::Well);
    depot.offer(stage, &[(ADDON, &newer)]).await?;
    let fetched = depot.fetched(ADDON, "2.0.0").await;
    let actual = format!("{} requests for the file", depot.count(ADDON, "2.0.0"));
    for row in ["PKG-12", "PKG-15", "PKG-20"] {
        stage.judge.expect(row, fetched, "the file is requested from the new URL", &actual);
    }
    let last = if fetched { depot.settle().await } else { None };
    let Some(last) = last.filter(|statuses| is_settled(&depot.offered, statuses)) else {
        return Err(Stop::Unreached("the newer version is not installed".to_owned()));
    };
    let status = last.packages.get(ADDON);
    let installed = status.is_some_and(|status| is(status, PackageStatusEnum::Installed));
    stage.judge.expect("PKG-15", installed, "Installed", told(status));
    // One that lists no entry of its own for each name has it under the key of another.
    let entries: Vec<_> = last.packages.keys().filter(|name| name.starts_with(ADDON)).collect();
    stage.judge.expect("PKG-03", entries.len() == 1, "one entry", format!("{entries:?}"));
    Ok(())
}

async fn removal(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut depot = Depot::open(stage, REPORTS_PACKAGE_STATUSES).await?;
    let stays = depot.package(stage, ADDON, "1.0.0", Manner::Well);
    let goes = depot.package(stage, OTHER, "1.0.0", Manner::Well);
    depot.install(stage, &[(ADDON, &stays), (OTHER, &goes)]).await?;
    depot.offer(stage, &[(ADDON, &stays)]).await?;
    let within = stage.pace.work() + stage.heartbeat();
    let gone = depot.host.hear(within, |message| {
        let statuses: Option<&PackageStatuses> = message.package_statuses.as_ref();
        statuses.is_some_and(|statuses| !statuses.packages.contains_key(OTHER))
    });
    let gone = gone.await.is_some();
    let actual = if gone { "it is gone" } else { "no report shows that it is gone" };
    stage.judge.expect("PKG-14", gone, "the package is no longer listed", actual);
    Ok(())
}

async fn newer_offer(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut depot = Depot::open(stage, REPORTS_PACKAGE_STATUSES).await?;
    let slowly = Manner::Slowly(8, stage.pace.of(0.5));
    let package = depot.package(stage, ADDON, "1.0.0", slowly);
    depot.offer(stage, &[(ADDON, &package)]).await?;
    if !depot.fetched(ADDON, "1.0.0").await {
        return Err(Stop::Unreached("the client does not fetch the package".to_owned()));
    }
    let newer = depot.package(stage, ADDON, "2.0.0", Manner::Well);
    let hash = random(stage, 23);
    depot.offer_as(&[(ADDON, &newer)], hash.clone()).await?;
    let last = depot.settle().await;
    let status = last.as_ref().and_then(|statuses| statuses.packages.get(ADDON));
    let installed = status.filter(|status| is(status, PackageStatusEnum::Installed));
    let (Some(last), Some(status)) = (&last, installed) else {
        return Err(Stop::Unreached(format!("neither gets installed: {}", told(status))));
    };
    let newest = status.server_offered_hash == newer.hash;
    stage.judge.expect("PKG-15", newest, "the newer version is installed", told(Some(status)));
    let echoed = &last.server_provided_all_packages_hash;
    let expected = format!("the newer hash {}", hex(&hash));
    stage.judge.expect("PKG-36", *echoed == hash, expected, hex(echoed));
    Ok(())
}

async fn empty_name(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut depot = Depot::open(stage, REPORTS_PACKAGE_STATUSES).await?;
    let named = depot.package(stage, ADDON, "1.0.0", Manner::Well);
    depot.install(stage, &[(ADDON, &named)]).await?;
    let mut package = depot.package(stage, "", "1.0.0", Manner::Well);
    package.r#type = PackageType::TopLevel as i32;
    depot.offer(stage, &[("", &package)]).await?;
    let last = depot.settle().await;
    let status = last.as_ref().and_then(|statuses| statuses.packages.get(""));
    let installed = status.is_some_and(|status| is(status, PackageStatusEnum::Installed));
    stage.judge.expect("PKG-04", installed, "Installed, under the empty name", told(status));
    Ok(())
}
