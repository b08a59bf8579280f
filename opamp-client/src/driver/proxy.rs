//! Which proxy stands between an agent and its server, if any.

use std::fmt;

use http::header::{HeaderMap, PROXY_AUTHORIZATION};
use http::uri::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use opamp_proto::v1;

use super::endpoint::Endpoint;
use super::headers;
use crate::error::{Error, ErrorKind};

/// The way to the server: straight, or through a proxy. Both transports go the same way.
///
/// ```
/// # fn main() -> Result<(), opamp_client::Error> {
/// use opamp_client::Proxy;
///
/// let proxy = Proxy::url("http://user:password@proxy.example.com:3128")?
///     .connect_header("X-Tenant", "blue")?;
/// # drop(proxy);
/// # Ok(())
/// # }
/// ```
///
/// A `ws` or `wss` connection, and an `https` one, is tunnelled with `CONNECT`. A request to an
/// `http` URL is forwarded by an HTTP proxy as usual, which then sees it. A proxy that the server
/// offers takes the place of any (PROXY-02).
#[derive(Clone)]
pub struct Proxy(Choice);

#[derive(Clone)]
enum Choice {
    System,
    None,
    Fixed(Route),
}

/// One proxy.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) scheme: Scheme,
    pub(super) host: String,
    pub(super) port: u16,
    /// User and password for SOCKS; those for HTTP are among the headers.
    pub(super) user: Option<(String, String)>,
    /// For the `CONNECT` request (PROXY-05); SOCKS has no room for any (PROXY-06).
    pub(super) headers: HeaderMap,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    /// The way to the proxy is TLS, with the settings of the connection (PROXY-03).
    Https,
    /// Names are resolved here.
    Socks5,
    /// Names are resolved by the proxy.
    Socks5h,
}

impl Scheme {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Socks5 => "socks5",
            Self::Socks5h => "socks5h",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
            Self::Socks5 | Self::Socks5h => 1080,
        }
    }
}

/// Shows neither users nor headers.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Choice::System => f.write_str("Proxy(system)"),
            Choice::None => f.write_str("Proxy(none)"),
            Choice::Fixed(route) => write!(f, "Proxy({route})"),
        }
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, host, port, .. } = self;
        match host.contains(':') {
            true => write!(f, "{}://[{host}]:{port}", scheme.as_str()),
            false => write!(f, "{}://{host}:{port}", scheme.as_str()),
        }
    }
}

impl Default for Proxy {
    fn default() -> Self {
        Self::system()
    }
}

impl Proxy {
    /// What `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say, in capitals or not, and
    /// where they say nothing, the system's settings on macOS and Windows. This is the default.
    /// They are read for each WebSocket connection; over HTTP when the client starts and when its
    /// connection settings change.
    ///
    /// `https` and `wss` URLs go by `HTTPS_PROXY`, `http` and `ws` URLs by `HTTP_PROXY`. A variable
    /// that holds no usable URL counts as unset.
    #[must_use]
    pub fn system() -> Self {
        Self(Choice::System)
    }

    /// No proxy, whatever the environment says.
    #[must_use]
    pub fn none() -> Self {
        Self(Choice::None)
    }

    /// This proxy, for every server: `http://`, `https://`, `socks5://` (names are resolved here)
    /// or `socks5h://` (by the proxy); without a scheme it is `http`. Without a port it is the
    /// scheme's, 1080 for SOCKS. A user and password may stand before the host.
    ///
    /// # Errors
    ///
    /// When the URL cannot be read or has another scheme.
    pub fn url(url: &str) -> Result<Self, Error> {
        Ok(Self(Choice::Fixed(Route::parse(url)?)))
    }

    /// Adds a header to the `CONNECT` request that opens the way through an HTTP or HTTPS proxy.
    /// Without effect on the other choices.
    ///
    /// # Errors
    ///
    /// When the name or value is not legal.
    pub fn connect_header(mut self, name: &str, value: &str) -> Result<Self, Error> {
        if let Choice::Fixed(route) = &mut self.0 {
            if name.eq_ignore_ascii_case(PROXY_AUTHORIZATION.as_str()) {
                route.headers.remove(PROXY_AUTHORIZATION);
            }
            headers::append(&mut route.headers, name, value)?;
        }
        Ok(self)
    }

    /// The one that a server offers (PROXY-04, PROXY-05).
    pub(super) fn offered(offered: &v1::ProxyConnectionSettings) -> Result<Self, Error> {
        let mut route = Route::parse(&offered.url)?;
        if let Some(offered) = &offered.connect_headers {
            route.add(headers::read(offered)?);
        }
        Ok(Self(Choice::Fixed(route)))
    }

    /// The one that was given by its URL.
    #[cfg(all(test, feature = "ws"))]
    pub(super) fn fixed(&self) -> Option<Route> {
        match &self.0 {
            Choice::Fixed(route) => Some(route.clone()),
            _ => None,
        }
    }

    /// Whether TLS is needed for the proxy as far as is known beforehand.
    pub(super) fn is_secure(&self) -> bool {
        matches!(&self.0, Choice::Fixed(route) if route.is_secure())
    }

    /// Takes this way with every request of a client.
    #[cfg(feature = "packages")]
    pub(super) fn lead(
        &self,
        builder: reqwest::ClientBuilder,
    ) -> Result<reqwest::ClientBuilder, Error> {
        Ok(match &self.0 {
            // The library reads the same as we do.
            Choice::System => builder,
            Choice::None => builder.no_proxy(),
            Choice::Fixed(route) => builder.no_proxy().proxy(route.for_requests()?),
        })
    }

    /// The proxy for this server; `None` is the straight way.
    pub(super) fn route_to(&self, endpoint: &Endpoint) -> Option<Route> {
        match &self.0 {
            Choice::None => None,
            Choice::Fixed(route) => Some(route.clone()),
            Choice::System => {
                let target: Uri = endpoint.http_url().parse().ok()?;
                Route::of(&Matcher::from_system().intercept(&target)?)
            }
        }
    }
}

impl Route {
    fn parse(url: &str) -> Result<Self, Error> {
        let wrong = |why: &str| Error::new(ErrorKind::Url, format!("the proxy's URL {why}"));
        let url = match url.split_once("://") {
            None => format!("http://{url}"),
            Some((scheme, rest)) => format!("{}://{rest}", scheme.to_ascii_lowercase()),
        };
        // The same reading as that of the environment.
        let anywhere = Uri::from_static("http://anywhere.invalid");
        let found = Matcher::builder().all(url).build().intercept(&anywhere);
        let route = found.and_then(|found| Self::of(&found)).ok_or_else(|| {
            wrong("is not one of http, https, socks5 or socks5h://[user:password@]host[:port]")
        })?;
        if let Some((name, password)) = &route.user
            && (name.is_empty() || name.len() > 255 || password.len() > 255)
        {
            return Err(wrong("has a user or password that SOCKS has no room for"));
        }
        Ok(route)
    }

    pub(super) fn is_secure(&self) -> bool {
        self.scheme == Scheme::Https
    }

    /// The same, as the library for requests wants it.
    #[cfg(any(feature = "http", feature = "packages"))]
    pub(super) fn for_requests(&self) -> Result<reqwest::Proxy, Error> {
        let unusable =
            |error| Error::with_source(ErrorKind::Url, "the proxy's URL cannot be used", error);
        let mut url = reqwest::Url::parse(&self.to_string()).map_err(|error| {
            Error::with_source(ErrorKind::Url, "the proxy's URL is unusable", error)
        })?;
        if let Some((name, password)) = &self.user {
            // They fail for URLs without a host, which this one has.
            let _ = url.set_username(name);
            let _ = url.set_password(Some(password));
        }
        let proxy = reqwest::Proxy::all(url).map_err(unusable)?;
        Ok(match self.scheme {
            Scheme::Http | Scheme::Https => proxy.headers(self.headers.clone()),
            Scheme::Socks5 | Scheme::Socks5h => proxy,
        })
    }

    /// `None` for a kind of proxy that is not spoken here.
    fn of(found: &Intercept) -> Option<Self> {
        let uri = found.uri();
        let scheme = match uri.scheme_str()? {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "socks5" => Scheme::Socks5,
            "socks5h" => Scheme::Socks5h,
            _ => return None,
        };
        let host = uri.host().filter(|host| !host.is_empty())?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let mut headers = HeaderMap::new();
        if let Some(basic) = found.basic_auth() {
            headers.insert(PROXY_AUTHORIZATION, basic.clone());
        }
        let user = found.raw_auth();
        Some(Self {
            scheme,
            host,
            port: uri.port_u16().unwrap_or(scheme.default_port()),
            user: user.map(|(name, password)| (name.to_owned(), password.to_owned())),
            headers,
        })
    }

    /// Adds headers of the server's, which go before the user in the URL.
    fn add(&mut self, given: HeaderMap) {
        if given.contains_key(PROXY_AUTHORIZATION) {
            self.headers.remove(PROXY_AUTHORIZATION);
        }
        for (name, value) in &given {
            self.headers.append(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_url_is_read_with_its_defaults() {
        let read = |url: &str| Route::parse(url).unwrap().to_string();
        assert_eq!(read("127.0.0.1:8443"), "http://127.0.0.1:8443");
        assert_eq!(read("https://proxy.example.com"), "https://proxy.example.com:443");
        assert_eq!(read("http://proxy/ignored?this"), "http://proxy:80");
        assert_eq!(read("SOCKS5://10.0.0.1"), "socks5://10.0.0.1:1080");
        assert_eq!(read("socks5h://[::1]:9"), "socks5h://[::1]:9");
        let route = Route::parse("http://us%40er:p%3Aw@proxy:1").unwrap();
        assert_eq!(route.headers[PROXY_AUTHORIZATION], "Basic dXNAZXI6cDp3");
        let route = Route::parse("socks5://us%40er:p%3Aw@proxy:1").unwrap();
        assert_eq!(route.user, Some(("us@er".to_owned(), "p:w".to_owned())));
    }

    #[test]
    fn a_wrong_proxy_is_refused_without_repeating_it() {
        for url in ["", "socks4://h", "http://", "http://user:secret@", "http://se cret"] {
            let error = Route::parse(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Url, "{url}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let long = format!("socks5://{}:x@h", "u".repeat(256));
        assert!(Route::parse(&long).is_err());
        let proxy = Proxy::url("http://user:secret@host").unwrap();
        let proxy = proxy.connect_header("Token", "secret").unwrap();
        assert_eq!(format!("{proxy:?}"), "Proxy(http://host:80)");
    }
}
