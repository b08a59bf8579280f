//! Whether both ends agree.

use opamp_proto::WireUid;

use super::World;

impl World {
    /// What the server knows of an agent differs from what the agent would report: says how.
    #[must_use]
    pub fn disagreement(&self, agent: usize) -> Option<String> {
        let core = &self.agents[agent].core;
        let uid = WireUid::from(core.instance_uid());
        let Some(known) = self.fleet.agent(uid) else {
            return Some(format!("the server does not know {uid}"));
        };
        if !known.is_connected() {
            return Some("the server takes the agent for disconnected".to_owned());
        }
        let status = core.status();
        let state = known.state();
        if state.capabilities().bits() != status.capabilities {
            return Some("capabilities differ".to_owned());
        }
        // What an agent no longer reports stays as it was last known: absence is not deletion.
        fn differs<T: PartialEq>(known: Option<T>, is: &Option<T>) -> bool {
            is.is_some() && known != *is
        }
        if differs(state.agent_description(), &status.agent_description) {
            return Some("the description differs".to_owned());
        }
        if differs(state.health(), &status.health) {
            return Some(format!("health {:?} is not {:?}", state.health(), status.health));
        }
        if differs(state.effective_config(), &status.effective_config) {
            return Some("the effective configuration differs".to_owned());
        }
        if differs(state.remote_config_status(), &status.remote_config_status) {
            let (known, is) = (state.remote_config_status(), &status.remote_config_status);
            return Some(format!("the remote config status {known:?} is not {is:?}"));
        }
        // A server that offers nothing of a kind does not insist on what became of it.
        let (packages, settings) = (&self.default_packages, &self.default_settings);
        if packages.is_some() && differs(state.package_statuses(), &status.package_statuses) {
            let (known, is) = (state.package_statuses(), &status.package_statuses);
            return Some(format!("the package statuses {known:?} are not {is:?}"));
        }
        if settings.is_some()
            && differs(state.connection_settings_status(), &status.connection_settings_status)
        {
            return Some("the status of connection settings differs".to_owned());
        }
        let wanted = packages.as_ref().map(|packages| packages.hash());
        let taken = status.package_statuses.as_ref();
        let taken = taken.map(|statuses| &statuses.server_provided_all_packages_hash[..]);
        if wanted.is_some_and(|wanted| taken != Some(wanted.as_bytes())) {
            return Some("the packages were not taken up".to_owned());
        }
        let wanted = settings.as_ref().map(|settings| settings.hash());
        let taken = status.connection_settings_status.as_ref();
        let is_taken =
            |wanted: &[u8]| taken.is_some_and(|it| it.last_connection_settings_hash[..] == *wanted);
        if wanted.is_some_and(|wanted| !is_taken(wanted.as_bytes())) {
            return Some("the connection settings were not taken up".to_owned());
        }
        // To an agent that takes no configuration, none is desired.
        status.remote_config_status.as_ref()?;
        let desired = known.remote_config().map(|offer| offer.hash());
        let reported = state.remote_config_status().map(|status| status.last_remote_config_hash);
        if let (Some(desired), Some(reported)) = (desired, reported)
            && reported[..] != desired.as_bytes()[..]
        {
            return Some("the desired configuration was not taken up".to_owned());
        }
        None
    }
}
