//! The packages the reference server offers to an agent, and the files it serves for download.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use http::{HeaderMap, header};
use opamp_proto::v1::{
    AgentToServer, DownloadableFile, PackageAvailable, PackageType, PackagesAvailable,
    ServerToAgent,
};
use prost::Message as _;
use serde::Deserialize;
use serde_json::Value;

use super::base64;
use crate::hook::HookError;
use crate::mask::agent as mask;
use crate::reference::Faults;
use crate::wire::http_client::field;
use crate::wire::url::Url;
use crate::wire::{body, hex};

/// Where the files are.
const PATH: &str = "/packages/";

/// What is offered to one agent.
#[derive(Default)]
pub(super) struct Packages {
    held: Option<PackagesAvailable>,
    /// Whether it was offered on this connection and nothing has changed since.
    is_offered: bool,
}

/// The files by their path.
#[derive(Default)]
pub(super) struct Files(HashMap<String, Bytes>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    packages: BTreeMap<String, Package>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Package {
    r#type: String,
    version: String,
    content: String,
}

impl Packages {
    /// Takes over what a hook gives.
    pub(super) fn change(
        &mut self,
        given: &Value,
        url: &Url,
        files: &mut Files,
        faults: &Faults,
    ) -> Result<(), HookError> {
        let given: Given = serde_json::from_value(given.clone())
            .map_err(|error| HookError::Failed(format!("no packages: {error}")))?;
        let mut packages = BTreeMap::new();
        for (name, package) in given.packages {
            if name.is_empty() && faults.has("unnamed-package-is-not-offered") {
                continue;
            }
            packages.insert(name, package.hosted(url, files, faults)?);
        }
        if faults.has("earlier-version-is-offered-too")
            && let Some(held) = &self.held
        {
            for (name, package) in &held.packages {
                packages.insert(format!("{name} {}", package.version), package.clone());
            }
        }
        let mut held = PackagesAvailable { packages, all_packages_hash: Bytes::new() };
        held.all_packages_hash = body::sha256(&held.encode_to_vec());
        self.held = Some(held);
        self.is_offered = false;
        Ok(())
    }

    /// The agent is there again, or reports what it has: they may be offered again.
    pub(super) fn may_be_offered_again(&mut self) {
        self.is_offered = false;
    }

    /// Puts an offer into a message to an agent that has reported `state`, where one is due.
    pub(super) fn fill(
        &mut self,
        message: &mut ServerToAgent,
        state: &AgentToServer,
        faults: &Faults,
    ) {
        let Some(held) = &self.held else { return };
        let accepts = state.capabilities & mask::ACCEPTS_PACKAGES != 0
            || faults.has("packages-are-offered-to-all");
        let reported = state.package_statuses.as_ref();
        let has = reported.map(|statuses| &statuses.server_provided_all_packages_hash);
        let is_other = match has.filter(|hash| !hash.is_empty()) {
            Some(hash) if *hash == held.all_packages_hash => {
                faults.has("known-packages-are-offered-again")
            }
            Some(_) => !faults.has("other-packages-hash-is-ignored"),
            None => true,
        };
        if faults.has("packages-are-kept-back") || !accepts || !is_other || self.is_offered {
            return;
        }
        self.is_offered = true;
        let mut offer = held.clone();
        let names = reported.iter().flat_map(|statuses| statuses.packages.keys());
        let local: String =
            names.filter(|name| !held.packages.contains_key(*name)).cloned().collect();
        if !local.is_empty() && faults.has("packages-hash-covers-local-packages") {
            offer.all_packages_hash = body::sha256(local.as_bytes());
        }
        if faults.has("packages-hash-is-empty") {
            offer.all_packages_hash.clear();
        }
        for package in offer.packages.values_mut() {
            if faults.has("package-has-no-file") {
                package.file = None;
            }
            if faults.has("package-type-is-lost") {
                package.r#type = PackageType::TopLevel as i32;
            }
        }
        message.packages_available = Some(offer);
    }
}

impl Package {
    /// Puts its content where it can be fetched and gives its entry in an offer.
    fn hosted(
        self,
        url: &Url,
        files: &mut Files,
        faults: &Faults,
    ) -> Result<PackageAvailable, HookError> {
        let kind = PackageType::from_str_name(&format!("PackageType_{}", self.r#type))
            .ok_or_else(|| HookError::Failed(format!("{:?} is no type of package", self.r#type)))?;
        let content = base64(&self.content)?;
        let mut content_hash = body::sha256(&content);
        let path = format!("{PATH}{}", hex(&content_hash));
        if faults.has("content-hash-is-that-of-the-url") {
            content_hash = body::sha256(path.as_bytes());
        }
        files.0.insert(path.clone(), content);
        let file = DownloadableFile {
            download_url: Url { target: path, ..url.over(crate::report::Transport::Http) }
                .to_string(),
            content_hash,
            ..Default::default()
        };
        let mut package = PackageAvailable {
            r#type: kind as i32,
            version: self.version,
            file: Some(file),
            hash: Bytes::new(),
        };
        let mut hashed = package.clone();
        if faults.has("package-hash-leaves-out-the-version") {
            hashed.version.clear();
        }
        if faults.has("package-hash-leaves-out-the-type") {
            hashed.r#type = 0;
        }
        if faults.has("package-hash-leaves-out-the-file") {
            hashed.file = None;
        }
        package.hash = body::sha256(&hashed.encode_to_vec());
        Ok(package)
    }
}

/// The response to a download: status, header fields and body.
pub(super) type Download = (u16, Vec<(&'static str, String)>, Bytes);

impl Files {
    /// What a GET of this path comes to; `None` where there never are files.
    pub(super) fn get(&self, path: &str, headers: &HeaderMap, faults: &Faults) -> Option<Download> {
        path.strip_prefix(PATH)?;
        let Some(file) = self.0.get(path) else { return Some((404, Vec::new(), Bytes::new())) };
        let mut fields = vec![("content-type", "application/octet-stream".to_owned())];
        let range = field(headers, header::RANGE);
        let (first, last) = match asked_range(&range, file.len()) {
            _ if faults.has("ranges-are-not-served") => return Some((200, fields, file.clone())),
            None => return Some((200, fields, file.clone())),
            Some(range) => range,
        };
        let length = file.len();
        if first > last {
            return Some((416, vec![("content-range", format!("bytes */{length}"))], Bytes::new()));
        }
        fields.push(("content-range", format!("bytes {first}-{last}/{length}")));
        let start = if faults.has("range-is-of-something-else") { 0 } else { first };
        Some((206, fields, file.slice(start..=last)))
    }
}

/// First and last byte of the one range that is asked for; the first is greater where there is
/// nothing to give. `None` for what is no such range.
fn asked_range(range: &str, length: usize) -> Option<(usize, usize)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let first = first.parse().ok()?;
    let end = length.checked_sub(1)?;
    let last = if last.is_empty() { end } else { last.parse::<usize>().ok()?.min(end) };
    Some((first, last))
}
