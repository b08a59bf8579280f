//! Interrupted downloads: what came is not fetched again, and two files are never taken for one.

use opamp_proto::v1::PackageStatusEnum as State;

use super::{LARGE, Scene, content, package};
use crate::support::http::{Request, head};

/// Sends the file as far as `upto`, and drops the connection.
async fn cut(mut request: Request, headers: &[(&str, &str)], content: &[u8], upto: usize) {
    request.write(head(200, headers, content.len()).as_bytes()).await;
    request.write(&content[..upto]).await;
}

/// Where the request wants to go on.
fn from(request: &Request) -> usize {
    let range = request.header("range").expect("a part is asked for");
    let from = range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap();
    from.parse().unwrap()
}

/// The rest of the file, as it was asked for.
async fn rest(request: Request, etag: &str, content: &[u8]) -> usize {
    let from = from(&request);
    let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
    let headers = [("ETag", etag), ("Content-Range", &*range)];
    request.answer(206, &headers, &content[from..]).await;
    from
}

#[tokio::test]
async fn a_download_that_was_cut_goes_on_where_it_was() {
    let _judged = opamp_spec::judges(&["PKG-26", "PKG-71"]);
    let mut scene = Scene::new().await;
    let content = content(LARGE);
    scene.offer_one(&package("1.0", &scene.url("/1"), &content)).await;
    cut(scene.downloads.request().await, &[("ETag", "\"1\"")], &content, 100).await;
    let request = scene.downloads.request().await;
    assert_eq!(request.header("if-range"), Some("\"1\""));
    let first = from(&request);
    assert!(first <= 100);
    let range = format!("bytes {first}-{}/{LARGE}", LARGE - 1);
    let mut request = request;
    let head = head(206, &[("ETag", "\"1\""), ("Content-Range", &range)], LARGE - first);
    request.write(head.as_bytes()).await;
    request.write(&content[first..600_000]).await;
    drop(request);
    let second = rest(scene.downloads.request().await, "\"1\"", &content).await;
    assert!(second > first && second <= 600_000, "{first} {second}");
    scene.install(&content).await;
}

#[tokio::test]
async fn a_download_goes_on_after_a_restart_of_the_agent() {
    let _judged = opamp_spec::judges(&["PKG-26", "PKG-27"]);
    let mut scene = Scene::new().await;
    let content = content(LARGE);
    scene.offer_one(&package("1.0", &scene.url("/1"), &content)).await;
    let mut request = scene.downloads.request().await;
    request.write(head(200, &[("ETag", "\"1\"")], LARGE).as_bytes()).await;
    request.write(&content[..600_000]).await;
    // Two blocks are on their way to the disk when the process is killed.
    let found = async {
        let part = || {
            let directory = std::fs::read_dir(scene.dir.path().join("files/p-plugin")).ok()?;
            let mut files = directory.filter_map(|entry| Some(entry.ok()?.path()));
            files.find(|file| file.extension().is_some_and(|extension| extension == "part"))
        };
        while part().is_none_or(|part| std::fs::metadata(part).map_or(0, |m| m.len()) < 262_144) {
            tokio::task::yield_now().await;
        }
    };
    crate::support::soon(found).await;
    let mut scene = scene.restarted().await;
    let statuses = scene.first_statuses();
    assert_ne!(statuses.packages["plugin"].status, State::Installed as i32);
    // Without another offer: the server may think that all is well.
    let from = rest(scene.downloads.request().await, "\"1\"", &content).await;
    assert!(from >= 262_144, "{from}");
    scene.install(&content).await;

    let mut scene = scene.restarted().await;
    let status = scene.first_statuses().packages["plugin"].clone();
    assert_eq!((status.status, &*status.agent_has_version), (State::Installed as i32, "1.0"));
    // Handed over and not answered: handed over again, without another download.
    let newer = b"another".to_vec();
    scene.offer_one(&package("2.0", &scene.url("/2"), &newer)).await;
    scene.downloads.request().await.answer(200, &[], &newer).await;
    assert_eq!(scene.handed().await.times(), 1);
    let mut scene = scene.restarted().await;
    let offer = scene.handed().await;
    assert_eq!((offer.times(), offer.version()), (2, "2.0"));
    assert_eq!(std::fs::read(offer.location()).unwrap(), newer);
}

#[tokio::test]
async fn a_server_that_does_not_go_on_is_listened_to_from_the_start() {
    let mut scene = Scene::new().await;
    let content = content(LARGE);
    scene.offer_one(&package("1.0", &scene.url("/1"), &content)).await;
    cut(scene.downloads.request().await, &[("ETag", "\"1\"")], &content, 300_000).await;
    let request = scene.downloads.request().await;
    assert!(from(&request) > 0);
    // The file is another one now, as far as the server knows.
    request.answer(200, &[("ETag", "\"2\"")], &content).await;
    scene.install(&content).await;
}

#[tokio::test]
async fn a_part_that_is_too_long_is_thrown_away() {
    let mut scene = Scene::new().await;
    let content = content(LARGE);
    scene.offer_one(&package("1.0", &scene.url("/1"), &content)).await;
    cut(scene.downloads.request().await, &[("ETag", "\"1\"")], &content, 300_000).await;
    let request = scene.downloads.request().await;
    assert!(from(&request) > 0);
    request.answer(416, &[("Content-Range", "bytes */10")], b"").await;
    let request = scene.downloads.request().await;
    assert_eq!(request.header("range"), None);
    request.answer(200, &[], &content).await;
    scene.install(&content).await;
}

#[tokio::test]
async fn another_part_than_was_asked_for_is_not_put_in_its_place() {
    for (range, etag) in [
        ("bytes 0-699999/700000", "\"1\""),
        ("bytes 5-699999/700000", "\"1\""),
        ("bytes 0-4/700000", "\"1\""),
        ("nonsense", "\"1\""),
        // The right part of the wrong file.
        ("", "\"2\""),
    ] {
        let mut scene = Scene::new().await;
        let content = content(LARGE);
        scene.offer_one(&package("1.0", &scene.url("/1"), &content)).await;
        cut(scene.downloads.request().await, &[("ETag", "\"1\"")], &content, 300_000).await;
        let request = scene.downloads.request().await;
        let from = from(&request);
        let honest = format!("bytes {from}-{}/{LARGE}", LARGE - 1);
        let range = if range.is_empty() { &honest } else { range };
        let headers = [("ETag", etag), ("Content-Range", range)];
        request.answer(206, &headers, &vec![0xee; LARGE - from]).await;
        let request = scene.downloads.request().await;
        assert_eq!(request.header("range"), None, "it begins anew");
        request.answer(200, &[], &content).await;
        scene.install(&content).await;
    }
}

#[tokio::test]
async fn without_a_strong_validator_nothing_is_continued() {
    for headers in [
        &[][..],
        &[("ETag", "W/\"1\"")],
        // It may have changed within the minute.
        &[
            ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("Date", "Sun, 06 Nov 1994 08:50:00 GMT"),
        ],
    ] {
        let mut scene = Scene::new().await;
        let content = content(LARGE);
        scene.offer_one(&package("1.0", &scene.url("/1"), &content)).await;
        cut(scene.downloads.request().await, headers, &content, 300_000).await;
        let request = scene.downloads.request().await;
        assert_eq!(request.header("range"), None, "{headers:?}");
        request.answer(200, &[], &content).await;
        scene.install(&content).await;
    }
}

#[tokio::test]
async fn a_date_long_past_is_a_validator() {
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    let headers = [("Last-Modified", date), ("Date", "Sun, 06 Nov 1994 08:50:37 GMT")];
    let mut scene = Scene::new().await;
    let content = content(LARGE);
    scene.offer_one(&package("1.0", &scene.url("/1"), &content)).await;
    cut(scene.downloads.request().await, &headers, &content, 300_000).await;
    let request = scene.downloads.request().await;
    assert_eq!(request.header("if-range"), Some(date));
    let from = from(&request);
    let range = format!("bytes {from}-{}/{LARGE}", LARGE - 1);
    let rest = [headers[0], headers[1], ("Content-Range", &*range)];
    request.answer(206, &rest, &content[from..]).await;
    scene.install(&content).await;
}

#[tokio::test]
async fn a_whole_file_whose_end_was_not_seen_is_not_fetched_again() {
    let mut scene = Scene::new().await;
    let content = content(LARGE);
    scene.offer_one(&package("1.0", &scene.url("/1"), &content)).await;
    let mut request = scene.downloads.request().await;
    // All of the bytes, and a length that promises more.
    request.write(head(200, &[("ETag", "\"1\"")], LARGE + 1).as_bytes()).await;
    request.write(&content).await;
    drop(request);
    scene.install(&content).await;
}

#[tokio::test]
async fn a_file_that_was_changed_on_the_disk_is_fetched_again() {
    let _judged = opamp_spec::judges(&["PKG-71"]);
    let mut scene = Scene::new().await;
    let content = content(LARGE);
    scene.offer_one(&package("1.0", &scene.url("/1"), &content)).await;
    scene.downloads.request().await.answer(200, &[], &content).await;
    let offer = scene.handed().await;
    std::fs::write(offer.location(), &content[1..]).unwrap();
    // The agent stops before it answers, and is handed the package again.
    let mut scene = scene.restarted().await;
    scene.downloads.request().await.answer(200, &[], &content).await;
    scene.install(&content).await;
}
