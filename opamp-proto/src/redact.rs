//! `Debug` of the messages that carry secrets or bulk.
//!
//! Messages end up in logs. What is shown here is what an operator needs to see which message it
//! was: names, kinds and sizes. Header values, private keys, credentials in URLs, settings of
//! unknown meaning and bodies are left out.

use std::fmt;

use crate::v1::{
    AgentConfigFile, CertificateRequest, CustomMessage, DownloadableFile, Header,
    OpAmpConnectionSettings, OtherConnectionSettings, ProxyConnectionSettings,
    TelemetryConnectionSettings, TlsCertificate, TlsConnectionSettings,
};

/// Shows a number of bytes in place of the bytes.
struct Size(usize);

impl fmt::Debug for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

/// Shows that there is something which is not shown.
struct Hidden;

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(redacted)")
    }
}

/// Shows a URL without user, password, query and fragment.
///
/// It works on text that is no valid URL too, and then hides rather too much.
struct Url<'a>(&'a str);

impl fmt::Debug for Url<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = match self.0.split_once("://") {
            Some((scheme, rest)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                (Some(scheme), rest)
            }
            _ => (None, self.0),
        };
        let (head, tail) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
        // An at sign behind a question mark can belong to a query, or end a password that contains
        // one unescaped; a slash before an at sign can be part of a password likewise.
        let shown = match head.rsplit_once('@') {
            _ if tail.contains('@') => "(redacted)".to_owned(),
            Some((_, host_and_path)) => format!("(redacted)@{host_and_path}"),
            None => head.to_owned(),
        };
        let scheme = scheme.map(|scheme| format!("{scheme}://")).unwrap_or_default();
        let tail = if tail.is_empty() { "" } else { "?(redacted)" };
        fmt::Debug::fmt(&format!("{scheme}{shown}{tail}"), f)
    }
}

/// Shows the header's name only.
impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Header").field("key", &self.key).field("value", &Hidden).finish()
    }
}

/// Shows sizes only.
impl fmt::Debug for TlsCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsCertificate")
            .field("cert", &Size(self.cert.len()))
            .field("private_key", &Size(self.private_key.len()))
            .field("ca_cert", &Size(self.ca_cert.len()))
            .finish()
    }
}

/// Shows the size of the certificates, which are public but long.
impl fmt::Debug for TlsConnectionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConnectionSettings")
            .field("ca_pem_contents", &Size(self.ca_pem_contents.len()))
            .field("include_system_ca_certs_pool", &self.include_system_ca_certs_pool)
            .field("insecure_skip_verify", &self.insecure_skip_verify)
            .field("min_version", &self.min_version)
            .field("max_version", &self.max_version)
            .field("cipher_suites", &self.cipher_suites)
            .finish()
    }
}

/// Shows the size only.
impl fmt::Debug for CertificateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateRequest").field("csr", &Size(self.csr.len())).finish()
    }
}

/// Shows the URL without credentials, query and fragment.
impl fmt::Debug for ProxyConnectionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyConnectionSettings")
            .field("url", &Url(&self.url))
            .field("connect_headers", &self.connect_headers)
            .finish()
    }
}

/// Shows the endpoint without credentials, query and fragment.
impl fmt::Debug for OpAmpConnectionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpAmpConnectionSettings")
            .field("destination_endpoint", &Url(&self.destination_endpoint))
            .field("headers", &self.headers)
            .field("certificate", &self.certificate)
            .field("heartbeat_interval_seconds", &self.heartbeat_interval_seconds)
            .field("tls", &self.tls)
            .field("proxy", &self.proxy)
            .finish()
    }
}

/// Shows the endpoint without credentials, query and fragment.
impl fmt::Debug for TelemetryConnectionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TelemetryConnectionSettings")
            .field("destination_endpoint", &Url(&self.destination_endpoint))
            .field("headers", &self.headers)
            .field("certificate", &self.certificate)
            .field("tls", &self.tls)
            .field("proxy", &self.proxy)
            .finish()
    }
}

/// Shows the names of the other settings only, and the endpoint without credentials, query and
/// fragment.
impl fmt::Debug for OtherConnectionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtherConnectionSettings")
            .field("destination_endpoint", &Url(&self.destination_endpoint))
            .field("headers", &self.headers)
            .field("certificate", &self.certificate)
            .field("other_settings", &self.other_settings.keys())
            .field("tls", &self.tls)
            .field("proxy", &self.proxy)
            .finish()
    }
}

/// Shows the URL without credentials, query and fragment.
impl fmt::Debug for DownloadableFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DownloadableFile")
            .field("download_url", &Url(&self.download_url))
            .field("content_hash", &self.content_hash)
            .field("signature", &Size(self.signature.len()))
            .field("headers", &self.headers)
            .finish()
    }
}

/// Shows the content type and the body's size.
impl fmt::Debug for AgentConfigFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentConfigFile")
            .field("body", &Size(self.body.len()))
            .field("content_type", &self.content_type)
            .finish()
    }
}

/// Shows the data's size.
impl fmt::Debug for CustomMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomMessage")
            .field("capability", &self.capability)
            .field("type", &self.r#type)
            .field("data", &Size(self.data.len()))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_show_where_to_but_not_as_whom() {
        for (url, shown) in [
            ("https://host:4320/v1/opamp", "https://host:4320/v1/opamp"),
            ("http://user:hush@proxy:3128", "http://(redacted)@proxy:3128"),
            ("user:hush@proxy:3128", "(redacted)@proxy:3128"),
            ("http://user:hu/sh@proxy", "http://(redacted)@proxy"),
            ("http://user:hu@sh@proxy/p", "http://(redacted)@proxy/p"),
            ("http://user:hu?sh@proxy", "http://(redacted)?(redacted)"),
            ("http://user:hu#sh@proxy", "http://(redacted)?(redacted)"),
            ("user:hu://sh@proxy", "(redacted)@proxy"),
            ("https://host/file?sig=hush", "https://host/file?(redacted)"),
            ("https://host/file#hush", "https://host/file?(redacted)"),
            ("https://host/file?sig=hu@sh", "https://(redacted)?(redacted)"),
            ("", ""),
        ] {
            assert_eq!(format!("{:?}", Url(url)), format!("{shown:?}"));
        }
    }
}
