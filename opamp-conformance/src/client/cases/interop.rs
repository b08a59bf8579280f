//! How a client gets on with servers that can less than it, or more.

use opamp_proto::v1::{ServerErrorResponse, ServerToAgent, ServerToAgentCommand};
use prost::Message as _;

use super::common::{ask, due, reaction, request, responsive};
use crate::case::{Case, Script};
use crate::client::{ClientStage, Heard, Host};
use crate::judge::Stop;
use crate::mask::{agent, server};
use crate::report::Transport;
use crate::wire::body;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/interop/capabilities",
        judges: &["INTEROP-02"],
        transports: Transport::BOTH,
        does: "looks at the client's first message",
        expects: "its capabilities, of which ReportsStatus is always one",
        alone: false,
        broken_by: &["capabilities-come-late", "status-is-not-announced"],
        script: Script::Client(|stage| Box::pin(capabilities(stage))),
    },
    Case {
        name: "client/interop/plain-server",
        judges: &["INTEROP-01", "INTEROP-04"],
        transports: Transport::BOTH,
        does: "announces AcceptsStatus alone, then asks for a full report",
        expects: "a report that leaves out what the server does not take",
        alone: false,
        broken_by: &["needs-a-capable-server", "server-capabilities-are-ignored"],
        script: Script::Client(|stage| Box::pin(plain_server(stage))),
    },
    Case {
        name: "client/interop/unknown-fields",
        judges: &["INTEROP-06"],
        transports: Transport::BOTH,
        does: "asks for a full report in a message with fields of later versions",
        expects: "a full report",
        alone: false,
        broken_by: &["unknown-fields-are-refused", "second-of-two-messages-is-dropped"],
        script: Script::Client(|stage| Box::pin(unknown_fields(stage))),
    },
    Case {
        name: "client/interop/unknown-values",
        judges: &["INTEROP-11"],
        transports: Transport::BOTH,
        does: "sends an unknown error type, an unknown command, unknown flags and unknown \
               capabilities, one after the other, then asks for a full report",
        expects: "a full report on the same connection",
        alone: false,
        broken_by: &[
            "unknown-error-type-disconnects",
            "unknown-command-crashes",
            "unknown-server-capability-ends-the-session",
        ],
        script: Script::Client(|stage| Box::pin(unknown_values(stage))),
    },
];

async fn capabilities(stage: &mut ClientStage) -> Result<(), Stop> {
    let (_host, _client, first) = stage.meet().await?;
    let holds = first.capabilities & agent::REPORTS_STATUS != 0;
    let actual = format!("capabilities {:#x}", first.capabilities);
    stage.judge.expect("INTEROP-02", holds, "capabilities with ReportsStatus", actual);
    Ok(())
}

async fn plain_server(stage: &mut ClientStage) -> Result<(), Stop> {
    let mut host = stage.host().await?;
    host.capabilities = server::ACCEPTS_STATUS;
    let _client = stage.start(stage.start_for(&host)).await?;
    let first = host.first(stage.pace.start()).await?;
    host.answer().await;
    // Over HTTP a message composed before the answer cannot be on its way, over WebSocket it can.
    let mut closed = host.next(stage.pace.quiet()).await;
    if !matches!(closed, Heard::Closed(..)) {
        closed = host.next(stage.pace.quiet()).await;
    }
    if let Heard::Closed(_, how) = closed {
        stage.judge.expect("INTEROP-01", false, "a session that lasts", how);
        return Ok(());
    }
    let full = ask(stage, &mut host).await?;
    stage.judge.expect("INTEROP-01", true, "a session that lasts", "it gives a full report");
    let optional = agent::REPORTS_EFFECTIVE_CONFIG | agent::REPORTS_PACKAGE_STATUSES;
    if first.capabilities & optional == 0 {
        let why = "the client announces nothing that depends on the server's capabilities";
        stage.judge.not_applicable("INTEROP-04", why);
        return Ok(());
    }
    let extra: Vec<_> = [
        ("effective_config", full.effective_config.is_some()),
        ("package_statuses", full.package_statuses.is_some()),
        ("connection_settings_request", full.connection_settings_request.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, has)| has.then_some(name))
    .collect();
    let actual = format!("in the full report: [{}]", extra.join(", "));
    stage.judge.expect("INTEROP-04", extra.is_empty(), "nothing the server does not take", actual);
    Ok(())
}

/// Sends the bytes of a message: pushed over a WebSocket, or as the answer to the next request.
pub(super) async fn send_bytes(
    stage: &ClientStage,
    host: &mut Host,
    message: Vec<u8>,
) -> Result<(), Stop> {
    match stage.transport {
        Transport::WebSocket => {
            // What the connection came to is told by what follows.
            let _ = host.websocket()?.send(body::frame(&message)).await;
        }
        Transport::Http => {
            host.first(due(stage)).await?;
            let fields = [("content-type", "application/x-protobuf")];
            host.take_request()?.respond(200, &fields, message.into());
        }
    }
    Ok(())
}

async fn unknown_fields(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, _) = responsive(stage).await?;
    host.answer().await;
    let mut message = request(&host).encode_to_vec();
    // Fields 9999 of all four wire types, the last with a message in it.
    message.extend(b"\xf8\xf0\x04\x01\xf9\xf0\x0412345678\xfd\xf0\x041234\xfa\xf0\x04\x02\x08\x01");
    send_bytes(stage, &mut host, message).await?;
    let seen = reaction(&mut host, due(stage)).await;
    stage.judge.expect("INTEROP-06", seen.is_full(), "a full report", seen.to_string());
    Ok(())
}

async fn unknown_values(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, _) = responsive(stage).await?;
    host.answer().await;
    let error = ServerErrorResponse { r#type: 99, ..Default::default() };
    let all = [
        ("error type 99", ServerToAgent { error_response: Some(error), ..host.message() }),
        (
            "command type 99",
            ServerToAgent { command: Some(ServerToAgentCommand { r#type: 99 }), ..host.message() },
        ),
        ("flag 0x10000", ServerToAgent { flags: 1 << 16, ..host.message() }),
        (
            "capability 0x100000000",
            ServerToAgent { capabilities: host.capabilities | 1 << 32, ..host.message() },
        ),
    ];
    for (name, message) in all {
        send_bytes(stage, &mut host, message.encode_to_vec()).await?;
        let within = stage.pace.poll()
            + if stage.transport == Transport::Http { due(stage) } else { stage.pace.poll() };
        if let Heard::Closed(_, how) = host.next(within).await {
            let actual = format!("{how} after {name}");
            stage.judge.expect("INTEROP-11", false, "the connection goes on", actual);
            return Ok(());
        }
    }
    let full = ask(stage, &mut host).await;
    let actual = full.as_ref().map_or_else(ToString::to_string, |_| "a full report".to_owned());
    stage.judge.expect("INTEROP-11", full.is_ok(), "the client goes on reacting", actual);
    Ok(())
}
