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
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
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
    /// Something of a request was taken to be sent.
    begun: AtomicBool,
}

impl Patience {
    /// Begins an exchange that may be silent for this long.
    pub(super) fn new(silence: Duration) -> Self {
        let whole = silence.saturating_mul(WHOLE).min(Duration::from_secs(365 * 86_400));
        Self { silence, end: Instant::now() + whole, begun: AtomicBool::new(false) }
    }

    /// Whether anything was sent. A body is asked for only once there is a connection.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Waits for the response to a request whose body is metered.
    pub(super) async fn send<T>(
        &self,
        sending: impl Future<Output = T>,
        meter: &Meter,
    ) -> Result<T, Failure> {
        let mut sending = pin!(sending);
        let sent = loop {
            let until = meter.patient_until(self.silence).min(self.end);
            if until <= Instant::now() {
                break Err(self.too_long());
            }
            if let Ok(done) = timeout_at(until, sending.as_mut()).await {
                break Ok(done);
            }
        };
        self.begun.fetch_or(meter.has_begun(), Ordering::Relaxed);
        sent
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

/// A request's body that knows how much of it was taken, and when.
pub(super) struct Meter {
    body: Bytes,
    begun: Instant,
    taken: Arc<Taken>,
}

#[derive(Default)]
struct Taken {
    bytes: AtomicUsize,
    /// After how many milliseconds the last of them were.
    at: AtomicU64,
}

impl Meter {
    pub(super) fn new(body: Bytes) -> Self {
        Self { body, begun: Instant::now(), taken: Arc::default() }
    }

    pub(super) fn body(&self) -> Metered {
        Metered { rest: self.body.clone(), begun: self.begun, taken: Arc::clone(&self.taken) }
    }

    fn has_begun(&self) -> bool {
        self.taken.bytes.load(Ordering::Relaxed) > 0
    }

    /// How long to wait for something to move, as far as is known now.
    fn patient_until(&self, silence: Duration) -> Instant {
        let taken = self.taken.bytes.load(Ordering::Relaxed);
        let at = Duration::from_millis(self.taken.at.load(Ordering::Relaxed));
        // The kernel takes more when a third of its buffer is free.
        let draining = if taken == self.body.len() { HIDDEN } else { HIDDEN / 3 };
        let hidden = Duration::from_secs((taken.min(draining) / SLOWEST) as u64);
        self.begun + at + silence + hidden
    }
}

/// See [`Meter`].
pub(super) struct Metered {
    rest: Bytes,
    begun: Instant,
    taken: Arc<Taken>,
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
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.taken.at.store(now, Ordering::Relaxed);
        self.taken.bytes.fetch_add(length, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};

    use super::*;

    const SILENCE: Duration = Duration::from_secs(30);

    /// After how many seconds a request is given up of which so much is taken at these seconds.
    async fn given_up(size: usize, taken: &[(u64, usize)]) -> u64 {
        let meter = Meter::new(Bytes::from(vec![0; size]));
        let mut body = meter.body();
        let started = Instant::now();
        let sending = async {
            for (at, upto) in taken {
                tokio::time::sleep_until(started + Duration::from_secs(*at)).await;
                while body.taken.bytes.load(Ordering::Relaxed) < *upto {
                    let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
                    assert!(frame.is_some_and(|frame| frame.is_ok()));
                }
            }
            pending::<()>().await;
        };
        let failure = Patience::new(SILENCE).send(sending, &meter).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unreachable);
        started.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_given_up_when_nothing_moves() {
        assert_eq!(given_up(100, &[]).await, 30);
        assert_eq!(given_up(100, &[(0, 100)]).await, 30);
        // A second for each 32 KiB that may still be in a buffer.
        assert_eq!(given_up(64 * 1024, &[(0, 64 * 1024)]).await, 32);
        assert_eq!(given_up(64 << 20, &[(0, 64 << 20)]).await, 30 + 128);
        // A part of it is with the kernel, which takes no more for now.
        assert_eq!(given_up(64 << 20, &[(0, 4 << 20)]).await, 30 + 42);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_goes_on_as_long_as_it_moves_but_not_for_ever() {
        let steps: Vec<_> = (1..).map(|step| (25 * step, step as usize * CHUNK)).take(10).collect();
        assert_eq!(given_up(100 * CHUNK, &steps).await, 250 + 30 + 5);
        // It is the last movement that counts, not when it is looked for.
        assert_eq!(given_up(100 * CHUNK, &[(29, CHUNK)]).await, 29 + 30);
        let steps: Vec<_> = (1..).map(|step| (25 * step, step as usize * CHUNK)).take(99).collect();
        assert_eq!(given_up(100 * CHUNK, &steps).await, 600);
    }

    #[tokio::test(start_paused = true)]
    async fn so_does_a_response() {
        let started = Instant::now();
        let patience = Patience::new(SILENCE);
        let failure = loop {
            let piece = tokio::time::sleep(SILENCE - Duration::from_secs(1));
            if let Err(failure) = patience.more(piece).await {
                break failure;
            }
        };
        assert!(failure.message.contains("in all"), "{}", failure.message);
        assert_eq!(started.elapsed().as_secs(), 600);
        let failure = Patience::new(SILENCE).more(pending::<()>()).await.unwrap_err();
        assert!(failure.message.contains("nothing moved"), "{}", failure.message);
        assert_eq!(started.elapsed().as_secs(), 630);
    }
}
