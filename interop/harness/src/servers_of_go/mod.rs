//! The example program `agent` under a server built on opamp-go.

mod offers;
mod reports;
mod trouble;

use crate::check::{Failed, equal};
use crate::example_agent::Agent;
use crate::go_server::{CONFIG_NAME, GoServer, Report};
use crate::scenario::{BOTH, HTTP, Scenario, WEBSOCKET};
use crate::stage::{Stage, new_uid};

pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        expects: "the first message has all there is to report, and its transport's headers",
        transports: BOTH,
        play: |stage| Box::pin(reports::first_message(stage)),
    },
    Scenario {
        expects: "later messages repeat nothing and come at the heartbeat interval",
        transports: BOTH,
        play: |stage| Box::pin(reports::heartbeats(stage)),
    },
    Scenario {
        expects: "an offered config is APPLIED and effective, told in one report",
        transports: BOTH,
        play: |stage| Box::pin(reports::config_applied(stage)),
    },
    Scenario {
        expects: "a config that is no YAML is FAILED with the position, and the old one stays",
        transports: BOTH,
        play: |stage| Box::pin(reports::config_refused(stage)),
    },
    Scenario {
        expects: "of many configs in a row the last one is in force in the end",
        transports: BOTH,
        play: |stage| Box::pin(reports::config_after_config(stage)),
    },
    Scenario {
        expects: "a change of health is told once, and so is the config that caused it",
        transports: BOTH,
        play: |stage| Box::pin(reports::health(stage)),
    },
    Scenario {
        expects: "ReportFullState is answered with one full report",
        transports: BOTH,
        play: |stage| Box::pin(reports::full_state(stage)),
    },
    Scenario {
        expects: "a server that forgot the agent gets one full report",
        transports: BOTH,
        play: |stage| Box::pin(reports::forgotten(stage)),
    },
    Scenario {
        expects: "a new process of the agent is the same agent and reports in full, config included",
        transports: BOTH,
        play: |stage| Box::pin(reports::new_process(stage)),
    },
    Scenario {
        expects: "a renamed agent speaks under its new instance uid, also after a reconnect",
        transports: BOTH,
        play: |stage| Box::pin(reports::renamed(stage)),
    },
    Scenario {
        expects: "a restart command restarts the work, which health tells",
        transports: BOTH,
        play: |stage| Box::pin(reports::restart(stage)),
    },
    Scenario {
        expects: "SIGTERM right after the first report: a goodbye and exit status 0, too",
        transports: BOTH,
        play: |stage| Box::pin(reports::early_goodbye(stage)),
    },
    Scenario {
        expects: "when the server was killed and another one is there, the agent reports in full",
        transports: BOTH,
        play: |stage| Box::pin(trouble::server_replaced(stage)),
    },
    Scenario {
        expects: "SIGTERM: agent_disconnect is the last message, a clean close, exit status 0",
        transports: BOTH,
        play: |stage| Box::pin(reports::goodbye(stage)),
    },
    Scenario {
        expects: "an agent that was there first reports when the server comes, and stops without one",
        transports: BOTH,
        play: |stage| Box::pin(trouble::late_server(stage)),
    },
    Scenario {
        expects: "a server that does not reply hears everything once, and is obeyed when it wakes up",
        transports: BOTH,
        play: |stage| Box::pin(trouble::silent(stage)),
    },
    Scenario {
        expects: "after UNAVAILABLE nothing comes before retry_after is over, then all of it again",
        transports: BOTH,
        play: |stage| Box::pin(trouble::unavailable(stage)),
    },
    Scenario {
        expects: "content answered with BAD_REQUEST is not sent again until full state is asked for",
        transports: BOTH,
        play: |stage| Box::pin(trouble::bad_request(stage)),
    },
    Scenario {
        expects: "needless messages of the server cause no message of the agent",
        transports: BOTH,
        play: |stage| Box::pin(trouble::pushes(stage)),
    },
    Scenario {
        expects: "closed with 1001 or 1012 or dropped, the agent comes back and repeats nothing",
        transports: WEBSOCKET,
        play: |stage| Box::pin(trouble::closed(stage)),
    },
    Scenario {
        expects: "cut off in the network, the agent goes on where it was and repeats nothing",
        transports: BOTH,
        play: |stage| Box::pin(trouble::cut_off(stage)),
    },
    Scenario {
        expects: "TLS with a trusted authority works, with another one it is refused",
        transports: BOTH,
        play: |stage| Box::pin(reports::tls(stage)),
    },
    Scenario {
        expects: "a config of 1 MiB arrives and comes back as effective config",
        transports: BOTH,
        play: |stage| Box::pin(reports::big_config(stage)),
    },
    Scenario {
        expects: "a server that compresses is understood",
        transports: BOTH,
        play: |stage| Box::pin(reports::compression(stage)),
    },
    Scenario {
        expects: "offers the agent has no capability for are ignored",
        transports: BOTH,
        play: |stage| Box::pin(trouble::unwanted(stage)),
    },
    Scenario {
        expects: "another heartbeat interval comes into use without a new connection",
        transports: BOTH,
        play: |stage| Box::pin(offers::interval(stage)),
    },
    Scenario {
        expects: "an agent told to go to another server goes there, and a new process too",
        transports: BOTH,
        play: |stage| Box::pin(offers::moved(stage)),
    },
    Scenario {
        expects: "an agent told to go where nobody is comes back and reports FAILED",
        transports: BOTH,
        play: |stage| Box::pin(offers::nobody_there(stage)),
    },
    Scenario {
        expects: "a custom message comes back as it went",
        transports: BOTH,
        play: |stage| Box::pin(offers::custom_message(stage)),
    },
    Scenario {
        expects: "an offered package is downloaded, verified and installed; a wrong one is not",
        transports: BOTH,
        play: |stage| Box::pin(offers::package(stage)),
    },
    Scenario {
        expects: "a certificate is asked for with a key of the agent's own, issued and used",
        transports: BOTH,
        play: |stage| Box::pin(offers::certificate(stage)),
    },
    Scenario {
        expects: "an agent told ws or http by --transport uses that, whatever the URL's scheme",
        transports: HTTP,
        play: |stage| Box::pin(reports::transport_chosen(stage)),
    },
];

/// ReportsStatus, AcceptsRemoteConfig, ReportsEffectiveConfig, ReportsOwnMetrics,
/// AcceptsOpAMPConnectionSettings,
/// AcceptsRestartCommand, ReportsHealth, ReportsRemoteConfig, ReportsHeartbeat,
/// ReportsAvailableComponents, ReportsConnectionSettingsStatus.
const CAPABILITIES: u64 =
    0x1 | 0x2 | 0x4 | 0x40 | 0x100 | 0x400 | 0x800 | 0x1000 | 0x2000 | 0x4000 | 0x8000;

/// Whoever promises a status has one to report, if only that there was no offer yet.
const FULL: [&str; 6] = [
    "agent_description",
    "health",
    "effective_config",
    "remote_config_status",
    "available_components",
    "connection_settings_status",
];

/// A server and an agent that has reported to it, with nothing left to tell.
struct Pair {
    server: GoServer,
    agent: Agent,
    uid: String,
    first: Report,
}

async fn pair(stage: &Stage) -> Result<Pair, Failed> {
    let server = GoServer::start(stage).await?;
    let url = server.url();
    pair_at(stage, server, &url, &[]).await
}

async fn pair_at(
    stage: &Stage,
    mut server: GoServer,
    url: &str,
    args: &[&str],
) -> Result<Pair, Failed> {
    let uid = new_uid();
    let mut all = vec!["--instance-uid", &uid];
    all.extend(args);
    let mut agent = Agent::start(stage, url, &all)?;
    let first = server.report("the first report", |_| true).await?;
    agent.says("connected").await?;
    server.nothing_but_heartbeats(1).await?;
    Ok(Pair { server, agent, uid, first })
}

/// Offers a config and expects that it is taken.
async fn apply(server: &mut GoServer, body: &str) -> Result<Report, Failed> {
    let hash = server.offer_config(body).await?;
    let report = server.content("the outcome of the offer").await?;
    equal("status and error", &report.config_status(), &("APPLIED", ""))?;
    equal("the hash in the status", &report.config_hash(), &hash)?;
    equal("the effective config", &report.effective(CONFIG_NAME).as_deref(), &Some(body))?;
    Ok(report)
}
