//! Rows about clients.

use super::Reason::{
    JudgedWith, NeedsConfiguration, NeedsThirdParty, NoRoomForChoice, NotOnThisSide,
};
use super::Uncovered;

pub(super) const UNCOVERED: &[Uncovered] = &[
    Uncovered {
        row: "RETRY-02",
        reason: NeedsConfiguration,
        why: "there is no contract for telling a client how long to wait for a response",
    },
    Uncovered {
        row: "COMP-05",
        reason: NotOnThisSide,
        why: "the server is the one that has to take any hash",
    },
    Uncovered {
        row: "COMP-12",
        reason: NoRoomForChoice,
        why: "the trees of components and of health may relate in any way",
    },
    Uncovered {
        row: "COMP-14",
        reason: NotOnThisSide,
        why: "the server is the one that has to take any depth",
    },
    Uncovered {
        row: "CSR-03",
        reason: NeedsConfiguration,
        why: "the client would have to be started with a bootstrap certificate",
    },
    Uncovered {
        row: "CUST-08",
        reason: NeedsConfiguration,
        why: "what the types of a capability do is known to those who defined it",
    },
    Uncovered {
        row: "CUST-10",
        reason: JudgedWith("CUST-09"),
        why: "both compare the names of messages with those announced",
    },
    Uncovered {
        row: "CUST-11",
        reason: NoRoomForChoice,
        why: "a type means nothing without the capability that comes with it",
    },
    Uncovered {
        row: "DESC-05",
        reason: NeedsConfiguration,
        why: "whether the environment uses namespaces is not seen",
    },
    Uncovered {
        row: "HEALTH-03",
        reason: NeedsConfiguration,
        why: "the agent would have to be down while its client is up",
    },
    Uncovered {
        row: "HEALTH-05",
        reason: NotOnThisSide,
        why: "the server is the one that has to take any text",
    },
    Uncovered {
        row: "HEALTH-07",
        reason: NotOnThisSide,
        why: "the server is the one that has to take any depth",
    },
    Uncovered {
        row: "HEALTH-08",
        reason: NotOnThisSide,
        why: "the server is the one that has to take any attribute",
    },
    Uncovered {
        row: "ID-11",
        reason: NeedsConfiguration,
        why: "the client would have to speak for several agents",
    },
    Uncovered {
        row: "OTEL-02",
        reason: NeedsConfiguration,
        why: "whether the environment uses namespaces is not seen",
    },
    Uncovered {
        row: "PKG-05",
        reason: NoRoomForChoice,
        why: "the schema has no place for a second file, so there is nothing to fetch but the one",
    },
    Uncovered {
        row: "PKG-41",
        reason: NoRoomForChoice,
        why: "which offers fail as a whole, if any, and not package by package is up to the client",
    },
    Uncovered {
        row: "SEC-07",
        reason: NeedsConfiguration,
        why: "what violates a restriction is known to those who set it",
    },
    Uncovered {
        row: "SEC-11",
        reason: NeedsConfiguration,
        why: "the client is tested with the settings its user gave it",
    },
    Uncovered {
        row: "TLS-04",
        reason: NeedsThirdParty,
        why: "it takes a server whose certificate the authorities of the client's system vouch for",
    },
];
