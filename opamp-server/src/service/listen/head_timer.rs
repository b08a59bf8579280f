//! The time for the head of a request.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use hyper_util::rt::TokioTimer;

/// Hyper counts the time for a request's head from the end of the request before, idle time
/// included. So the first head of a connection, which comes from a stranger, has the time that is
/// due to a head, and the further ones have the idle time on top.
pub(super) struct HeadTimer {
    after_the_first: Duration,
    first: AtomicBool,
}

impl HeadTimer {
    pub(super) const fn new(after_the_first: Duration) -> Self {
        Self { after_the_first, first: AtomicBool::new(true) }
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        TokioTimer::new().sleep(duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let first = self.first.swap(false, Ordering::Relaxed);
        let more = if first { Duration::ZERO } else { self.after_the_first };
        TokioTimer::new().sleep_until(deadline + more)
    }

    fn now(&self) -> Instant {
        TokioTimer::new().now()
    }
}
