//! What an Agent reported, kept as the bytes it reported it in.
//!
//! An omitted part keeps its value (DELTA-03). A part that arrives with the bytes it had before is
//! unchanged and costs a comparison; a changed one is validated before anything is stored, and then
//! kept as an allocation of exactly its size, so that neither a large receive buffer is pinned nor
//! unknown fields are lost. Decoding happens when somebody asks.

use std::sync::Arc;

use bytes::Bytes;
use opamp_proto::{AgentCapabilities, Message, v1};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::changes::Changes;
use super::reply::Refusal;
use super::scan::{Part, Scan};

/// A set of parts.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parts(u16);

impl Parts {
    pub(super) const NONE: Self = Self(0);

    /// The parts of [`Part::STATE`], which come first.
    pub(super) const STATE: Self = Self((1 << Part::STATE.len()) - 1);

    pub(super) fn add(&mut self, part: Part) {
        self.0 |= 1 << part.index();
    }

    pub(super) fn has(self, part: Part) -> bool {
        self.0 & (1 << part.index()) != 0
    }

    /// How many of the others come before this one.
    fn before(self, part: Part) -> usize {
        (self.0 & ((1 << part.index()) - 1)).count_ones() as usize
    }

    pub(super) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn covers(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(super) const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Part> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            // When none is left, that is the number of all bits, which are more than there are
            // parts.
            let part = Part::ALL.get(left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(*part)
        })
    }
}

/// As they are written: by the bits of their fields' numbers.
impl Parts {
    pub(super) fn to_tags(self) -> u32 {
        self.iter().fold(0, |tags, part| tags | 1 << part.tag())
    }

    pub(super) fn from_tags(tags: u32) -> Self {
        Part::ALL.into_iter().filter(|part| tags & (1 << part.tag()) != 0).collect()
    }
}

impl FromIterator<Part> for Parts {
    fn from_iter<I: IntoIterator<Item = Part>>(parts: I) -> Self {
        let mut set = Self::default();
        parts.into_iter().for_each(|part| set.add(part));
        set
    }
}

/// The last reported value of each part of an Agent's state, and its capabilities.
///
/// Clones share the bytes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct AgentState {
    capabilities: AgentCapabilities,
    /// Those that were reported, in the order of [`Part::STATE`]: most Agents report few.
    parts: Arc<[Bytes]>,
    /// Which ones these are.
    held: Parts,
}

/// What a message brings of each part.
type News = [Option<Bytes>; Part::STATE.len()];

/// What an Agent has told of its components.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ComponentsTold<'a> {
    /// The components themselves.
    pub(crate) whole: bool,
    pub(crate) hash: &'a [u8],
}

impl ComponentsTold<'_> {
    pub(crate) const fn is_hash_alone(&self) -> bool {
        !self.whole && !self.hash.is_empty()
    }
}

/// What folding a message into the state found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Folded {
    pub(super) present: Parts,
    pub(super) changes: Changes,
}

impl AgentState {
    /// Takes over what the message reports, or nothing of it if any part is malformed.
    pub(super) fn fold(&mut self, scan: &Scan<'_>, max_retained: usize) -> Result<Folded, Refusal> {
        let present = scan.present();
        let mut changes = match present == Parts::NONE {
            true => Changes::empty(),
            false => self.fold_parts(scan, max_retained)?,
        };
        let capabilities = AgentCapabilities::from_bits_retain(scan.capabilities());
        if !capabilities.is_empty() && capabilities != self.capabilities {
            self.capabilities = capabilities;
            changes |= Changes::CAPABILITIES;
        }
        Ok(Folded { present, changes })
    }

    fn fold_parts(&mut self, scan: &Scan<'_>, max_retained: usize) -> Result<Changes, Refusal> {
        let mut changes = Changes::empty();
        let mut news = News::default();
        for part in scan.present().iter() {
            let held = self.encoded(part);
            if held.is_some_and(|held| scan.repeats(part, held)) {
                continue;
            }
            match news.get_mut(part.index()) {
                Some(new) => {
                    *new = scan.copy(part)?;
                    changes |= part.change();
                }
                // It is not kept.
                None => scan.validate_part(part)?,
            }
        }
        if !changes.is_empty() {
            self.check_room(scan, max_retained)?;
            self.keep(news);
        }
        Ok(changes)
    }

    /// Takes over what was written of an earlier process's Agent.
    pub(super) fn restore_capabilities(&mut self, capabilities: AgentCapabilities) {
        self.capabilities = capabilities;
    }

    /// Takes over a valid part; nothing for one that is not kept.
    pub(super) fn restore_part(&mut self, part: Part, content: &[u8]) {
        let mut news = News::default();
        if let Some(new) = news.get_mut(part.index()) {
            *new = Some(Bytes::copy_from_slice(content));
            self.keep(news);
        }
    }

    /// Keeps parts in place of what was kept of them.
    fn keep(&mut self, news: News) {
        let added = Part::STATE.into_iter().zip(&news).filter(|(_, new)| new.is_some());
        let added: Parts = added.map(|(part, _)| part).collect();
        let news = Part::STATE.into_iter().zip(news);
        if self.held.covers(added) {
            let parts = Arc::make_mut(&mut self.parts);
            for (part, new) in news {
                if let (Some(new), Some(kept)) = (new, parts.get_mut(self.held.before(part))) {
                    *kept = new;
                }
            }
        } else {
            let parts = news.filter_map(|(part, new)| new.or_else(|| self.encoded(part).cloned()));
            self.parts = parts.collect();
            self.held = self.held.with(added);
        }
    }

    /// The bytes that are kept once the message is taken over, unless they are too many.
    pub(crate) fn check_room(
        &self,
        scan: &Scan<'_>,
        max_retained: usize,
    ) -> Result<usize, Refusal> {
        let of = |part| scan.part(part).map_or_else(|| self.held(part), <[u8]>::len);
        let retained = Part::STATE.into_iter().map(of).sum();
        if retained > max_retained {
            return Err(Refusal::state_too_large(retained, max_retained));
        }
        Ok(retained)
    }

    fn held(&self, part: Part) -> usize {
        self.encoded(part).map_or(0, Bytes::len)
    }

    /// The bytes kept for this Agent's parts.
    #[must_use]
    pub fn retained_bytes(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    /// The last reported mask, undefined bits included; empty if none was ever reported.
    #[must_use]
    pub const fn capabilities(&self) -> AgentCapabilities {
        self.capabilities
    }

    /// A part as the Agent encoded it, unknown fields included. `None` if it was never reported,
    /// and for parts that are not of the [`STATE`](Part::STATE).
    #[must_use]
    pub fn encoded(&self, part: Part) -> Option<&Bytes> {
        self.parts.get(self.held.before(part)).filter(|_| self.held.has(part))
    }

    /// A stored part was validated, so the decoding fails for none that is there.
    fn decode<M: Message + Default>(&self, part: Part) -> Option<M> {
        M::decode(self.encoded(part)?.clone()).ok()
    }

    /// Decodes the last reported `agent_description`.
    #[must_use]
    pub fn agent_description(&self) -> Option<v1::AgentDescription> {
        self.decode(Part::AgentDescription)
    }

    /// Decodes the last reported `health`.
    #[must_use]
    pub fn health(&self) -> Option<v1::ComponentHealth> {
        self.decode(Part::Health)
    }

    /// Decodes the last reported `effective_config`.
    #[must_use]
    pub fn effective_config(&self) -> Option<v1::EffectiveConfig> {
        self.decode(Part::EffectiveConfig)
    }

    /// Decodes the last reported `remote_config_status`.
    #[must_use]
    pub fn remote_config_status(&self) -> Option<v1::RemoteConfigStatus> {
        self.decode(Part::RemoteConfigStatus)
    }

    /// Decodes the last reported `package_statuses`.
    #[must_use]
    pub fn package_statuses(&self) -> Option<v1::PackageStatuses> {
        self.decode(Part::PackageStatuses)
    }

    /// Decodes the last reported `custom_capabilities`.
    #[must_use]
    pub fn custom_capabilities(&self) -> Option<v1::CustomCapabilities> {
        self.decode(Part::CustomCapabilities)
    }

    /// Decodes the last reported `available_components`.
    #[must_use]
    pub fn available_components(&self) -> Option<v1::AvailableComponents> {
        self.decode(Part::AvailableComponents)
    }

    /// Whether components were told, and their hash, without decoding what may be large.
    pub(crate) fn components_told(&self) -> Option<ComponentsTold<'_>> {
        let mut rest = &self.encoded(Part::AvailableComponents)?[..];
        let mut told = ComponentsTold { whole: false, hash: &[] };
        // It was validated, so the reading ends at the end alone.
        while let Ok((tag, wire_type)) = decode_key(&mut rest) {
            if wire_type != WireType::LengthDelimited {
                skip_field(wire_type, tag, &mut rest, DecodeContext::default()).ok()?;
                continue;
            }
            let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
            let (content, after) = rest.split_at_checked(length)?;
            match tag {
                1 => told.whole = true,
                2 => told.hash = content,
                _ => {}
            }
            rest = after;
        }
        Some(told)
    }

    /// Decodes the last reported `connection_settings_status`.
    #[must_use]
    pub fn connection_settings_status(&self) -> Option<v1::ConnectionSettingsStatus> {
        self.decode(Part::ConnectionSettingsStatus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = 16;

    fn message(body: &str) -> Vec<u8> {
        let file = v1::AgentConfigFile { body: body.to_owned().into(), ..Default::default() };
        let map = v1::AgentConfigMap { config_map: [(String::new(), file)].into() };
        let effective_config = Some(v1::EffectiveConfig { config_map: Some(map) });
        v1::AgentToServer { effective_config, ..Default::default() }.encode_to_vec()
    }

    fn body(state: &AgentState) -> Vec<u8> {
        let map = state.effective_config().and_then(|it| it.config_map).expect("a configuration");
        map.config_map[""].body.to_vec()
    }

    /// Between the look without a lock and the taking over, another message may have come.
    #[test]
    fn what_was_prepared_against_another_state_is_folded_all_the_same() {
        let _judged = opamp_spec::judges(&["DELTA-03"]);
        let (one, two) = ("1".repeat(100), "2".repeat(100));
        let (one, two) = (message(&one), message(&two));
        let (one, two) = (&one[..], &two[..]);
        // What is prepared against which state, and what the state is when it is folded.
        for (known, sent, now) in
            [(one, one, one), (one, one, two), (one, two, one), (one, two, two), (two, one, one)]
        {
            let state_of = |bytes| {
                let mut state = AgentState::default();
                let _ = state.fold(&Scan::new(bytes).unwrap(), usize::MAX).unwrap();
                state
            };
            for known in [Some(state_of(known)), None] {
                let mut state = match &known {
                    // The very bytes it was compared with.
                    Some(known) if *known == state_of(now) => known.clone(),
                    _ => state_of(now),
                };
                let mut scan = Scan::new(sent).unwrap();
                assert!(scan.has_longer_than(LARGE));
                scan.prepare(LARGE, usize::MAX, known.as_ref());
                let folded = state.fold(&scan, usize::MAX).unwrap();
                assert_eq!(folded.changes.is_empty(), sent == now);
                assert_eq!(state, state_of(sent));
                assert_eq!(body(&state).len(), 100);
            }
        }
    }

    #[test]
    fn what_will_not_be_kept_is_not_copied() {
        let large = message(&"1".repeat(100));
        let mut scan = Scan::new(&large).unwrap();
        scan.prepare(LARGE, 50, None);
        let refusal = AgentState::default().fold(&scan, 50).unwrap_err();
        assert!(refusal.text().contains("more than the 50"), "{}", refusal.text());
    }

    #[test]
    fn what_is_told_of_components_is_seen_without_decoding() {
        let told = |whole: bool, hash: &'static str| {
            let details = ("a".to_owned(), v1::ComponentDetails::default());
            let components = v1::AvailableComponents {
                components: whole.then_some(details).into_iter().collect(),
                hash: hash.into(),
            };
            let mut encoded = components.encode_to_vec();
            // Unknown fields: a varint, a fixed one and a string.
            encoded.extend([0x78, 1, 0x7d, 1, 2, 3, 4, 0x7a, 1, b'x']);
            let mut state = AgentState::default();
            state.restore_part(Part::AvailableComponents, &encoded);
            let told = state.components_told().expect("told");
            (told.whole, told.hash.to_vec(), told.is_hash_alone())
        };
        assert_eq!(told(true, "h"), (true, b"h".to_vec(), false));
        assert_eq!(told(false, "h"), (false, b"h".to_vec(), true));
        assert_eq!(told(false, ""), (false, Vec::new(), false));
        assert_eq!(AgentState::default().components_told(), None);
    }

    #[test]
    fn sets_of_parts_are_written_and_read_and_those_of_the_state_are_told() {
        for part in Part::ALL {
            assert_eq!(Parts::STATE.has(part), Part::STATE.contains(&part), "{part:?}");
            let one = Parts::from_iter([part]);
            assert_eq!(one.intersects(Parts::STATE), Part::STATE.contains(&part));
            assert_eq!(one.to_tags(), 1 << part.tag());
            assert_eq!(Parts::from_tags(one.to_tags()), one);
            let others: Parts = Part::ALL.into_iter().filter(|other| *other != part).collect();
            assert_eq!(Parts::from_tags(others.to_tags()), others);
        }
        // Of a later version.
        assert_eq!(Parts::from_tags(1 << 4 | 1 << 31), Parts::NONE);
    }

    /// What takes long about a large part is done before the lock is taken, and once.
    #[test]
    fn a_large_part_is_kept_as_it_was_prepared() {
        let health = v1::ComponentHealth { status: "x".repeat(100), ..Default::default() };
        let report = v1::AgentToServer { health: Some(health), ..Default::default() };
        let encoded = report.encode_to_vec();
        let mut scan = Scan::new(&encoded).expect("well formed");
        scan.validate_longer_than(50).expect("well formed");
        scan.prepare(50, 1000, None);
        let prepared = scan.copy(Part::Health).expect("valid").expect("there");
        let mut state = AgentState::default();
        state.fold(&scan, 1000).expect("room");
        let kept = state.encoded(Part::Health).expect("kept");
        assert_eq!((kept.as_ptr(), kept.len()), (prepared.as_ptr(), prepared.len()));
    }
}
