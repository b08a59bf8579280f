//! A message of an Agent, as far as a gateway reads it.

use bytes::Bytes;
use opamp_proto::WireUid;

use crate::core::{Malformed, Part, Refusal, Scan};

/// A message of an Agent, read. Reading it needs nothing of the gateway, so whoever keeps that
/// behind a lock does it before taking the lock.
///
/// A message that the Server would find malformed is found so here, although it is passed on as it
/// came: servers close connections on which too much is malformed, and on a shared one that would
/// punish all for one.
#[derive(Debug)]
pub struct FromAgent {
    pub(super) body: Bytes,
    pub(super) read: Result<Incoming, (Option<WireUid>, Refusal)>,
}

#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) uid: WireUid,
    pub(super) sequence_num: u64,
    pub(super) capabilities: u64,
    pub(super) described: bool,
    pub(super) goodbye: bool,
}

impl FromAgent {
    /// Reads an encoded `AgentToServer`, without the header of WebSocket messages.
    #[must_use]
    pub fn read(body: Bytes) -> Self {
        let read = Incoming::read(&body);
        Self { body, read }
    }

    /// A WebSocket message without the OpAMP header, or otherwise not what it should be.
    #[must_use]
    pub fn unreadable(why: &str) -> Self {
        let refusal = Refusal::malformed(format!("WebSocket message header: {why}"));
        Self { body: Bytes::new(), read: Err((None, refusal)) }
    }
}

impl Incoming {
    fn read(body: &[u8]) -> Result<Self, (Option<WireUid>, Refusal)> {
        let refuse = |fault: Malformed| (fault.uid().copied(), fault.into());
        let scan = Scan::new(body).map_err(refuse)?;
        let uid = WireUid::new(scan.instance_uid()).map_err(|error| {
            (None, Refusal::malformed(format!("AgentToServer.instance_uid: {error}")))
        })?;
        scan.validate().map_err(refuse)?;
        Ok(Self {
            uid,
            sequence_num: scan.sequence_num(),
            capabilities: scan.capabilities(),
            described: scan.part(Part::AgentDescription).is_some(),
            goodbye: scan.part(Part::AgentDisconnect).is_some(),
        })
    }
}
