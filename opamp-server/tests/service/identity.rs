//! What an identity may speak for.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, request};
use http_body_util::Full;
use opamp_proto::{Message as _, v1};
use opamp_server::{AgentChange, Authorizing, Handler, Rejection, Tenant};
use tokio::sync::mpsc;

use crate::client::{BAD_REQUEST, MASK, OTHER, UID, beat, post, report, soon, start_with, uid};
use crate::support::{description, full_report, remote_config};

/// The tenant is in a header, and whoever changes is told.
struct ByHeader(mpsc::UnboundedSender<AgentChange<u128>>);

impl Handler for ByHeader {
    type Identity = u128;

    async fn admit(&self, request: &request::Parts) -> Result<u128, Rejection> {
        let tenant = request.headers.get("x-tenant").map(HeaderValue::to_str);
        tenant.and_then(|it| it.ok()?.parse().ok()).ok_or_else(Rejection::forbidden)
    }

    fn tenant(&self, identity: &u128) -> Tenant {
        Tenant::new(*identity)
    }

    async fn agent_changed(&self, change: AgentChange<u128>) {
        let _ = self.0.send(change);
    }
}

#[tokio::test]
async fn a_credential_of_one_tenant_cannot_speak_for_an_agent_of_another() {
    let (told, mut changes) = mpsc::unbounded_channel();
    let server = start_with(ByHeader(told), |_, _| {}).await;
    let named =
        |name| v1::AgentToServer { agent_description: Some(description(name)), ..report(1) };
    let mut mine = server.websocket_with(&[("x-tenant", "1")]).await.expect("an upgrade");
    mine.send(&named("mine")).await;
    let _ = mine.recv().await;
    let mine_is = Tenant::new(1).agent(uid(&UID));
    let change = soon(changes.recv()).await.expect("a change");
    assert_eq!((*change.agent.key(), change.identity), (mine_is, 1));

    // The same uid with another credential, on either transport: an Agent of its own.
    let mut theirs = server.websocket_with(&[("x-tenant", "2")]).await.expect("an upgrade");
    theirs.send(&named("theirs")).await;
    let _ = theirs.recv().await;
    let mut request = post(named("over HTTP").encode_to_vec());
    request.headers_mut().insert("x-tenant", HeaderValue::from_static("3"));
    let _ = server.request(request).await.message();
    for tenant in [2, 3] {
        let change = soon(changes.recv()).await.expect("a change");
        assert_eq!((change.agent.tenant(), change.identity), (Tenant::new(tenant), tenant));
    }
    assert_eq!(server.fleet.len(), 3);

    // Nobody has taken over from anybody: the first one goes on where it was, and gets its own.
    let agent = server.fleet.agent(mine_is).expect("known");
    assert_eq!(agent.state().agent_description(), Some(description("mine")));
    mine.send(&beat(2)).await;
    assert_eq!(mine.recv().await.flags, 0);
    server.fleet.set_remote_config(mine_is, remote_config("mine")).expect("set");
    assert!(mine.recv().await.remote_config.is_some());
    theirs.send(&beat(2)).await;
    let reply = theirs.recv().await;
    assert_eq!((reply.flags, reply.remote_config), (0, None));
    drop(theirs);
    let theirs_is = Tenant::new(2).agent(uid(&UID));
    server.until(|fleet| !fleet.agent(theirs_is).expect("known").is_connected()).await;
    assert!(server.fleet.agent(mine_is).expect("known").is_connected());
}

/// A peer is whom its header names, and an Agent belongs to whoever spoke for it first.
struct ByName;

impl Handler for ByName {
    type Identity = String;

    async fn admit(&self, request: &request::Parts) -> Result<String, Rejection> {
        let name = request.headers.get("x-name").and_then(|value| value.to_str().ok());
        name.map(str::to_owned).ok_or_else(Rejection::forbidden)
    }
}

fn named(message: &v1::AgentToServer, name: &'static str) -> http::Request<Full<Bytes>> {
    let mut request = post(message.encode_to_vec());
    request.headers_mut().insert("x-name", HeaderValue::from_static(name));
    request
}

#[tokio::test]
async fn a_valid_credential_cannot_speak_as_anothers_agent() {
    let handler = Authorizing::new(ByName, |claim| claim.bind());
    let server = start_with(handler, |_, _| {}).await;
    let mut owner = server.websocket_with(&[("x-name", "owner")]).await.expect("an upgrade");
    owner.send(&report(1)).await;
    assert_eq!(owner.recv().await.error_response, None);

    let answer = server.request(named(&report(2), "thief")).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let mut thief = server.websocket_with(&[("x-name", "thief")]).await.expect("an upgrade");
    for number in 2..5 {
        thief.send(&beat(number)).await;
        let error = thief.recv().await.error_response.expect("an error");
        assert_eq!(error.r#type, BAD_REQUEST);
        assert!(error.error_message.contains("another identity"), "{}", error.error_message);
    }
    thief.send(&beat(5)).await;
    assert_eq!(thief.recv_close().await, 1008);

    let agent = server.fleet.agent(uid(&UID)).expect("known");
    assert_eq!((agent.sequence_num(), server.fleet.len()), (1, 1));
    assert_eq!(server.fleet.counters().denied, 5);
    owner.send(&beat(2)).await;
    assert_eq!(owner.recv().await.flags, 0);
    let answer = server.request(named(&beat(3), "owner")).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn one_denied_agent_of_many_does_not_cost_the_others_their_connection() {
    let handler = Authorizing::new(ByName, |claim| claim.bind());
    let server = start_with(handler, |_, _| {}).await;
    let mut owner = server.websocket_with(&[("x-name", "owner")]).await.expect("an upgrade");
    owner.send(&report(1)).await;
    let _ = owner.recv().await;
    let mut others = server.websocket_with(&[("x-name", "gateway")]).await.expect("an upgrade");
    for number in 1..20 {
        others.send(&full_report(&OTHER, number, MASK)).await;
        assert_eq!(others.recv().await.error_response, None);
        others.send(&beat(number)).await;
        assert!(others.recv().await.error_response.is_some());
    }
    assert!(server.fleet.agent(uid(&OTHER)).expect("known").is_connected());
    assert_eq!(server.fleet.agent(uid(&UID)).expect("known").sequence_num(), 1);
}

#[tokio::test]
async fn a_panic_of_the_policy_denies_and_costs_nobody_else_anything() {
    let handler = Authorizing::new(ByName, |claim| match claim.agent().uid() == &uid(&UID) {
        true => panic!("as asked for"),
        false => Ok(()),
    });
    let server = start_with(handler, |_, _| {}).await;
    let mut socket = server.websocket_with(&[("x-name", "gateway")]).await.expect("an upgrade");
    socket.send(&report(1)).await;
    assert!(socket.recv().await.error_response.is_some());
    socket.send(&full_report(&OTHER, 1, MASK)).await;
    assert_eq!(socket.recv().await.error_response, None);
    assert_eq!(server.request(named(&report(1), "x")).await.status, StatusCode::FORBIDDEN);
    let counters = server.fleet.counters();
    assert_eq!((counters.denied, counters.handler_panics, server.fleet.len()), (2, 2, 1));
}
