//! Conversations changed at random, to find what no case thought of: a crash, a hang, a connection
//! dropped without a word, memory that grows. Everything follows from a seed, and what led to a
//! finding is kept in a file that can be played again.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::judge::Stop;
use crate::pace::Pace;
use crate::report::{Side, Transport};
use crate::run::Subject;
use crate::wire::body;

mod client;
mod memory;
mod server;

/// How many findings end a run.
const MAX_FINDINGS: usize = 20;
/// The version of the replay file's schema.
const SCHEMA: u32 = 1;

/// How to fuzz.
#[derive(Debug, Clone)]
pub struct Options {
    /// What everything follows from.
    pub seed: u64,
    /// How long to go on.
    pub duration: Duration,
    /// How many rounds at most.
    pub rounds: u64,
    /// The transports to take turns with.
    pub transports: Vec<Transport>,
    /// The subject's process, to watch its memory and whether it lives. Linux only.
    pub pid: Option<u32>,
    /// How long to wait.
    pub pace: Pace,
}

/// One thing the tester sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What was done to it, in words; empty where it is as it should be.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub changed: String,
    /// What is sent.
    pub send: Send,
}

/// What is sent, bytes in base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Send {
    /// An OpAMP message, right or wrong: as a WebSocket message with a header, or as a body.
    Message(#[serde(with = "base64_text")] Vec<u8>),
    /// The payload of a WebSocket message, header included; over HTTP a body.
    Payload(#[serde(with = "base64_text")] Vec<u8>),
    /// Bytes on the connection below WebSocket; over HTTP a body with `Content-Encoding: gzip`.
    Raw(#[serde(with = "base64_text")] Vec<u8>),
    /// The connection is dropped and opened again.
    Reconnect,
}

impl Send {
    /// The message behind a header of random bytes, and what was done in words.
    fn random_header(message: &[u8], rng: &mut StdRng) -> (String, Self) {
        let mut header = vec![0; rng.random_range(0..12)];
        rng.fill_bytes(&mut header);
        let payload = body::frame_with_header(&header, message);
        ("a random header".to_owned(), Self::Payload(payload.to_vec()))
    }

    /// Random bytes below WebSocket, and what was done in words.
    fn random_bytes(rng: &mut StdRng) -> (String, Self) {
        let mut raw = vec![0; rng.random_range(1..64)];
        rng.fill_bytes(&mut raw);
        ("random bytes".to_owned(), Self::Raw(raw))
    }

    /// The message compressed and damaged, and what was done in words.
    fn damaged_gzip(message: &[u8], rng: &mut StdRng) -> (String, Self) {
        let mut gzip = body::gzip(message).to_vec();
        let at = rng.random_range(0..gzip.len());
        gzip[at] ^= 1 << rng.random_range(0..8);
        ("gzip with a bit changed".to_owned(), Self::Raw(gzip))
    }
}

/// A conversation that can be played again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// Version of this schema.
    pub schema: u32,
    /// Which end was tested.
    pub side: Side,
    /// The transport it went over.
    pub transport: Transport,
    /// The seed of the run.
    pub seed: u64,
    /// The round of the run.
    pub round: u64,
    /// What was found.
    pub found: String,
    /// What was sent, in order.
    pub steps: Vec<Step>,
}

/// What kind of trouble it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// The process ended, or its port is closed.
    Crash,
    /// A good peer gets no answer any more.
    Hang,
    /// The connection was dropped without a Close frame, an error or a response.
    Dropped,
    /// Memory grows.
    Memory,
}

/// Something found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its kind.
    pub trouble: Trouble,
    /// How to play it again.
    pub replay: Replay,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// How many rounds were played.
    pub rounds: u64,
    /// What was found, one of a kind for each transport and change.
    pub findings: Vec<Finding>,
}

/// Plays rounds until the time is up or too much is found; `told` hears of each round and finding.
///
/// # Errors
///
/// [`Stop`] when the subject cannot be reached at all, before anything was sent to it.
pub async fn fuzz(
    subject: &Subject,
    options: &Options,
    mut told: impl FnMut(u64, Option<&Finding>),
) -> Result<Outcome, Stop> {
    let mut outcome = Outcome { rounds: 0, findings: Vec::new() };
    let until = Instant::now() + options.duration;
    let mut memory = memory::Watch::new(options.pid);
    let mut player = Player::new(subject, options).await?;
    while Instant::now() < until && outcome.rounds < options.rounds {
        let round = outcome.rounds;
        let transport = options.transports[round as usize % options.transports.len().max(1)];
        let mut rng =
            StdRng::seed_from_u64(options.seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let steps = match subject {
            Subject::Server(_) => server::conversation(transport, &mut rng),
            Subject::Client(_) => client::conversation(transport, &mut rng, &player.url(transport)),
        };
        let found = player.play(transport, &steps).await;
        outcome.rounds += 1;
        let found = found.or_else(|| Some((Trouble::Memory, memory.grown(outcome.rounds)?)));
        let finding = found.map(|(trouble, found)| {
            let (seed, side) = (options.seed, subject.side());
            let replay = Replay { schema: SCHEMA, side, transport, seed, round, found, steps };
            Finding { trouble, replay }
        });
        told(round, finding.as_ref());
        if let Some(finding) = finding {
            let fatal = matches!(finding.trouble, Trouble::Crash | Trouble::Hang);
            let known = |other: &Finding| {
                (other.trouble, other.replay.transport, &other.replay.found)
                    == (finding.trouble, finding.replay.transport, &finding.replay.found)
            };
            if !outcome.findings.iter().any(known) {
                outcome.findings.push(finding);
            }
            if fatal || outcome.findings.len() >= MAX_FINDINGS {
                break;
            }
        }
    }
    Ok(outcome)
}

/// Plays one conversation again and says what it came to.
///
/// # Errors
///
/// [`Stop`] when the subject cannot be reached, or the file is for the other side.
pub async fn replay(
    subject: &Subject,
    options: &Options,
    replay: &Replay,
) -> Result<Option<(Trouble, String)>, Stop> {
    if replay.schema != SCHEMA || replay.side != subject.side() {
        return Err(Stop::Harness(format!(
            "the file has schema {} and is for a {}; this tester reads schema {SCHEMA} and is told \
             to test a {}",
            replay.schema,
            replay.side.name(),
            subject.side().name()
        )));
    }
    let mut player = Player::new(subject, options).await?;
    Ok(player.play(replay.transport, &replay.steps).await)
}

/// Plays conversations with one side or the other.
enum Player {
    Server(Box<server::Player>),
    Client(client::Player),
}

impl Player {
    async fn new(subject: &Subject, options: &Options) -> Result<Self, Stop> {
        Ok(match subject {
            Subject::Server(target) => {
                Self::Server(Box::new(server::Player::new(target.clone(), options).await?))
            }
            Subject::Client(client) => {
                Self::Client(client::Player::new(client.as_ref(), options).await?)
            }
        })
    }

    fn url(&self, transport: Transport) -> String {
        match self {
            Self::Server(_) => String::new(),
            Self::Client(player) => player.url(transport),
        }
    }

    async fn play(&mut self, transport: Transport, steps: &[Step]) -> Option<(Trouble, String)> {
        match self {
            Self::Server(player) => player.play(transport, steps).await,
            Self::Client(player) => player.play(transport, steps).await,
        }
    }
}

mod base64_text {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(from)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::net::Network;
    use crate::reference::Faults;
    use crate::reference::client::ReferenceClient;
    use crate::reference::server::ReferenceServer;

    fn options(rounds: u64) -> Options {
        Options {
            seed: 11,
            duration: Duration::from_secs(1 << 20),
            rounds,
            transports: Transport::BOTH.to_vec(),
            pid: None,
            pace: Pace::new(1.0),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_found_with_a_good_server() {
        let network = Network::in_memory();
        let server = ReferenceServer::start(&network, Faults::none()).await.unwrap();
        let subject = Subject::Server(server.target());
        let outcome = fuzz(&subject, &options(100), |_, _| {}).await.unwrap();
        assert_eq!(outcome, Outcome { rounds: 100, findings: Vec::new() });
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_found_with_a_good_client() {
        let client = ReferenceClient::new(&Network::in_memory(), Faults::none());
        let subject = Subject::Client(Arc::new(client));
        let outcome = fuzz(&subject, &options(30), |_, _| {}).await.unwrap();
        assert_eq!(outcome, Outcome { rounds: 30, findings: Vec::new() });
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_goes_away_is_found_and_can_be_replayed() {
        let network = Network::in_memory();
        let server = ReferenceServer::start(&network, Faults::none()).await.unwrap();
        let subject = Subject::Server(server.target());
        let mut server = Some(server);
        let told = |round, _: Option<&Finding>| {
            if round == 9 {
                server = None;
            }
        };
        let outcome = fuzz(&subject, &options(50), told).await.unwrap();
        let [finding] = &outcome.findings[..] else { panic!("{outcome:?}") };
        assert_eq!((finding.trouble, outcome.rounds), (Trouble::Crash, 11));

        let text = serde_json::to_string(&finding.replay).unwrap();
        assert_eq!(serde_json::from_str::<Replay>(&text).unwrap(), finding.replay);
        let again = ReferenceServer::start(&network, Faults::none()).await.unwrap();
        let subject = Subject::Server(again.target());
        assert_eq!(replay(&subject, &options(1), &finding.replay).await, Ok(None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_down_cannot_be_fuzzed() {
        let network = Network::in_memory();
        let target = ReferenceServer::start(&network, Faults::none()).await.unwrap().target();
        let outcome = fuzz(&Subject::Server(target), &options(5), |_, _| {}).await;
        assert!(matches!(outcome, Err(Stop::Unreached(_))), "{outcome:?}");
    }
}
