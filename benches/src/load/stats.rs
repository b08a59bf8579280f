//! What is counted while agents are at work.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use super::histogram::Histogram;
use super::template::Kind;

/// What can go wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Trouble {
    /// No connection could be made.
    Connect(io::ErrorKind),
    /// The connection failed.
    Broken(io::ErrorKind),
    /// TLS failed, in its own words.
    Tls(String),
    /// The handshake of the WebSocket was answered with this status.
    Handshake(u16),
    /// The Server ended the connection; with this code, if it sent a Close frame.
    Closed(Option<u16>),
    /// A request was answered with this status.
    Status(u16),
    /// The Server answered with an error_response of this type.
    ErrorResponse(i32),
    /// What came cannot be read, or must not be sent by a Server.
    Unreadable,
    /// A message came for an agent that is not on this connection.
    ForeignUid,
    /// Messages got no answer.
    Unanswered,
    /// Messages were not sent, as too many of the agent's were unanswered.
    HeldBack,
    /// The agent did not come to where it could report.
    NotReady,
    /// A push did not arrive.
    NotPushed,
    /// A push could not be triggered; with the status, if there was one.
    PushRefused(Option<u16>),
}

impl Trouble {
    /// What is the matter with a connection that was there.
    pub(crate) fn of_connection(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls) => Self::Tls(tls.to_string()),
            None => Self::Broken(error.kind()),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(kind) => write!(f, "cannot connect: {kind}"),
            Self::Tls(why) => write!(f, "TLS: {why}"),
            Self::Broken(kind) => write!(f, "connection broken: {kind}"),
            Self::Handshake(status) => write!(f, "WebSocket handshake answered with {status}"),
            Self::Closed(None) => f.write_str("connection ended by the server"),
            Self::Closed(Some(code)) => write!(f, "closed by the server with {code}"),
            Self::Status(status) => write!(f, "request answered with {status}"),
            Self::ErrorResponse(kind) => {
                let kind = opamp_proto::v1::ServerErrorResponseType::try_from(*kind);
                let kind = kind.map_or("of an unknown type", |kind| kind.as_str_name());
                write!(f, "error_response {kind}")
            }
            Self::Unreadable => f.write_str("unreadable message"),
            Self::ForeignUid => f.write_str("message for an agent that is not on the connection"),
            Self::Unanswered => f.write_str("message without an answer"),
            Self::HeldBack => f.write_str("message held back: too many unanswered"),
            Self::NotReady => f.write_str("agent did not connect and report"),
            Self::NotPushed => f.write_str("pushed configuration did not arrive"),
            Self::PushRefused(None) => f.write_str("push URL not reached"),
            Self::PushRefused(Some(status)) => write!(f, "push URL answered with {status}"),
        }
    }
}

/// How many kinds of trouble are told apart where their number has no bound of its own.
const MAX_TROUBLES: usize = 100;

/// What happened in one step of a run.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Messages sent.
    pub sent: u64,
    /// Messages answered.
    pub answered: u64,
    /// Messages of the Server that answered nothing.
    pub unprompted: u64,
    /// Full reports the Server asked for.
    pub full_demanded: u64,
    /// Configurations offered that the agent did not have.
    pub offers: u64,
    /// Connections made.
    pub connections: u64,
    /// Connections dropped on purpose.
    pub dropped: u64,
    /// Bytes written to connections, before TLS.
    pub bytes_out: u64,
    /// Bytes read from connections, after TLS.
    pub bytes_in: u64,
    /// From the beginning of a connection to the end of the handshakes.
    pub connect: Histogram,
    /// From sending a message to its answer, by [`Kind`].
    pub answers: [Histogram; Kind::ALL.len()],
    /// From the trigger of a push to the arrival at an agent.
    pub push: Histogram,
    /// How often what went wrong.
    pub troubles: BTreeMap<Trouble, u64>,
}

impl Stats {
    /// Counts something that went wrong.
    pub fn trouble(&mut self, trouble: Trouble) {
        self.troubles(trouble, 1);
    }

    /// The same, several times.
    pub fn troubles(&mut self, trouble: Trouble, times: u64) {
        if times == 0 {
            return;
        }
        let full = self.troubles.len() >= MAX_TROUBLES;
        let trouble = match trouble {
            Trouble::Tls(_) if full && !self.troubles.contains_key(&trouble) => {
                Trouble::Broken(io::ErrorKind::Other)
            }
            trouble => trouble,
        };
        *self.troubles.entry(trouble).or_default() += times;
    }

    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.answered += other.answered;
        self.unprompted += other.unprompted;
        self.full_demanded += other.full_demanded;
        self.offers += other.offers;
        self.connections += other.connections;
        self.dropped += other.dropped;
        self.bytes_out += other.bytes_out;
        self.bytes_in += other.bytes_in;
        self.connect.add(&other.connect);
        self.push.add(&other.push);
        for (mine, theirs) in self.answers.iter_mut().zip(&other.answers) {
            mine.add(theirs);
        }
        for (trouble, times) in &other.troubles {
            self.troubles(trouble.clone(), *times);
        }
    }

    /// From sending to the answer, of all messages.
    #[must_use]
    pub fn all_answers(&self) -> Histogram {
        let mut all = Histogram::default();
        self.answers.iter().for_each(|of_kind| all.add(of_kind));
        all
    }
}
