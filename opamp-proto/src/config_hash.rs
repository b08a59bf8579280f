//! A hash of a remote configuration.
//!
//! A Server names each configuration it offers by a hash (CFG-25) and offers it no more once the
//! Agent has reported that hash. The protocol leaves the function to the Server, but equal hashes
//! have to mean equal configurations (CFG-26). The Protobuf encoding is no basis for one: it does
//! not fix the order of a map, and it changes when the schema grows.

use std::fmt;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::v1::AgentConfigMap;

/// Sets these hashes apart from all others, and from those of a later definition.
const DOMAIN: &[u8] = b"opamp-proto/config-hash/1";

/// The SHA-256 hash of a configuration, made by [`config_hash`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigHash([u8; 32]);

impl ConfigHash {
    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 32 bytes as a message field holds them.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }
}

impl From<ConfigHash> for Bytes {
    fn from(hash: ConfigHash) -> Self {
        hash.to_bytes()
    }
}

/// Writes 64 lower-case hexadecimal digits.
impl fmt::Display for ConfigHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ConfigHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Hashes a configuration: names, content types and bodies of all files.
///
/// The hash is SHA-256 over the text `opamp-proto/config-hash/1`, the number of files, and for each
/// file, in ascending order of the names' bytes, its name, content type and body. Each of these is
/// preceded by its length in bytes, as is the text; lengths and the number are unsigned 64-bit
/// integers in big-endian order. The definition is fixed: another one would get another text.
///
/// ```
/// use opamp_proto::{config_hash, v1::{AgentConfigFile, AgentConfigMap}};
///
/// let file = AgentConfigFile { body: "receivers: {}".into(), content_type: "text/yaml".into() };
/// let config = AgentConfigMap { config_map: [(String::new(), file)].into() };
/// let hash = config_hash(&config);
/// assert_eq!(hash, config_hash(&config.clone()));
/// assert_eq!(hash.to_string().len(), 64);
/// ```
#[must_use]
pub fn config_hash(config: &AgentConfigMap) -> ConfigHash {
    let mut hasher = Sha256::new();
    update_sized(&mut hasher, DOMAIN);
    hasher.update((config.config_map.len() as u64).to_be_bytes());
    for (name, file) in &config.config_map {
        update_sized(&mut hasher, name.as_bytes());
        update_sized(&mut hasher, file.content_type.as_bytes());
        update_sized(&mut hasher, &file.body);
    }
    ConfigHash(hasher.finalize().into())
}

fn update_sized(hasher: &mut Sha256, part: &[u8]) {
    hasher.update((part.len() as u64).to_be_bytes());
    hasher.update(part);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::AgentConfigFile;

    fn config(files: &[(&str, &str, &[u8])]) -> AgentConfigMap {
        let file = |content_type: &str, body: &[u8]| AgentConfigFile {
            body: Bytes::copy_from_slice(body),
            content_type: content_type.to_owned(),
        };
        let entries = files
            .iter()
            .map(|(name, content_type, body)| ((*name).to_owned(), file(content_type, body)));
        AgentConfigMap { config_map: entries.collect() }
    }

    #[test]
    fn the_definition_does_not_change() {
        let _judged = opamp_spec::judges(&["CFG-26"]);
        // Computed by another implementation of the documented definition.
        assert_eq!(
            config_hash(&config(&[])).to_string(),
            "57f3c53c4b1e47136f25a7348663576e877ff4971a9d90558b3e82508791a7f5"
        );
        let two = config(&[("", "text/yaml", b"receivers: {}\n"), ("b.yaml", "", b"\x00\xff")]);
        assert_eq!(
            config_hash(&two).to_string(),
            "1c930fb62d5869ca088436af7d3f5cae8b5b8090037374cbff2453332c9d36a1"
        );
    }

    #[test]
    fn bytes_moved_between_parts_change_the_hash() {
        let _judged = opamp_spec::judges(&["CFG-26"]);
        let hashes: std::collections::BTreeSet<_> = [
            config(&[]),
            config(&[("", "", b"")]),
            config(&[("ab", "", b"")]),
            config(&[("a", "b", b"")]),
            config(&[("a", "", b"b")]),
            config(&[("", "ab", b"")]),
            config(&[("", "a", b"b")]),
            config(&[("", "", b"ab")]),
            config(&[("a", "", b""), ("b", "", b"")]),
            config(&[("", "a", b""), ("b", "", b"")]),
        ]
        .iter()
        .map(config_hash)
        .collect();
        assert_eq!(hashes.len(), 10);
    }
}
