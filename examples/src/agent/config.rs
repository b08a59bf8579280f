//! The agent's configuration: a YAML file, replaced by what the server offers.
//!
//! An offer of a single file becomes the file as it is, one of several becomes a YAML stream with a
//! document for each. Whatever the file says, it is reported as the effective configuration; as the
//! file does not know what its content was called in the offer, a record beside the state does.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use opamp_proto::{Message as _, v1};
use serde::Deserialize as _;
use yaml_serde::Value;

use crate::file::{read_if_exists, write_atomically};
use crate::program::Failure;

/// What an agent without any configuration runs.
const BUILT_IN: &str = "# The configuration an example agent starts with.\n\
                        # `fail_with: some reason` makes it report that it is not healthy.\n\
                        greeting: hello\n";

/// The most that is taken: parsed YAML needs many times the memory of its text.
const MAX_LEN: usize = 4 * 1024 * 1024;

#[derive(Debug, Clone)]
pub(super) struct Config {
    /// Where the YAML is kept; `None` in memory only.
    file: Option<PathBuf>,
    /// Where the names of an offer's files are kept.
    record: Option<PathBuf>,
    running: Checked,
}

/// A configuration that is YAML throughout.
#[derive(Debug, Clone, PartialEq)]
struct Checked {
    files: v1::AgentConfigMap,
    yaml: String,
    /// What `fail_with` says.
    failing: Option<String>,
}

impl Config {
    /// Reads the configuration: from `file`, from the state directory, or what is built in.
    pub(super) fn open(file: Option<PathBuf>, state: Option<PathBuf>) -> Result<Self, Failure> {
        let named = file.is_some();
        let file = file.or_else(|| Some(state.as_ref()?.join("config.yaml")));
        let record = state.map(|state| state.join("config-names"));
        let found = match &file {
            Some(path) => read(path)?,
            None => None,
        };
        if let (true, None, Some(path)) = (named, &found, &file) {
            return Err(Failure::new(format!("there is no file {}", path.display())));
        }
        let body = found.unwrap_or_else(|| BUILT_IN.into());
        let alone = v1::AgentConfigFile { body: body.into(), content_type: "text/yaml".to_owned() };
        let alone = v1::AgentConfigMap { config_map: [(String::new(), alone)].into() };
        let running = Checked::new(alone).map_err(|why| match &file {
            Some(path) => Failure::new(format!("{}: {why}", path.display())),
            None => Failure::new(why),
        })?;
        let recorded = match &record {
            Some(path) => read(path)?.and_then(|record| {
                let files = v1::AgentConfigMap::decode(&*record).ok()?;
                // Somebody else may have changed the file since.
                Checked::new(files).ok().filter(|recorded| recorded.yaml == running.yaml)
            }),
            None => None,
        };
        Ok(Self { file, record, running: recorded.unwrap_or(running) })
    }

    /// What the agent runs (CFG-04).
    pub(super) fn effective(&self) -> v1::EffectiveConfig {
        v1::EffectiveConfig { config_map: Some(self.running.files.clone()) }
    }

    /// Why the work has to fail, if the configuration says so.
    pub(super) fn failing(&self) -> Option<&str> {
        self.running.failing.as_deref()
    }

    /// The configuration in place of the present one. When it cannot be used or kept, nothing
    /// changes and the error says why. Reads and writes files: not for a thread of the runtime.
    pub(super) fn replaced_by(self, files: v1::AgentConfigMap) -> Result<Self, String> {
        let running = Checked::new(files)?;
        self.keep(&running).map_err(|error| format!("cannot be kept: {error}"))?;
        Ok(Self { running, ..self })
    }

    /// The record goes first: one that does not fit the file has no effect.
    fn keep(&self, checked: &Checked) -> io::Result<()> {
        if let Some(record) = &self.record {
            write_atomically(record, &checked.files.encode_to_vec())?;
        }
        if let Some(file) = &self.file {
            write_atomically(file, checked.yaml.as_bytes())?;
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    read_if_exists(path)
        .map_err(|error| Failure::caused_by(format!("cannot read {}", path.display()), error))
}

impl Checked {
    fn new(files: v1::AgentConfigMap) -> Result<Self, String> {
        let len: usize = files.config_map.values().map(|file| file.body.len()).sum();
        if len > MAX_LEN {
            return Err(format!("{len} bytes of configuration are more than {MAX_LEN}"));
        }
        let mut failing = None;
        let mut yaml = String::with_capacity(len);
        for (name, file) in &files.config_map {
            let at = |why: &dyn std::fmt::Display| match name.as_str() {
                "" => why.to_string(),
                name => format!("{name:?}: {why}"),
            };
            let text = std::str::from_utf8(&file.body).map_err(|error| at(&error))?;
            for document in yaml_serde::Deserializer::from_str(text) {
                let document = Value::deserialize(document).map_err(|error| at(&error))?;
                let reason = document.get("fail_with").and_then(Value::as_str);
                failing = reason.map(str::to_owned).or(failing);
            }
            if files.config_map.len() > 1 {
                // A string takes whatever is written to it. Quoted, a name stays in its line.
                let _ = writeln!(yaml, "--- # {name:?}");
            }
            yaml.push_str(text);
            if files.config_map.len() > 1 && !text.ends_with('\n') {
                yaml.push('\n');
            }
        }
        Ok(Self { files, yaml, failing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(files: &[(&str, &str)]) -> v1::AgentConfigMap {
        let file = |body: &str| v1::AgentConfigFile {
            body: body.to_owned().into(),
            content_type: String::new(),
        };
        let files = files.iter().map(|(name, body)| ((*name).to_owned(), file(body)));
        v1::AgentConfigMap { config_map: files.collect() }
    }

    #[test]
    fn what_is_no_yaml_is_refused_with_its_position_and_nothing_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.yaml");
        std::fs::write(&path, "a: 1\n").unwrap();
        let config = Config::open(Some(path.clone()), None).unwrap();
        let effective = config.effective();
        let offered = files(&[("x.yaml", "a: 1\nb: [1, 2\nc: 3\n")]);
        let why = config.replaced_by(offered).unwrap_err();
        assert!(why.starts_with("\"x.yaml\": ") && why.contains("line 3"), "{why}");
        assert_eq!(Config::open(Some(path), None).unwrap().effective(), effective);
    }

    #[test]
    fn neither_bytes_that_are_no_text_nor_a_flood_are_taken() {
        let config = Config::open(None, None).unwrap();
        let mut bad = files(&[("", "")]);
        bad.config_map.get_mut("").unwrap().body = b"a: \xff"[..].into();
        assert!(config.clone().replaced_by(bad).unwrap_err().contains("utf-8"));
        let bomb: String = (1..30).fold("a0: &a0 [x, x]\n".to_owned(), |text, level| {
            format!("{text}a{level}: &a{level} [*a{0}, *a{0}]\n", level - 1)
        });
        let outcome = config.clone().replaced_by(files(&[("", &bomb)]));
        assert!(outcome.is_err(), "aliases that multiply");
        let long = "#".repeat(MAX_LEN + 1);
        let outcome = config.replaced_by(files(&[("", &long)]));
        assert!(outcome.unwrap_err().contains("more than"));
    }

    #[test]
    fn one_file_is_kept_as_it_is_and_several_as_a_stream() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        let open = || Config::open(None, Some(dir.path().to_owned())).unwrap();
        open().replaced_by(files(&[("only", "a: 1 # as it is")])).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a: 1 # as it is");
        assert_eq!(open().effective().config_map, Some(files(&[("only", "a: 1 # as it is")])));

        let two = files(&[("a", "x: 1"), ("b", "fail_with: no disk\n")]);
        open().replaced_by(two.clone()).unwrap();
        let stream = std::fs::read_to_string(&path).unwrap();
        assert_eq!(stream, "--- # \"a\"\nx: 1\n--- # \"b\"\nfail_with: no disk\n");
        assert_eq!(open().effective().config_map, Some(two));
        assert_eq!(open().failing(), Some("no disk"));

        std::fs::write(&path, "edited: by hand\n").unwrap();
        let edited = open().effective().config_map.unwrap();
        assert_eq!(&edited.config_map[""].body[..], b"edited: by hand\n");
    }

    #[test]
    fn a_named_file_has_to_be_there_and_be_yaml() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.yaml");
        let error = Config::open(Some(path.clone()), None).unwrap_err();
        assert!(error.to_string().contains("no file"), "{error}");
        std::fs::write(&path, "a: b: c").unwrap();
        let error = Config::open(Some(path), None).unwrap_err();
        assert!(error.to_string().contains("line 1"), "{error}");
    }
}
