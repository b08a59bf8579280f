//! A store in memory whose Server is restarted at will.

use std::collections::BTreeMap;
use std::sync::Arc;

use opamp_proto::{Message as _, v1};
use opamp_server::fleet::{Batch, Restored, Route, SaveWaker};
use opamp_server::{Fleet, Now, ServerConfig};

use super::Bench;

struct Nobody;

impl SaveWaker for Nobody {
    fn wake(&self) {}
}

/// What is on the disk.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Disk(pub(crate) BTreeMap<Vec<u8>, Vec<u8>>);

impl Disk {
    pub(crate) fn write(&mut self, batch: &Batch) {
        for change in batch.changes().iter() {
            match change.value() {
                Some(value) => self.0.insert(change.key().to_vec(), value.to_vec()),
                None => self.0.remove(change.key()),
            };
        }
    }
}

/// Starts a Server on what is on the disk.
pub(crate) fn start(disk: &Disk, now: Now, config: ServerConfig) -> (Fleet, Restored) {
    let fleet = Fleet::new(config);
    fleet.begin_saving(Arc::new(Nobody));
    let mut restore = fleet.restore(now);
    for (key, value) in &disk.0 {
        restore.add(key, value).expect("what was written can be read");
    }
    let restored = restore.finish();
    (fleet, restored)
}

pub(crate) fn config() -> ServerConfig {
    let mut config = ServerConfig::default();
    config.shards = 4;
    config
}

/// A bench whose Server keeps track of changes.
pub(crate) fn saving() -> Bench {
    let mut bench = Bench::new();
    bench.fleet = start(&Disk::default(), bench.now, config()).0;
    bench
}

pub(crate) fn save(bench: &Bench, disk: &mut Disk, lagging: bool) {
    let mut lagging = lagging;
    while let Some(batch) = bench.fleet.take_unsaved(bench.now, lagging, 1_000) {
        lagging = false;
        disk.write(&batch);
        bench.fleet.saved(batch);
    }
}

pub(crate) fn restart(bench: &mut Bench, disk: &Disk) -> Restored {
    let (fleet, restored) = start(disk, bench.now, config());
    bench.fleet = fleet;
    restored
}

/// Sends a message whose reply waits for what changed to be saved.
pub(crate) fn send_and_save(
    bench: &mut Bench,
    disk: &mut Disk,
    route: &mut Route<()>,
    message: &v1::AgentToServer,
) -> v1::ServerToAgent {
    let (_, received) = bench.send_bytes(route, &message.encode_to_vec());
    let accepted = received.unsaved.expect("there is news");
    assert!(!bench.fleet.is_saved(accepted.unsaved));
    save(bench, disk, false);
    assert!(bench.fleet.is_saved(accepted.unsaved));
    let mut out = Vec::new();
    let tail = bench.fleet.reply(*accepted, bench.now, &mut out);
    out.extend_from_slice(tail.as_deref().unwrap_or_default());
    v1::ServerToAgent::decode(&out[..]).expect("a ServerToAgent")
}
