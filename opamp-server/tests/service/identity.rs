//! What an identity may speak for.

use http::{HeaderValue, request};
use opamp_proto::{Message as _, v1};
use opamp_server::{AgentChange, Handler, Rejection, Tenant};
use tokio::sync::mpsc;

use crate::client::{UID, beat, post, report, soon, start_with, uid};
use crate::support::{description, remote_config};

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
