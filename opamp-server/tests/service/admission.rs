//! Who is let in, and what the others are told.

use std::sync::Mutex;
use std::time::Duration;

use http::header::{LINK, SERVER};
use http::{HeaderValue, StatusCode, request};
use opamp_proto::Message as _;
use opamp_server::{AgentChange, BearerTokens, Handler, PeerAddr, Rejection, Tenant};
use tokio::sync::mpsc;

use crate::client::{UID, beat, post, report, soon, start_with, uid};

#[tokio::test]
async fn bearer_tokens_are_checked_before_anything_else() {
    let _judged = opamp_spec::judges(&["AUTH-01", "AUTH-02", "AUTH-03", "AUTH-04"]);
    let server = start_with(BearerTokens::new(["first", "second", ""]), |_, _| {}).await;
    let refused = [
        None,
        Some("Bearer third"),
        Some("Bearer firs"),
        Some("Bearer firsts"),
        Some("Bearer "),
        Some("Bearer"),
        Some("Basic first"),
        Some("first"),
    ];
    for header in refused {
        let headers: Vec<_> = header.iter().map(|value| ("authorization", *value)).collect();
        let answer = server.websocket_with(&headers).await.err().expect("no upgrade");
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{header:?}");
        assert_eq!(answer.headers()["www-authenticate"], "Bearer realm=\"OpAMP\"");

        let mut request = post(report(1).encode_to_vec());
        if let Some(header) = header {
            request.headers_mut().insert("authorization", header.parse().unwrap());
        }
        let answer = server.request(request).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{header:?}");
        assert!(answer.headers.contains_key("www-authenticate"));
    }
    assert!(server.fleet.is_empty());
    assert_eq!(server.fleet.counters().rejected(), 16);

    for header in ["Bearer first", "bearer second", "BEARER  second "] {
        let mut socket =
            server.websocket_with(&[("authorization", header)]).await.expect("an upgrade");
        socket.send(&report(1)).await;
        assert_eq!(socket.recv().await.error_response, None);
        let mut request = post(beat(2).encode_to_vec());
        request.headers_mut().insert("authorization", header.parse().unwrap());
        assert_eq!(server.request(request).await.status, StatusCode::OK);
    }
}

/// Answers as the request's header asks for.
struct Moody;

impl Handler for Moody {
    type Identity = ();

    async fn admit(&self, request: &request::Parts) -> Result<(), Rejection> {
        match request.headers.get("mood").map(HeaderValue::as_bytes) {
            Some(b"forbid") => Err(Rejection::forbidden()),
            Some(b"throttle") => Err(Rejection::too_many_requests(Duration::from_secs(7))),
            Some(b"overloaded") => Err(Rejection::unavailable(Duration::from_millis(1))),
            Some(b"challenge") => Err(Rejection::unauthorized(HeaderValue::from_static("Basic"))),
            Some(b"panic") => panic!("as asked for"),
            Some(b"sleep") => std::future::pending().await,
            Some(b"explain") => Err(Rejection::forbidden()
                .with_header(SERVER, HeaderValue::from_static("ours"))
                .with_header(LINK, HeaderValue::from_static("</enrol>; rel=help"))),
            _ => Ok(()),
        }
    }
}

#[tokio::test]
async fn every_rejection_has_its_status_and_header() {
    let _judged = opamp_spec::judges(&["THR-06", "THR-07", "THR-08", "AUTH-03", "AUTH-04"]);
    let server = start_with(Moody, |_, service| {
        service.admission_deadline = Duration::from_millis(50);
    })
    .await;
    for (mood, status, header) in [
        ("forbid", 403, None),
        ("throttle", 429, Some(("retry-after", "7"))),
        ("overloaded", 503, Some(("retry-after", "1"))),
        ("challenge", 401, Some(("www-authenticate", "Basic"))),
        ("panic", 500, None),
        ("sleep", 503, Some(("retry-after", "1"))),
        ("explain", 403, Some(("server", "ours"))),
        ("explain", 403, Some(("link", "</enrol>; rel=help"))),
    ] {
        let refused = server.websocket_with(&[("mood", mood)]).await.err().expect("no upgrade");
        assert_eq!(refused.status(), status, "{mood}");
        let mut request = post(report(1).encode_to_vec());
        request.headers_mut().insert("mood", mood.parse().unwrap());
        let answer = server.request(request).await;
        assert_eq!(answer.status, status, "{mood}");
        if let Some((name, value)) = header {
            assert_eq!(refused.headers()[name], value, "{mood}");
            assert_eq!(answer.headers[name], value, "{mood}");
        }
    }
    assert_eq!(server.fleet.counters().handler_panics, 2);
    server.check_alive().await;
}

/// Panics over what it is asked about an identity.
struct Clumsy;

impl Handler for Clumsy {
    type Identity = &'static str;

    async fn admit(&self, request: &request::Parts) -> Result<&'static str, Rejection> {
        let asked = |name| request.headers.contains_key(name);
        Ok(["tenant", "account"].into_iter().find(|name| asked(*name)).unwrap_or_default())
    }

    fn tenant(&self, identity: &&'static str) -> Tenant {
        assert_ne!(*identity, "tenant", "as asked for");
        Tenant::default()
    }

    fn account(&self, identity: &&'static str) -> Option<u128> {
        assert_ne!(*identity, "account", "as asked for");
        None
    }
}

#[tokio::test]
async fn a_handler_that_panics_over_an_identity_is_answered_for() {
    let server = start_with(Clumsy, |_, _| {}).await;
    for panics in ["tenant", "account"] {
        let mut request = post(report(1).encode_to_vec());
        request.headers_mut().insert(panics, HeaderValue::from_static("yes"));
        assert_eq!(server.request(request).await.status, 500, "{panics}");
    }
    let refused = server.websocket_with(&[("account", "yes")]).await.err().expect("no upgrade");
    assert_eq!(refused.status(), 500);
    // Of its tenant it is asked when the WebSocket is open.
    let mut socket = server.websocket_with(&[("tenant", "yes")]).await.expect("an upgrade");
    socket.recv_end().await;
    let counters = server.fleet.counters();
    assert_eq!((counters.handler_panics, counters.responses_500), (3, 3));
    server.check_alive().await;
}

/// Passes identities on.
struct Identities(Mutex<mpsc::UnboundedSender<(String, opamp_server::Changes)>>);

impl Handler for Identities {
    type Identity = String;

    async fn admit(&self, request: &request::Parts) -> Result<String, Rejection> {
        let peer = request.extensions.get::<PeerAddr>().expect("the listener knows it");
        assert!(peer.0.ip().is_loopback());
        let name = request.headers.get("name").and_then(|name| name.to_str().ok());
        Ok(name.unwrap_or("nobody").to_owned())
    }

    async fn agent_changed(&self, change: AgentChange<String>) {
        let _ = self.0.lock().unwrap().send((change.identity, change.changes));
    }
}

#[tokio::test]
async fn the_identity_reaches_every_later_call() {
    let (sender, mut calls) = mpsc::unbounded_channel();
    let server = start_with(Identities(Mutex::new(sender)), |_, _| {}).await;
    let mut socket = server.websocket_with(&[("name", "socket")]).await.expect("an upgrade");
    socket.send(&report(1)).await;
    socket.recv().await;
    assert_eq!(soon(calls.recv()).await.unwrap().0, "socket");
    drop(socket);
    let (identity, changes) = soon(calls.recv()).await.unwrap();
    assert_eq!(identity, "socket");
    assert_eq!(changes, opamp_server::Changes::DISCONNECTED);
    let mut request = post(beat(2).encode_to_vec());
    request.headers_mut().insert("name", "request".parse().unwrap());
    server.request(request).await;
    assert_eq!(soon(calls.recv()).await.unwrap().0, "request");
    assert!(server.fleet.agent(uid(&UID)).is_some());
}
