//! The project's own house rules, where a machine can check them.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// The project's files with one of these endings. Outside a checkout, as in a packaged source, none.
fn files(endings: &[&str]) -> Vec<(String, String)> {
    if !root().join(".git").exists() {
        return Vec::new();
    }
    let safe = format!("safe.directory={}", root().display());
    let list = Command::new("git").args(["-c", &safe, "ls-files"]).current_dir(root()).output();
    let list = String::from_utf8(list.expect("git runs").stdout).expect("names are UTF-8");
    assert!(!list.is_empty(), "git lists the files");
    list.lines()
        .filter(|name| endings.iter().any(|ending| name.ends_with(ending)))
        .filter(|name| !name.contains("/generated/"))
        .filter_map(|name| {
            Some((name.to_owned(), std::fs::read_to_string(root().join(name)).ok()?))
        })
        .collect()
}

#[test]
fn no_file_is_two_files() {
    for (name, text) in files(&[".rs"]) {
        let lines = text.lines().count();
        assert!(lines <= 650, "{name} has {lines} lines: split it by concept");
    }
}

#[test]
fn nothing_is_left_to_do() {
    let marks =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("dbg", "!(")];
    for (name, text) in files(&[".rs", ".toml", ".md", ".go"]) {
        for mark in marks {
            assert!(!text.contains(mark), "{name} contains {mark}");
        }
    }
}

#[test]
fn the_readme_names_the_right_rust_version() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("the manifest");
    let line = manifest.lines().find(|line| line.starts_with("rust-version")).expect("a version");
    let version = line.split('"').nth(1).expect("in quotes");
    let readme = std::fs::read_to_string(root().join("README.md")).expect("the README");
    assert!(readme.contains(&format!("Rust {version} or later")), "README.md: Rust {version}");
}

#[test]
fn every_member_is_on_the_map() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("the README");
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("the manifest");
    let members = manifest.split("members = [").nth(1).and_then(|rest| rest.split(']').next());
    for member in members.expect("there are members").split(',') {
        let member = member.trim().trim_matches('"').split('/').next().unwrap_or_default();
        assert!(member.is_empty() || readme.contains(&format!("]({member})")), "{member}");
    }
}
