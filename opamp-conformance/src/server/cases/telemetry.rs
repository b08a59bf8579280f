//! Offers of where to send an agent's own telemetry.

use opamp_proto::v1::{ConnectionSettingsOffers, TelemetryConnectionSettings};
use serde_json::{Value, json};

use crate::case::{Case, Observed, Script};
use crate::judge::{Judge, Stop};
use crate::mask::{agent as mask, server};
use crate::report::Transport;
use crate::server::ServerStage;
use crate::server::provision::{self, mentions};

const SIGNALS: u64 = mask::REPORTS_OWN_METRICS | mask::REPORTS_OWN_TRACES | mask::REPORTS_OWN_LOGS;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "server/telemetry/change",
        judges: &["TEL-04", "TEL-05"],
        transports: Transport::BOTH,
        does: "has a destination for metrics offered, sends more messages, then has it changed",
        expects: "no further offer while nothing changes, and one with the new destination after",
        alone: false,
        broken_by: &["changed-telemetry-is-kept-back", "telemetry-is-offered-again"],
        script: Script::Server(|stage| Box::pin(change(stage))),
    },
    Case {
        name: "server/telemetry/every-offer",
        judges: &["TEL-16", "TEL-17"],
        transports: &[],
        does: "looks at every destination for own telemetry that was offered in the run",
        expects: "a full URL with host and path, and https",
        alone: false,
        broken_by: &["telemetry-endpoint-has-no-path", "telemetry-goes-in-the-clear"],
        script: Script::Observer(every_offer),
    },
    Case {
        name: "server/telemetry/first-reply",
        judges: &["TEL-02", "TEL-03"],
        transports: Transport::BOTH,
        does: "has a destination for metrics set before the agent comes for the first time",
        expects: "the offer in the reply to the first report",
        alone: false,
        broken_by: &["telemetry-is-not-in-the-first-reply"],
        script: Script::Server(|stage| Box::pin(first_reply(stage))),
    },
];

fn every_offer(observed: &Observed, judge: &mut Judge) {
    for offer in provision::all(observed) {
        let Some(settings) = &offer.message.connection_settings else { continue };
        for destination in telemetry(settings) {
            let endpoint = &destination.destination_endpoint;
            let scheme = full_url(endpoint);
            let is_wrong = scheme.as_deref() != Ok("https");
            judge.quote(offer.entry, is_wrong);
            let actual = match &scheme {
                Ok(_) => format!("the endpoint is {endpoint:?}"),
                Err(why) => format!("the endpoint is {endpoint:?}: {why}"),
            };
            let expected = "a URL with scheme, host and path";
            judge.expect("TEL-16", scheme.is_ok(), expected, actual.clone());
            if let Ok(scheme) = scheme {
                judge.expect("TEL-17", scheme == "https", "https", actual);
            }
        }
    }
}

/// The scheme of a URL that has all it takes for OTLP over HTTP.
fn full_url(text: &str) -> Result<String, &'static str> {
    let uri: http::Uri = text.parse().map_err(|_| "no URL")?;
    let scheme = uri.scheme_str().ok_or("no scheme")?.to_ascii_lowercase();
    if !matches!(scheme.as_str(), "http" | "https") {
        return Err("the scheme is neither http nor https");
    }
    let authority = uri.authority().ok_or("no host")?.as_str();
    // The parser fills in a path where there is none.
    let (_, rest) = text.split_once("://").ok_or("no scheme")?;
    let has_path = rest.strip_prefix(authority).is_some_and(|path| path.starts_with('/'));
    if has_path { Ok(scheme) } else { Err("no path") }
}

fn telemetry(
    settings: &ConnectionSettingsOffers,
) -> impl Iterator<Item = &TelemetryConnectionSettings> {
    [&settings.own_metrics, &settings.own_traces, &settings.own_logs].into_iter().flatten()
}

async fn first_reply(stage: &mut ServerStage) -> Result<(), Stop> {
    // A server with a destination for everybody offers it unasked.
    let (_, reply) = stage.reported(mask::REPORTS_STATUS | SIGNALS).await?;
    stage.requires(&reply, server::OFFERS_CONNECTION_SETTINGS)?;
    if judge_offer(stage, reply.connection_settings.as_ref()) {
        return Ok(());
    }
    let mut agent = stage.agent(mask::REPORTS_STATUS | SIGNALS);
    let marker = stage.marker();
    stage.offer_settings(&mut agent, metrics(&marker)).await?;
    agent.connect().await?;
    let report = agent.full_report();
    let reply = agent.exchange(report).await?;
    if !judge_offer(stage, reply.connection_settings.as_ref()) {
        // Late is better than never.
        let wanted = |offer: &ConnectionSettingsOffers| mentions(offer, &marker);
        let late = provision::settings(&mut agent, stage.pace.reply(), wanted).await?;
        let actual = match &late {
            Some(_) => "it came in a later message",
            None => "none came",
        };
        let is_there = late.as_ref().is_some_and(|offer| telemetry(offer).next().is_some());
        stage.judge.expect("TEL-02", is_there, "an offer with own_metrics", actual);
        let expected = "the destination in the reply to the first report";
        stage.judge.expect("TEL-03", false, expected, actual);
    }
    Ok(())
}

/// Judges an offer in a first reply, if there is one.
fn judge_offer(stage: &mut ServerStage, offer: Option<&ConnectionSettingsOffers>) -> bool {
    let places: Vec<_> = offer.into_iter().flat_map(telemetry).collect();
    for place in &places {
        let actual = format!("{:?} is offered in the first reply", place.destination_endpoint);
        for row in ["TEL-02", "TEL-03"] {
            stage.judge.expect(row, true, "the destination in the first reply", actual.clone());
        }
    }
    !places.is_empty()
}

async fn change(stage: &mut ServerStage) -> Result<(), Stop> {
    let (mut agent, reply) = stage.reported(mask::REPORTS_STATUS | SIGNALS).await?;
    stage.requires(&reply, server::OFFERS_CONNECTION_SETTINGS)?;
    let [first, second] = [stage.marker(), stage.marker()];
    stage.offer_settings(&mut agent, metrics(&first)).await?;
    let wanted = |offer: &ConnectionSettingsOffers| mentions(offer, &first);
    let offer = provision::settings(&mut agent, stage.pace.work(), wanted).await?;
    if offer.is_none() {
        return Err(Stop::Unreached("the offer asked for did not come".to_owned()));
    }
    for _ in 0..3 {
        let message = agent.message();
        let reply = agent.exchange(message).await?;
        let again = reply.connection_settings.as_ref();
        let again = again.is_some_and(|offer| telemetry(offer).next().is_some());
        stage.judge.expect(
            "TEL-05",
            !again,
            "no offer in the replies to further messages",
            if again { "the destination is offered again" } else { "none" },
        );
    }
    stage.offer_settings(&mut agent, metrics(&second)).await?;
    let wanted = |offer: &ConnectionSettingsOffers| mentions(offer, &second);
    let offer = provision::settings(&mut agent, stage.pace.work(), wanted).await?;
    stage.judge.expect(
        "TEL-04",
        offer.is_some(),
        "an offer with the new destination",
        if offer.is_some() { "it came" } else { "none came" },
    );
    Ok(())
}

fn metrics(marker: &str) -> Value {
    let endpoint = format!("https://{marker}.example:4318/v1/metrics");
    json!({ "own_metrics": { "destination_endpoint": endpoint } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_telemetry_endpoint_is_a_url_with_a_path() {
        for good in ["https://a/v1/metrics", "HTTPS://a:4318/v1/metrics?x=1", "https://[::1]/"] {
            assert_eq!(full_url(good).as_deref(), Ok("https"), "{good}");
        }
        assert_eq!(full_url("http://a/v1/traces").as_deref(), Ok("http"));
        for wrong in ["", "/v1/metrics", "a:4318", "grpc://a/v1", "https://a", "https://a?b=/c"] {
            assert!(full_url(wrong).is_err(), "{wrong}");
        }
    }
}
