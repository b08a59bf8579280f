//! Ready pieces to find out who a peer is, and ways to combine them (AUTH-01 to AUTH-04).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use http::header::{AUTHORIZATION, HeaderValue};
use http::request;
use sha2::{Digest as _, Sha256};

#[cfg(feature = "tls")]
use super::handler::PeerCertificates;
use super::handler::{Handler, Rejection};

/// Finds out who a peer is, from its request.
///
/// It is for [`Handler::admit`] to ask; what takes time, such as a look into a database, belongs
/// there directly. Pieces combine: [`or`](Self::or) for either of two, [`and`](Self::and) for both,
/// [`map`](Self::map) for an identity of one's own.
///
/// ```
/// # #[cfg(feature = "tls")] {
/// use opamp_server::{Authenticate, BearerTokens, ClientCertificates, Handler, Rejection};
///
/// /// Who has a client certificate is let in with it; who has none yet, with a token.
/// struct Door<A>(A);
///
/// impl<A: Authenticate<Identity = String>> Handler for Door<A> {
///     type Identity = String;
///
///     async fn admit(&self, request: &http::request::Parts) -> Result<String, Rejection> {
///         self.0.authenticate(request)
///     }
/// }
///
/// let tokens = BearerTokens::with_identities([("s3cret", "first contact".to_owned())]);
/// let certificates = ClientCertificates::new(|peer| Some(format!("{} bytes", peer.0[0].len())));
/// let door = Door(certificates.or(tokens.clone()));
/// // Later, while it serves:
/// tokens.replace([("n3w", "first contact".to_owned())]);
/// # let _ = door;
/// # }
/// ```
pub trait Authenticate: Send + Sync + 'static {
    /// Who a peer is.
    type Identity: Clone + Send + Sync + 'static;

    /// Says who sent a request. It must return at once.
    ///
    /// # Errors
    ///
    /// A [`Rejection`]: 401 if that could not be found out, 403 if whoever it is may not.
    fn authenticate(&self, request: &request::Parts) -> Result<Self::Identity, Rejection>;

    /// Takes the word of either: this one's, else the other's. Who convinces neither is told 401
    /// with the challenges of both, or what is said instead.
    fn or<B>(self, other: B) -> Either<Self, B>
    where
        Self: Sized,
        B: Authenticate<Identity = Self::Identity>,
    {
        Either(self, other)
    }

    /// Asks for both. What the first says against it is the answer.
    fn and<B: Authenticate>(self, other: B) -> Both<Self, B>
    where
        Self: Sized,
    {
        Both(self, other)
    }

    /// Makes another identity of it.
    fn map<I, F>(self, map: F) -> Mapped<Self, F>
    where
        Self: Sized,
        I: Clone + Send + Sync + 'static,
        F: Fn(Self::Identity) -> I + Send + Sync + 'static,
    {
        Mapped(self, map)
    }
}

/// Either of two; see [`Authenticate::or`].
#[derive(Debug, Clone)]
pub struct Either<A, B>(A, B);

impl<A: Authenticate, B: Authenticate<Identity = A::Identity>> Authenticate for Either<A, B> {
    type Identity = A::Identity;

    fn authenticate(&self, request: &request::Parts) -> Result<A::Identity, Rejection> {
        self.0.authenticate(request).or_else(|first| {
            let second = self.1.authenticate(request);
            second.map_err(|second| first.or_challenge(second))
        })
    }
}

/// Both of two; see [`Authenticate::and`].
#[derive(Debug, Clone)]
pub struct Both<A, B>(A, B);

impl<A: Authenticate, B: Authenticate> Authenticate for Both<A, B> {
    type Identity = (A::Identity, B::Identity);

    fn authenticate(&self, request: &request::Parts) -> Result<Self::Identity, Rejection> {
        Ok((self.0.authenticate(request)?, self.1.authenticate(request)?))
    }
}

/// With another identity; see [`Authenticate::map`].
#[derive(Debug, Clone)]
pub struct Mapped<A, F>(A, F);

impl<A, I, F> Authenticate for Mapped<A, F>
where
    A: Authenticate,
    I: Clone + Send + Sync + 'static,
    F: Fn(A::Identity) -> I + Send + Sync + 'static,
{
    type Identity = I;

    fn authenticate(&self, request: &request::Parts) -> Result<I, Rejection> {
        self.0.authenticate(request).map(&self.1)
    }
}

/// Knows those who present one of a set of bearer tokens (AUTH-01, AUTH-03, AUTH-04), each with an
/// identity. Clones share the set, which can be replaced while the Server serves.
///
/// Of a token its SHA-256 is kept and looked up: what a look-up costs does not depend on how many
/// there are, so each Agent of a large fleet can have its own, and its time tells nothing about
/// them.
///
/// As a [`Handler`] it admits them, and has nothing to do when an Agent changes.
#[derive(Clone)]
pub struct BearerTokens<I = ()> {
    tokens: Arc<RwLock<Arc<Known<I>>>>,
}

/// The identities by the digests of their tokens.
type Known<I> = HashMap<[u8; 32], I>;

impl BearerTokens {
    /// Admits these tokens. An empty token is none.
    pub fn new<T: AsRef<[u8]>>(tokens: impl IntoIterator<Item = T>) -> Self {
        Self::with_identities(tokens.into_iter().map(|token| (token, ())))
    }
}

impl<I> BearerTokens<I> {
    /// Admits these tokens, and knows whose they are. An empty token is none.
    pub fn with_identities<T: AsRef<[u8]>>(tokens: impl IntoIterator<Item = (T, I)>) -> Self {
        Self { tokens: Arc::new(RwLock::new(known(tokens))) }
    }

    /// Admits these tokens from now on, and no others. Who is connected stays so: to end that is
    /// [`Fleet::disconnect`](crate::Fleet::disconnect)'s.
    pub fn replace<T: AsRef<[u8]>>(&self, tokens: impl IntoIterator<Item = (T, I)>) {
        let tokens = known(tokens);
        *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = tokens;
    }

    fn tokens(&self) -> Arc<Known<I>> {
        Arc::clone(&self.tokens.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn known<I, T: AsRef<[u8]>>(tokens: impl IntoIterator<Item = (T, I)>) -> Arc<Known<I>> {
    let tokens = tokens.into_iter().filter(|(token, _)| !token.as_ref().is_empty());
    Arc::new(tokens.map(|(token, identity)| (digest(token.as_ref()), identity)).collect())
}

fn digest(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

impl<I: Clone> BearerTokens<I> {
    /// Whose token a request presents.
    ///
    /// # Errors
    ///
    /// A [`Rejection`] with status 401.
    pub fn check(&self, request: &request::Parts) -> Result<I, Rejection> {
        let presented = request.headers.get(AUTHORIZATION).map_or(&[][..], HeaderValue::as_bytes);
        let token = match presented.split_at_checked("bearer ".len()) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token.trim_ascii(),
            _ => &[],
        };
        let challenge = HeaderValue::from_static("Bearer realm=\"OpAMP\"");
        let owner = self.tokens().get(&digest(token)).cloned();
        owner.ok_or_else(|| Rejection::unauthorized(challenge))
    }
}

impl<I> fmt::Debug for BearerTokens<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerTokens").field("tokens", &self.tokens().len()).finish()
    }
}

impl<I: Clone + Send + Sync + 'static> Authenticate for BearerTokens<I> {
    type Identity = I;

    fn authenticate(&self, request: &request::Parts) -> Result<I, Rejection> {
        self.check(request)
    }
}

impl<I: Clone + Send + Sync + 'static> Handler for BearerTokens<I> {
    type Identity = I;

    async fn admit(&self, request: &request::Parts) -> Result<I, Rejection> {
        self.check(request)
    }
}

/// Knows those who presented a certificate in the TLS handshake, by what a function makes of it;
/// the listener has verified it against its authorities. It is asked with [`PeerCertificates`],
/// which have the serial and the instance uid of the peer's own certificate with the feature `ca`.
///
/// Who presented none is told 401, and of whom the function makes nothing, 403.
#[cfg(feature = "tls")]
#[derive(Debug, Clone)]
pub struct ClientCertificates<F>(F);

#[cfg(feature = "tls")]
impl<I, F: Fn(&PeerCertificates) -> Option<I>> ClientCertificates<F> {
    /// Knows peers by what this function makes of their certificates.
    pub const fn new(identify: F) -> Self {
        Self(identify)
    }
}

#[cfg(feature = "tls")]
impl<I, F> Authenticate for ClientCertificates<F>
where
    I: Clone + Send + Sync + 'static,
    F: Fn(&PeerCertificates) -> Option<I> + Send + Sync + 'static,
{
    type Identity = I;

    fn authenticate(&self, request: &request::Parts) -> Result<I, Rejection> {
        match request.extensions.get::<PeerCertificates>() {
            Some(certificates) => (self.0)(certificates).ok_or_else(Rejection::forbidden),
            None => {
                // No scheme is registered for it, and a 401 has to name one (AUTH-04).
                let challenge = HeaderValue::from_static("ClientCertificate realm=\"OpAMP\"");
                Err(Rejection::unauthorized(challenge))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, StatusCode};

    use super::*;

    fn request(authorization: Option<&str>) -> request::Parts {
        let mut request = Request::new(()).into_parts().0;
        if let Some(value) = authorization {
            request.headers.insert(AUTHORIZATION, value.parse().unwrap());
        }
        request
    }

    #[test]
    fn tokens_have_identities_and_are_replaced_for_all_clones() {
        let _judged = opamp_spec::judges(&["AUTH-01", "AUTH-03"]);
        let tokens = BearerTokens::with_identities([("a", 1), ("b", 2), ("", 3)]);
        let shared = tokens.clone();
        let check = |value| shared.check(&request(value)).map_err(|refusal| refusal.status());
        assert_eq!((check(Some("Bearer a")), check(Some("bearer b"))), (Ok(1), Ok(2)));
        assert_eq!(check(None), Err(StatusCode::UNAUTHORIZED));
        assert_eq!(check(Some("Bearer ")), Err(StatusCode::UNAUTHORIZED));
        tokens.replace([("b", 20), ("c", 30)]);
        assert_eq!(check(Some("Bearer a")), Err(StatusCode::UNAUTHORIZED));
        assert_eq!((check(Some("Bearer b")), check(Some("Bearer c"))), (Ok(20), Ok(30)));
        let text = format!("{tokens:?}");
        assert_eq!(text, "BearerTokens { tokens: 2 }");
    }

    #[test]
    fn each_agent_of_a_fleet_may_have_a_token_of_its_own() {
        let token = |number: u32| format!("token-{number:08}");
        let fleet = 0..50_000;
        let tokens = BearerTokens::with_identities(fleet.clone().map(|one| (token(one), one)));
        for one in fleet {
            let value = format!("Bearer {}", token(one));
            assert_eq!(tokens.check(&request(Some(&value))).ok(), Some(one));
        }
    }

    /// Says one thing.
    #[derive(Clone)]
    struct Says(Result<u8, Rejection>);

    impl Authenticate for Says {
        type Identity = u8;

        fn authenticate(&self, _request: &request::Parts) -> Result<u8, Rejection> {
            self.0.clone()
        }
    }

    fn challenge(text: &'static str) -> Says {
        Says(Err(Rejection::unauthorized(HeaderValue::from_static(text))))
    }

    #[test]
    fn pieces_combine() {
        let _judged = opamp_spec::judges(&["AUTH-03", "AUTH-04"]);
        let (yes, no) = (Says(Ok(1)), Says(Err(Rejection::forbidden())));
        let asked = request(None);
        let said = |result: Result<u8, Rejection>| {
            result.map_err(|refusal| {
                let response = refusal.into_response();
                let challenges = response.headers().get_all("www-authenticate").iter();
                let challenges: Vec<_> = challenges.map(|value| value.to_str().unwrap()).collect();
                (response.status().as_u16(), challenges.join(", "))
            })
        };
        let either = |a: &Says, b: &Says| said(a.clone().or(b.clone()).authenticate(&asked));
        assert_eq!(either(&yes, &no), Ok(1));
        assert_eq!(either(&no, &yes), Ok(1));
        assert_eq!(either(&challenge("A"), &yes), Ok(1));
        assert_eq!(either(&challenge("A"), &challenge("B")), Err((401, "A, B".to_owned())));
        assert_eq!(either(&challenge("A"), &no), Err((401, "A".to_owned())));
        assert_eq!(either(&no, &challenge("B")), Err((401, "B".to_owned())));
        assert_eq!(either(&no, &no), Err((403, String::new())));

        let both = |a: &Says, b: &Says| {
            said(a.clone().and(b.clone()).map(|(a, b)| a * 10 + b).authenticate(&asked))
        };
        assert_eq!(both(&yes, &Says(Ok(2))), Ok(12));
        assert_eq!(both(&yes, &no), Err((403, String::new())));
        assert_eq!(both(&challenge("A"), &no), Err((401, "A".to_owned())));
    }

    #[cfg(feature = "tls")]
    #[test]
    fn certificates_are_identified_by_the_application() {
        let _judged = opamp_spec::judges(&["AUTH-03", "AUTH-04"]);
        let piece = ClientCertificates::new(|peer| (peer.0.len() == 1).then_some("known"));
        let none = piece.authenticate(&request(None)).unwrap_err().into_response();
        assert_eq!(none.status(), StatusCode::UNAUTHORIZED);
        assert!(none.headers().contains_key("www-authenticate"));
        let with = |count: usize| {
            let mut request = request(None);
            let certificate = rustls::pki_types::CertificateDer::from(vec![1]);
            request.extensions.insert(PeerCertificates(vec![certificate; count].into()));
            piece.authenticate(&request).map_err(|refusal| refusal.status())
        };
        assert_eq!((with(1), with(2)), (Ok("known"), Err(StatusCode::FORBIDDEN)));
    }
}
