//! What every program here does the same way: results on stdout, logs on stderr, an exit status
//! that says what went wrong, an orderly stop on SIGINT and SIGTERM.

use std::fmt::{self, Display};
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

/// Why a program cannot go on, in words for the person who started it.
#[derive(Debug)]
pub struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// Something did not work: exit status 1.
    pub fn new(message: impl Display) -> Self {
        Self { message: message.to_string(), code: 1 }
    }

    /// As [`new`](Self::new), with the error that caused it and its causes.
    pub fn caused_by(message: impl Display, error: impl std::error::Error) -> Self {
        let mut message = format!("{message}: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        Self::new(message)
    }

    /// The program was called in a way that cannot work: exit status 2.
    #[must_use]
    pub fn of_usage(self) -> Self {
        Self { code: 2, ..self }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The exit status of a program; a failure is told on stderr.
pub fn exit(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // When stderr is gone there is nobody left to tell.
            let _ = writeln!(io::stderr().lock(), "error: {failure}");
            ExitCode::from(failure.code)
        }
    }
}

/// Prints a line of the program's results.
pub fn print(line: impl Display) {
    // A reader that has gone away is no reason to stop.
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// Sends logs to stderr: what `RUST_LOG` asks for, otherwise from `default` up.
pub fn log_to_stderr(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
}

/// Listens from now on; completes when the program is told to stop by SIGINT or SIGTERM.
///
/// Call it before there is anything to stop in an orderly way: until then a signal simply ends the
/// program.
///
/// # Errors
///
/// When the signals cannot be listened to.
#[cfg(unix)]
pub fn told_to_stop() -> Result<impl Future<Output = ()>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};

    let listen =
        |kind| signal(kind).map_err(|error| Failure::caused_by("signals cannot be heard", error));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Listens from now on; gives something each time the program is told to read its files again, by
/// SIGHUP.
///
/// # Errors
///
/// When the signal cannot be listened to.
#[cfg(unix)]
pub fn told_to_reload() -> Result<tokio::sync::mpsc::Receiver<()>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut hangup = signal(SignalKind::hangup())
        .map_err(|error| Failure::caused_by("signals cannot be heard", error))?;
    let (sender, told) = tokio::sync::mpsc::channel(1);
    tokio::spawn(
        async move { while hangup.recv().await.is_some() && sender.send(()).await.is_ok() {} },
    );
    Ok(told)
}

/// There is no such signal here.
///
/// # Errors
///
/// None.
#[cfg(windows)]
pub fn told_to_reload() -> Result<tokio::sync::mpsc::Receiver<()>, Failure> {
    Ok(tokio::sync::mpsc::channel(1).1)
}

/// Listens from now on; completes when the program is told to stop by Ctrl-C.
///
/// # Errors
///
/// When the signal cannot be listened to.
#[cfg(windows)]
pub fn told_to_stop() -> Result<impl Future<Output = ()>, Failure> {
    let mut interrupt = tokio::signal::windows::ctrl_c()
        .map_err(|error| Failure::caused_by("signals cannot be heard", error))?;
    Ok(async move {
        interrupt.recv().await;
    })
}
