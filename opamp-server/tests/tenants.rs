//! Agents of different tenants: the same uid twice.

mod support;

use opamp_proto::{AgentCapabilities as Does, InstanceUid, Message as _, v1};
use opamp_server::fleet::Route;
use opamp_server::{AgentKey, Authorizer, Fleet, OperationError, Tenant, Transport};
use support::{Bench, config_status, fresh_uid, full_report, heartbeat, remote_config, wire};

const UID: [u8; 16] = [7; 16];
const MASK: Does =
    Does::REPORTS_STATUS.union(Does::ACCEPTS_REMOTE_CONFIG).union(Does::REPORTS_REMOTE_CONFIG);

/// The identity is the number of the tenant.
struct ByNumber;

impl Authorizer<u128> for ByNumber {
    fn tenant(&self, identity: &u128) -> Tenant {
        Tenant::new(*identity)
    }
}

struct Tenants {
    fleet: Fleet<u128>,
    bench: Bench,
}

impl Tenants {
    fn new() -> Self {
        let bench = Bench::new();
        let fleet = Fleet::with_authorizer(bench.fleet.config().clone(), ByNumber);
        Self { fleet, bench }
    }

    fn open(&self, transport: Transport, tenant: u128) -> Route<u128> {
        self.fleet.open_route(transport, None, tenant, None)
    }

    fn send(&self, route: &mut Route<u128>, message: &v1::AgentToServer) -> v1::ServerToAgent {
        let mut out = Vec::new();
        let body = message.encode_to_vec();
        let mut fresh = || InstanceUid::from_bytes([9; 16]);
        let received = self.fleet.receive(route, &body, self.bench.now, &mut fresh, &mut out);
        assert_eq!(received.key, Some(route.tenant().agent(wire(&message.instance_uid))));
        out.extend_from_slice(received.tail.as_deref().unwrap_or_default());
        v1::ServerToAgent::decode(&out[..]).expect("a ServerToAgent")
    }
}

#[test]
fn one_uid_in_two_tenants_is_two_agents() {
    for (first, second) in [
        (Transport::WebSocket, Transport::WebSocket),
        (Transport::WebSocket, Transport::Http),
        (Transport::Http, Transport::Http),
    ] {
        let world = Tenants::new();
        let keys = [1, 2].map(|tenant| Tenant::new(tenant).agent(wire(&UID)));
        let mut mine = world.open(first, 1);
        let mut theirs = world.open(second, 2);
        let report = |name| v1::AgentToServer {
            agent_description: Some(support::description(name)),
            ..full_report(&UID, 1, MASK)
        };
        let _ = world.send(&mut mine, &report("mine"));
        let _ = world.send(&mut theirs, &report("theirs"));
        assert_eq!(world.fleet.len(), 2);
        assert!(world.fleet.agent(wire(&UID)).is_none(), "there is none in the default tenant");
        for (key, name) in keys.into_iter().zip(["mine", "theirs"]) {
            let agent = world.fleet.agent(key).expect("known");
            assert_eq!((*agent.key(), agent.is_connected()), (key, true));
            assert_eq!(agent.state().agent_description(), Some(support::description(name)));
        }

        // What the operator does to one does not reach the other.
        world.fleet.set_remote_config(keys[0], remote_config("mine")).expect("set");
        let mut out = Vec::new();
        assert!(world.fleet.poll_push(&theirs, keys[0], world.bench.now, &mut out).is_none());
        let next = heartbeat(&UID, 2, MASK);
        assert!(world.send(&mut mine, &next).remote_config.is_some());
        assert_eq!(world.send(&mut theirs, &next).remote_config, None);

        // Nor does a goodbye, or a status.
        let hash = world.fleet.agent(keys[0]).and_then(|it| it.remote_config()).expect("set");
        let status = v1::AgentToServer {
            remote_config_status: Some(config_status(
                hash.hash().as_bytes(),
                v1::RemoteConfigStatuses::Applied,
            )),
            agent_disconnect: Some(v1::AgentDisconnect {}),
            ..heartbeat(&UID, 3, MASK)
        };
        let _ = world.send(&mut theirs, &status);
        let agents = keys.map(|key| world.fleet.agent(key).expect("known"));
        assert_eq!(agents.each_ref().map(|agent| agent.is_connected()), [true, false]);
        assert_eq!(agents[0].remote_config(), Some(hash));
        assert_eq!(world.fleet.close_route(theirs), []);
        assert_eq!(world.fleet.close_route(mine), []);
    }
}

#[test]
fn a_uid_given_to_an_agent_of_one_tenant_is_free_in_another() {
    let world = Tenants::new();
    let mut mine = world.open(Transport::WebSocket, 1);
    let mut theirs = world.open(Transport::WebSocket, 2);
    let _ = world.send(&mut mine, &full_report(&UID, 1, MASK));
    let key = Tenant::new(1).agent(wire(&UID));
    let new = fresh_uid(1);
    let now = world.bench.now.instant;
    world.fleet.rename(key, new, now).expect("renamed");
    assert_eq!(world.fleet.rename(new, new, now), Err(OperationError::UnknownAgent));

    // Somebody of another tenant takes the new uid: it is a stranger there.
    let _ = world.send(&mut theirs, &full_report(new.as_bytes(), 2, MASK));
    assert_eq!(world.fleet.len(), 2);
    assert_eq!(world.fleet.agent(key).and_then(|agent| agent.new_instance_uid()), Some(new));
    let _ = world.send(&mut mine, &heartbeat(new.as_bytes(), 2, MASK));
    let mut keys: Vec<AgentKey> = world.fleet.agents().iter().map(|agent| *agent.key()).collect();
    keys.sort_unstable();
    assert_eq!(keys, [Tenant::new(1).agent(new), Tenant::new(2).agent(new)]);
}

#[test]
fn components_that_one_tenant_told_are_not_shown_for_another() {
    let world = Tenants::new();
    let mask = Does::REPORTS_STATUS | Does::REPORTS_AVAILABLE_COMPONENTS;
    let told = |components: &[&str]| v1::AgentToServer {
        available_components: Some(v1::AvailableComponents {
            hash: vec![1, 2, 3].into(),
            components: components
                .iter()
                .map(|name| ((*name).to_owned(), v1::ComponentDetails::default()))
                .collect(),
        }),
        ..full_report(&UID, 1, mask)
    };
    let components = v1::ServerToAgentFlags::ReportAvailableComponents as u64;
    let mut mine = world.open(Transport::Http, 1);
    let _ = world.send(&mut mine, &told(&["secret"]));
    let mut theirs = world.open(Transport::Http, 2);
    let reply = world.send(&mut theirs, &told(&[]));
    assert_ne!(
        reply.flags & components,
        0,
        "they are asked for, as nobody of the tenant told them"
    );
    let theirs = world.fleet.agent(Tenant::new(2).agent(wire(&UID))).expect("known");
    let known = world.fleet.available_components(&theirs).unwrap_or_default();
    assert!(known.components.is_empty());
}
