//! The scan of a `ServerToAgent` against its decoding.

use opamp_proto::{Message as _, v1};
use opamp_server::gateway::ReplyScan;
use proptest::prelude::*;

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..max)
}

fn message() -> impl Strategy<Value = v1::ServerToAgent> {
    let error = proptest::option::of(("[a-z]{0,9}", 0..4)).prop_map(|error| {
        error.map(|(error_message, kind)| v1::ServerErrorResponse {
            error_message,
            r#type: kind,
            ..Default::default()
        })
    });
    let new = proptest::option::of(prop_oneof![bytes(20), prop::collection::vec(any::<u8>(), 16)]);
    (bytes(40), error, new, 0..3_u64, 0..3_u64).prop_map(
        |(uid, error, new, flags, capabilities)| v1::ServerToAgent {
            instance_uid: uid.into(),
            error_response: error,
            flags,
            capabilities,
            agent_identification: new
                .map(|new| v1::AgentIdentification { new_instance_uid: new.into() }),
            ..Default::default()
        },
    )
}

proptest! {
    #[test]
    fn it_finds_what_decoding_finds(one in message(), two in message(), cut in any::<usize>()) {
        // Messages written one after the other are one, merged.
        let mut encoded = [one.encode_to_vec(), two.encode_to_vec()].concat();
        if cut % 4 == 0 {
            encoded.truncate(cut / 4 % (encoded.len() + 1));
        }
        let Ok(decoded) = v1::ServerToAgent::decode(&encoded[..]) else { return Ok(()) };
        let scan = ReplyScan::new(&encoded).unwrap();
        prop_assert_eq!(scan.instance_uid(), &decoded.instance_uid[..]);
        prop_assert_eq!(scan.capabilities(), decoded.capabilities);
        let new = decoded.agent_identification.as_ref().map(|it| &it.new_instance_uid[..]);
        let new = new.filter(|new| new.len() == 16);
        let scanned = scan.new_instance_uid();
        prop_assert_eq!(scanned.as_ref().map(|uid| &uid.as_bytes()[..]), new);
        prop_assert_eq!(scan.is_error(), decoded.error_response.is_some());
        let rest = v1::ServerToAgent {
            instance_uid: decoded.instance_uid.clone(),
            capabilities: decoded.capabilities,
            ..Default::default()
        };
        if scan.is_bare() {
            prop_assert_eq!(&decoded, &rest);
        }
        prop_assert_eq!(scan.is_empty(), scan.is_bare() && decoded.capabilities == 0);
    }

    #[test]
    fn it_never_panics(body in bytes(200)) {
        if v1::ServerToAgent::decode(&body[..]).is_ok() {
            prop_assert!(ReplyScan::new(&body).is_some());
        }
    }
}
