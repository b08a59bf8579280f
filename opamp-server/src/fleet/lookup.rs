//! Agents by what they say of themselves.

use opamp_proto::v1;

use super::{AgentSnapshot, Fleet};
use crate::core::Part;

/// The longest description that is searched while the lock of a shard is held. Usual ones have less
/// than a kilobyte.
const MAX_SEARCHED: usize = 16 * 1024;

impl<I> Fleet<I> {
    /// The Agents that have all of these attributes, be they identifying or not, with equal values
    /// (DESC-01 to DESC-03).
    ///
    /// It looks at each Agent, and decodes the descriptions of few that lack one of the values: some
    /// milliseconds for a hundred thousand Agents.
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

/// A key is in the encoded bytes as it is.
fn may_have(encoded: &[u8], attributes: &[v1::KeyValue]) -> bool {
    attributes.iter().all(|attribute| {
        contains(encoded, attribute.key.as_bytes())
            && attribute
                .value
                .as_ref()
                .and_then(|value| value.as_str())
                .is_none_or(|text| contains(encoded, text.as_bytes()))
    })
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
