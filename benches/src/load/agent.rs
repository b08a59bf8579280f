//! A simulated Agent and its connection: what has to be known of each, and nothing else, as there may
//! be a hundred thousand of them.

use std::collections::VecDeque;
use std::ops::Range;

use super::link::Link;
use super::template::{Kind, Status};

/// A message that waits for its answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    /// When it was sent, or should have been.
    pub(crate) at: u64,
    pub(crate) kind: Kind,
}

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) uid: [u8; 16],
    pub(crate) sequence_num: u64,
    pub(crate) unanswered: VecDeque<Sent>,
    /// What it says of the configuration it was offered last.
    pub(crate) status: Status,
    /// The last round of pushes it has seen.
    pub(crate) round: u32,
    /// Its first report on this connection was answered.
    pub(crate) ready: bool,
    /// When it last sent a full report because it was asked to.
    pub(crate) full_at: Option<u64>,
}

/// ```text
/// Down ─► Connecting ─► Securing ─► Upgrading ─► Open ─► Leaving ─► Down
///              │  (TLS only)   (WebSocket only)  ▲
///              └─────────────────────────────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Down,
    Connecting,
    Securing,
    Upgrading,
    Open,
    Leaving,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) state: State,
    pub(crate) link: Option<Link>,
    /// Which agents are on it.
    pub(crate) agents: Range<u32>,
    pub(crate) begun: u64,
    /// What has arrived of something that is not there as a whole.
    pub(crate) input: Vec<u8>,
    /// The beginning of a fragmented message.
    pub(crate) fragments: Option<Vec<u8>>,
    /// What the peer has not taken yet.
    pub(crate) backlog: Vec<u8>,
    /// On plain HTTP: the agents whose messages wait for their turn, and the one whose turn it is.
    pub(crate) turns: VecDeque<(u32, Kind)>,
    pub(crate) asking: Option<u32>,
    /// On plain HTTP: the Server has closed it in good order, and another one goes on where it was.
    pub(crate) renewed: bool,
    /// Whether it was ended with a goodbye the last time.
    pub(crate) said_goodbye: bool,
}

impl Connection {
    pub(crate) fn new(agents: Range<u32>) -> Self {
        Self {
            state: State::Down,
            link: None,
            agents,
            begun: 0,
            input: Vec::new(),
            fragments: None,
            backlog: Vec::new(),
            turns: VecDeque::new(),
            asking: None,
            renewed: false,
            said_goodbye: false,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Forgets everything of the connection that was, but what another one goes on with.
    pub(crate) fn clear(&mut self) {
        let said_goodbye = self.said_goodbye;
        let turns = if self.renewed { std::mem::take(&mut self.turns) } else { VecDeque::new() };
        let renewed = self.renewed;
        *self = Self { said_goodbye, turns, renewed, ..Self::new(self.agents.clone()) };
    }
}
