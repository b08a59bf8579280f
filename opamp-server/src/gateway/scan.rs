//! A look at an encoded `ServerToAgent`: for whom it is, and whether it says more than that it is
//! one.

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
    gist: Gist,
}

/// Which fields a message has, and which flags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Gist {
    /// One bit for each field by its number; the highest stands for all that are not known.
    fields: u32,
    flags: u64,
}

const INSTANCE_UID: u32 = 1;
const ERROR_RESPONSE: u32 = 2;
const FLAGS: u32 = 6;
const CAPABILITIES: u32 = 7;
const AGENT_IDENTIFICATION: u32 = 8;
const UNKNOWN: u32 = 31;

/// The fields that say what is so: remote_config, connection_settings, packages_available,
/// custom_capabilities and those above. Not errors, commands, custom messages, and what is unknown.
const STATES: u32 = fields(&[INSTANCE_UID, 3, 4, 5, FLAGS, CAPABILITIES, AGENT_IDENTIFICATION, 10]);

const fn fields(numbers: &[u32]) -> u32 {
    let (mut bits, mut index) = (0, 0);
    while index < numbers.len() {
        bits |= 1 << numbers[index];
        index += 1;
    }
    bits
}

impl Gist {
    /// Whether an earlier message says nothing that this one does not say anew (RETRY-09).
    pub(super) const fn replaces(self, earlier: Self) -> bool {
        earlier.fields & !(self.fields & STATES) == 0 && earlier.flags & !self.flags == 0
    }
}

impl<'a> ReplyScan<'a> {
    /// Scans an encoded `ServerToAgent`; `None` if its fields cannot be told apart, or one of those
    /// that are looked at is not what it has to be.
    #[must_use]
    pub fn new(mut body: &'a [u8]) -> Option<Self> {
        let mut scan = Self {
            instance_uid: &[],
            capabilities: 0,
            new_instance_uid: &[],
            gist: Gist::default(),
        };
        while !body.is_empty() {
            let (tag, wire_type) = decode_key(&mut body).ok()?;
            scan.gist.fields |= 1 << tag.min(UNKNOWN);
            match tag {
                INSTANCE_UID => scan.instance_uid = content(wire_type, &mut body)?,
                FLAGS => scan.gist.flags = number(wire_type, &mut body)?,
                CAPABILITIES => scan.capabilities = number(wire_type, &mut body)?,
                AGENT_IDENTIFICATION => scan.identification(content(wire_type, &mut body)?)?,
                _ => skip(wire_type, tag, &mut body)?,
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

    /// Whether it has an `error_response`.
    #[must_use]
    pub const fn is_error(&self) -> bool {
        self.gist.fields & fields(&[ERROR_RESPONSE]) != 0
    }

    /// Whether it acknowledges and says nothing else but the Server's mask.
    #[must_use]
    pub const fn is_bare(&self) -> bool {
        self.gist.fields & !fields(&[INSTANCE_UID, FLAGS, CAPABILITIES]) == 0
            && self.gist.flags == 0
    }

    /// Whether there is nothing in it but `instance_uid`.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.is_bare() && self.capabilities == 0
    }

    pub(super) const fn gist(&self) -> Gist {
        self.gist
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

fn number(wire_type: WireType, body: &mut &[u8]) -> Option<u64> {
    match wire_type {
        WireType::Varint => decode_varint(body).ok(),
        _ => None,
    }
}

fn skip(wire_type: WireType, tag: u32, body: &mut &[u8]) -> Option<()> {
    skip_field(wire_type, tag, body, DecodeContext::default()).ok()
}
