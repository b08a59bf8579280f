//! The one place where agents' connections and those to the server meet: the routing, and who is to
//! be woken when it has something for them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use opamp_proto::frame::{self, HeaderPolicy};
use opamp_server::gateway::{DownstreamId, FromAgent, Gateway, GatewayConfig, Ready, ToAgent};
use tokio::sync::Notify;

/// One end of the gateway.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    Agent(DownstreamId),
    Server(usize),
}

/// What is to be done at an end.
pub(super) enum Next {
    Send(Bytes),
    Unavailable(Duration),
    TooLarge,
    Close(u16, &'static str),
}

/// Wakes the two halves of a connection.
#[derive(Debug, Default)]
pub(super) struct Wakers {
    pub(super) read: Notify,
    pub(super) write: Notify,
}

impl Wakers {
    fn wake(&self) {
        self.read.notify_one();
        self.write.notify_one();
    }
}

#[derive(Debug)]
pub(super) struct Hub {
    state: Mutex<State>,
    /// The next moment at which there is something to do has changed.
    rescheduled: Notify,
    /// Connections to the server close when they have sent what waits.
    leaving: AtomicBool,
    /// An agent's connection is gone.
    pub(super) gone: Notify,
}

#[derive(Debug)]
struct State {
    gateway: Gateway,
    downstreams: HashMap<DownstreamId, Arc<Wakers>>,
    upstreams: Vec<Arc<Wakers>>,
}

impl State {
    fn wake_ready(&mut self) {
        while let Some(ready) = self.gateway.poll_ready() {
            let wakers = match ready {
                Ready::Downstream(id) => self.downstreams.get(&id),
                Ready::Upstream(slot) => self.upstreams.get(slot),
                _ => None,
            };
            if let Some(wakers) = wakers {
                wakers.wake();
            }
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Hub {
    pub(super) fn new(config: GatewayConfig) -> Self {
        let upstreams = (0..config.connections).map(|_| Arc::default()).collect();
        let gateway = Gateway::new(config, now());
        Self {
            state: Mutex::new(State { gateway, downstreams: HashMap::new(), upstreams }),
            rescheduled: Notify::new(),
            leaving: AtomicBool::new(false),
            gone: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the routing, and wakes whom that concerns.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Gateway, Instant) -> T) -> T {
        let mut state = self.state();
        let before = state.gateway.poll_timeout();
        let done = act(&mut state.gateway, now());
        state.wake_ready();
        if state.gateway.poll_timeout() != before {
            self.rescheduled.notify_one();
        }
        done
    }

    /// Enters a connection or request of an agent.
    pub(super) fn enter(
        &self,
        open: impl FnOnce(&mut Gateway) -> DownstreamId,
    ) -> (DownstreamId, Arc<Wakers>) {
        let mut state = self.state();
        let id = open(&mut state.gateway);
        let wakers: Arc<Wakers> = Arc::default();
        state.downstreams.insert(id, Arc::clone(&wakers));
        state.wake_ready();
        (id, wakers)
    }

    pub(super) fn leave(&self, id: DownstreamId) {
        self.with(|gateway, now| gateway.close(id, now));
        self.state().downstreams.remove(&id);
        self.gone.notify_one();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state().downstreams.is_empty()
    }

    pub(super) fn upstream(&self, slot: usize) -> Option<Arc<Wakers>> {
        self.state().upstreams.get(slot).cloned()
    }

    /// What is to be done next at an end.
    pub(super) fn next(&self, end: End) -> Option<Next> {
        let next = self.with(|gateway, _| match end {
            End::Server(slot) => gateway.poll_upstream(slot).map(Next::Send),
            End::Agent(id) => match gateway.poll_downstream(id)? {
                ToAgent::Message(message) => Some(Next::Send(message)),
                ToAgent::Unavailable { retry_after } => Some(Next::Unavailable(retry_after)),
                ToAgent::TooLarge => Some(Next::TooLarge),
                ToAgent::Close(closing) => {
                    Some(Next::Close(closing.code().get(), closing.reason()))
                }
                _ => None,
            },
        });
        match end {
            End::Server(_) if next.is_none() && self.leaving.load(Ordering::Acquire) => {
                Some(Next::Close(1001, "the gateway stops"))
            }
            _ => next,
        }
    }

    /// A WebSocket message came in at an end.
    pub(super) fn take_in(&self, end: End, message: Bytes) {
        let frame = frame::decode(message, HeaderPolicy::Required);
        match (end, frame) {
            (End::Agent(id), frame) => {
                let message = match frame {
                    Ok(frame) => FromAgent::read(frame.body),
                    Err(error) => FromAgent::unreadable(&error.to_string()),
                };
                self.with(|gateway, now| gateway.receive(id, message, now));
            }
            (End::Server(slot), Ok(frame)) => {
                self.with(|gateway, now| gateway.receive_upstream(slot, frame.body, now));
            }
            (End::Server(slot), Err(error)) => {
                tracing::warn!(slot, %error, "the server sent a message that cannot be read");
            }
        }
    }

    /// Whether nothing should be read at an end for now. What the server says is always read.
    pub(super) fn is_held_up(&self, end: End) -> bool {
        match end {
            End::Agent(id) => self.state().gateway.is_held_up(id),
            End::Server(_) => false,
        }
    }

    /// Has the connections to the server closed when they have sent what waits.
    pub(super) fn leave_server(&self) {
        self.leaving.store(true, Ordering::Release);
        self.state().upstreams.iter().for_each(|wakers| wakers.wake());
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Does what becomes due, for ever.
    pub(super) async fn keep_time(&self) {
        loop {
            let due = self.state().gateway.poll_timeout();
            let due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => self.with(|gateway, now| gateway.handle_timeout(now)),
                () = self.rescheduled.notified() => {}
            }
        }
    }
}
