//! The task that keeps the time: it advances the coarse clock, looks at the load and sweeps the
//! registry.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::handler::Handler;
use super::overload::{Guard, Pressure};
use super::{Inner, now};

/// The longest time between two sweeps of the registry.
const SWEEP_PERIOD: Duration = Duration::from_secs(5);

/// The time between two sweeps while Agents wait for their turn to be asked for their full state.
const PACING_PERIOD: Duration = Duration::from_secs(1);

impl<H: Handler> Inner<H> {
    /// Starts the task that advances the coarse clock and sweeps the registry, unless it runs.
    pub(super) fn keep_time(self: &Arc<Self>) {
        if self.keeps_time.load(Ordering::Relaxed) || self.keeps_time.swap(true, Ordering::Relaxed)
        {
            return;
        }
        let keeper = Timekeeper(Arc::downgrade(self));
        #[expect(clippy::disallowed_methods, reason = "it ends when the service is dropped")]
        tokio::spawn(keep_time(keeper, self.config.tick()));
    }
}

/// The task that keeps the time. Its runtime may end before the service does: then the next request
/// starts another, on its own.
struct Timekeeper<H: Handler>(Weak<Inner<H>>);

impl<H: Handler> Drop for Timekeeper<H> {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.keeps_time.store(false, Ordering::Relaxed);
        }
    }
}

async fn keep_time<H: Handler>(keeper: Timekeeper<H>, tick: Duration) {
    let service = &keeper.0;
    let started = tokio::time::Instant::now();
    // The clock goes on where it stopped, if it did.
    let stopped = service.upgrade().map_or(0, |inner| inner.signals.now());
    let stopped = Duration::from_millis(stopped);
    let mut interval = tokio::time::interval(tick);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut swept = started;
    #[cfg(feature = "ca")]
    let mut revoked = 0;
    let mut guard =
        service.upgrade().and_then(|inner| inner.config.overload.clone()).map(Guard::new);
    let mut looked = started;
    let mut pacing = false;
    loop {
        let now_ticked = interval.tick().await;
        let Some(inner) = service.upgrade() else { return };
        inner.signals.advance(stopped + (now_ticked - started));
        for key in inner.fleet.settle_duplicates(now()) {
            inner.dispatch(key);
        }
        if let Some(guard) = &mut guard {
            let pressure = Pressure {
                // What this task is late by, everybody is.
                delay: tokio::time::Instant::now() - now_ticked,
                queue: inner.queue.len(),
            };
            // A machine that stood still has not been under pressure for that long.
            let elapsed = (now_ticked - looked).min(tick * 2);
            looked = now_ticked;
            if let Some(load) = guard.look(pressure, elapsed) {
                tracing::warn!(?load, ?pressure, "the load has changed");
                inner.fleet.set_load(load);
            }
        }
        #[cfg(feature = "ca")]
        inner.close_revoked(&mut revoked);
        let mut sweep_after = (inner.fleet.config().http_offline_after / 10).min(SWEEP_PERIOD);
        if pacing {
            sweep_after = sweep_after.min(PACING_PERIOD);
        }
        if now_ticked - swept >= sweep_after {
            swept = now_ticked;
            inner.shares.sweep(now().instant);
            // The last turn may come just after a sweep, so there is one more.
            pacing = inner.fleet.is_pacing(now().instant);
            for key in inner.fleet.sweep(now()) {
                inner.dispatch(key);
            }
        }
    }
}
