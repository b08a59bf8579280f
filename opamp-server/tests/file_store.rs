//! The store in a file: what it says when it cannot be used, and that it goes on after a failure.
#![allow(clippy::disallowed_methods, reason = "tests are drivers: they have clocks")]

mod support;

use std::path::PathBuf;
use std::sync::Arc;

use opamp_proto::{AgentCapabilities as Does, Message as _};
use opamp_server::fleet::{Batch, SaveWaker};
use opamp_server::service::store::{FileStore, StateStore as _};
use opamp_server::{Fleet, Now};
use support::{Bench, full_report, wire};

const MASK: Does = Does::REPORTS_STATUS.union(Does::REPORTS_HEALTH);

struct Nobody;

impl SaveWaker for Nobody {
    fn wake(&self) {}
}

/// A path in a directory of its own, which goes with it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("new/fleet.redb")
    }
}

fn bench() -> Bench {
    let bench = Bench::new();
    bench.fleet.begin_saving(Arc::new(Nobody));
    bench
}

/// What so many Agents changed.
fn batch(bench: &mut Bench, agents: u8, number: u64) -> Batch {
    let mut route = bench.websocket();
    for agent in 0..agents {
        let _ = bench
            .send_bytes(&mut route, &full_report(&[agent + 1; 16], number, MASK).encode_to_vec());
    }
    bench.fleet.take_unsaved(bench.now, true, usize::MAX).expect("a batch")
}

async fn restored(store: &FileStore, now: Now) -> Fleet {
    let fleet = Fleet::default();
    let mut restore = fleet.restore(now);
    let mut after = None;
    loop {
        // As little at a time as there can be.
        let entries = store.load(after.as_deref(), 1).await.expect("it can be read");
        let Some((last, _)) = entries.last() else { break };
        for (key, value) in &entries {
            restore.add(key, value).expect("it was written like that");
        }
        after = Some(last.clone());
    }
    let _ = restore.finish();
    fleet
}

#[tokio::test]
async fn what_is_written_is_there_when_the_file_is_opened_again() {
    let (place, mut bench) = (Place::new(), bench());
    let store = FileStore::open(place.path()).expect("a new file");
    assert!(store.load(None, 1_000).await.expect("nothing").is_empty());
    let written = batch(&mut bench, 20, 1);
    store.save(Arc::clone(written.changes())).await.expect("it is written");
    // Twice does no harm.
    store.save(Arc::clone(written.changes())).await.expect("it is written");
    drop(store);
    let store = FileStore::open(place.path()).expect("the file");
    let fleet = restored(&store, bench.now).await;
    assert_eq!(fleet.len(), 20);
    for number in 1..=20 {
        let key = wire(&[number; 16]);
        assert_eq!(fleet.agent(key).unwrap().state(), bench.fleet.agent(key).unwrap().state());
    }
}

#[cfg(unix)]
#[test]
fn nobody_else_can_read_the_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    let _store = FileStore::open(place.path()).expect("a new file");
    let mode = std::fs::metadata(place.path()).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

fn refused(place: &Place) -> String {
    FileStore::open(place.path()).expect_err("it cannot be used").to_string()
}

#[tokio::test]
async fn what_cannot_be_used_says_what_to_do() {
    let (place, mut bench) = (Place::new(), bench());
    let store = FileStore::open(place.path()).expect("a new file");
    assert!(refused(&place).contains("another process"), "{}", refused(&place));
    let written = batch(&mut bench, 50, 1);
    store.save(Arc::clone(written.changes())).await.expect("it is written");
    drop(store);

    let whole = std::fs::read(place.path()).expect("the file");
    for (what, bytes) in [
        ("not a store", b"receivers: {}\n".repeat(1_000)),
        ("cut off", whole[..whole.len() / 2].to_vec()),
        ("overwritten", [&vec![0; 8_192], &whole[8_192..]].concat()),
    ] {
        std::fs::write(place.path(), bytes).expect("it is written");
        let text = refused(&place);
        assert!(text.contains("damaged") && text.contains("move it away"), "{what}: {text}");
    }

    std::fs::write(place.path(), &whole).expect("it is written");
    let database = redb::Database::open(place.path()).expect("a database");
    let write = database.begin_write().expect("a transaction");
    let meta = redb::TableDefinition::<&str, u32>::new("opamp-server");
    write.open_table(meta).expect("the table").insert("format", 2).expect("a format");
    write.commit().expect("it is written");
    drop(database);
    let text = refused(&place);
    assert!(text.contains("format 2") && text.contains("use the version"), "{text}");

    let directory = Place::new();
    std::fs::create_dir_all(directory.path()).expect("a directory");
    assert!(refused(&directory).contains("cannot open"), "{}", refused(&directory));
}
