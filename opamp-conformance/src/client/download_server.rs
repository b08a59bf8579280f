//! A server for package files that the tester plays: it hands out files well or badly, and
//! remembers every request. It is no part of the OpAMP conversation, so the record shows its
//! requests as remarks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use tokio::task::JoinSet;

use crate::judge::Stop;
use crate::log::Log;
use crate::net::Network;
use crate::report::{Side, Transport};
use crate::wire::endpoint::{Arrival, Delivery, Endpoint};
use crate::wire::http_client::field;

/// How many requests are remembered.
const MAX_REQUESTS: usize = 1_024;
/// How long the server waits for a request before it waits again.
const WAIT: Duration = Duration::from_secs(3_600);

/// How a file is handed out.
#[derive(Debug, Clone)]
pub enum Manner {
    /// At once.
    Well,
    /// In this many parts, with this pause before each.
    Slowly(usize, Duration),
    /// Half of it and then nothing, the first time; well after that.
    CutOnce,
    /// Not at all, with this status.
    Refused(u16),
    /// Somewhere else: a redirect with status 302 to this URL.
    Elsewhere(String),
    /// Only to requests with this header field; others get 401.
    Guarded(&'static str, &'static str),
}

/// A request for a file.
#[derive(Debug, Clone)]
pub struct Download {
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// Its header fields.
    pub headers: HeaderMap,
    /// The status it was answered with.
    pub status: u16,
}

/// A server for package files. Dropping it closes it.
pub struct DownloadServer {
    authority: String,
    shelf: Arc<Mutex<Shelf>>,
    _serving: JoinSet<()>,
}

#[derive(Default)]
struct Shelf {
    files: BTreeMap<String, (Bytes, Manner)>,
    requests: Vec<Download>,
}

impl DownloadServer {
    /// Opens one on a free port; `log` gets its remarks.
    ///
    /// # Errors
    ///
    /// [`Stop::Harness`] when it cannot listen.
    pub async fn open(network: &Network, log: &Log) -> Result<Self, Stop> {
        let own = Log::new(Side::Client);
        let mut endpoint = Endpoint::open(network, Transport::Http, None, &own)
            .await
            .map_err(|error| Stop::Harness(format!("cannot listen for downloads: {error}")))?;
        let authority = endpoint.url().authority();
        let shelf = Arc::<Mutex<Shelf>>::default();
        let (served, log) = (Arc::clone(&shelf), log.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            loop {
                if let Some(arrival) = endpoint.next(WAIT).await {
                    serve(arrival, &served, &log);
                }
            }
        });
        Ok(Self { authority, shelf, _serving: serving })
    }

    /// Hands out this file at this path from now on, and gives its URL.
    pub fn put(&self, path: &str, content: Bytes, manner: Manner) -> String {
        lock(&self.shelf).files.insert(path.to_owned(), (content, manner));
        format!("http://{}{path}", self.authority)
    }

    /// The requests so far whose path is this one.
    #[must_use]
    pub fn requests(&self, path: &str) -> Vec<Download> {
        let is_it = |request: &&Download| request.target.split('?').next() == Some(path);
        lock(&self.shelf).requests.iter().filter(is_it).cloned().collect()
    }

    /// How many requests there were for whatever file.
    #[must_use]
    pub fn count(&self) -> usize {
        lock(&self.shelf).requests.len()
    }
}

fn lock(shelf: &Mutex<Shelf>) -> std::sync::MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(arrival: Arrival, shelf: &Mutex<Shelf>, log: &Log) {
    let mut shelf = lock(shelf);
    let path = arrival.target.split('?').next().unwrap_or_default().to_owned();
    let found = shelf.files.get_mut(&path);
    let (content, manner) = found.map_or_else(
        || (Bytes::new(), Manner::Refused(404)),
        |(content, manner)| {
            let now = manner.clone();
            if matches!(manner, Manner::CutOnce) {
                *manner = Manner::Well;
            }
            (content.clone(), now)
        },
    );
    let request = Download {
        method: arrival.method.clone(),
        target: arrival.target.clone(),
        headers: arrival.headers.clone(),
        status: 0,
    };
    let status = answer(arrival, content, manner);
    log.remark(format!(
        "download server: {} {} was answered with {status}; its header fields: {}",
        request.method,
        request.target,
        fields(&request.headers)
    ));
    if shelf.requests.len() < MAX_REQUESTS {
        shelf.requests.push(Download { status, ..request });
    }
}

fn answer(arrival: Arrival, content: Bytes, manner: Manner) -> u16 {
    const TYPE: (&str, &str) = ("content-type", "application/octet-stream");
    if !matches!(arrival.method, Method::GET | Method::HEAD) {
        arrival.respond(405, &[], Bytes::new());
        return 405;
    }
    match manner {
        Manner::Refused(status) => {
            arrival.respond(status, &[], Bytes::new());
            status
        }
        Manner::Elsewhere(url) => {
            arrival.respond(302, &[("location", url.as_str())], Bytes::new());
            302
        }
        Manner::Guarded(name, value)
            if arrival.headers.get(name).is_none_or(|sent| sent.as_bytes() != value.as_bytes()) =>
        {
            arrival.respond(401, &[], Bytes::new());
            401
        }
        Manner::Well | Manner::Guarded(..) => {
            let all = content.len();
            if let Some(from) = range(&arrival.headers).filter(|from| *from < all) {
                let range = format!("bytes {from}-{}/{all}", all - 1);
                let headers = [TYPE, ("content-range", range.as_str())];
                arrival.respond(206, &headers, content.slice(from..));
                return 206;
            }
            arrival.respond(200, &[TYPE, ("accept-ranges", "bytes")], content);
            200
        }
        Manner::Slowly(parts, pause) => {
            arrival.respond_as(200, &[TYPE], content, Delivery::Slow(parts, pause));
            200
        }
        Manner::CutOnce => {
            arrival.respond_as(200, &[TYPE], content, Delivery::CutShort);
            200
        }
    }
}

/// Where a request for the rest of a file wants it to begin.
fn range(headers: &HeaderMap) -> Option<usize> {
    field(headers, header::RANGE).strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

/// Header fields on one line.
pub(super) fn fields(headers: &HeaderMap) -> String {
    let of = |(name, value): (&header::HeaderName, &header::HeaderValue)| {
        format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
    };
    headers.iter().map(of).collect::<Vec<_>>().join(", ")
}
