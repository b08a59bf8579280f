//! What the authority makes, and with what it cannot be one.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use opamp_server::service::{Error, ErrorKind};
use opamp_server::{
    CertificateAuthority as _, CertificateRequest, IssuedCertificate, LocalCa, Revocations, Revoked,
};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::{Made, TEXT, agent, authority, csr, intermediate, named};

async fn issue(ca: &LocalCa, csr: &str) -> IssuedCertificate {
    let request = CertificateRequest::parse(agent(), csr.as_bytes()).unwrap();
    ca.issue(&request).await.unwrap()
}

/// Looks at the first certificate of a text.
fn look<T>(pem: &str, look: impl FnOnce(&X509Certificate<'_>) -> T) -> T {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    look(&certificate)
}

/// Whether a TLS server that trusts the last certificate of `authority` takes this one.
fn is_taken(authority: &str, chain: &str, lists: Option<&str>) -> bool {
    let all = |pem: &str| {
        CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect::<Vec<_>>()
    };
    let mut roots = RootCertStore::empty();
    roots.add(all(authority).pop().unwrap()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
    if let Some(list) = lists {
        let list = CertificateRevocationListDer::from_pem_slice(list.as_bytes()).unwrap();
        verifier = verifier.with_crls([list]).allow_unknown_revocation_status();
    }
    let chain = all(chain);
    let verifier = verifier.build().unwrap();
    verifier.verify_client_cert(&chain[0], &chain[1..], UnixTime::now()).is_ok()
}

#[tokio::test]
async fn a_certificate_is_made_by_the_authoritys_rules() {
    let _judged = opamp_spec::judges(&["CSR-11", "CSR-12", "CERT-10", "CERT-11", "CERT-13"]);
    let made = authority(|_| {});
    let ca = made.ca();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, TEXT);
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let issued = issue(&ca, &csr).await;
    assert_eq!(issued.authority.as_deref(), Some(ca.authority_pem()));
    assert!(is_taken(ca.authority_pem(), &issued.certificate, None));
    look(&issued.certificate, |certificate| {
        assert_eq!(certificate.public_key().raw, key.subject_public_key_info());
        let mut names = certificate.subject().iter_attributes();
        assert_eq!(names.next().unwrap().as_str().unwrap(), TEXT);
        assert!(names.next().is_none());
        let alternatives = certificate.subject_alternative_name().unwrap().unwrap();
        let urn = format!("urn:uuid:{TEXT}");
        assert_eq!(alternatives.value.general_names, [GeneralName::URI(&urn)]);
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any && !usage.code_signing);
        assert!(!certificate.is_ca());
        let usage = certificate.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
        let validity = certificate.validity();
        let days = (validity.not_after.timestamp() - validity.not_before.timestamp()) / 86_400;
        assert_eq!(days, 30);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let began = u64::try_from(validity.not_before.timestamp()).unwrap();
        assert!((299..=330).contains(&(now - began)), "a little before");
    });
}

#[tokio::test]
async fn of_a_request_nothing_but_the_key_is_taken() {
    let _judged = opamp_spec::judges(&["CSR-11", "CSR-20"]);
    let made = authority(|_| {});
    let greedy = csr(|params| {
        params.distinguished_name.push(DnType::CommonName, "root of all");
        params.distinguished_name.push(DnType::OrganizationName, "the operator");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::Any];
        params.subject_alt_names = vec![
            SanType::DnsName("opamp.example".try_into().unwrap()),
            SanType::IpAddress([127, 0, 0, 1].into()),
            SanType::Rfc822Name("root@example.org".try_into().unwrap()),
            SanType::URI("spiffe://example.org/server".try_into().unwrap()),
        ];
        params.custom_extensions =
            vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0])];
    });
    let issued = issue(&made.ca(), &greedy).await;
    look(&issued.certificate, |certificate| {
        assert!(!certificate.is_ca());
        assert_eq!(certificate.subject().to_string(), format!("CN={TEXT}"));
        let alternatives = certificate.subject_alternative_name().unwrap().unwrap();
        assert_eq!(alternatives.value.general_names.len(), 1);
        assert!(!certificate.extended_key_usage().unwrap().unwrap().value.server_auth);
        assert!(!certificate.key_usage().unwrap().unwrap().value.key_cert_sign());
        let known = ["2.5.29.35", "2.5.29.17", "2.5.29.15", "2.5.29.37", "2.5.29.14", "2.5.29.19"];
        for extension in certificate.extensions() {
            assert!(known.contains(&extension.oid.to_id_string().as_str()), "{}", extension.oid);
        }
    });
}

#[tokio::test]
async fn serial_numbers_are_random_and_proper() {
    let ca = authority(|_| {}).ca();
    let csr = named(TEXT);
    let mut serials = BTreeSet::new();
    for _ in 0..20 {
        let issued = issue(&ca, &csr).await;
        let serial = look(&issued.certificate, |certificate| certificate.raw_serial().to_vec());
        // Positive, and without a zero in front.
        assert!(serial.len() == 16 && (0x40..0x80).contains(&serial[0]));
        serials.insert(serial);
    }
    assert_eq!(serials.len(), 20);
}

#[tokio::test]
async fn no_certificate_outlives_its_authority() {
    let day = Duration::from_secs(86_400);
    let made = authority(|params| params.not_after = (SystemTime::now() + 10 * day).into());
    let issued = issue(&made.ca().validity(365 * day), &named(TEXT)).await;
    let end = look(&made.certificate, |ca| ca.validity().not_after.timestamp());
    let at = look(&issued.certificate, |it| it.validity().not_after.timestamp());
    assert!((end - 2..=end).contains(&at));
    let short = issue(&made.ca().validity(day), &named(TEXT)).await;
    assert!(look(&short.certificate, |it| it.validity().not_after.timestamp()) < end - 8 * 86_400);
    // Nor does a time beyond all time do harm.
    let _ = issue(&made.ca().validity(Duration::MAX), &named(TEXT)).await;
}

#[tokio::test]
async fn an_authority_below_another_sends_the_chain_along() {
    let _judged = opamp_spec::judges(&["CERT-10", "CERT-13"]);
    let made = intermediate();
    let ca = made.ca();
    let issued = issue(&ca, &named(TEXT)).await;
    assert!(is_taken(ca.authority_pem(), &issued.certificate, None));
    let between = |pem: &str| pem.matches("BEGIN CERTIFICATE").count();
    assert_eq!((between(&issued.certificate), between(ca.authority_pem())), (2, 2));
}

#[test]
fn credentials_have_a_key_of_their_own() {
    let _judged = opamp_spec::judges(&["CERT-12", "CERT-13"]);
    let ca = authority(|_| {}).ca();
    let credentials = ca.credentials(agent()).unwrap();
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap().to_owned();
    let key = KeyPair::from_pem(&text(&credentials.private_key)).unwrap();
    let certificate = text(&credentials.cert);
    assert!(is_taken(&text(&credentials.ca_cert), &certificate, None));
    look(&certificate, |it| assert_eq!(it.public_key().raw, key.subject_public_key_info()));
}

#[tokio::test]
async fn other_verifiers_can_have_a_list_of_what_is_revoked() {
    let made = authority(|_| {});
    let ca = made.ca();
    let [good, bad] = [issue(&ca, &named(TEXT)).await, issue(&ca, &named(TEXT)).await];
    let revocations = Revocations::new();
    let serial = look(&bad.certificate, |it| it.raw_serial_as_string()).parse().unwrap();
    revocations.revoke(Revoked::Serial(serial), SystemTime::now()).unwrap();
    let list = ca.revocation_list(&revocations, Duration::from_secs(86_400)).unwrap();
    assert!(is_taken(&made.certificate, &good.certificate, Some(&list)));
    assert!(!is_taken(&made.certificate, &bad.certificate, Some(&list)));

    let mute = authority(|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]).ca();
    let error = mute.revocation_list(&revocations, Duration::from_secs(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authority);
}

fn refused(made: &Made) -> String {
    use std::error::Error as _;
    let error: Error =
        LocalCa::from_pem(made.certificate.as_bytes(), made.key.as_bytes()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authority);
    let text = error.source().unwrap().to_string();
    assert!(!format!("{error:?} {text}").contains("PRIVATE KEY-"), "{text}");
    text
}

#[test]
fn what_cannot_be_an_authority_is_said() {
    let good = || authority(|_| {});
    let certificate = |certificate: &str| Made { certificate: certificate.to_owned(), ..good() };
    let key = |key: &str| Made { key: key.to_owned(), ..good() };
    let day = Duration::from_secs(86_400);
    let now = SystemTime::now();
    // Only what is in PKCS#8 can be read.
    let other_form = good().key.replace("PRIVATE KEY", "EC PRIVATE KEY").replace("MIG", "MHc");
    for (made, words) in [
        (certificate(""), "no certificate"),
        (certificate("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"), "damaged"),
        (certificate(&good().certificate), "not that of the certificate"),
        (key(""), "no private key"),
        (key("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"), "PKCS#8"),
        (key(&other_form), "PKCS#8"),
        (authority(|params| params.is_ca = IsCa::NoCa), "not that of an authority"),
        (
            authority(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
            "may not sign",
        ),
        (authority(|params| params.not_after = (now - day).into()), "expired on"),
        (authority(|params| params.not_before = (now + day).into()), "valid from"),
    ] {
        let text = refused(&made);
        assert!(text.contains(words), "{text:?} does not say {words:?}");
    }
    let ca = good().ca();
    assert!(!format!("{ca:?}").contains("key"));
}
