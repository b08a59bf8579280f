//! A hash of the components an Agent has.
//!
//! An Agent names its components by a hash and sends them only where the Server asks for them
//! (COMP-07, COMP-09). Agents with the same components are to produce the same hash (COMP-06), so
//! it goes by what is meant: the order of metadata does not count, nor does the encoding.

use std::collections::BTreeMap;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::any_value::{MAX_VALUE_NESTING, write_pairs, write_sized};
use crate::v1::ComponentDetails;

/// Sets these hashes apart from all others, and from those of a later definition.
const DOMAIN: &[u8] = b"opamp-proto/components-hash/1";

/// Hashes the components of an Agent: their names, their metadata in any order, and what they
/// contain, down to a hundred levels. What is nested deeper cannot be decoded by anyone, and is
/// left out.
///
/// The hash is SHA-256, 32 bytes.
///
/// ```
/// use opamp_proto::{components_hash, v1::{ComponentDetails, KeyValue}};
///
/// let metadata = vec![KeyValue::new("version", "1.0"), KeyValue::new("stability", "beta")];
/// let reversed = metadata.iter().rev().cloned().collect();
/// let batch = |metadata| ComponentDetails { metadata, ..Default::default() };
/// let one = [("batch".to_owned(), batch(metadata))].into();
/// let two = [("batch".to_owned(), batch(reversed))].into();
/// assert_eq!(components_hash(&one), components_hash(&two));
/// assert_ne!(components_hash(&one), components_hash(&Default::default()));
/// ```
#[must_use]
pub fn components_hash(components: &BTreeMap<String, ComponentDetails>) -> Bytes {
    let mut form = Vec::new();
    write_sized(DOMAIN, &mut form);
    write_components(components, 0, &mut form);
    Bytes::copy_from_slice(&Sha256::digest(&form))
}

fn write_components(
    components: &BTreeMap<String, ComponentDetails>,
    level: usize,
    out: &mut Vec<u8>,
) {
    let components = Some(components).filter(|_| level <= MAX_VALUE_NESTING);
    out.extend(components.map_or(0, |it| it.len() as u64).to_be_bytes());
    for (name, details) in components.into_iter().flatten() {
        write_sized(name.as_bytes(), out);
        let start = out.len();
        if write_pairs(&details.metadata, 0, out).is_none() {
            // No count of pairs: nested too deep.
            out.truncate(start);
        }
        write_components(&details.sub_component_map, level + 1, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::KeyValue;

    type Components = BTreeMap<String, ComponentDetails>;

    fn component(metadata: &[(&str, &str)], inner: Components) -> ComponentDetails {
        let metadata = metadata.iter().map(|(key, value)| KeyValue::new(*key, *value)).collect();
        ComponentDetails { metadata, sub_component_map: inner }
    }

    fn named(components: impl IntoIterator<Item = (&'static str, ComponentDetails)>) -> Components {
        components.into_iter().map(|(name, it)| (name.to_owned(), it)).collect()
    }

    #[test]
    fn different_components_have_different_hashes() {
        let _judged = opamp_spec::judges(&["COMP-04", "COMP-06", "COMP-14"]);
        let empty = || component(&[], named([]));
        let hashes: std::collections::BTreeSet<_> = [
            named([]),
            named([("", empty())]),
            named([("a", empty())]),
            named([("a", empty()), ("b", empty())]),
            named([("a", component(&[], named([("b", empty())])))]),
            named([("a", component(&[("b", "")], named([])))]),
            named([("a", component(&[("", "b")], named([])))]),
            named([("a", component(&[("b", "c")], named([])))]),
            named([("a", component(&[("b", "c"), ("b", "c")], named([])))]),
        ]
        .iter()
        .map(components_hash)
        .collect();
        assert_eq!(hashes.len(), 9);
        assert!(hashes.iter().all(|hash| hash.len() == 32));
    }

    #[test]
    fn the_definition_does_not_change() {
        let _judged = opamp_spec::judges(&["COMP-06"]);
        let batch = component(&[("version", "1.0")], named([]));
        let all = named([("processors", component(&[], named([("batch", batch)])))]);
        let hex: String = components_hash(&all).iter().map(|byte| format!("{byte:02x}")).collect();
        // Computed by another implementation: the same on every platform, and in every version.
        assert_eq!(hex, "28a02f0a361065ae6289fb2127825492b2af5a770e087d3b57accfabef75e84e");
    }

    #[test]
    fn nesting_of_any_depth_is_survived() {
        let _judged = opamp_spec::judges(&["COMP-14"]);
        let deep = (0..1000).fold(named([]), |inner, _| named([("a", component(&[], inner))]));
        assert_eq!(components_hash(&deep), components_hash(&deep.clone()));
    }
}
