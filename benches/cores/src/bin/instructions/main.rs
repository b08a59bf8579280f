//! Counts the instructions and allocations of what the protocol cores do, and compares them with those
//! of the last change that was accepted: they hardly vary on a machine that is busy with other things.
//!
//! `benches/run instructions` builds and starts it.

mod callgrind;
mod count;
mod record;

use std::alloc::System;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use self::record::{Count, Record, Verdict};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const USAGE: &str = "\
Usage: instructions [--accept] [--out DIRECTORY]

Counts what each operation of the protocol cores takes, and compares it with benches/instructions.csv.

  --accept          writes the figures there: a gain to be kept, or a loss that is worth it
  --out DIRECTORY   where the profiles go, for callgrind_annotate; default: a temporary directory

Exit status: 0 if no figure grew, or if they cannot be compared as compiler, libc or processor are other
ones; 1 if one grew, or there is nothing to compare it with; 2 on bad usage; 3 without valgrind.
";

fn main() -> ExitCode {
    let (mut accept, mut out) = (false, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // What is started under valgrind.
            callgrind::COUNTED => {
                count::all();
                return ExitCode::SUCCESS;
            }
            "--accept" => accept = true,
            "--out" => match arguments.next() {
                Some(directory) => out = Some(PathBuf::from(directory)),
                None => return usage(),
            },
            "-h" | "--help" => {
                print(USAGE);
                return ExitCode::SUCCESS;
            }
            _ => return usage(),
        }
    }
    match run(accept, out.as_deref()) {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(accept: bool, out: Option<&Path>) -> Result<ExitCode, String> {
    let Some(conditions) = callgrind::conditions()? else {
        complain("there is no valgrind in PATH: nothing can be counted (apt-get install valgrind)");
        return Ok(ExitCode::from(3));
    };
    let instructions = callgrind::count(out)?;
    let allocations = count::allocations();
    let counts = count::operations().into_iter().zip(instructions.into_iter().zip(allocations));
    let counts = counts.map(|(operation, (instructions, allocations))| {
        (operation.name, Count { instructions, allocations })
    });
    let now = Record { conditions, counts: counts.collect() };

    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../instructions.csv");
    let before = Record::read(&file)?;
    let (table, verdict) = record::compare(&now, before.as_ref());
    print(&table);
    if accept {
        now.write(&file)?;
        print("benches/instructions.csv has these figures now\n");
        return Ok(ExitCode::SUCCESS);
    }
    let (said, code) = match before {
        None => ("there is nothing to compare with: --accept writes it\n".to_owned(), 1),
        Some(before) if before.conditions != now.conditions => {
            let (theirs, ours) = (before.conditions, now.conditions);
            let said = format!(
                "not judged: the figures to compare with are of\n  {theirs}\nand these of\n  {ours}\n"
            );
            (said, 0)
        }
        Some(_) => match verdict {
            Verdict::Same => ("no figure grew\n".to_owned(), 0),
            Verdict::Shrunk => {
                ("no figure grew, and --accept keeps what was gained\n".to_owned(), 0)
            }
            Verdict::Grown => {
                let said = "figures grew: --out keeps the profiles, --accept the figures, if they are worth it\n";
                (said.to_owned(), 1)
            }
        },
    };
    print(&said);
    Ok(ExitCode::from(code))
}

fn usage() -> ExitCode {
    complain(USAGE);
    ExitCode::from(2)
}

fn print(text: &str) {
    // Whoever closed the output does not want it.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "instructions: {}", text.trim_end());
}
