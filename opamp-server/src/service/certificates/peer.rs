//! What a certificate says of its holder: the serial number, and the instance uid it names.

use std::fmt;
use std::str::FromStr;

use opamp_proto::{InstanceUid, LegacyUid};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

use crate::service::PeerCertificates;

/// A certificate's serial number.
///
/// ```
/// use opamp_server::CertificateSerial;
///
/// let serial: CertificateSerial = "01:AB:cd".parse()?;
/// assert_eq!(serial.to_string(), "01abcd");
/// assert_eq!("1abcd".parse(), Ok(serial));
/// # Ok::<(), opamp_server::service::InvalidSerial>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertificateSerial(Box<[u8]>);

impl CertificateSerial {
    /// A number as bytes, the most significant first.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Self(bytes[zeros..].into())
    }

    /// The bytes without leading zeros, the most significant first.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Writes lower-case hexadecimal digits, two for each byte.
impl fmt::Display for CertificateSerial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("00");
        }
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CertificateSerial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateSerial({self})")
    }
}

/// Not a serial number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not the serial number of a certificate: up to 40 hexadecimal digits, with or without colons"
)]
pub struct InvalidSerial;

/// Reads hexadecimal digits of either case, with or without colons.
impl FromStr for CertificateSerial {
    type Err = InvalidSerial;

    fn from_str(text: &str) -> Result<Self, InvalidSerial> {
        let digits: Option<Vec<u8>> = text
            .chars()
            .filter(|digit| *digit != ':')
            .map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect();
        let digits = digits.filter(|digits| (1..=40).contains(&digits.len()));
        let digits = digits.ok_or(InvalidSerial)?;
        let (odd, pairs) = digits.split_at(digits.len() % 2);
        let bytes: Vec<u8> =
            odd.iter().copied().chain(pairs.chunks(2).map(|pair| pair[0] << 4 | pair[1])).collect();
        Ok(Self::from_bytes(&bytes))
    }
}

/// What the peer's own certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::service) struct Named {
    pub(in crate::service) serial: CertificateSerial,
    pub(in crate::service) instance_uid: Option<InstanceUid>,
}

impl Named {
    /// What the first of these certificates says; `None` if it cannot be read.
    pub(in crate::service) fn of(peer: &PeerCertificates) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(peer.0.first()?).ok()?;
        let serial = CertificateSerial::from_bytes(certificate.raw_serial());
        Some(Self { serial, instance_uid: named_uid(&certificate) })
    }
}

impl PeerCertificates {
    /// The serial number of the peer's own certificate; `None` if that cannot be read.
    #[must_use]
    pub fn serial(&self) -> Option<CertificateSerial> {
        Named::of(self).map(|named| named.serial)
    }

    /// The instance uid that the peer's own certificate is for: its URI `urn:uuid:…`, or the common
    /// name if that is a UUID. `None` if it names none, or several (CSR-19).
    ///
    /// Whoever has the certificate's key is that Agent, as far as the authority is to be trusted.
    /// An Agent that was just renamed still has the certificate of its old uid, and must be let in
    /// with that to ask for the next one (CSR-22).
    ///
    /// ```
    /// use opamp_proto::InstanceUid;
    /// use opamp_server::{Handler, PeerCertificates, Rejection};
    ///
    /// /// Knows Agents by the uid in their certificates.
    /// struct ByCertificate;
    ///
    /// impl Handler for ByCertificate {
    ///     type Identity = InstanceUid;
    ///
    ///     async fn admit(&self, request: &http::request::Parts) -> Result<InstanceUid, Rejection> {
    ///         let peer = request.extensions.get::<PeerCertificates>();
    ///         peer.and_then(PeerCertificates::instance_uid).ok_or_else(Rejection::forbidden)
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn instance_uid(&self) -> Option<InstanceUid> {
        Named::of(self)?.instance_uid
    }
}

fn named_uid(certificate: &X509Certificate<'_>) -> Option<InstanceUid> {
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let alternatives = alternatives.map(|extension| &extension.value.general_names);
    let uris = alternatives.into_iter().flatten().filter_map(|name| match name {
        GeneralName::URI(uri) => uuid_of_urn(uri),
        _ => None,
    });
    let common = common_names(certificate.subject()).filter_map(uuid);
    let mut uids = uris.chain(common);
    let first = uids.next()?;
    uids.all(|uid| uid == first).then_some(first)
}

fn common_names<'a>(subject: &'a X509Name<'a>) -> impl Iterator<Item = &'a str> {
    subject.iter_common_name().filter_map(|name| name.as_str().ok())
}

fn uuid_of_urn(uri: &str) -> Option<InstanceUid> {
    let (scheme, uid) = uri.split_at_checked("urn:uuid:".len())?;
    uuid(uid).filter(|_| scheme.eq_ignore_ascii_case("urn:uuid:"))
}

/// The canonical form alone.
fn uuid(text: &str) -> Option<InstanceUid> {
    let is_hyphenated = text.len() == 36 && text.as_bytes()[8] == b'-';
    text.parse().ok().filter(|_| is_hyphenated)
}

/// Every UUID in a text: in canonical form anywhere, as 32 digits if they are a word.
pub(super) fn uuids_in(text: &str) -> impl Iterator<Item = InstanceUid> {
    let hyphenated = text.as_bytes().windows(36).filter(|window| {
        window.iter().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
    });
    let hyphenated = hyphenated.filter_map(|window| std::str::from_utf8(window).ok());
    let words = text
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let words = words.filter_map(|word| LegacyUid::parse(word.as_bytes()));
    hyphenated.filter_map(|uid| uid.parse().ok()).chain(words.map(|legacy| legacy.uid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    #[test]
    fn serials_are_numbers() {
        let serial = |text: &str| text.parse::<CertificateSerial>();
        assert_eq!(serial("0:01"), serial("1"));
        assert_eq!(serial("00").unwrap(), CertificateSerial::from_bytes(&[]));
        assert_eq!(serial("00").unwrap().to_string(), "00");
        assert_eq!(serial("FFfe").unwrap().as_bytes(), [0xff, 0xfe]);
        for wrong in ["", ":", "x1", "1 2", &"1".repeat(41)] {
            assert_eq!(serial(wrong), Err(InvalidSerial), "{wrong}");
        }
    }

    #[test]
    fn uids_are_found_wherever_they_stand() {
        let uid: InstanceUid = UUID.parse().unwrap();
        let found = |text: &str| uuids_in(text).collect::<Vec<_>>();
        for text in [
            UUID.to_owned(),
            UUID.to_uppercase(),
            UUID.replace('-', ""),
            format!("urn:uuid:{UUID}"),
            format!("spiffe://example.org/agents/{UUID}"),
            format!("{UUID}.agents.example.org"),
            format!("agent-{UUID}, the first"),
            format!("dead-{UUID}-beef"),
        ] {
            assert_eq!(found(&text), [uid], "{text}");
        }
        for text in ["", "agent", "01890a5d", "é", &"g".repeat(36)] {
            assert_eq!(found(text), [], "{text}");
        }
        assert_eq!(uuid(&UUID.replace('-', "")), None);
        assert_eq!(uuid_of_urn(&format!("URN:UUID:{UUID}")), Some(uid));
        assert_eq!(uuid_of_urn(UUID), None);
    }
}
