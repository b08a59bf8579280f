//! What the agent consists of (COMP-01): the same in every agent of this version.

use std::collections::BTreeMap;

use opamp_proto::v1::{ComponentDetails, KeyValue};

pub(super) fn all() -> BTreeMap<String, ComponentDetails> {
    let component = |module: &str| ComponentDetails {
        metadata: vec![
            KeyValue::new("code.namespace", format!("opamp_examples::agent::{module}")),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ],
        ..Default::default()
    };
    let group = |name: &str, inner: &str, module: &str| {
        let sub_component_map = [(inner.to_owned(), component(module))].into();
        (name.to_owned(), ComponentDetails { sub_component_map, ..Default::default() })
    };
    [group("configuration", "yaml", "config"), group("work", "example", "work")].into()
}
