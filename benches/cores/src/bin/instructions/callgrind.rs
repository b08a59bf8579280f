//! Counting instructions with callgrind.
//!
//! It counts while a function of a given name runs, and writes its figures when another one returns. So
//! neither the start of the program nor what is made ready counts, and one run does for all operations.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::count;

/// The argument of the process that is counted.
pub(crate) const COUNTED: &str = "--counted";

/// The names of the functions in `count`, in whatever way the compiler decorates them. They are two, as
/// callgrind does one thing for a function.
const OPTIONS: [&str; 2] =
    ["--toggle-collect=*counted_by_callgrind*", "--dump-after=*dumped_by_callgrind*"];

/// Everything that figures depend on besides the sources; nothing where there is no valgrind.
pub(crate) fn conditions() -> Result<Option<String>, String> {
    let Ok(valgrind) = first_line("valgrind", "--version") else { return Ok(None) };
    let rustc = first_line("rustc", "--version")?;
    // Copying and comparing memory is the C library's, which chooses by the processor.
    let libc = first_line("ldd", "--version").unwrap_or_else(|_| "an unknown C library".to_owned());
    #[cfg(target_arch = "x86_64")]
    let processor = match std::arch::is_x86_feature_detected!("avx2") {
        true => "x86_64 with AVX2",
        false => "x86_64 without AVX2",
    };
    #[cfg(not(target_arch = "x86_64"))]
    let processor = std::env::consts::ARCH;
    let build = if cfg!(debug_assertions) { "debug build" } else { "optimised" };
    Ok(Some([rustc.as_str(), &valgrind, &libc, processor, build].join("; ")))
}

fn first_line(program: &str, argument: &str) -> Result<String, String> {
    let output = Command::new(program).arg(argument).stderr(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Runs this program under callgrind: the instructions of each operation, in order. The profiles are
/// kept where a directory is given.
pub(crate) fn count(out: Option<&Path>) -> Result<Vec<f64>, String> {
    let program = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
    let temporary = std::env::temp_dir().join(format!("instructions-{}", std::process::id()));
    let directory = out.unwrap_or(&temporary);
    let failed = |error| format!("{}: {error}", directory.display());
    fs::create_dir_all(directory).map_err(failed)?;
    let profiles = directory.join("callgrind.out");
    let status = Command::new("valgrind")
        .args(["--quiet", "--tool=callgrind"])
        .arg(format!("--callgrind-out-file={}", profiles.display()))
        .args(OPTIONS)
        .arg(program)
        .arg(COUNTED)
        .status();
    let counts = match status {
        Err(error) => Err(format!("valgrind: {error}")),
        Ok(status) if !status.success() => Err(format!("valgrind: {status}")),
        Ok(_) => read(&profiles),
    };
    if out.is_none() {
        // Nobody needs it any more, and the system tidies up there.
        let _ = fs::remove_dir_all(&temporary);
    }
    counts
}

fn read(profiles: &Path) -> Result<Vec<f64>, String> {
    let read = |(place, operation): (usize, count::Counted)| {
        let profile = format!("{}.{}", profiles.display(), place + 1);
        let text = fs::read_to_string(&profile).map_err(|error| format!("{profile}: {error}"))?;
        let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
        let total = total.and_then(|total| total.parse::<f64>().ok()).filter(|total| *total > 0.0);
        let total = total.ok_or_else(|| format!("{profile}: nothing was counted"))?;
        Ok(total / operation.times as f64)
    };
    count::operations().into_iter().enumerate().map(read).collect()
}
