//! Running the suite against a subject, the same way for servers and clients: what is asked for is
//! checked first, then the subject is looked at, then the cases run, then reports are written.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use opamp_conformance::baseline::Baseline;
use opamp_conformance::hook::{self, CommandHook, Hooks, HttpHook, NoHooks};
use opamp_conformance::pace::Pace;
use opamp_conformance::preflight;
use opamp_conformance::program::CommandLine;
use opamp_conformance::report::terminal::{self, Progress};
use opamp_conformance::report::{self, Report, Side, html, junit};
use opamp_conformance::run::{Options, Subject};
use opamp_conformance::suite::Suite;

use crate::args::{HookArgs, ReportArgs, RunArgs};
use crate::write;

/// How many cases run at a time where nothing speaks against it.
const JOBS: usize = 16;

/// A hook that was asked for and looks as if it could be called.
pub(crate) enum Hook {
    None,
    Command(CommandHook),
    Http(HttpHook),
}

impl Hook {
    pub(crate) async fn open(args: &HookArgs) -> Result<Self, String> {
        let bad = |why: String| format!("the hook cannot be used: {why}");
        if let Some(command) = &args.hook {
            let hook = CommandHook::new(CommandLine::parse(command).map_err(bad)?, hook::LIMIT);
            hook.check().map_err(bad)?;
            return Ok(Self::Command(hook));
        }
        if let Some(url) = &args.hook_url {
            let hook = HttpHook::new(url, hook::LIMIT).map_err(bad)?;
            hook.check().await.map_err(bad)?;
            return Ok(Self::Http(hook));
        }
        Ok(Self::None)
    }

    /// The hook as it is for everything the run starts.
    pub(crate) fn of_all(self) -> Arc<dyn Hooks> {
        match self {
            Self::None => Arc::new(NoHooks),
            Self::Command(hook) => Arc::new(hook),
            Self::Http(hook) => Arc::new(hook),
        }
    }
}

/// The suite that the arguments ask for.
pub(crate) fn suite(args: &RunArgs, side: Side) -> Result<Suite, String> {
    for path in outputs(args) {
        check_output(path)?;
    }
    let baseline = match &args.baseline {
        Some(path) => baseline(path, side)?,
        None => Baseline::default(),
    };
    let suite = Suite {
        selection: args.select.selection(),
        spec: args.spec,
        count_development: args.count_development,
        baseline,
        options: Options {
            transcripts: true,
            transports: args.select.transports(),
            pace: Pace::new(args.timeout_scale),
            // A number that every reader of JSON keeps.
            seed: args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>())),
            jobs: args.jobs.unwrap_or_else(|| jobs(side)),
        },
    };
    suite.plan(side).map_err(|error| error.to_string())?;
    Ok(suite)
}

/// How many cases run at a time.
fn jobs(side: Side) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    match side {
        Side::Server => JOBS,
        Side::Client => JOBS.min(4 * processors),
    }
}

/// Looks at the subject where it can be, tests it and reports. It is called `name` where the
/// arguments give it no other.
pub(crate) async fn run(
    mut suite: Suite,
    subject: &Subject,
    look: bool,
    (name, reached_by): (String, String),
    args: &RunArgs,
) -> Result<u8, String> {
    let side = subject.side();
    let options = &mut suite.options;
    if look {
        let found = preflight::look(subject, &options.transports, options.pace)
            .await
            .map_err(|unreachable| unreachable.to_string())?;
        for remark in &found.remarks {
            note(&format!("the {} is not reached {remark}", side.name()));
        }
        if side == Side::Client {
            // One it does not speak would take a long wait for each case.
            options.transports = found.transports;
        }
    }
    let about = report::Subject {
        name: args.name.clone().unwrap_or(name),
        version: args.version.clone(),
        side,
        reached_by,
    };
    let plan = suite.plan(side).map_err(|error| error.to_string())?;
    let mut progress = Progress::new(stderr(args.reports.quiet))
        .live(io::stderr().is_terminal())
        .color(colored(&io::stderr()));
    let shown = progress.started(&about, plan.count(subject));
    let mut shown = shown.map_err(cannot_write);
    let report = plan.run(subject, about, |result| {
        if shown.is_ok() {
            shown = progress.finished(result).map_err(cannot_write);
        }
    });
    let report = report.await;
    progress.ended().map_err(cannot_write)?;
    write_reports(&report, args)?;
    Ok(report.exit_status)
}

fn write_reports(report: &Report, args: &RunArgs) -> Result<(), String> {
    let reports = &args.reports;
    if let Some(path) = &reports.json {
        write(path, &report.to_json().map_err(|error| error.to_string())?)?;
    }
    if let Some(path) = &reports.junit {
        write(path, &junit::document(report))?;
    }
    if let Some(path) = &reports.html {
        write(path, &html::page(std::slice::from_ref(report)))?;
    }
    if let Some(path) = &args.write_baseline {
        write(path, &Baseline::write(report))?;
    }
    if reports.quiet {
        return Ok(());
    }
    if outputs(args).any(|path| path.as_os_str() == "-") {
        let summary = terminal::summary(report, colored(&io::stderr()));
        return stderr(false).write_all(summary.as_bytes()).map_err(cannot_write);
    }
    write(Path::new("-"), &terminal::summary(report, colored(&io::stdout())))
}

fn outputs(args: &RunArgs) -> impl Iterator<Item = &PathBuf> {
    let ReportArgs { json, junit, html, .. } = &args.reports;
    [json, junit, html, &args.write_baseline].into_iter().flatten()
}

/// Whether a report can be written there, as far as can be told before the run that it is of.
fn check_output(path: &Path) -> Result<(), String> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let why = match parent {
        _ if path.is_dir() => "it is a directory",
        Some(parent) if !parent.is_dir() => "its directory does not exist",
        _ => return Ok(()),
    };
    Err(format!("cannot write {}: {why}", path.display()))
}

fn baseline(path: &Path, side: Side) -> Result<Baseline, String> {
    let bad = |why: String| format!("the baseline {} cannot be used: {why}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    Baseline::parse(&text, side).map_err(|error| bad(error.to_string()))
}

/// Standard error, or nowhere.
fn stderr(quiet: bool) -> Box<dyn io::Write> {
    if quiet { Box::new(io::sink()) } else { Box::new(io::stderr()) }
}

fn colored(stream: &impl io::IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[allow(clippy::print_stderr, reason = "a remark for a person")]
fn note(text: &str) {
    eprintln!("note: {text}");
}

#[allow(clippy::needless_pass_by_value, reason = "the shape of map_err")]
fn cannot_write(error: io::Error) -> String {
    format!("cannot write: {error}")
}
