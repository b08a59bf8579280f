//! Offers of OpAMP connection settings, and what a client makes of one: the script follows it from
//! the server that made the offer to the one the offer names, and back where that is of no use.

use bytes::Bytes;
use opamp_proto::v1::{
    AgentToServer, ConnectionSettingsOffers, ConnectionSettingsStatus, ConnectionSettingsStatuses,
    OpAmpConnectionSettings, ServerToAgent,
};
use rand::RngExt as _;
use tokio::time::Instant;

use super::{ClientStage, Heard, Host, Start};
use crate::judge::Stop;
use crate::mask::agent as mask;
use crate::report::Transport;
use crate::wire::endpoint::Welcome;

/// How many messages an HTTP client may send to the old server after it turned to the new one,
/// where no goodbye tells that it left.
const STRAYS: usize = 3;

/// One of the two servers of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The server that made the offer.
    Old,
    /// The server the offer names.
    New,
}

/// What a client made of an offer.
#[derive(Debug)]
pub enum Outcome {
    /// It sent this to the new server, and waits for the answer.
    Arrived(Box<AgentToServer>),
    /// It was away from the old server and is back; it waits for the answer to this.
    Back(Box<AgentToServer>),
    /// It did not leave the old server.
    Stayed,
    /// It left the old server and was not heard of again.
    Lost,
}

/// An offer that was made, and what was seen since.
pub struct Offer {
    hash: Bytes,
    /// What the client reported before, which says nothing of this offer.
    earlier: Option<ConnectionSettingsStatus>,
    /// Whether the client announces that it reports the status of settings.
    pub reports: bool,
    transport: Transport,
    /// What it reported, and where.
    pub statuses: Vec<(Place, ConnectionSettingsStatus)>,
    /// Whether it said goodbye to the old server.
    pub goodbye: bool,
    /// Whether it is known to have left the old server.
    pub left: bool,
    /// Whether it turned to the new server while the connection to the old one was still open.
    pub early: bool,
    approached: Option<Instant>,
    strays: usize,
}

impl ClientStage {
    /// OpAMP settings that name this server, with an interval of heartbeats as short as can be.
    #[must_use]
    pub fn settings_for(&self, host: &Host) -> OpAmpConnectionSettings {
        OpAmpConnectionSettings {
            destination_endpoint: host.url(),
            heartbeat_interval_seconds: self.pace.scale().ceil() as u64,
            ..Default::default()
        }
    }

    /// Offers these OpAMP settings in answer to `last`, the client's last message.
    ///
    /// # Errors
    ///
    /// [`Stop::NotApplicable`] when the client does not take such offers, and those of
    /// [`Host::send`].
    pub async fn offer(
        &mut self,
        old: &mut Host,
        last: &AgentToServer,
        opamp: OpAmpConnectionSettings,
    ) -> Result<Offer, Stop> {
        self.requires(last, mask::ACCEPTS_OPAMP_CONNECTION_SETTINGS)?;
        let offers = ConnectionSettingsOffers { opamp: Some(opamp), ..Default::default() };
        self.offer_all(old, last, offers).await
    }

    /// Offers these connection settings under a new hash in answer to `last`.
    ///
    /// # Errors
    ///
    /// Those of [`Host::send`].
    pub async fn offer_all(
        &mut self,
        old: &mut Host,
        last: &AgentToServer,
        offers: ConnectionSettingsOffers,
    ) -> Result<Offer, Stop> {
        let hash = Bytes::copy_from_slice(&self.rng.random::<[u8; 16]>());
        let offers = ConnectionSettingsOffers { hash: hash.clone(), ..offers };
        let message = ServerToAgent { connection_settings: Some(offers), ..old.message() };
        old.send(message).await?;
        Ok(Offer {
            hash,
            earlier: last.connection_settings_status.clone(),
            reports: last.capabilities & mask::REPORTS_CONNECTION_SETTINGS_STATUS != 0,
            transport: self.transport,
            statuses: Vec::new(),
            goodbye: false,
            left: false,
            early: false,
            approached: None,
            strays: 0,
        })
    }

    /// Offers a client with state settings of a server that does not answer, and kills it while it
    /// tries them.
    ///
    /// # Errors
    ///
    /// [`Stop::NotApplicable`] when the client cannot be started again with its state,
    /// [`Stop::Unreached`] when it does not try the offer, and those of [`offer`](Self::offer).
    pub async fn interrupted(&mut self) -> Result<Interrupted, Stop> {
        self.takes("state")?;
        let mut old = self.host().await?;
        let start = Start { state: Some(self.state()), ..self.start_for(&old) };
        let (mut client, first) = self.admit(&mut old, start.clone()).await?;
        let mut new = self.host().await?;
        new.endpoint.welcome(Welcome::Silence);
        let settings = self.settings_for(&new);
        let mut offer = self.offer(&mut old, &first, settings).await?;
        offer.approach(self, &mut old, &mut new).await?;
        client.kill().await;
        self.log.remark("the client is killed while it tries the offered settings");
        old.cut();
        Ok(Interrupted { old, new, offer, start })
    }
}

/// A client that was killed while it tried an offer.
pub struct Interrupted {
    /// The server that made the offer.
    pub old: Host,
    /// The server the offer names; it answers nothing.
    pub new: Host,
    /// The offer.
    pub offer: Offer,
    /// How the client is started again.
    pub start: Start,
}

impl Offer {
    /// Follows the client until it is at the new server or back at the old one.
    pub async fn follow(&mut self, stage: &ClientStage, old: &mut Host, new: &mut Host) -> Outcome {
        let mut until = Instant::now() + stage.pace.work();
        let mut is_away = false;
        while Instant::now() < until {
            match self.step(stage, old, new).await {
                Some((Place::New, message)) => return Outcome::Arrived(message),
                Some((Place::Old, message)) if self.is_back(stage) => {
                    return Outcome::Back(message);
                }
                _ => {}
            }
            if !is_away && (self.left || self.early) {
                is_away = true;
                until = Instant::now() + stage.pace.comeback() + stage.pace.work();
            }
        }
        if is_away { Outcome::Lost } else { Outcome::Stayed }
    }

    /// As [`follow`](Self::follow), for settings with which the client is to arrive.
    ///
    /// # Errors
    ///
    /// [`Stop::Unreached`] when it does not.
    pub async fn arrive(
        &mut self,
        stage: &ClientStage,
        old: &mut Host,
        new: &mut Host,
    ) -> Result<AgentToServer, Stop> {
        match self.follow(stage, old, new).await {
            Outcome::Arrived(message) => Ok(*message),
            other => Err(Stop::Unreached(format!(
                "the client {} instead of connecting with the offered settings",
                self.told(&other)
            ))),
        }
    }

    /// As [`arrive`](Self::arrive), and judges a row by it where the client has tried.
    ///
    /// # Errors
    ///
    /// [`Stop::Unreached`] when it does not arrive.
    pub async fn must_arrive(
        &mut self,
        stage: &mut ClientStage,
        old: &mut Host,
        new: &mut Host,
        row: &str,
    ) -> Result<AgentToServer, Stop> {
        let outcome = self.follow(stage, old, new).await;
        let told = format!("the client {}", self.told(&outcome));
        let expected = "a connection with the offered settings";
        match outcome {
            Outcome::Arrived(message) => {
                stage.judge.expect(row, true, expected, told);
                Ok(*message)
            }
            _ => {
                if !new.endpoint.attempts().is_empty() {
                    stage.judge.expect(row, false, expected, told.as_str());
                }
                Err(Stop::Unreached(told))
            }
        }
    }

    /// Lets a client that has arrived say so; gives a message for the next offer to answer.
    pub async fn settle(
        &mut self,
        stage: &ClientStage,
        new: &mut Host,
        arrival: AgentToServer,
    ) -> AgentToServer {
        new.answer().await;
        self.verdict(stage, Place::New, new).await;
        new.answer().await;
        let status = self.statuses.last().map(|(_, status)| status.clone());
        AgentToServer { connection_settings_status: status, ..arrival }
    }

    /// Lets the client say what became of the offer, wherever it is now.
    pub async fn conclude(
        &mut self,
        stage: &ClientStage,
        outcome: &Outcome,
        old: &mut Host,
        new: &mut Host,
    ) {
        match outcome {
            Outcome::Arrived(_) => self.verdict(stage, Place::New, new).await,
            Outcome::Back(_) => self.verdict(stage, Place::Old, old).await,
            Outcome::Stayed | Outcome::Lost => None,
        };
    }

    /// Waits until the client tries to connect to the new server, which does not answer it.
    ///
    /// # Errors
    ///
    /// [`Stop::Unreached`] when it does not.
    async fn approach(
        &mut self,
        stage: &ClientStage,
        old: &mut Host,
        new: &mut Host,
    ) -> Result<(), Stop> {
        let until = Instant::now() + stage.pace.work();
        while new.endpoint.attempts().is_empty() {
            if Instant::now() > until {
                return Err(Stop::Unreached("the client does not try the offer".to_owned()));
            }
            if let Heard::Message(message) = old.next(stage.pace.of(0.05)).await {
                self.note(Place::Old, &message);
            }
        }
        Ok(())
    }

    /// Whether a client that was started again comes to the new server, be it by way of the old
    /// one.
    pub async fn resume(&mut self, stage: &ClientStage, old: &mut Host, new: &mut Host) -> bool {
        self.left = true;
        let until = Instant::now() + stage.pace.start() + stage.pace.work();
        while Instant::now() < until {
            if let Some((Place::New, _)) = self.step(stage, old, new).await {
                return true;
            }
        }
        false
    }

    /// Waits at this server until the client reports that the offer was applied or has failed.
    pub async fn verdict(
        &mut self,
        stage: &ClientStage,
        place: Place,
        host: &mut Host,
    ) -> Option<ConnectionSettingsStatuses> {
        let until = Instant::now() + stage.pace.work() + stage.heartbeat();
        while self.reports && self.last().is_none_or(|last| !is_final(last)) {
            let left = until.saturating_duration_since(Instant::now());
            match host.next(left).await {
                Heard::Message(message) => self.note(place, &message),
                Heard::Silence => break,
                Heard::Malformed(_) | Heard::Closed(..) => {}
            }
        }
        self.last()
    }

    /// What was reported last.
    #[must_use]
    pub fn last(&self) -> Option<ConnectionSettingsStatuses> {
        self.statuses.last().map(|(_, status)| status.status())
    }

    /// What was reported of the offer, in words.
    #[must_use]
    pub fn reported(&self) -> String {
        if self.statuses.is_empty() {
            return "no status of the settings is reported".to_owned();
        }
        let one = |(place, status): &(Place, ConnectionSettingsStatus)| {
            let at = if *place == Place::Old { "first" } else { "second" };
            let text = match status.error_message.as_str() {
                "" => String::new(),
                text => format!(" {text:?}"),
            };
            format!("{}{text} at the {at} server", status.status().as_str_name())
        };
        self.statuses.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// What became of it, in words that follow "the client".
    #[must_use]
    pub fn told(&self, outcome: &Outcome) -> String {
        let what = match outcome {
            Outcome::Arrived(_) => "connects to the second server",
            Outcome::Back(_) if self.left => "is back at the first server",
            Outcome::Back(_) | Outcome::Stayed => "stays at the first server",
            Outcome::Lost => "leaves the first server and is not heard of again",
        };
        format!("{what}, and {}", self.reported())
    }

    /// Whether every status that was reported has the hash of the offer.
    #[must_use]
    pub fn has_its_hash(&self) -> bool {
        self.statuses.iter().all(|(_, status)| status.last_connection_settings_hash == self.hash)
    }

    /// Takes note of what a message says of the offer.
    pub fn note(&mut self, place: Place, message: &AgentToServer) {
        let Some(status) = &message.connection_settings_status else { return };
        let last = self.statuses.last().map(|(_, last)| last);
        if status.status != 0 && last.or(self.earlier.as_ref()) != Some(status) {
            self.statuses.push((place, status.clone()));
        }
    }

    /// Whether a message to the old server shows that the client is back, or never left for good.
    fn is_back(&mut self, stage: &ClientStage) -> bool {
        if self.last() == Some(ConnectionSettingsStatuses::Failed) {
            return true;
        }
        match stage.transport {
            Transport::WebSocket => self.left,
            Transport::Http if self.goodbye => true,
            Transport::Http => {
                self.strays += usize::from(self.left);
                self.strays >= STRAYS
            }
        }
    }

    /// Plays the one and then the other server for a moment. The new one does not answer before the
    /// old one is left, so that a client which tries both at once is seen and still gets on.
    async fn step(
        &mut self,
        stage: &ClientStage,
        old: &mut Host,
        new: &mut Host,
    ) -> Option<(Place, Box<AgentToServer>)> {
        let moment = stage.pace.of(0.05);
        match old.next(moment).await {
            Heard::Message(message) => {
                self.note(Place::Old, &message);
                if message.agent_disconnect.is_none() {
                    return Some((Place::Old, message));
                }
                self.goodbye = true;
                self.left |= self.transport == Transport::Http;
            }
            Heard::Closed(..) => self.left = true,
            Heard::Malformed(_) | Heard::Silence => {}
        }
        if !self.left && !self.early {
            if new.endpoint.attempts().is_empty() {
                return None;
            }
            let approached = *self.approached.get_or_insert_with(Instant::now);
            if approached.elapsed() < stage.pace.of(0.5) {
                return None;
            }
            match self.transport {
                Transport::WebSocket => self.early = true,
                Transport::Http => self.left = true,
            }
        }
        match new.next(moment).await {
            Heard::Message(message) => {
                self.note(Place::New, &message);
                Some((Place::New, message))
            }
            _ => None,
        }
    }
}

fn is_final(status: ConnectionSettingsStatuses) -> bool {
    matches!(status, ConnectionSettingsStatuses::Applied | ConnectionSettingsStatuses::Failed)
}
