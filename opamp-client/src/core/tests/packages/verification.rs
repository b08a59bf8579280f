//! Nothing unverified is ever handed over (W-21 of the reference).

use bytes::Bytes;
use opamp_proto::v1::PackageStatusEnum as State;

use super::depot::{Depot, addon, content_hash, sha256};
use crate::core::packages::{
    Evidence, FetchFailure, FetchFailureKind, Fetched, Rejection, SignaturePolicy,
};

/// A package of this content, with this signature.
fn signed(content: &str, signature: &'static [u8]) -> opamp_proto::v1::PackageAvailable {
    let mut package = addon("1", content);
    package.file.as_mut().unwrap().signature = Bytes::from_static(signature);
    package
}

fn evidence(content: &str, signature: Option<Result<(), String>>) -> Evidence {
    Evidence { len: content.len() as u64, sha256: sha256(content), signature }
}

#[test]
fn other_content_than_was_offered_is_refused() {
    let _judged = opamp_spec::judges(&["PKG-71", "SEC-01"]);
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    // Once may be an accident of the way.
    depot.fetched("plugin", "tampered with");
    depot.expect_nothing_handed();
    depot.wait();
    depot.fetched("plugin", "tampered with");
    depot.expect_nothing_handed();
    let status = depot.status("plugin");
    assert_eq!(status.status, State::InstallFailed as i32);
    assert_eq!(status.error_message, "the content does not match its content_hash");
    assert_eq!(depot.pair.until_timeout(), None);
}

#[test]
fn the_verdict_on_one_file_is_none_on_another() {
    let mut depot = Depot::new();
    depot.offer("all", &[("a", addon("1", "a")), ("b", addon("1", "b"))]);
    let (a, b) = (depot.fetch_of("a"), depot.fetch_of("b"));
    let verified = b.expected.judge(evidence("b", None)).unwrap();
    assert_eq!((verified.sha256(), verified.len()), (&sha256("b"), 1));
    let fetched = Fetched { verified, location: "/store/b".into() };
    depot.fetches.clear();
    depot.pair.core.handle_fetched(a.ticket, Ok(fetched), depot.pair.now);
    depot.settle();
    depot.expect_nothing_handed();
    assert_ne!(depot.state("a"), State::Installing);
}

#[test]
fn without_a_sha256_a_package_that_is_verified_by_hash_is_refused() {
    let _judged = opamp_spec::judges(&["PKG-71"]);
    let mut package = addon("1", "one");
    package.file.as_mut().unwrap().content_hash = Bytes::from_static(b"opaque");
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", package.clone())]);
    depot.expect_no_fetch();
    let why = "content_hash is not a SHA-256, so the content cannot be verified";
    assert_eq!(depot.status("plugin").error_message, why);

    // A signature is as good (A22).
    package.file.as_mut().unwrap().signature = Bytes::from_static(b"signature");
    let mut depot = Depot::configured(|config| config.signatures = SignaturePolicy::Required);
    depot.offer("all", &[("plugin", package)]);
    depot.install("plugin", "one");
}

#[test]
fn an_unsigned_package_is_not_even_downloaded_where_signatures_are_required() {
    let _judged = opamp_spec::judges(&["PKG-72", "SEC-13"]);
    let mut depot = Depot::configured(|config| config.signatures = SignaturePolicy::Required);
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    depot.expect_no_fetch();
    let why = "the package is not signed, and this agent takes signed packages only";
    assert_eq!(depot.status("plugin").error_message, why);
}

#[test]
fn a_signature_is_judged_by_the_policy() {
    let _judged = opamp_spec::judges(&["PKG-72", "SEC-13"]);
    use SignaturePolicy::{IfPresent, Ignored, Required};
    let bad = || Some(Err("forged".to_owned()));
    for (policy, signature, verdict, taken) in [
        (Required, &b"s"[..], Some(Ok(())), true),
        (Required, b"s", bad(), false),
        // A signature that nobody looked at is none.
        (Required, b"s", None, false),
        (IfPresent, b"s", Some(Ok(())), true),
        (IfPresent, b"s", bad(), false),
        (IfPresent, b"s", None, false),
        (IfPresent, b"", None, true),
        (Ignored, b"s", bad(), true),
        (Ignored, b"s", None, true),
        (Ignored, b"", None, true),
    ] {
        let mut depot = Depot::configured(|config| config.signatures = policy);
        depot.offer("all", &[("plugin", signed("one", signature))]);
        let expected = depot.fetch_of("plugin").expected;
        assert_eq!(expected.signature().is_some(), policy != Ignored && !signature.is_empty());
        let judged = expected.judge(evidence("one", verdict.clone()));
        assert_eq!(judged.is_ok(), taken, "{policy:?} {verdict:?}: {judged:?}");
        // Whatever the signature, other bytes are other bytes.
        let judged = expected.judge(evidence("two", verdict));
        assert_eq!(judged, Err(Rejection::WrongContent));
    }
}

#[test]
fn a_bad_signature_is_told_and_not_tried_again() {
    let _judged = opamp_spec::judges(&["PKG-72", "SEC-13", "PKG-63"]);
    let mut depot = Depot::configured(|config| config.signatures = SignaturePolicy::Required);
    depot.offer("all", &[("plugin", signed("one", b"s"))]);
    let expected = depot.fetch_of("plugin").expected;
    let rejection = expected.judge(evidence("one", Some(Err("forged".to_owned())))).unwrap_err();
    depot.fetch_failed(
        "plugin",
        FetchFailure { kind: FetchFailureKind::Permanent, why: rejection.to_string(), received: 3 },
    );
    let status = depot.status("plugin");
    assert_eq!(status.error_message, "the signature is not valid: forged");
    assert_eq!(depot.pair.until_timeout(), None);
}

#[test]
fn another_signature_is_another_download() {
    let mut depot = Depot::configured(|config| config.signatures = SignaturePolicy::Required);
    depot.offer("first", &[("plugin", signed("one", b"s"))]);
    depot.offer("second", &[("plugin", signed("one", b"t"))]);
    assert_eq!(depot.cancelled.len(), 1);
    let expected = depot.fetch_of("plugin").expected;
    assert_eq!(expected.signature(), Some(&Bytes::from_static(b"t")));
    assert_eq!(
        expected.sha256().map(|hash| Bytes::copy_from_slice(hash)),
        Some(content_hash("one"))
    );
}
