//! Bytes as what a client or a server finds in its files when it starts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arbitrary::Unstructured;
use bytes::Bytes;
use opamp_client::core::ClientState;
use opamp_client::core::packages::PackageRecords;
use opamp_server::ServerConfig;
use opamp_server::fleet::{Fleet, InvalidEntry, Now, Restored, SaveWaker};

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    client(bytes);
    if let Ok(entries) = Unstructured::new(bytes).arbitrary::<BTreeMap<Vec<u8>, Vec<u8>>>() {
        server(entries);
    }
}

fn client(bytes: &[u8]) {
    let _ = ClientState::identity_of_damaged(bytes);
    if let Ok(state) = ClientState::from_bytes(bytes) {
        let saved = state.to_bytes();
        let again = ClientState::from_bytes(&saved).expect("it was saved just now");
        assert_eq!(saved, again.to_bytes());
        let rest = ClientState::identity_of_damaged(&saved).expect("it is whole");
        assert_eq!(rest.instance_uid, state.instance_uid);
    }
    if let Ok(records) = PackageRecords::from_bytes(bytes) {
        let saved = records.to_bytes();
        let again = PackageRecords::from_bytes(&saved).expect("it was saved just now");
        assert_eq!(saved, again.to_bytes());
    }
}

struct Nobody;

impl SaveWaker for Nobody {
    fn wake(&self) {}
}

type Entries = BTreeMap<Vec<u8>, Bytes>;

/// What is taken is saved so that it is taken again, with the same agents.
#[allow(clippy::disallowed_methods, reason = "any instant will do as an origin")]
fn server(found: BTreeMap<Vec<u8>, Vec<u8>>) {
    let now = Now {
        instant: Instant::now(),
        system: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000),
    };
    let mut entries = Entries::new();
    save(&started(&entries, now).expect("nothing is nothing wrong").0, &mut entries, now);
    // Nothing is read without the version, so that is there.
    entries.extend(found.into_iter().map(|(key, value)| (key, value.into())));
    let Ok((fleet, restored)) = started(&entries, now) else { return };
    assert_eq!(fleet.len(), restored.agents);
    save(&fleet, &mut entries, now);
    let (_, again) = started(&entries, now).expect("it was saved just now");
    assert_eq!(again.agents, restored.agents);
}

fn started(entries: &Entries, now: Now) -> Result<(Fleet<()>, Restored), InvalidEntry> {
    let fleet = Fleet::new(ServerConfig::default());
    fleet.begin_saving(Arc::new(Nobody));
    let mut restore = fleet.restore(now);
    for (key, value) in entries {
        restore.add(key, value)?;
    }
    let restored = restore.finish();
    Ok((fleet, restored))
}

fn save(fleet: &Fleet<()>, entries: &mut Entries, now: Now) {
    let mut batch = fleet.take_unsaved(now, true, usize::MAX);
    while let Some(written) = batch {
        for change in written.changes().iter() {
            match change.value() {
                Some(value) => entries.insert(change.key().to_vec(), value.clone()),
                None => entries.remove(change.key()),
            };
        }
        fleet.saved(written);
        batch = fleet.take_unsaved(now, false, usize::MAX);
    }
}
