//! Agents by what they say of themselves.

use opamp_proto::v1;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::{AgentSnapshot, Fleet};
use crate::core::Part;

/// The longest description that is searched while the lock of a shard is held. Usual ones have less
/// than a kilobyte.
const MAX_SEARCHED: usize = 16 * 1024;

impl<I> Fleet<I> {
    /// The Agents that have all of these attributes, be they identifying or not, with equal values
    /// (DESC-01 to DESC-03).
    ///
    /// It looks at each Agent, and decodes the descriptions of few that lack one of the values:
    /// some milliseconds for a hundred thousand Agents.
    ///
    /// ```
    /// use opamp_proto::v1::KeyValue;
    ///
    /// # let fleet = opamp_server::Fleet::<()>::default();
    /// let collectors = fleet.find(&[
    ///     KeyValue::new("service.name", "io.opentelemetry.collector"),
    ///     KeyValue::new("os.type", "linux"),
    /// ]);
    /// # assert!(collectors.is_empty());
    /// ```
    #[must_use]
    pub fn find(&self, attributes: &[v1::KeyValue]) -> Vec<AgentSnapshot> {
        let mut found = Vec::new();
        for shard in self.shards() {
            let terms = shard.terms(self.config());
            let slots = shard.slots.values().filter(|slot| {
                let described = slot.agent.state().encoded(Part::AgentDescription);
                described.is_some_and(|encoded| {
                    encoded.len() > MAX_SEARCHED || may_have(encoded, attributes)
                })
            });
            found.extend(slots.map(|slot| slot.snapshot(terms)));
        }
        // Decoded without a lock.
        found.retain(|agent| has(agent, attributes));
        found
    }
}

/// False only if one of the attributes is surely missing. That is found without decoding, as it is
/// asked of each Agent under a lock.
fn may_have(encoded: &[u8], attributes: &[v1::KeyValue]) -> bool {
    attributes.iter().all(|wanted| {
        let text = wanted.value.as_ref().and_then(|value| value.as_str()).unwrap_or_default();
        let mut rest = encoded;
        while let Some(attribute) = next_attribute(&mut rest) {
            if may_be(attribute, wanted.key.as_bytes(), text.as_bytes()) {
                return true;
            }
        }
        false
    })
}

/// The next of the encoded attributes of a description, which was validated.
fn next_attribute<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    // An error would be made, and allocated, at the end.
    while !rest.is_empty() {
        let (tag, wire_type) = decode_key(rest).ok()?;
        if wire_type != WireType::LengthDelimited {
            skip_field(wire_type, tag, rest, DecodeContext::default()).ok()?;
            continue;
        }
        let length = usize::try_from(decode_varint(rest).ok()?).ok()?;
        let (content, after) = rest.split_at_checked(length)?;
        *rest = after;
        return Some(content);
    }
    None
}

/// Whether this may be the attribute, whatever has encoded it: what is not plain is searched.
fn may_be(attribute: &[u8], key: &[u8], text: &[u8]) -> bool {
    match plain(attribute) {
        Some((found, value)) => found == key && contains(value, text),
        None => contains(attribute, key) && contains(attribute, text),
    }
}

/// The key and the encoded value of an attribute that is nothing but these two, in this order, each
/// shorter than 128 bytes.
fn plain(attribute: &[u8]) -> Option<(&[u8], &[u8])> {
    let (key, rest) = short_field(1, attribute)?;
    let (value, rest) = short_field(2, rest)?;
    rest.is_empty().then_some((key, value))
}

/// The content of the field that comes first, if that is this one, and what follows it.
fn short_field(tag: u8, encoded: &[u8]) -> Option<(&[u8], &[u8])> {
    let key = tag << 3 | WireType::LengthDelimited as u8;
    match encoded {
        [first, length @ ..0x80, rest @ ..] if *first == key => {
            rest.split_at_checked(usize::from(*length))
        }
        _ => None,
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    part.is_empty() || bytes.windows(part.len()).any(|window| window == part)
}

fn has(agent: &AgentSnapshot, attributes: &[v1::KeyValue]) -> bool {
    let Some(description) = agent.state().agent_description() else { return false };
    attributes.iter().all(|wanted| {
        let all = description.identifying_attributes.iter();
        all.chain(&description.non_identifying_attributes).any(|attribute| {
            attribute.key == wanted.key
                && match (&attribute.value, &wanted.value) {
                    (Some(value), Some(wanted)) => value.equivalent(wanted),
                    (value, wanted) => value == wanted,
                }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use opamp_proto::Message as _;

    fn attribute(key: &str, value: &str) -> v1::KeyValue {
        v1::KeyValue::new(key, value)
    }

    fn described(attributes: &[v1::KeyValue]) -> Vec<u8> {
        let (identifying, others) = attributes.split_at(attributes.len() / 2);
        v1::AgentDescription {
            identifying_attributes: identifying.to_vec(),
            non_identifying_attributes: others.to_vec(),
        }
        .encode_to_vec()
    }

    #[test]
    fn what_lacks_an_attribute_is_told_apart_without_decoding() {
        let long = "l".repeat(200);
        let all = [
            attribute("service.name", "collector"),
            attribute("service.version", "1.0"),
            attribute("long", &long),
            attribute(&long, "short"),
            attribute("", "no key"),
            attribute("empty", ""),
        ];
        let encoded = described(&all);
        assert!(all.iter().all(|one| may_have(&encoded, std::slice::from_ref(one))));
        assert!(may_have(&encoded, &all));
        for (key, value) in
            [("service.name", "1.0"), ("service", "collector"), ("long", "short"), ("os.type", "x")]
        {
            assert!(!may_have(&encoded, &[all[0].clone(), attribute(key, value)]), "{key}");
        }
        assert!(!may_have(&[], &all));
    }

    /// Protobuf lets fields come in any order, more than once, and with unknown ones among them.
    #[test]
    fn an_attribute_is_found_however_it_is_encoded() {
        let value = v1::AnyValue::from("linux").encode_to_vec();
        let field =
            |tag: u8, content: &[u8]| [&[tag << 3 | 2, content.len() as u8], content].concat();
        let (key, other) = (field(1, b"os.type"), field(1, b"other"));
        let (value, unknown) = (field(2, &value), [0x98, 0x06, 0x01]);
        for pieces in [
            &[&key[..], &value][..],
            &[&value, &key],
            &[&unknown, &key, &value],
            &[&key, &value, &unknown],
            &[&other, &key, &value],
            &[&key, &value, &value],
            &[&key, &unknown, &value],
        ] {
            let attribute = pieces.concat();
            let description = [&unknown[..], &field(2, &attribute), &unknown].concat();
            let decoded = v1::AgentDescription::decode(&description[..]).expect("it is valid");
            let wanted = [v1::KeyValue::new("os.type", "linux")];
            assert_eq!(decoded.non_identifying_attributes, wanted, "{pieces:?}");
            assert!(may_have(&description, &wanted), "{pieces:?}");
        }
    }
}
