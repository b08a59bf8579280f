//! The capabilities of both ends.

use opamp_proto::v1::AgentToServer;

use super::common::{ask, due, responsive};
use super::moves::ask_full;
use crate::case::{Case, Observed, Script};
use crate::client::ClientStage;
use crate::client::reported::{Part, messages, names};
use crate::hook::Action;
use crate::judge::{Judge, Stop};
use crate::mask::agent::{
    ALL, REPORTS_AVAILABLE_COMPONENTS, REPORTS_EFFECTIVE_CONFIG, REPORTS_HEALTH, REPORTS_STATUS,
};
use crate::report::Transport;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/capabilities/every-message",
        judges: &["CAP-01", "CAP-02", "CAP-06", "CFG-05", "COMP-02"],
        transports: &[],
        does: "looks at the capabilities in every message of the run, and at what it reports",
        expects: "a mask of known bits with ReportsStatus, and the bits of what is reported",
        alone: false,
        broken_by: &[
            "capabilities-are-left-out-of-heartbeats",
            "components-come-without-capability",
            "effective-config-comes-without-capability",
            "status-is-not-announced",
            "reserved-bit-is-set",
            "capabilities-come-late",
        ],
        script: Script::Observer(every_message),
    },
    Case {
        name: "client/capabilities/kept",
        judges: &["CAP-08"],
        transports: Transport::BOTH,
        does: "hears the first report, and asks for a full one",
        expects: "what the capabilities promise is in one of them",
        alone: false,
        broken_by: &[
            "components-are-only-promised",
            "health-is-only-promised",
            "reports-less-over-http",
        ],
        script: Script::Client(|stage| Box::pin(kept(stage))),
    },
    Case {
        name: "client/capabilities/change",
        judges: &["CAP-03"],
        transports: Transport::BOTH,
        does: "takes a capability from the client by a hook",
        expects: "the next message has the mask without it",
        alone: false,
        broken_by: &["capability-change-is-not-told"],
        script: Script::Client(|stage| Box::pin(change(stage))),
    },
    Case {
        name: "client/capabilities/server-zero",
        judges: &["CAP-12"],
        transports: Transport::BOTH,
        does: "announces everything first, a mask of 0 next, then asks for a full report",
        expects: "the effective configuration is still in it",
        alone: false,
        broken_by: &["server-mask-of-zero-counts"],
        script: Script::Client(|stage| Box::pin(server_zero(stage))),
    },
    Case {
        name: "client/capabilities/server-unknown",
        judges: &["CAP-15"],
        transports: Transport::BOTH,
        does: "announces all 64 bits, then asks for a full report",
        expects: "the session goes on and the report comes",
        alone: false,
        broken_by: &["unknown-server-capability-ends-the-session"],
        script: Script::Client(|stage| Box::pin(server_unknown(stage))),
    },
];

fn every_message(observed: &Observed, judge: &mut Judge) {
    for (entry, message) in observed.conversations.iter().flat_map(messages) {
        let mask = message.capabilities;
        let actual = format!("capabilities {mask:#x}");
        judge.quote(entry, mask & !ALL != 0 || mask & REPORTS_STATUS == 0);
        judge.expect("CAP-01", mask & !ALL == 0, "no undefined bit", actual.clone());
        judge.expect("CAP-02", mask != 0, "capabilities in every message", actual.clone());
        if mask == 0 {
            continue;
        }
        judge.expect("CAP-06", mask & REPORTS_STATUS != 0, "the bit ReportsStatus", actual.clone());
        let effective = message.effective_config.is_some();
        if effective {
            let announced = mask & REPORTS_EFFECTIVE_CONFIG != 0;
            judge.quote(entry, !announced);
            judge.expect("CFG-05", announced, "the bit ReportsEffectiveConfig", actual.clone());
        }
        let components = message.available_components.is_some();
        let announced = mask & REPORTS_AVAILABLE_COMPONENTS != 0;
        judge.quote(entry, components && !announced);
        let actual =
            format!("{actual}, components {}", if components { "there" } else { "absent" });
        judge.expect("COMP-02", announced || !components, "no components without the bit", actual);
    }
}

async fn kept(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = stage.meet().await?;
    let full = ask_full(stage, &mut host).await?.unwrap_or_default();
    // What tells of offers may be missing while nothing was offered.
    let promised = [Part::AgentDescription, Part::Health, Part::EffectiveConfig]
        .into_iter()
        .chain([Part::AvailableComponents])
        .filter(|part| first.capabilities & part.capability() != 0);
    let missing: Vec<_> =
        promised.filter(|part| !part.is_in(&first) && !part.is_in(&full)).collect();
    let actual = if missing.is_empty() {
        "all of it is there".to_owned()
    } else {
        format!("neither has {}", names(&missing))
    };
    stage.judge.expect("CAP-08", missing.is_empty(), "what is promised, in one of them", actual);
    Ok(())
}

async fn change(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, mut client, first) = stage.meet().await?;
    stage.requires(&first, REPORTS_HEALTH)?;
    host.answer().await;
    let name = "ReportsHealth".to_owned();
    stage.hook(client.as_mut(), Action::SetCapability { name, on: false }).await?;
    // One may have been on its way already.
    let gone = |message: &AgentToServer| message.capabilities & REPORTS_HEALTH == 0;
    let next = host.hear(due(stage), gone).await;
    let actual = if next.is_some() { "the mask without it" } else { "the mask is as before" };
    stage.judge.expect("CAP-03", next.is_some(), "a mask without ReportsHealth", actual);
    Ok(())
}

async fn server_zero(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = stage.meet().await?;
    stage.requires(&first, REPORTS_EFFECTIVE_CONFIG)?;
    ask(stage, &mut host).await?;
    host.capabilities = 0;
    let full = ask(stage, &mut host).await?;
    let has = full.effective_config.is_some();
    let actual = if has { "it is in the report" } else { "it is missing" };
    stage.judge.expect("CAP-12", has, "the effective configuration", actual);
    Ok(())
}

async fn server_unknown(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, mut client, _) = responsive(stage).await?;
    host.capabilities = u64::MAX;
    let full = ask_full(stage, &mut host).await?;
    let actual = match (&full, client.ended()) {
        (Some(_), _) => "the report came".to_owned(),
        (None, Some(how)) => format!("the program {how}"),
        (None, None) => "no full report".to_owned(),
    };
    stage.judge.expect("CAP-15", full.is_some(), "a full report", actual);
    Ok(())
}
