//! How long what the protocol cores do takes, without any I/O.

use divan::Bencher;
use opamp_core_benches::{Operation, client, fleet, floor, server};

/// What a server is to hold.
const AGENTS: usize = 100_000;

fn main() {
    divan::main();
}

fn bench(bencher: Bencher<'_, '_>, operation: &Operation) {
    bencher.bench_local(operation.prepare(AGENTS));
}

#[divan::bench(name = "floor", args = floor::OPERATIONS, sample_size = 1000)]
fn floors(bencher: Bencher<'_, '_>, operation: &Operation) {
    bench(bencher, operation);
}

#[divan::bench(name = "server", args = server::OPERATIONS, sample_size = 1000)]
fn servers(bencher: Bencher<'_, '_>, operation: &Operation) {
    bench(bencher, operation);
}

#[divan::bench(name = "client", args = client::OPERATIONS, sample_size = 1000)]
fn clients(bencher: Bencher<'_, '_>, operation: &Operation) {
    bench(bencher, operation);
}

#[divan::bench(
    name = "one of 100,000 Agents",
    args = fleet::OPERATIONS.into_iter().filter(|operation| !operation.with_all),
    sample_size = 1000,
)]
fn one(bencher: Bencher<'_, '_>, operation: &Operation) {
    bench(bencher, operation);
}

#[divan::bench(
    name = "all of 100,000 Agents",
    args = fleet::OPERATIONS.into_iter().filter(|operation| operation.with_all),
    sample_count = 20,
    sample_size = 1,
)]
fn all(bencher: Bencher<'_, '_>, operation: &Operation) {
    bench(bencher, operation);
}
