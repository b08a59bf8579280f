//! Where and of what the figures are.

use std::fs;
use std::process::Command;

/// The first line a command prints.
fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}

fn line_of(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// A list of what has to be known to repeat the measurement.
pub(crate) fn description() -> String {
    let unknown = || "unknown".to_owned();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = line_of("/proc/meminfo", "MemTotal").and_then(|text| {
        let kilobytes: u64 = text.strip_suffix(" kB")?.parse().ok()?;
        Some(format!("{} GiB", (kilobytes + (1 << 19)) >> 20))
    });
    let module = fs::read_to_string("interop/go/go.mod").ok().and_then(|text| {
        let line = text.lines().find(|line| line.contains("/opamp-go "))?;
        line.split_whitespace().last().map(str::to_owned)
    });
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "- {}, {cores} cores, {} of memory; {}\n- {}; {}; opamp-go {}\n- version {}, commit {}\n- {}, \
         load average before: {}\n",
        line_of("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
        memory.unwrap_or_else(unknown),
        output("uname", &["-sr"]).unwrap_or_else(unknown),
        output("rustc", &["-V"]).unwrap_or_else(unknown),
        output("go", &["version"]).unwrap_or_else(|| "no Go".to_owned()),
        module.unwrap_or_else(unknown),
        env!("CARGO_PKG_VERSION"),
        output("git", &["describe", "--always", "--dirty"]).unwrap_or_else(unknown),
        output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]).unwrap_or_else(unknown),
        load.split(' ').next().unwrap_or("unknown"),
    )
}
