//! The store in a file: what it says when it cannot be used, and that it goes on after a failure.
#![allow(clippy::disallowed_methods, reason = "tests are drivers: they have clocks")]

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use opamp_proto::{AgentCapabilities as Does, Message as _, v1};
use opamp_server::fleet::{Batch, Change, SaveWaker};
use opamp_server::service::store::{FileStore, StateStore as _};
use opamp_server::{Fleet, Now};
use support::{Bench, full_report, heartbeat, wire};

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

async fn restored(store: &FileStore, now: Now, max_bytes: usize) -> Fleet {
    let fleet = Fleet::default();
    let mut restore = fleet.restore(now);
    let mut after = None;
    loop {
        let entries = store.load(after.as_deref(), max_bytes).await.expect("it can be read");
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
    // As little at a time as there can be.
    let fleet = restored(&store, bench.now, 1).await;
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

/// Writes what there is to write, and says what it took.
#[allow(clippy::print_stdout, reason = "the numbers are what it is for")]
async fn written(bench: &Bench, store: &FileStore, what: &str) {
    let began = Instant::now();
    let (mut first, mut bytes, mut slowest) = (true, 0, Duration::ZERO);
    while let Some(batch) = bench.fleet.take_unsaved(bench.now, first, 4 * 1024 * 1024) {
        first = false;
        bytes += batch.changes().iter().map(Change::size).sum::<usize>();
        let began = Instant::now();
        store.save(Arc::clone(batch.changes())).await.expect("it is written");
        slowest = slowest.max(began.elapsed());
        bench.fleet.saved(batch);
    }
    let (took, bytes) = (began.elapsed(), bytes / 1_000_000);
    println!("{what}: {bytes} MB in {took:.1?}, slowest batch {slowest:.1?}");
}

/// What a large fleet costs:
/// `cargo test --release --features file-store --test file_store -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "it takes a minute, and is for its numbers"]
#[allow(clippy::print_stdout, reason = "the numbers are what it is for")]
async fn a_hundred_thousand_agents_are_written_and_loaded() {
    let (place, mut bench) = (Place::new(), bench());
    let store = FileStore::open(place.path()).expect("a new file");
    let size = || std::fs::metadata(place.path()).expect("the file").len() / 1_000_000;
    let uid = |number: u32| (u128::from(number) << 64 | 0xab).to_be_bytes();
    let agents = 100_000;
    for number in 0..agents {
        let mut report = full_report(&uid(number), 1, MASK);
        let body = format!("agent: {number}\n{}", "receivers: {otlp: {}}\n".repeat(100));
        let file = v1::AgentConfigFile { body: body.into(), ..Default::default() };
        let config_map = v1::AgentConfigMap { config_map: [(String::new(), file)].into() };
        report.effective_config = Some(v1::EffectiveConfig { config_map: Some(config_map) });
        let mut route = bench.http();
        let _ = bench.send_bytes(&mut route, &report.encode_to_vec());
    }
    let reported = bench.fleet.retained_bytes() / 1_000_000;
    println!("{agents} Agents have reported {reported} MB");
    written(&bench, &store, "everything").await;
    println!("file {} MB", size());
    for number in 0..agents {
        let mut route = bench.http();
        let _ = bench.send_bytes(&mut route, &heartbeat(&uid(number), 2, MASK).encode_to_vec());
    }
    written(&bench, &store, "a heartbeat of each").await;
    println!("file {} MB", size());
    drop(store);
    let began = Instant::now();
    let store = FileStore::open(place.path()).expect("the file");
    println!("opened in {:.1?}", began.elapsed());
    let began = Instant::now();
    let fleet = restored(&store, bench.now, 4 * 1024 * 1024).await;
    println!("loaded {} in {:.1?}", fleet.len(), began.elapsed());
    assert_eq!(fleet.len(), agents as usize);
}
