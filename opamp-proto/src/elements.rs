//! A bound on the memory that decoding a message can cost.
//!
//! A limit on the size of a message does not bound what comes of it: an empty attribute is two
//! bytes on the wire and a hundred in memory, so 64 MiB of them become gigabytes. [`check`] counts
//! what a message holds, without building any of it, and stops at a limit. An *element* is a
//! length-delimited field: a string, a byte string, a message, an entry of a map. Numbers cost
//! nothing beyond the message they are in. Strings and byte strings are not looked into, however
//! long they are, and neither are unknown fields and the entries of the one map of strings,
//! `other_settings`.
//!
//! ```
//! use opamp_proto::elements::{self, MessageKind, DEFAULT_MAX_ELEMENTS};
//! use opamp_proto::{Message as _, v1};
//!
//! let attributes = vec![v1::KeyValue::default(); 1_000_000];
//! let description =
//!     v1::AgentDescription { identifying_attributes: attributes, ..Default::default() };
//! let encoded = description.encode_to_vec();
//! let refused = elements::check(MessageKind::AgentDescription, &encoded, DEFAULT_MAX_ELEMENTS);
//! assert_eq!(refused.unwrap_err().to_string(), "more than 100000 elements");
//! ```

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// How many elements a message may have unless there is reason for another limit: 100,000.
///
/// It is above what a tree of 10,000 components with a status, an error and an attribute each has
/// (some 90,000). The worst that this many elements are known to decode to, deeply nested maps of
/// one entry each, takes 75 MiB.
pub const DEFAULT_MAX_ELEMENTS: usize = 100_000;

/// The decoder refuses messages nested deeper; beyond, there is nothing left to count.
const MAX_NESTING: u32 = 100;

/// A message has more elements than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {limit} elements")]
#[non_exhaustive]
pub struct TooManyElements {
    /// The most elements it may have.
    pub limit: usize,
}

/// Counts the elements of an encoded message, up to a limit.
///
/// This takes time linear in the bytes, and no memory. The message itself is not an element. Bytes
/// that are no such message are counted up to where the decoder would refuse them; that they are
/// malformed is left to the decoder to say.
///
/// # Errors
///
/// [`TooManyElements`] if there are more than `max`.
pub fn check(kind: MessageKind, encoded: &[u8], max: usize) -> Result<(), TooManyElements> {
    // Each element has a key and a length of its own, so most messages need no counting.
    if encoded.len() / 2 <= max {
        return Ok(());
    }
    let mut count = Count { left: max, rest: encoded };
    match count.message(Nested::Message(kind), 0, MAX_NESTING) {
        Err(Stop::TooMany) => Err(TooManyElements { limit: max }),
        Ok(()) | Err(Stop::Malformed) => Ok(()),
    }
}

/// Why counting ends early.
enum Stop {
    TooMany,
    Malformed,
}

struct Count<'a> {
    left: usize,
    /// All that is left of the outermost message. The decoder finds out that a field ends beyond
    /// the message around it only after decoding the field, so the field has to be counted to its
    /// end.
    rest: &'a [u8],
}

impl Count<'_> {
    /// Counts up to where `end` bytes are left.
    fn message(&mut self, kind: Nested, end: usize, nesting: u32) -> Result<(), Stop> {
        while self.rest.len() > end {
            self.field(kind, nesting)?;
        }
        if self.rest.len() == end { Ok(()) } else { Err(Stop::Malformed) }
    }

    fn field(&mut self, kind: Nested, nesting: u32) -> Result<(), Stop> {
        let malformed = |_| Stop::Malformed;
        let (tag, wire_type) = decode_key(&mut self.rest).map_err(malformed)?;
        if wire_type != WireType::LengthDelimited {
            return skip_field(wire_type, tag, &mut self.rest, DecodeContext::default())
                .map_err(malformed);
        }
        let length = decode_varint(&mut self.rest).map_err(malformed)?;
        let length = usize::try_from(length).map_err(|_| Stop::Malformed)?;
        let end = self.rest.len().checked_sub(length).ok_or(Stop::Malformed)?;
        self.left = self.left.checked_sub(1).ok_or(Stop::TooMany)?;
        match kind.field(tag) {
            Some(nested) => {
                let nesting = nesting.checked_sub(1).ok_or(Stop::Malformed)?;
                self.message(nested, end, nesting)
            }
            None => {
                self.rest = &self.rest[length..];
                Ok(())
            }
        }
    }
}

/// What is in a field that has something in it to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nested {
    Message(MessageKind),
    /// An entry of a map, whose value is such a message.
    Entry(MessageKind),
}

impl Nested {
    fn field(self, tag: u32) -> Option<Self> {
        match self {
            Self::Message(kind) => {
                let field = kind.fields().iter().find(|(number, _)| *number == tag);
                field.map(|(_, nested)| *nested)
            }
            // The key is field 1 of an entry, the value field 2.
            Self::Entry(kind) => (tag == 2).then_some(Self::Message(kind)),
        }
    }
}

/// Which message of [`v1`](crate::v1) bytes are the encoding of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each is the message of the same name")]
pub enum MessageKind {
    AgentConfigFile,
    AgentConfigMap,
    AgentDescription,
    AgentDisconnect,
    AgentIdentification,
    AgentRemoteConfig,
    AgentToServer,
    AnyValue,
    ArrayValue,
    AvailableComponents,
    CertificateRequest,
    ComponentDetails,
    ComponentHealth,
    ConnectionSettingsOffers,
    ConnectionSettingsRequest,
    ConnectionSettingsStatus,
    CustomCapabilities,
    CustomMessage,
    DownloadableFile,
    EffectiveConfig,
    Header,
    Headers,
    KeyValue,
    KeyValueList,
    OpAmpConnectionSettings,
    OpAmpConnectionSettingsRequest,
    OtherConnectionSettings,
    PackageAvailable,
    PackageDownloadDetails,
    PackageStatus,
    PackageStatuses,
    PackagesAvailable,
    ProxyConnectionSettings,
    RemoteConfigStatus,
    RetryInfo,
    ServerErrorResponse,
    ServerToAgent,
    ServerToAgentCommand,
    TelemetryConnectionSettings,
    TlsCertificate,
    TlsConnectionSettings,
}

impl MessageKind {
    /// The fields that hold messages.
    const fn fields(self) -> &'static [(u32, Nested)] {
        use MessageKind as K;
        use Nested::{Entry, Message};
        match self {
            K::AgentConfigMap => &[(1, Entry(K::AgentConfigFile))],
            K::AgentDescription => &[(1, Message(K::KeyValue)), (2, Message(K::KeyValue))],
            K::AgentRemoteConfig => &[(1, Message(K::AgentConfigMap))],
            K::AgentToServer => &[
                (3, Message(K::AgentDescription)),
                (5, Message(K::ComponentHealth)),
                (6, Message(K::EffectiveConfig)),
                (7, Message(K::RemoteConfigStatus)),
                (8, Message(K::PackageStatuses)),
                (9, Message(K::AgentDisconnect)),
                (11, Message(K::ConnectionSettingsRequest)),
                (12, Message(K::CustomCapabilities)),
                (13, Message(K::CustomMessage)),
                (14, Message(K::AvailableComponents)),
                (15, Message(K::ConnectionSettingsStatus)),
            ],
            K::AnyValue => &[(5, Message(K::ArrayValue)), (6, Message(K::KeyValueList))],
            K::ArrayValue => &[(1, Message(K::AnyValue))],
            K::AvailableComponents => &[(1, Entry(K::ComponentDetails))],
            K::ComponentDetails => &[(1, Message(K::KeyValue)), (2, Entry(K::ComponentDetails))],
            K::ComponentHealth => &[(6, Entry(K::ComponentHealth)), (7, Message(K::KeyValue))],
            K::ConnectionSettingsOffers => &[
                (2, Message(K::OpAmpConnectionSettings)),
                (3, Message(K::TelemetryConnectionSettings)),
                (4, Message(K::TelemetryConnectionSettings)),
                (5, Message(K::TelemetryConnectionSettings)),
                (6, Entry(K::OtherConnectionSettings)),
            ],
            K::ConnectionSettingsRequest => &[(1, Message(K::OpAmpConnectionSettingsRequest))],
            K::DownloadableFile => &[(4, Message(K::Headers))],
            K::EffectiveConfig => &[(1, Message(K::AgentConfigMap))],
            K::Headers => &[(1, Message(K::Header))],
            K::KeyValue => &[(2, Message(K::AnyValue))],
            K::KeyValueList => &[(1, Message(K::KeyValue))],
            K::OpAmpConnectionSettings => &[
                (2, Message(K::Headers)),
                (3, Message(K::TlsCertificate)),
                (5, Message(K::TlsConnectionSettings)),
                (6, Message(K::ProxyConnectionSettings)),
            ],
            K::OpAmpConnectionSettingsRequest => &[(1, Message(K::CertificateRequest))],
            K::OtherConnectionSettings => &[
                (2, Message(K::Headers)),
                (3, Message(K::TlsCertificate)),
                (5, Message(K::TlsConnectionSettings)),
                (6, Message(K::ProxyConnectionSettings)),
            ],
            K::PackageAvailable => &[(3, Message(K::DownloadableFile))],
            K::PackageStatus => &[(8, Message(K::PackageDownloadDetails))],
            K::PackageStatuses => &[(1, Entry(K::PackageStatus))],
            K::PackagesAvailable => &[(1, Entry(K::PackageAvailable))],
            K::ProxyConnectionSettings => &[(2, Message(K::Headers))],
            K::ServerErrorResponse => &[(3, Message(K::RetryInfo))],
            K::ServerToAgent => &[
                (2, Message(K::ServerErrorResponse)),
                (3, Message(K::AgentRemoteConfig)),
                (4, Message(K::ConnectionSettingsOffers)),
                (5, Message(K::PackagesAvailable)),
                (8, Message(K::AgentIdentification)),
                (9, Message(K::ServerToAgentCommand)),
                (10, Message(K::CustomCapabilities)),
                (11, Message(K::CustomMessage)),
            ],
            K::TelemetryConnectionSettings => &[
                (2, Message(K::Headers)),
                (3, Message(K::TlsCertificate)),
                (4, Message(K::TlsConnectionSettings)),
                (5, Message(K::ProxyConnectionSettings)),
            ],
            K::AgentConfigFile
            | K::AgentDisconnect
            | K::AgentIdentification
            | K::CertificateRequest
            | K::ConnectionSettingsStatus
            | K::CustomCapabilities
            | K::CustomMessage
            | K::Header
            | K::PackageDownloadDetails
            | K::RemoteConfigStatus
            | K::RetryInfo
            | K::ServerToAgentCommand
            | K::TlsCertificate
            | K::TlsConnectionSettings => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::{MessageKind, Nested};

    /// A field as the table or the catalogue has it: its number, its message, whether that is the
    /// value of a map. Names are in lower case, as the generated ones differ in case.
    type Field = (u64, String, bool);
    type Table = BTreeMap<String, BTreeSet<Field>>;

    fn lower(kind: MessageKind) -> String {
        format!("{kind:?}").to_lowercase()
    }

    /// What is reachable from the two messages at the top.
    fn table() -> Table {
        let mut table = Table::new();
        let mut open = vec![MessageKind::AgentToServer, MessageKind::ServerToAgent];
        while let Some(kind) = open.pop() {
            let fields = kind.fields().iter().map(|(number, nested)| {
                let (inner, map) = match *nested {
                    Nested::Message(inner) => (inner, false),
                    Nested::Entry(inner) => (inner, true),
                };
                (u64::from(*number), inner, map)
            });
            let fields: Vec<_> = fields.collect();
            let named = fields.iter().map(|(number, inner, map)| (*number, lower(*inner), *map));
            table.insert(lower(kind), named.collect());
            let unseen = fields.iter().map(|(_, inner, _)| *inner);
            open.extend(unseen.filter(|inner| !table.contains_key(&lower(*inner))));
        }
        table
    }

    #[test]
    fn the_table_is_that_of_the_catalogue() {
        let rows: Vec<_> =
            opamp_spec::schema().iter().filter(|row| row.kind == "message").collect();
        let messages: BTreeSet<_> = rows.iter().map(|row| &*row.message_or_enum).collect();
        let mut catalogue: Table =
            messages.iter().map(|name| (name.to_lowercase(), BTreeSet::new())).collect();
        for row in rows {
            let value = row.kind_of_value.strip_prefix("map<string, ");
            let value = value.and_then(|value| value.strip_suffix('>'));
            let inner = value.unwrap_or(&row.kind_of_value);
            if messages.contains(inner) {
                let number = row.number.expect("a field has a number");
                let field = (number, inner.to_lowercase(), value.is_some());
                catalogue.entry(row.message_or_enum.to_lowercase()).or_default().insert(field);
            } else if row.label == "repeated" {
                // Repeated numbers would be packed, and many in one element.
                assert_eq!(inner, "string", "{}", row.name);
            }
        }
        assert_eq!(table(), catalogue);
    }
}
