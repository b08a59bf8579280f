//! TLS settings and certificates as a server offers them, on top of what the agent was started
//! with.
//!
//! | part of the offer | left out | given |
//! | --- | --- | --- |
//! | `certificate` | the local one stays | takes its place (CERT-01); `ca_cert` in it is trusted for nothing (CERT-16) |
//! | `tls` | what the agent was started with (TLS-02) | as below |
//! | `ca_pem_contents` | the local authorities stay | take their place (TLS-03) |
//! | `include_system_ca_certs_pool` | | adds the system's authorities (TLS-04) |
//! | `min_version`, `max_version` | 1.2, no bound (TLS-06, TLS-07) | within the local bounds |
//! | `cipher_suites` | the local ones | those of the local ones that are named (TLS-08) |
//! | `insecure_skip_verify` | verified | only signatures are verified (TLS-05) |

use opamp_proto::v1;

use super::{Tls, TlsVersion};
use crate::error::{Error, ErrorKind};

impl Tls {
    /// What holds with offered settings on top, for a connection to where an agent's own telemetry
    /// goes for example: see [`Connections`](crate::core::Connections).
    ///
    /// A certificate of the offer is presented (CERT-04), its `ca_cert` trusted for nothing
    /// (CERT-16); authorities of the offer are trusted in place of those here (TLS-03), the
    /// system's with them where it says so (TLS-04). Versions and cipher suites can be narrowed,
    /// not widened (TLS-06 to TLS-08). `insecure_skip_verify` is obeyed, but for signatures
    /// (TLS-05): whether it may be is for the caller to decide before.
    ///
    /// # Errors
    ///
    /// When a certificate or a key cannot be read, they do not belong together, or no version or
    /// cipher suite is left.
    pub fn with_offered(
        &self,
        tls: Option<&v1::TlsConnectionSettings>,
        certificate: Option<&v1::TlsCertificate>,
    ) -> Result<Self, Error> {
        let mut result = self.clone();
        if let Some(offered) = tls {
            result.restrict(offered)?;
        }
        if let Some(offered) = certificate.filter(|certificate| !certificate.cert.is_empty()) {
            result = result.identity_pem(&offered.cert, &offered.private_key)?;
        }
        Ok(result)
    }

    fn restrict(&mut self, offered: &v1::TlsConnectionSettings) -> Result<(), Error> {
        let unusable = |message: String| Error::new(ErrorKind::Tls, message);
        if !offered.ca_pem_contents.is_empty() {
            let authorities = Self::new().trust_pem(offered.ca_pem_contents.as_bytes())?;
            self.trusted = authorities.trusted;
            self.files.trusted.clear();
            self.system = false;
        }
        self.system |= offered.include_system_ca_certs_pool;
        self.verify = !offered.insecure_skip_verify;
        if let Some(lowest) = version("min_version", &offered.min_version, TlsVersion::Tls12)? {
            self.lowest = self.lowest.max(lowest);
        }
        if let Some(highest) = version("max_version", &offered.max_version, TlsVersion::Tls13)? {
            self.highest = self.highest.min(highest);
        }
        if self.lowest > self.highest {
            let Self { lowest, highest, .. } = self;
            let message = format!(
                "the TLS settings leave no version: at least {lowest}, at most {highest} (what the \
                 agent was started with can be narrowed, not widened)"
            );
            return Err(unusable(message));
        }
        if !offered.cipher_suites.is_empty() {
            self.suites.retain(|suite| {
                let name = format!("{:?}", suite.suite());
                offered.cipher_suites.iter().any(|wanted| standard_name(&name) == wanted.trim())
            });
            if self.suites.is_empty() {
                return Err(unusable("none of the cipher_suites is available here".to_owned()));
            }
        }
        Ok(())
    }
}

/// Reads `1.2` and `TLSv1.2` and their like (A17); `None` is no bound. What is older than anything
/// here is no bound from below, and out of the question from above.
fn version(field: &str, text: &str, unbounded: TlsVersion) -> Result<Option<TlsVersion>, Error> {
    let number = text.trim().to_ascii_lowercase();
    let number = number.strip_prefix("tls").unwrap_or(&number);
    match number.trim_start_matches(['v', ' ']) {
        "" => Ok(None),
        "1.2" => Ok(Some(TlsVersion::Tls12)),
        "1.3" => Ok(Some(TlsVersion::Tls13)),
        "1.0" | "1.1" | "1" if unbounded == TlsVersion::Tls12 => Ok(None),
        _ => {
            // The text may be long, and is somebody else's.
            let message = format!("{field} is neither 1.2 nor 1.3, and there are no others here");
            Err(Error::new(ErrorKind::Tls, message))
        }
    }
}

/// The library calls the suites of TLS 1.3 by names of its own.
fn standard_name(name: &str) -> String {
    match name.strip_prefix("TLS13_") {
        Some(rest) => format!("TLS_{rest}"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(change: impl FnOnce(&mut v1::TlsConnectionSettings)) -> v1::TlsConnectionSettings {
        let mut offered = v1::TlsConnectionSettings::default();
        change(&mut offered);
        offered
    }

    fn bounds(local: &Tls, low: &str, high: &str) -> Result<(TlsVersion, TlsVersion), Error> {
        let offered = offer(|tls| {
            tls.min_version = low.to_owned();
            tls.max_version = high.to_owned();
        });
        let tls = local.with_offered(Some(&offered), None)?;
        Ok((tls.lowest, tls.highest))
    }

    #[test]
    fn versions_are_read_in_both_forms() {
        let _judged = opamp_spec::judges(&["TLS-06", "TLS-07"]);
        use TlsVersion::{Tls12, Tls13};
        let local = Tls::new();
        assert_eq!(bounds(&local, "", "").unwrap(), (Tls12, Tls13));
        for text in ["1.3", "TLSv1.3", "tls1.3", " TLS 1.3 ", "v1.3"] {
            assert_eq!(bounds(&local, text, "").unwrap(), (Tls13, Tls13), "{text}");
        }
        assert_eq!(bounds(&local, "1.0", "TLSv1.2").unwrap(), (Tls12, Tls12));
        for (low, high) in [("1.3", "1.2"), ("", "1.1"), ("SSLv3", ""), ("1.4", ""), ("", "x")] {
            assert_eq!(bounds(&local, low, high).unwrap_err().kind(), ErrorKind::Tls);
        }
    }

    #[test]
    fn an_offer_narrows_the_local_bounds_and_never_widens_them() {
        use TlsVersion::{Tls12, Tls13};
        let strict = Tls::new().min_version(Tls13);
        assert_eq!(bounds(&strict, "1.2", "").unwrap(), (Tls13, Tls13));
        assert!(bounds(&strict, "", "1.2").is_err());
        let old = Tls::new().max_version(Tls12);
        assert_eq!(bounds(&old, "", "1.3").unwrap(), (Tls12, Tls12));

        let few = offer(|tls| tls.cipher_suites = vec!["TLS_AES_128_GCM_SHA256".to_owned()]);
        let narrowed = Tls::new().with_offered(Some(&few), None).unwrap();
        let other = offer(|tls| tls.cipher_suites = vec!["TLS_AES_256_GCM_SHA384".to_owned()]);
        assert!(narrowed.with_offered(Some(&other), None).is_err());
    }

    #[test]
    fn cipher_suites_are_those_that_are_named_and_available() {
        let _judged = opamp_spec::judges(&["TLS-08"]);
        let named = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let tls =
                Tls::new().with_offered(Some(&offer(|tls| tls.cipher_suites = names)), None)?;
            tls.config().map(|config| config.crypto_provider().cipher_suites.len())
        };
        assert_eq!(named(&[]).unwrap(), 9);
        let old = "TLS_RSA_WITH_AES_128_CBC_SHA";
        let modern = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
        assert_eq!(named(&[old, modern, "TLS_CHACHA20_POLY1305_SHA256"]).unwrap(), 2);
        assert_eq!(named(&[old]).unwrap_err().kind(), ErrorKind::Tls);
    }

    #[test]
    fn suites_of_one_version_with_bounds_to_the_other_leave_nothing() {
        let offered = offer(|tls| {
            tls.min_version = "1.3".to_owned();
            tls.cipher_suites = vec!["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".to_owned()];
        });
        let tls = Tls::new().with_offered(Some(&offered), None).unwrap();
        assert_eq!(tls.config().unwrap_err().kind(), ErrorKind::Tls);
    }
}
