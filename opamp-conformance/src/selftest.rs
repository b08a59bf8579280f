//! The proof that the cases can fail: every case passes against the reference peers, and for each
//! fault these peers can have, exactly the cases that say so miss something.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::case::{Case, cases};
use crate::net::Network;
use crate::reference::client::ReferenceClient;
use crate::reference::server::ReferenceServer;
use crate::reference::{self, Faults};
use crate::report::{CaseResult, Side};
use crate::run::{Options, Subject, run};
use crate::verdict::Verdict;

/// Rows that the reference peers cannot show: their limits are not the default ones, as messages of
/// that size would take too long.
const UNSHOWN: [&str; 2] = ["SIZE-02", "SIZE-19"];

/// What the selftest found about one reference peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Which end the peer is.
    pub side: Side,
    /// Its fault; `None` for the peer that conforms.
    pub fault: Option<&'static str>,
    /// What is not as declared, in words; empty where all is well.
    pub wrong: Vec<String>,
}

/// Every reference peer: the conforming one and one for each fault, of both sides.
#[must_use]
pub fn peers() -> Vec<(Side, Option<&'static str>)> {
    let of = |side, faults: &'static [(&'static str, &'static str)]| {
        let broken = faults.iter().map(move |(name, _)| (side, Some(*name)));
        std::iter::once((side, None)).chain(broken)
    };
    of(Side::Server, reference::server::FAULTS)
        .chain(of(Side::Client, reference::client::FAULTS))
        .collect()
}

/// What a fault of the reference peer of this side is, in words.
#[must_use]
pub fn meaning(side: Side, fault: &str) -> Option<&'static str> {
    let faults = match side {
        Side::Server => reference::server::FAULTS,
        Side::Client => reference::client::FAULTS,
    };
    faults.iter().find(|(name, _)| *name == fault).map(|(_, meaning)| *meaning)
}

/// Runs all cases against these peers, on as many threads as `threads`, and tells `done` of each
/// peer as soon as it is known.
pub fn prove(
    peers: &[(Side, Option<&'static str>)],
    threads: usize,
    done: impl Fn(&Proof) + Sync,
) -> Vec<Proof> {
    let next = AtomicUsize::new(0);
    let proofs = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some((side, fault)) = peers.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let proof = prove_one(*side, *fault);
                    done(&proof);
                    proofs.lock().unwrap_or_else(PoisonError::into_inner).push(proof);
                }
            });
        }
    });
    proofs.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Runs all cases against one reference peer, in virtual time.
#[must_use]
pub fn prove_one(side: Side, fault: Option<&'static str>) -> Proof {
    let all = cases(side);
    let wrong = match against(side, fault, &all) {
        Ok(results) => judge(&all, fault, &results),
        Err(error) => vec![format!("cannot run: {error}")],
    };
    Proof { side, fault, wrong }
}

/// What cases come to against a reference peer, in virtual time.
///
/// # Errors
///
/// When the runtime or the peer cannot be started.
pub fn against(
    side: Side,
    fault: Option<&'static str>,
    cases: &[&'static Case],
) -> std::io::Result<Vec<CaseResult>> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
    let faults = fault.map_or_else(Faults::none, Faults::only);
    runtime.block_on(async {
        let network = Network::in_memory();
        let options = Options { jobs: usize::MAX, transcripts: false, ..Default::default() };
        Ok(match side {
            Side::Server => {
                let (secure, plain): (Vec<_>, Vec<_>) =
                    cases.iter().copied().partition(|case| case.needs_tls());
                let server = ReferenceServer::start(&network, faults.clone()).await?;
                let subject = Subject::Server(server.target());
                let mut results = run(&subject, &plain, &options, |_| {}).await;
                if !secure.is_empty() {
                    let server = ReferenceServer::start_with_tls(&network, faults).await?;
                    let subject = Subject::Server(server.target());
                    results.extend(run(&subject, &secure, &options, |_| {}).await);
                }
                results
            }
            Side::Client => {
                let client = Arc::new(ReferenceClient::new(&network, faults));
                run(&Subject::Client(client), cases, &options, |_| {}).await
            }
        })
    })
}

fn judge(all: &[&'static Case], fault: Option<&str>, results: &[CaseResult]) -> Vec<String> {
    let mut wrong = Vec::new();
    for result in results.iter().filter(|result| result.verdict == Verdict::HarnessError) {
        wrong.push(format!("{} cannot go on: {}", result.case, told(result)));
    }
    let missing = |result: &&CaseResult| {
        result.findings.iter().any(|finding| finding.verdict.is_miss() || finding.noted)
    };
    let failed: BTreeSet<&str> =
        results.iter().filter(missing).map(|result| result.case.as_str()).collect();
    let declared: BTreeSet<&str> = all
        .iter()
        .filter(|case| fault.is_some_and(|fault| case.broken_by.contains(&fault)))
        .map(|case| case.name)
        .collect();
    for case in failed.difference(&declared) {
        let seen = results.iter().filter(|result| result.case == **case).map(told);
        wrong.push(format!("{case} fails and does not say so: {}", seen.collect::<String>()));
    }
    for case in declared.difference(&failed) {
        wrong.push(format!("{case} says that it fails and does not"));
    }
    if fault.is_none() {
        for result in results {
            for finding in &result.findings {
                let is_unshown = UNSHOWN.contains(&finding.row.as_str());
                if finding.verdict != Verdict::Pass && !is_unshown {
                    let (case, row, actual) = (&result.case, &finding.row, &finding.actual);
                    wrong.push(format!("{case} {row}: {}: {actual}", finding.verdict));
                }
            }
        }
        for case in all.iter().filter(|case| case.broken_by.is_empty()) {
            wrong.push(format!("no fault proves that {} can fail", case.name));
        }
    }
    wrong
}

fn told(result: &CaseResult) -> String {
    let misses = result
        .findings
        .iter()
        .filter(|finding| finding.verdict > Verdict::Pass || finding.noted)
        .map(|finding| {
            format!("{} expected {}, saw {}; ", finding.row, finding.expected, finding.actual)
        });
    let transport = result.transport.map_or("", |transport| transport.name());
    format!(
        "[{transport}] {}{}",
        misses.collect::<String>(),
        result.stopped.clone().unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The faults are for the command `selftest`: all of them take a few minutes.
    #[test]
    fn good_peers_pass() {
        let good = peers().into_iter().filter(|(_, fault)| fault.is_none()).collect::<Vec<_>>();
        for proof in prove(&good, good.len(), |_| {}) {
            assert!(proof.wrong.is_empty(), "{:?}:\n  {}", proof.side, proof.wrong.join("\n  "));
        }
    }

    #[test]
    fn names_are_unique_and_faults_are_used() {
        for side in [Side::Server, Side::Client] {
            let all = cases(side);
            let names: BTreeSet<_> = all.iter().map(|case| case.name).collect();
            assert_eq!(names.len(), all.len());
            for case in &all {
                assert_eq!(case.name.split('/').count(), 3, "{}", case.name);
                assert!(case.name.starts_with(side.name()), "{}", case.name);
                for row in case.judges {
                    let row = opamp_spec::requirement(row)
                        .unwrap_or_else(|| panic!("{} judges {row}, which is no row", case.name));
                    assert!(
                        row.party == "both" || row.party == side.name(),
                        "{} judges {} of the other side",
                        case.name,
                        row.id
                    );
                }
            }
            let faults = match side {
                Side::Server => reference::server::FAULTS,
                Side::Client => reference::client::FAULTS,
            };
            let used: BTreeSet<_> = all.iter().flat_map(|case| case.broken_by).collect();
            let known: BTreeSet<_> = faults.iter().map(|(name, _)| name).collect();
            assert_eq!(used, known, "the faults that cases name, and those there are");
        }
    }
}
