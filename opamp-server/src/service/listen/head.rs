//! The time for the head of a request on a connection of HTTP/1.
//!
//! Hyper asks for a timer each time it begins to wait for a head, the idle time before it included.
//! To arm one for each request costs more than anything else the connection does for it; so hyper
//! is given one that never fires, and the connection's task keeps the time by the coarse clock.
//!
//! ```text
//!               hyper waits for a head                due has passed
//!   answering ─────────────────────────▶ waiting ─────────────────────▶ ended
//!       ▲                                   │
//!       └───────────── a request ───────────┘
//! ```

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ::http::Request;
use hyper::body::Incoming;
use hyper::rt::{Sleep, Timer};

use super::super::ResponseFuture;
use super::super::body::Body;
use super::super::handler::Handler;
use super::super::signal::{Coarse, NEVER, Signal};
use super::Connection;

/// What hyper tells of one connection. All of it happens in the connection's task.
#[derive(Debug, Default)]
pub(super) struct Heads {
    waiting: AtomicBool,
    /// It has begun to wait, which nobody has seen yet.
    begun: AtomicBool,
}

impl Heads {
    /// A request came.
    pub(super) fn came(&self) {
        self.waiting.store(false, Ordering::Relaxed);
    }

    fn begin(&self) {
        self.waiting.store(true, Ordering::Relaxed);
        self.begun.store(true, Ordering::Relaxed);
    }
}

/// The service of a connection's requests.
pub(super) struct Requests<H: Handler> {
    pub(super) connection: Connection<H>,
    pub(super) heads: Arc<Heads>,
}

impl<H: Handler> hyper::service::Service<Request<Incoming>> for Requests<H> {
    type Response = ::http::Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn call(&self, request: Request<Incoming>) -> ResponseFuture {
        self.heads.came();
        self.connection.answer(request)
    }
}

/// The timer that hyper is given.
pub(super) struct HeadTimer {
    heads: Arc<Heads>,
    /// As good as any other, as what hyper makes of it is not looked at.
    now: Instant,
}

impl HeadTimer {
    pub(super) fn new(heads: &Arc<Heads>) -> Self {
        Self { heads: Arc::clone(heads), now: tokio::time::Instant::now().into_std() }
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, _duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.heads.begin();
        Box::pin(Endless)
    }

    fn sleep_until(&self, _deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(Duration::ZERO)
    }

    fn now(&self) -> Instant {
        self.now
    }
}

/// Takes no memory, so it is none to allocate.
struct Endless;

impl Future for Endless {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl Sleep for Endless {}

/// Keeps the time.
pub(super) struct HeadWatch {
    pub(super) heads: Arc<Heads>,
    /// For the first head, which comes from a stranger, and for further ones, idle time included.
    pub(super) first: Coarse,
    pub(super) further: Coarse,
    /// What the clock may be late by.
    pub(super) tick: Coarse,
    due: Coarse,
}

impl HeadWatch {
    pub(super) const fn new(
        heads: Arc<Heads>,
        first: Coarse,
        further: Coarse,
        tick: Coarse,
    ) -> Self {
        Self { heads, first, further, tick, due: NEVER }
    }

    /// Whether a head was waited for for too long: to be asked at each tick.
    pub(super) fn is_over(&self, signal: &Signal, now: Coarse) -> bool {
        if !self.heads.waiting.load(Ordering::Relaxed) {
            return false;
        }
        // The tick may have been for an earlier head, and the time for this one be forgotten over
        // it.
        signal.set_due(self.due);
        now >= self.due
    }

    /// Notes that hyper has begun to wait, if it has: to be called when it was polled.
    pub(super) fn note(&mut self, signal: &Signal, now: Coarse) {
        if !self.heads.begun.load(Ordering::Relaxed) {
            return;
        }
        self.heads.begun.store(false, Ordering::Relaxed);
        self.due = now.saturating_add(self.first).saturating_add(self.tick);
        self.first = self.further;
        signal.set_due(self.due);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(heads: &Arc<Heads>) -> HeadWatch {
        HeadWatch::new(Arc::clone(heads), 10, 100, 1)
    }

    #[test]
    fn the_first_head_has_its_own_time_and_each_further_one_the_idle_time() {
        let (heads, signal) = (Arc::default(), Signal::new(false));
        let (mut watch, timer) = (watch(&heads), HeadTimer::new(&heads));
        assert!(!watch.is_over(&signal, 1000), "nothing is waited for yet");
        drop(timer.sleep_until(timer.now()));
        watch.note(&signal, 5);
        assert_eq!((watch.is_over(&signal, 15), watch.is_over(&signal, 16)), (false, true));
        heads.came();
        assert!(!watch.is_over(&signal, 1000), "while it is answered");
        for begun in [20, 500] {
            drop(timer.sleep(Duration::ZERO));
            watch.note(&signal, begun);
            watch.note(&signal, begun + 50);
            assert!(!watch.is_over(&signal, begun + 100));
            assert!(watch.is_over(&signal, begun + 101));
            heads.came();
        }
    }

    #[test]
    fn a_tick_for_an_earlier_head_leaves_the_time_of_the_next() {
        let (heads, signal) = (Arc::default(), Signal::new(false));
        let (mut watch, timer) = (watch(&heads), HeadTimer::new(&heads));
        drop(timer.sleep(Duration::ZERO));
        watch.note(&signal, 0);
        // The clock has just taken the time that was set, and is about to say so.
        signal.tick(11);
        assert!(signal.take_tick());
        heads.came();
        drop(timer.sleep(Duration::ZERO));
        watch.note(&signal, 11);
        signal.set_due(NEVER);
        assert!(!watch.is_over(&signal, 11));
        signal.tick(112);
        assert!(signal.take_tick() && watch.is_over(&signal, 112));
    }
}
