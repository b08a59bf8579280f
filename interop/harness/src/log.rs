//! What a process has said so far, line by line, and waiting for what it says next.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::sync::watch;

use crate::check::{Failed, cut};

/// How long anything that has to happen may take, on a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct Line {
    /// When it was read.
    pub(crate) at: Instant,
    pub(crate) text: String,
    /// Null if the line is not JSON.
    pub(crate) json: Value,
}

/// The lines of one stream. Clones see the same lines.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    lines: Arc<Mutex<Vec<Arc<Line>>>>,
    grown: watch::Receiver<()>,
}

impl Log {
    /// Reads the stream until it ends.
    pub(crate) fn of(stream: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let (tell, grown) = watch::channel(());
        let log = Self { lines: Arc::default(), grown };
        let lines = Arc::clone(&log.lines);
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream).lines();
            while let Ok(Some(text)) = stream.next_line().await {
                let at = Instant::now();
                let json = serde_json::from_str(&text).unwrap_or_default();
                lock(&lines).push(Arc::new(Line { at, text, json }));
                tell.send_replace(());
            }
        });
        log
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.lines).len()
    }

    pub(crate) fn since(&self, start: usize) -> Vec<Arc<Line>> {
        lock(&self.lines).get(start..).unwrap_or_default().to_vec()
    }

    /// Waits for the first line from `cursor` on that `pick` takes, and moves the cursor behind it.
    pub(crate) async fn next<T>(
        &self,
        cursor: &mut usize,
        what: &str,
        mut pick: impl FnMut(&Line) -> Option<T>,
    ) -> Result<T, Failed> {
        let start = *cursor;
        let mut grown = self.grown.clone();
        let found = async {
            loop {
                grown.borrow_and_update();
                for line in self.since(*cursor) {
                    *cursor += 1;
                    if let Some(picked) = pick(&line) {
                        return Some(picked);
                    }
                }
                if grown.changed().await.is_err() && *cursor == self.len() {
                    return None;
                }
            }
        };
        let why = match tokio::time::timeout(PATIENCE, found).await {
            Ok(Some(picked)) => return Ok(picked),
            Ok(None) => "the process ended".to_owned(),
            Err(_) => format!("not within {} s", PATIENCE.as_secs()),
        };
        let last: Vec<_> = self.since(start).iter().rev().take(3).map(|l| cut(&l.text)).collect();
        Err(Failed::new(what, format_args!("{why}; the last lines, newest first: {last:#?}")))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
