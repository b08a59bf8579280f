//! Capabilities: the server's mask, and how it takes those of agents.

use opamp_proto::v1::{AgentToServer, ComponentHealth, RemoteConfigStatuses, ServerToAgent};

use crate::case::{Case, Observed, Script};
use crate::hook::Action;
use crate::judge::{Judge, Stop};
use crate::mask::{self, agent, server};
use crate::report::{By, Transport};
use crate::server::offer::one_file;
use crate::server::{Heard, ServerStage};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/capabilities/mask",
        judges: &["CAP-09", "CAP-11"],
        transports: &[],
        does: "looks at the capabilities in every message of the run",
        expects: "no bit that is not defined; 0 after the first message is fine",
        alone: false,
        broken_by: &["mask-has-reserved-bits"],
        script: Script::Observer(defined),
    },
    Case {
        name: "server/capabilities/first-reply",
        judges: &["CAP-10", "CAP-13", "CAP-14"],
        transports: Transport::BOTH,
        does: "reports in full, then that it is not well; does so again over a new connection",
        expects: "the first reply on each connection announces capabilities, AcceptsStatus among \
                  them; no reply is an error",
        alone: false,
        broken_by: &[
            "capabilities-are-missing",
            "capabilities-are-announced-once",
            "accepts-status-is-missing",
            "unhealthy-agents-are-refused",
        ],
        script: Script::Server(|stage| Box::pin(first_reply(stage))),
    },
    Case {
        name: "server/capabilities/unknown-bits",
        judges: &["CAP-15"],
        transports: Transport::BOTH,
        does: "reports twice as an agent with all 64 capability bits",
        expects: "replies without errors",
        alone: false,
        broken_by: &["unknown-capabilities-are-refused"],
        script: Script::Server(|stage| Box::pin(unknown_bits(stage))),
    },
    Case {
        name: "server/capabilities/changed",
        judges: &["CAP-04"],
        transports: Transport::BOTH,
        does: "takes a configuration, then clears AcceptsRemoteConfig; has the hook assign another",
        expects: "no offer of the other configuration",
        alone: false,
        broken_by: &["capability-changes-are-ignored", "configurations-are-offered-to-all"],
        script: Script::Server(|stage| Box::pin(changed(stage))),
    },
];

fn names(message: &ServerToAgent) -> String {
    let names = mask::names("ServerCapabilities", message.capabilities).join(", ");
    format!("capabilities {:#x} ({names})", message.capabilities)
}

fn defined(observed: &Observed, judge: &mut Judge) {
    let (mut unset, mut set) = (0, 0);
    for entry in observed.entries().filter(|entry| entry.by == By::Subject) {
        let Some(message) = entry.server_to_agent() else { continue };
        let undefined = message.capabilities & !server::ALL;
        judge.quote(entry, undefined != 0);
        judge.expect("CAP-09", undefined == 0, "only bits of 0x7f", names(&message));
        *if message.capabilities == 0 { &mut unset } else { &mut set } += 1;
    }
    if set + unset > 0 {
        judge.note("CAP-11", format!("{set} messages have capabilities, {unset} do not"));
    }
}

async fn first_reply(stage: &mut ServerStage) -> Result<(), Stop> {
    let mut agent = stage.agent(agent::REPORTS_STATUS | agent::REPORTS_HEALTH);
    // Over a WebSocket the mask is due on each connection, over HTTP in the first response (A07).
    for connection in ["the first connection", "the second connection"] {
        agent.vanish();
        agent.connect().await?;
        let report = agent.full_report();
        let heard = super::readable(agent.ask(report).await?)?;
        if !matches!(heard, Heard::Message(_)) {
            return Err(Stop::Unreached(format!("no reply, but {}", super::told(&heard))));
        }
        let actual = format!("{} on {connection}", super::told(&heard));
        stage.judge.expect("CAP-14", super::is_good(&heard), "a reply without an error", actual);
        if let Heard::Message(reply) = &heard
            && reply.error_response.is_none()
        {
            let actual = format!("{} on {connection}", names(reply));
            let any = reply.capabilities != 0;
            stage.judge.expect("CAP-10", any, "capabilities are set", actual.clone());
            let accepts = reply.capabilities & server::ACCEPTS_STATUS != 0;
            stage.judge.expect("CAP-13", accepts, "AcceptsStatus is set", actual);
        }
        let health = Some(ComponentHealth {
            last_error: "conformance: not well".to_owned(),
            ..Default::default()
        });
        let report = AgentToServer { health, ..agent.message() };
        let heard = super::readable(agent.ask(report).await?)?;
        let expected = "a reply without an error to a status report";
        stage.judge.expect("CAP-14", super::is_good(&heard), expected, super::told(&heard));
    }
    Ok(())
}

async fn unknown_bits(stage: &mut ServerStage) -> Result<(), Stop> {
    // Only a server that takes other agents can be blamed for not taking this one.
    stage.reported(agent::REPORTS_STATUS | agent::REPORTS_HEALTH).await?;
    let mut agent = stage.agent(u64::MAX);
    agent.connect().await?;
    for message in [agent.full_report(), agent.full_report()] {
        let heard = super::readable(agent.ask(message).await?)?;
        let expected = "a reply without an error to an agent with all 64 bits";
        stage.judge.expect("CAP-15", super::is_good(&heard), expected, super::told(&heard));
    }
    Ok(())
}

async fn changed(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, _) = stage.configurable().await?;
    let config = stage.offer(&mut agent, one_file("conformance: taken\n")).await?;
    let report = agent.config_status(&config.config_hash, RemoteConfigStatuses::Applied);
    agent.exchange(report).await?;
    agent.capabilities &= !agent::ACCEPTS_REMOTE_CONFIG;
    let message = agent.message();
    agent.exchange(message).await?;
    let instance_uid = agent.uid_text();
    let files = one_file("conformance: not taken\n");
    // Refusing is as good as not offering.
    let _ = stage.try_hook(Action::OfferConfig { instance_uid, files }).await?;
    let message = agent.message();
    let offer = agent.provoke(message, |message| message.remote_config.is_some()).await?;
    let expected = "no remote_config once the agent does not accept any";
    let actual = offer.as_ref().map_or("none came".to_owned(), super::parts);
    stage.judge.expect("CAP-04", offer.is_none(), expected, actual);
    Ok(())
}
