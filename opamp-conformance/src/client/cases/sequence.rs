//! Sequence numbers and full state.

use opamp_proto::v1::{AgentToServer, ServerToAgent};

use super::common::{ask, due};
use super::moves::break_off;
use crate::case::{Case, Conversation, Observed, Script};
use crate::client::reported::{Reported, messages, names, parts};
use crate::client::{ClientStage, Heard};
use crate::judge::{Judge, Stop};
use crate::mask::flag::REPORT_FULL_STATE;
use crate::report::Transport;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/sequence/every-message",
        judges: &["SEQ-01"],
        transports: &[],
        does: "looks at the numbers of all messages that follow each other on one connection",
        expects: "each is one more than the one before",
        alone: false,
        broken_by: &[
            "goodbye-repeats-the-number",
            "heartbeats-take-no-number",
            "numbers-start-over-with-the-connection",
        ],
        script: Script::Observer(every_message),
    },
    Case {
        name: "client/sequence/steps",
        judges: &["SEQ-01"],
        transports: Transport::BOTH,
        does: "hears reports and a heartbeat, and the goodbye where the client can be stopped",
        expects: "each number is one more than the one before",
        alone: false,
        broken_by: &["heartbeats-take-no-number", "goodbye-repeats-the-number"],
        script: Script::Client(|stage| Box::pin(steps(stage))),
    },
    Case {
        name: "client/sequence/reconnect",
        judges: &["SEQ-02", "STATUS-03"],
        transports: Transport::BOTH,
        does: "cuts the connection after a few messages",
        expects: "the numbers go on from there; the report may be reduced on a WebSocket",
        alone: false,
        broken_by: &["numbers-start-over-with-the-connection"],
        script: Script::Client(|stage| Box::pin(reconnect(stage))),
    },
    Case {
        name: "client/sequence/full-state",
        judges: &["SEQ-07", "SEQ-08"],
        transports: Transport::BOTH,
        does: "sets ReportFullState once, in the answer to the second message",
        expects: "one full report next, with all that was in the first, and no other",
        alone: false,
        broken_by: &[
            "full-state-flag-is-ignored",
            "full-state-is-repeated",
            "full-state-lacks-the-health",
            "server-mask-of-zero-counts",
        ],
        script: Script::Client(|stage| Box::pin(full_state(stage))),
    },
];

fn every_message(observed: &Observed, judge: &mut Judge) {
    for conversation in &observed.conversations {
        every_message_of(conversation, judge);
    }
}

/// Of messages on different connections some between them may have got lost.
fn every_message_of(conversation: &Conversation, judge: &mut Judge) {
    let mut last: Vec<(u32, AgentToServer)> = Vec::new();
    for (entry, message) in messages(conversation) {
        let same_place = |(connection, last): &&mut (u32, AgentToServer)| {
            let uids = (&last.instance_uid, &message.instance_uid);
            // One without id is judged elsewhere, and takes part in the count.
            *connection == entry.connection
                && (uids.0 == uids.1 || uids.0.is_empty() || uids.1.is_empty())
        };
        match last.iter_mut().find(same_place) {
            // Sending the very same again is accepted (A05).
            Some((_, before)) if *before == message => {}
            Some((_, before)) => {
                let due = before.sequence_num.wrapping_add(1);
                judge.quote(entry, message.sequence_num != due);
                let good = message.sequence_num == due;
                judge.expect("SEQ-01", good, due.to_string(), message.sequence_num.to_string());
                *before = message;
            }
            None => last.push((entry.connection, message)),
        }
    }
}

async fn steps(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, mut client, first) = stage.meet().await?;
    let mut heard = vec![first];
    for wait in 0..3 {
        if wait < 2 {
            host.send(ServerToAgent { flags: REPORT_FULL_STATE, ..host.message() }).await?;
        }
        // One without heartbeats says nothing the third time.
        match host.next(due(stage)).await {
            Heard::Message(message) => heard.push(*message),
            _ => break,
        }
    }
    host.answer().await;
    // Not every client can be asked; then the goodbye is left out.
    if stage.stop(client.as_mut()).await.is_ok() {
        let mut more = Vec::new();
        host.hear(stage.pace.reply(), |message| {
            more.push(message.clone());
            message.agent_disconnect.is_some()
        })
        .await;
        heard.extend(more);
    }
    for pair in heard.windows(2) {
        if pair[0] == pair[1] {
            continue;
        }
        let (due, is) = (pair[0].sequence_num.wrapping_add(1), pair[1].sequence_num);
        stage.judge.expect("SEQ-01", is == due, due.to_string(), is.to_string());
    }
    Ok(())
}

async fn reconnect(stage: &mut ClientStage) -> Result<(), Stop> {
    /// What the client may have sent to a connection that was gone already.
    const LOST: u64 = 16;
    let (mut host, _client, first) = stage.meet().await?;
    let mut last = first.sequence_num;
    for _ in 0..2 {
        last = ask(stage, &mut host).await?.sequence_num;
    }
    break_off(&mut host, stage.transport).await;
    let next = host.first(stage.pace.comeback() + stage.heartbeat()).await?;
    let is = next.sequence_num;
    // The last one may have been sent again as it was (A05).
    let goes_on = is >= last && is - last <= LOST;
    let actual = format!("{is} after {last}");
    stage.judge.expect("SEQ-02", goes_on, format!("{} or a little more", last + 1), actual);
    stage.judge.note("STATUS-03", format!("{} after reconnecting", names(&parts(&next))));
    Ok(())
}

async fn full_state(stage: &mut ClientStage) -> Result<(), Stop> {
    let (mut host, _client, first) = stage.meet().await?;
    let mut reported = Reported::from_first(&first);
    reported.take(&host.first(stage.heartbeat() + stage.pace.work()).await?);
    host.send(ServerToAgent { flags: REPORT_FULL_STATE, ..host.message() }).await?;
    let within = due(stage);
    let full = host.hear(within, |message| message.agent_description.is_some()).await;
    let Some(full) = full else {
        let actual = format!("no report with a description within {:.1} s", within.as_secs_f64());
        stage.judge.expect("SEQ-07", false, "a full report", actual);
        return Ok(());
    };
    let missing: Vec<_> = parts(&first).into_iter().filter(|part| !part.is_in(&full)).collect();
    stage.judge.expect(
        "SEQ-07",
        missing.is_empty() && full.capabilities != 0,
        format!("a full report with {} and capabilities", names(&parts(&first))),
        format!("a report with {} and capabilities {:#x}", names(&parts(&full)), full.capabilities),
    );
    reported.take(&full);
    // What has changed meanwhile is news; the same once more is not.
    let more = host.collect(stage.pace.quiet() + 2 * stage.heartbeat()).await;
    let stale: Vec<_> = more.iter().filter(|message| reported.is_stale(message)).collect();
    let again = stale.iter().filter(|message| message.agent_description.is_some()).count();
    stage.judge.expect("SEQ-08", again == 0, "no other full report", format!("{again} more"));
    Ok(())
}
