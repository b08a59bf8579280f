//! Who may speak for an Agent.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use opamp_proto::{AgentCapabilities as Does, InstanceUid, Message as _, v1};
use opamp_server::core::RefusalKind;
use opamp_server::fleet::Route;
use opamp_server::{Authorizer, Changes, Claim, Denied, Fleet, OperationError, Tenant, Transport};
use support::{Bench, fresh_uid, full_report, heartbeat, wire};

const UID: [u8; 16] = [7; 16];
const OTHER: [u8; 16] = [8; 16];
const MASK: Does = Does::REPORTS_STATUS.union(Does::REPORTS_HEALTH);
const REQUEST_UID: u64 = v1::AgentToServerFlags::RequestInstanceUid as u64;

type Policy = Box<dyn Fn(Claim<'_, &'static str>) -> Result<(), Denied> + Send + Sync>;

/// Counts how often the policy is asked.
struct Asked {
    policy: Policy,
    times: Arc<AtomicUsize>,
}

impl Authorizer<&'static str> for Asked {
    fn authorize(&self, claim: Claim<'_, &'static str>) -> Result<(), Denied> {
        self.times.fetch_add(1, Ordering::Relaxed);
        (self.policy)(claim)
    }
}

struct Gate {
    fleet: Fleet<&'static str>,
    bench: Bench,
    times: Arc<AtomicUsize>,
}

impl Gate {
    fn new(
        policy: impl Fn(Claim<'_, &'static str>) -> Result<(), Denied> + Send + Sync + 'static,
    ) -> Self {
        let bench = Bench::new();
        let times = Arc::<AtomicUsize>::default();
        let asked = Asked { policy: Box::new(policy), times: Arc::clone(&times) };
        Self { fleet: Fleet::with_authorizer(bench.fleet.config().clone(), asked), bench, times }
    }

    fn open(&self, transport: Transport, identity: &'static str) -> Route<&'static str> {
        self.fleet.open_route(transport, None, identity, None)
    }

    /// The reply, or the text of the denial.
    fn send(
        &self,
        route: &mut Route<&'static str>,
        message: &v1::AgentToServer,
    ) -> Result<v1::ServerToAgent, String> {
        let mut out = Vec::new();
        let body = message.encode_to_vec();
        let mut fresh = || fresh_uid(1);
        let received = self.fleet.receive(route, &body, self.bench.now, &mut fresh, &mut out);
        out.extend_from_slice(received.tail.as_deref().unwrap_or_default());
        let reply = v1::ServerToAgent::decode(&out[..]).expect("a ServerToAgent");
        let Some(refusal) = received.refusal else { return Ok(reply) };
        assert_eq!(refusal.kind(), RefusalKind::Denied);
        assert_eq!((received.changes, received.queue), (Changes::empty(), false));
        let error = reply.error_response.expect("an error");
        assert_eq!(error.r#type, v1::ServerErrorResponseType::BadRequest as i32);
        assert_eq!(reply.instance_uid, message.instance_uid);
        Err(error.error_message)
    }

    fn asked(&self) -> usize {
        self.times.swap(0, Ordering::Relaxed)
    }
}

#[test]
fn it_is_asked_at_first_messages_and_at_each_request_but_not_at_heartbeats() {
    let gate = Gate::new(|_| Ok(()));
    let mut socket = gate.open(Transport::WebSocket, "a");
    for uid in [UID, OTHER] {
        gate.send(&mut socket, &full_report(&uid, 1, MASK)).expect("allowed");
        assert_eq!(gate.asked(), 1);
        for number in 2..5 {
            gate.send(&mut socket, &heartbeat(&uid, number, MASK)).expect("allowed");
        }
        assert_eq!(gate.asked(), 0);
    }
    for number in 5..8 {
        let mut request = gate.open(Transport::Http, "a");
        gate.send(&mut request, &heartbeat(&UID, number, MASK)).expect("allowed");
        assert_eq!(gate.asked(), 1);
    }
    // After a goodbye it comes anew.
    let goodbye = v1::AgentToServer {
        agent_disconnect: Some(v1::AgentDisconnect {}),
        ..heartbeat(&OTHER, 5, MASK)
    };
    gate.send(&mut socket, &goodbye).expect("allowed");
    assert_eq!(gate.asked(), 0);
    gate.send(&mut socket, &heartbeat(&OTHER, 6, MASK)).expect("allowed");
    assert_eq!(gate.asked(), 1);
}

#[test]
fn a_denied_message_leaves_no_trace() {
    let gate = Gate::new(|claim| match *claim.identity() {
        "bad" => Err(Denied::new("not you")),
        _ => Ok(()),
    });
    for transport in [Transport::WebSocket, Transport::Http] {
        let mut bad = gate.open(transport, "bad");
        let denied = gate.send(&mut bad, &full_report(&UID, 1, MASK));
        assert_eq!(denied, Err("not you".to_owned()));
        assert!(gate.fleet.is_empty() && bad.agents().is_empty());
    }
    let mut good = gate.open(Transport::WebSocket, "good");
    gate.send(&mut good, &full_report(&UID, 1, MASK)).expect("allowed");
    let before = gate.fleet.agent(wire(&UID)).expect("known");
    for transport in [Transport::WebSocket, Transport::Http] {
        let mut bad = gate.open(transport, "bad");
        // Not even where the number would go on, nor with a goodbye.
        let goodbye = v1::AgentToServer {
            agent_disconnect: Some(v1::AgentDisconnect {}),
            ..full_report(&UID, 2, MASK)
        };
        assert!(gate.send(&mut bad, &goodbye).is_err());
        assert_eq!(gate.fleet.close_route(bad), []);
    }
    assert_eq!(gate.fleet.agent(wire(&UID)), Some(before));
    assert_eq!(gate.fleet.counters().denied, 4);
}

#[test]
fn an_agent_stays_with_the_identity_that_spoke_for_it_first_until_it_is_released() {
    for (first, second) in [
        (Transport::WebSocket, Transport::WebSocket),
        (Transport::WebSocket, Transport::Http),
        (Transport::Http, Transport::WebSocket),
        (Transport::Http, Transport::Http),
    ] {
        let gate = Gate::new(|claim| claim.bind());
        let mut owner = gate.open(first, "owner");
        gate.send(&mut owner, &full_report(&UID, 1, MASK)).expect("the first");
        let mut thief = gate.open(second, "thief");
        assert!(gate.send(&mut thief, &heartbeat(&UID, 2, MASK)).is_err());
        // Being away changes nothing.
        let _ = gate.fleet.close_route(owner);
        assert!(gate.send(&mut thief, &heartbeat(&UID, 2, MASK)).is_err());
        let mut owner = gate.open(second, "owner");
        gate.send(&mut owner, &heartbeat(&UID, 2, MASK)).expect("its own");

        gate.fleet.release(wire(&UID)).expect("known");
        gate.send(&mut thief, &full_report(&UID, 3, MASK)).expect("the next one");
        let mut owner = gate.open(first, "owner");
        assert!(gate.send(&mut owner, &heartbeat(&UID, 4, MASK)).is_err());
        assert_eq!(gate.fleet.release(wire(&OTHER)), Err(OperationError::UnknownAgent));
    }
}

#[test]
fn a_renamed_agent_is_asked_about_under_its_new_uid_and_nobody_else_takes_it_along() {
    let new = fresh_uid(9);
    let gate = Gate::new(|claim| claim.bind());
    let mut owner = gate.open(Transport::WebSocket, "owner");
    gate.send(&mut owner, &full_report(&UID, 1, MASK)).expect("the first");
    gate.fleet.rename(wire(&UID), new, gate.bench.now.instant).expect("renamed");
    gate.asked();
    // Somebody learnt of the new uid.
    let mut thief = gate.open(Transport::WebSocket, "thief");
    assert!(gate.send(&mut thief, &full_report(new.as_bytes(), 1, MASK)).is_err());
    assert!(gate.fleet.agent(wire(&UID)).expect("not moved").is_connected());
    gate.asked();
    gate.send(&mut owner, &heartbeat(new.as_bytes(), 2, MASK)).expect("its own");
    assert_eq!(gate.asked(), 1);
    assert_eq!(gate.fleet.len(), 1);
    assert!(gate.send(&mut thief, &full_report(new.as_bytes(), 3, MASK)).is_err());
}

#[test]
fn an_authorizer_without_opinions_allows_all_and_stores_nobody() {
    struct Easy;
    impl Authorizer<&'static str> for Easy {}

    let agent = wire(&UID).into();
    assert_eq!(Easy.tenant(&"somebody"), Tenant::default());
    assert_eq!(Easy.authorize(Claim::new(&"thief", &agent, Some(&"owner"))), Ok(()));
    assert_eq!(Easy.store_identity(&"somebody"), None);
    assert_eq!(Easy.stored_identity(b"somebody"), None);
    assert_eq!(Denied::new("not you").text(), "not you");
}

#[test]
fn no_agent_is_given_a_uid_that_would_lock_it_out() {
    let gate = Gate::new(|claim| claim.only(wire(&UID)));
    let mut route = gate.open(Transport::WebSocket, "owner");
    let asks = v1::AgentToServer { flags: REQUEST_UID, ..full_report(&UID, 1, MASK) };
    let reply = gate.send(&mut route, &asks).expect("its own");
    assert_eq!((reply.agent_identification, reply.error_response), (None, None));
    let agent = gate.fleet.agent(wire(&UID)).expect("known");
    assert_eq!(agent.new_instance_uid(), None);
    let renamed = gate.fleet.rename(wire(&UID), fresh_uid(2), gate.bench.now.instant);
    assert_eq!(renamed, Err(OperationError::NotAuthorized));
    assert!(gate.send(&mut route, &full_report(&OTHER, 1, MASK)).is_err());
}

/// Two identities come for an unknown Agent at the same moment: while the one is asked about, the
/// other one gets it.
#[test]
fn of_two_that_come_at_once_one_gets_the_agent() {
    let slow: Arc<Mutex<Option<Fleet<&'static str>>>> = Arc::default();
    let other = Arc::clone(&slow);
    let gate = Gate::new(move |claim| {
        let fleet = other.lock().expect("unpoisoned").take();
        if let Some(fleet) = fleet {
            let mut quick = fleet.open_route(Transport::WebSocket, None, "quick", None);
            let body = full_report(&UID, 1, MASK).encode_to_vec();
            let mut fresh = || InstanceUid::from_bytes([0; 16]);
            let now = Bench::new().now;
            let mut out = Vec::new();
            let received = fleet.receive(&mut quick, &body, now, &mut fresh, &mut out);
            assert_eq!(received.refusal, None);
        }
        claim.bind()
    });
    *slow.lock().expect("unpoisoned") = Some(gate.fleet.clone());
    let mut route = gate.open(Transport::WebSocket, "slow");
    assert!(gate.send(&mut route, &full_report(&UID, 1, MASK)).is_err());
}
