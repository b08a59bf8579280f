//! The wire of OpAMP, the Open Agent Management Protocol: what both ends, and any tool that reads
//! or writes OpAMP messages, have to agree on. There is no I/O here and no async runtime.
//!
//! | part | what it is |
//! | --- | --- |
//! | [`v1`] | the messages, generated from the schema |
//! | [`frame`] | the header of messages in WebSocket messages |
//! | [`InstanceUid`], [`WireUid`], [`LegacyUid`] | the Agent's identifier: proper, as received, in old forms |
//! | [`AgentCapabilities`], [`ServerCapabilities`] | capability masks as sets |
//! | [`v1::AnyValue`], [`attributes_equivalent`] | attribute values, compared by meaning |
//! | [`config_hash`](config_hash()) | a hash to name a remote configuration by |
//! | [`components_hash`](components_hash()) | a hash to name an Agent's components by |
//! | [`MessageLimits`] | the size limits of messages |
//! | [`elements`] | a limit on what a message decodes to |
//! | `gzip` | bounded decompression of HTTP bodies; needs the feature of that name |
//!
//! # Decoding
//!
//! [`Message`] and [`DecodeError`] are those of `prost`, the Protobuf implementation in use;
//! no more of it is needed to encode and decode. Decoding refuses messages nested deeper than a
//! hundred levels, so that no input exhausts the stack. An entry of a map counts as a level too, so
//! components can be nested nearly fifty deep; 16 is what both ends have to cope with (HEALTH-07,
//! COMP-14). Unknown fields are skipped (INTEROP-06) and not kept. A decoded message can take many
//! times the memory of its bytes; where these come from a peer, [`elements::check`] them first.
//!
//! ```
//! use opamp_proto::v1::{AgentDescription, AgentToServer, KeyValue};
//! use opamp_proto::{AgentCapabilities, InstanceUid, Message as _};
//! use opamp_proto::frame::{self, HeaderPolicy};
//!
//! let uid: InstanceUid = "01890a5d-ac96-774b-bcce-b302099a8057".parse()?;
//! let report = AgentToServer {
//!     instance_uid: uid.to_bytes(),
//!     sequence_num: 1,
//!     capabilities: AgentCapabilities::REPORTS_STATUS.to_wire(),
//!     agent_description: Some(AgentDescription {
//!         identifying_attributes: vec![KeyValue::new("service.name", "collector")],
//!         ..Default::default()
//!     }),
//!     ..Default::default()
//! };
//!
//! let sent = frame::encode(&report);
//! let received = frame::decode(sent, HeaderPolicy::Required)?;
//! assert_eq!(AgentToServer::decode(received.body)?, report);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//!
//! Both are on by default.
//!
//! - `generate`: `InstanceUid::generate`, which needs the system's clock and random source.
//! - `gzip`: the module `gzip`.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod any_value;
mod capabilities;
mod components_hash;
mod config_hash;
pub mod elements;
pub mod frame;
#[cfg(feature = "gzip")]
pub mod gzip;
mod instance_uid;
mod limits;
mod packages_hash;
mod redact;
mod settings_hash;
mod wire_uid;

/// The messages of OpAMP, generated from the schema in `proto/opamp/v1`.
///
/// Maps are [`BTreeMap`](std::collections::BTreeMap), so equal messages have equal encodings. Byte
/// fields are [`Bytes`](bytes::Bytes), which decoding from `Bytes` slices without a copy; a slice
/// keeps the whole received message in memory, so copy what is kept for long.
///
/// Enum fields are `i32`, as an unknown value from a newer peer has to be survivable (INTEROP-11);
/// the getter of the same name gives the default for an unknown value. Masks are `u64` fields, for
/// which [`AgentCapabilities`] and [`ServerCapabilities`] of the crate root are the types to use.
///
/// `Debug` is safe for logs: it shows no header values, private keys, credentials and queries in
/// URLs, other settings, bodies of configurations and data of custom messages.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    include!("generated/opamp.proto.v1.rs");
}

pub use prost::{DecodeError, Message};

pub use crate::any_value::{MAX_VALUE_NESTING, attributes_equivalent};
pub use crate::capabilities::{AgentCapabilities, ServerCapabilities};
pub use crate::components_hash::components_hash;
pub use crate::config_hash::{ConfigHash, config_hash};
pub use crate::instance_uid::{InstanceUid, InstanceUidError, LegacyForm, LegacyUid};
pub use crate::limits::{DEFAULT_MAX_MESSAGE_SIZE, MessageLimits};
pub use crate::packages_hash::{all_packages_hash, content_hash, package_hash};
pub use crate::settings_hash::connection_settings_hash;
pub use crate::wire_uid::{WireUid, WireUidError};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
