//! A connection that was just accepted: whom it comes from, and whether there is a place for it.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::super::admission::Permit;
use super::super::handler::{Handler, PeerAddr, Rejection};
use super::super::network::household;
use super::super::signal::Signal;
use super::super::stream::Socket;
use super::super::{OpampService, proxy_protocol};
use super::{Connection, Options};

/// A connection that is not known yet.
pub(super) struct Arrival<H: Handler> {
    pub(super) service: OpampService<H>,
    pub(super) options: Arc<Options>,
    pub(super) peer: SocketAddr,
    /// The place for it, if there was one.
    pub(super) place: Option<OwnedSemaphorePermit>,
}

/// What becomes of the requests on a connection.
pub(super) enum Standing {
    Served(Permit),
    /// All are answered with this.
    TurnedAway(Rejection, #[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit),
}

impl<H: Handler> Arrival<H> {
    /// Serves the connection to its end.
    pub(super) async fn serve(mut self, signal: Arc<Signal>, mut socket: Socket<TcpStream>) {
        let is_balanced = self.is_of_balancer();
        if is_balanced {
            let known = tokio::select! {
                known = self.learn_client(&mut socket) => known,
                () = signal.closed() => false,
            };
            if !known {
                return;
            }
        }
        let Some(standing) = self.standing(is_balanced) else { return };
        let Self { service, options, peer, .. } = self;
        let connection = Connection {
            service,
            options,
            peer: PeerAddr(peer),
            standing,
            #[cfg(feature = "tls")]
            certificates: None,
        };
        connection.open(signal, socket).await;
    }

    fn is_of_balancer(&self) -> bool {
        self.options.balancers.iter().any(|balancer| balancer.contains(self.peer.ip()))
    }

    /// Reads whom a load balancer's connection comes from. False if it does not say.
    async fn learn_client(&mut self, socket: &mut Socket<TcpStream>) -> bool {
        let header = Box::pin(proxy_protocol::read(socket));
        match tokio::time::timeout(self.options.header_timeout, header).await {
            Ok(Ok(client)) => {
                self.peer = client.unwrap_or(self.peer);
                return true;
            }
            Ok(Err(error)) => tracing::info!(balancer = %self.peer, %error, "no PROXY protocol"),
            Err(_elapsed) => tracing::info!(balancer = %self.peer, "no PROXY protocol in time"),
        }
        self.service.fleet().counting().connections_without_header.add();
        false
    }

    /// Whether the connection is served, or told why it is not. `None` if there is no place for
    /// that.
    fn standing(&mut self, is_balanced: bool) -> Option<Standing> {
        let inner = &self.service.inner;
        let counting = self.service.fleet().counting();
        let refusal = match self.place.take() {
            None => {
                counting.connections_crowded.add();
                Rejection::unavailable(inner.shares.crowded())
            }
            Some(place) => {
                let address = household(self.peer.ip());
                // The connection of a proxy counts for nobody, nor does one a balancer has for
                // itself.
                let is_proxy = inner.config.trusted_proxies.contains(self.peer.ip())
                    || (is_balanced && self.is_of_balancer());
                let counted = match is_proxy {
                    true => Some(None),
                    false => inner.shares.addresses.connect(address).map(Some),
                };
                if let Some(counted) = counted {
                    let address = counted.map(|counted| (address, counted));
                    let counting = self.service.fleet().counting_handle();
                    return Some(Standing::Served(Permit::new(place, address, counting)));
                }
                counting.connections_per_address.add();
                Rejection::too_many_requests(inner.shares.crowded())
            }
        };
        tracing::debug!(peer = %self.peer, status = refusal.status().as_u16(), "turned away");
        let place = Arc::clone(&self.options.turning_away).try_acquire_owned().ok()?;
        Some(Standing::TurnedAway(refusal, place))
    }
}
