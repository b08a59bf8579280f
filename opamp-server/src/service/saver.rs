//! Writes to a store what the registry has to be remembered of, and holds back the replies that
//! have to wait for that.
//!
//! One task writes, one batch at a time; what changes meanwhile is the next batch, so the slower
//! the store, the more Agents share a write. A batch that fails is tried again until it is written:
//! nothing is skipped, and nothing piles up but marks in the registry.
//!
//! ```text
//!             wake, or numbers and times are due              written
//!   waiting ──────────────────────────────────────▶ writing ──────────▶ waiting
//!                                                    │  ▲
//!                                             failed ▼  │ after a pause
//!                                                   pausing
//! ```

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::signal::Signal;
use super::store::{AnyStore, MAX_PAUSE, StoreError, StoreFailure};
use super::{Error, ErrorKind, ServiceConfig, now};
use crate::fleet::{Accepted, Batch, Change, Fleet, Restored, SaveWaker, is_beside};

/// Bytes that are written or loaded at a time.
const BATCH: usize = 4 * 1024 * 1024;

/// A longer lag is cut to this, so that its end can be computed.
const LONGEST_LAG: Duration = Duration::from_secs(24 * 60 * 60);

/// The pause after the first failure; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// How often it is said that the store fails.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// What is kept in the store beside the registry.
pub(super) trait Beside: Send + Sync {
    /// Takes over an entry.
    fn restore(&self, value: &[u8]) -> Result<(), &'static str>;

    /// Whether the store is behind; whoever changes that wakes the task.
    fn has_unsaved(&self) -> bool;

    /// What the store does not have yet, to be written until it has.
    fn take_unsaved(&self) -> Vec<Change>;
}

#[cfg(feature = "ca")]
fn beside(config: &ServiceConfig, work: &Arc<Work>) -> Option<Arc<dyn Beside>> {
    Some(config.revocations.as_ref()?.keep(Arc::clone(work) as _))
}

#[cfg(not(feature = "ca"))]
fn beside(_config: &ServiceConfig, _work: &Arc<Work>) -> Option<Arc<dyn Beside>> {
    None
}

/// What connections and requests know of the task that writes.
pub(super) struct Saver {
    work: Arc<Work>,
    /// Told after every batch.
    saved: watch::Sender<()>,
    waiting: Mutex<Waiting>,
    /// Since when writing fails, or takes too long.
    failing: Mutex<Option<Instant>>,
    deadline: Duration,
    retry_after: Duration,
    failure: StoreFailure,
    ended: watch::Sender<bool>,
}

/// The connections that are to be woken after the batch with this number.
struct Waiting {
    batch: u64,
    connections: Vec<Arc<Signal>>,
}

/// Wakes the task.
#[derive(Default)]
struct Work {
    notify: Notify,
    closing: AtomicBool,
    /// Nobody waits for the end any more.
    abandoned: AtomicBool,
}

impl SaveWaker for Work {
    fn wake(&self) {
        self.notify.notify_one();
    }
}

impl Work {
    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }
}

/// Ends the task once all is written, when the service is gone.
pub(super) struct Saving(pub(super) Arc<Saver>);

impl Drop for Saving {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// What to do with a reply that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Wait,
    Send,
    Refuse,
}

impl Saver {
    /// Loads what the store has into the registry, and begins to write to it.
    pub(super) async fn start<I: Send + Sync + 'static>(
        fleet: &Fleet<I>,
        store: Arc<dyn AnyStore>,
        config: &ServiceConfig,
    ) -> Result<Arc<Self>, Error> {
        let work = Arc::new(Work::default());
        fleet.begin_saving(Arc::clone(&work) as _);
        let started = Instant::now();
        let beside = beside(config, &work);
        let restored = load(fleet, &*store, beside.as_deref()).await?;
        tracing::info!(
            agents = restored.agents,
            forgotten = restored.forgotten,
            bytes = fleet.retained_bytes(),
            took = ?started.elapsed(),
            "the stored state is loaded"
        );
        let saver = Arc::new(Self {
            work,
            saved: watch::Sender::new(()),
            waiting: Mutex::new(Waiting { batch: 1, connections: Vec::new() }),
            failing: Mutex::default(),
            deadline: config.store_deadline,
            retry_after: config.store_retry_after,
            failure: config.store_failure,
            ended: watch::Sender::new(false),
        });
        let writer = Writer {
            fleet: fleet.clone(),
            store,
            saver: Arc::clone(&saver),
            beside,
            lag: config.store_lag.min(LONGEST_LAG),
            said: None,
        };
        #[expect(clippy::disallowed_methods, reason = "it ends when the service does")]
        tokio::spawn(writer.run());
        Ok(saver)
    }

    fn failing(&self) -> MutexGuard<'_, Option<Instant>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a reply may wait from now on. Where the store has failed for long, that is over.
    pub(super) fn patience(&self) -> Duration {
        match *self.failing() {
            Some(since) => self.deadline.saturating_sub(since.elapsed()),
            None => self.deadline,
        }
    }

    /// What is to be done with a reply that waits for a generation. `over`: for long enough.
    pub(super) fn verdict<I>(&self, fleet: &Fleet<I>, generation: u64, over: bool) -> Verdict {
        match self.failure {
            _ if fleet.is_saved(generation) => Verdict::Send,
            _ if !over => Verdict::Wait,
            StoreFailure::Acknowledge => Verdict::Send,
            StoreFailure::Refuse => Verdict::Refuse,
        }
    }

    /// Wakes a connection after the batch that is written next. `registered` is the number of the
    /// one for which it will be woken already.
    pub(super) fn wake_later(&self, signal: &Arc<Signal>, registered: &mut u64) {
        let mut waiting = self.waiting();
        if std::mem::replace(registered, waiting.batch) != waiting.batch {
            waiting.connections.push(Arc::clone(signal));
        }
    }

    /// Waits until a generation is saved, at most as long as a reply may.
    ///
    /// Cancel safe.
    pub(super) async fn wait<I>(&self, fleet: &Fleet<I>, generation: u64) -> Verdict {
        if fleet.is_saved(generation) {
            return Verdict::Send;
        }
        let mut saved = self.saved.subscribe();
        let waiting = saved.wait_for(|()| fleet.is_saved(generation));
        let over = tokio::time::timeout(self.patience(), waiting).await.is_err();
        self.verdict(fleet, generation, over)
    }

    /// Answers a message in place of the reply that cannot be promised.
    pub(super) fn refuse<I>(&self, fleet: &Fleet<I>, accepted: Accepted, out: &mut Vec<u8>) {
        fleet.answer_unsaved(accepted, self.retry_after, out);
    }

    fn close(&self) {
        self.work.closing.store(true, Ordering::Release);
        self.work.wake();
    }

    /// Waits until everything is written, at most this long.
    pub(super) async fn finish(&self, within: Duration) {
        self.close();
        let mut ended = self.ended.subscribe();
        if tokio::time::timeout(within, ended.wait_for(|ended| *ended)).await.is_err() {
            self.work.abandoned.store(true, Ordering::Release);
            tracing::error!(
                "the store did not take what was last changed: Agents with news since will be asked \
                 for their full state"
            );
        }
    }

    /// Waits until what was changed so far is written, at most as long as a reply may.
    async fn flush<I>(&self, fleet: &Fleet<I>) -> Result<(), StoreError> {
        let generation = fleet.request_save();
        match self.wait(fleet, generation).await {
            Verdict::Send if fleet.is_saved(generation) => Ok(()),
            _ => Err(StoreError::new("the store has not taken the change yet, and is tried again")),
        }
    }
}

/// Takes note when what an operator has changed is safe.
///
/// Clones are handles to the same store.
pub struct StoreHandle<I> {
    pub(super) fleet: Fleet<I>,
    /// `None` without a store.
    pub(super) saver: Option<Arc<Saver>>,
}

impl<I> StoreHandle<I> {
    /// Waits until everything that was changed before is stored, such as what an operator has set
    /// or revoked: what was is not lost by any restart. Without a store that is at once.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if that takes longer than
    /// [`store_deadline`](crate::ServiceConfig::store_deadline). The change holds all the same, and
    /// is stored when the store works again.
    pub async fn flush(&self) -> Result<(), StoreError> {
        match &self.saver {
            Some(saver) => saver.flush(&self.fleet).await,
            None => Ok(()),
        }
    }
}

impl<I> Clone for StoreHandle<I> {
    fn clone(&self) -> Self {
        Self { fleet: self.fleet.clone(), saver: self.saver.clone() }
    }
}

impl<I> std::fmt::Debug for StoreHandle<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreHandle").field("store", &self.saver.is_some()).finish_non_exhaustive()
    }
}

async fn load<I>(
    fleet: &Fleet<I>,
    store: &dyn AnyStore,
    beside: Option<&dyn Beside>,
) -> Result<Restored, Error> {
    let unusable = |error: StoreError| Error::new(ErrorKind::Store, error);
    let mut restore = fleet.restore(now());
    let mut after = None;
    let mut ignored = 0;
    loop {
        let entries = store.load(after.as_deref(), BATCH).await.map_err(unusable)?;
        let Some((last, _)) = entries.last() else { break };
        for (key, value) in &entries {
            restore.add(key, value).map_err(|error| Error::new(ErrorKind::Store, error))?;
            match beside {
                Some(beside) if is_beside(key) => beside.restore(value).map_err(|what| {
                    let text = "a stored entry cannot be read, maybe it is of a later version";
                    unusable(StoreError::caused_by(text, what))
                })?,
                None if is_beside(key) => ignored += 1,
                _ => {}
            }
        }
        after = Some(last.clone());
        // There may be a lot, and others have a turn.
        tokio::task::yield_now().await;
    }
    if ignored > 0 {
        tracing::warn!(
            ignored,
            "certificates are stored as revoked, but the Server has no such list"
        );
    }
    Ok(restore.finish())
}

/// The task that writes.
struct Writer<I> {
    fleet: Fleet<I>,
    store: Arc<dyn AnyStore>,
    saver: Arc<Saver>,
    beside: Option<Arc<dyn Beside>>,
    lag: Duration,
    /// When it was last said that the store fails.
    said: Option<Instant>,
}

impl<I> Writer<I> {
    async fn run(mut self) {
        let mut lagging = Instant::now() + self.lag;
        loop {
            let work = Arc::clone(&self.saver.work);
            // A time to wait at that is so far away is never.
            let _ = tokio::time::timeout_at(lagging, work.notify.notified()).await;
            let closing = work.is_closing();
            let due = closing || Instant::now() >= lagging;
            if self.beside.as_ref().is_some_and(|beside| beside.has_unsaved()) {
                // They go along with the next batch, so there has to be one.
                let _ = self.fleet.request_save();
            }
            let mut first = due;
            while let Some(batch) = self.fleet.take_unsaved(now(), first, BATCH) {
                first = false;
                if !self.write(batch).await {
                    return;
                }
            }
            if due {
                lagging = Instant::now() + self.lag;
            }
            if closing {
                self.saver.ended.send_replace(true);
                return;
            }
        }
    }

    /// Writes a batch, however often that takes. False if it is given up, as the service is gone.
    async fn write(&mut self, batch: Batch) -> bool {
        let mut pause = FIRST_PAUSE;
        let mut closed = None;
        // After the generation has ended: what was changed before somebody waits for it is in it.
        let changes = match self.beside.as_ref().map(|beside| beside.take_unsaved()) {
            Some(more) if !more.is_empty() => batch.changes().iter().cloned().chain(more).collect(),
            _ => Arc::clone(batch.changes()),
        };
        while let Err(error) = self.attempt(&changes).await {
            self.failed(&error);
            let work = Arc::clone(&self.saver.work);
            if work.is_closing() {
                let closed = closed.get_or_insert_with(Instant::now);
                let abandoned = work.abandoned.load(Ordering::Acquire);
                if abandoned || closed.elapsed() >= self.saver.deadline {
                    return false;
                }
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
        let size = changes.iter().map(Change::size).sum::<usize>();
        self.fleet.saved(batch);
        if size > 0 {
            self.fleet.counting().store_writes.add();
            self.fleet.counting().store_bytes.add_all(size as u64);
        }
        if let Some(since) = self.saver.failing().take() {
            tracing::warn!(failed_for = ?since.elapsed(), "the store works again");
            self.said = None;
        }
        self.saver.saved.send_replace(());
        let connections = {
            let mut waiting = self.saver.waiting();
            waiting.batch += 1;
            std::mem::take(&mut waiting.connections)
        };
        connections.iter().for_each(|signal| signal.wake());
        true
    }

    async fn attempt(&mut self, changes: &Arc<[Change]>) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let store = Arc::clone(&self.store);
        let saving = AssertUnwindSafe(async { store.save(Arc::clone(changes)).await });
        let mut saving = std::pin::pin!(saving.catch_unwind());
        let slow = tokio::time::timeout(self.saver.deadline, saving.as_mut());
        let outcome = match slow.await {
            Ok(outcome) => outcome,
            Err(_elapsed) => {
                self.slow();
                saving.await
            }
        };
        outcome.unwrap_or_else(|_panic| Err(StoreError::new("the store panicked")))
    }

    fn failed(&mut self, error: &StoreError) {
        self.fleet.counting().store_failures.add();
        let since = *self.saver.failing().get_or_insert_with(Instant::now);
        if self.says() {
            tracing::error!(
                %error,
                failing_for = ?since.elapsed(),
                "the store fails and is tried again; Agents with news are refused meanwhile unless \
                 the Server is configured to acknowledge them"
            );
        }
    }

    fn slow(&mut self) {
        let deadline = self.saver.deadline;
        self.saver.failing().get_or_insert_with(|| {
            let now = Instant::now();
            now.checked_sub(deadline).unwrap_or(now)
        });
        if self.says() {
            tracing::error!(?deadline, "the store takes longer than replies can wait");
        }
    }

    /// Whether it is time to say again that the store fails.
    fn says(&mut self) -> bool {
        let says = self.said.is_none_or(|said| said.elapsed() >= SAY_AGAIN);
        if says {
            self.said = Some(Instant::now());
        }
        says
    }
}
