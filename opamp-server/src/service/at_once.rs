//! Waiting that mostly is none: a timer costs more than what is waited for, where that is ready.

use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::timeout;

/// What a future gives if it is ready. One that is not has been polled, and is dropped.
pub(super) async fn at_once<F: Future>(future: F) -> Option<F::Output> {
    polled(pin!(future)).await
}

/// Waits for a future, at most this long.
pub(super) async fn in_time<F: Future>(
    within: Duration,
    mut future: Pin<&mut F>,
) -> Result<F::Output, Elapsed> {
    match polled(future.as_mut()).await {
        Some(output) => Ok(output),
        // Boxed, as it is rare, and has a timer.
        None => Box::pin(timeout(within, future)).await,
    }
}

async fn polled<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, sleep};

    #[tokio::test(start_paused = true)]
    async fn what_is_not_ready_has_its_time() {
        let started = Instant::now();
        let within = Duration::from_secs(10);
        assert_eq!(in_time(within, pin!(std::future::ready(1))).await, Ok(1));
        assert_eq!(in_time(Duration::ZERO, pin!(std::future::ready(2))).await, Ok(2));
        assert!(in_time(within, pin!(sleep(within / 2))).await.is_ok());
        assert_eq!(started.elapsed(), within / 2);
        assert!(in_time(within, pin!(sleep(within * 2))).await.is_err());
        assert_eq!(started.elapsed(), within * 3 / 2);
        assert_eq!(at_once(std::future::ready(3)).await, Some(3));
        assert_eq!(at_once(sleep(within)).await, None);
    }
}
