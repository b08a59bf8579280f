//! The components the agent has.

use bytes::Bytes;
use opamp_proto::v1::{AvailableComponents, ComponentDetails};

use super::Mind;
use crate::wire::attribute;

impl Mind {
    pub(super) fn components(&self, with_map: bool) -> AvailableComponents {
        let key =
            if self.faults.has("component-metadata-has-no-key") { "" } else { "code.language" };
        let details =
            ComponentDetails { metadata: vec![attribute(key, "rust")], ..Default::default() };
        let mut components =
            AvailableComponents { hash: Bytes::from_static(b"components-1"), ..Default::default() };
        if with_map || self.faults.has("components-come-at-once") {
            components.components.insert("receivers".to_owned(), details);
        }
        if self.faults.has("components-have-no-hash") {
            components.hash.clear();
        }
        if self.faults.has("components-hash-is-random") {
            components.hash = self.kept.uid.clone();
        }
        components
    }
}
