//! Requests: what is read out of them, and what is refused.

use opamp_server::service::InvalidCertificateRequest;
use opamp_server::{CertificateRequest, KeyAlgorithm};
use proptest::prelude::*;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};

use crate::{TEXT, agent, csr, named};

fn parse(csr: &str) -> Result<CertificateRequest, InvalidCertificateRequest> {
    CertificateRequest::parse(agent(), csr.as_bytes())
}

fn with_name(san: SanType) -> String {
    csr(|params| params.subject_alt_names = vec![san])
}

fn uri(uri: &str) -> String {
    with_name(SanType::URI(uri.try_into().unwrap()))
}

/// The same text around other bytes.
fn around(der: &[u8], label: &str) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

#[test]
fn what_is_in_order_is_read() {
    let _judged = opamp_spec::judges(&["CSR-17", "CSR-20"]);
    let request = parse(&named(TEXT)).unwrap();
    assert_eq!(request.names(), [TEXT]);
    assert_eq!(request.key_algorithm(), KeyAlgorithm::EcdsaP256);
    assert_eq!(request.agent(), agent());
    let open = csr(|_| {});
    assert_eq!(parse(&open).unwrap().names(), [""; 0], "it need not name anybody");
    assert_eq!(parse(&named("OpAMP Example Client")).unwrap().names(), ["OpAMP Example Client"]);
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        assert!(parse(&request.pem().unwrap()).is_ok());
    }
    assert_eq!(
        parse(include_str!("requests/rsa-2048.pem")).unwrap().key_algorithm(),
        KeyAlgorithm::Rsa(2048)
    );
    assert!(parse(&around(request.der(), "CERTIFICATE REQUEST")).is_ok());
}

#[test]
fn a_broken_signature_is_noticed() {
    let _judged = opamp_spec::judges(&["CSR-17"]);
    let good = parse(&named(TEXT)).unwrap();
    let mut other_key = good.der().to_vec();
    let last = other_key.len() - 1;
    other_key[last] ^= 1;
    let broken = parse(&around(&other_key, "CERTIFICATE REQUEST"));
    assert_eq!(broken.unwrap_err(), InvalidCertificateRequest::Signature);

    // Another name under the same signature.
    let mut other_name = good.der().to_vec();
    let at = other_name.windows(TEXT.len()).position(|window| window == TEXT.as_bytes()).unwrap();
    other_name[at] ^= 1;
    let broken = parse(&around(&other_name, "CERTIFICATE REQUEST"));
    assert_eq!(broken.unwrap_err(), InvalidCertificateRequest::Signature);
}

#[test]
fn weak_and_odd_keys_are_refused() {
    let _judged = opamp_spec::judges(&["CSR-17"]);
    for (name, csr) in [
        ("1024 bits", include_str!("requests/rsa-1024.pem")),
        ("4104 bits", include_str!("requests/rsa-4104.pem")),
        ("exponent 3", include_str!("requests/rsa-exponent-3.pem")),
        ("SHA-1", include_str!("requests/rsa-2048-sha1.pem")),
        ("PSS", include_str!("requests/rsa-2048-pss.pem")),
        ("P-521", include_str!("requests/p521.pem")),
        ("secp256k1", include_str!("requests/secp256k1.pem")),
    ] {
        assert_eq!(parse(csr).unwrap_err(), InvalidCertificateRequest::Algorithm, "{name}");
    }
}

#[test]
fn no_request_names_another_agent_wherever_that_stands() {
    let _judged = opamp_spec::judges(&["CSR-20"]);
    let other = "08080808-0808-0808-0808-080808080808";
    let dns = |name: String| with_name(SanType::DnsName(name.try_into().unwrap()));
    let both = csr(|params| {
        params.distinguished_name.push(DnType::CommonName, TEXT);
        params.subject_alt_names =
            vec![SanType::URI(format!("urn:uuid:{other}").try_into().unwrap())];
    });
    for csr in [
        named(other),
        named(&other.replace('-', "")),
        named(&format!("agent {other}")),
        uri(&format!("urn:uuid:{other}")),
        uri(&format!("spiffe://example.org/{TEXT}/{other}")),
        dns(format!("{other}.agents.example")),
        both,
    ] {
        let refused = parse(&csr).unwrap_err();
        let other = other.parse().unwrap();
        assert_eq!(refused, InvalidCertificateRequest::AnotherAgent(other), "{csr}");
    }
    for csr in [
        named(&TEXT.to_uppercase()),
        uri(&format!("urn:uuid:{TEXT}")),
        uri(&format!("spiffe://example.org/{TEXT}")),
        dns(format!("{TEXT}.agents.example")),
    ] {
        assert!(parse(&csr).is_ok(), "{csr}");
    }
}

#[test]
fn what_is_no_single_request_is_refused() {
    let _judged = opamp_spec::judges(&["CSR-17"]);
    let good = named(TEXT);
    let der = parse(&good).unwrap().der().to_vec();
    let longer = [&der[..], &[0]].concat();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::default().self_signed(&key).unwrap().pem();
    let many = csr(|params| {
        let name = |number| SanType::DnsName(format!("a{number}.example").try_into().unwrap());
        params.subject_alt_names = (0..33).map(name).collect();
    });
    for (name, csr) in [
        ("nothing", String::new()),
        ("words", "please".to_owned()),
        ("a certificate", certificate),
        ("a key", key.serialize_pem()),
        ("two", good.clone() + &good),
        ("no end", good[..good.len() - 10].to_owned()),
        ("other bytes", around(b"\x30\x82\xff\xff", "CERTIFICATE REQUEST")),
        ("no bytes", around(b"", "CERTIFICATE REQUEST")),
        ("a byte too many", around(&longer, "CERTIFICATE REQUEST")),
        ("a byte less", around(&der[..der.len() - 1], "CERTIFICATE REQUEST")),
        ("a hundred thousand openings", "-----BEGIN ".repeat(100_000)),
        ("many names", many),
    ] {
        let refused = parse(&csr).unwrap_err();
        let unreadable = matches!(refused, InvalidCertificateRequest::Unreadable(_));
        assert!(unreadable, "{name}: {refused}");
        assert!(refused.to_string().len() < 256, "it is told as a whole");
    }
}

proptest! {
    /// Damage to anything that the signature covers is noticed. What is around that, such as the
    /// tag of the outermost sequence, may be read leniently.
    #[test]
    fn no_damaged_request_is_read_as_another(
        at in any::<prop::sample::Index>(),
        with in 1..=255_u8,
    ) {
        let whole = parse(&named(TEXT)).unwrap();
        let mut der = whole.der().to_vec();
        let at = at.index(der.len());
        der[at] ^= with;
        if let Ok(damaged) = parse(&around(&der, "CERTIFICATE REQUEST")) {
            prop_assert_eq!(damaged.names(), whole.names());
            prop_assert_eq!(damaged.public_key(), whole.public_key());
        }
    }

    #[test]
    fn any_bytes_are_refused(der in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(parse(&around(&der, "CERTIFICATE REQUEST")).is_err());
    }
}
