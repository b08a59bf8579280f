//! What a failure of TLS means for whoever has to do something about it.

use std::error::Error as StdError;
use std::io;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

/// What to do about an error that TLS is at the bottom of; `None` for any other.
pub(crate) fn explain(error: &(dyn StdError + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<Error>() {
            return Some(match advice(tls) {
                Some(advice) => format!("{advice} ({tls})"),
                None => tls.to_string(),
            });
        }
        // An I/O error hides from `source` what it wraps, and TLS errors come wrapped in those.
        next = match error.downcast_ref::<io::Error>() {
            Some(error) => error.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

fn advice(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::InvalidCertificate(error) => match error {
            CertificateError::UnknownIssuer => {
                "the server's certificate is of an authority that is not trusted here"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the server's certificate has expired, or the clock here is wrong"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet, or the clock here is wrong"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the server's certificate is for another name than the URL's"
            }
            CertificateError::Revoked => "the server's certificate was revoked",
            _ => "the server's certificate is not usable",
        },
        Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => {
                "the server wants a client certificate, and none was shown"
            }
            AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied => "the server refuses the client certificate",
            AlertDescription::ProtocolVersion => "the server speaks none of the TLS versions",
            AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
                "the server accepts none of the TLS versions or cipher suites, or wants a client \
                 certificate"
            }
            AlertDescription::UnrecognisedName => "the server does not know the name in the URL",
            _ => return None,
        },
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        ) => "the server speaks none of the TLS versions",
        Error::InvalidMessage(_) => "what answers does not speak TLS",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_tls_is_found_however_deep_it_lies() {
        let tls = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let deep = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls));
        let text = explain(&deep).unwrap();
        assert!(text.contains("authority that is not trusted"), "{text}");
        assert_eq!(explain(&io::Error::other("the cable")), None);
    }

    #[test]
    fn each_reason_says_what_to_do() {
        let of = |error: Error| explain(&error).unwrap();
        assert!(of(CertificateError::Expired.into()).contains("expired"));
        assert!(of(CertificateError::NotValidForName.into()).contains("another name"));
        let refused = of(Error::AlertReceived(AlertDescription::UnknownCA));
        assert!(refused.contains("refuses the client certificate"), "{refused}");
        let none = of(Error::AlertReceived(AlertDescription::CertificateRequired));
        assert!(none.contains("wants a client certificate"), "{none}");
        assert!(of(Error::AlertReceived(AlertDescription::ProtocolVersion)).contains("versions"));
        assert!(of(Error::General("something else".to_owned())).contains("something else"));
    }
}
