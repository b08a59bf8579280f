//! Bytes as what messages hold that is compared, hashed or shown.

use opamp_proto::{
    Message, all_packages_hash, components_hash, config_hash, connection_settings_hash, v1,
};

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    if let Some((value, again)) = twice::<v1::AnyValue>(bytes) {
        assert!(value.equivalent(&again) && again.equivalent(&value));
        let _ = format!("{value:?}");
    }
    if let Some((config, again)) = twice::<v1::AgentConfigMap>(bytes) {
        assert_eq!(config_hash(&config).to_bytes(), config_hash(&again).to_bytes());
    }
    if let Some((available, again)) = twice::<v1::AvailableComponents>(bytes) {
        assert_eq!(components_hash(&available.components), components_hash(&again.components));
    }
    if let Some((packages, again)) = twice::<v1::PackagesAvailable>(bytes) {
        assert_eq!(all_packages_hash(&packages), all_packages_hash(&again));
    }
    if let Some((settings, again)) = twice::<v1::ConnectionSettingsOffers>(bytes) {
        assert_eq!(connection_settings_hash(&settings), connection_settings_hash(&again));
    }
}

/// What the bytes decode to, and what that comes to once it is encoded and decoded again.
fn twice<M: Message + Default>(bytes: &[u8]) -> Option<(M, M)> {
    let message = M::decode(bytes).ok()?;
    let again = M::decode(message.encode_to_vec().as_slice()).expect("it was encoded just now");
    Some((message, again))
}
