//! The download of package files: header fields, redirects, progress.

use opamp_proto::v1::{Header, Headers};

use crate::case::{Case, Script};
use crate::client::ClientStage;
use crate::client::depot::{Depot, path};
use crate::client::download_server::{DownloadServer, Manner};
use crate::judge::Stop;
use crate::mask::agent::REPORTS_PACKAGE_STATUSES;
use crate::report::Transport;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/downloads/headers",
        judges: &["PKG-22", "PKG-23"],
        transports: Transport::BOTH,
        does: "offers a package whose file is only for who knows the token in its headers, and one \
               without headers",
        expects: "the first file is requested with them, the second without",
        alone: false,
        broken_by: &[
            "packages-are-ignored",
            "package-is-not-downloaded",
            "download-headers-are-not-sent",
            "download-headers-go-everywhere",
        ],
        script: Script::Client(|stage| Box::pin(headers(stage))),
    },
    Case {
        name: "client/downloads/redirect",
        judges: &["PKG-22"],
        transports: Transport::BOTH,
        does: "redirects the request for a file with a token to a server of another authority",
        expects: "the token goes to the server it was offered for, whatever becomes of the redirect",
        alone: false,
        broken_by: &[
            "packages-are-ignored",
            "package-is-not-downloaded",
            "download-headers-are-not-sent",
        ],
        script: Script::Client(|stage| Box::pin(redirect(stage))),
    },
    Case {
        name: "client/downloads/progress",
        judges: &["PKG-24", "PKG-25", "PKG-65"],
        transports: Transport::BOTH,
        does: "hands out a file slowly",
        expects: "reports meanwhile are optional; the percentage in them grows from 0 to 100",
        alone: false,
        broken_by: &["download-percent-counts-down"],
        script: Script::Client(|stage| Box::pin(progress(stage))),
    },
];

const GUARDED: &str = "conformance-guarded";
const OPEN: &str = "conformance-open";
const TOKEN: (&str, &str) = ("authorization", "Bearer conformance-token");
const EXTRA: (&str, &str) = ("x-conformance", "download");

fn offered_headers() -> Option<Headers> {
    let header =
        |(key, value): (&str, &str)| Header { key: key.to_owned(), value: value.to_owned() };
    Some(Headers { headers: [TOKEN, EXTRA].map(header).to_vec() })
}

/// Which of the offered header fields a request has.
fn sent(headers: &http::HeaderMap) -> Vec<&'static str> {
    let has = |(name, value): &(&str, &str)| {
        headers.get(*name).is_some_and(|sent| sent.as_bytes() == value.as_bytes())
    };
    [TOKEN, EXTRA].into_iter().filter(has).map(|(name, _)| name).collect()
}

async fn headers(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut depot = Depot::open(stage, 0).await?;
    let guarded = Manner::Guarded(TOKEN.0, TOKEN.1);
    let mut package = depot.package(stage, GUARDED, "1.0.0", guarded);
    if let Some(file) = &mut package.file {
        file.headers = offered_headers();
    }
    let open = depot.package(stage, OPEN, "1.0.0", Manner::Well);
    depot.offer(stage, &[(GUARDED, &package), (OPEN, &open)]).await?;
    depot.fetched(GUARDED, "1.0.0").await;
    let fetched = depot.fetched(OPEN, "1.0.0").await;
    let of = |name| depot.downloads.requests(&path(name, "1.0.0"));
    let with: Vec<_> = of(GUARDED).iter().map(|request| sent(&request.headers)).collect();
    let without: Vec<_> = of(OPEN).iter().map(|request| sent(&request.headers)).collect();
    let both = with.iter().any(|sent| sent.len() == 2);
    let actual = format!("offered header fields in the requests: {with:?}");
    for row in ["PKG-22", "PKG-23"] {
        stage.judge.expect(row, both, "a request with both header fields", &actual);
    }
    if !fetched {
        return Err(Stop::Unreached("the client does not fetch the other package".to_owned()));
    }
    let none = without.iter().all(Vec::is_empty);
    let actual = format!("header fields of the other file in its requests: {without:?}");
    stage.judge.expect("PKG-23", none, "none of them in the requests for the other file", actual);
    Ok(())
}

async fn redirect(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut depot = Depot::open(stage, 0).await?;
    let stranger = DownloadServer::open(&stage.subject.network(), &stage.log).await?;
    let mut package = depot.package(stage, GUARDED, "1.0.0", Manner::Well);
    let url = stranger.put("/stranger", bytes::Bytes::from_static(b"stranger"), Manner::Well);
    let away = Manner::Elsewhere(url);
    depot.downloads.put(&path(GUARDED, "1.0.0"), bytes::Bytes::new(), away);
    if let Some(file) = &mut package.file {
        file.headers = offered_headers();
    }
    depot.offer(stage, &[(GUARDED, &package)]).await?;
    depot.fetched(GUARDED, "1.0.0").await;
    depot.idle().await;
    let asked = depot.downloads.requests(&path(GUARDED, "1.0.0"));
    let first: Vec<_> = asked.iter().map(|request| sent(&request.headers)).collect();
    let told: Vec<_> =
        stranger.requests("/stranger").iter().map(|request| sent(&request.headers)).collect();
    // Nothing is required of redirects. That a token went to a stranger is told to whoever reads
    // it.
    let actual = format!("offered header fields: {first:?}; after the redirect: {told:?}");
    let both = first.iter().any(|sent| sent.len() == 2);
    stage.judge.expect("PKG-22", both, "a request with both header fields", actual);
    Ok(())
}

async fn progress(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut depot = Depot::open(stage, REPORTS_PACKAGE_STATUSES).await?;
    let slowly = Manner::Slowly(8, stage.pace.of(0.5));
    let package = depot.package(stage, OPEN, "1.0.0", slowly);
    depot.offer(stage, &[(OPEN, &package)]).await?;
    depot.settle().await;
    if depot.count(OPEN, "1.0.0") == 0 {
        return Err(Stop::Unreached("the client does not fetch the package".to_owned()));
    }
    let states = depot.reports.iter().filter_map(|statuses| statuses.packages.get(OPEN));
    let states: Vec<_> = states.collect();
    let seen = format!("{} reports of the package until the end", states.len());
    stage.judge.note("PKG-24", &seen);
    stage.judge.note("PKG-25", seen);
    let details = states.iter().filter_map(|status| status.download_details);
    let percent: Vec<_> = details.map(|details| details.download_percent).collect();
    if percent.is_empty() {
        stage.judge.not_applicable("PKG-65", "the client reports no download_details");
        return Ok(());
    }
    let grows = percent.windows(2).all(|pair| pair[0] <= pair[1]);
    let actual = format!("download_percent {percent:?}");
    stage.judge.expect("PKG-65", grows, "a percentage that does not get smaller", actual);
    Ok(())
}
