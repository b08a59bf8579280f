//! The headers of handshakes and requests: fixed ones, and ones that are asked for each time.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use opamp_proto::v1;

use crate::core::{Failure, FailureKind};
use crate::error::{Error, ErrorKind};

/// Gives the headers that change while the agent runs: a token that expires, for example.
///
/// It is asked before each WebSocket handshake and before each HTTP request, so no retry uses a
/// token that was fetched for an earlier one; a provider that has to fetch keeps what it got for as
/// long as it holds. What it gives takes the place of fixed headers of the same name. Headers that
/// the server offers take the place of all of them (CONN-30).
///
/// Any closure that returns a future of the result is a provider:
///
#[cfg_attr(feature = "ws", doc = "```")]
#[cfg_attr(not(feature = "ws"), doc = "```ignore")]
/// use http::{HeaderMap, HeaderValue, header};
/// use opamp_client::{Client, HeaderError};
///
/// async fn token() -> Result<String, std::io::Error> {
///     Ok(std::fs::read_to_string("/var/run/secrets/opamp/token")?)
/// }
///
/// let builder = Client::builder("ws://127.0.0.1:4320").header_provider(|| async {
///     let value = HeaderValue::try_from(format!("Bearer {}", token().await?.trim()))?;
///     Ok::<_, HeaderError>(HeaderMap::from_iter([(header::AUTHORIZATION, value)]))
/// });
/// # drop(builder);
/// ```
///
/// # Errors
///
/// An error, or an answer that takes longer than half of
/// [`connect_timeout`](crate::core::ClientConfig::connect_timeout), fails the attempt with
/// [`FailureKind::Configuration`], and it is tried again as any other. The error's text appears in
/// the event and in the log: leave secrets out of it.
#[async_trait::async_trait]
pub trait HeaderProvider: Send + Sync + 'static {
    /// The headers for the next handshake or request. May be cancelled at any await.
    async fn headers(&self) -> Result<HeaderMap, HeaderError>;
}

/// Why a [`HeaderProvider`] has no headers.
pub type HeaderError = Box<dyn StdError + Send + Sync>;

#[async_trait::async_trait]
impl<F, Answer> HeaderProvider for F
where
    F: Fn() -> Answer + Send + Sync + 'static,
    Answer: Future<Output = Result<HeaderMap, HeaderError>> + Send,
{
    async fn headers(&self) -> Result<HeaderMap, HeaderError> {
        self().await
    }
}

/// The most headers of a handshake or request that come from outside. Servers take fewer; the type
/// that holds them panics at some ten thousand.
pub(super) const MAX_HEADERS: usize = 256;

/// Where the headers of one connector come from.
#[derive(Clone)]
pub(super) struct HeaderSource {
    fixed: HeaderMap,
    provider: Option<Arc<dyn HeaderProvider>>,
}

/// Values are not for logs.
impl fmt::Debug for HeaderSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.fixed.keys().collect();
        f.debug_struct("HeaderSource")
            .field("fixed", &names)
            .field("provider", &self.provider.is_some())
            .finish()
    }
}

impl HeaderSource {
    pub(super) fn new(fixed: HeaderMap, provider: Option<Arc<dyn HeaderProvider>>) -> Self {
        Self { fixed, provider }
    }

    /// Those of an offer, alone. Every entry counts, also several of one name (CONN-41).
    pub(super) fn offered(offered: &v1::Headers) -> Result<Self, Error> {
        Ok(Self { fixed: read(offered)?, provider: None })
    }

    /// The headers for one handshake or request.
    pub(super) async fn get(&self, within: Duration) -> Result<HeaderMap, Failure> {
        let mut headers = self.fixed.clone();
        let Some(provider) = &self.provider else {
            return Ok(headers);
        };
        let failed = |message: String| Failure { kind: FailureKind::Configuration, message };
        let given = match tokio::time::timeout(within / 2, provider.headers()).await {
            Ok(Ok(given)) => given,
            Ok(Err(error)) => {
                return Err(failed(format!("the header provider failed: {error}")));
            }
            Err(_) => return Err(failed("the header provider did not answer in time".to_owned())),
        };
        if headers.len() + given.len() > MAX_HEADERS {
            return Err(failed(format!(
                "the header provider gave more than {MAX_HEADERS} headers"
            )));
        }
        for name in given.keys() {
            check_name(name).map_err(|error| failed(error.to_string()))?;
            headers.remove(name);
        }
        for (name, value) in &given {
            let mut value = value.clone();
            value.set_sensitive(true);
            headers.append(name, value);
        }
        Ok(headers)
    }
}

/// Reads headers as they stand in messages.
pub(super) fn read(headers: &v1::Headers) -> Result<HeaderMap, Error> {
    let mut map = HeaderMap::new();
    for v1::Header { key, value } in &headers.headers {
        append(&mut map, key, value)?;
    }
    Ok(map)
}

/// Adds a header. Errors say which, and no value.
pub(crate) fn append(map: &mut HeaderMap, name: &str, value: &str) -> Result<(), Error> {
    let parsed = HeaderName::try_from(name).map_err(|error| {
        Error::with_source(ErrorKind::Header, format!("{name:?} is no header name"), error)
    })?;
    check_name(&parsed)?;
    let mut value = HeaderValue::try_from(value).map_err(|error| {
        let message = format!("the value of header {name} has illegal characters");
        Error::with_source(ErrorKind::Header, message, error)
    })?;
    value.set_sensitive(true);
    if map.len() >= MAX_HEADERS {
        let message = format!("there are more than {MAX_HEADERS} headers");
        return Err(Error::new(ErrorKind::Header, message));
    }
    map.append(parsed, value);
    Ok(())
}

/// What the transports set themselves cannot be set from outside: a second `Host` or another length
/// would make the request another one.
fn check_name(name: &HeaderName) -> Result<(), Error> {
    const OWN: [HeaderName; 11] = [
        header::ACCEPT_ENCODING,
        header::CONNECTION,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::EXPECT,
        header::HOST,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    let own = OWN.contains(name)
        || name.as_str().starts_with("sec-websocket-")
        || name == "opamp-instance-uid";
    match own {
        false => Ok(()),
        true => {
            let message = format!("the header {name} is set by the client itself");
            Err(Error::new(ErrorKind::Header, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_of_headers_is_a_panic() {
        let header = |count| v1::Header { key: format!("x-{count}"), value: String::new() };
        let offered = |count: usize| v1::Headers { headers: (0..count).map(header).collect() };
        assert_eq!(read(&offered(MAX_HEADERS)).unwrap().len(), MAX_HEADERS);
        assert_eq!(read(&offered(MAX_HEADERS + 1)).unwrap_err().kind(), ErrorKind::Header);
        assert_eq!(read(&offered(40_000)).unwrap_err().kind(), ErrorKind::Header);
    }

    #[test]
    fn every_value_of_a_name_is_kept_and_none_is_shown() {
        let header = |value: &str| v1::Header { key: "x-a".to_owned(), value: value.to_owned() };
        let map = read(&v1::Headers { headers: vec![header("one"), header("two")] }).unwrap();
        let values: Vec<_> = map.get_all("X-A").iter().collect();
        assert_eq!(values, ["one", "two"]);
        assert!(!format!("{map:?}").contains("one"));
    }
}
