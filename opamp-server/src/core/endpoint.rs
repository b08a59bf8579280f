//! A look at what an operator wants Agents to connect to, so that a slip is noticed by who makes it
//! and not by every Agent it is offered to.

use opamp_proto::v1;

/// Something that was to be offered would break a rule of the protocol or be of no use to an Agent.
///
/// It says which field is wrong and what to do, and shows no secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what}")]
pub struct InvalidOffer {
    field: String,
    what: String,
}

impl InvalidOffer {
    pub(super) fn new(field: impl Into<String>, what: impl Into<String>) -> Self {
        Self { field: field.into(), what: what.into() }
    }

    /// The field that is wrong, such as `opamp.destination_endpoint`.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// The fault is in a part of this.
    pub(super) fn within(self, outer: &str) -> Self {
        Self { field: format!("{outer}.{}", self.field), ..self }
    }
}

/// What is wrong with an absolute URL of one of these schemes; `with_path`: it has to have a path.
pub(super) fn check_url(url: &str, schemes: &[&str], with_path: bool) -> Result<(), String> {
    if url.is_empty() {
        return Err("is empty: give a URL".to_owned());
    }
    let one_of = || format!("is no URL that begins with {}://", schemes.join(":// or "));
    let (scheme, rest) = url.split_once("://").ok_or_else(one_of)?;
    if !schemes.iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err(one_of());
    }
    if url.bytes().any(|byte| byte.is_ascii_control() || byte == b' ') {
        return Err("has spaces or control characters: write them as %20 and the like".to_owned());
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_user, host)| host);
    if !is_host_and_port(host) {
        return Err("has no host, or a port that is none".to_owned());
    }
    if with_path && !path.starts_with('/') {
        return Err("has no path: give the whole URL, such as https://host/v1/metrics".to_owned());
    }
    Ok(())
}

fn is_host_and_port(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port),
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port_is_good = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(port) => {
            port.bytes().all(|byte| byte.is_ascii_digit())
                && port.parse::<u16>().is_ok_and(|port| port > 0)
        }
    };
    !host.is_empty() && port_is_good
}

/// Headers that could not be sent would keep an Agent from connecting.
pub(super) fn check_headers(headers: Option<&v1::Headers>) -> Result<(), InvalidOffer> {
    for v1::Header { key, value } in headers.iter().flat_map(|headers| &headers.headers) {
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if key.is_empty() || !key.bytes().all(is_token) {
            return Err(InvalidOffer::new("headers", format!("{key:?} is no name of a header")));
        }
        if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            let what = format!("the value of {key:?} has control characters");
            return Err(InvalidOffer::new("headers", what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_absolute_and_of_a_known_scheme() {
        let _judged = opamp_spec::judges(&["CONN-28", "TEL-16"]);
        let good = |url| check_url(url, &["ws", "https"], false).is_ok();
        for url in ["ws://a", "WS://a", "https://a:1/b", "https://[::1]:443", "ws://u:p@a?q"] {
            assert!(good(url), "{url}");
        }
        for url in [
            "",
            "a",
            "a:1",
            "//a",
            "http://a",
            "ws:/a",
            "ws://",
            "ws:///b",
            "ws://:1",
            "ws://a:",
            "ws://a:x",
            "ws://a:0",
            "ws://a:70000",
            "ws://a b",
            "ws://a\n",
            "ws://u@",
            "ws://[::1]x",
        ] {
            assert!(!good(url), "{url}");
        }
        assert!(check_url("https://a/", &["https"], true).is_ok());
        assert!(check_url("https://a", &["https"], true).is_err());
    }

    #[test]
    fn headers_can_be_sent() {
        let check = |key: &str, value: &str| {
            let header = v1::Header { key: key.to_owned(), value: value.to_owned() };
            check_headers(Some(&v1::Headers { headers: vec![header] }))
        };
        assert_eq!(check("x-a", "b c\té"), Ok(()));
        for (key, value) in [("", "b"), ("a b", "b"), ("a:", "b"), ("a", "b\r\nc: d")] {
            let error = check(key, value).unwrap_err();
            assert!(error.to_string().starts_with("headers: "), "{error}");
        }
        assert!(!check("a", "secret\n").unwrap_err().to_string().contains("secret"));
    }
}
