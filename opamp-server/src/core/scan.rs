//! A look at an encoded `AgentToServer` that does not decode what it holds.
//!
//! Most reports repeat what the Server knows. To tell so, the sub-messages need not be decoded,
//! only found: a [`Scan`] has the message's scalar fields and, for each sub-message, its encoded
//! bytes. A scan whose parts are all [valid](Scan::validate) accepts and refuses exactly the bytes
//! that decoding the whole message would, and holds the same values; but it also refuses a part of
//! more than [`DEFAULT_MAX_ELEMENTS`] elements, before anything of it is decoded.

use std::fmt;

use bytes::{Buf, Bytes};
use opamp_proto::elements::{self, DEFAULT_MAX_ELEMENTS, MessageKind};
use opamp_proto::{DecodeError, Message, WireUid, v1};
use prost::encoding::{
    self, DecodeContext, WireType, check_wire_type, decode_key, decode_varint, skip_field,
};

use super::changes::Changes;
use super::custom::CustomCapabilities;
use super::offer::Reported;
use super::state::{AgentState, Parts};

/// A sub-message of `AgentToServer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Part {
    /// `agent_description`.
    AgentDescription,
    /// `health`.
    Health,
    /// `effective_config`.
    EffectiveConfig,
    /// `remote_config_status`.
    RemoteConfigStatus,
    /// `package_statuses`.
    PackageStatuses,
    /// `custom_capabilities`.
    CustomCapabilities,
    /// `available_components`.
    AvailableComponents,
    /// `connection_settings_status`.
    ConnectionSettingsStatus,
    /// `agent_disconnect`; it says something of the moment and is not kept.
    AgentDisconnect,
    /// `connection_settings_request`; it asks for something and is not kept.
    ConnectionSettingsRequest,
    /// `custom_message`; it is passed on and not kept.
    CustomMessage,
}

impl Part {
    /// The parts that describe the Agent's state: an omitted one keeps its value (DELTA-03).
    pub const STATE: [Self; 8] = [
        Self::AgentDescription,
        Self::Health,
        Self::EffectiveConfig,
        Self::RemoteConfigStatus,
        Self::PackageStatuses,
        Self::CustomCapabilities,
        Self::AvailableComponents,
        Self::ConnectionSettingsStatus,
    ];

    /// Every part.
    pub const ALL: [Self; 11] = [
        Self::AgentDescription,
        Self::Health,
        Self::EffectiveConfig,
        Self::RemoteConfigStatus,
        Self::PackageStatuses,
        Self::CustomCapabilities,
        Self::AvailableComponents,
        Self::ConnectionSettingsStatus,
        Self::AgentDisconnect,
        Self::ConnectionSettingsRequest,
        Self::CustomMessage,
    ];

    /// The number of the part's field.
    #[must_use]
    pub const fn tag(self) -> u32 {
        match self {
            Self::AgentDescription => 3,
            Self::Health => 5,
            Self::EffectiveConfig => 6,
            Self::RemoteConfigStatus => 7,
            Self::PackageStatuses => 8,
            Self::AgentDisconnect => 9,
            Self::ConnectionSettingsRequest => 11,
            Self::CustomCapabilities => 12,
            Self::CustomMessage => 13,
            Self::AvailableComponents => 14,
            Self::ConnectionSettingsStatus => 15,
        }
    }

    const fn from_tag(tag: u32) -> Option<Self> {
        Some(match tag {
            3 => Self::AgentDescription,
            5 => Self::Health,
            6 => Self::EffectiveConfig,
            7 => Self::RemoteConfigStatus,
            8 => Self::PackageStatuses,
            9 => Self::AgentDisconnect,
            11 => Self::ConnectionSettingsRequest,
            12 => Self::CustomCapabilities,
            13 => Self::CustomMessage,
            14 => Self::AvailableComponents,
            15 => Self::ConnectionSettingsStatus,
            _ => return None,
        })
    }

    /// The name of the part's field.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AgentDescription => "agent_description",
            Self::Health => "health",
            Self::EffectiveConfig => "effective_config",
            Self::RemoteConfigStatus => "remote_config_status",
            Self::PackageStatuses => "package_statuses",
            Self::CustomCapabilities => "custom_capabilities",
            Self::AvailableComponents => "available_components",
            Self::ConnectionSettingsStatus => "connection_settings_status",
            Self::AgentDisconnect => "agent_disconnect",
            Self::ConnectionSettingsRequest => "connection_settings_request",
            Self::CustomMessage => "custom_message",
        }
    }

    /// The place of the part in a table with one entry for each of [`ALL`](Self::ALL); the parts of
    /// [`STATE`](Self::STATE) come first.
    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// The change that a new value of this part is; none for parts that are not kept.
    pub(crate) fn change(self) -> Changes {
        match self {
            Self::AgentDescription => Changes::AGENT_DESCRIPTION,
            Self::Health => Changes::HEALTH,
            Self::EffectiveConfig => Changes::EFFECTIVE_CONFIG,
            Self::RemoteConfigStatus => Changes::REMOTE_CONFIG_STATUS,
            Self::PackageStatuses => Changes::PACKAGE_STATUSES,
            Self::CustomCapabilities => Changes::CUSTOM_CAPABILITIES,
            Self::AvailableComponents => Changes::AVAILABLE_COMPONENTS,
            Self::ConnectionSettingsStatus => Changes::CONNECTION_SETTINGS_STATUS,
            Self::AgentDisconnect | Self::ConnectionSettingsRequest | Self::CustomMessage => {
                Changes::empty()
            }
        }
    }

    /// Whether these bytes are what the whole message's decoder would accept as this part, and not
    /// too much to decode.
    pub(super) fn check(self, content: &[u8]) -> Result<(), Malformed> {
        self.check_shared(Bytes::copy_from_slice(content))
    }

    /// As [`check`](Self::check): what is long in it is not copied.
    fn check_shared(self, content: Bytes) -> Result<(), Malformed> {
        let in_part = |fault| Malformed { part: Some(self), ..fault };
        elements::check(self.kind(), &content, DEFAULT_MAX_ELEMENTS)
            .map_err(|error| in_part(Malformed::new(error.to_string())))?;
        self.decode(content).map_err(|error| in_part(error.into()))
    }

    const fn kind(self) -> MessageKind {
        match self {
            Self::AgentDescription => MessageKind::AgentDescription,
            Self::Health => MessageKind::ComponentHealth,
            Self::EffectiveConfig => MessageKind::EffectiveConfig,
            Self::RemoteConfigStatus => MessageKind::RemoteConfigStatus,
            Self::PackageStatuses => MessageKind::PackageStatuses,
            Self::CustomCapabilities => MessageKind::CustomCapabilities,
            Self::AvailableComponents => MessageKind::AvailableComponents,
            Self::ConnectionSettingsStatus => MessageKind::ConnectionSettingsStatus,
            Self::AgentDisconnect => MessageKind::AgentDisconnect,
            Self::ConnectionSettingsRequest => MessageKind::ConnectionSettingsRequest,
            Self::CustomMessage => MessageKind::CustomMessage,
        }
    }

    fn decode(self, content: Bytes) -> Result<(), DecodeError> {
        match self {
            Self::AgentDescription => decode::<v1::AgentDescription>(content),
            Self::Health => decode::<v1::ComponentHealth>(content),
            Self::EffectiveConfig => decode::<v1::EffectiveConfig>(content),
            Self::RemoteConfigStatus => decode::<v1::RemoteConfigStatus>(content),
            Self::PackageStatuses => decode::<v1::PackageStatuses>(content),
            Self::CustomCapabilities => decode::<v1::CustomCapabilities>(content),
            Self::AvailableComponents => decode::<v1::AvailableComponents>(content),
            Self::ConnectionSettingsStatus => decode::<v1::ConnectionSettingsStatus>(content),
            Self::AgentDisconnect => decode::<v1::AgentDisconnect>(content),
            Self::ConnectionSettingsRequest => decode::<v1::ConnectionSettingsRequest>(content),
            Self::CustomMessage => decode::<v1::CustomMessage>(content),
        }
    }
}

/// Decodes `content` one level below the top, with its length in front: the depth of nesting that
/// is left is then the same as in the decoding of the whole message.
fn decode<M: Message + Default>(content: Bytes) -> Result<(), DecodeError> {
    let mut prefix = [0_u8; 10];
    let mut unwritten = &mut prefix[..];
    encoding::encode_varint(content.len() as u64, &mut unwritten);
    let written = 10 - unwritten.len();
    let mut encoded = prefix[..written].chain(content);
    encoding::message::merge(
        WireType::LengthDelimited,
        &mut M::default(),
        &mut encoded,
        DecodeContext::default(),
    )
}

/// An encoded `AgentToServer` in its top-level fields.
///
/// ```
/// use opamp_server::core::{Part, Scan};
/// use opamp_proto::{Message as _, v1};
///
/// let report = v1::AgentToServer {
///     instance_uid: vec![7; 16].into(),
///     sequence_num: 1,
///     health: Some(v1::ComponentHealth { healthy: true, ..Default::default() }),
///     ..Default::default()
/// };
/// let encoded = report.encode_to_vec();
/// let scan = Scan::new(&encoded)?;
/// assert_eq!(scan.sequence_num(), 1);
/// assert!(scan.part(Part::Health).is_some());
/// assert!(scan.part(Part::AgentDescription).is_none());
/// # Ok::<(), opamp_server::core::Malformed>(())
/// ```
#[derive(Debug, Clone)]
pub struct Scan<'a> {
    instance_uid: &'a [u8],
    sequence_num: u64,
    capabilities: u64,
    flags: u64,
    /// Those the message has, so that a heartbeat costs no look at each.
    present: Parts,
    parts: [&'a [u8]; Part::ALL.len()],
    /// Those already known to be well formed.
    valid: Parts,
    /// Those put together of pieces that are well formed; in place of their first piece.
    merged: Vec<(Part, Vec<u8>)>,
    /// Empty, and nothing allocated, but for large parts.
    prepared: Vec<Prepared>,
    /// The custom message, if it is large.
    custom_message: Option<Box<v1::CustomMessage>>,
}

/// What is known of a large part before it is folded.
#[derive(Debug, Clone)]
struct Prepared {
    part: Part,
    /// What was kept of the Agent when that was found out. It is held on to, so that its address
    /// names it.
    held: Option<Bytes>,
    /// A copy to be kept; `None` if what was kept is the same.
    copy: Option<Bytes>,
    reported: Option<Reported>,
}

impl<'a> Scan<'a> {
    /// Finds the fields of an encoded message.
    ///
    /// The parts themselves are not looked at; see [`validate`](Self::validate). Unknown fields are
    /// skipped, and of a scalar that occurs twice the last value counts, as decoding has it.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if the message cannot be decoded whatever its parts hold.
    pub fn new(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut scan = Self::empty();
        scan.read(body)?;
        Ok(scan)
    }

    /// The scan of a message without fields.
    pub(crate) const fn empty() -> Self {
        Self {
            instance_uid: &[],
            sequence_num: 0,
            capabilities: 0,
            flags: 0,
            present: Parts::NONE,
            parts: [&[]; Part::ALL.len()],
            valid: Parts::NONE,
            merged: Vec::new(),
            prepared: Vec::new(),
            custom_message: None,
        }
    }

    /// As [`new`](Self::new), for a scan that is [empty](Self::empty) and need not be moved then.
    pub(crate) fn read(&mut self, body: &'a [u8]) -> Result<(), Malformed> {
        let mut rest = body;
        while !rest.is_empty() {
            let offset = body.len() - rest.len();
            if let Err(fault) = self.field(&mut rest) {
                return Err(Malformed { offset: Some(offset), uid: self.readable_uid(), ..fault });
            }
        }
        Ok(())
    }

    fn field(&mut self, rest: &mut &'a [u8]) -> Result<(), Malformed> {
        let (tag, wire_type) = decode_key(rest)?;
        match tag {
            1 => self.instance_uid = length_delimited(wire_type, rest)?,
            2 => self.sequence_num = varint(wire_type, rest)?,
            4 => self.capabilities = varint(wire_type, rest)?,
            10 => self.flags = varint(wire_type, rest)?,
            _ => match Part::from_tag(tag) {
                Some(part) => {
                    let content = length_delimited(wire_type, rest)
                        .map_err(|fault| Malformed { part: Some(part), ..fault })?;
                    self.add(part, content)?;
                }
                None => skip_field(wire_type, tag, rest, DecodeContext::default())?,
            },
        }
        Ok(())
    }

    /// A sub-message that occurs twice is merged, which for encoded bytes is to append them. Each
    /// piece has to be well formed on its own, or two broken halves could make a whole; and the
    /// whole is still to be checked, as pieces that are small make a whole that need not be.
    fn add(&mut self, part: Part, content: &'a [u8]) -> Result<(), Malformed> {
        if !self.present.has(part) {
            self.present.add(part);
            self.parts[part.index()] = content;
            return Ok(());
        }
        let index = match self.merged.iter().position(|(merged, _)| *merged == part) {
            Some(index) => index,
            None => {
                // Once only, or many small pieces after a large one would take for ever.
                let first = self.parts[part.index()];
                part.check(first)?;
                self.merged.push((part, first.to_vec()));
                self.merged.len() - 1
            }
        };
        part.check(content)?;
        self.merged[index].1.extend_from_slice(content);
        Ok(())
    }

    /// The bytes of `instance_uid`; empty if it is missing.
    #[must_use]
    pub const fn instance_uid(&self) -> &'a [u8] {
        self.instance_uid
    }

    /// `sequence_num`.
    #[must_use]
    pub const fn sequence_num(&self) -> u64 {
        self.sequence_num
    }

    /// `capabilities`; 0 means unchanged.
    #[must_use]
    pub const fn capabilities(&self) -> u64 {
        self.capabilities
    }

    /// `flags`.
    #[must_use]
    pub const fn flags(&self) -> u64 {
        self.flags
    }

    /// The encoded bytes of a part, or `None` if the message does not have it.
    #[must_use]
    pub fn part(&self, part: Part) -> Option<&[u8]> {
        if !self.present.has(part) {
            return None;
        }
        let merged = self.merged.iter().find(|(merged, _)| *merged == part);
        Some(merged.map_or(self.parts[part.index()], |(_, whole)| whole))
    }

    /// Whether the message has a part that is kept.
    pub(crate) fn has_state(&self) -> bool {
        self.present.intersects(Parts::STATE)
    }

    /// The parts the message has.
    pub(super) const fn present(&self) -> Parts {
        self.present
    }

    fn present_parts(&self) -> impl Iterator<Item = (Part, &[u8])> {
        self.present.iter().filter_map(|part| Some((part, self.part(part)?)))
    }

    /// Checks the parts that are longer than `threshold` bytes, so that whoever folds them under a
    /// lock need not.
    ///
    /// # Errors
    ///
    /// [`Malformed`] names the first part that is not well formed or has too many elements.
    pub fn validate_longer_than(&mut self, threshold: usize) -> Result<(), Malformed> {
        for part in self.present.iter() {
            if self.part(part).is_some_and(|content| content.len() > threshold) {
                self.validate_part(part)?;
                self.valid.add(part);
            }
        }
        Ok(())
    }

    /// Does the rest of what takes long about parts that are longer than `threshold` bytes, so that
    /// whoever folds them under a lock need not: compares them with what is kept of the Agent,
    /// copies them, and reads what they report. They have to be valid; those of more than `most`
    /// bytes, which will not be kept, are left alone.
    pub(crate) fn prepare(&mut self, threshold: usize, most: usize, kept: Option<&AgentState>) {
        for part in Part::STATE {
            let is_large = |content: &&[u8]| (threshold + 1..=most).contains(&content.len());
            let Some(content) = self.part(part).filter(is_large) else { continue };
            let held = kept.and_then(|kept| kept.encoded(part)).cloned();
            let same = held.as_ref().is_some_and(|held| held == content);
            let copy = (!same).then(|| Bytes::copy_from_slice(content));
            let reported = copy.as_ref().and_then(|copy| Reported::read(part, copy));
            self.prepared.push(Prepared { part, held, copy, reported });
        }
        if self.part(Part::CustomMessage).is_some_and(|content| content.len() > threshold) {
            self.custom_message = self.decode_custom_message().map(Box::new);
        }
    }

    fn decode_custom_message(&self) -> Option<v1::CustomMessage> {
        let content = self.part(Part::CustomMessage)?;
        v1::CustomMessage::decode(Bytes::copy_from_slice(content)).ok()
    }

    /// The custom message, if its capability is one of these.
    pub(super) fn custom_message(&self, known: &CustomCapabilities) -> Option<v1::CustomMessage> {
        let is_known = |message: &v1::CustomMessage| known.contains(&message.capability);
        match self.custom_message.as_deref() {
            Some(message) => Some(message).filter(|it| is_known(it)).cloned(),
            None => self.decode_custom_message().filter(is_known),
        }
    }

    /// Whether any part is longer than `threshold` bytes.
    pub(crate) fn has_longer_than(&self, threshold: usize) -> bool {
        self.present_parts().any(|(_, content)| content.len() > threshold)
    }

    fn prepared(&self, part: Part) -> Option<&Prepared> {
        self.prepared.iter().find(|prepared| prepared.part == part)
    }

    /// Whether a part says what is kept of it already.
    pub(super) fn repeats(&self, part: Part, held: &Bytes) -> bool {
        let is_held = |it: &Bytes| it.as_ptr() == held.as_ptr() && it.len() == held.len();
        match self.prepared(part) {
            Some(Prepared { held: Some(it), copy, .. }) if is_held(it) => copy.is_none(),
            _ => self.part(part).is_some_and(|content| held == content),
        }
    }

    /// A part as it is to be kept: checked, in an allocation of exactly its size.
    pub(super) fn copy(&self, part: Part) -> Result<Option<Bytes>, Malformed> {
        let Some(content) = self.part(part) else { return Ok(None) };
        let prepared = self.prepared(part).and_then(|prepared| prepared.copy.clone());
        let copy = prepared.unwrap_or_else(|| Bytes::copy_from_slice(content));
        if !self.valid.has(part) {
            part.check_shared(copy.clone()).map_err(|fault| self.faulty(fault))?;
        }
        Ok(Some(copy))
    }

    /// What a part reports of an offer, if it was read already.
    pub(super) fn reported(&self, part: Part) -> Option<Reported> {
        self.prepared(part)?.reported.clone()
    }

    /// Checks every part.
    ///
    /// # Errors
    ///
    /// [`Malformed`] names the first part that is not well formed or has too many elements.
    pub fn validate(&self) -> Result<(), Malformed> {
        self.present.iter().try_for_each(|part| self.validate_part(part))
    }

    /// Checks one part unless that was done before.
    pub(super) fn validate_part(&self, part: Part) -> Result<(), Malformed> {
        if self.valid.has(part) {
            return Ok(());
        }
        let Some(content) = self.part(part) else { return Ok(()) };
        part.check(content).map_err(|fault| self.faulty(fault))
    }

    fn faulty(&self, fault: Malformed) -> Malformed {
        Malformed { uid: self.readable_uid(), ..fault }
    }

    /// Checks every part, and none of them again later.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate).
    pub(crate) fn validate_once(&mut self) -> Result<(), Malformed> {
        // Of an empty part there is nothing to check.
        self.validate_longer_than(0)
    }

    fn readable_uid(&self) -> Option<WireUid> {
        WireUid::new(self.instance_uid).ok()
    }
}

fn length_delimited<'a>(wire_type: WireType, rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    check_wire_type(WireType::LengthDelimited, wire_type)?;
    let length = decode_varint(rest)?;
    let split = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
    let Some((content, after)) = split else {
        return Err(Malformed::new(format!("a length of {length} reaches beyond the message")));
    };
    *rest = after;
    Ok(content)
}

fn varint(wire_type: WireType, rest: &mut &[u8]) -> Result<u64, DecodeError> {
    check_wire_type(WireType::Varint, wire_type)?;
    decode_varint(rest)
}

/// What is wrong with a message, and where: the text for `ServerErrorResponse.error_message`
/// (ERR-13).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    part: Option<Part>,
    offset: Option<usize>,
    uid: Option<WireUid>,
    what: String,
}

impl Malformed {
    fn new(what: String) -> Self {
        Self { part: None, offset: None, uid: None, what }
    }

    /// The Agent's identifier, if it could be read before the fault was met.
    #[must_use]
    pub const fn uid(&self) -> Option<&WireUid> {
        self.uid.as_ref()
    }
}

impl From<DecodeError> for Malformed {
    fn from(error: DecodeError) -> Self {
        let text = error.to_string();
        let what = text.strip_prefix("failed to decode Protobuf message: ").unwrap_or(&text);
        Self::new(what.to_owned())
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgentToServer")?;
        if let Some(part) = self.part {
            write!(f, ".{}", part.name())?;
        }
        if let Some(offset) = self.offset {
            write!(f, ", field at byte {offset}")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl std::error::Error for Malformed {}
