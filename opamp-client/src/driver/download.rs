//! One file of a package: what the store has of it, what is missing, and whether it is what it has
//! to be.
//!
//! ```text
//!   in the store? ── committed, or whole ──► hash ─────────────┐
//!        │                                                     │
//!        ├── a part, of the same source ─► GET with If-Range ──┤ 206: after the part
//!        │                                     │ 416: anew     │
//!        └── nothing ─► GET ───────────────────┴──► 200: anew ─┤
//!                                                              ▼
//!                    committed ◄── judged ◄── signature ◄── SHA-256
//! ```
//!
//! The bytes are hashed as they pass; those of an earlier attempt are read back for that.

use std::error::Error as _;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderName,
    HeaderValue, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE,
};
use http::{StatusCode, header};
use opamp_proto::v1;
use reqwest::Url;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout_at};

use super::Proxy;
use super::connector::retry_after;
use super::headers::MAX_HEADERS;
use super::pace::Pace;
use crate::core::packages::{
    Evidence, FetchFailure, FetchFailureKind, FetchProgress, FetchRequest, Fetched, Rejection,
};
use crate::error::{Error, ErrorKind};
use crate::packages::{
    FileSource, PackageStore, Packages, SignatureVerifier, SignedPackage, StoredFile,
};

/// Redirects that are followed in a row.
const MAX_REDIRECTS: usize = 5;

/// How much goes to the store at once. Hashing that takes about a millisecond.
const BLOCK: usize = 256 * 1024;

/// How long one operation of a store may take.
pub(super) const STORE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a verifier may take.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(600);

/// Fields of a request that are not a server's to choose.
const RESERVED: [HeaderName; 10] = [
    ACCEPT_ENCODING,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    IF_RANGE,
    RANGE,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Downloads files into a store. Cheap to clone.
#[derive(Clone)]
pub(super) struct Downloader {
    pub(super) store: Arc<dyn PackageStore>,
    verifier: Option<Arc<dyn SignatureVerifier>>,
    client: reqwest::Client,
    idle_timeout: Duration,
    least_rate: u32,
}

/// How far a download is, for whoever wants to know.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Told when bytes begin to come.
    begun: Arc<Notify>,
    /// One more than the bytes that are there; 0 before bytes are coming.
    received: AtomicU64,
    /// One more than the size of the file; 0 while it is not known.
    total: AtomicU64,
}

impl Progress {
    pub(super) fn new(begun: Arc<Notify>) -> Self {
        Self { begun, ..Self::default() }
    }

    fn set(&self, received: u64, total: Option<u64>) {
        self.total.store(total.map_or(0, |total| total.saturating_add(1)), Ordering::Relaxed);
        if self.received.swap(received.saturating_add(1), Ordering::Relaxed) == 0 {
            self.begun.notify_one();
        }
    }

    /// Where it stands; `None` before bytes are coming.
    pub(super) fn get(&self) -> Option<FetchProgress> {
        let received = self.received.load(Ordering::Relaxed).checked_sub(1)?;
        let total = self.total.load(Ordering::Relaxed).checked_sub(1);
        Some(FetchProgress { received, total })
    }
}

/// What ends an attempt, without the bytes that are there.
struct Failed {
    kind: FetchFailureKind,
    why: String,
}

fn transient(why: impl Into<String>) -> Failed {
    Failed { kind: FetchFailureKind::Transient { retry_after: None }, why: why.into() }
}

fn permanent(why: impl Into<String>) -> Failed {
    Failed { kind: FetchFailureKind::Permanent, why: why.into() }
}

/// A store or a disk that is full stays so for as long as an attempt can wait.
fn store_failed(error: &io::Error) -> Failed {
    let why = format!("the package store failed: {error}");
    match error.kind() {
        io::ErrorKind::QuotaExceeded | io::ErrorKind::StorageFull => permanent(why),
        _ => transient(why),
    }
}

/// A store that hangs must not hold a download for ever.
async fn in_time<T>(operation: impl Future<Output = io::Result<T>>) -> Result<T, Failed> {
    match tokio::time::timeout(STORE_TIMEOUT, operation).await {
        Ok(result) => result.map_err(|error| store_failed(&error)),
        Err(_) => Err(transient("the package store does not answer")),
    }
}

/// What is in the store of a file, and its hash so far.
struct Held {
    len: u64,
    hash: Sha256,
    /// Where more of it can be had.
    source: Option<FileSource>,
    committed: bool,
}

impl Held {
    fn nothing() -> Self {
        Self { len: 0, hash: Sha256::new(), source: None, committed: false }
    }
}

impl Downloader {
    /// Downloads take the way of the OpAMP connection, unless they have their own.
    pub(super) fn new(packages: &Packages, proxy: &Proxy) -> Result<Self, Error> {
        let builder = reqwest::Client::builder()
            .connect_timeout(packages.idle_timeout)
            .read_timeout(packages.idle_timeout)
            // Followed by hand: the headers of an offer are for one origin.
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            // What is hashed is what was served, whatever else the library is built with.
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate();
        let builder = packages.proxy.as_ref().unwrap_or(proxy).lead(builder)?;
        #[cfg(feature = "tls")]
        let builder = builder.tls_backend_preconfigured(match &packages.tls {
            Some(tls) => (*tls.config()?).clone(),
            // Packages served over http need no trust in anybody.
            None => match crate::tls::Tls::new().config() {
                Ok(tls) => (*tls).clone(),
                Err(_) => trusting_nobody()?,
            },
        });
        let client = builder.build().map_err(|error| {
            Error::with_source(ErrorKind::Config, "no HTTP client can be made", error)
        })?;
        let (store, verifier) = (Arc::clone(&packages.store), packages.verifier.clone());
        let (idle_timeout, least_rate) = (packages.idle_timeout, packages.least_rate);
        Ok(Self { store, verifier, client, idle_timeout, least_rate })
    }

    /// Sees that the file is in the store, whole and judged.
    pub(super) async fn fetch(
        self,
        request: FetchRequest,
        progress: Arc<Progress>,
    ) -> Result<Fetched, FetchFailure> {
        let result = self.try_fetch(&request, &progress).await;
        result.map_err(|Failed { kind, why }| {
            let received = progress.get().map_or(0, |progress| progress.received);
            FetchFailure { kind, why, received }
        })
    }

    async fn try_fetch(
        &self,
        request: &FetchRequest,
        progress: &Progress,
    ) -> Result<Fetched, Failed> {
        let mut held = match in_time(self.store.find(&request.key)).await? {
            Some(file) => self.held(request, file).await?,
            None => Held::nothing(),
        };
        if held.len > 0 || held.source.is_some() {
            let complete = request
                .expected
                .sha256()
                .map_or(held.source.is_none(), |expected| *expected == sha256(&held.hash));
            if complete {
                match self.conclude(request, &held).await {
                    Err(Failed { kind: FetchFailureKind::WrongContent, .. }) => {
                        held = Held::nothing();
                    }
                    concluded => return concluded,
                }
            }
        }
        self.download(request, &mut held, progress).await?;
        self.conclude(request, &held).await
    }

    /// Reads back what the store has, as far as it is of use.
    async fn held(&self, request: &FetchRequest, file: StoredFile) -> Result<Held, Failed> {
        let hopeless = file.len > request.max_size;
        let resumable = file.source.as_ref().is_some_and(|source| !source.validator.is_empty());
        if hopeless || !(file.committed || resumable || request.expected.sha256().is_some()) {
            return Ok(Held::nothing());
        }
        let mut hash = Sha256::new();
        let mut len = 0;
        while len < file.len {
            let bytes = in_time(self.store.read(&request.key, len, BLOCK)).await?;
            if bytes.is_empty() {
                break;
            }
            hash.update(&bytes);
            len += bytes.len() as u64;
        }
        Ok(Held { len, hash, source: file.source, committed: file.committed })
    }

    /// Gets what is missing.
    async fn download(
        &self,
        request: &FetchRequest,
        held: &mut Held,
        progress: &Progress,
    ) -> Result<(), Failed> {
        let url = parse(&request.file.download_url)?;
        let headers = offered_headers(&request.file)?;
        let resume =
            held.source.take().filter(|source| held.len > 0 && !source.validator.is_empty());
        let mut answer = self.get(url.clone(), &headers, resume.as_ref(), held.len).await?;
        if answer.response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            // What is there is longer than the file, or another file's.
            answer = self.get(url, &headers, None, 0).await?;
        }
        let Answer { mut response, url } = answer;
        let source = source_of(&url, response.headers());
        let range = match response.status() {
            StatusCode::PARTIAL_CONTENT => Some(content_range(response.headers())),
            StatusCode::OK => None,
            status => return Err(refused(status, response.headers())),
        };
        let continues = match (&range, &resume) {
            (None, _) => false,
            (Some(Some(range)), Some(resume)) => {
                let same = *resume == source || source.validator.is_empty();
                same && range.first == held.len
            }
            _ => false,
        };
        if range.is_some() && !continues {
            in_time(self.store.discard(&request.key)).await?;
            return Err(transient("the download server answered with another part of the file"));
        }
        if let Some(coding) = response.headers().get(CONTENT_ENCODING)
            && !coding.as_bytes().eq_ignore_ascii_case(b"identity")
        {
            return Err(permanent("the download server applied a content coding, unasked"));
        }
        if !continues {
            *held = Held::nothing();
            in_time(self.store.start(&request.key, &source)).await?;
        }
        let rest = response.content_length();
        let total = match range {
            Some(Some(range)) => range.total,
            _ => rest,
        };
        let too_large =
            || permanent(format!("the file is larger than the {} bytes allowed", request.max_size));
        if total.or(rest.map(|rest| held.len.saturating_add(rest))) > Some(request.max_size) {
            in_time(self.store.discard(&request.key)).await?;
            return Err(too_large());
        }
        progress.set(held.len, total);
        let mut block = BytesMut::new();
        let mut pace = Pace::new(self.least_rate, self.idle_timeout.saturating_mul(2));
        loop {
            let chunk = match timeout_at(pace.until(), response.chunk()).await {
                Ok(chunk) => chunk.map_err(unreachable),
                Err(_) => Err(transient("the download server sends too slowly")),
            };
            let over = !matches!(chunk, Ok(Some(_)));
            if let Ok(Some(chunk)) = &chunk {
                pace.came(chunk.len());
                if held.len + block.len() as u64 + chunk.len() as u64 > request.max_size {
                    in_time(self.store.discard(&request.key)).await?;
                    return Err(too_large());
                }
                block.extend_from_slice(chunk);
            }
            // What came before a cut is of use to the next attempt.
            if (over && !block.is_empty()) || block.len() >= BLOCK {
                let bytes = block.split().freeze();
                let len = bytes.len() as u64;
                held.hash.update(&bytes);
                let began = Instant::now();
                let appended = in_time(self.store.append(&request.key, held.len, bytes)).await;
                if let Err(full) = appended {
                    if full.kind == FetchFailureKind::Permanent {
                        // What will never be whole takes room that others need.
                        in_time(self.store.discard(&request.key)).await?;
                    }
                    return Err(full);
                }
                pace.paused(began);
                held.len += len;
                progress.set(held.len, total);
            }
            match chunk {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(failed) => return Err(failed),
            }
        }
    }

    /// Asks for the file, wherever it is. The headers of the offer go to the origin of its URL.
    async fn get(
        &self,
        mut url: Url,
        headers: &HeaderMap,
        resume: Option<&FileSource>,
        from: u64,
    ) -> Result<Answer, Failed> {
        let origin = url.origin();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self
                .client
                .get(url.clone())
                .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            if url.origin() == origin {
                request = request.headers(headers.clone());
            }
            if let Some(source) = resume {
                request = request
                    .header(RANGE, format!("bytes={from}-"))
                    .header(IF_RANGE, source.validator.as_str());
            }
            let response = request.send().await.map_err(unreachable)?;
            let redirected = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            let Some(location) = response.headers().get(LOCATION).filter(|_| redirected) else {
                return Ok(Answer { response, url });
            };
            let next = location.to_str().ok().and_then(|location| url.join(location).ok());
            let next = next.ok_or_else(|| permanent("the download is redirected to no URL"))?;
            if !matches!(next.scheme(), "http" | "https") {
                return Err(permanent("the download is redirected to what is not HTTP"));
            }
            if url.scheme() == "https" && next.scheme() == "http" {
                return Err(permanent("the download is redirected from https to http"));
            }
            url = next;
        }
        Err(permanent(format!("the download is redirected more than {MAX_REDIRECTS} times")))
    }

    /// Whether what is in the store is what it has to be; what is not goes.
    async fn conclude(&self, request: &FetchRequest, held: &Held) -> Result<Fetched, Failed> {
        let sha256 = sha256(&held.hash);
        let matches = request.expected.sha256().is_none_or(|expected| *expected == sha256);
        let signature = match (request.expected.signature(), &self.verifier) {
            (Some(signature), Some(verifier)) if matches => {
                Some(self.verify(request, signature, Arc::clone(verifier)).await?)
            }
            _ => None,
        };
        let verified = request.expected.judge(Evidence { len: held.len, sha256, signature });
        match verified {
            Ok(verified) => {
                let location = in_time(self.store.commit(&request.key)).await?;
                Ok(Fetched { verified, location })
            }
            Err(rejection) => {
                // An offer that is not taken leaves the agent what it has.
                if !(request.in_use && held.committed) {
                    in_time(self.store.discard(&request.key)).await?;
                }
                let kind = match rejection {
                    Rejection::WrongContent => FetchFailureKind::WrongContent,
                    Rejection::BadSignature(_) => FetchFailureKind::Permanent,
                };
                Err(Failed { kind, why: rejection.to_string() })
            }
        }
    }

    /// Lets the verifier read the file, as the store has it.
    async fn verify(
        &self,
        request: &FetchRequest,
        signature: &Bytes,
        verifier: Arc<dyn SignatureVerifier>,
    ) -> Result<Result<(), String>, Failed> {
        let (sender, receiver) = mpsc::channel(2);
        let (name, version) = (request.key.package().to_owned(), request.version.clone());
        let signature = signature.clone();
        let verdict = tokio::task::spawn_blocking(move || {
            let package = SignedPackage::new(&name, &version, &signature);
            verifier.verify(&package, &mut Content { receiver, block: Bytes::new(), ended: false })
        });
        let feed = async {
            let mut offset = 0;
            loop {
                let block = in_time(self.store.read(&request.key, offset, BLOCK)).await?;
                offset += block.len() as u64;
                // An empty one is the end. A verifier need not read all of it.
                if sender.send(block.clone()).await.is_err() || block.is_empty() {
                    break;
                }
            }
            drop(sender);
            verdict.await.map_err(|_| permanent("the verifier of signatures panicked"))
        };
        tokio::time::timeout(VERIFY_TIMEOUT, feed)
            .await
            .unwrap_or_else(|_| Err(transient("the verifier of signatures takes too long")))
    }
}

/// A file as a verifier reads it.
struct Content {
    receiver: mpsc::Receiver<Bytes>,
    block: Bytes,
    ended: bool,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.block.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(block) => self.block = block,
                // Without the last, empty block it would look like a shorter file.
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
            self.ended = self.block.is_empty();
        }
        let len = buffer.len().min(self.block.len());
        buffer[..len].copy_from_slice(&self.block[..len]);
        self.block.advance(len);
        Ok(len)
    }
}

/// A response, and where it came from in the end.
struct Answer {
    response: reqwest::Response,
    url: Url,
}

fn sha256(hash: &Sha256) -> [u8; 32] {
    hash.clone().finalize().into()
}

fn parse(url: &str) -> Result<Url, Failed> {
    let url = Url::parse(url).map_err(|_| permanent("download_url is not a URL"))?;
    if url.scheme() == "https" && !cfg!(feature = "tls") {
        return Err(permanent("an https download needs the feature \"tls\" of opamp-client"));
    }
    Ok(url)
}

/// The headers of the offer (PKG-22, PKG-23).
fn offered_headers(file: &v1::DownloadableFile) -> Result<HeaderMap, Failed> {
    let mut headers = HeaderMap::new();
    for v1::Header { key, value } in file.headers.iter().flat_map(|headers| &headers.headers) {
        let name = HeaderName::try_from(key);
        let name = name.map_err(|_| permanent(format!("{key:?} is no name of a header")))?;
        let mut value = HeaderValue::try_from(value)
            .map_err(|_| permanent(format!("the value of header {name} has illegal characters")))?;
        value.set_sensitive(true);
        if headers.len() >= MAX_HEADERS {
            return Err(permanent(format!("there are more than {MAX_HEADERS} headers")));
        }
        if !RESERVED.contains(&name) {
            headers.append(name, value);
        }
    }
    Ok(headers)
}

/// What tells this file from a later one at the same place, if anything strong enough does.
fn source_of(url: &Url, headers: &HeaderMap) -> FileSource {
    let mut url = url.clone();
    // Signed URLs differ in what is after the path; credentials are not to be kept.
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let validator = match text(ETAG) {
        Some(etag) if etag.starts_with("W/") => None,
        Some(etag) => Some(etag),
        // Within a minute a file may have changed twice.
        None => text(LAST_MODIFIED).filter(|modified| {
            let modified = httpdate::parse_http_date(modified);
            let date = text(DATE).map(httpdate::parse_http_date);
            match (modified, date) {
                (Ok(modified), Some(Ok(date))) => {
                    date.duration_since(modified).is_ok_and(|age| age >= Duration::from_secs(60))
                }
                _ => false,
            }
        }),
    };
    FileSource { url: url.into(), validator: validator.unwrap_or_default().to_owned() }
}

struct ContentRange {
    first: u64,
    total: Option<u64>,
}

/// `bytes FIRST-LAST/TOTAL`, where the total may be `*`.
fn content_range(headers: &HeaderMap) -> Option<ContentRange> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?.trim().strip_prefix("bytes ")?;
    let (range, total) = range.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let total: Option<u64> = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    let whole = total.is_none_or(|total| last.checked_add(1) == Some(total));
    (first <= last && whole).then_some(ContentRange { first, total })
}

/// What a status that brings no file means for another attempt.
fn refused(status: StatusCode, headers: &HeaderMap) -> Failed {
    let why = format!("the download server answered with status {}", status.as_u16());
    match status.as_u16() {
        408 | 425 | 429 | 500..=599 => {
            let retry_after = retry_after(headers);
            Failed { kind: FetchFailureKind::Transient { retry_after }, why }
        }
        _ => permanent(why),
    }
}

fn unreachable(error: reqwest::Error) -> Failed {
    // The URL may hold a token in its query.
    let error = error.without_url();
    #[cfg(feature = "tls")]
    if let Some(message) = crate::tls::explain(&error) {
        return transient(format!("the download failed: no TLS connection: {message}"));
    }
    let mut why = format!("the download failed: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        why = format!("{why}: {cause}");
        source = cause.source();
    }
    match error.is_builder() {
        true => permanent(why),
        false => transient(why),
    }
}

#[cfg(feature = "tls")]
fn trusting_nobody() -> Result<rustls::ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::with_source(ErrorKind::Tls, "no TLS version", error))?;
    Ok(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}
