//! Download servers that answer otherwise than with the file.

use opamp_proto::v1;
use opamp_proto::v1::PackageStatusEnum as State;

use super::{Scene, content, package, sha256};
use crate::support::certificates::Authority;
use crate::support::http;

#[tokio::test]
async fn other_bytes_than_were_offered_are_not_handed_over() {
    let _judged = opamp_spec::judges(&["PKG-71", "PKG-63"]);
    let mut scene = Scene::new().await;
    scene.offer_one(&package("1.0", &scene.url("/1"), b"the bytes of the package")).await;
    for wrong in [&b"something else altogether"[..], b"the bytes of the packag"] {
        scene.downloads.request().await.answer(200, &[], wrong).await;
    }
    assert_eq!(scene.failed().await, "the content does not match its content_hash");
    let status = scene.status(State::InstallFailed).await;
    assert_eq!((&*status.agent_has_version, status.agent_has_hash.len()), ("", 0));
}

#[tokio::test]
async fn what_cannot_be_had_is_not_asked_for_again() {
    let _judged = opamp_spec::judges(&["PKG-59", "PKG-60", "PKG-63"]);
    for status in [400, 401, 403, 404, 410] {
        let mut scene = Scene::new().await;
        scene.offer_one(&package("1.0", &scene.url("/1"), b"bytes")).await;
        scene.downloads.request().await.answer(status, &[], b"no").await;
        let why = format!("the download server answered with status {status}");
        assert_eq!(scene.failed().await, why);
    }
}

#[tokio::test]
async fn what_may_be_had_later_is_asked_for_again() {
    let mut scene = Scene::new().await;
    scene.offer_one(&package("1.0", &scene.url("/1"), b"bytes")).await;
    for status in [408, 429, 500, 503] {
        scene.downloads.request().await.answer(status, &[], b"").await;
    }
    scene.downloads.request().await.answer(200, &[], b"bytes").await;
    scene.install(b"bytes").await;
}

#[tokio::test]
async fn a_server_that_is_down_is_tried_a_few_times() {
    let mut scene = Scene::new().await;
    scene.offer_one(&package("1.0", "http://127.0.0.1:1/secret?token=secret", b"bytes")).await;
    let why = scene.failed().await;
    assert!(why.starts_with("the download failed"), "{why}");
    assert!(!why.contains("secret"), "{why}");
}

#[tokio::test]
async fn a_redirect_is_followed_without_the_credentials() {
    let _judged = opamp_spec::judges(&["PKG-06", "PKG-22", "SEC-01"]);
    let mut scene = Scene::new().await;
    let elsewhere = http::Server::start().await;
    let mut offered = package("1.0", &scene.url("/1"), b"bytes");
    let header = v1::Header { key: "X-Token".into(), value: "secret".into() };
    offered.file.as_mut().unwrap().headers = Some(v1::Headers { headers: vec![header] });
    scene.offer_one(&offered).await;
    let request = scene.downloads.request().await;
    assert_eq!(request.header("x-token"), Some("secret"));
    request.answer(302, &[("Location", "/moved")], b"").await;
    let request = scene.downloads.request().await;
    assert_eq!(&*request.path_and_query, "/moved");
    assert_eq!(request.header("x-token"), Some("secret"), "the same origin");
    let there = format!("{}/there", elsewhere.url());
    request.answer(307, &[("Location", &there)], b"").await;
    let request = elsewhere.request().await;
    assert_eq!(request.header("x-token"), None);
    assert_eq!(request.header("referer"), None);
    request.answer(200, &[], b"bytes").await;
    scene.install(b"bytes").await;
}

#[tokio::test]
async fn redirects_without_end_or_sense_end_the_download() {
    let mut scene = Scene::new().await;
    scene.offer_one(&package("1.0", &scene.url("/1"), b"bytes")).await;
    for _ in 0..6 {
        let request = scene.downloads.request().await;
        request.answer(302, &[("Location", "/1")], b"").await;
    }
    assert_eq!(scene.failed().await, "the download is redirected more than 5 times");

    for (location, why) in [
        ("http://[", "the download is redirected to no URL"),
        ("file:///etc/passwd", "the download is redirected to what is not HTTP"),
    ] {
        scene.offer_one(&package(location, &scene.url("/1"), b"bytes")).await;
        scene.downloads.request().await.answer(301, &[("Location", location)], b"").await;
        assert_eq!(scene.failed().await, why);
    }
}

#[tokio::test]
async fn https_is_verified_and_never_left() {
    let _judged = opamp_spec::judges(&["PKG-06", "SEC-01"]);
    let authority = Authority::new();
    let trusting = opamp_client::tls::Tls::new().trust_pem(authority.pem().as_bytes()).unwrap();
    let mut scene = Scene::with(|packages| packages.tls(trusting)).await;
    let secure = http::Server::start_tls(Authority::acceptor(&authority.server("127.0.0.1"))).await;
    let url = format!("https://127.0.0.1:{}/1", secure.port());
    scene.offer_one(&package("1.0", &url, b"bytes")).await;
    secure.request().await.answer(200, &[], b"bytes").await;
    scene.install(b"bytes").await;

    scene.offer_one(&package("2.0", &url, b"others")).await;
    let elsewhere = scene.url("/plain");
    secure.request().await.answer(302, &[("Location", &elsewhere)], b"").await;
    assert_eq!(scene.failed().await, "the download is redirected from https to http");
}

#[tokio::test]
async fn a_content_coding_is_not_undone() {
    let mut scene = Scene::new().await;
    let file = content(1000);
    scene.offer_one(&package("1.0", &scene.url("/1"), &file)).await;
    let request = scene.downloads.request().await;
    request.answer(200, &[("Content-Encoding", "gzip")], &file).await;
    assert_eq!(scene.failed().await, "the download server applied a content coding, unasked");

    // A file that is gzip is a file like others.
    let archive = opamp_proto::gzip::compress(&file);
    let mut offered = package("2.0", &scene.url("/plugin.gz"), &file);
    offered.file.as_mut().unwrap().content_hash = sha256(&archive);
    scene.offer_one(&offered).await;
    let request = scene.downloads.request().await;
    request.answer(200, &[("Content-Type", "application/gzip")], &archive).await;
    scene.install(&archive).await;
}

#[tokio::test]
async fn headers_that_cannot_be_sent_fail_the_package_alone() {
    for (key, value, why) in [
        ("no name", "x", "\"no name\" is no name of a header"),
        ("X-Token", "sec\r\nret", "the value of header x-token has illegal characters"),
    ] {
        let mut scene = Scene::new().await;
        let mut offered = package("1.0", &scene.url("/1"), b"bytes");
        let header = v1::Header { key: key.into(), value: value.into() };
        offered.file.as_mut().unwrap().headers = Some(v1::Headers { headers: vec![header] });
        scene.offer_one(&offered).await;
        assert_eq!(scene.failed().await, why);
    }
}

#[tokio::test]
async fn headers_without_number_fail_the_package_alone() {
    let mut scene = Scene::new().await;
    let mut offered = package("1.0", &scene.url("/1"), b"bytes");
    let header = |n| v1::Header { key: format!("x-{n}"), value: String::new() };
    let headers = (0..40_000).map(header).collect();
    offered.file.as_mut().unwrap().headers = Some(v1::Headers { headers });
    scene.offer_one(&offered).await;
    assert_eq!(scene.failed().await, "there are more than 256 headers");
}

#[tokio::test]
async fn downloads_can_have_a_proxy_of_their_own() {
    let _judged = opamp_spec::judges(&["PKG-06"]);
    let proxy = http::Server::start().await;
    let way = opamp_client::Proxy::url(&proxy.url()).unwrap();
    let mut scene = Scene::with(|packages| packages.proxy(way)).await;
    scene.offer_one(&package("1.0", "http://downloads.invalid/1?a=b", b"bytes")).await;
    let request = proxy.request().await;
    assert_eq!(&*request.path_and_query, "http://downloads.invalid/1?a=b");
    request.answer(200, &[], b"bytes").await;
    scene.install(b"bytes").await;
}
