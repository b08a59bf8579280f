//! Clients that are none: one clear message, status 3, no hang, and nothing left behind.

#![cfg(unix)]

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use crate::support::{Ran, program, run};

fn exec(command: &str) -> Ran {
    run(&["client", "--exec", command, "--timeout-scale", "0.1"])
}

#[test]
fn one_that_does_not_start() {
    exec("/nowhere/agent {url}").is_unable(&["/nowhere/agent"]);
    exec("/ {url}").is_unable(&["no program"]);
    exec("agent").is_unable(&["{url}"]);
    exec("'agent {url}").is_unable(&["quote"]);
}

#[test]
fn one_that_exits() {
    let ran = exec("sh -c 'echo it needs a license >&2; exit 7' sh {url}");
    ran.is_unable(&["over websocket", "over http", "7", "it needs a license"]);
}

#[test]
fn one_that_never_connects() {
    exec("sh -c 'sleep 600' sh {url}").is_unable(&["it did not connect within 2 s"]);
    // One that prints without end takes no memory and does not stop for want of a reader.
    exec("yes {url}").is_unable(&["it did not connect within 2 s"]);
}

#[test]
fn one_that_nobody_starts() {
    let case = ["--case", "client/sequence/full-state", "--transport", "http"];
    let ran = run(&[&["client", "--listen", "--start-timeout", "0.5"], &case[..]].concat());
    assert_eq!(ran.status, 3, "{}{}", ran.out, ran.err);
    assert!(ran.err.contains(">>> start the client for http://127.0.0.1:"), "{}", ran.err);
    assert!(ran.out.contains("no message of the client within 0.5 s"), "{}", ran.out);
}

#[test]
fn a_client_ends_with_the_tester() {
    use rustix::process::{Pid, Signal, kill_process, test_kill_process};

    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("pid");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let command = format!("sh -c 'sleep 600 & echo $! > {}; wait' sh {{url}}", fifo.display());
    let mut tester = program(&["client", "--exec", &command])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Opening waits until the client writes.
    let mut line = String::new();
    BufReader::new(std::fs::File::open(&fifo).unwrap()).read_line(&mut line).unwrap();
    let sleeping = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
    test_kill_process(sleeping).expect("it runs");

    let pid = Pid::from_raw(tester.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(tester.wait().unwrap().code(), Some(3));
    let said = std::io::read_to_string(tester.stderr.take().unwrap()).unwrap();
    assert!(said.contains("stopped by SIGTERM"), "{said}");
    let gone = || match std::fs::read_to_string(format!("/proc/{}/stat", sleeping.as_raw_pid())) {
        // A zombie is waiting for its parent only.
        Ok(stat) => stat.contains(") Z "),
        Err(_) => test_kill_process(sleeping).is_err(),
    };
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !gone() {
        assert!(std::time::Instant::now() < until, "what the client started still runs");
        std::thread::yield_now();
    }
}
