//! Custom capabilities and messages of the reference client.

use std::collections::VecDeque;

use opamp_proto::v1::{CustomCapabilities, CustomMessage};

use crate::reference::Faults;

/// How many custom messages wait to be sent.
const MAX_WAITING: usize = 16;

/// What both ends can say beyond the protocol.
#[derive(Debug)]
pub(super) struct Custom {
    own: Vec<String>,
    /// What the server announced last.
    server: Vec<String>,
    waiting: VecDeque<CustomMessage>,
}

impl Custom {
    pub(super) fn new(faults: &Faults) -> Self {
        let name = if faults.has("custom-capability-has-a-plain-name") { "echo" } else { ECHO };
        Self { own: vec![name.to_owned()], server: Vec::new(), waiting: VecDeque::new() }
    }

    /// What is to be announced.
    pub(super) fn own(&self) -> CustomCapabilities {
        CustomCapabilities { capabilities: self.own.clone() }
    }

    pub(super) fn announce(&mut self, capabilities: &[String]) {
        self.own = capabilities.to_vec();
    }

    /// Takes in what the server announced; a list holds until the next (A31).
    pub(super) fn heard(&mut self, announced: CustomCapabilities, faults: &Faults) {
        if faults.has("custom-capabilities-add-up") {
            self.server.extend(announced.capabilities);
            self.server.truncate(MAX_WAITING);
        } else {
            self.server = announced.capabilities;
        }
    }

    /// Queues a message, if both ends know what it belongs to.
    pub(super) fn send(
        &mut self,
        mut message: CustomMessage,
        faults: &Faults,
    ) -> Result<(), String> {
        if faults.has("custom-messages-are-never-sent") {
            return Ok(());
        }
        if faults.has("custom-data-is-read-as-text") {
            message.data = String::from_utf8_lossy(&message.data).into_owned().into();
        }
        let knows = |list: &[String]| list.contains(&message.capability);
        if !knows(&self.own) && !faults.has("custom-message-without-own-capability") {
            return Err(format!("{} is not announced", message.capability));
        }
        if !knows(&self.server) && !faults.has("custom-message-without-the-servers-capability") {
            return Err(format!("the server does not know {}", message.capability));
        }
        if self.waiting.len() >= MAX_WAITING {
            return Err("too many messages wait".to_owned());
        }
        self.waiting.push_back(message);
        Ok(())
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn next(&mut self) -> Option<CustomMessage> {
        self.waiting.pop_front()
    }
}

/// The capability it has from the start.
const ECHO: &str = "com.example.reference.echo";
