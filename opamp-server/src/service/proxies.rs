//! Who a request comes from, where proxies stand between.
//!
//! A proxy says in a header whom it speaks for. Anybody can send such a header, so it counts only
//! as far as it was written by proxies that are known: it is read from its end, which the nearest
//! proxy has written, and the first address that is not a known proxy's is the client's. What is
//! before it, the client may have made up.
//!
//! ```text
//!   X-Forwarded-For: 6.6.6.6, 203.0.113.9, 10.0.0.2      from 10.0.0.1, proxies 10.0.0.0/8
//!                    made up  the client   a proxy
//! ```

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use http::header::FORWARDED;

use super::network::Network;

/// No more steps than this are followed.
const MAX_STEPS: usize = 32;

/// The proxies whose word about a client's address is taken, and the header they say it in. By
/// default there are none.
///
/// A proxy that is configured here has to write the header itself, in addition to what it received:
/// one that only passes it on lets every client choose its address. And so does a network that has
/// clients as well: what they say of others is taken for a proxy's word.
///
/// ```
/// use opamp_server::TrustedProxies;
///
/// let proxies = TrustedProxies::x_forwarded_for(["10.0.0.0/8".parse()?]);
/// # let _ = proxies;
/// # Ok::<(), opamp_server::InvalidNetwork>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies {
    networks: Vec<Network>,
    header: Header,
}

#[derive(Debug, Clone, Copy, Default)]
enum Header {
    #[default]
    XForwardedFor,
    Forwarded,
}

impl TrustedProxies {
    /// Proxies that append to `X-Forwarded-For`.
    pub fn x_forwarded_for(networks: impl IntoIterator<Item = Network>) -> Self {
        Self { networks: networks.into_iter().collect(), header: Header::XForwardedFor }
    }

    /// Proxies that append to `Forwarded` (RFC 7239).
    pub fn forwarded(networks: impl IntoIterator<Item = Network>) -> Self {
        Self { networks: networks.into_iter().collect(), header: Header::Forwarded }
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address))
    }

    /// The client of a request that came on a connection from `peer`.
    pub(super) fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> SocketAddr {
        if !self.contains(peer.ip()) {
            return peer;
        }
        let name = match self.header {
            Header::XForwardedFor => "x-forwarded-for",
            Header::Forwarded => FORWARDED.as_str(),
        };
        let values: Vec<_> = headers.get_all(name).iter().collect();
        let mut client = peer;
        let steps = values.iter().rev().flat_map(|value| {
            let value = value.to_str().unwrap_or_default();
            value.rsplit(',').map(str::trim)
        });
        for step in steps.take(MAX_STEPS) {
            let node = match self.header {
                Header::XForwardedFor => Some(step),
                Header::Forwarded => forwarded_for(step),
            };
            // A proxy that does not say it, or hides it: then it is the client as far as we know.
            let Some(address) = node.and_then(address) else { return client };
            client = address;
            if !self.contains(client.ip()) {
                return client;
            }
        }
        client
    }
}

/// The `for` of an element of `Forwarded`. Commas in quotes are no part of any address, so elements
/// were taken apart without regard to them; what that makes is no address either.
fn forwarded_for(element: &str) -> Option<&str> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, node) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    let node = node.trim();
    Some(node.strip_prefix('"').and_then(|node| node.strip_suffix('"')).unwrap_or(node))
}

/// An address, with or without a port; with neither brackets nor a port it may be IPv6 as well.
fn address(node: &str) -> Option<SocketAddr> {
    if let Ok(address) = node.parse::<SocketAddr>() {
        return Some(address);
    }
    let bare = node.strip_prefix('[').and_then(|node| node.strip_suffix(']')).unwrap_or(node);
    Some(SocketAddr::new(bare.parse::<IpAddr>().ok()?, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(proxies: &TrustedProxies, peer: &str, headers: &[(&'static str, &str)]) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let peer = SocketAddr::new(peer.parse().unwrap(), 9);
        proxies.client(peer, &map).to_string()
    }

    fn networks() -> Vec<Network> {
        ["10.0.0.0/8", "fd00::/8"].iter().map(|network| network.parse().unwrap()).collect()
    }

    #[test]
    fn the_first_from_the_end_that_is_no_proxy_is_the_client() {
        let proxies = TrustedProxies::x_forwarded_for(networks());
        for (peer, values, expected) in [
            ("10.0.0.1", &["203.0.113.9"][..], "203.0.113.9:0"),
            ("10.0.0.1", &["6.6.6.6, 203.0.113.9"], "203.0.113.9:0"),
            ("10.0.0.1", &["6.6.6.6, 203.0.113.9, 10.0.0.2"], "203.0.113.9:0"),
            ("10.0.0.1", &["6.6.6.6", "203.0.113.9", "10.0.0.2"], "203.0.113.9:0"),
            ("10.0.0.1", &["203.0.113.9:4711"], "203.0.113.9:4711"),
            ("fd00::1", &["2001:db8::1"], "[2001:db8::1]:0"),
            ("fd00::1", &["[2001:db8::1]:80"], "[2001:db8::1]:80"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3:0"),
            // Whoever is no proxy says nothing.
            ("203.0.113.1", &["1.1.1.1"], "203.0.113.1:9"),
            // Nor does a proxy that is known say more than it knows.
            ("10.0.0.1", &[], "10.0.0.1:9"),
            ("10.0.0.1", &[""], "10.0.0.1:9"),
            ("10.0.0.1", &["6.6.6.6, unknown"], "10.0.0.1:9"),
            ("10.0.0.1", &["6.6.6.6, unknown, 10.0.0.2"], "10.0.0.2:0"),
            ("10.0.0.1", &["6.6.6.6,"], "10.0.0.1:9"),
        ] {
            let headers: Vec<_> = values.iter().map(|value| ("x-forwarded-for", *value)).collect();
            assert_eq!(client(&proxies, peer, &headers), expected, "{values:?}");
        }
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_has_it() {
        let proxies = TrustedProxies::forwarded(networks());
        for (value, expected) in [
            ("for=203.0.113.9", "203.0.113.9:0"),
            ("For=\"[2001:db8::1]:4711\"", "[2001:db8::1]:4711"),
            ("for=\"[2001:db8::1]\";proto=https;by=10.0.0.1", "[2001:db8::1]:0"),
            ("for=6.6.6.6, proto=https; for=203.0.113.9, for=10.0.0.2", "203.0.113.9:0"),
            ("for=6.6.6.6, for=_hidden", "10.0.0.1:9"),
            ("for=6.6.6.6, proto=https", "10.0.0.1:9"),
            ("for=6.6.6.6, for=\"1.1.1.1, for=2.2.2.2\"", "10.0.0.1:9"),
        ] {
            assert_eq!(client(&proxies, "10.0.0.1", &[("forwarded", value)]), expected, "{value}");
        }
        // A header that the proxies do not write is the client's own.
        let spoofed = [("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=203.0.113.9")];
        assert_eq!(client(&proxies, "10.0.0.1", &spoofed), "203.0.113.9:0");
    }

    #[test]
    fn a_header_without_end_is_not_followed_without_end() {
        let proxies = TrustedProxies::x_forwarded_for(networks());
        let value = format!("203.0.113.9{}", ", 10.0.0.2".repeat(1000));
        assert_eq!(client(&proxies, "10.0.0.1", &[("x-forwarded-for", &value)]), "10.0.0.2:0");
    }
}
