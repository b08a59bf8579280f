//! What a download may cost, whatever its server says.

use std::time::Duration;

use opamp_client::packages::{FilePackageStore, Packages};

use super::{LARGE, Scene, content, hasty, package};
use crate::support::http::head;

const LIMIT: u64 = 500_000;

fn limited(packages: Packages) -> Packages {
    packages.configure(|config| config.max_file_size = LIMIT)
}

fn nothing_is_kept(scene: &Scene) {
    let Ok(directory) = std::fs::read_dir(scene.dir.path().join("files/p-plugin")) else { return };
    let files: Vec<_> = directory.map(|entry| entry.unwrap().file_name()).collect();
    assert!(files.is_empty(), "{files:?}");
}

#[tokio::test]
async fn a_file_that_says_it_is_too_large_is_not_read() {
    let mut scene = Scene::with(limited).await;
    scene.offer_one(&package("1.0", &scene.url("/1"), &content(LARGE))).await;
    let mut request = scene.downloads.request().await;
    request.write(head(200, &[], LARGE).as_bytes()).await;
    assert_eq!(scene.failed().await, "the file is larger than the 500000 bytes allowed");
    request.dropped().await;
    nothing_is_kept(&scene);
}

#[tokio::test]
async fn a_file_that_does_not_say_how_large_it_is_is_read_up_to_the_limit() {
    let mut scene = Scene::with(limited).await;
    scene.offer_one(&package("1.0", &scene.url("/1"), &content(LARGE))).await;
    let mut request = scene.downloads.request().await;
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    request.write(head.as_bytes()).await;
    let chunk = content(100_000);
    // More than it takes; the rest is not taken.
    for _ in 0..20 {
        request.write(b"186a0\r\n").await;
        request.write(&chunk).await;
        request.write(b"\r\n").await;
    }
    assert_eq!(scene.failed().await, "the file is larger than the 500000 bytes allowed");
    nothing_is_kept(&scene);
}

#[tokio::test]
async fn a_file_of_just_the_limit_is_taken() {
    let mut scene = Scene::with(limited).await;
    let content = content(usize::try_from(LIMIT).unwrap());
    scene.offer_one(&package("1.0", &scene.url("/1"), &content)).await;
    scene.downloads.request().await.answer(200, &[], &content).await;
    scene.install(&content).await;
}

#[tokio::test]
async fn a_server_that_falls_silent_is_left() {
    let mut scene = Scene::with(|packages| packages.idle_timeout(Duration::from_millis(200))).await;
    let content = content(LARGE);
    scene.offer_one(&package("1.0", &scene.url("/1"), &content)).await;
    // Before it answers, and in the middle of the file.
    let silent = scene.downloads.request().await;
    let mut half = scene.downloads.request().await;
    silent.dropped().await;
    half.write(head(200, &[("ETag", "\"1\"")], LARGE).as_bytes()).await;
    half.write(&content[..300_000]).await;
    let request = scene.downloads.request().await;
    half.dropped().await;
    assert!(request.header("range").is_some());
    request.answer(200, &[], &content).await;
    scene.install(&content).await;
}

/// One that is never silent for long, and never done either.
#[tokio::test]
async fn a_server_that_trickles_is_left() {
    let mut scene = Scene::with(|packages| {
        packages.idle_timeout(Duration::from_millis(300)).least_rate(1_000_000)
    })
    .await;
    let content = content(LARGE);
    scene.offer_one(&package("1.0", &scene.url("/1"), &content)).await;
    let mut slow = scene.downloads.request().await;
    slow.write(head(200, &[("ETag", "\"1\"")], LARGE).as_bytes()).await;
    let trickle = async {
        for byte in &content {
            slow.write(&[*byte]).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let again = tokio::select! {
        () = trickle => panic!("that takes hours"),
        again = scene.downloads.request() => again,
    };
    assert!(again.header("range").is_some(), "what came is not lost");
    again.answer(200, &[], &content).await;
    scene.install(&content).await;
}

#[tokio::test]
async fn a_store_that_is_full_fails_the_package() {
    let dir = tempfile::tempdir().unwrap();
    let store = FilePackageStore::open_with_quota(dir.path(), 400_000).unwrap();
    let mut scene = Scene::with(|_| Packages::verified_by_hash(store).configure(hasty)).await;
    let content = content(LARGE);
    scene.offer_one(&package("1.0", &scene.url("/1"), &content)).await;
    scene.downloads.request().await.answer(200, &[], &content).await;
    let why = scene.failed().await;
    assert!(why.contains("limited to 400000 bytes"), "{why}");
    // Half a file that can never be whole takes room that others need.
    scene.dir = dir;
    nothing_is_kept(&scene);
}
