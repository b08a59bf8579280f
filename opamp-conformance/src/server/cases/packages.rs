//! Packages: to whom they are offered, what is in an offer, its hashes, and the download.

use std::collections::BTreeMap;

use base64::Engine as _;
use bytes::Bytes;
use http::header::{CONTENT_RANGE, RANGE};
use opamp_proto::v1::{
    AgentToServer, DownloadableFile, PackageAvailable, PackageStatus, PackageStatusEnum,
    PackageStatuses, PackageType, PackagesAvailable, ServerToAgent,
};
use serde_json::{Value, json};

use crate::case::{Case, Observed, Script};
use crate::judge::{Judge, Stop};
use crate::mask::{agent as mask, server};
use crate::report::Transport;
use crate::server::provision;
use crate::server::{Agent, ServerStage};
use crate::wire::http_client::field;
use crate::wire::{body, hex};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/packages/download",
        judges: &["PKG-69", "PKG-70"],
        transports: Transport::BOTH,
        does: "downloads an offered file, whole and from the middle on",
        expects: "the file that content_hash is the SHA-256 of, and the rest of it with status 206",
        alone: false,
        broken_by: &[
            "content-hash-is-that-of-the-url",
            "range-is-of-something-else",
            "ranges-are-not-served",
        ],
        script: Script::Server(|stage| Box::pin(download(stage))),
    },
    Case {
        name: "server/packages/every-offer",
        judges: &["PKG-01", "PKG-05", "PKG-37"],
        transports: &[],
        does: "looks at every offer of packages of the run",
        expects: "offers only for agents with AcceptsPackages, with a hash, and with a file for \
                  each package",
        alone: false,
        broken_by: &[
            "package-has-no-file",
            "packages-are-offered-to-all",
            "packages-hash-is-empty",
        ],
        script: Script::Observer(every_offer),
    },
    Case {
        name: "server/packages/hash",
        judges: &["PKG-03", "PKG-68"],
        transports: Transport::BOTH,
        does: "has a package offered, then with another version, another type, another file",
        expects: "one package of the name each time, with another hash",
        alone: false,
        broken_by: &[
            "earlier-version-is-offered-too",
            "package-hash-leaves-out-the-file",
            "package-hash-leaves-out-the-type",
            "package-hash-leaves-out-the-version",
        ],
        script: Script::Server(|stage| Box::pin(hash(stage))),
    },
    Case {
        name: "server/packages/local-package",
        judges: &["PKG-35"],
        transports: Transport::BOTH,
        does: "reports a package of its own beside the offered one and is offered packages again",
        expects: "the same all_packages_hash as before",
        alone: false,
        broken_by: &["packages-hash-covers-local-packages"],
        script: Script::Server(|stage| Box::pin(local_package(stage))),
    },
    Case {
        name: "server/packages/offer",
        judges: &["PKG-02", "PKG-05", "PKG-37", "PKG-66"],
        transports: Transport::BOTH,
        does: "has a top-level package and an addon offered",
        expects: "an offer with a hash, and with type and file of each package",
        alone: false,
        broken_by: &[
            "package-has-no-file",
            "package-type-is-lost",
            "packages-are-kept-back",
            "packages-hash-is-empty",
        ],
        script: Script::Server(|stage| Box::pin(offer(stage))),
    },
    Case {
        name: "server/packages/reported-hash",
        judges: &["PKG-38", "PKG-39"],
        transports: Transport::BOTH,
        does: "reports the hash of the offer it got, then another one",
        expects: "no offer after the first, an offer after the second",
        alone: false,
        broken_by: &["known-packages-are-offered-again", "other-packages-hash-is-ignored"],
        script: Script::Server(|stage| Box::pin(reported_hash(stage))),
    },
    Case {
        name: "server/packages/unannounced",
        judges: &["PKG-01"],
        transports: Transport::BOTH,
        does: "has packages offered to an agent that does not accept any",
        expects: "no offer",
        alone: false,
        broken_by: &["packages-are-offered-to-all"],
        script: Script::Server(|stage| Box::pin(unannounced(stage))),
    },
    Case {
        name: "server/packages/unnamed",
        judges: &["PKG-04"],
        transports: Transport::BOTH,
        does: "has one top-level package without a name offered",
        expects: "an offer of one package without a name",
        alone: false,
        broken_by: &["unnamed-package-is-not-offered"],
        script: Script::Server(|stage| Box::pin(unnamed(stage))),
    },
];

const INSTALLING: u64 =
    mask::REPORTS_STATUS | mask::ACCEPTS_PACKAGES | mask::REPORTS_PACKAGE_STATUSES;

fn every_offer(observed: &Observed, judge: &mut Judge) {
    for offer in provision::all(observed) {
        let Some(packages) = &offer.message.packages_available else { continue };
        let is_accepted = offer.capabilities & mask::ACCEPTS_PACKAGES != 0;
        let is_whole = !packages.all_packages_hash.is_empty()
            && packages.packages.values().all(|package| file(package).is_some());
        judge.quote(offer.entry, !is_accepted || !is_whole);
        judge.expect(
            "PKG-01",
            is_accepted,
            "packages only for agents with AcceptsPackages",
            format!("packages for an agent with the mask {:#x}", offer.capabilities),
        );
        judge_offer(judge, packages);
    }
}

fn judge_offer(judge: &mut Judge, offer: &PackagesAvailable) {
    let hash = &offer.all_packages_hash;
    let actual = format!("all_packages_hash is {:?}", hex(hash));
    judge.expect("PKG-37", !hash.is_empty(), "all_packages_hash in every offer", actual);
    for (name, package) in &offer.packages {
        let actual = match file(package) {
            Some(file) => format!("{name:?} is at {}", file.download_url),
            None => format!("{name:?} has no file with a URL"),
        };
        judge.expect("PKG-05", file(package).is_some(), "one file for each package", actual);
    }
}

fn file(package: &PackageAvailable) -> Option<&DownloadableFile> {
    package.file.as_ref().filter(|file| !file.download_url.is_empty())
}

/// A package as the hook takes it.
fn package(kind: PackageType, version: &str, content: &str) -> Value {
    let kind = if kind == PackageType::Addon { "Addon" } else { "TopLevel" };
    let content = base64::engine::general_purpose::STANDARD.encode(content);
    json!({ "type": kind, "version": version, "content": content })
}

/// An agent that takes packages and has reported to a server that offers them, and the reply.
async fn installing(stage: &mut ServerStage) -> Result<(Agent, ServerToAgent), Stop> {
    let (agent, reply) = stage.reported(INSTALLING).await?;
    stage.requires(&reply, server::OFFERS_PACKAGES)?;
    Ok((agent, reply))
}

/// Has these packages offered and waits for the offer.
async fn offered<const N: usize>(
    stage: &mut ServerStage,
    agent: &mut Agent,
    packages: [(&str, Value); N],
    is_it: impl FnMut(&PackagesAvailable) -> bool,
) -> Result<Option<PackagesAvailable>, Stop> {
    let packages = BTreeMap::from(packages);
    stage.offer_packages(agent, json!({ "packages": packages })).await?;
    provision::packages(agent, stage.pace.work(), is_it).await
}

fn no_offer() -> Stop {
    Stop::Unreached("the offer asked for did not come".to_owned())
}

async fn offer(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, _) = installing(stage).await?;
    let marker = stage.marker();
    let addon = format!("{marker}-addon");
    let packages = [
        (marker.as_str(), package(PackageType::TopLevel, "1.0", "main")),
        (addon.as_str(), package(PackageType::Addon, "1.0", "addition")),
    ];
    let is_it = |offer: &PackagesAvailable| offer.packages.contains_key(&marker);
    let offer = offered(stage, &mut agent, packages, is_it).await?;
    let actual = if offer.is_some() { "it came" } else { "none came" };
    stage.judge.expect("PKG-02", offer.is_some(), "an offer in packages_available", actual);
    let Some(offer) = offer else { return Ok(()) };
    judge_offer(&mut stage.judge, &offer);
    for (name, kind) in [(&marker, PackageType::TopLevel), (&addon, PackageType::Addon)] {
        let offered = offer.packages.get(name).map(PackageAvailable::r#type);
        stage.judge.expect(
            "PKG-66",
            offered == Some(kind),
            format!("{name} as {}", kind.as_str_name()),
            format!("{name} as {:?}", offered.map(|kind| kind.as_str_name())),
        );
    }
    Ok(())
}

async fn unnamed(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, _) = installing(stage).await?;
    let version = stage.marker();
    let packages = [("", package(PackageType::TopLevel, &version, "the agent"))];
    stage.offer_packages(&mut agent, json!({ "packages": BTreeMap::from(packages) })).await?;
    let within = stage.pace.work();
    let offer = provision::packages(&mut agent, within, |_| true).await?.ok_or_else(no_offer)?;
    let names: Vec<_> = offer.packages.keys().collect();
    stage.judge.expect(
        "PKG-04",
        names == [""],
        "one package whose name is empty",
        format!("packages {names:?}"),
    );
    Ok(())
}

async fn unannounced(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut able, reply) = installing(stage).await?;
    let unasked = reply.packages_available.is_some();
    let (mut agent, reply) = stage.reported(mask::REPORTS_STATUS).await?;
    let is_offered = reply.packages_available.is_some();
    if unasked || is_offered {
        judge_unannounced(&mut stage.judge, is_offered);
    }
    // An agent that takes packages shows that there is something to keep from the other.
    let marker = stage.marker();
    let main = package(PackageType::TopLevel, "1.0", "main");
    let is_it = |offer: &PackagesAvailable| offer.packages.contains_key(&marker);
    let offer = offered(stage, &mut able, [(marker.as_str(), main.clone())], is_it).await?;
    offer.ok_or_else(no_offer)?;
    let packages = json!({ "packages": { marker.as_str(): main } });
    let is_offered = match stage.offer_packages(&mut agent, packages).await {
        Ok(()) => provision::packages(&mut agent, stage.pace.quiet(), |_| true).await?.is_some(),
        // A server may say at once that the agent does not take them.
        Err(Stop::Unreached(_)) => false,
        Err(other) => return Err(other),
    };
    judge_unannounced(&mut stage.judge, is_offered);
    Ok(())
}

fn judge_unannounced(judge: &mut Judge, is_offered: bool) {
    let actual = if is_offered { "they are offered" } else { "none are offered" };
    judge.expect("PKG-01", !is_offered, "no packages for an agent without the bit", actual);
}

async fn hash(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, _) = installing(stage).await?;
    let marker = stage.marker();
    let changes = [
        ("", package(PackageType::TopLevel, "1.0", "one")),
        ("another version", package(PackageType::TopLevel, "2.0", "one")),
        ("another type", package(PackageType::Addon, "2.0", "one")),
        ("another file", package(PackageType::Addon, "2.0", "another")),
    ];
    let mut last = PackagesAvailable::default();
    for (change, package) in changes {
        // The change alone tells the offers apart, and any of its parts may be what is wrong.
        let is_new = |offer: &PackagesAvailable| {
            offer.packages.contains_key(&marker) && offer.packages != last.packages
        };
        let offer = offered(stage, &mut agent, [(marker.as_str(), package)], is_new).await?;
        let Some(offer) = offer else {
            if change.is_empty() {
                return Err(no_offer());
            }
            // An offer is due when a hash changes, so none has.
            let expected = format!("an offer with another hash for {change}");
            stage.judge.expect("PKG-68", false, expected, "no offer came");
            return Ok(());
        };
        let names: Vec<_> = offer.packages.keys().filter(|name| name.contains(&marker)).collect();
        stage.judge.expect(
            "PKG-03",
            names.len() == 1,
            "one package of the name",
            format!("packages {names:?}"),
        );
        let hash_in =
            |offer: &PackagesAvailable| offer.packages.get(&marker).map(|p| p.hash.clone());
        let (before, after) =
            (hash_in(&last).unwrap_or_default(), hash_in(&offer).unwrap_or_default());
        if !change.is_empty() {
            stage.judge.expect(
                "PKG-68",
                before != after,
                format!("another hash with {change}"),
                format!("{} before, {} with {change}", hex(&before), hex(&after)),
            );
        }
        last = offer;
    }
    Ok(())
}

/// The report of an agent that has installed what was offered; `hash` is what it says about it.
fn installed(agent: &mut Agent, offer: &PackagesAvailable, hash: &[u8]) -> AgentToServer {
    let status = |(name, package): (&String, &PackageAvailable)| {
        let status = PackageStatus {
            name: name.clone(),
            agent_has_version: package.version.clone(),
            agent_has_hash: package.hash.clone(),
            server_offered_version: package.version.clone(),
            server_offered_hash: package.hash.clone(),
            status: PackageStatusEnum::Installed as i32,
            ..Default::default()
        };
        (name.clone(), status)
    };
    let statuses = PackageStatuses {
        packages: offer.packages.iter().map(status).collect(),
        server_provided_all_packages_hash: Bytes::copy_from_slice(hash),
        error_message: String::new(),
    };
    AgentToServer { package_statuses: Some(statuses), ..agent.message() }
}

const UNKNOWN_HASH: &[u8] = b"not the hash of anything offered";

/// An agent that was offered one package, and the offer.
async fn with_offer(stage: &mut ServerStage) -> Result<(Agent, PackagesAvailable), Stop> {
    let (mut agent, _) = installing(stage).await?;
    let marker = stage.marker();
    let main = package(PackageType::TopLevel, "1.0", &marker);
    let is_it = |offer: &PackagesAvailable| offer.packages.contains_key(&marker);
    let offer = offered(stage, &mut agent, [(marker.as_str(), main)], is_it).await?;
    Ok((agent, offer.ok_or_else(no_offer)?))
}

/// Sends a report and waits for an offer of packages in the reply or right after it.
async fn offer_after(
    stage: &ServerStage,
    agent: &mut Agent,
    report: AgentToServer,
) -> Result<Option<PackagesAvailable>, Stop> {
    if stage.transport == Transport::Http {
        return Ok(agent.exchange(report).await?.packages_available);
    }
    agent.send(report).await?;
    provision::packages(agent, stage.pace.reply(), |_| true).await
}

async fn reported_hash(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, offer) = with_offer(stage).await?;
    if offer.all_packages_hash.is_empty() {
        return Err(Stop::Unreached("the offer has no hash to report".to_owned()));
    }
    // What comes next may have been on its way before the report was read; it is not judged.
    let known = installed(&mut agent, &offer, &offer.all_packages_hash);
    agent.exchange(known).await?;
    let known = installed(&mut agent, &offer, &offer.all_packages_hash);
    let reply = agent.exchange(known).await?;
    let is_repeated = reply.packages_available.is_some();
    stage.judge.expect(
        "PKG-38",
        !is_repeated,
        "no offer to an agent that reports the hash of what is held for it",
        if is_repeated { "an offer in the reply" } else { "none" },
    );
    let other = installed(&mut agent, &offer, UNKNOWN_HASH);
    let again = offer_after(stage, &mut agent, other).await?;
    for row in ["PKG-38", "PKG-39"] {
        stage.judge.expect(
            row,
            again.is_some(),
            "an offer to an agent that reports another hash",
            if again.is_some() { "it came" } else { "none came" },
        );
    }
    Ok(())
}

async fn local_package(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, offer) = with_offer(stage).await?;
    let mut report = installed(&mut agent, &offer, UNKNOWN_HASH);
    if let Some(statuses) = &mut report.package_statuses {
        let local = PackageStatus {
            name: "local".to_owned(),
            agent_has_version: "0.1".to_owned(),
            agent_has_hash: Bytes::from_static(b"local"),
            status: PackageStatusEnum::Installed as i32,
            ..Default::default()
        };
        statuses.packages.insert("local".to_owned(), local);
    }
    let again = offer_after(stage, &mut agent, report).await?.ok_or_else(no_offer)?;
    let (before, after) = (&offer.all_packages_hash, &again.all_packages_hash);
    stage.judge.expect(
        "PKG-35",
        before == after,
        "the same all_packages_hash, whatever the agent has from elsewhere",
        format!("{} before, {} with a local package", hex(before), hex(after)),
    );
    Ok(())
}

async fn download(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, reply) = installing(stage).await?;
    let of = |offer: &PackagesAvailable| offer.packages.values().find_map(|p| file(p).cloned());
    let file = match reply.packages_available.as_ref().and_then(of) {
        Some(file) => file,
        None => {
            let marker = stage.marker();
            let content = marker.repeat(100);
            let main = package(PackageType::TopLevel, "1.0", &content);
            let is_it = |offer: &PackagesAvailable| offer.packages.contains_key(&marker);
            let offer = offered(stage, &mut agent, [(marker.as_str(), main)], is_it).await?;
            offer.as_ref().and_then(of).ok_or_else(no_offer)?
        }
    };
    let whole = stage.download(&file, None).await?;
    if whole.status().as_u16() != 200 {
        let why = format!("the download is answered with status {}", whole.status());
        return Err(Stop::Unreached(why));
    }
    let content = whole.into_body();
    let hash = body::sha256(&content);
    stage.judge.expect(
        "PKG-70",
        file.content_hash == hash,
        format!("content_hash {}, the SHA-256 of the {} bytes", hex(&hash), content.len()),
        format!("content_hash {}", hex(&file.content_hash)),
    );
    if content.len() < 2 {
        return Err(Stop::Unreached("the file is too small for a range".to_owned()));
    }
    let middle = content.len() / 2;
    let rest = stage.download(&file, Some(format!("bytes={middle}-"))).await?;
    let range = field(rest.headers(), CONTENT_RANGE);
    let wanted = format!("bytes {middle}-{}/", content.len() - 1);
    let is_rest = rest.status().as_u16() == 206
        && range.starts_with(&wanted)
        && rest.body() == &content.slice(middle..);
    stage.judge.expect(
        "PKG-69",
        is_rest,
        format!("status 206 with the {} bytes from {middle} on", content.len() - middle),
        format!(
            "status {} with {} bytes and Content-Range {range:?}",
            rest.status().as_u16(),
            rest.body().len()
        ),
    );
    Ok(())
}

impl ServerStage {
    /// What a GET of an offered file comes to.
    async fn download(
        &self,
        file: &DownloadableFile,
        range: Option<String>,
    ) -> Result<http::Response<Bytes>, Stop> {
        let headers = file.headers.iter().flat_map(|headers| &headers.headers);
        let mut fields: Vec<_> = headers.map(|h| (h.key.clone(), h.value.clone())).collect();
        fields.extend(range.map(|range| (RANGE.to_string(), range)));
        self.get(&file.download_url, &fields).await
    }
}
