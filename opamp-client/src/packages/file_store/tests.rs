//! The file store: what it keeps, and what a crash or a server leaves of it.

use super::*;
use crate::core::packages::{InstalledPackage, PackageRecords};

fn key(package: &str, content: &str) -> FileKey {
    FileKey::for_tests(package, content.as_bytes())
}

fn source(validator: &str) -> FileSource {
    FileSource { url: "http://d.example/f".to_owned(), validator: validator.to_owned() }
}

async fn write(store: &FilePackageStore, key: &FileKey, content: &'static str) {
    store.start(key, &source("\"1\"")).await.unwrap();
    store.append(key, 0, Bytes::from_static(content.as_bytes())).await.unwrap();
}

/// Every file below a directory, by the path from it.
fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in entries(directory).unwrap() {
        let name = entry.file_name().unwrap().to_str().unwrap().to_owned();
        match entry.is_dir() {
            true => found.extend(files(&entry).into_iter().map(|rest| format!("{name}/{rest}"))),
            false => found.push(name),
        }
    }
    found.sort_unstable();
    found
}

#[tokio::test]
async fn records_are_read_as_they_were_saved() {
    let dir = tempfile::tempdir().unwrap();
    let store = FilePackageStore::open(dir.path().join("new/packages")).unwrap();
    assert_eq!(store.load().await.unwrap(), None);
    let mut records = PackageRecords::default();
    records.all_packages_hash = Bytes::from_static(b"all");
    let record = records.packages.entry("plugin".to_owned()).or_default();
    record.has = Some(InstalledPackage::local(opamp_proto::v1::PackageType::Addon, "1"));
    for version in ["1", "2"] {
        records.packages.get_mut("plugin").unwrap().has.as_mut().unwrap().version = version.into();
        store.save(&records).await.unwrap();
    }
    assert_eq!(store.load().await.unwrap(), Some(records.clone()));
    drop(store);
    let store = FilePackageStore::open(dir.path().join("new/packages")).unwrap();
    assert_eq!(store.load().await.unwrap(), Some(records));
}

#[tokio::test]
async fn damaged_records_are_no_fresh_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = FilePackageStore::open(dir.path()).unwrap();
    fs::write(dir.path().join("records"), "damaged").unwrap();
    let error = store.load().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("records"), "{error}");
}

#[test]
fn a_store_is_used_by_one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = FilePackageStore::open(dir.path()).unwrap();
    let error = FilePackageStore::open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    let clone = store.clone();
    drop(store);
    assert!(FilePackageStore::open(dir.path()).is_err(), "a clone is the same store");
    drop(clone);
    assert!(FilePackageStore::open(dir.path()).is_ok());
}

#[tokio::test]
async fn a_file_grows_is_committed_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = FilePackageStore::open(dir.path()).unwrap();
    let key = key("plugin", "content");
    assert_eq!(store.find(&key).await.unwrap(), None);
    write(&store, &key, "half").await;
    let part = StoredFile { len: 4, source: Some(source("\"1\"")), committed: false };
    assert_eq!(store.find(&key).await.unwrap(), Some(part));
    let misplaced = store.append(&key, 3, Bytes::from_static(b"x")).await.unwrap_err();
    assert_eq!(misplaced.kind(), io::ErrorKind::InvalidInput);
    store.append(&key, 4, Bytes::from_static(b" more")).await.unwrap();
    assert_eq!(store.read(&key, 0, 100).await.unwrap(), "half more");
    assert_eq!(store.read(&key, 5, 2).await.unwrap(), "mo");
    assert_eq!(store.read(&key, 9, 2).await.unwrap(), "");

    let location = store.commit(&key).await.unwrap();
    assert_eq!(fs::read(&location).unwrap(), b"half more");
    assert_eq!(store.commit(&key).await.unwrap(), location, "again");
    let whole = StoredFile { len: 9, source: None, committed: true };
    assert_eq!(store.find(&key).await.unwrap(), Some(whole));
    assert!(store.append(&key, 9, Bytes::from_static(b"x")).await.is_err(), "it is what it is");
    assert_eq!(fs::read(&location).unwrap(), b"half more");

    store.discard(&key).await.unwrap();
    store.discard(&key).await.unwrap();
    assert_eq!(store.find(&key).await.unwrap(), None);
}

#[tokio::test]
async fn bytes_never_stand_beside_the_word_of_another_source() {
    let dir = tempfile::tempdir().unwrap();
    let store = FilePackageStore::open(dir.path()).unwrap();
    let key = key("plugin", "content");
    write(&store, &key, "of the old file").await;
    // Whatever a crash leaves of beginning anew: the bytes go first.
    store.start(&key, &source("\"2\"")).await.unwrap();
    let anew = StoredFile { len: 0, source: Some(source("\"2\"")), committed: false };
    assert_eq!(store.find(&key).await.unwrap(), Some(anew));
    let from = files(dir.path()).into_iter().find(|file| file.ends_with(".from")).unwrap();
    fs::write(dir.path().join(from), [0xff; 7]).unwrap();
    assert_eq!(store.find(&key).await.unwrap().unwrap().source, None, "damaged is unknown");
}

#[tokio::test]
async fn what_is_of_no_use_goes_and_the_rest_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = FilePackageStore::open(dir.path()).unwrap();
    let (old, new, other) = (key("a", "old"), key("a", "new"), key("b", "old"));
    for key in [&old, &new, &other] {
        write(&store, key, "content").await;
    }
    store.commit(&old).await.unwrap();
    store.retain(&[new.clone(), key("c", "not there")]).await.unwrap();
    assert_eq!(store.find(&old).await.unwrap(), None);
    assert_eq!(store.find(&other).await.unwrap(), None);
    assert!(store.find(&new).await.unwrap().is_some());
    store.retain(&[]).await.unwrap();
    assert_eq!(files(&dir.path().join("files")), [""; 0]);
}

#[tokio::test]
async fn the_files_take_no_more_than_the_quota() {
    let dir = tempfile::tempdir().unwrap();
    let store = FilePackageStore::open_with_quota(dir.path(), 200).unwrap();
    let (a, b) = (key("a", "1"), key("b", "1"));
    let block = || Bytes::from_static(&[7; 40]);
    store.start(&a, &source("")).await.unwrap();
    let mut len = 0;
    let error = loop {
        match store.append(&a, len, block()).await {
            Ok(()) => len += 40,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
    assert!(len > 0 && len <= 200, "{len}");
    store.start(&b, &source("")).await.unwrap();
    assert!(store.append(&b, 0, Bytes::from_static(&[7; 100])).await.is_err());
    store.discard(&a).await.unwrap();
    store.append(&b, 0, Bytes::from_static(&[7; 100])).await.unwrap();
}

#[test]
fn no_name_is_more_than_a_name() {
    let _judged = opamp_spec::judges(&["SEC-01", "PKG-07"]);
    let mut seen = BTreeSet::new();
    let long = "x".repeat(1024);
    let (a, b) = (format!("{long}a"), format!("{long}b"));
    for name in [
        "",
        ".",
        "..",
        "...",
        "a",
        "A",
        "a.",
        ".a",
        "a/b",
        "a\\b",
        "/etc/passwd",
        "../../x",
        "con",
        "nul",
        "a:b",
        "a\0b",
        "%41",
        "ä",
        "a b",
        "-rf",
        "~",
        "p-a",
        "\u{202e}",
        "x.part",
        &a,
        &b,
    ] {
        let file = file_name(name);
        assert!(file.starts_with("p-") && file.len() <= MAX_COMPONENT, "{file}");
        let fit = |c: char| c.is_ascii_alphanumeric() || "-_.%".contains(c);
        assert!(file.chars().all(fit) && !file.ends_with('.'), "{file}");
        assert!(seen.insert(file.to_ascii_lowercase()), "{name:?} has the file of another");
    }
}

#[tokio::test]
async fn a_name_of_the_server_leads_nowhere_else() {
    let _judged = opamp_spec::judges(&["SEC-01"]);
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("inside");
    let store = FilePackageStore::open(&inside).unwrap();
    for name in ["../../escaped", "/absolute", "..", ""] {
        let key = key(name, "..");
        write(&store, &key, "content").await;
        let location = store.commit(&key).await.unwrap();
        let location = location.canonicalize().unwrap();
        assert!(location.starts_with(inside.canonicalize().unwrap()), "{location:?}");
    }
    let outside: Vec<_> = entries(dir.path()).unwrap();
    assert_eq!(outside, [inside]);
}

#[cfg(unix)]
#[tokio::test]
async fn nobody_else_can_read_what_is_kept() {
    use std::os::unix::fs::PermissionsExt as _;

    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("packages");
    let store = FilePackageStore::open(&root).unwrap();
    store.save(&PackageRecords::default()).await.unwrap();
    let key = key("plugin", "content");
    write(&store, &key, "content").await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&root), 0o700);
    for file in files(&root) {
        assert_eq!(mode(&root.join(&file)) & 0o077, 0, "{file}");
    }
    assert_eq!(mode(&store.commit(&key).await.unwrap()) & 0o077, 0);
}

/// A desktop, a network file system or a curious person leaves files anywhere.
#[tokio::test]
async fn what_others_leave_in_the_directory_is_no_trouble() {
    let dir = tempfile::tempdir().unwrap();
    let store = FilePackageStore::open(dir.path()).unwrap();
    fs::write(dir.path().join("files/.DS_Store"), "x").unwrap();
    write(&store, &key("plugin", "1"), "one").await;
    store.commit(&key("plugin", "1")).await.unwrap();
    store.retain(&[]).await.unwrap();
    assert_eq!(store.find(&key("plugin", "1")).await.unwrap(), None);
    assert_eq!(files(&dir.path().join("files")), [".DS_Store"]);
}

#[tokio::test]
async fn saves_that_were_cut_short_leave_nothing_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let store = FilePackageStore::open(dir.path()).unwrap();
    store.save(&PackageRecords::default()).await.unwrap();
    drop(store);
    fs::write(dir.path().join(".new-cut"), "half").unwrap();
    let store = FilePackageStore::open(dir.path()).unwrap();
    assert_eq!(store.load().await.unwrap(), Some(PackageRecords::default()));
    assert_eq!(files(dir.path()), ["lock", "records"]);
}
