//! How long the reference client waits: after failures, and when a server is overloaded.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;

use super::mind::NEVER;
use crate::reference::Faults;
use crate::wire::http_client::field;

/// The least first wait after UNAVAILABLE, 503 or 429 that states no time (THR-12).
const UNSTATED: Duration = Duration::from_secs(30);

/// Waits that grow with the failures in a row.
pub(super) struct Patience {
    faults: Faults,
    failures: u32,
}

impl Patience {
    pub(super) fn new(faults: Faults) -> Self {
        Self { faults, failures: 0 }
    }

    /// The server has answered in good order.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// After one more failure that states no time.
    pub(super) fn backoff(&mut self) -> Duration {
        Duration::from_millis(500) * self.grown() / 1_000
    }

    /// After an attempt to connect that failed.
    pub(super) fn unconnected(&mut self) -> Duration {
        if self.faults.has("gives-up-connecting") { NEVER } else { self.backoff() }
    }

    /// After a refusal for overload; `stated` is the time it states.
    pub(super) fn overloaded(&mut self, stated: Option<Duration>) -> Duration {
        match stated.filter(|stated| !stated.is_zero()) {
            Some(stated) => stated,
            None if self.faults.has("unstated-wait-is-short") => self.backoff(),
            None => UNSTATED * (self.grown() / 1_000).max(1),
        }
    }

    /// After this answer to a handshake or a request.
    pub(super) fn put_off(&mut self, status: u16, headers: &HeaderMap) -> Duration {
        if !matches!(status, 429 | 503) {
            return self.unconnected();
        }
        let text = field(headers, RETRY_AFTER);
        if !text.is_empty() && self.faults.has("retry-after-is-ignored") {
            return self.backoff();
        }
        let stated = match text.parse::<u64>() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) if text.is_empty() => None,
            Err(_) if self.faults.has("retry-after-date-is-not-read") => return self.backoff(),
            Err(_) => httpdate::parse_http_date(&text)
                .ok()
                .and_then(|date| date.duration_since(SystemTime::now()).ok()),
        };
        self.overloaded(stated)
    }

    /// In thousandths: 2 to the number of failures, less up to half by jitter.
    fn grown(&mut self) -> u32 {
        let jitter = if self.faults.has("pauses-have-no-jitter") {
            750
        } else {
            500 + (rand::random::<u16>() % 501) as u32
        };
        if self.faults.has("pauses-do-not-grow") {
            // Little jitter, or pauses could look as if they grew.
            return 1_400 + jitter / 10;
        }
        self.failures = (self.failures + 1).min(6);
        jitter << self.failures
    }
}
