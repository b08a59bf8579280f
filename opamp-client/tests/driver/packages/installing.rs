//! From an offer to what the agent has, over both transports.

use std::time::Duration;

use opamp_client::core::Event;
use opamp_client::packages::{
    FilePackageStore, Minisign, Packages, PackagesConfig, SignatureVerifier, SignedPackage,
};
use opamp_proto::v1::{self, PackageStatusEnum as State};

use super::{LARGE, Scene, content, hasty, package, reply};
use crate::support::{Agent, agent, http, is_bare, quick, soon};

#[tokio::test]
async fn a_package_is_downloaded_verified_and_installed() {
    let _judged = opamp_spec::judges(&[
        "PKG-06", "PKG-08", "PKG-11", "PKG-16", "PKG-20", "PKG-21", "PKG-22", "PKG-23", "PKG-26",
        "PKG-36", "PKG-71",
    ]);
    let mut scene = Scene::new().await;
    let content = content(LARGE);
    let mut offered = package("1.0", &scene.url("/files/plugin?token=t"), &content);
    let header = |key: &str, value: &str| v1::Header { key: key.into(), value: value.into() };
    offered.file.as_mut().unwrap().headers = Some(v1::Headers {
        headers: vec![
            header("Authorization", "Bearer secret"),
            header("X-Both", "1"),
            header("X-Both", "2"),
            // Not a server's to choose.
            header("Range", "bytes=5-"),
            header("Accept-Encoding", "gzip"),
        ],
    });
    scene.offer_one(&offered).await;
    let request = scene.downloads.request().await;
    assert_eq!((&*request.method, &*request.path_and_query), ("GET", "/files/plugin?token=t"));
    assert_eq!(request.header("authorization"), Some("Bearer secret"));
    assert_eq!(request.headers.get_all("x-both").iter().count(), 2);
    assert_eq!(request.header("range"), None);
    assert_eq!(request.header("accept-encoding"), Some("identity"));
    request.answer(200, &[("ETag", "\"1\"")], &content).await;
    scene.install(&content).await;
    // Nothing of the credentials is left.
    let forgotten = async {
        let holds = |records: Vec<u8>| records.windows(6).any(|window| window == b"secret");
        while holds(std::fs::read(scene.dir.path().join("records")).unwrap()) {
            tokio::task::yield_now().await;
        }
    };
    soon(forgotten).await;
}

#[tokio::test]
async fn packages_are_installed_over_http_too() {
    let _judged = opamp_spec::judges(&["PKG-16", "PKG-26", "PKG-36"]);
    let dir = tempfile::tempdir().unwrap();
    let server = http::Server::start().await;
    let downloads = http::Server::start().await;
    let store = FilePackageStore::open(dir.path()).unwrap();
    let packages = Packages::verified_by_hash(store).configure(hasty);
    let mut agent = Agent::start(agent(server.url()).packages(packages).configure(quick));
    let request = server.request().await;
    assert_eq!(request.report().package_statuses, Some(v1::PackageStatuses::default()));
    let offered = package("1.0", &downloads.url(), b"bytes");
    let offer = v1::PackagesAvailable {
        packages: [("plugin".to_owned(), offered)].into(),
        all_packages_hash: "all".into(),
    };
    request.reply(&v1::ServerToAgent { packages_available: Some(offer), ..reply() }).await;
    // Polls go on while the download does.
    let download = async { downloads.request().await };
    let polls = async {
        loop {
            let request = server.request().await;
            let statuses = request.report().package_statuses;
            request.reply(&reply()).await;
            if let Some(status) = statuses.and_then(|mut all| all.packages.remove("plugin"))
                && status.status == State::Installed as i32
            {
                return status;
            }
        }
    };
    let install = async {
        download.await.answer(200, &[], b"bytes").await;
        let offer = agent
            .until(|event| match event {
                Event::Package(offer) => Some(offer),
                _ => None,
            })
            .await;
        agent.client.resolve_package(offer.installed());
    };
    let (status, ()) = tokio::join!(polls, install);
    assert_eq!(status.agent_has_version, "1.0");
}

#[tokio::test]
async fn a_download_holds_up_neither_heartbeats_nor_replies() {
    let _judged = opamp_spec::judges(&["PKG-24", "PKG-61", "PKG-64", "PKG-65", "HB-01"]);
    let dir = tempfile::tempdir().unwrap();
    let server = crate::support::websocket::Server::start().await;
    let downloads = http::Server::start().await;
    let store = FilePackageStore::open(dir.path()).unwrap();
    let packages = Packages::verified_by_hash(store).configure(hasty);
    let packages = packages.configure(|config| config.progress_interval = Duration::from_secs(1));
    let agent = Agent::start(agent(server.url()).packages(packages).configure(quick));
    let (mut peer, _) = super::welcome(&server).await;
    let content = content(LARGE);
    let offer = v1::PackagesAvailable {
        packages: [("plugin".to_owned(), package("1.0", &downloads.url(), &content))].into(),
        all_packages_hash: "all".into(),
    };
    peer.send(&v1::ServerToAgent { packages_available: Some(offer), ..reply() }).await;
    let mut request = downloads.request().await;
    request.write(http::head(200, &[], LARGE).as_bytes()).await;
    // Bytes come, and then no more for a while.
    request.write(&content[..LARGE / 2]).await;
    let (mut heartbeats, mut progress) = (0, Vec::new());
    while heartbeats < 5 || progress.len() < 2 {
        let report = peer.report().await;
        peer.send(&reply()).await;
        heartbeats += usize::from(is_bare(&report));
        if let Some(statuses) = &report.package_statuses {
            let status = &statuses.packages["plugin"];
            if status.status == State::Downloading as i32 {
                progress.push(status.download_details.unwrap().download_percent);
            }
        }
    }
    assert!(progress.is_sorted() && progress.iter().all(|p| *p <= 50.0), "{progress:?}");
    agent.client.set_health(crate::support::healthy("as ever"));
    while peer.report().await.health.is_none() {}
    // And stopping does not wait for it either.
    let client = agent.client.clone();
    let stop = tokio::spawn(async move { client.stop().await });
    while peer.report().await.agent_disconnect.is_none() {}
    peer.close_frame().await;
    peer.ended().await;
    stop.await.unwrap();
    request.dropped().await;
    agent.ended().await;
}

#[tokio::test]
async fn the_progress_that_is_told_is_that_of_the_moment() {
    let _judged = opamp_spec::judges(&["PKG-65"]);
    let interval = Duration::from_secs(2);
    let adapt = |config: &mut PackagesConfig| config.progress_interval = interval;
    let mut scene = Scene::with(|packages| packages.configure(adapt)).await;
    let content = content(LARGE);
    scene.offer_one(&package("1.0", &scene.url("/1"), &content)).await;
    let mut request = scene.downloads.request().await;
    request.write(http::head(200, &[], LARGE).as_bytes()).await;
    scene.status(State::Downloading).await;
    let begun = std::time::Instant::now();
    request.write(&content[..LARGE / 2]).await;
    let percent = |all: &v1::PackageStatuses| {
        let details = all.packages["plugin"].download_details;
        details.map_or(0.0, |details| details.download_percent)
    };
    let all = scene.statuses(|all| percent(all) > 0.0).await;
    assert!(begun.elapsed() < interval * 7 / 4, "an interval late: {:?}", begun.elapsed());
    let details = all.packages["plugin"].download_details.unwrap();
    assert!(details.download_bytes_per_second > 0.0, "{details:?}");
}

#[tokio::test]
async fn several_packages_are_installed_and_removed() {
    let _judged = opamp_spec::judges(&["PKG-10", "PKG-14", "PKG-26", "PKG-27"]);
    let mut scene = Scene::new().await;
    let url = scene.downloads.url();
    let packages =
        ["a", "b", "c"].map(|name| package(name, &format!("{url}/{name}"), name.as_bytes()));
    let [a, b, c] = &packages;
    scene.offer(&[("a", a), ("b", b), ("c", c)]).await;
    for _ in 0..3 {
        let request = scene.downloads.request().await;
        let name = request.path_and_query[1..].to_owned();
        request.answer(200, &[], name.as_bytes()).await;
        let offer = scene.handed().await;
        let name = offer.name().to_owned();
        assert_eq!(std::fs::read_to_string(offer.location()).unwrap(), name);
        scene.agent.client.resolve_package(offer.installed());
    }
    let installed = |all: &v1::PackageStatuses| {
        let done = |status: &v1::PackageStatus| status.status == State::Installed as i32;
        all.packages.len() == 3 && all.packages.values().all(done)
    };
    scene.statuses(installed).await;
    scene.offer(&[("b", b)]).await;
    for name in ["a", "c"] {
        let removal = scene.removal().await;
        assert_eq!(removal.name(), name);
        scene.agent.client.resolve_package(removal.removed());
    }
    scene.statuses(|all| all.packages.keys().eq(["b"])).await;
    // In the store there is the one that is left.
    let files = || std::fs::read_dir(scene.dir.path().join("files")).unwrap().count();
    let gone = async {
        while files() > 1 {
            tokio::task::yield_now().await;
        }
    };
    soon(gone).await;
}

#[tokio::test]
async fn a_file_the_agent_has_is_not_downloaded_again() {
    let _judged = opamp_spec::judges(&["PKG-17", "PKG-19", "PKG-32"]);
    let mut scene = Scene::new().await;
    let content = content(LARGE);
    scene.offer_one(&package("1.0", &scene.url("/1"), &content)).await;
    scene.downloads.request().await.answer(200, &[], &content).await;
    scene.install(&content).await;
    // Another version of the same bytes: the URL leads nowhere, and is not followed.
    scene.offer_one(&package("1.1", "http://127.0.0.1:1/nowhere", &content)).await;
    scene.install(&content).await;
}

const KEY: &str = "RWTDEE3QVI6TvVagRkxyQBKiCJHPNIA2ydJNkd8JzD87Xtw13fYTsgJD";
const SIGNED: &[u8] = b"the bytes of the package\n";
const SIGNATURE: &str = "untrusted comment: test\n\
    RUTDEE3QVI6Tve47DmpChrYIhD2BrpF6AtyWNbvwb7r/sKSGH5eDuVg3cYlTyBGf0Mb6I4bt9USjSYa0pjYVZPJQIA+I+KYjSAc=\n\
    trusted comment: signed for a test\n\
    0ITkEydPVdHgThZ03pOcboMvilUzUtk4oIo9Zml1JFmRS9pMyfENsRDdDkge/TAeTkVZhLgfFumR8Pk6n2UvAA==\n";

async fn signed_scene(verifier: impl SignatureVerifier + 'static) -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let store = FilePackageStore::open(dir.path()).unwrap();
    let mut scene =
        Scene::with(|_| Packages::verified_by_signature(store, verifier).configure(hasty)).await;
    scene.dir = dir;
    scene
}

#[tokio::test]
async fn a_signed_package_is_installed_and_no_other() {
    let _judged = opamp_spec::judges(&["PKG-72", "SEC-13"]);
    let mut scene = signed_scene(Minisign::new(KEY).unwrap()).await;
    let mut signed = package("1.0", &scene.url("/1"), SIGNED);
    signed.file.as_mut().unwrap().signature = SIGNATURE.into();
    scene.offer_one(&signed).await;
    scene.downloads.request().await.answer(200, &[], SIGNED).await;
    scene.install(SIGNED).await;

    // Other bytes, whose SHA-256 the server knows, but whose signature it cannot make.
    let mut forged = package("2.0", &scene.url("/2"), b"malware");
    forged.file.as_mut().unwrap().signature = SIGNATURE.into();
    scene.offer_one(&forged).await;
    scene.downloads.request().await.answer(200, &[], b"malware").await;
    assert!(scene.failed().await.starts_with("the signature is not valid"));
    let status = scene.status(State::InstallFailed).await;
    assert_eq!((&*status.agent_has_version, &*status.server_offered_version), ("1.0", "2.0"));

    scene.offer_one(&package("3.0", &scene.url("/3"), b"unsigned")).await;
    assert!(scene.failed().await.contains("not signed"));
}

/// An offer that is not taken leaves alone what the agent has.
#[tokio::test]
async fn a_bad_signature_does_not_take_the_file_from_the_agent() {
    let _judged = opamp_spec::judges(&["PKG-72"]);
    let mut scene = signed_scene(Minisign::new(KEY).unwrap()).await;
    let mut signed = package("1.0", &scene.url("/1"), SIGNED);
    signed.file.as_mut().unwrap().signature = SIGNATURE.into();
    scene.offer_one(&signed).await;
    scene.downloads.request().await.answer(200, &[], SIGNED).await;
    let offer = scene.handed().await;
    let location = offer.location().to_owned();
    scene.agent.client.resolve_package(offer.installed());
    scene.status(State::Installed).await;

    let mut forged = package("2.0", &scene.url("/1"), SIGNED);
    forged.file.as_mut().unwrap().signature = "forged".into();
    scene.offer_one(&forged).await;
    assert!(scene.failed().await.starts_with("the signature is not valid"));
    assert_eq!(std::fs::read(location).unwrap(), SIGNED);
}

/// Reads nothing, or fails in every other way a verifier can.
struct Careless(bool);

impl SignatureVerifier for Careless {
    fn verify(&self, package: &SignedPackage<'_>, _: &mut dyn std::io::Read) -> Result<(), String> {
        assert_eq!((package.name, package.version), ("plugin", "1.0"));
        assert!(!self.0, "a verifier of this test panics");
        Ok(())
    }
}

#[tokio::test]
async fn a_verifier_that_panics_verifies_nothing() {
    for panics in [false, true] {
        let mut scene = signed_scene(Careless(panics)).await;
        let content = content(LARGE);
        let mut signed = package("1.0", &scene.url("/1"), &content);
        signed.file.as_mut().unwrap().signature = "any".into();
        scene.offer_one(&signed).await;
        scene.downloads.request().await.answer(200, &[], &content).await;
        if panics {
            assert!(scene.failed().await.contains("panicked"));
        } else {
            scene.install(&content).await;
        }
    }
}
