//! Where a redirect leads, and whether it is followed.
//!
//! Both transports follow 301, 302, 307 and 308 with the same method and content: over HTTP a `GET`
//! would mean nothing to an OpAMP server, so 303, which asks for one, is followed by a handshake
//! only. A redirect never leads from TLS to plain text and never in a circle, and credentials stay
//! with the server they were meant for: once a redirect has left the origin (scheme, host and
//! port), neither headers nor the client certificate go along any more. Nothing is remembered: the
//! next attempt starts at the configured URL.

use http::header::{self, HeaderMap, LOCATION};
use http::{Method, StatusCode};

use super::endpoint::Endpoint;
use crate::core::{Failure, FailureKind};

/// The way of one attempt from server to server.
pub(super) struct Hops {
    method: Method,
    here: Endpoint,
    been: Vec<Endpoint>,
    left: u8,
    abroad: bool,
}

impl Hops {
    pub(super) fn new(method: Method, home: &Endpoint, most: u8) -> Self {
        Self { method, here: home.clone(), been: Vec::new(), left: most, abroad: false }
    }

    /// Where to go now.
    pub(super) fn here(&self) -> &Endpoint {
        &self.here
    }

    /// Whether a redirect has led to another origin at any time; credentials stay behind then.
    pub(super) fn is_abroad(&self) -> bool {
        self.abroad
    }

    /// Leaves out of the headers what is for the first origin only.
    pub(super) fn admit(&self, mut headers: HeaderMap) -> HeaderMap {
        if self.abroad {
            let harmless = headers.remove(header::USER_AGENT);
            headers.clear();
            headers.extend(harmless.map(|agent| (header::USER_AGENT, agent)));
        }
        headers
    }

    /// Whether this status is one to follow.
    pub(super) fn is_redirect(&self, status: StatusCode) -> bool {
        match status.as_u16() {
            301 | 302 | 307 | 308 => true,
            303 => self.method == Method::GET,
            _ => false,
        }
    }

    /// Goes on to where this response leads.
    pub(super) fn follow(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Result<(), Failure> {
        let refuse = |why: &str| Failure {
            kind: FailureKind::UnexpectedStatus(status.as_u16()),
            message: format!("the server redirects with status {status}, not followed: {why}"),
        };
        let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| refuse("it does not say where to"))?;
        let next = self.here.join(location).map_err(|error| refuse(&error.to_string()))?;
        if self.here.secure && !next.secure {
            return Err(refuse("it leads from TLS to plain text"));
        }
        if self.left == 0 {
            return Err(refuse("there were too many before it"));
        }
        self.left -= 1;
        self.abroad |= !self.here.same_origin(&next);
        self.been.push(std::mem::replace(&mut self.here, next));
        if self.been.contains(&self.here) {
            return Err(refuse("it leads in a circle"));
        }
        tracing::debug!(%status, to = ?self.here, "following a redirect");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hops(url: &str) -> Hops {
        Hops::new(Method::POST, &Endpoint::parse(url).unwrap(), 5)
    }

    fn to(hops: &mut Hops, location: &str) -> Result<(), String> {
        let headers = HeaderMap::from_iter([(LOCATION, location.parse().unwrap())]);
        hops.follow(StatusCode::FOUND, &headers).map_err(|failure| failure.message)
    }

    #[test]
    fn headers_stay_behind_for_good_once_the_origin_is_left() {
        let headers = HeaderMap::from_iter([
            (header::AUTHORIZATION, "secret".parse().unwrap()),
            (header::USER_AGENT, "agent/1".parse().unwrap()),
        ]);
        let mut hops = hops("http://one.example/a");
        to(&mut hops, "/b").unwrap();
        assert_eq!(hops.admit(headers.clone()).len(), 2);
        to(&mut hops, "http://two.example/b").unwrap();
        let admitted = hops.admit(headers.clone());
        assert_eq!(admitted.len(), 1);
        assert!(admitted.contains_key(header::USER_AGENT));
        // Whoever sends us back may have chosen the path.
        to(&mut hops, "http://one.example/c").unwrap();
        assert!(hops.is_abroad());
    }

    #[test]
    fn another_port_or_scheme_is_another_origin() {
        for (location, abroad) in [
            ("http://ONE.example:80/x", false),
            ("http://one.example:81/a", true),
            ("https://one.example/a", true),
        ] {
            let mut hops = hops("http://one.example/a");
            to(&mut hops, location).unwrap();
            assert_eq!(hops.is_abroad(), abroad, "{location}");
        }
    }

    #[test]
    fn no_redirect_leads_to_plain_text_in_a_circle_or_on_for_ever() {
        let mut secure = hops("https://one.example/a");
        assert!(to(&mut secure, "http://one.example/a").unwrap_err().contains("plain text"));
        let mut circle = hops("http://one.example/a");
        assert!(to(&mut circle, "/a").unwrap_err().contains("circle"));
        let mut long = hops("http://one.example/a");
        for hop in 0..5 {
            to(&mut long, &format!("/{hop}")).unwrap();
        }
        assert!(to(&mut long, "/more").unwrap_err().contains("too many"));
        let mut lost = hops("http://one.example/a");
        assert!(lost.follow(StatusCode::FOUND, &HeaderMap::new()).is_err());
        assert!(to(&mut lost, "ftp://one.example/").unwrap_err().contains("scheme"));
        assert!(to(&mut lost, "http://user:secret@one.example/").is_err());
    }
}
