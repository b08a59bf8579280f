//! Faults of connection settings, TLS, proxies and certificates.

use crate::reference::Fault;

pub(super) const FAULTS: &[Fault] = &[
    ("settings-status-is-never-reported", "no status of offered connection settings is reported"),
    (
        "settings-status-has-an-old-hash",
        "the status of offered settings has another hash than they",
    ),
    ("applying-is-not-reported", "leaving for offered settings is not announced"),
    ("applied-is-not-reported", "settings in use are never reported as applied"),
    ("applied-with-an-error-text", "with APPLIED comes an error text"),
    ("failed-is-not-reported", "settings that failed are not reported as such"),
    ("offered-endpoint-is-not-used", "the endpoint of an offer is ignored"),
    ("the-old-connection-is-kept", "the old WebSocket stays open when offered settings are tried"),
    ("offered-headers-are-not-sent", "the header fields of an offer are ignored"),
    ("only-one-header-of-a-name", "of several header fields of one name only the last is sent"),
    ("any-offer-reconnects", "an offer without a part for OpAMP makes the client reconnect"),
    ("candidate-is-not-kept", "settings that are being tried are lost in a crash"),
    (
        "settings-are-accepted-untried",
        "offered settings replace those in use before they are tried",
    ),
    ("no-fallback", "offered settings are tried for ever"),
    ("servers-are-not-verified", "any certificate of a server is accepted"),
    ("accepted-settings-are-not-kept", "settings that an offer brought are lost with the process"),
    //
    ("offered-authority-is-not-trusted", "the authority in offered TLS settings is ignored"),
    ("tls-settings-left-out-are-forgotten", "an offer without TLS settings clears them"),
    ("no-verification-is-refused-silently", "offers to verify nothing are refused without a word"),
    ("lowest-tls-version-is-ignored", "min_version of an offer has no effect"),
    ("highest-tls-version-is-ignored", "max_version of an offer has no effect"),
    ("cipher-suites-are-ignored", "the cipher suites of an offer have no effect"),
    //
    ("proxy-is-ignored", "connections go past an offered proxy"),
    ("connect-headers-are-not-sent", "the header fields for a proxy are ignored"),
    ("proxy-left-out-is-forgotten", "an offer without a proxy clears it"),
    ("socks5-with-headers-is-refused", "a SOCKS5 proxy with header fields is refused"),
    ("no-certificate-for-the-proxy", "no certificate is presented where there is a proxy"),
    //
    ("offered-certificate-is-not-presented", "an offered certificate with its key is ignored"),
    ("certificate-left-out-is-kept", "an offer without a certificate leaves the one there was"),
    ("authority-of-the-certificate-is-trusted", "ca_cert of a certificate vouches for servers"),
    ("certificates-are-lost-with-the-process", "client certificates are not kept"),
    //
    ("certificate-request-is-not-pem", "a certificate request is not in PEM"),
    ("certificate-request-is-signed-wrongly", "the signature of a certificate request is wrong"),
    ("certificate-request-is-empty", "a certificate request asks for nothing"),
    ("certificate-request-to-any-server", "a server is asked whether it takes requests or not"),
    ("issued-certificate-is-not-used", "a certificate that was asked for is ignored"),
    ("refused-certificate-request-is-repeated", "a refused certificate request is sent again"),
    ("certificate-stays-with-the-old-uid", "a new instance uid needs no new certificate"),
];
