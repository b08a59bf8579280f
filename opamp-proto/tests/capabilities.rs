//! The capability sets against the catalogue's schema.

use opamp_proto::{AgentCapabilities, ServerCapabilities};

/// Names and bits of an enum of the schema, without the enum's prefix and the zero value.
fn bits_of(name: &str) -> Vec<(String, u64)> {
    let prefix = format!("{name}_");
    opamp_spec::schema()
        .iter()
        .filter(|row| row.message_or_enum == name)
        .filter_map(|row| Some((row.name.strip_prefix(&prefix)?.to_owned(), row.number?)))
        .filter(|(_, bit)| *bit != 0)
        .collect()
}

/// `ACCEPTS_OPAMP_CONNECTION_SETTINGS` and `AcceptsOpAMPConnectionSettings` alike.
fn folded(name: &str) -> String {
    name.replace('_', "").to_uppercase()
}

macro_rules! check_set {
    ($set:ident) => {
        let schema = bits_of(stringify!($set));
        assert!(!schema.is_empty());
        let constants: Vec<_> =
            $set::all().iter_names().map(|(name, bit)| (folded(name), bit.bits())).collect();
        let expected: Vec<_> = schema.iter().map(|(name, bit)| (folded(name), *bit)).collect();
        assert_eq!(constants, expected);
        for (name, bit) in &schema {
            let set = $set::from_bits_retain(*bit);
            assert_eq!(set.names().collect::<Vec<_>>(), [name.as_str()]);
            assert_eq!(&set.to_string(), name);
        }
        assert!($set::all().names().eq(schema.iter().map(|(name, _)| name.as_str())));
    };
}

#[test]
fn the_sets_have_the_bits_of_the_schema() {
    let _judged = opamp_spec::judges(&["INTEROP-07"]);
    check_set!(AgentCapabilities);
    check_set!(ServerCapabilities);
}

#[test]
fn undefined_bits_are_kept_but_never_sent() {
    let _judged = opamp_spec::judges(&["CAP-01", "CAP-09", "CAP-15", "INTEROP-08"]);
    let agent = AgentCapabilities::from_bits_retain(u64::MAX);
    assert_eq!(agent.bits(), u64::MAX);
    assert_eq!(agent.to_wire(), 0xffff);
    assert_eq!(agent.unknown_bits(), !0xffff);
    let server = ServerCapabilities::from_bits_retain(u64::MAX);
    assert_eq!(server.bits(), u64::MAX);
    assert_eq!(server.to_wire(), 0x7f);
    assert_eq!(server.unknown_bits(), !0x7f);
}

#[test]
fn sets_are_shown_by_the_names_of_the_protocol() {
    let show = |bits| ServerCapabilities::from_bits_retain(bits).to_string();
    assert_eq!(show(0), "none");
    assert_eq!(show(0x3), "AcceptsStatus | OffersRemoteConfig");
    assert_eq!(show(0x180), "0x180");
    assert_eq!(show(0x101), "AcceptsStatus | 0x100");
}
