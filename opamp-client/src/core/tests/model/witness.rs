//! Watches every message of the client and asks what it is good for.
//!
//! It knows what happened, not how the core works: a part of the status may be sent if it changed,
//! if its last message may not have arrived or was refused, or if the server asked for everything;
//! a message without any part has to open a connection, tell another mask, be due as a heartbeat,
//! or repeat a failed request. Anything else is chatter (STATUS-14, STATUS-15).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use opamp_proto::{AgentCapabilities, ServerCapabilities, components_hash, v1};

use crate::core::{ClientConfig, ClientCore, Parts, Transport};

pub(super) struct Witness {
    start: Instant,
    heartbeat_interval: Option<Duration>,
    full_state_interval: Duration,
    reply_timeout: Duration,
    status: v1::AgentToServer,
    last_number: u64,
    last_message: Option<Instant>,
    last_report: Option<Instant>,
    /// Parts that have a reason to be sent.
    reasons: Parts,
    /// Parts that were sent, and not surely received.
    unproven: Parts,
    /// The server asked for full state since the last full report.
    asked: bool,
    full_reports: u32,
    /// The server asked for the components since they were last told.
    components_asked: bool,
    components_told: u32,
    /// Custom messages that may be sent.
    custom: Vec<v1::CustomMessage>,
    /// The next message is the first of a connection, or repeats a failed request.
    opening: bool,
    /// Every message on this connection was answered, by an acknowledgement alone.
    orderly: bool,
    stopping: bool,
    may_say_goodbye: bool,
    said_goodbye: bool,
    answer_timeout: Option<Duration>,
    /// Since when nothing on this connection is surely answered.
    pub(super) unanswered_since: Option<Instant>,
    pub(super) messages: u64,
}

impl Witness {
    pub(super) fn new(config: &ClientConfig, core: &ClientCore, now: Instant) -> Self {
        let full_state_interval = config.heartbeat_interval.unwrap_or(config.polling_interval);
        Self {
            start: now,
            heartbeat_interval: match config.transport {
                Transport::WebSocket => config.heartbeat_interval,
                Transport::Http => Some(config.polling_interval),
            },
            full_state_interval,
            reply_timeout: config.reply_timeout,
            status: core.status().clone(),
            last_number: core.sequence_num(),
            last_message: None,
            last_report: None,
            reasons: Parts::all(),
            unproven: Parts::empty(),
            asked: false,
            full_reports: 0,
            components_asked: false,
            components_told: 0,
            custom: Vec::new(),
            opening: true,
            orderly: true,
            stopping: false,
            may_say_goodbye: false,
            said_goodbye: false,
            answer_timeout: config.answer_timeout,
            unanswered_since: None,
            messages: 0,
        }
    }

    /// Something was done to the core: what changed has a reason to be sent.
    pub(super) fn look(&mut self, core: &ClientCore) {
        let now = core.status();
        let (was, parts) = (&self.status, &mut self.reasons);
        parts.set_if(Parts::DESCRIPTION, was.agent_description != now.agent_description);
        parts.set_if(Parts::HEALTH, was.health != now.health);
        parts.set_if(Parts::EFFECTIVE_CONFIG, was.effective_config != now.effective_config);
        parts.set_if(
            Parts::REMOTE_CONFIG_STATUS,
            was.remote_config_status != now.remote_config_status,
        );
        parts.set_if(
            Parts::AVAILABLE_COMPONENTS,
            was.available_components != now.available_components,
        );
        parts
            .set_if(Parts::CUSTOM_CAPABILITIES, was.custom_capabilities != now.custom_capabilities);
        parts.set_if(Parts::CAPABILITIES, was.capabilities != now.capabilities);
        self.status = now.clone();
    }

    /// The application has this to send.
    pub(super) fn may_send(&mut self, message: v1::CustomMessage) {
        self.custom.push(message);
    }

    pub(super) fn connected(&mut self) {
        self.opening = true;
        self.orderly = true;
        self.said_goodbye = false;
        self.unanswered_since = None;
    }

    /// The connection, or the exchange, is over: what was not surely received may be sent again.
    pub(super) fn lost(&mut self) {
        self.reasons |= std::mem::take(&mut self.unproven);
        self.opening = true;
    }

    /// The server may have forgotten the agent, because it was told goodbye.
    pub(super) fn left(&mut self) {
        self.lost();
        self.reasons = Parts::all();
    }

    pub(super) fn stopping(&mut self) {
        self.stopping = true;
        self.may_say_goodbye = true;
        self.reasons |= self.unproven;
    }

    /// A message of the server reaches the client. `answers_all` says whether it is the answer to
    /// the last message sent.
    pub(super) fn received(
        &mut self,
        message: &v1::ServerToAgent,
        answers_all: bool,
        transport: Transport,
        before: Option<ServerCapabilities>,
        after: Option<ServerCapabilities>,
    ) {
        if message.instance_uid == self.status.instance_uid {
            self.unanswered_since = None;
        }
        if let Some(error) = &message.error_response {
            if error.r#type == v1::ServerErrorResponseType::Unavailable as i32 {
                self.may_say_goodbye = true;
                self.lost();
            }
            // What was refused may go along with another report.
            self.reasons |= self.unproven;
            self.orderly = false;
            return;
        }
        if message.flags & v1::ServerToAgentFlags::ReportFullState as u64 != 0 {
            self.asked = true;
        }
        if message.flags & v1::ServerToAgentFlags::ReportAvailableComponents as u64 != 0 {
            self.components_asked = true;
        }
        if lacks_effective_config(before) && !lacks_effective_config(after) {
            self.reasons |= Parts::EFFECTIVE_CONFIG;
        }
        let acknowledgement = v1::ServerToAgent {
            instance_uid: self.status.instance_uid.clone(),
            capabilities: message.capabilities,
            ..Default::default()
        };
        if *message != acknowledgement && transport == Transport::WebSocket {
            self.orderly = false;
        }
        if answers_all && self.orderly {
            self.unproven = Parts::empty();
        }
    }

    /// Something else than one answer to one message reaches the client.
    pub(super) fn disorder(&mut self) {
        self.orderly = false;
    }

    /// The client sends a message.
    pub(super) fn sent(&mut self, message: &v1::AgentToServer, core: &ClientCore, now: Instant) {
        self.messages += 1;
        assert_eq!(message.sequence_num, self.last_number + 1, "SEQ-01");
        self.last_number = message.sequence_num;
        assert_eq!(message.instance_uid, core.instance_uid().to_bytes(), "ID-13");
        let capabilities = AgentCapabilities::from_bits(message.capabilities).expect("CAP-01");
        assert!(capabilities.contains(AgentCapabilities::REPORTS_STATUS), "CAP-06");
        assert_eq!(capabilities, core.capabilities(), "CAP-02");
        assert!(!self.said_goodbye, "CLOSE-01: nothing follows a goodbye");

        let withheld = match lacks_effective_config(core.server_capabilities()) {
            true => Parts::EFFECTIVE_CONFIG,
            false => Parts::empty(),
        };
        let parts = Parts::all().present_in(message) - Parts::CAPABILITIES;
        assert!(!parts.intersects(withheld), "INTEROP-04");
        let details = message.available_components.as_ref().map(|it| &it.components);
        if let Some(details) = details.filter(|details| !details.is_empty()) {
            self.components_told(details, core, now);
        }
        for part in parts.iter() {
            let (mut told, mut whole) = <(v1::AgentToServer, v1::AgentToServer)>::default();
            part.copy(message, &mut told);
            part.copy(core.status(), &mut whole);
            if let Some(told) = &mut told.available_components {
                told.components.clear();
            }
            assert_eq!(told, whole, "DELTA-02");
        }

        if self.last_report.is_some_and(|at| now >= at + self.reply_timeout) {
            self.reasons |= self.unproven;
        }
        if message.agent_disconnect.is_some() {
            assert!(parts.is_empty());
            let unanswered = self.unanswered_since.zip(self.answer_timeout);
            let gives_up = unanswered.is_some_and(|(since, timeout)| now >= since + timeout);
            assert!(self.may_say_goodbye || gives_up, "a goodbye without a reason");
            self.said_goodbye = true;
            self.may_say_goodbye = false;
        } else if let Some(custom) = &message.custom_message {
            assert!(parts.is_empty(), "CUST-13: in a message of its own");
            assert!(self.custom.contains(custom), "a custom message nobody sent");
        } else if parts.is_empty() {
            let beat = self
                .heartbeat_interval
                .is_some_and(|interval| self.last_message.is_none_or(|at| now >= at + interval));
            let other_mask = self.reasons.contains(Parts::CAPABILITIES);
            assert!(self.opening || other_mask || beat, "an idle message without a reason");
        } else {
            let everything =
                Parts::all().present_in(core.status()) - Parts::CAPABILITIES - withheld;
            if !self.reasons.contains(parts) {
                let unfounded = parts - self.reasons;
                assert!(self.asked && parts == everything, "{unfounded:?} without a reason");
                self.asked = false;
                self.full_reports += 1;
                assert!(self.within_ration(self.full_reports, now), "too many full reports");
            }
            self.last_report = Some(now);
        }
        self.reasons -= parts | Parts::CAPABILITIES;
        self.unproven |= parts | Parts::CAPABILITIES;
        self.opening = false;
        self.unanswered_since.get_or_insert(now);
        self.last_message = Some(now);
    }
}

impl Witness {
    /// The components themselves go along: only who asks is told.
    fn components_told(
        &mut self,
        details: &BTreeMap<String, v1::ComponentDetails>,
        core: &ClientCore,
        now: Instant,
    ) {
        assert!(std::mem::take(&mut self.components_asked), "COMP-07: nobody asked for them");
        let hash = core.status().available_components.as_ref().map(|it| &it.hash);
        assert_eq!(hash, Some(&components_hash(details)), "COMP-06");
        // A reason for the part, with or without another hash.
        self.reasons |= Parts::AVAILABLE_COMPONENTS;
        self.components_told += 1;
        assert!(self.within_ration(self.components_told, now), "the components too often");
    }

    /// Three at once, then one for each interval.
    fn within_ration(&self, count: u32, now: Instant) -> bool {
        let intervals = (now - self.start).as_secs() / self.full_state_interval.as_secs();
        u64::from(count) <= 3 + intervals
    }
}

fn lacks_effective_config(capabilities: Option<ServerCapabilities>) -> bool {
    capabilities.is_some_and(|known| !known.contains(ServerCapabilities::ACCEPTS_EFFECTIVE_CONFIG))
}

trait SetIf {
    fn set_if(&mut self, part: Parts, condition: bool);
}

impl SetIf for Parts {
    fn set_if(&mut self, part: Parts, condition: bool) {
        if condition {
            self.insert(part);
        }
    }
}
