//! Bytes as what a client finds in its files when it starts.

use opamp_client::core::ClientState;
use opamp_client::core::packages::PackageRecords;

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    let _ = ClientState::identity_of_damaged(bytes);
    if let Ok(state) = ClientState::from_bytes(bytes) {
        let saved = state.to_bytes();
        let again = ClientState::from_bytes(&saved).expect("it was saved just now");
        assert_eq!(saved, again.to_bytes());
        let rest = ClientState::identity_of_damaged(&saved).expect("it is whole");
        assert_eq!(rest.instance_uid, state.instance_uid);
    }
    if let Ok(records) = PackageRecords::from_bytes(bytes) {
        let saved = records.to_bytes();
        let again = PackageRecords::from_bytes(&saved).expect("it was saved just now");
        assert_eq!(saved, again.to_bytes());
    }
}
