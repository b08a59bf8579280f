//! The ways in which the reference server can break.

mod reports;

/// Name and meaning.
type Fault = (&'static str, &'static str);

/// Name and meaning of each.
pub const FAULTS: &[Fault] = &ALL;

const LISTS: [&[Fault]; 2] = [WIRE, reports::FAULTS];

const ALL: [Fault; LISTS[0].len() + LISTS[1].len()] = {
    let mut all = [("", ""); LISTS[0].len() + LISTS[1].len()];
    let (mut list, mut place) = (0, 0);
    while list < LISTS.len() {
        let mut index = 0;
        while index < LISTS[list].len() {
            all[place] = LISTS[list][index];
            (index, place) = (index + 1, place + 1);
        }
        list += 1;
    }
    all
};

const WIRE: &[Fault] = &[
    ("header-is-not-zero", "the header of WebSocket messages that have flags is 1"),
    ("accept-key-is-wrong", "Sec-WebSocket-Accept does not answer the key"),
    ("handshake-needs-exact-fields", "a Connection field with other tokens is refused"),
    ("handshake-agrees-to-more", "permessage-deflate is agreed on without being offered"),
    ("header-is-one-byte", "only one byte is taken for the header of WebSocket messages"),
    ("endless-header-is-skipped", "a header of more than 10 bytes is skipped"),
    ("header-is-not-checked", "the header of WebSocket messages may be anything"),
    ("messages-need-no-header", "a WebSocket message without header is processed"),
    ("text-is-processed", "a WebSocket message of type text is processed"),
    ("empty-message-closes", "a WebSocket message of nothing but its header closes the connection"),
    ("fragments-are-dropped", "a WebSocket message of several frames is ignored"),
    ("second-of-two-is-dropped", "a message that comes together with another is ignored"),
    ("websocket-is-not-served", "WebSocket handshakes are refused"),
    ("http-is-not-served", "plain HTTP requests are refused"),
    ("websocket-limit-is-one-off", "a WebSocket message may be one byte larger than configured"),
    ("websocket-limit-is-half", "a WebSocket message may be half as large as configured"),
    ("websocket-limit-is-missing", "a WebSocket message may be of any size"),
    ("inflated-messages-are-not-limited", "the limit of messages counts compressed bytes"),
    ("too-large-closes-with-1002", "a message that is too large closes with another code"),
    ("http-limit-is-one-off", "a body may be one byte larger than configured"),
    ("http-limit-is-half", "a body may be half as large as configured"),
    ("http-limit-is-missing", "a body may be of any size"),
    ("inflated-bodies-are-not-limited", "the limit of bodies counts compressed bytes"),
    ("too-large-is-400", "a body that is too large is answered with status 400"),
    ("send-limit-is-missing", "anything is sent, of whatever size"),
    ("send-limit-counts-compressed-bytes", "a gzipped response may be of any size"),
    ("unmasked-frames-are-taken", "a WebSocket frame of an agent needs no mask"),
    ("odd-messages-hang", "nothing is answered after a WebSocket message no encoder writes"),
    ("nesting-is-refused", "health nested deeper than 8 levels is malformed"),
    ("slow-bodies-time-out", "a body that takes half a second is answered with status 408"),
    ("handshakes-need-no-credentials", "a handshake without Authorization is accepted"),
    ("wrong-credentials-are-taken", "any Authorization will do"),
    ("refusal-is-403", "wrong credentials are answered with status 403"),
    ("refusal-names-no-scheme", "a 401 has no WWW-Authenticate"),
    ("overload-is-not-told", "an overloaded server goes on as ever"),
    ("overload-is-bad-request", "an overloaded server answers with BAD_REQUEST"),
    ("overload-is-status-500", "an overloaded server answers with status 500"),
    ("retry-after-is-no-time", "Retry-After is neither seconds nor a date"),
    ("http-heartbeats-get-no-content", "over HTTP a heartbeat is answered with status 204"),
    ("uncompressed-bodies-are-refused", "over HTTP only gzipped requests are taken"),
    ("gzip-is-refused", "gzipped requests are answered with status 415"),
    ("gzip-is-sniffed", "a gzipped request is taken without Content-Encoding"),
    ("unknown-codings-are-ignored", "an unknown Content-Encoding is taken for none"),
    ("answers-to-gzip-have-a-header", "over HTTP the reply to a gzipped request has a header"),
    ("content-type-is-compared-exactly", "a content type in capitals or with parameter is another"),
    ("upgrade-wins", "a request with Upgrade is a handshake, whatever its content type"),
    ("any-method-is-taken", "plain HTTP requests may have any method"),
    ("any-content-type-is-taken", "every POST is plain HTTP"),
    ("responses-are-always-compressed", "large responses are gzipped without being asked for"),
    ("weights-are-not-looked-at", "`gzip;q=0` is taken for an accepted coding"),
    ("responses-are-never-compressed", "responses are never gzipped"),
    ("nothing-is-offered-over-http", "no configurations are offered over HTTP"),
    ("gaps-are-ignored-over-http", "over HTTP a gap causes no ReportFullState"),
    ("malformed-is-ignored", "malformed messages get no error_response"),
    ("malformed-is-acknowledged", "malformed messages get a reply without error"),
    ("malformed-is-of-unknown-type", "malformed messages are answered with the type UNKNOWN"),
    ("bad-request-without-text", "BAD_REQUEST has no error_message"),
    ("bad-request-is-repeated", "BAD_REQUEST is sent twice over WebSockets"),
    ("bad-request-with-retry-info", "BAD_REQUEST has retry_info"),
    ("errors-come-with-the-mask", "error replies have capabilities"),
    ("error-text-is-binary", "error_message is control characters"),
    ("errors-are-text-messages", "error replies are WebSocket messages of type text"),
    ("uids-may-be-of-any-length", "an instance_uid that is not 16 bytes is taken"),
    ("uid-may-be-missing", "a report without instance_uid is taken"),
    ("arrays-are-refused", "a description with an array in an attribute is malformed"),
    ("replies-have-unknown-fields", "replies have a field that the schema does not have"),
    ("replies-come-in-twos", "a reply is followed by another in the same message"),
    ("minimal-agents-are-told-no-mask", "an agent with ReportsStatus alone gets no capabilities"),
    ("minimal-agents-get-errors", "a heartbeat of an agent with ReportsStatus alone is refused"),
    ("mask-hides-configurations", "configurations are offered without OffersRemoteConfig"),
    ("unknown-fields-are-refused", "a message with unknown fields is malformed"),
    ("unknown-values-close", "a report with an unknown value of an enum ends the connection"),
    ("mask-has-reserved-bits", "capabilities has a bit that is not defined"),
    ("changed-telemetry-is-kept-back", "a changed destination for telemetry is not offered"),
    (
        "known-settings-are-offered-again",
        "connection settings are offered again to an agent that reports their hash",
    ),
    ("logs-settings-are-offered-to-all", "own_logs is offered without ReportsOwnLogs"),
    ("metrics-settings-are-offered-to-all", "own_metrics is offered without ReportsOwnMetrics"),
    ("opamp-settings-are-kept-back", "opamp settings are not offered at all"),
    (
        "opamp-settings-are-offered-to-all",
        "opamp settings are offered without AcceptsOpAMPConnectionSettings",
    ),
    ("other-endpoint-has-to-be-a-url", "the destination of other connections is made a URL"),
    (
        "other-settings-are-offered-to-all",
        "other_connections is offered without AcceptsOtherConnectionSettings",
    ),
    (
        "other-settings-hash-is-ignored",
        "connection settings are not offered to an agent that reports another hash",
    ),
    ("proxy-url-is-dropped", "offered proxies have no URL"),
    ("repeated-header-is-dropped", "of offered headers with one name only the first is kept"),
    ("replaced-credentials-stay-good", "credentials that were replaced go on being good"),
    ("settings-endpoint-has-another-scheme", "the offered OpAMP endpoint has the scheme tcp"),
    ("settings-endpoint-is-left-out", "offers without a new OpAMP endpoint have none"),
    ("settings-hash-is-constant", "the hash of connection settings is always the same"),
    ("telemetry-endpoint-has-no-path", "the destination for telemetry is offered without its path"),
    ("telemetry-goes-in-the-clear", "the destination for telemetry is offered with http"),
    (
        "telemetry-is-not-in-the-first-reply",
        "the first reply to an agent has no telemetry settings",
    ),
    (
        "telemetry-is-offered-again",
        "settings are offered with every message to an agent that reports no hash",
    ),
    ("traces-settings-are-offered-to-all", "own_traces is offered without ReportsOwnTraces"),
    (
        "agents-awaiting-approval-are-refused",
        "an agent whose certificate request waits for approval gets errors",
    ),
    ("approval-leads-to-nothing", "an approved agent is offered no credentials"),
    ("ca-of-a-certificate-is-left-out", "ca_cert is missing for a certificate of an authority"),
    ("certificate-is-not-pem", "certificates are offered as DER"),
    ("client-certificates-are-not-verified", "any client certificate is taken"),
    ("csr-bit-is-not-announced", "AcceptsConnectionSettingsRequest is missing from the mask"),
    ("csr-for-a-new-id-is-refused", "an agent with a new id gets no certificate for it"),
    ("csr-is-not-verified", "the signature of certificate requests is not verified"),
    ("csr-of-another-agent-is-taken", "a certificate request may name another agent"),
    (
        "csr-refusal-is-no-bad-request",
        "a refused certificate request is answered with an error of type Unknown",
    ),
    ("empty-request-is-refused", "an empty ConnectionSettingsRequest is answered with an error"),
    (
        "issued-certificate-comes-with-a-key",
        "the certificate for a request is offered with a private key",
    ),
    ("issued-certificate-has-another-key", "the certificate for a request is for another key"),
    ("private-key-is-that-of-another", "private_key does not belong to cert"),
    ("refused-csr-is-signed", "a certificate request is granted whatever was decided"),
    ("wrong-csr-is-dropped", "a wrong certificate request is ignored without an error"),
    (
        "content-hash-is-that-of-the-url",
        "content_hash is the hash of the URL instead of the content",
    ),
    ("earlier-version-is-offered-too", "the version before is offered under another name"),
    (
        "known-packages-are-offered-again",
        "packages are offered again to an agent that reports their hash",
    ),
    (
        "other-packages-hash-is-ignored",
        "packages are not offered to an agent that reports another hash",
    ),
    ("package-has-no-file", "packages are offered without a file"),
    ("package-hash-leaves-out-the-file", "the hash of a package does not depend on its file"),
    ("package-hash-leaves-out-the-type", "the hash of a package does not depend on its type"),
    ("package-hash-leaves-out-the-version", "the hash of a package does not depend on its version"),
    ("package-type-is-lost", "every package is offered as TopLevel"),
    ("packages-are-kept-back", "packages are not offered"),
    ("packages-are-offered-to-all", "packages are offered without AcceptsPackages"),
    ("packages-hash-covers-local-packages", "all_packages_hash depends on what the agent reports"),
    ("packages-hash-is-empty", "all_packages_hash is empty"),
    ("range-is-of-something-else", "the response to a range request has other bytes"),
    ("ranges-are-not-served", "downloads ignore range requests"),
    ("unnamed-package-is-not-offered", "a package without a name is not offered"),
];
