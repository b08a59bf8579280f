//! Rows about servers.

use super::Reason::{NeedsConfiguration, NoRoomForChoice};
use super::Uncovered;

pub(super) const UNCOVERED: &[Uncovered] = &[
    Uncovered {
        row: "NET-05",
        reason: NeedsConfiguration,
        why: "the path of a server is its user's choice, which the URL under test only follows",
    },
    Uncovered {
        row: "NET-06",
        reason: NeedsConfiguration,
        why: "nothing tells whether the port of a server was given to it",
    },
    Uncovered {
        row: "ERR-05",
        reason: NoRoomForChoice,
        why: "a failure of any kind may be of unknown kind, with a text or without",
    },
    Uncovered {
        row: "CUST-08",
        reason: NeedsConfiguration,
        why: "which messages a custom capability has is known to those who define it alone",
    },
    Uncovered {
        row: "OTEL-11",
        reason: NeedsConfiguration,
        why: "nothing tells a Collector that forwards OpAMP from other servers, and where the server \
              is, is given to the tester",
    },
    Uncovered {
        row: "CONN-36",
        reason: NoRoomForChoice,
        why: "a server that does not disconnect conforms as well",
    },
    Uncovered {
        row: "TOFU-06",
        reason: NeedsConfiguration,
        why: "nothing tells whether the credentials a server was set up with are for first use only",
    },
];
