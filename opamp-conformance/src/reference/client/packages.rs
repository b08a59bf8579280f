//! The packages of the reference client: what it has, what an offer makes of that, and the download
//! of one file after the other.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body_util::BodyExt as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opamp_proto::v1::{
    DownloadableFile, PackageAvailable, PackageDownloadDetails, PackageStatus, PackageStatusEnum,
    PackageStatuses, PackagesAvailable,
};
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep, timeout};

use super::Order;
use crate::log::Log;
use crate::net::Network;
use crate::reference::Faults;
use crate::report::Side;
use crate::wire::body::sha256;
use crate::wire::http_client::Dialer;
use crate::wire::url::Url;

/// How long a download may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long installing takes.
const INSTALLING: Duration = Duration::from_millis(200);
/// How many redirects are followed.
const MAX_REDIRECTS: usize = 5;
/// The largest file that is taken.
const MAX_FILE: usize = 64 << 20;
/// What a signature the client accepts begins with; the content's hash follows.
const SIGNED: &[u8] = b"signed:";
/// What is said of a download that breaks off.
const CUT: &str = "the download broke off";
/// A package that no server offered.
const LOCAL: &str = "reference-local";

/// What the client has and what it makes of offers.
#[derive(Debug, Clone)]
pub(super) struct Packages {
    installed: BTreeMap<String, Installed>,
    statuses: BTreeMap<String, PackageStatus>,
    /// The aggregate hash of the last offer, and whether all of it is installed.
    offered: Bytes,
    complete: bool,
    waiting: VecDeque<Job>,
    is_working: bool,
}

#[derive(Debug, Clone)]
struct Installed {
    version: String,
    hash: Bytes,
    content_hash: Bytes,
}

/// A package to be fetched and installed.
#[derive(Debug, Clone)]
pub(super) struct Job {
    name: String,
    package: PackageAvailable,
    /// The files of the same offer, for a fault that mixes them up.
    first: Option<DownloadableFile>,
}

/// How a job goes.
#[derive(Debug)]
pub(super) struct Progress {
    job: Job,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Downloading(PackageDownloadDetails),
    Installing,
    Installed,
    Failed(String),
}

impl Default for Packages {
    fn default() -> Self {
        let local = Installed {
            version: "0.1.0".to_owned(),
            hash: Bytes::from_static(b"local"),
            content_hash: Bytes::new(),
        };
        let status = PackageStatus {
            name: LOCAL.to_owned(),
            agent_has_version: local.version.clone(),
            agent_has_hash: local.hash.clone(),
            ..Default::default()
        };
        Self {
            installed: BTreeMap::from([(LOCAL.to_owned(), local)]),
            statuses: BTreeMap::from([(LOCAL.to_owned(), status)]),
            offered: Bytes::new(),
            complete: false,
            waiting: VecDeque::new(),
            is_working: false,
        }
    }
}

impl Packages {
    /// What the report says.
    pub(super) fn report(&self, faults: &Faults) -> PackageStatuses {
        let mut packages = self.statuses.clone();
        if faults.has("statuses-list-failed-packages-only") {
            let failed = PackageStatusEnum::InstallFailed as i32;
            if packages.values().any(|status| status.status == failed) {
                packages.retain(|_, status| status.status == failed);
            }
        }
        for status in packages.values_mut() {
            misreport(status, faults);
        }
        if faults.has("status-key-differs-from-name")
            && let Some(status) = packages.remove(LOCAL)
        {
            packages.insert(format!("{LOCAL}.pkg"), status);
        }
        if faults.has("old-version-stays-listed") {
            let old = packages.iter().filter(|(_, status)| status.agent_has_version == "2.0.0");
            let old: Vec<_> = old.map(|(name, status)| (name.clone(), status.clone())).collect();
            for (name, status) in old {
                let name = format!("{name}-1.0.0");
                packages.insert(name.clone(), PackageStatus { name, ..status });
            }
        }
        let error = faults.has("good-offer-has-an-error");
        let echoed = !faults.has("all-packages-hash-is-not-echoed");
        PackageStatuses {
            packages,
            server_provided_all_packages_hash: if echoed {
                self.offered.clone()
            } else {
                Bytes::new()
            },
            error_message: if error { "something went wrong".to_owned() } else { String::new() },
        }
    }

    /// Takes in an offer; whether there is something to report.
    pub(super) fn offer(&mut self, offer: &PackagesAvailable, faults: &Faults) -> bool {
        let same = self.complete && self.offered == offer.all_packages_hash;
        if faults.has("packages-are-ignored")
            || (same && !faults.has("all-packages-hash-is-ignored"))
            || (self.is_working && faults.has("offer-during-work-is-dropped"))
        {
            return false;
        }
        self.offered = offer.all_packages_hash.clone();
        self.waiting.clear();
        if !faults.has("unoffered-package-is-kept") {
            let stays = |name: &String| name == LOCAL || offer.packages.contains_key(name);
            self.installed.retain(|name, _| stays(name));
            self.statuses.retain(|name, _| stays(name));
        }
        let first = offer.packages.values().next().and_then(|package| package.file.clone());
        for (name, package) in &offer.packages {
            let known = self.installed.get(name).is_some_and(|has| has.hash == package.hash);
            if known && faults.has("installed-package-ends-the-offer") {
                break;
            }
            self.consider(name, package, first.clone(), faults);
        }
        self.settle();
        true
    }

    fn consider(
        &mut self,
        name: &str,
        package: &PackageAvailable,
        first: Option<DownloadableFile>,
        faults: &Faults,
    ) {
        let status = self.statuses.entry(name.to_owned()).or_default();
        status.name = name.to_owned();
        let has = self.installed.get(name);
        if has.is_some() && faults.has("installed-package-is-never-replaced") {
            return;
        }
        status.server_offered_version.clone_from(&package.version);
        status.server_offered_hash = package.hash.clone();
        status.download_details = None;
        if name.is_empty() && faults.has("empty-package-name-is-refused") {
            status.status = PackageStatusEnum::InstallFailed as i32;
            status.error_message = "a package needs a name".to_owned();
            return;
        }
        let same_package = has.is_some_and(|has| has.hash == package.hash);
        if same_package && !faults.has("package-hash-is-ignored") {
            status.status = PackageStatusEnum::Installed as i32;
            status.error_message = String::new();
            return;
        }
        let offered = package.file.as_ref().map(|file| &file.content_hash);
        let same_file = has.is_some_and(|has| Some(&has.content_hash) == offered);
        if same_file && !faults.has("content-hash-is-ignored") {
            self.install(name, package, faults);
            return;
        }
        status.status = PackageStatusEnum::InstallPending as i32;
        status.error_message = String::new();
        let job = Job { name: name.to_owned(), package: package.clone(), first };
        self.waiting.push_back(job);
    }

    /// The next package to work on, if none is worked on.
    pub(super) fn next(&mut self) -> Option<Job> {
        if self.is_working {
            return None;
        }
        let job = self.waiting.pop_front();
        self.is_working = job.is_some();
        job
    }

    /// Forgets work that did not outlive the process.
    pub(super) fn wake(&mut self) {
        self.waiting.clear();
        self.is_working = false;
    }

    /// Takes in how a job goes; whether there is something to report.
    pub(super) fn progress(&mut self, progress: Progress, faults: &Faults) -> bool {
        let Progress { job, step } = progress;
        let over = matches!(step, Step::Installed | Step::Failed(_));
        self.is_working &= !over;
        if matches!(step, Step::Failed(_)) && faults.has("failed-install-is-not-reported") {
            return false;
        }
        let Some(status) = self.statuses.get_mut(&job.name) else { return false };
        if status.server_offered_hash != job.package.hash {
            // A newer offer has come meanwhile.
            return false;
        }
        if !faults.has("download-details-stay") {
            status.download_details = None;
        }
        match step {
            Step::Downloading(details) => {
                status.status = PackageStatusEnum::Downloading as i32;
                status.download_details = Some(details);
            }
            Step::Installing => status.status = PackageStatusEnum::Installing as i32,
            Step::Installed if faults.has("install-is-never-finished") => return false,
            Step::Installed => self.install(&job.name, &job.package, faults),
            Step::Failed(error) => self.fail(&job, error, faults),
        }
        self.settle();
        true
    }

    fn install(&mut self, name: &str, package: &PackageAvailable, faults: &Faults) {
        let content_hash = package.file.as_ref().map(|file| file.content_hash.clone());
        let installed = Installed {
            version: package.version.clone(),
            hash: package.hash.clone(),
            content_hash: content_hash.unwrap_or_default(),
        };
        let status = self.statuses.entry(name.to_owned()).or_default();
        status.status = PackageStatusEnum::Installed as i32;
        status.error_message = String::new();
        status.agent_has_version.clone_from(&installed.version);
        status.agent_has_hash = installed.hash.clone();
        if faults.has("package-hash-is-recomputed") {
            status.agent_has_hash = sha256(&installed.hash);
        }
        self.installed.insert(name.to_owned(), installed);
    }

    fn fail(&mut self, job: &Job, error: String, faults: &Faults) {
        if faults.has("failed-package-ends-the-work") {
            self.waiting.clear();
        }
        let Some(status) = self.statuses.get_mut(&job.name) else { return };
        status.status = PackageStatusEnum::InstallFailed as i32;
        status.error_message = error;
        if faults.has("failed-install-tells-a-version") {
            status.agent_has_version.clone_from(&job.package.version);
        }
        if faults.has("failed-install-tells-a-hash") {
            status.agent_has_hash = job.package.hash.clone();
        }
    }

    fn settle(&mut self) {
        let installed = PackageStatusEnum::Installed as i32;
        self.complete = self.statuses.values().all(|status| status.status == installed);
    }
}

/// What faults make of the status of a package.
fn misreport(status: &mut PackageStatus, faults: &Faults) {
    let is = |kind: PackageStatusEnum| status.status == kind as i32;
    let error = || "all is well".to_owned();
    let has_offer = !status.server_offered_hash.is_empty();
    if (is(PackageStatusEnum::Installed) && has_offer && faults.has("installed-has-an-error"))
        || (is(PackageStatusEnum::Installing) && faults.has("installing-has-an-error"))
        || (is(PackageStatusEnum::Downloading) && faults.has("downloading-has-an-error"))
    {
        status.error_message = error();
    }
    if is(PackageStatusEnum::Installing) && faults.has("installing-lacks-the-offered-hash")
        || is(PackageStatusEnum::Downloading) && faults.has("downloading-lacks-the-offered-hash")
        || is(PackageStatusEnum::InstallFailed)
            && faults.has("failed-install-lacks-the-offered-hash")
    {
        status.server_offered_hash = Bytes::new();
    }
    if is(PackageStatusEnum::Installed)
        && has_offer
        && status.agent_has_version == "2.0.0"
        && faults.has("installed-package-is-called-pending")
    {
        status.status = PackageStatusEnum::InstallPending as i32;
        return;
    }
    if is(PackageStatusEnum::Installed) && has_offer {
        if faults.has("installed-version-is-not-told") {
            status.agent_has_version = String::new();
        }
        if faults.has("installed-hash-is-not-told") {
            status.agent_has_hash = Bytes::new();
        }
        if faults.has("offered-version-is-not-told") {
            status.server_offered_version = String::new();
        }
        if faults.has("offered-hash-is-not-told") {
            status.server_offered_hash = Bytes::new();
        }
    }
    if status.name == LOCAL && faults.has("local-package-looks-offered") {
        status.server_offered_version.clone_from(&status.agent_has_version);
        status.server_offered_hash = status.agent_has_hash.clone();
    }
    if faults.has("package-name-is-not-told") {
        status.name = String::new();
    }
}

/// What a job needs from the client it belongs to.
pub(super) struct Tools {
    pub(super) network: Network,
    pub(super) faults: Faults,
    pub(super) orders: Sender<Order>,
}

/// Fetches a package and installs it.
pub(super) async fn work(job: Job, tools: Tools) {
    let fetched = match &job.package.file {
        Some(_) if tools.faults.has("package-is-not-downloaded") => Ok(()),
        Some(file) => match timeout(PATIENCE, fetch(&job, file, &tools)).await {
            Ok(Ok(content)) => check(file, &content, &tools.faults),
            Ok(Err(error))
                if error == CUT && tools.faults.has("cut-download-is-taken-as-whole") =>
            {
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err("the download takes too long".to_owned()),
        },
        None => {
            if tools.faults.has("package-without-file-ends-the-client") {
                // One that has ended already is as good.
                let _ = tools.orders.send(Order::Stop).await;
            }
            Err("the package has no file".to_owned())
        }
    };
    let last = match fetched {
        Ok(()) => {
            tools.tell(&job, Step::Installing).await;
            sleep(INSTALLING).await;
            Step::Installed
        }
        Err(error) => Step::Failed(error),
    };
    tools.tell(&job, last).await;
}

impl Tools {
    async fn tell(&self, job: &Job, step: Step) {
        // A client that has ended does not want to know.
        let progress = Box::new(Progress { job: job.clone(), step });
        let _ = self.orders.send(Order::Progress(progress)).await;
    }
}

fn check(file: &DownloadableFile, content: &[u8], faults: &Faults) -> Result<(), String> {
    let hash = sha256(content);
    if hash != file.content_hash && !faults.has("content-is-not-verified") {
        return Err("the content does not match its hash".to_owned());
    }
    let signature = [SIGNED, &hash[..]].concat();
    if !file.signature.is_empty()
        && file.signature != signature
        && !faults.has("signature-is-not-verified")
    {
        return Err("the signature is wrong".to_owned());
    }
    Ok(())
}

async fn fetch(job: &Job, file: &DownloadableFile, tools: &Tools) -> Result<Bytes, String> {
    let faults = &tools.faults;
    let mut headers = HeaderMap::new();
    let offered = match &job.first {
        Some(first) if faults.has("download-headers-go-everywhere") => &first.headers,
        _ => &file.headers,
    };
    for header in offered.iter().flat_map(|headers| &headers.headers) {
        if let (Ok(name), Ok(value)) =
            (HeaderName::try_from(header.key.as_str()), HeaderValue::try_from(&header.value))
        {
            headers.append(name, value);
        }
    }
    if faults.has("download-headers-are-not-sent") {
        headers.clear();
    }
    let mut location = file.download_url.clone();
    let followed = if faults.has("redirects-are-followed-for-ever") { 500 } else { MAX_REDIRECTS };
    for _ in 0..=followed {
        match get(job, &location, &headers, tools).await? {
            Got::File(content) => return Ok(content),
            Got::Redirect(next) => {
                if authority_of(&next) != authority_of(&location) {
                    headers.clear();
                }
                location = next;
            }
        }
        sleep(INSTALLING).await;
    }
    Err("too many redirects".to_owned())
}

enum Got {
    File(Bytes),
    Redirect(String),
}

fn authority_of(url: &str) -> Option<String> {
    url.parse::<Url>().ok().map(|url| url.authority())
}

async fn get(job: &Job, url: &str, headers: &HeaderMap, tools: &Tools) -> Result<Got, String> {
    let url: Url = url.parse()?;
    let dialer = Dialer {
        network: tools.network.clone(),
        url,
        tls: None,
        via: None,
        headers: HeaderMap::new(),
        log: Log::new(Side::Client),
    };
    let (stream, _) = dialer.stream().await.map_err(|error| error.to_string())?;
    let (mut sender, driver) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // It ends with the sender, and tells it what goes wrong.
    let _driver = AbortOnDrop(tokio::spawn(async { drop(driver.await) }));
    let method =
        if tools.faults.has("package-is-fetched-with-post") { Method::POST } else { Method::GET };
    let request =
        dialer.request(method, headers, Bytes::new()).map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let status = response.status();
    if status.is_redirection() {
        let location = response.headers().get(http::header::LOCATION);
        let location = location.and_then(|location| location.to_str().ok());
        return location
            .map(|to| Got::Redirect(to.to_owned()))
            .ok_or("a redirect to nowhere".to_owned());
    }
    if status != 200 {
        return Err(format!("the download server answers with {status}"));
    }
    let length = response.headers().get(http::header::CONTENT_LENGTH);
    let length: Option<usize> = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let began = Instant::now();
    let mut body = response.into_body();
    let mut content = BytesMut::new();
    tools.downloading(job, began, 0, length).await;
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(_) => return Err(CUT.to_owned()),
        };
        content.extend_from_slice(frame.data_ref().map(Bytes::as_ref).unwrap_or_default());
        if content.len() > MAX_FILE {
            return Err("the file is too large".to_owned());
        }
        tools.downloading(job, began, content.len(), length).await;
    }
    Ok(Got::File(content.freeze()))
}

impl Tools {
    #[allow(clippy::cast_precision_loss, reason = "progress need not be exact")]
    async fn downloading(&self, job: &Job, began: Instant, done: usize, length: Option<usize>) {
        let percent = length.map_or(0.0, |length| 100.0 * done as f64 / length.max(1) as f64);
        let seconds = began.elapsed().as_secs_f64();
        let rate = if seconds > 0.0 { done as f64 / seconds } else { 0.0 };
        let download_percent = match percent {
            percent if self.faults.has("download-percent-counts-down") => 100.0 - percent,
            percent if self.faults.has("download-percent-is-unbounded") => 100.0 * percent,
            percent => percent,
        };
        let details = PackageDownloadDetails { download_percent, download_bytes_per_second: rate };
        self.tell(job, Step::Downloading(details)).await;
    }
}

/// A task that ends with what it belongs to.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
