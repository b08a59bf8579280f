//! Replies that wait, for a store or a handler, while their Agent goes on elsewhere.

mod support;

use opamp_proto::{AgentCapabilities as Does, Message as _, v1};
use opamp_server::CustomCapabilities;
use support::{Bench, FULL_STATE, bare, full_report, heartbeat, remote_config, wire};

const MASK: Does =
    Does::REPORTS_STATUS.union(Does::ACCEPTS_REMOTE_CONFIG).union(Does::ACCEPTS_RESTART_COMMAND);
const UID: [u8; 16] = [7; 16];
const CHAT: &str = "org.example.chat";

fn bench() -> Bench {
    Bench::with(|config| {
        config.custom_capabilities = CustomCapabilities::new([CHAT]).expect("a name");
    })
}

fn report(number: u64) -> v1::AgentToServer {
    v1::AgentToServer {
        custom_capabilities: Some(v1::CustomCapabilities { capabilities: vec![CHAT.to_owned()] }),
        ..full_report(&UID, number, MASK)
    }
}

/// The reply that waited on the old connection says nothing that the Agent has to be told, as
/// nobody may be there to read it.
#[test]
fn what_an_agent_is_told_once_is_not_put_into_a_reply_on_a_connection_it_has_left() {
    let _judged = opamp_spec::judges(&["CFG-03", "CUST-09", "STATUS-08"]);
    let bench = bench();
    let (mut old, mut new) = (bench.websocket(), bench.websocket());
    let now = bench.now;
    let fresh = &mut || unreachable!("no uid is asked for");
    let waits = bench.fleet.accept(&mut old, &report(1).encode_to_vec(), now, fresh);

    // It is back, and its first reply there is on its way as well.
    let first =
        bench.fleet.accept(&mut new, &heartbeat(&UID, 2, MASK).encode_to_vec(), now, &mut || {
            unreachable!("no uid is asked for")
        });
    bench.fleet.set_remote_config(wire(&UID), remote_config("a")).expect("a known Agent");
    let message = v1::CustomMessage { capability: CHAT.to_owned(), ..Default::default() };
    bench.fleet.send_custom_message(wire(&UID), message, now.instant).expect("room");
    bench.fleet.request_full_state(wire(&UID)).expect("a known Agent");

    let mut late = Vec::new();
    assert_eq!(bench.fleet.reply(waits, now, &mut late), None);
    let late = v1::ServerToAgent::decode(&late[..]).expect("a ServerToAgent");
    assert_eq!(v1::ServerToAgent { capabilities: 0, ..late }, bare(&UID));

    let mut out = Vec::new();
    let tail = bench.fleet.reply(first, now, &mut out);
    out.extend_from_slice(tail.as_deref().unwrap_or_default());
    let reply = v1::ServerToAgent::decode(&out[..]).expect("a ServerToAgent");
    assert_eq!(reply.flags, FULL_STATE);
    assert!(reply.remote_config.is_some() && reply.custom_capabilities.is_some());
    assert!(reply.custom_message.is_some());
}

/// Of two requests of one Agent the later one is told, and a command is not lost to the other.
#[test]
fn a_command_goes_with_the_reply_to_the_latest_request() {
    let _judged = opamp_spec::judges(&["CMD-01", "HTTP-10"]);
    let bench = bench();
    let now = bench.now;
    let fresh = &mut || unreachable!("no uid is asked for");
    let mut given_up = bench.http();
    let waits = bench.fleet.accept(&mut given_up, &report(1).encode_to_vec(), now, fresh);
    let mut again = bench.http();
    let repeated =
        bench.fleet.accept(&mut again, &heartbeat(&UID, 2, MASK).encode_to_vec(), now, &mut || {
            unreachable!("no uid is asked for")
        });
    bench.fleet.restart(wire(&UID), now.instant).expect("it takes commands");

    let mut late = Vec::new();
    assert_eq!(bench.fleet.reply(waits, now, &mut late), None);
    assert_eq!(v1::ServerToAgent::decode(&late[..]).expect("a ServerToAgent").command, None);
    let mut out = Vec::new();
    let _ = bench.fleet.reply(repeated, now, &mut out);
    assert!(v1::ServerToAgent::decode(&out[..]).expect("a ServerToAgent").command.is_some());
}
