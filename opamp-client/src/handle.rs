//! The handle and the event stream: the application's side of a client.
//!
//! The handle leaves what it is given in a mailbox with one slot per kind, where the newest value
//! wins; the driver empties it whole. So no call waits, none fails, nothing queues up, and what is
//! set together is reported together.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opamp_proto::{InstanceUid, ServerCapabilities, v1};
use tokio::sync::{Notify, mpsc, watch};

use crate::builder::Builder;
use crate::core::packages::{PackageOfferId, PackageResolution};
use crate::core::{
    ClientConfig, ClientCore, ClientState, ConnectionKinds, ConnectionSettingsResolution,
    Connections, CustomCapabilities, Event, NotSent, Resolution,
};
use crate::custom::{CustomDelivery, Posted, Room};
use crate::redaction::Redaction;

/// The handle of a running client: takes what is to be reported. Cheap to clone.
///
/// What is set before the driver runs is in the first report; what is set after it stopped has no
/// effect. No setter blocks or fails; only a custom message, the one thing that queues, may find no
/// room.
#[derive(Debug, Clone)]
pub struct Client {
    mailbox: Arc<Mailbox>,
    status: watch::Receiver<Status>,
}

/// What a client knows of itself and its server.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Status {
    /// Whether the server can be reached as far as is known.
    pub connected: bool,
    /// What the server announced; `None` until it did.
    pub server_capabilities: Option<ServerCapabilities>,
    /// What has to survive a restart of the agent: save it when it changes.
    pub state: ClientState,
    /// Whether the client has stopped.
    pub stopped: bool,
    /// Which state `state` is: cheaper to compare than a configuration in it.
    state_version: u64,
}

impl Status {
    pub(crate) fn of(core: &ClientCore) -> Self {
        Self {
            connected: core.is_connected(),
            server_capabilities: core.server_capabilities(),
            state: core.state().clone(),
            stopped: core.is_stopped(),
            state_version: core.state_version(),
        }
    }

    /// Takes over what changed in the core; says whether anything did.
    pub(crate) fn update(&mut self, core: &ClientCore) -> bool {
        let same = self.connected == core.is_connected()
            && self.server_capabilities == core.server_capabilities()
            && self.stopped == core.is_stopped()
            && self.state_version == core.state_version();
        if !same {
            *self = Self::of(core);
        }
        !same
    }
}

impl Client {
    /// Starts to describe a client of the server at `url`: `ws`, `wss`, `http` or `https`. The
    /// scheme chooses the transport; a URL without a path gets `/v1/opamp` (NET-03).
    pub fn builder(url: impl Into<String>) -> Builder {
        Builder::new(url.into())
    }

    pub(crate) fn new(mailbox: Arc<Mailbox>, status: watch::Receiver<Status>) -> Self {
        Self { mailbox, status }
    }

    /// Describes the agent anew. An equal description causes no message.
    pub fn set_description(&self, description: v1::AgentDescription) {
        self.mailbox.put(|changes| changes.description = Some(description));
    }

    /// Reports the agent's health; `None` withdraws the capability. An equal health causes no
    /// message.
    pub fn set_health(&self, health: impl Into<Option<v1::ComponentHealth>>) {
        let health = health.into();
        self.mailbox.put(|changes| changes.health = Some(health));
    }

    /// Reports what the agent runs; `None` withdraws the capability. An equal configuration causes
    /// no message. It is redacted first, where [`Builder::redact_effective_config`] says how.
    pub fn set_effective_config(&self, config: impl Into<Option<v1::EffectiveConfig>>) {
        let mut config = config.into();
        if let Some(config) = &mut config {
            self.mailbox.redaction.apply(config);
        }
        self.mailbox.put(|changes| changes.effective_config = Some(config));
    }

    /// Turns remote configuration on or off while the client runs (CAP-03).
    pub fn set_accepts_remote_config(&self, accepts: bool) {
        self.mailbox.put(|changes| changes.accepts_remote_config = Some(accepts));
    }

    /// Sets the agent's own heartbeat interval while the client runs; `None` opts out of heartbeats
    /// (HB-14). An interval that the server has offered takes precedence (HB-04).
    pub fn set_heartbeat_interval(&self, interval: impl Into<Option<Duration>>) {
        let interval = interval.into();
        self.mailbox.put(|changes| changes.heartbeat_interval = Some(interval));
    }

    /// Turns the restart command on or off while the client runs (CAP-03).
    pub fn set_accepts_restart(&self, accepts: bool) {
        self.mailbox.put(|changes| changes.accepts_restart = Some(accepts));
    }

    /// Tells the server what became of an offer. Without effect when a newer offer took its place
    /// or its deadline passed.
    pub fn resolve(&self, mut resolution: Resolution) {
        let mut effective = resolution.take_effective();
        if let Some(effective) = &mut effective {
            self.mailbox.redaction.apply(effective);
        }
        self.mailbox.put(|changes| {
            // What the agent runs now is true whatever becomes of the offer.
            if let Some(effective) = effective {
                changes.effective_config = Some(Some(effective));
            }
            // The last word on an offer stands, whatever is said after it.
            let stands = |kept: &Resolution| {
                kept.id() > resolution.id() || (kept.id() == resolution.id() && kept.is_final())
            };
            if !changes.resolution.as_ref().is_some_and(stands) {
                changes.resolution = Some(resolution);
            }
        });
    }

    /// Changes the kinds of connections the agent takes settings for, while the client runs
    /// (CAP-03). See [`ClientCore::set_accepted_settings`].
    pub fn set_accepted_settings(&self, kinds: ConnectionKinds) {
        self.mailbox.put(|changes| changes.accepted_settings = Some(kinds));
    }

    /// Tells the server what became of an offer of connection settings. Without effect when a newer
    /// offer took its place or its deadline passed.
    pub fn resolve_connection_settings(&self, resolution: ConnectionSettingsResolution) {
        self.mailbox.put(|changes| {
            let newer = |kept: &ConnectionSettingsResolution| kept.id() > resolution.id();
            if !changes.connection_settings.as_ref().is_some_and(newer) {
                changes.connection_settings = Some(resolution);
            }
        });
    }

    /// Asks the server for another instance uid (ID-07); the present one serves until it comes, as
    /// [`Event::InstanceUidChanged`].
    pub fn request_instance_uid(&self) {
        self.mailbox.put(|changes| changes.request_instance_uid = true);
    }

    /// Reports the components the agent has, by an id of each; `None` withdraws the capability.
    /// Equal components cause no message.
    pub fn set_available_components(
        &self,
        components: impl Into<Option<BTreeMap<String, v1::ComponentDetails>>>,
    ) {
        let components = components.into();
        self.mailbox.put(|changes| changes.available_components = Some(components));
    }

    /// Announces exactly these custom capabilities (CUST-02, CUST-03). Custom messages that wait
    /// for another one are dropped.
    pub fn set_custom_capabilities(&self, capabilities: CustomCapabilities) {
        self.mailbox.put(|changes| changes.custom_capabilities = Some(capabilities));
    }

    /// Sends a custom message (CUST-13): after those that were given before, and when both ends are
    /// known to announce its capability (CUST-04, CUST-09). What is returned yields what became of
    /// it; each message has exactly one outcome, and none is sent again that may have arrived.
    ///
    /// [`max_custom_messages`](crate::core::ClientConfig::max_custom_messages) and
    /// [`max_custom_bytes`](crate::core::ClientConfig::max_custom_bytes) bound what may wait for
    /// its outcome: 64 messages and 1 MiB by default.
    ///
    #[cfg_attr(feature = "ws", doc = "```no_run")]
    #[cfg_attr(not(feature = "ws"), doc = "```ignore")]
    /// use opamp_client::core::{CustomCapabilities, CustomOutcome};
    /// use opamp_proto::v1;
    ///
    /// # async fn agent() -> Result<(), Box<dyn std::error::Error>> {
    /// let (client, _events, driver) = opamp_client::Client::builder("ws://127.0.0.1:4320/v1/opamp")
    ///     .identifying_attribute("service.name", "my-agent")
    ///     .custom_capabilities(CustomCapabilities::new(["com.example.inventory"])?)
    ///     .build()?;
    /// tokio::spawn(driver.run());
    ///
    /// let message = v1::CustomMessage {
    ///     capability: "com.example.inventory".to_owned(),
    ///     r#type: "disks".to_owned(),
    ///     data: "sda sdb".into(),
    /// };
    /// match client.send_custom_message(message)?.await {
    ///     CustomOutcome::Delivered => println!("the server has it"),
    ///     CustomOutcome::Unconfirmed => println!("the server may have it"),
    ///     other => println!("the server has not got it: {other:?}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`NotSent::Full`] when too much waits for its outcome, [`NotSent::TooLarge`] and
    /// [`NotSent::Stopped`] when it can never be sent. A capability that an end lacks is an
    /// outcome.
    pub fn send_custom_message(
        &self,
        message: v1::CustomMessage,
    ) -> Result<CustomDelivery, NotSent> {
        let (posted, delivery) = self.mailbox.room.try_take(message)?;
        self.mailbox.post(posted)?;
        Ok(delivery)
    }

    /// As [`send_custom_message`](Self::send_custom_message), but waits for room where there is
    /// none, in turn with others that wait.
    ///
    /// # Errors
    ///
    /// [`NotSent::TooLarge`] and [`NotSent::Stopped`] when it can never be sent.
    ///
    /// # Cancel safety
    ///
    /// A message whose wait is cancelled is not sent, and takes no room.
    pub async fn send_custom_message_when_room(
        &self,
        message: v1::CustomMessage,
    ) -> Result<CustomDelivery, NotSent> {
        let (posted, delivery) = self.mailbox.room.take(message).await?;
        self.mailbox.post(posted)?;
        Ok(delivery)
    }

    /// Tells what became of a package that was handed over. Without effect when the hand-over has
    /// an outcome already; that a package was installed or removed counts also after its deadline.
    pub fn resolve_package(&self, resolution: PackageResolution) {
        self.mailbox.put(|changes| {
            // The last word on a hand-over stands, whatever is said after it.
            let kept = changes.packages.get(&resolution.id());
            if !kept.is_some_and(PackageResolution::is_final) {
                changes.packages.insert(resolution.id(), resolution);
            }
        });
    }

    /// The settings in force of the agent's own telemetry and other connections, as of now: what to
    /// use at the start, until an offer changes them (TEL-06).
    #[must_use]
    pub fn connections(&self) -> Connections {
        self.status.borrow().state.connections.clone()
    }

    /// Asks the server for a client certificate of a new key, whatever the agent has (CSR-16). A
    /// request that has no answer yet is repeated instead. Without effect unless the builder was
    /// told to [request certificates](Builder::request_certificate).
    #[cfg(feature = "csr")]
    pub fn request_certificate(&self) {
        self.mailbox.put(|changes| changes.request_certificate = true);
    }

    /// The agent's present instance uid; the server may change it (ID-12).
    #[must_use]
    pub fn instance_uid(&self) -> InstanceUid {
        self.status.borrow().state.instance_uid
    }

    /// What the client knows of itself and its server, as of now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Waits until the status is one that `wanted` accepts, and returns it; `None` when the driver
    /// is gone before that.
    ///
    /// # Cancel safety
    ///
    /// Cancelling loses nothing.
    pub async fn wait_for(&self, wanted: impl FnMut(&Status) -> bool) -> Option<Status> {
        let mut status = self.status.clone();
        status.wait_for(wanted).await.ok().map(|status| status.clone())
    }

    /// Stops the client in an orderly way and waits for it: what is untold is told, the goodbye is
    /// said, the connection closed (CLOSE-01 to CLOSE-03), all within
    /// [`close_timeout`](crate::core::ClientConfig::close_timeout); then what changed last is
    /// saved, where there is a store, within 5 seconds. May be called anywhere, any number of
    /// times.
    ///
    /// The driver has to run: a driver that is kept but never run never stops.
    ///
    /// # Cancel safety
    ///
    /// The client stops also when the wait is cancelled.
    pub async fn stop(&self) {
        self.mailbox.put(|changes| changes.stop = true);
        self.wait_for(|status| status.stopped).await;
    }
}

/// The events of a client. See [`Event`].
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::Receiver<Event>,
}

impl Events {
    pub(crate) fn new(receiver: mpsc::Receiver<Event>) -> Self {
        Self { receiver }
    }

    /// The next event; `None` when the client has stopped and every event was taken.
    ///
    /// A client whose events are not taken goes on: it keeps the newest offer, and a bounded number
    /// of the newest other events.
    ///
    /// # Cancel safety
    ///
    /// Cancelling loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        self.receiver.recv().await
    }

    /// Hands each event to `handler`, one after the other, until the client has stopped.
    ///
    /// ```
    /// # #[cfg(feature = "ws")] {
    /// use opamp_client::{Client, EventHandler, Events, core::Event};
    ///
    /// struct Agent;
    ///
    /// #[async_trait::async_trait]
    /// impl EventHandler for Agent {
    ///     async fn handle(&mut self, client: &Client, event: Event) {
    ///         if let Event::RemoteConfig(offer) = event {
    ///             client.resolve(offer.failed("this agent takes no configuration"));
    ///         }
    ///     }
    /// }
    ///
    /// async fn run(client: Client, events: Events, mut handler: Box<dyn EventHandler>) {
    ///     events.dispatch(&client, &mut *handler).await;
    /// }
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// Cancelling drops the event that is being handled and those that wait.
    pub async fn dispatch(mut self, client: &Client, handler: &mut dyn EventHandler) {
        while let Some(event) = self.next().await {
            handler.handle(client, event).await;
        }
    }
}

/// What an application does with events, for those who prefer a callback to a loop, or need a trait
/// object. See [`Events::dispatch`].
#[async_trait::async_trait]
pub trait EventHandler: Send {
    /// Handles one event. The next one waits until this is done; the connection does not.
    async fn handle(&mut self, client: &Client, event: Event);
}

/// What the handles want, the newest of each kind.
#[derive(Debug, Default)]
struct Changes {
    description: Option<v1::AgentDescription>,
    health: Option<Option<v1::ComponentHealth>>,
    effective_config: Option<Option<v1::EffectiveConfig>>,
    accepts_remote_config: Option<bool>,
    accepts_restart: Option<bool>,
    heartbeat_interval: Option<Option<Duration>>,
    resolution: Option<Resolution>,
    accepted_settings: Option<ConnectionKinds>,
    connection_settings: Option<ConnectionSettingsResolution>,
    request_instance_uid: bool,
    available_components: Option<Option<BTreeMap<String, v1::ComponentDetails>>>,
    /// The last word on each hand-over.
    packages: BTreeMap<PackageOfferId, PackageResolution>,
    custom_capabilities: Option<CustomCapabilities>,
    /// In the order they were given; there is never more than the room for them.
    posted: Vec<Posted>,
    /// The driver is gone.
    closed: bool,
    #[cfg(feature = "csr")]
    request_certificate: bool,
    stop: bool,
}

#[derive(Debug)]
pub(crate) struct Mailbox {
    changes: Mutex<Changes>,
    filled: Notify,
    room: Room,
    redaction: Redaction,
}

impl Mailbox {
    pub(crate) fn new(config: &ClientConfig, redaction: Redaction) -> Self {
        let changes = Mutex::new(Changes::default());
        Self { changes, filled: Notify::new(), room: Room::new(config), redaction }
    }

    fn post(&self, posted: Posted) -> Result<(), NotSent> {
        let mut changes = self.lock();
        if changes.closed {
            return Err(NotSent::Stopped);
        }
        changes.posted.push(posted);
        drop(changes);
        self.filled.notify_one();
        Ok(())
    }

    /// Nothing is taken out any more.
    pub(crate) fn close(&self) {
        self.room.close();
        let left = {
            let mut changes = self.lock();
            changes.closed = true;
            std::mem::take(&mut changes.posted)
        };
        left.into_iter().for_each(Posted::stopped);
    }

    fn put(&self, change: impl FnOnce(&mut Changes)) {
        change(&mut self.lock());
        self.filled.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Changes> {
        // Each change is a single assignment: a panic elsewhere cannot leave one half made.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Completes when something was put since the last time it completed.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Hands everything to the core, and returns the custom messages that were posted until then:
    /// one that is taken out with an older list of capabilities than it was posted with is refused.
    #[must_use]
    pub(crate) fn empty_into(&self, core: &mut ClientCore, now: std::time::Instant) -> Vec<Posted> {
        let changes = {
            let mut kept = self.lock();
            let closed = kept.closed;
            std::mem::replace(&mut *kept, Changes { closed, ..Changes::default() })
        };
        if let Some(description) = changes.description {
            core.set_description(description);
        }
        if let Some(health) = changes.health {
            core.set_health(health);
        }
        if let Some(config) = changes.effective_config {
            core.set_effective_config(config);
        }
        if let Some(interval) = changes.heartbeat_interval {
            core.set_heartbeat_interval(interval, now);
        }
        if let Some(accepts) = changes.accepts_restart {
            core.set_accepts_restart(accepts);
        }
        if let Some(accepts) = changes.accepts_remote_config {
            core.set_accepts_remote_config(accepts);
        }
        if let Some(resolution) = changes.resolution {
            // An offer that is no longer pending needs no answer.
            let _ = core.resolve(resolution);
        }
        if let Some(kinds) = changes.accepted_settings {
            core.set_accepted_settings(kinds);
        }
        if changes.request_instance_uid {
            core.request_instance_uid();
        }
        if let Some(components) = changes.available_components {
            core.set_available_components(components);
        }
        if let Some(capabilities) = changes.custom_capabilities {
            core.set_custom_capabilities(capabilities);
        }
        if let Some(resolution) = changes.connection_settings {
            let _ = core.resolve_connection_settings(resolution);
        }
        for (_, resolution) in changes.packages {
            // One that says nothing new needs no answer either.
            let _ = core.resolve_package(resolution, now);
        }
        #[cfg(feature = "csr")]
        if changes.request_certificate {
            core.request_certificate();
        }
        if changes.stop {
            core.stop(now);
        }
        changes.posted
    }
}
