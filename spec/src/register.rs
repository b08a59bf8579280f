//! The register: which test judged which rows, and how it ended.
//!
//! Records are lines of JSON below the build's target directory, one file per test binary and
//! process, so that parallel test binaries never write to the same file.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

/// How a test that judged some rows ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The guard was dropped without a panic.
    Passed,
    /// The guard was dropped by a panic.
    Failed,
}

/// One line of the register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Name of the test binary.
    pub binary: String,
    /// The source file of the test, from the root of the workspace.
    pub file: String,
    /// Path of the test in it.
    pub test: String,
    /// The ids it judged.
    pub ids: Vec<String>,
    /// How it ended.
    pub outcome: Outcome,
}

/// Guard of a running test; writes its [`Record`] when dropped.
#[derive(Debug)]
#[must_use = "bind it to a name for as long as the test runs: `let _judged = judges(&[…]);`"]
pub struct Judged {
    file: &'static str,
    ids: Vec<String>,
}

/// Says that the calling test judges these rows of the catalogue.
///
/// Bind the result for the length of the test: when it is dropped, the rows are recorded as passed,
/// or as failed when the test is panicking.
///
/// # Panics
///
/// When an id is not in the catalogue.
#[track_caller]
pub fn judges(ids: &[&str]) -> Judged {
    for id in ids {
        assert!(
            crate::requirement(id).is_some(),
            "the requirements catalogue has no row {id}: see spec/requirements.csv"
        );
    }
    let file = std::panic::Location::caller().file();
    Judged { file, ids: ids.iter().map(|id| (*id).to_owned()).collect() }
}

impl Drop for Judged {
    fn drop(&mut self) {
        let outcome = if std::thread::panicking() { Outcome::Failed } else { Outcome::Passed };
        let record = Record {
            binary: binary(),
            file: self.file.replace('\\', "/"),
            test: std::thread::current().name().unwrap_or("unnamed").to_owned(),
            ids: std::mem::take(&mut self.ids),
            outcome,
        };
        // A register that cannot be written must not turn a passing test into a failing one.
        let _ = append(&record);
    }
}

/// Every record found below the target directory this binary was built into.
#[must_use]
pub fn records() -> Vec<Record> {
    let Some(directory) = directory() else { return Vec::new() };
    let Ok(files) = fs::read_dir(directory) else { return Vec::new() };
    files
        .filter_map(Result::ok)
        .filter_map(|file| fs::read_to_string(file.path()).ok())
        .flat_map(|text| {
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect::<Vec<_>>()
        })
        .collect()
}

/// `target/<profile>/traceability`, from the place of the running test binary
/// (`target/<profile>/deps/<binary>`) or program (`target/<profile>/<program>`).
fn directory() -> Option<PathBuf> {
    let executable = std::env::current_exe().ok()?;
    let place = executable.parent()?;
    let profile = if place.ends_with("deps") { place.parent()? } else { place };
    Some(profile.join("traceability"))
}

fn binary() -> String {
    std::env::current_exe()
        .ok()
        .and_then(|path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()))
        .unwrap_or_default()
}

fn append(record: &Record) -> std::io::Result<()> {
    static WRITING: Mutex<()> = Mutex::new(());
    let Some(directory) = directory() else { return Ok(()) };
    let _one_at_a_time = WRITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    fs::create_dir_all(&directory)?;
    let mut file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.join(format!("{}-{}.jsonl", record.binary, std::process::id())))?;
    writeln!(file, "{}", serde_json::to_string(record)?)
}
