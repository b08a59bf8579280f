//! What the core tells the application.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use opamp_proto::{InstanceUid, ServerCapabilities, v1};

use super::packages::{PackageOffer, PackageRemoval};
use super::{ConnectionSettingsOffer, Parts, RemoteConfigOffer};

/// Something the application may want to know or has to act on.
///
/// Events wait in a bounded queue; when the application does not take them, the oldest give way and
/// [`Missed`](Self::Missed) says how many. An offer is never among those: there is at most one of a
/// kind, always the newest. Nor is [`StateChanged`](Self::StateChanged).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A connection is established (WebSocket), or a request got its first good response after the
    /// start or after a failure (HTTP).
    Connected,
    /// An established connection is over.
    Disconnected {
        /// Why, for a log.
        reason: String,
    },
    /// An attempt to connect, or an HTTP exchange, failed; it is tried again (EST-03).
    ConnectFailed {
        /// What failed.
        failure: Failure,
        /// When it is tried again, from now.
        retry_in: Duration,
    },
    /// The server said what it can do, for the first time or otherwise than before (CAP-10).
    ServerCapabilities(ServerCapabilities),
    /// The server offers a configuration: to be answered (CFG-01).
    RemoteConfig(RemoteConfigOffer),
    /// The server offers settings for the agent's own telemetry or other connections of its: to be
    /// answered (TEL-01, OTHER-06).
    ConnectionSettings(ConnectionSettingsOffer),
    /// A package that the server offers is downloaded and verified: to be installed and answered
    /// (PKG-16).
    Package(PackageOffer),
    /// A package from the server is no longer offered: to be removed and answered (PKG-14).
    PackageRemoval(PackageRemoval),
    /// A package is not what the server wants it to be; the server is told (PKG-59). It is tried
    /// again when the server offers anew, and, unless the agent itself refused it, after a restart.
    /// A download that may go well later is tried on meanwhile, and told again when it is
    /// [given up](super::packages::PackagesConfig::retry_for).
    PackageFailed {
        /// The package.
        name: String,
        /// Why, for a log.
        why: String,
    },
    /// The package store failed; it is tried again.
    PackageStoreFailed {
        /// What it was to do.
        task: PackageStoreTask,
        /// Why, for a log.
        why: String,
    },
    /// The server announced these custom capabilities, for the first time or others than before
    /// (CUST-03).
    ServerCustomCapabilities(BTreeSet<String>),
    /// The server sent a custom message of a capability the agent announces (CUST-13). Messages
    /// come in order, and wait within
    /// [`max_custom_messages`](super::ClientConfig::max_custom_messages) and
    /// [`max_custom_bytes`](super::ClientConfig::max_custom_bytes); those that wait when the client
    /// stops are dropped.
    CustomMessage(v1::CustomMessage),
    /// Custom messages came that had no room, at this place in the order.
    CustomMessagesLost {
        /// How many.
        count: u64,
    },
    /// The server gave the agent another instance uid, which is used from now on (ID-12).
    InstanceUidChanged {
        /// The uid until now.
        old: InstanceUid,
        /// The uid from now on, also after a restart.
        new: InstanceUid,
    },
    /// The server wants the agent to restart (CMD-03).
    Restart,
    /// The server is overloaded; the client comes back after a while (THR-02).
    Throttled {
        /// When, from now.
        retry_in: Duration,
    },
    /// The server refused what was reported. It causes no other report; it goes along with the next
    /// one, and what is then refused again, or was too large, is not sent until it changes or the
    /// server asks for full state (A06, ERR-06, ERR-14, SIZE-24).
    Refused {
        /// What was refused.
        parts: Parts,
        /// The server's words, or what its answer means.
        reason: String,
    },
    /// A part of the status is larger than may be sent, and stays unreported until it changes
    /// (SIZE-16, SIZE-17, SIZE-34, SIZE-35).
    TooLargeToSend {
        /// Which part.
        part: Parts,
        /// Its size in bytes.
        size: usize,
        /// The limit for a whole message in bytes.
        limit: usize,
    },
    /// The server sent something that is wrong; it was ignored.
    PeerMisbehaved(PeerMisbehaved),
    /// What has to survive a restart changed: save [`ClientCore::state`](super::ClientCore::state).
    StateChanged,
    /// The OpAMP connection settings that the server offered are in force: the connection made with
    /// them works (CONN-14, CONN-16, CONN-23).
    OpampSettingsApplied,
    /// The OpAMP connection settings that the server offered are not used: they were refused, or no
    /// connection could be made with them, and the client goes on with those it had (CONN-08,
    /// CONN-18).
    OpampSettingsFailed {
        /// Why, as the server is told (CONN-35).
        reason: String,
    },
    /// A request for a client certificate failed: it could not be made, or the server refused it
    /// (CSR-15, ERR-14). The agent goes on with the credentials it has; another request, with
    /// another key, follows after
    /// [`certificate_retry_interval`](super::ClientConfig::certificate_retry_interval).
    CertificateRequestFailed {
        /// Why.
        reason: String,
    },
    /// What has to survive a restart could not be saved; it is tried again until it is (CONN-11).
    /// Told once until it works again.
    SaveFailed {
        /// What the store says.
        reason: String,
        /// When it is tried again, from now.
        retry_in: Duration,
    },
    /// Events were dropped because the application did not take them.
    Missed {
        /// How many.
        count: u64,
    },
    /// The client stopped as it was asked to. Nothing follows, unless what changed last cannot be
    /// stored: then [`SaveFailed`](Self::SaveFailed) or
    /// [`PackageStoreFailed`](Self::PackageStoreFailed) does.
    Stopped,
}

/// What a package store was to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PackageStoreTask {
    /// Load what is remembered. Offers wait until it is there.
    Load,
    /// Save what is to be remembered. No package is handed over until it is saved.
    Save,
    /// Delete files of no more use.
    Retain,
}

/// Why a connection could not be made, or an exchange failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The class of failure.
    pub kind: FailureKind,
    /// The details, for a log.
    pub message: String,
}

/// Classes of failure, by what an operator would do about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// No connection: name resolution, refused, reset, timed out.
    Unreachable,
    /// TLS could not be established: an untrusted or expired certificate, no common version.
    Tls,
    /// 401 or 403: the server does not accept the credentials (AUTH-05), or a proxy does not accept
    /// those for it.
    Unauthorized,
    /// 404: nothing is served at this path.
    NotFound,
    /// 429 or 503: the server is overloaded (THR-10).
    Throttled,
    /// Any other status than the expected one.
    UnexpectedStatus(u16),
    /// The answer was not OpAMP, was for another agent, or was larger than is accepted.
    BadResponse,
    /// No connection can be made with the connection settings that the server offered: not by this
    /// build, or not now, as a file cannot be read. After a minute what the agent was started with
    /// serves instead, until they can be used again.
    UnusableSettings,
    /// The local configuration makes the connection impossible: an unusable URL or header.
    Configuration,
}

impl FailureKind {
    /// Whether it is the server's last word, or the settings' own fault. A server that cannot be
    /// reached, or is overloaded, is tried again as long as there is time.
    pub(super) fn is_final(self) -> bool {
        match self {
            // What the configuration is asked for, a token for example, may come later.
            Self::Unreachable | Self::Throttled | Self::Configuration => false,
            Self::UnexpectedStatus(status) => status < 500,
            Self::Tls
            | Self::Unauthorized
            | Self::NotFound
            | Self::BadResponse
            | Self::UnusableSettings => true,
        }
    }

    /// Whether a server that served this agent before does not let it in any more.
    pub(super) fn is_refusal(self) -> bool {
        matches!(self, Self::Unauthorized | Self::Tls)
    }
}

/// What the server did wrong. Each is ignored; none harms the state.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerMisbehaved {
    /// A message that is not a framed `ServerToAgent` (WS-08, A09).
    Malformed(String),
    /// A WebSocket message of type text (WS-01).
    TextMessage,
    /// A message above the receive limit (SIZE-10, SIZE-27).
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// Nothing the client said was answered for so long, while the connection was alive: the client
    /// leaves it (EST-02).
    NoAnswer {
        /// How long.
        within: Duration,
    },
    /// A message for another agent (A33).
    ForeignInstanceUid,
    /// A new instance uid that is not 16 bytes long (ID-16).
    BadNewInstanceUid,
    /// A part for which the agent has not announced the capability (CAP-05).
    NotAnnounced(&'static str),
    /// More custom capabilities than are taken note of, which is 1024.
    TooManyCustomCapabilities {
        /// How many.
        count: usize,
    },
    /// A command this version does not know.
    UnknownCommand(i32),
}

/// The most events that wait to be taken.
pub(super) const MAX_EVENTS: usize = 128;

#[derive(Debug, Clone, Default)]
pub(super) struct Events {
    waiting: VecDeque<Event>,
    missed: u64,
}

impl Events {
    pub(super) fn push(&mut self, event: Event) {
        if matches!(event, Event::StateChanged) && self.waiting.contains(&event) {
            return;
        }
        if self.waiting.len() == MAX_EVENTS {
            // What is not saved in time is lost for good. There is one such event at most.
            let oldest = usize::from(self.waiting.front() == Some(&Event::StateChanged));
            self.waiting.remove(oldest);
            self.missed += 1;
        }
        self.waiting.push_back(event);
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        match std::mem::take(&mut self.missed) {
            0 => self.waiting.pop_front(),
            count => Some(Event::Missed { count }),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.missed == 0
    }
}
