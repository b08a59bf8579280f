//! The driver: one task that owns the connection and the core.
//!
//! It gives the core what happens and does what the core says; it decides nothing itself. It never
//! waits for the application: what the handles want lies in a mailbox, and an event is taken from
//! the core only when the application has room for it, so a slow event consumer stops neither
//! heartbeats nor replies nor shutdown.

mod base;
#[cfg(feature = "http")]
mod coding;
mod connector;
#[cfg(feature = "ws")]
mod dial;
#[cfg(feature = "packages")]
mod download;
mod endpoint;
mod headers;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "packages")]
mod pace;
#[cfg_attr(not(feature = "packages"), path = "no_packages.rs")]
mod packages;
#[cfg(feature = "http")]
mod patience;
mod proxy;
mod redirect;
#[cfg(feature = "csr")]
mod renewal;
mod saving;
mod servers;
#[cfg(feature = "ws")]
mod tunnel;
#[cfg(feature = "ws")]
mod websocket;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

#[cfg(feature = "http")]
use bytes::Bytes;
#[cfg(feature = "http")]
use opamp_proto::InstanceUid;
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

#[cfg(feature = "ws")]
use crate::core::Epoch;
use crate::core::{ClientCore, ConnectionAction, Event, Failure, FailureKind, Transmit};
#[cfg(feature = "http")]
use crate::core::{Response, Ticket};
use crate::custom::Deliveries;
use crate::handle::{Mailbox, Status};
use crate::store::SettingsStore;

use self::saving::Saver;
use self::servers::{Checked, Made, SharedSettings};

pub(crate) use self::base::{Base, Times};
pub(crate) use self::endpoint::Endpoint;
pub(crate) use self::headers::append as append_header;
pub use self::headers::{HeaderError, HeaderProvider};
pub(crate) use self::packages::Warehouse;
pub use self::proxy::Proxy;
pub(crate) use self::servers::Servers;

/// The work of a client, as a future to spawn: see [`run`](Self::run).
#[must_use = "nothing happens until run is awaited or spawned"]
pub struct Driver {
    /// Boxed, or the future of `run` would be as large as a page of memory or two.
    core: Box<ClientCore>,
    servers: Servers,
    #[cfg(feature = "csr")]
    renewal: renewal::Renewal,
    saver: Saver,
    warehouse: Warehouse,
    io: Io,
    /// A check of settings that is under way.
    checking: Option<Boxed<Checked>>,
    mailbox: Arc<Mailbox>,
    deliveries: Deliveries,
    status: watch::Sender<Status>,
    events: mpsc::Sender<Event>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("core", &self.core).finish_non_exhaustive()
    }
}

/// How long the events that are left when the client stops are offered.
const LAST_EVENTS: Duration = Duration::from_secs(5);

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the driver has under way. There is one thing at most.
enum Io {
    Nothing,
    /// What makes connections is made.
    Preparing(Next, Boxed<Made>),
    #[cfg(feature = "ws")]
    Dialling(Epoch, Boxed<Result<websocket::Socket, websocket::DialError>>),
    #[cfg(feature = "ws")]
    Open(Epoch, Box<websocket::Socket>),
    #[cfg(feature = "http")]
    Requesting(Ticket, Boxed<Result<Response, http::Unanswered>>),
}

/// What follows a preparation.
enum Next {
    #[cfg(feature = "ws")]
    Dial(Epoch),
    #[cfg(feature = "http")]
    Request(Ticket, InstanceUid, Bytes),
}

/// What came of it.
enum Done {
    Prepared(Made),
    #[cfg(feature = "ws")]
    Dialled(Result<Box<websocket::Socket>, websocket::DialError>),
    #[cfg(feature = "ws")]
    Socket(websocket::Happening),
    #[cfg(feature = "http")]
    Response(Result<Response, http::Unanswered>),
}

impl Driver {
    pub(crate) fn new(
        core: ClientCore,
        servers: Servers,
        store: Option<Arc<dyn SettingsStore>>,
        mailbox: Arc<Mailbox>,
        status: watch::Sender<Status>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let core = Box::new(core);
        let saver = Saver::new(store);
        let deliveries = Deliveries::new(Arc::clone(&mailbox));
        let warehouse = Warehouse::default();
        let io = Io::Nothing;
        Self {
            core,
            servers,
            #[cfg(feature = "csr")]
            renewal: renewal::Renewal::default(),
            saver,
            warehouse,
            io,
            checking: None,
            mailbox,
            deliveries,
            status,
            events,
        }
    }

    /// The same, renewing certificates when this seed says.
    #[cfg(feature = "csr")]
    pub(crate) fn renewing(self, seed: u64) -> Self {
        Self { renewal: renewal::Renewal::new(seed), ..self }
    }

    /// The same, for an agent that takes packages.
    #[cfg(feature = "packages")]
    pub(crate) fn with_packages(self, warehouse: Warehouse) -> Self {
        Self { warehouse, ..self }
    }

    /// Connects, reports, reconnects, until the client is stopped through its handle. Nothing that
    /// goes wrong ends it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the connection without a goodbye; what was saved of
    /// [`Status::state`] is all that is left. Stop the client instead.
    pub async fn run(mut self) {
        self.warehouse.load(&mut self.core).await;
        loop {
            let now = now();
            let posted = self.mailbox.empty_into(&mut self.core, now);
            self.deliveries.hand_on(posted, &mut self.core, now);
            self.warehouse.catch_up(&mut self.core, now);
            self.core.handle_timeout(now);
            self.warehouse.start(&mut self.core, now);
            self.act(now);
            self.deliveries.tell(&mut self.core);
            self.saver.start(&mut self.core);
            if self.core.is_stopped() {
                break;
            }
            self.publish();
            self.wait().await;
        }
        // Whoever waits for the stop may end the process then.
        self.saver.finish(&mut self.core).await;
        self.warehouse.finish(&mut self.core).await;
        self.publish();
        self.hand_over_last_events().await;
    }

    /// Does what the core says, until it has nothing more to say.
    fn act(&mut self, now: Instant) {
        #[cfg(feature = "csr")]
        self.renewal.act(&mut self.core, now);
        if let Some(check) = self.core.poll_settings_check() {
            // A newer check takes the place of an older one, as in the core.
            self.checking = Some(self.servers.check(check));
        }
        while let Some(action) = self.core.poll_connection(now) {
            self.connection_action(action, now);
        }
        while self.can_transmit() {
            let Some(transmit) = self.core.poll_transmit(now) else {
                break;
            };
            self.transmit(transmit, now);
        }
        // What was sent may have been the last message before a close.
        while let Some(action) = self.core.poll_connection(now) {
            self.connection_action(action, now);
        }
    }

    #[cfg_attr(not(feature = "ws"), expect(unused_variables, reason = "only they are opened"))]
    fn connection_action(&mut self, action: ConnectionAction, now: Instant) {
        debug!(?action, "connection");
        match action {
            #[cfg(feature = "ws")]
            ConnectionAction::Connect { epoch, settings, .. } => {
                self.prepare(Next::Dial(epoch), settings, now);
            }
            #[cfg(not(feature = "ws"))]
            ConnectionAction::Connect { .. } => {}
            ConnectionAction::Close { code, reason, .. } => self.close(code, reason),
            ConnectionAction::Abort { .. } => self.io = Io::Nothing,
        }
    }

    fn prepare(&mut self, next: Next, settings: Option<SharedSettings>, now: Instant) {
        match self.servers.prepare(settings) {
            Some(preparing) => self.io = Io::Preparing(next, preparing),
            None => self.go_on(next, Ok(()), now),
        }
    }

    fn go_on(&mut self, next: Next, prepared: Result<(), Failure>, now: Instant) {
        match next {
            #[cfg(feature = "ws")]
            Next::Dial(epoch) => match prepared.and_then(|()| self.servers.dialer()) {
                Ok(dialer) => self.io = Io::Dialling(epoch, Box::pin(dialer.dial())),
                Err(failure) => self.core.handle_connect_failed(epoch, failure, None, now),
            },
            #[cfg(feature = "http")]
            Next::Request(ticket, uid, body) => {
                match prepared.and_then(|()| self.servers.exchanger()) {
                    Ok(exchanger) => {
                        self.io = Io::Requesting(ticket, Box::pin(exchanger.exchange(uid, body)));
                    }
                    Err(failure) => self.core.handle_request_unsent(ticket, failure, now),
                }
            }
        }
    }

    #[cfg(feature = "ws")]
    fn close(&mut self, code: u16, reason: &'static str) {
        if let Io::Open(_, socket) = &mut self.io {
            socket.close(code, reason);
        }
    }

    #[cfg(not(feature = "ws"))]
    fn close(&mut self, _: u16, _: &'static str) {}

    fn can_transmit(&self) -> bool {
        match &self.io {
            #[cfg(feature = "ws")]
            Io::Open(_, socket) => socket.can_send(),
            // Only a request can start from nothing; the core has one at a time.
            Io::Nothing => true,
            _ => false,
        }
    }

    #[cfg_attr(not(feature = "http"), expect(unused_variables, reason = "only requests may fail"))]
    fn transmit(&mut self, transmit: Transmit, now: Instant) {
        match transmit {
            #[cfg(feature = "ws")]
            Transmit::Message { message, .. } => {
                if let Io::Open(_, socket) = &mut self.io {
                    socket.send(message);
                }
            }
            #[cfg(feature = "ws")]
            Transmit::Ping { .. } => {
                if let Io::Open(_, socket) = &mut self.io {
                    socket.ping();
                }
            }
            #[cfg(feature = "http")]
            Transmit::Request { ticket, instance_uid, body, settings, .. } => {
                self.prepare(Next::Request(ticket, instance_uid, body), settings, now);
            }
            #[cfg(not(all(feature = "ws", feature = "http")))]
            _ => {}
        }
    }

    fn publish(&self) {
        self.status.send_if_modified(|status| status.update(&self.core));
    }

    /// Waits for the next thing to happen and gives it to the core.
    async fn wait(&mut self) {
        #[cfg(feature = "csr")]
        let renewal = self.renewal.deadline(now());
        #[cfg(not(feature = "csr"))]
        let renewal = None;
        let deadlines = [self.core.poll_timeout(), self.io.deadline(), renewal];
        let wake = deadlines.into_iter().flatten().min();
        let has_events = self.core.has_events();
        let done = tokio::select! {
            done = poll_fn(|cx| self.io.poll(cx)) => Some(done),
            checked = checked(&mut self.checking) => {
                self.checking = None;
                self.core.handle_settings_checked(checked.id, checked.outcome, now());
                None
            }
            saved = self.saver.saved() => {
                saved.tell(&mut self.core, now());
                None
            }
            done = self.warehouse.done() => {
                self.warehouse.tell(done, &mut self.core, now());
                None
            }
            () = self.mailbox.filled() => None,
            permit = self.events.reserve(), if has_events && !self.events.is_closed() => {
                if let Ok(permit) = permit && let Some(event) = self.core.poll_event() {
                    log(&event);
                    permit.send(event);
                }
                None
            }
            () = sleep_until(wake) => None,
        };
        if let Some(done) = done {
            self.handle(done);
        }
        if self.events.is_closed() {
            while let Some(event) = self.core.poll_event() {
                log(&event);
            }
        }
    }

    fn handle(&mut self, done: Done) {
        let now = now();
        let io = std::mem::replace(&mut self.io, Io::Nothing);
        match (done, io) {
            (Done::Prepared(made), Io::Preparing(next, _)) => {
                let prepared = self.servers.adopt(made);
                self.go_on(next, prepared, now);
            }
            #[cfg(feature = "ws")]
            (Done::Dialled(Ok(socket)), Io::Dialling(epoch, _)) => {
                self.io = Io::Open(epoch, socket);
                self.core.handle_connected(epoch, now);
            }
            #[cfg(feature = "ws")]
            (Done::Dialled(Err((failure, retry_after))), Io::Dialling(epoch, _)) => {
                self.servers.failed(&failure);
                self.core.handle_connect_failed(epoch, failure, retry_after, now);
            }
            #[cfg(feature = "ws")]
            (Done::Socket(websocket::Happening::Lost(loss)), Io::Open(epoch, _)) => {
                self.core.handle_connection_lost(epoch, loss, now);
            }
            #[cfg(feature = "ws")]
            (Done::Socket(happening), Io::Open(epoch, socket)) => {
                self.io = Io::Open(epoch, socket);
                if let websocket::Happening::Received(received) = happening {
                    self.core.handle_received(epoch, received, now);
                }
            }
            #[cfg(feature = "http")]
            (Done::Response(Ok(response)), Io::Requesting(ticket, _)) => {
                self.core.handle_response(ticket, response, now);
            }
            #[cfg(feature = "http")]
            (Done::Response(Err(http::Unanswered::Lost(failure))), Io::Requesting(ticket, _)) => {
                self.servers.failed(&failure);
                self.core.handle_request_failed(ticket, failure, now);
            }
            #[cfg(feature = "http")]
            (Done::Response(Err(http::Unanswered::Unsent(failure))), Io::Requesting(ticket, _)) => {
                self.servers.failed(&failure);
                self.core.handle_request_unsent(ticket, failure, now);
            }
            // What is done always belongs to what was under way.
            (_, io) => self.io = io,
        }
    }

    /// The application may be slow to take the last events, or never take them: they are offered
    /// for a while.
    async fn hand_over_last_events(self) {
        let Self { mut core, events, status, deliveries, .. } = self;
        // Whoever waits for the stop need not wait for the events to be taken.
        drop(status);
        drop(deliveries);
        let hand_over = async {
            while let Some(event) = core.poll_event() {
                log(&event);
                if events.send(event).await.is_err() {
                    break;
                }
            }
        };
        // What is not taken by then is not wanted.
        let _ = tokio::time::timeout(LAST_EVENTS, hand_over).await;
    }
}

impl Io {
    fn deadline(&self) -> Option<Instant> {
        match self {
            #[cfg(feature = "ws")]
            Self::Open(_, socket) => socket.deadline(),
            _ => None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Done> {
        match self {
            Self::Nothing => Poll::Pending,
            Self::Preparing(_, preparing) => preparing.as_mut().poll(cx).map(Done::Prepared),
            #[cfg(feature = "ws")]
            Self::Dialling(_, dialling) => {
                dialling.as_mut().poll(cx).map(|result| Done::Dialled(result.map(Box::new)))
            }
            #[cfg(feature = "ws")]
            Self::Open(_, socket) => socket.poll(cx).map(Done::Socket),
            #[cfg(feature = "http")]
            Self::Requesting(_, request) => request.as_mut().poll(cx).map(Done::Response),
        }
    }
}

/// Cancelling loses nothing.
async fn checked(checking: &mut Option<Boxed<Checked>>) -> Checked {
    match checking {
        Some(checking) => checking.as_mut().await,
        None => std::future::pending().await,
    }
}

fn now() -> Instant {
    // Tokio's clock can be paused in tests.
    tokio::time::Instant::now().into_std()
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}

/// What an operator wants to find in a log. Nothing of it is secret.
fn log(event: &Event) {
    match event {
        Event::Connected => info!("connected to the OpAMP server"),
        Event::Disconnected { reason } => info!(reason, "disconnected from the OpAMP server"),
        Event::ConnectFailed { failure: Failure { kind, message }, retry_in } => {
            // A server that is down is news once; an operator has to act on the rest.
            if matches!(kind, FailureKind::Unreachable | FailureKind::Throttled) {
                info!(?kind, message, ?retry_in, "cannot reach the OpAMP server");
            } else {
                warn!(?kind, message, ?retry_in, "cannot reach the OpAMP server");
            }
        }
        Event::Throttled { retry_in } => warn!(?retry_in, "the OpAMP server is overloaded"),
        Event::Refused { parts, reason } => {
            warn!(?parts, reason, "the OpAMP server refused what was reported");
        }
        Event::TooLargeToSend { part, size, limit } => {
            warn!(?part, size, limit, "a part of the status is too large to be reported");
        }
        Event::PeerMisbehaved(what) => warn!(?what, "ignored a message of the OpAMP server"),
        Event::InstanceUidChanged { old, new } => {
            info!(%old, %new, "the OpAMP server gave the agent another instance uid");
        }
        Event::SaveFailed { reason, retry_in } => {
            warn!(reason, ?retry_in, "what has to survive a restart cannot be saved");
        }
        Event::OpampSettingsApplied => info!("the offered connection settings work and are kept"),
        Event::CertificateRequestFailed { reason } => {
            warn!(reason, "no client certificate was issued");
        }
        Event::OpampSettingsFailed { reason } => {
            warn!(reason, "the offered connection settings are not used");
        }
        Event::PackageFailed { name, why } => warn!(name, why, "a package is not installed"),
        Event::PackageStoreFailed { task, why } => warn!(?task, why, "the package store failed"),
        Event::Restart => info!("the OpAMP server asks for a restart"),
        Event::Missed { count } => warn!(count, "events were dropped: nothing took them"),
        _ => debug!(?event, "event"),
    }
}
