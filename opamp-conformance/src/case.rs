//! A case: one behaviour, which rows of the catalogue it judges, and the script that shows it.

use futures_util::future::BoxFuture;

use crate::client::ClientStage;
use crate::judge::{Judge, Stop};
use crate::log::Entry;
use crate::report::{Side, Transport};
use crate::server::ServerStage;

/// One behaviour of one side.
#[derive(Debug)]
pub struct Case {
    /// `side/topic/behaviour`, for example `server/sequence/gap`. Never reused.
    pub name: &'static str,
    /// The rows of the catalogue it judges.
    pub judges: &'static [&'static str],
    /// The transports it makes sense on; empty for an observer.
    pub transports: &'static [Transport],
    /// What the tester does, in words.
    pub does: &'static str,
    /// What it expects, in words.
    pub expects: &'static str,
    /// Whether it changes the subject as a whole, so that no other case may run beside it.
    pub alone: bool,
    /// The faults of the reference peers that make it miss something; the selftest shows that these
    /// do and that no other does.
    pub broken_by: &'static [&'static str],
    /// How it is done.
    pub script: Script,
}

/// How a case is done.
#[derive(Debug, Clone, Copy)]
pub enum Script {
    /// A scripted agent talks to a server.
    Server(ServerScript),
    /// A scripted server talks to a client.
    Client(ClientScript),
    /// Looks at everything that all other cases of the run recorded.
    Observer(fn(&Observed, &mut Judge)),
}

/// The script of a case that tests a server.
pub type ServerScript = for<'a> fn(&'a mut ServerStage) -> BoxFuture<'a, Result<(), Stop>>;

/// The script of a case that tests a client.
pub type ClientScript = for<'a> fn(&'a mut ClientStage) -> BoxFuture<'a, Result<(), Stop>>;

/// What the cases of a run recorded.
#[derive(Debug)]
pub struct Observed {
    /// The side that is tested.
    pub subject: Side,
    /// One for each case and transport, in the order they ended.
    pub conversations: Vec<Conversation>,
}

/// What one case recorded over one transport.
#[derive(Debug)]
pub struct Conversation {
    /// Name of the case.
    pub case: &'static str,
    /// The transport it ran over.
    pub transport: Transport,
    /// Everything that happened.
    pub entries: Vec<Entry>,
}

impl Observed {
    /// Every event of every conversation.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.conversations.iter().flat_map(|conversation| &conversation.entries)
    }
}

impl Case {
    /// The side it tests.
    #[must_use]
    pub fn side(&self) -> Side {
        if self.name.starts_with("server/") { Side::Server } else { Side::Client }
    }

    /// Whether it concerns servers behind TLS only.
    #[must_use]
    pub fn needs_tls(&self) -> bool {
        self.name.starts_with("server/tls/")
    }

    /// The middle part of its name.
    #[must_use]
    pub fn topic(&self) -> &'static str {
        self.name.split('/').nth(1).unwrap_or_default()
    }
}

/// The cases that test this side, in their order.
#[must_use]
pub fn cases(side: Side) -> Vec<&'static Case> {
    match side {
        Side::Server => crate::server::cases::ALL.iter().copied().flatten().collect(),
        Side::Client => crate::client::cases::ALL.iter().copied().flatten().collect(),
    }
}
