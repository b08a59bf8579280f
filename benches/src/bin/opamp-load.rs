//! The load generator's command line.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use opamp_benches::load::{Options, Report, run};

fn main() -> ExitCode {
    let options = Options::parse();
    if let Err(wrong) = options.check() {
        // When stderr is gone there is nobody left to tell.
        let _ = writeln!(io::stderr(), "error: {wrong}");
        return ExitCode::from(2);
    }
    let quiet = options.quiet;
    let mut tell = |line: &str| {
        if !quiet {
            let _ = writeln!(io::stderr(), "{line}");
        }
    };
    let outcome = run(&options, &mut tell)
        .and_then(|report| print(&report, options.json.as_deref()).map(|()| report));
    match outcome {
        Ok(report) => {
            let good = report.is_complete() && (!options.strict || report.troubles.is_empty());
            ExitCode::from(u8::from(!good))
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(report: &Report, json: Option<&Path>) -> Result<(), String> {
    if let Some(path) = json {
        let mut text = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
        text.push('\n');
        if path.as_os_str() != "-" {
            std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        } else {
            return io::stdout().write_all(text.as_bytes()).map_err(|error| error.to_string());
        }
    }
    write!(io::stdout(), "{report}").map_err(|error| error.to_string())
}
