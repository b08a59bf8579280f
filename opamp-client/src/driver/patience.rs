//! How long an HTTP exchange may take: as long as it makes progress, within reason.
//!
//! A fixed deadline would never let a large report over a slow link arrive, however often it is
//! tried. So silence is what ends an exchange: no byte of the request taken, none of the response
//! come. What the library and the kernel have taken but not sent cannot be seen, so the wait allows
//! for it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, timeout_at};

use crate::core::{Failure, FailureKind};

/// How much of a request is handed out at a time.
const CHUNK: usize = 16 * 1024;

/// What the library and the kernel may hold of a request.
const HIDDEN: usize = 4 * 1024 * 1024;

/// Bytes per second that a link has to carry at least.
const SLOWEST: usize = 32 * 1024;

/// The whole exchange may take as many times the wait for progress.
const WHOLE: u32 = 20;

/// The limits of one exchange.
pub(super) struct Patience {
    silence: Duration,
    end: Instant,
}

impl Patience {
    /// Begins an exchange that may be silent for this long.
    pub(super) fn new(silence: Duration) -> Self {
        let whole = silence.saturating_mul(WHOLE).min(Duration::from_secs(365 * 86_400));
        Self { silence, end: Instant::now() + whole }
    }

    /// Waits for the response to a request whose body is metered.
    pub(super) async fn send<T>(
        &self,
        sending: impl Future<Output = T>,
        meter: &Meter,
    ) -> Result<T, Failure> {
        let mut sending = pin!(sending);
        loop {
            let taken = meter.taken();
            // The kernel takes more when a third of its buffer is free.
            let draining = if meter.is_empty() { HIDDEN } else { HIDDEN / 3 };
            let hidden = Duration::from_secs((taken.min(draining) / SLOWEST) as u64);
            let wait = self.silence + hidden;
            let until = (Instant::now() + wait).min(self.end);
            match timeout_at(until, sending.as_mut()).await {
                Ok(done) => return Ok(done),
                Err(_) if meter.taken() > taken && Instant::now() < self.end => {}
                Err(_) => return Err(self.too_long()),
            }
        }
    }

    /// Waits for more of the response.
    pub(super) async fn more<T>(&self, more: impl Future<Output = T>) -> Result<T, Failure> {
        let until = (Instant::now() + self.silence).min(self.end);
        timeout_at(until, more).await.map_err(|_| self.too_long())
    }

    fn too_long(&self) -> Failure {
        let message = match Instant::now() < self.end {
            true => format!("nothing moved for {:?}: the exchange was given up", self.silence),
            false => "the exchange took too long in all and was given up".to_owned(),
        };
        Failure { kind: FailureKind::Unreachable, message }
    }
}

/// A request's body that knows how much of it was taken.
pub(super) struct Meter {
    body: Bytes,
    taken: Arc<AtomicUsize>,
}

impl Meter {
    pub(super) fn new(body: Bytes) -> Self {
        Self { body, taken: Arc::default() }
    }

    pub(super) fn body(&self) -> Metered {
        Metered { rest: self.body.clone(), taken: Arc::clone(&self.taken) }
    }

    fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    fn is_empty(&self) -> bool {
        self.taken() == self.body.len()
    }
}

/// See [`Meter`].
pub(super) struct Metered {
    rest: Bytes,
    taken: Arc<AtomicUsize>,
}

impl Body for Metered {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.rest.len().min(CHUNK);
        let chunk = self.rest.split_to(length);
        self.taken.fetch_add(length, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
