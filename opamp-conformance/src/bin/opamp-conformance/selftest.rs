//! `opamp-conformance selftest`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use opamp_conformance::selftest::{Proof, peers, prove};

use crate::args::SelftestArgs;
use crate::write;

pub(crate) async fn run(args: SelftestArgs) -> Result<u8, String> {
    let mut peers = peers();
    for name in &args.faults {
        if !peers.iter().any(|(_, fault)| *fault == Some(name)) {
            return Err(format!("no reference peer has the fault {name:?}"));
        }
    }
    peers.retain(|(side, fault)| {
        args.side.is_none_or(|only| only.side() == *side)
            && (args.faults.is_empty()
                || fault.is_some_and(|fault| args.faults.iter().any(|name| name == fault)))
    });
    if peers.is_empty() {
        return Err("no reference peer of this side has this fault".to_owned());
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.jobs.unwrap_or(processors);
    let (count, began) = (peers.len(), Instant::now());
    let done = AtomicUsize::new(0);
    let told = move |proof: &Proof| {
        let number = done.fetch_add(1, Ordering::SeqCst) + 1;
        if args.verbose || !proof.wrong.is_empty() {
            let text = format!("[{number}/{count}] {}", tell(proof));
            // Where progress cannot be told, the status has to do.
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
    };
    // The peers run in virtual time, each with a runtime of its own.
    let proofs = tokio::task::spawn_blocking(move || prove(&peers, threads, told))
        .await
        .map_err(|error| error.to_string())?;
    let wrong = proofs.iter().filter(|proof| !proof.wrong.is_empty()).count();
    let seconds = began.elapsed().as_secs_f64();
    let result = match wrong {
        0 => "every case fails where it should and nowhere else".to_owned(),
        wrong => format!("{wrong} not as declared"),
    };
    write(Path::new("-"), &format!("{count} reference peers in {seconds:.1} s: {result}\n"))?;
    Ok(u8::from(wrong > 0))
}

fn tell(proof: &Proof) -> String {
    let fault = proof.fault.map_or("that conforms".to_owned(), |fault| format!("with {fault}"));
    let mut text = format!("{} {fault}: ", proof.side.name());
    if proof.wrong.is_empty() {
        text.push_str("as declared\n");
    } else {
        text.push_str("wrong\n");
        for wrong in &proof.wrong {
            // Writing to a string does not fail.
            let _ = writeln!(text, "    {wrong}");
        }
    }
    text
}
