//! Calls of the handler: one at a time for each Agent, a bounded number in all, each on its own.
//!
//! The registry sees to it that an Agent is in the queue at most once, so the queue is bounded by
//! the number of Agents. There is no standing task: whoever adds to the queue starts a worker
//! unless there are enough, and a worker that finds the queue empty twice ends. Between the two it
//! lets others have their turn, so that a steady stream of changes does not start a worker for
//! each.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use tracing::Instrument as _;

use super::Inner;
use super::handler::{AgentChange, Handler};
#[cfg(feature = "ca")]
use crate::core::Changes;
use crate::fleet::{AgentChanges, AgentKey};

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    agents: VecDeque<AgentKey>,
    workers: usize,
    /// Of these, those that have found the queue empty and will look once more.
    lingering: usize,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Agents that wait.
    pub(super) fn len(&self) -> usize {
        self.state().agents.len()
    }

    /// Adds an Agent. True if a worker has to be started.
    fn push(&self, key: AgentKey, max_workers: usize) -> bool {
        let mut state = self.state();
        state.agents.push_back(key);
        let start = state.agents.len() > state.lingering && state.workers < max_workers.max(1);
        state.workers += usize::from(start);
        start
    }

    /// The next Agent. With `None` the worker that asked lingers.
    fn pop_or_linger(&self) -> Option<AgentKey> {
        let mut state = self.state();
        let next = state.agents.pop_front();
        state.lingering += usize::from(next.is_none());
        next
    }

    /// The next Agent for a worker that lingered. `None` ends it.
    fn pop_or_end(&self) -> Option<AgentKey> {
        let mut state = self.state();
        let next = state.agents.pop_front();
        state.lingering -= 1;
        state.workers -= usize::from(next.is_none());
        next
    }
}

/// A worker that has been counted, until the queue says that there is nothing to do. One that ends
/// otherwise is missed by nobody: the next Agent in the queue has another started.
struct Worker<H: Handler> {
    inner: Arc<Inner<H>>,
    lingers: bool,
    done: bool,
}

impl<H: Handler> Worker<H> {
    async fn next(&mut self) -> Option<AgentKey> {
        let next = self.inner.queue.pop_or_linger();
        if next.is_some() {
            return next;
        }
        self.lingers = true;
        tokio::task::yield_now().await;
        let next = self.inner.queue.pop_or_end();
        self.lingers = false;
        self.done = next.is_none();
        next
    }
}

impl<H: Handler> Drop for Worker<H> {
    fn drop(&mut self) {
        if !self.done {
            let mut state = self.inner.queue.state();
            state.workers -= 1;
            state.lingering -= usize::from(self.lingers);
        }
    }
}

impl<H: Handler> Inner<H> {
    /// Has the handler called for an Agent the registry wants queued.
    pub(super) fn dispatch(self: &Arc<Self>, key: AgentKey) {
        if self.queue.push(key, self.config.handler_concurrency) {
            let mut worker = Worker { inner: Arc::clone(self), lingers: false, done: false };
            self.workers.spawn(|_| async move {
                while let Some(key) = worker.next().await {
                    worker.inner.handle(key).await;
                }
            });
        }
    }

    async fn handle(self: &Arc<Self>, key: AgentKey) {
        let Some(taken) = self.fleet.take_changes(key) else { return };
        let AgentChanges { agent, changes, custom_messages, identity, token } = taken;
        #[cfg(feature = "ca")]
        let asks = changes.contains(Changes::CERTIFICATE_REQUEST).then(|| identity.clone());
        let fleet = self.fleet.clone();
        let change = AgentChange { agent, changes, custom_messages, identity, fleet };
        let call = async { self.handler.agent_changed(change).await };
        let span = tracing::debug_span!("agent_changed", agent = %key, ?changes);
        let call = AssertUnwindSafe(call).catch_unwind().instrument(span);
        match tokio::time::timeout(self.config.handler_deadline, call).await {
            Ok(Ok(())) => self.fleet.counting().handler_calls.add(),
            Ok(Err(_panic)) => {
                self.fleet.counting().handler_panics.add();
                tracing::error!(agent = %key, "the handler panicked");
            }
            Err(_elapsed) => {
                self.fleet.counting().handler_timeouts.add();
                tracing::warn!(agent = %key, "the handler took too long and was dropped")
            }
        }
        #[cfg(feature = "ca")]
        if let Some(identity) = asks {
            Box::pin(self.decide_certificate(key, &identity)).await;
        }
        if let Some(key) = self.fleet.finish_changes(token) {
            self.dispatch(key);
        }
    }
}
