//! The ways in which the reference server can break.

/// Name and meaning of each.
pub const FAULTS: &[(&str, &str)] = &[
    ("gap-is-ignored", "a gap in the sequence numbers causes no ReportFullState"),
    ("header-is-not-zero", "the header of WebSocket messages is 1"),
    ("configurations-wait-for-a-report", "an assigned configuration is not pushed"),
    ("configurations-have-no-hash", "config_hash is empty in offers"),
    ("configurations-are-offered-to-all", "the AcceptsRemoteConfig bit is not looked at"),
    ("known-configurations-are-offered-again", "a new session gets the configuration it has"),
    ("reported-hashes-are-not-compared", "an agent that has any configuration is offered none"),
    ("effective-config-is-insisted-on", "ReportFullState until an effective_config comes"),
    ("configurations-have-to-be-text", "an effective_config that is not UTF-8 is refused"),
    ("files-need-a-type", "an effective_config without content_type is refused"),
    ("files-are-given-names", "a file without a name is offered with one"),
    ("configurations-have-a-second-file", "offers have a file nobody asked for"),
    ("offered-files-become-text", "the bodies of offered files are made UTF-8"),
    ("content-types-are-dropped", "offered files have no content_type"),
    ("config-hash-ignores-names", "config_hash depends on the bodies alone"),
    ("missed-configurations-are-caught-up", "an agent that was away is offered all it missed"),
    ("omitted-status-is-forgotten", "a message without remote_config_status deletes it"),
];
