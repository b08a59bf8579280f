//! A look at an encoded `ServerToAgent`: for whom it is, and whether it says more than that it is one.

use opamp_proto::{InstanceUid, WireUid};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// What a gateway has to know of a `ServerToAgent`, found without decoding the rest.
///
/// Every message that can be decoded can be scanned, with the same values; what a gateway passes on
/// unseen is not checked.
///
/// ```
/// use opamp_proto::{Message as _, v1};
/// use opamp_server::gateway::ReplyScan;
///
/// let reply = v1::ServerToAgent { instance_uid: vec![7; 16].into(), ..Default::default() };
/// let encoded = reply.encode_to_vec();
/// let scan = ReplyScan::new(&encoded).unwrap();
/// assert_eq!(scan.instance_uid(), [7; 16]);
/// assert!(scan.is_bare());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyScan<'a> {
    instance_uid: &'a [u8],
    capabilities: u64,
    new_instance_uid: &'a [u8],
    says_more: bool,
}

impl<'a> ReplyScan<'a> {
    /// Scans an encoded `ServerToAgent`; `None` if its fields cannot be told apart, or one of those
    /// that are looked at is not what it has to be.
    #[must_use]
    pub fn new(mut body: &'a [u8]) -> Option<Self> {
        let mut scan =
            Self { instance_uid: &[], capabilities: 0, new_instance_uid: &[], says_more: false };
        while !body.is_empty() {
            let (tag, wire_type) = decode_key(&mut body).ok()?;
            match tag {
                1 => scan.instance_uid = content(wire_type, &mut body)?,
                7 if wire_type == WireType::Varint => {
                    scan.capabilities = decode_varint(&mut body).ok()?;
                }
                7 => return None,
                8 => {
                    scan.says_more = true;
                    scan.identification(content(wire_type, &mut body)?)?;
                }
                _ => {
                    scan.says_more = true;
                    skip(wire_type, tag, &mut body)?;
                }
            }
        }
        Some(scan)
    }

    /// `agent_identification` may occur twice; the two are merged.
    fn identification(&mut self, mut body: &'a [u8]) -> Option<()> {
        while !body.is_empty() {
            let (tag, wire_type) = decode_key(&mut body).ok()?;
            match tag {
                1 => self.new_instance_uid = content(wire_type, &mut body)?,
                _ => skip(wire_type, tag, &mut body)?,
            }
        }
        Some(())
    }

    /// The bytes of `instance_uid`; empty if it is missing.
    #[must_use]
    pub const fn instance_uid(&self) -> &'a [u8] {
        self.instance_uid
    }

    /// The uid the Agent is given, if it is one of 16 bytes (ID-14, reading A33).
    #[must_use]
    pub fn new_instance_uid(&self) -> Option<InstanceUid> {
        WireUid::new(self.new_instance_uid).ok()?.instance_uid()
    }

    /// `capabilities`; 0 if they are missing.
    #[must_use]
    pub const fn capabilities(&self) -> u64 {
        self.capabilities
    }

    /// Whether it acknowledges and says nothing else but the Server's mask.
    #[must_use]
    pub const fn is_bare(&self) -> bool {
        !self.says_more
    }

    /// Whether there is nothing in it but `instance_uid`.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        !self.says_more && self.capabilities == 0
    }
}

fn content<'a>(wire_type: WireType, body: &mut &'a [u8]) -> Option<&'a [u8]> {
    if wire_type != WireType::LengthDelimited {
        return None;
    }
    let length = usize::try_from(decode_varint(body).ok()?).ok()?;
    let (content, rest) = body.split_at_checked(length)?;
    *body = rest;
    Some(content)
}

fn skip(wire_type: WireType, tag: u32, body: &mut &[u8]) -> Option<()> {
    skip_field(wire_type, tag, body, DecodeContext::default()).ok()
}
