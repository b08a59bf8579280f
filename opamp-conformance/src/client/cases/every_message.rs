//! What has to hold of every handshake, request and message of the client, whatever the case was.
//! Only what is meant for the OpAMP endpoint counts: a client may download and export as well.

use base64::Engine as _;
use http::header::{self, HeaderMap};

use crate::case::{Case, Conversation, Observed, Script};
use crate::judge::Judge;
use crate::log::{Entry, Event};
use crate::report::{By, Transport};
use crate::wire::http_client::field;
use crate::wire::{body, text, uid};

/// The path of the scripted servers.
const PATH: &str = "/v1/opamp";

const fn observer(
    name: &'static str,
    judges: &'static [&'static str],
    words: (&'static str, &'static str),
    broken_by: &'static [&'static str],
    observe: fn(&Observed, &mut Judge),
) -> Case {
    Case {
        name,
        judges,
        transports: &[],
        does: words.0,
        expects: words.1,
        alone: false,
        broken_by,
        script: Script::Observer(observe),
    }
}

pub(super) const CASES: &[Case] = &[
    observer(
        "client/every-message/handshake",
        &["NET-08"],
        ("looks at every WebSocket handshake of the run", "a GET as RFC 6455 describes it"),
        &["handshake-version-is-8", "redirect-takes-credentials-along"],
        handshake,
    ),
    observer(
        "client/every-message/type",
        &["WS-01"],
        ("looks at every WebSocket message of the run", "none is of type text"),
        &["text-message-is-sent"],
        kind,
    ),
    observer(
        "client/every-message/header",
        &["WS-06"],
        ("looks at every WebSocket message of the run", "each begins with the byte 0"),
        &["header-is-not-zero"],
        first_byte,
    ),
    observer(
        "client/every-message/content",
        &["WS-02", "WS-03"],
        (
            "reads what follows the header of every WebSocket message of the run",
            "an AgentToServer, nothing after it, and no field that the schema does not have",
        ),
        &["bytes-follow-the-message", "unknown-field-is-sent"],
        content,
    ),
    observer(
        "client/every-message/method",
        &["HTTP-01"],
        ("looks at every plain HTTP request of the run", "all use POST"),
        &["probes-with-head", "redirect-takes-credentials-along"],
        method,
    ),
    observer(
        "client/every-message/body",
        &["HTTP-02", "HTTP-17", "HTTP-18"],
        (
            "reads the body of every plain HTTP request of the run",
            "an AgentToServer without a header before it, compressed only where that is announced",
        ),
        &["body-has-a-header", "gzip-is-not-announced"],
        request_body,
    ),
    observer(
        "client/every-message/fields",
        &["HTTP-14", "HTTP-22", "HTTP-23"],
        (
            "looks at the header of every plain HTTP request of the run",
            "Content-Type application/x-protobuf, and the id of the body as OpAMP-Instance-UID",
        ),
        &[
            "content-type-is-missing",
            "heartbeats-lack-the-uid",
            "uid-field-is-hexadecimal",
            "uid-field-is-missing",
            "uid-is-requested-without-temporary-one",
        ],
        fields,
    ),
    observer(
        "client/every-message/reserved-bits",
        &["INTEROP-08"],
        ("looks at the capabilities of every message of the run", "no undefined bit is set"),
        &["reserved-bit-is-set"],
        reserved_bits,
    ),
];

fn of(observed: &Observed, transport: Transport) -> impl Iterator<Item = &Entry> {
    let over = move |conversation: &&Conversation| conversation.transport == transport;
    let entries = observed.conversations.iter().filter(over);
    entries.flat_map(|conversation| &conversation.entries).filter(|entry| entry.by == By::Subject)
}

fn messages(observed: &Observed) -> impl Iterator<Item = (&Entry, bool, &bytes::Bytes)> {
    observed.entries().filter_map(|entry| match (&entry.event, entry.by) {
        (Event::Message { is_text, payload, .. }, By::Subject) => Some((entry, *is_text, payload)),
        _ => None,
    })
}

fn handshake(observed: &Observed, judge: &mut Judge) {
    for entry in of(observed, Transport::WebSocket) {
        let Event::Request { method, target, headers, .. } = &entry.event else { continue };
        if target != PATH {
            continue;
        }
        let wrong = wrong_handshake(method.as_str(), headers);
        judge.quote(entry, wrong.is_some());
        let actual = wrong.clone().unwrap_or_else(|| "a correct handshake".to_owned());
        judge.expect("NET-08", wrong.is_none(), "a handshake by RFC 6455", actual);
    }
}

fn wrong_handshake(method: &str, headers: &HeaderMap) -> Option<String> {
    let has = |name, token: &str| {
        field(headers, name).split(',').any(|part| part.trim().eq_ignore_ascii_case(token))
    };
    let key = field(headers, header::SEC_WEBSOCKET_KEY);
    let version = field(headers, header::SEC_WEBSOCKET_VERSION);
    let nonce = base64::engine::general_purpose::STANDARD.decode(&key);
    if method != "GET" {
        Some(format!("the method is {method}"))
    } else if !has(header::UPGRADE, "websocket") {
        Some("Upgrade does not say websocket".to_owned())
    } else if !has(header::CONNECTION, "upgrade") {
        Some("Connection does not say Upgrade".to_owned())
    } else if nonce.map_or(true, |nonce| nonce.len() != 16) {
        Some(format!("Sec-WebSocket-Key {key:?} is not 16 bytes in base64"))
    } else if version != "13" {
        Some(format!("Sec-WebSocket-Version is {version:?}"))
    } else {
        None
    }
}

fn kind(observed: &Observed, judge: &mut Judge) {
    for (entry, is_text, _) in messages(observed) {
        judge.quote(entry, is_text);
        let actual = if is_text { "one of type text" } else { "all are binary" };
        judge.expect("WS-01", !is_text, "binary messages only", actual);
    }
}

fn first_byte(observed: &Observed, judge: &mut Judge) {
    for (entry, _, payload) in messages(observed).filter(|(_, is_text, _)| !is_text) {
        let first = payload.first().copied();
        judge.quote(entry, first != Some(0));
        let actual = format!("the first byte is {first:02x?}");
        judge.expect("WS-06", first == Some(0), "the first byte is 00", actual);
    }
}

fn content(observed: &Observed, judge: &mut Judge) {
    for (entry, _, payload) in messages(observed).filter(|(_, is_text, _)| !is_text) {
        let Ok((0, length, _)) = body::unframe(payload) else { continue };
        let reading = text::read("AgentToServer", &payload[length..]);
        let (problems, unknown) = (&reading.problems, &reading.unknown_fields);
        judge.quote(entry, !problems.is_empty() || !unknown.is_empty());
        let actual =
            if problems.is_empty() { "one message".to_owned() } else { problems.join(", ") };
        judge.expect("WS-02", problems.is_empty(), "exactly one protobuf message", actual);
        let actual = format!("unknown fields: [{}]", unknown.join(", "));
        judge.expect("WS-03", unknown.is_empty(), "an AgentToServer", actual);
    }
}

/// The requests of the run to the OpAMP endpoint: method, header and body as sent.
fn requests(
    observed: &Observed,
) -> impl Iterator<Item = (&Entry, &http::Method, &HeaderMap, &bytes::Bytes)> {
    of(observed, Transport::Http).filter_map(|entry| match &entry.event {
        // Cases that compare the transports have handshakes as well.
        Event::Request { method, target, headers, body }
            if target == PATH && !headers.contains_key(header::UPGRADE) =>
        {
            Some((entry, method, headers, body))
        }
        _ => None,
    })
}

fn method(observed: &Observed, judge: &mut Judge) {
    for (entry, method, ..) in requests(observed) {
        let is_post = method == http::Method::POST;
        judge.quote(entry, !is_post);
        judge.expect("HTTP-01", is_post, "POST", format!("{method}"));
    }
}

fn request_body(observed: &Observed, judge: &mut Judge) {
    for (entry, method, headers, raw) in requests(observed) {
        if method != http::Method::POST {
            continue;
        }
        let coding = field(headers, header::CONTENT_ENCODING);
        let looks_gzipped = raw.starts_with(&[0x1f, 0x8b]);
        let announced = match coding.as_str() {
            "" => !looks_gzipped,
            "gzip" => looks_gzipped,
            _ => false,
        };
        judge.quote(entry, !announced);
        let actual =
            format!("Content-Encoding {coding:?}, gzip by its first bytes: {looks_gzipped}");
        judge.expect("HTTP-18", announced, "the coding that is announced, or none", actual);
        judge.note("HTTP-17", if looks_gzipped { "gzipped bodies" } else { "plain bodies" });
        if !announced {
            continue;
        }
        let Some(bytes) = entry.opamp() else { continue };
        let problems = text::read("AgentToServer", &bytes).problems;
        judge.quote(entry, !problems.is_empty());
        let actual =
            if problems.is_empty() { "one message".to_owned() } else { problems.join(", ") };
        judge.expect("HTTP-02", problems.is_empty(), "a bare AgentToServer", actual);
    }
}

fn fields(observed: &Observed, judge: &mut Judge) {
    for (entry, method, headers, _) in requests(observed) {
        if method != http::Method::POST {
            continue;
        }
        let content_type = field(headers, header::CONTENT_TYPE);
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        let is_protobuf = media_type.eq_ignore_ascii_case("application/x-protobuf");
        judge.quote(entry, !is_protobuf);
        let actual = format!("Content-Type {content_type:?}");
        judge.expect("HTTP-14", is_protobuf, "application/x-protobuf", actual);
        let Some(message) = entry.agent_to_server() else { continue };
        let id = uid::text(&message.instance_uid);
        let announced =
            headers.get("opamp-instance-uid").map(|id| String::from_utf8_lossy(id.as_bytes()));
        judge.quote(entry, announced.as_deref() != Some(&id));
        let actual = format!("OpAMP-Instance-UID {announced:?}");
        judge.expect("HTTP-22", announced.is_some(), "OpAMP-Instance-UID", actual.clone());
        if announced.is_some() {
            let expected = format!("{id}, the id of the body");
            judge.expect("HTTP-23", announced.as_deref() == Some(&id), expected, actual);
        }
    }
}

fn reserved_bits(observed: &Observed, judge: &mut Judge) {
    for entry in observed.entries().filter(|entry| entry.by == By::Subject) {
        let Some(message) = entry.agent_to_server() else { continue };
        let reserved = message.capabilities & !crate::mask::agent::ALL;
        judge.quote(entry, reserved != 0);
        let actual = format!("capabilities {:#x}", message.capabilities);
        judge.expect("INTEROP-08", reserved == 0, "no bit beyond 0x8000", actual);
    }
}
