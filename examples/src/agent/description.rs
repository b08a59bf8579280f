//! What the agent says it is and where it runs (DESC-04 to DESC-09).

use std::collections::BTreeMap;

use opamp_proto::{InstanceUid, v1};

use super::Attribute;

/// The default attributes, overridden and extended by those given.
pub(super) fn of(given: &[Attribute], instance_uid: InstanceUid) -> v1::AgentDescription {
    let mut attributes = BTreeMap::from([
        ("service.name", "opamp-example-agent".to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", instance_uid.to_string()),
        ("os.type", os_type().to_owned()),
        ("host.name", gethostname::gethostname().to_string_lossy().into_owned()),
    ]);
    attributes.extend(given.iter().map(|Attribute(key, value)| (key.as_str(), value.clone())));
    let (identifying, other): (Vec<_>, Vec<_>) = attributes
        .into_iter()
        .map(|(key, value)| v1::KeyValue::new(key, value))
        .partition(|attribute| attribute.key.starts_with("service."));
    v1::AgentDescription { identifying_attributes: identifying, non_identifying_attributes: other }
}

/// The name that the resource conventions have for the operating system.
fn os_type() -> &'static str {
    match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_attributes_override_and_extend() {
        let uid = InstanceUid::from_bytes([7; 16]);
        let given = [
            Attribute("service.name".into(), "mine".into()),
            Attribute("zone".into(), "a=b".into()),
        ];
        let description = of(&given, uid);
        let find = |list: &[v1::KeyValue], key: &str| {
            let found = list.iter().find(|attribute| attribute.key == key)?;
            Some(found.value.as_ref()?.as_str()?.to_owned())
        };
        let identifying = &description.identifying_attributes;
        assert_eq!(find(identifying, "service.name").as_deref(), Some("mine"));
        assert_eq!(find(identifying, "service.instance.id"), Some(uid.to_string()));
        assert_eq!(identifying.len(), 3);
        let other = &description.non_identifying_attributes;
        assert_eq!(find(other, "zone").as_deref(), Some("a=b"));
        assert!(find(other, "host.name").is_some_and(|name| !name.is_empty()));
    }
}
