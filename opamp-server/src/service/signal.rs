//! How connections are told, from outside their task, to look up: the server shuts down, a time is
//! over, there is something to push.
//!
//! A connection has one [`Signal`]. To be woken through it costs the connection nothing while it
//! serves messages: it holds neither a timer of its own nor a place in a list that all connections
//! would lock. Times are kept by a coarse clock, which one task advances for all of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// A time on the coarse clock: milliseconds since the service was made.
pub(super) type Coarse = u64;

/// Never.
pub(super) const NEVER: Coarse = Coarse::MAX;

/// What one connection is told.
pub(super) struct Signal {
    waker: AtomicWaker,
    closing: AtomicBool,
    /// When the connection wants to look at its times next.
    due: AtomicU64,
    /// That time has come.
    tick: AtomicBool,
    /// What the peer's certificate says, if it has presented one.
    #[cfg(feature = "ca")]
    named: std::sync::OnceLock<Box<super::certificates::Named>>,
    /// The certificate was revoked.
    #[cfg(feature = "ca")]
    revoked: AtomicBool,
}

impl Signal {
    pub(super) fn new(closing: bool) -> Self {
        Self {
            waker: AtomicWaker::new(),
            closing: AtomicBool::new(closing),
            due: AtomicU64::new(NEVER),
            tick: AtomicBool::new(false),
            #[cfg(feature = "ca")]
            named: std::sync::OnceLock::new(),
            #[cfg(feature = "ca")]
            revoked: AtomicBool::new(false),
        }
    }

    /// To be called at the start of each poll, before the signal is looked at.
    pub(super) fn register(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }

    pub(super) fn wake(&self) {
        self.waker.wake();
    }

    /// The server wants the connection closed.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Waits until the server wants the connection closed. Nobody else may wait on the signal
    /// meanwhile.
    ///
    /// Cancel safe.
    pub(super) async fn closed(&self) {
        std::future::poll_fn(|cx| {
            self.register(cx);
            match self.is_closing() {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        })
        .await;
    }

    /// Whether the time asked for has come; says so once.
    pub(super) fn take_tick(&self) -> bool {
        self.tick.load(Ordering::Acquire) && self.tick.swap(false, Ordering::AcqRel)
    }

    /// Asks for a tick at this time.
    pub(super) fn set_due(&self, due: Coarse) {
        self.due.store(due, Ordering::Release);
    }

    /// Asks for a tick at this time, if none is asked for that comes sooner.
    pub(super) fn due_by(&self, due: Coarse) {
        self.due.fetch_min(due, Ordering::AcqRel);
    }

    pub(super) fn tick(&self, now: Coarse) {
        if self.due.load(Ordering::Acquire) <= now {
            self.due.store(NEVER, Ordering::Release);
            self.tick.store(true, Ordering::Release);
            self.wake();
        }
    }

    /// Notes what the peer's certificate says.
    #[cfg(feature = "ca")]
    pub(super) fn set_named(&self, named: super::certificates::Named) {
        // A connection has one peer.
        let _ = self.named.set(Box::new(named));
    }

    /// The certificate the connection was opened with was revoked.
    #[cfg(feature = "ca")]
    pub(super) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    #[cfg(feature = "ca")]
    pub(super) fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
        self.wake();
    }

    fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.wake();
    }
}

/// The signals of all open connections, and their clock.
#[derive(Default)]
pub(super) struct Signals {
    open: Mutex<Open>,
    clock: AtomicU64,
    finished: AtomicBool,
}

#[derive(Default)]
struct Open {
    refusing: bool,
    closing: bool,
    next: u64,
    connections: HashMap<u64, Connection>,
    /// Who waits for the last connection to end.
    waiting: Vec<Waker>,
}

struct Connection {
    signal: Arc<Signal>,
    abort: Option<AbortHandle>,
}

impl Signals {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Spawns a connection's task, which is given its signal. It counts as open until it ends.
    /// While the runtime is torn down nothing is spawned.
    pub(super) fn spawn<F>(self: &Arc<Self>, connection: impl FnOnce(Arc<Signal>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Ok(runtime) = Handle::try_current() else { return };
        let (id, signal) = {
            let mut open = self.open();
            let signal = Arc::new(Signal::new(open.closing));
            let id = open.next;
            open.next += 1;
            let connection = Connection { signal: Arc::clone(&signal), abort: None };
            open.connections.insert(id, connection);
            (id, signal)
        };
        let ended = Ended { signals: Arc::clone(self), id };
        // Boxed, or the task would have room for it twice: where it is captured and where it runs.
        let connection = Box::pin(connection(signal));
        #[expect(clippy::disallowed_methods, reason = "this is where tasks are tracked")]
        let task = runtime.spawn(async move {
            let _ended = ended;
            connection.await;
        });
        if let Some(connection) = self.open().connections.get_mut(&id) {
            connection.abort = Some(task.abort_handle());
        }
    }

    /// Nobody is to be served who is not yet.
    pub(super) fn refuse(&self) {
        self.open().refusing = true;
    }

    /// Tells all connections but so many to close, whichever they are: the order of a map is as
    /// good as drawn. Gives the number of those that were not told.
    pub(super) fn close_all_but(&self, keep: usize) -> usize {
        let open = self.open();
        let untold = || open.connections.values().filter(|open| !open.signal.is_closing());
        let surplus = untold().count().saturating_sub(keep);
        untold().take(surplus).for_each(|connection| connection.signal.close());
        untold().count()
    }

    /// Tells every connection, and every one to come, to close.
    pub(super) fn close(&self) {
        let mut open = self.open();
        open.closing = true;
        open.refusing = true;
        open.connections.values().for_each(|connection| connection.signal.close());
    }

    /// Tells the connections to close whose certificate is revoked.
    #[cfg(feature = "ca")]
    pub(super) fn revoke(&self, is_revoked: impl Fn(&super::certificates::Named) -> bool) {
        for connection in self.open().connections.values() {
            if connection.signal.named.get().is_some_and(|named| is_revoked(named)) {
                connection.signal.revoke();
            }
        }
    }

    /// Whether nobody is to be served who is not yet.
    pub(super) fn is_refusing(&self) -> bool {
        self.open().refusing
    }

    /// Everything has ended, and what is known is being stored for the last time.
    pub(super) fn finish(&self) {
        self.finished.store(true, Ordering::Release);
    }

    /// Whether nothing is taken in any more.
    pub(super) fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// Ends every connection at once.
    pub(super) fn abort(&self) {
        let open = self.open();
        open.connections
            .values()
            .filter_map(|connection| connection.abort.as_ref())
            .for_each(AbortHandle::abort);
    }

    /// Waits until no connection is open.
    ///
    /// Cancel safe.
    pub(super) async fn closed(&self) {
        std::future::poll_fn(|cx| {
            let mut open = self.open();
            if open.connections.is_empty() {
                return std::task::Poll::Ready(());
            }
            if !open.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                open.waiting.push(cx.waker().clone());
            }
            std::task::Poll::Pending
        })
        .await;
    }

    /// The time.
    pub(super) fn now(&self) -> Coarse {
        self.clock.load(Ordering::Relaxed)
    }

    /// Advances the clock to this time after its start.
    pub(super) fn advance(&self, elapsed: Duration) {
        let now = coarse(elapsed);
        self.clock.store(now, Ordering::Relaxed);
        self.open().connections.values().for_each(|connection| connection.signal.tick(now));
    }
}

/// A span of the coarse clock.
pub(super) fn coarse(time: Duration) -> Coarse {
    Coarse::try_from(time.as_millis()).unwrap_or(NEVER)
}

struct Ended {
    signals: Arc<Signals>,
    id: u64,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let mut open = self.signals.open();
        open.connections.remove(&self.id);
        if open.connections.is_empty() {
            open.waiting.drain(..).for_each(Waker::wake);
        }
    }
}
