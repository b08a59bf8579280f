//! Offers that leave out the settings for telemetry: it goes on where it went. What is not sent
//! regularly cannot be seen to go on, and is not judged.

use opamp_proto::v1::ConnectionSettingsOffers;

use super::telemetry::{Sending, sending, until};
use crate::case::{Case, Script};
use crate::client::ClientStage;
use crate::judge::Stop;
use crate::mask::agent as mask;
use crate::report::Transport;
use crate::wire::otlp::Signal;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/telemetry-left-out/metrics",
        judges: &["CONN-24"],
        transports: Transport::BOTH,
        does: "makes an offer without a destination for metrics while metrics arrive",
        expects: "they go on arriving",
        alone: false,
        broken_by: &["telemetry-left-out-ends"],
        script: Script::Client(|stage| {
            Box::pin(left_out(stage, Signal::Metrics, mask::REPORTS_OWN_METRICS, "CONN-24"))
        }),
    },
    Case {
        name: "client/telemetry-left-out/traces",
        judges: &["CONN-25"],
        transports: Transport::BOTH,
        does: "makes an offer without a destination for traces while traces arrive",
        expects: "they go on arriving",
        alone: false,
        broken_by: &["telemetry-left-out-ends"],
        script: Script::Client(|stage| {
            Box::pin(left_out(stage, Signal::Traces, mask::REPORTS_OWN_TRACES, "CONN-25"))
        }),
    },
    Case {
        name: "client/telemetry-left-out/logs",
        judges: &["CONN-26"],
        transports: Transport::BOTH,
        does: "makes an offer without a destination for logs while logs arrive",
        expects: "they go on arriving",
        alone: false,
        broken_by: &["telemetry-left-out-ends"],
        script: Script::Client(|stage| {
            Box::pin(left_out(stage, Signal::Logs, mask::REPORTS_OWN_LOGS, "CONN-26"))
        }),
    },
];

/// How long the next export may take.
const EXPORT_SECONDS: f64 = 70.0;
/// How many exports show that they are regular.
const REGULAR: usize = 3;

async fn left_out(
    stage: &mut ClientStage,
    signal: Signal,
    capability: u64,
    row: &str,
) -> Result<(), Stop> {
    let sending = sending(stage, &[(signal, capability)]).await?;
    let Sending { mut host, first, sink, _client, .. } = sending;
    let count = || sink.exports(signal).len();
    if !until(stage, &mut host, EXPORT_SECONDS, || count() >= REGULAR).await {
        let why = format!("{} exports are too few to see them stop", count());
        return Err(Stop::Unreached(why));
    }
    host.answer().await;
    stage.offer_all(&mut host, &first, ConnectionSettingsOffers::default()).await?;
    // What was on its way does not count.
    host.collect(stage.heartbeat() + stage.pace.quiet()).await;
    let before = count();
    let goes_on = until(stage, &mut host, EXPORT_SECONDS, || count() > before).await;
    let actual = if goes_on { "they do" } else { "none arrive any more" };
    stage.judge.expect(row, goes_on, "exports to the same destination", actual);
    Ok(())
}
