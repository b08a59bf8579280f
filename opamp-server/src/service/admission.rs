//! What is asked of a connection and of a request before the application is asked about it.
//!
//! ```text
//!   connection ─▶ a place? ─▶ PROXY protocol ─▶ the address's share? ─▶ TLS ─▶ requests
//!                   │ no                          │ no
//!                   └──────────────┬──────────────┘
//!                       503 or 429 while there are places for that, else closed
//!
//!   request ─▶ the client's address ─▶ its rate? ─▶ arrivals? (WebSocket) ─▶ Handler::admit ─▶ its account?
//!                                        429          503                     401, 403 …        429
//! ```

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request;
use tokio::sync::OwnedSemaphorePermit;

use super::handler::{Handler, PeerAddr, Rejection};
use super::in_progress::InProgress;
use super::network::household;
use super::quota::{Counted, Quota, Quotas};
use super::{Inner, ServiceConfig, now};
use crate::core::Spread;
use crate::counters::Counting;

/// How long those are told to stay away, once to twice, who have too many connections.
const CROWDED_PAUSE: Duration = Duration::from_secs(30);

/// What all connections and requests share.
pub(super) struct Shares {
    pub(super) addresses: Arc<Quotas<IpAddr>>,
    accounts: Arc<Quotas<u128>>,
    pub(super) in_progress: Arc<InProgress>,
    spread: Spread,
}

/// Keeps a place among the listener's connections for as long as a connection lives, upgraded or
/// not.
#[derive(Clone)]
pub(super) struct Permit {
    place: Arc<Place>,
}

struct Place {
    _permit: OwnedSemaphorePermit,
    /// The address it counts for; `None` if it is a proxy's.
    address: Option<(IpAddr, Counted<IpAddr>)>,
    counting: Arc<Counting>,
}

/// The shares a WebSocket has beside its connection's, until it ends.
pub(super) struct Places {
    _address: Option<Counted<IpAddr>>,
    _account: Option<Counted<u128>>,
}

impl Shares {
    pub(super) fn new(config: &ServiceConfig) -> Self {
        let addresses = Quota {
            connections: config.max_connections_per_address,
            requests: config.requests_per_address,
        };
        let accounts = Quota {
            connections: config.max_connections_per_account,
            requests: config.requests_per_account,
        };
        Self {
            addresses: Arc::new(Quotas::new(addresses)),
            accounts: Arc::new(Quotas::new(accounts)),
            in_progress: Arc::new(InProgress::new(config.max_in_progress)),
            spread: Spread::default(),
        }
    }

    pub(super) fn sweep(&self, now: Instant) {
        self.addresses.sweep(now);
        self.accounts.sweep(now);
    }

    /// Somebody has too many connections, or there are too many in all: each is told another time.
    pub(super) fn crowded(&self) -> Duration {
        CROWDED_PAUSE + self.spread.part_of(CROWDED_PAUSE)
    }
}

impl Permit {
    pub(super) fn new(
        permit: OwnedSemaphorePermit,
        address: Option<(IpAddr, Counted<IpAddr>)>,
        counting: Arc<Counting>,
    ) -> Self {
        counting.listener_connections_accepted.add();
        counting.listener_connections_open.add();
        Self { place: Arc::new(Place { _permit: permit, address, counting }) }
    }

    fn is_for(&self, address: IpAddr) -> bool {
        self.place.address.as_ref().is_some_and(|(counted, _)| *counted == address)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.counting.listener_connections_open.remove();
    }
}

impl<H: Handler> Inner<H> {
    /// The client's address, as far as it is known: it is put into the request.
    pub(super) fn learn_client(&self, request: &mut request::Parts) -> Option<SocketAddr> {
        let PeerAddr(peer) = request.extensions.get().copied()?;
        let client = self.config.trusted_proxies.client(peer, &request.headers);
        if client != peer {
            request.extensions.insert(PeerAddr(client));
        }
        Some(client)
    }

    /// Asks whether a client may send another request.
    pub(super) fn check_client(&self, client: Option<SocketAddr>) -> Result<(), Rejection> {
        let addresses = &self.shares.addresses;
        match client {
            // A proxy that does not say whose a request is speaks for many.
            Some(known) if !self.config.trusted_proxies.contains(known.ip()) => {
                let asked = addresses.request(household(known.ip()), || now().instant);
                self.unless_throttled(asked, client)
            }
            _ => Ok(()),
        }
    }

    /// Asks whether an account may send another request.
    pub(super) fn check_account(&self, identity: &H::Identity) -> Result<(), Rejection> {
        let Some(account) = self.handler.account(identity) else { return Ok(()) };
        let asked = self.shares.accounts.request(account, || now().instant);
        self.unless_throttled(asked, None)
    }

    fn unless_throttled(
        &self,
        asked: Result<(), Duration>,
        client: Option<SocketAddr>,
    ) -> Result<(), Rejection> {
        asked.map_err(|wait| {
            self.fleet.counting().rejected(429);
            tracing::debug!(?client, ?wait, "too many requests");
            Rejection::too_many_requests(wait)
        })
    }

    /// The shares of a WebSocket that is about to be opened. Boxed, as most have none: their
    /// connection's is enough.
    pub(super) fn places(
        &self,
        request: &request::Parts,
        permit: Option<&Permit>,
        identity: &H::Identity,
    ) -> Result<Option<Box<Places>>, Rejection> {
        let crowded = |what| {
            self.fleet.counting().rejected(429);
            tracing::info!("{what} has as many connections as it may");
            Rejection::too_many_requests(self.shares.crowded())
        };
        let client = request.extensions.get().map(|PeerAddr(client)| client.ip());
        let client = client.filter(|client| !self.config.trusted_proxies.contains(*client));
        let address = match (client.map(household), permit) {
            (Some(address), Some(permit)) if permit.is_for(address) => None,
            (Some(address), _) => {
                let counted = self.shares.addresses.connect(address);
                Some(counted.ok_or_else(|| crowded("an address"))?)
            }
            (None, _) => None,
        };
        let account = match self.handler.account(identity) {
            Some(account) => {
                let counted = self.shares.accounts.connect(account);
                Some(counted.ok_or_else(|| crowded("an account"))?)
            }
            None => None,
        };
        let has_some = address.is_some() || account.is_some();
        Ok(has_some.then(|| Box::new(Places { _address: address, _account: account })))
    }
}
