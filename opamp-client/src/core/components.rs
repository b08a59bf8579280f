//! The components an agent consists of.
//!
//! ```text
//!            set                        flag ReportAvailableComponents
//!   none ──────────► the hash is told ────────────────────────────────► the components too, once
//! ```
//!
//! The hash is a part of the status like any other; the components behind it are told once per
//! request (COMP-07, COMP-09, A30). Requests share the ration of those for full state, as some
//! servers set every flag in every reply.

use std::collections::BTreeMap;

use opamp_proto::{components_hash, v1};

use super::ClientCore;

impl ClientCore {
    /// Reports the components the agent has, by an id of each, or withdraws the capability with
    /// `None` (CAP-03, COMP-02). Components that mean the same are no change and cause no message.
    pub fn set_available_components(
        &mut self,
        components: Option<BTreeMap<String, v1::ComponentDetails>>,
    ) {
        let components = components.map(|components| {
            let hash = components_hash(&components);
            v1::AvailableComponents { components, hash }
        });
        self.report.set_components(components);
        self.components_asked &= self.report.has_components();
        self.update_capabilities();
    }
}
