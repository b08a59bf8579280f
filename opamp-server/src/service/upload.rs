//! The body of a request on its way in: bounded in size, and in time by what has arrived.
//!
//! A body that is small or comes fast has the deadline every body has. One that is large and comes
//! over a slow link may go on beyond it as long as it keeps up a least rate, on the whole and
//! without a long pause, up to twenty times the deadline. Who sends a byte now and then gains next
//! to nothing.

use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http::header::EXPECT;
use http::status::StatusCode;
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout, timeout_at};

use super::at_once::at_once;
use super::in_progress::{Exhausted, Share};

/// A body may take this many times the deadline at most, however fast it comes.
const LONGEST: u32 = 20;

/// Why a body is not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyFault {
    TooLarge,
    Broken,
    Slow,
    /// Too much of others is on its way.
    Crowded,
}

/// How fast a body has to arrive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// What every body is granted, and the longest pause.
    pub(super) deadline: Duration,
    /// The bytes each second that a body has to keep up beyond that.
    pub(super) rate: u32,
}

impl Pace {
    /// When the next piece has to be there of a body of which so much has arrived.
    fn next(self, started: Instant, last: Instant, arrived: usize) -> Option<Instant> {
        let rate = u64::from(self.rate.max(1));
        let arrived = u64::try_from(arrived).unwrap_or(u64::MAX);
        let earned = Duration::from_millis(arrived.saturating_mul(1000) / rate);
        let granted = self.deadline.saturating_add(earned);
        let granted = granted.min(self.deadline.saturating_mul(LONGEST));
        // A deadline beyond what clocks can count is none.
        let sum = started.checked_add(granted)?;
        Some(last.checked_add(self.deadline).map_or(sum, |pause| sum.min(pause)))
    }
}

/// When pieces of a body arrived. The clock is only read when there is something to wait for, and
/// says then when the last one came.
#[derive(Debug, Default)]
struct Arrivals {
    started: Option<Instant>,
    last: Option<Instant>,
    /// Something has come since.
    moved: bool,
}

impl Arrivals {
    /// The next piece of a body.
    async fn next<B: http_body::Body>(
        &mut self,
        mut body: Pin<&mut B>,
        pace: Pace,
        arrived: usize,
    ) -> Result<Option<Result<Frame<B::Data>, B::Error>>, BodyFault> {
        if let Some(frame) = at_once(body.frame()).await {
            return Ok(frame);
        }
        // Boxed, as a body that is small has mostly come with its head.
        match self.deadline(pace, arrived) {
            Some(deadline) => Box::pin(timeout_at(deadline, body.frame())).await,
            None => Ok(body.frame().await),
        }
        .map_err(|_elapsed| BodyFault::Slow)
    }

    /// Until when to wait for the next piece, when none is there.
    fn deadline(&mut self, pace: Pace, arrived: usize) -> Option<Instant> {
        let now = Instant::now();
        let started = *self.started.get_or_insert(now);
        let moved = std::mem::take(&mut self.moved);
        let last = self.last.filter(|_| !moved).unwrap_or(now);
        self.last = Some(last);
        pace.next(started, last, arrived)
    }
}

/// Reads a body whole. Memory is taken for what has arrived: to state a length costs the client
/// nothing.
pub(super) async fn collect<B>(
    mut body: Pin<&mut B>,
    limit: usize,
    pace: Pace,
    share: &mut Share,
) -> Result<Bytes, BodyFault>
where
    B: http_body::Body<Data: Buf>,
{
    let mut arrivals = Arrivals::default();
    let mut collected = Vec::new();
    loop {
        let frame = arrivals.next(body.as_mut(), pace, collected.len()).await?;
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => return Err(BodyFault::Broken),
            None => return Ok(collected.into()),
        };
        // Trailers mean nothing here.
        let Ok(mut data) = frame.into_data() else { continue };
        let length = data.remaining();
        if length > limit - collected.len() {
            return Err(BodyFault::TooLarge);
        }
        if collected.is_empty() && body.is_end_stream() {
            share.set(length).map_err(|Exhausted| BodyFault::Crowded)?;
            return Ok(data.copy_to_bytes(length));
        }
        arrivals.moved |= length > 0;
        while data.has_remaining() {
            let chunk = data.chunk();
            collected.extend_from_slice(chunk);
            let length = chunk.len();
            data.advance(length);
        }
        share.set(collected.capacity()).map_err(|Exhausted| BodyFault::Crowded)?;
    }
}

/// Reads what is left of the body of a refused request, and drops it: a connection closed with
/// bytes unread is reset, and a client that sends before it reads might lose the answer with it.
/// One that waits to be asked for the body is not asked.
pub(super) async fn discard<B>(
    headers: &HeaderMap,
    mut body: Pin<&mut B>,
    status: StatusCode,
    within: Duration,
) where
    B: http_body::Body<Data: Buf>,
{
    if headers.contains_key(EXPECT) || status == StatusCode::REQUEST_TIMEOUT {
        return;
    }
    let rest = async { while let Some(Ok(_)) = body.frame().await {} };
    // If there is more than arrives in this time, the answer may be lost.
    let _ = timeout(within, rest).await;
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;

    use futures_util::stream;
    use http_body_util::StreamBody;
    use tokio::time::sleep;

    use super::super::in_progress::InProgress;
    use super::*;

    const PACE: Pace = Pace { deadline: Duration::from_secs(30), rate: 1024 };

    /// So many pieces, with a pause before each.
    async fn received(
        pieces: u32,
        size: usize,
        pause: Duration,
    ) -> (Result<usize, BodyFault>, u64) {
        let pieces = stream::unfold(0, move |index| async move {
            sleep(pause).await;
            let piece = Frame::data(Bytes::from(vec![0; size]));
            (index < pieces).then_some((Ok::<_, Infallible>(piece), index + 1))
        });
        let body = std::pin::pin!(StreamBody::new(pieces));
        let started = Instant::now();
        let mut share = Arc::new(InProgress::new(256 << 20)).share();
        let collected = collect(body, 64 << 20, PACE, &mut share).await;
        (collected.map(|body| body.len()), started.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_take_its_time_as_long_as_it_comes_at_the_least_rate() {
        // 4 KiB each two seconds, for five minutes.
        let second = Duration::from_secs(1);
        assert_eq!(received(150, 4096, 2 * second).await, (Ok(150 * 4096), 302));
        // Below the rate it has what it has earned.
        let (slow, seconds) = received(1000, 512, second).await;
        assert_eq!(slow, Err(BodyFault::Slow));
        assert!((58..=60).contains(&seconds), "{seconds} s");
        // A byte each second earns nothing.
        assert_eq!(received(1000, 1, second).await, (Err(BodyFault::Slow), 30));
        // What was earned is not for a pause.
        assert_eq!(received(1000, 100_000, 31 * second).await, (Err(BodyFault::Slow), 30));
        // And there is an end to it.
        assert_eq!(received(10_000, 4096, second).await, (Err(BodyFault::Slow), 600));
        assert_eq!(received(3, 10, second).await, (Ok(30), 4));
    }

    #[tokio::test(start_paused = true)]
    async fn times_beyond_all_clocks_are_none() {
        let pace = Pace { deadline: Duration::MAX, rate: 0 };
        assert_eq!(pace.next(Instant::now(), Instant::now(), usize::MAX), None);
    }
}
