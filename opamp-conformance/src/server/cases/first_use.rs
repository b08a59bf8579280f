//! Agents that come without credentials of their own and are given some once they are approved.

use opamp_proto::v1::ConnectionSettingsOffers;

use crate::case::{Case, Script};
use crate::hook::Action;
use crate::judge::Stop;
use crate::mask::{agent as mask, server};
use crate::report::Transport;
use crate::server::{ServerStage, provision};

pub(super) const CASES: &[Case] = &[Case {
    name: "server/first-use/approval",
    judges: &["TOFU-03", "TOFU-04", "TOFU-05"],
    transports: Transport::BOTH,
    does: "connects without a certificate, reports, and is approved if need be",
    expects: "an opamp offer with credentials after the approval",
    alone: false,
    broken_by: &["approval-leads-to-nothing", "opamp-settings-are-kept-back"],
    script: Script::Server(|stage| Box::pin(approval(stage))),
}];

async fn approval(stage: &mut ServerStage) -> Result<(), Stop> {
    let bits = mask::REPORTS_STATUS | mask::ACCEPTS_OPAMP_CONNECTION_SETTINGS;
    let (mut agent, reply) = stage.reported(bits).await?;
    stage.requires(&reply, server::OFFERS_CONNECTION_SETTINGS)?;
    let has_credentials = |offer: &ConnectionSettingsOffers| {
        let opamp = offer.opamp.as_ref();
        opamp.is_some_and(|opamp| opamp.certificate.is_some() || opamp.headers.is_some())
    };
    let mut offer = reply.connection_settings.filter(has_credentials);
    if offer.is_none() {
        offer = provision::settings(&mut agent, stage.pace.quiet(), has_credentials).await?;
    }
    let is_automatic = offer.is_some();
    if !is_automatic {
        let action = Action::ApproveAgent { instance_uid: agent.uid_text() };
        stage.try_hook(action).await?.map_err(Stop::Unreached)?;
        offer = provision::settings(&mut agent, stage.pace.work(), has_credentials).await?;
    }
    let actual = match (&offer, is_automatic) {
        (None, _) => "no offer came",
        (Some(_), true) => "it came without anybody's doing",
        (Some(_), false) => "it came after the approval",
    };
    let expected = "an offer of credentials after approval, by somebody or automatic";
    stage.judge.expect("TOFU-03", offer.is_some(), expected, actual);
    let opamp = offer.and_then(|offer| offer.opamp);
    let certificate = opamp.as_ref().and_then(|opamp| opamp.certificate.as_ref());
    let headers = opamp.as_ref().and_then(|opamp| opamp.headers.as_ref());
    if opamp.is_none() || certificate.is_some() {
        let expected = "an opamp offer with a certificate";
        stage.judge.expect("TOFU-04", certificate.is_some(), expected, actual);
    } else {
        let why = "the server gives headers to such agents, and no certificates";
        stage.judge.not_applicable("TOFU-04", why);
    }
    let names = headers.iter().flat_map(|headers| &headers.headers).map(|header| &header.key);
    let names: Vec<_> = names.cloned().collect();
    stage.judge.note("TOFU-05", format!("headers for a newcomer: {names:?}"));
    Ok(())
}
