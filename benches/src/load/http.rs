//! The client's side of HTTP/1.1, as far as a load generator needs it: requests with a body of known
//! length, responses with a length or in chunks, kept-alive connections.

use std::fmt::Write as _;

use http::HeaderMap;

use super::target::Target;

/// What of a response matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Without framing.
    pub(crate) body: Vec<u8>,
    /// Seconds, if the Server names them.
    pub(crate) retry_after: Option<u64>,
    /// The Server closes the connection after it.
    pub(crate) closes: bool,
    /// What it takes of what has arrived.
    pub(crate) len: usize,
}

/// A response that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// A POST up to the value of Content-Length.
#[derive(Debug, Clone)]
pub(crate) struct PostHead(Vec<u8>);

impl PostHead {
    pub(crate) fn new(target: &Target, headers: &HeaderMap) -> Self {
        let mut head = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/x-protobuf\r\n",
            target.path, target.authority
        )
        .into_bytes();
        write_headers(headers, &mut head);
        head.extend_from_slice(b"Content-Length: ");
        Self(head)
    }

    /// Appends it; a body of this length has to follow.
    pub(crate) fn write(&self, len: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
        let mut digits = String::with_capacity(20);
        // Writing to a text does not fail.
        let _ = write!(digits, "{len}\r\n\r\n");
        out.extend_from_slice(digits.as_bytes());
    }
}

pub(crate) fn write_headers(headers: &HeaderMap, out: &mut Vec<u8>) {
    for (name, value) in headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// The most headers a response may have.
pub(crate) const MAX_HEADERS: usize = 64;

/// The value of a header that is a number.
pub(crate) fn number(headers: &[httparse::Header<'_>], name: &str) -> Option<u64> {
    std::str::from_utf8(value(headers, name)?).ok()?.trim().parse().ok()
}

fn value<'a>(headers: &[httparse::Header<'a>], name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// The response at the beginning of what has arrived, once it is there as a whole.
pub(crate) fn response(data: &[u8], max: usize) -> Result<Option<Response>, Unreadable> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let start = match head.parse(data) {
        Ok(httparse::Status::Complete(start)) => start,
        Ok(httparse::Status::Partial) if data.len() <= max => return Ok(None),
        _ => return Err(Unreadable),
    };
    let status = head.code.ok_or(Unreadable)?;
    let has = |name, text: &str| {
        value(head.headers, name).is_some_and(|value| value.eq_ignore_ascii_case(text.as_bytes()))
    };
    let body = if has("transfer-encoding", "chunked") {
        chunks(&data[start..], max)?
    } else if matches!(status, 204 | 304) {
        Some((Vec::new(), 0))
    } else {
        let len = number(head.headers, "content-length").ok_or(Unreadable)?;
        let len = usize::try_from(len).ok().filter(|len| *len <= max).ok_or(Unreadable)?;
        data[start..].get(..len).map(|body| (body.to_vec(), len))
    };
    Ok(body.map(|(body, len)| Response {
        status,
        body,
        retry_after: number(head.headers, "retry-after"),
        closes: has("connection", "close"),
        len: start + len,
    }))
}

/// The body in chunks at the beginning of what has arrived, and what it takes.
fn chunks(data: &[u8], max: usize) -> Result<Option<(Vec<u8>, usize)>, Unreadable> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let (start, len) = match httparse::parse_chunk_size(&data[at..]) {
            Ok(httparse::Status::Complete(size)) => size,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(Unreadable),
        };
        let len = usize::try_from(len).map_err(|_| Unreadable)?;
        if len > max - body.len() {
            return Err(Unreadable);
        }
        at += start;
        // After the last chunk trailers could follow; nobody sends them here.
        let Some([chunk @ .., b'\r', b'\n']) = data.get(at..at + len + 2) else {
            return if data.len() < at + len + 2 { Ok(None) } else { Err(Unreadable) };
        };
        body.extend_from_slice(chunk);
        at += len + 2;
        if len == 0 {
            return Ok(Some((body, at)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Response> {
        response(text.as_bytes(), 1000).unwrap()
    }

    #[test]
    fn a_response_is_there_when_all_of_it_is() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
        ] {
            for cut in 0..text.len() {
                assert_eq!(read(&text[..cut]), None, "{cut}");
            }
            let response = read(&format!("{text}HTTP/1.1")).unwrap();
            assert_eq!((response.status, &*response.body), (200, b"abc".as_slice()));
            assert_eq!((response.len, response.closes), (text.len(), false));
        }
    }

    #[test]
    fn refusals_are_told_with_their_patience() {
        let text = "HTTP/1.1 503 Busy\r\nretry-after: 7\r\nconnection: close\r\ncontent-length: 0";
        let response = read(&format!("{text}\r\n\r\n")).unwrap();
        assert_eq!((response.status, response.retry_after, response.closes), (503, Some(7), true));
    }

    #[test]
    fn what_is_no_response_or_too_large_is_unreadable() {
        let unreadable = |text: &str| response(text.as_bytes(), 10) == Err(Unreadable);
        assert!(unreadable("SSH-2.0\r\n\r\n"));
        assert!(unreadable("HTTP/1.1 200 OK\r\n\r\n"));
        assert!(unreadable("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n"));
        assert!(unreadable("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n"));
        assert!(unreadable("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc"));
    }
}
