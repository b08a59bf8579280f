//! Work on large messages: not on the threads that serve connections, where everybody would wait
//! for it, and never more of it at a time than there are cores.

use std::num::NonZero;
use std::sync::Arc;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;

/// Work on so many bytes is done at once: it takes less than a millisecond.
pub(super) const LARGE: usize = 256 * 1024;

/// The places where such work is done.
pub(super) struct LargeWork {
    places: Arc<Semaphore>,
}

impl Default for LargeWork {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self { places: Arc::new(Semaphore::new(cores)) }
    }
}

impl LargeWork {
    /// Does some work on so many bytes. `None` if it could not be done, as the runtime shuts down.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        match bytes <= LARGE {
            true => Some(work()),
            false => self.run_elsewhere(work).await,
        }
    }

    /// Does some work that is large. `None` if it could not be done, as the runtime shuts down.
    pub(super) async fn run_elsewhere<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        });
        done.await.ok()
    }

    /// Does some work on so many bytes for a task that cannot wait, which has to have been spawned
    /// on its runtime. The other tasks of its thread go on elsewhere meanwhile, if there is an
    /// elsewhere.
    pub(super) fn run_in_place<T>(&self, bytes: usize, work: impl FnOnce() -> T) -> T {
        let elsewhere = || {
            Handle::try_current()
                .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread)
        };
        if bytes <= LARGE || !elsewhere() {
            return work();
        }
        match self.places.try_acquire() {
            Ok(_place) => tokio::task::block_in_place(work),
            Err(_taken) => work(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn small_work_is_done_here_and_large_work_elsewhere() {
        let large = LargeWork::default();
        let thread = || std::thread::current().id();
        assert_eq!(large.run(LARGE, thread).await, Some(thread()));
        assert_ne!(large.run(LARGE + 1, thread).await, Some(thread()));
        // A runtime with one thread has no elsewhere for a task that cannot wait.
        assert_eq!(large.run_in_place(LARGE + 1, thread), thread());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    #[allow(clippy::disallowed_methods, reason = "a test is a driver: it has tasks")]
    async fn others_go_on_while_a_task_works_in_place() {
        let large = Arc::new(LargeWork::default());
        let (done, other) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (working, waiting) = (Arc::clone(&large), Arc::clone(&other));
        let told = Arc::clone(&done);
        let worker = tokio::spawn(async move {
            working.run_in_place(LARGE + 1, || {
                told.add_permits(1);
                while waiting.available_permits() == 0 {
                    std::thread::yield_now();
                }
            });
        });
        let goes_on = tokio::spawn(async move {
            let _begun = done.acquire().await.expect("it is open");
            other.add_permits(1);
        });
        goes_on.await.expect("it goes on");
        worker.await.expect("it is done");
    }
}
