//! Keys and signing requests of the agent's own, and when a certificate has to be renewed.

use std::time::{Duration, SystemTime};

use opamp_proto::InstanceUid;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::core::CertificateRequest;

/// The common name of a certificate that names no uid.
const NAMELESS: &str = "OpAMP agent";

/// A new key (ECDSA, P-256) and a request signed with it, whose common name is the uid (CSR-04,
/// CSR-05, CSR-19).
pub(crate) fn make(instance_uid: Option<InstanceUid>) -> Result<CertificateRequest, String> {
    let make = || {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let name = instance_uid.map_or_else(|| NAMELESS.to_owned(), |uid| uid.to_string());
        params.distinguished_name.push(DnType::CommonName, name);
        let request = params.serialize_request(&key)?.pem()?;
        Ok(CertificateRequest::new(key.serialize_pem(), request))
    };
    make().map_err(|error: rcgen::Error| format!("no certificate request can be made: {error}"))
}

/// When a certificate in PEM has to be renewed: between two thirds and three quarters of the time
/// it is valid (CSR-16), as `seed` says, so that those that were issued together are not renewed
/// together. `None` for one that cannot be read.
pub(crate) fn renewal_of(pem: &[u8], seed: u64) -> Option<SystemTime> {
    let der = CertificateDer::from_pem_slice(pem).ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).ok();
    let validity = certificate.validity();
    let (begin, end) = (seconds(validity.not_before)?, seconds(validity.not_after)?);
    let time = Duration::from_secs(end.checked_sub(begin)?);
    let spread = f64::from(u32::try_from(seed >> 32).ok()?) / f64::from(u32::MAX);
    let due = (time / 3 * 2).checked_add((time / 12).mul_f64(spread))?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(begin).checked_add(due)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_signed_with_its_key_and_names_the_uid() {
        let _judged = opamp_spec::judges(&["CSR-04", "CSR-05", "CSR-19"]);
        let uid = InstanceUid::from_parts(1, [7; 10]);
        for (asked, name) in [(Some(uid), uid.to_string()), (None, NAMELESS.to_owned())] {
            let made = make(asked).unwrap();
            let pem = std::str::from_utf8(&made.csr).unwrap();
            let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
            assert_eq!(pem.label, "CERTIFICATE REQUEST");
            let (_, request) = <x509_parser::certification_request::X509CertificationRequest<'_> as
                x509_parser::prelude::FromDer<'_, _>>::from_der(&pem.contents)
            .unwrap();
            let info = &request.certification_request_info;
            let named = info.subject.iter_common_name().next().unwrap().as_str().unwrap();
            assert_eq!(named, name);
            let key = KeyPair::from_pem(std::str::from_utf8(&made.private_key).unwrap()).unwrap();
            use rcgen::PublicKeyData as _;
            assert_eq!(info.subject_pki.raw, key.subject_public_key_info());
        }
        assert_ne!(make(None).unwrap().private_key, make(None).unwrap().private_key);
    }

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_time_and_not_with_all_others() {
        let _judged = opamp_spec::judges(&["CSR-16"]);
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 2, 6);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let day = |day| {
            let time = rcgen::date_time_ymd(2026, 1, day).unix_timestamp();
            SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(time).unwrap())
        };
        let due = |seed| renewal_of(pem.as_bytes(), seed).unwrap();
        assert_eq!((due(0), due(u64::MAX)), (day(25), day(28)));
        // Agents whose seeds differ are spread over that time.
        let mut hours: Vec<_> = (0..72_u64)
            .map(|agent| due(agent.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
            .map(|due| due.duration_since(day(25)).unwrap().as_secs() / 3600)
            .collect();
        hours.sort_unstable();
        hours.dedup();
        assert!(hours.len() > 50, "{hours:?}");
        assert_eq!(renewal_of(b"no certificate", 0), None);
    }
}
