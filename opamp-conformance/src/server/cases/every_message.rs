//! What has to hold of every message of the server, whatever the case was.

use crate::case::{Case, Observed, Script};
use crate::judge::Judge;
use crate::log::Event;
use crate::report::By;

pub(super) const CASES: &[Case] = &[Case {
    name: "server/every-message/header",
    judges: &["WS-06"],
    transports: &[],
    does: "looks at every WebSocket message of the run",
    expects: "each begins with the byte 0",
    alone: false,
    broken_by: &["header-is-not-zero"],
    script: Script::Observer(header),
}];

fn header(observed: &Observed, judge: &mut Judge) {
    for entry in observed.entries() {
        if let (By::Subject, Event::Message { payload, .. }) = (entry.by, &entry.event) {
            let first = payload.first().copied();
            let actual = format!("the first byte is {first:02x?}");
            judge.quote(entry, first != Some(0));
            judge.expect("WS-06", first == Some(0), "the first byte is 00", actual);
        }
    }
}
