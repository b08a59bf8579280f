//! How many connections each address has, so that one that goes wrong leaves room for the others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What each address has at the moment: no more entries than there are connections.
pub(super) struct Addresses {
    most: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
    refused: AtomicU64,
}

/// One of the connections, until it is dropped.
pub(super) struct Counted {
    addresses: Arc<Addresses>,
    from: IpAddr,
}

impl Addresses {
    pub(super) fn new(most: usize) -> Self {
        Self { most, open: Mutex::default(), refused: AtomicU64::new(0) }
    }

    /// One more connection; `None` if there are as many from there as there may be.
    pub(super) fn connect(self: &Arc<Self>, from: IpAddr) -> Option<Counted> {
        let from = network(from);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = open.entry(from).or_default();
        if *connections >= self.most {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        *connections += 1;
        Some(Counted { addresses: Arc::clone(self), from })
    }

    /// How many connections were refused so far.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = self.addresses.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut connections) = open.entry(self.from) {
            *connections.get_mut() -= 1;
            if *connections.get() == 0 {
                connections.remove();
            }
        }
    }
}

/// With IPv6 everybody has a network of 64 bits to choose addresses from.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(it) => Ipv6Addr::from_bits(it.to_bits() & !u128::from(u64::MAX)).into(),
        it @ IpAddr::V4(_) => it,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_network_has_its_own_connections_and_none_leaves_nothing() {
        let addresses = Arc::new(Addresses::new(2));
        let connect = |from: &str| addresses.connect(from.parse().unwrap());
        let first = connect("192.0.2.1");
        let second = connect("::ffff:192.0.2.1");
        assert!(first.is_some() && second.is_some());
        assert!(connect("192.0.2.1").is_none());
        let others = ["192.0.2.2", "2001:db8::1", "2001:db8::2"].map(connect);
        assert!(others.iter().all(Option::is_some));
        assert!(connect("2001:db8::3").is_none());
        assert!(connect("2001:db8:0:1::").is_some());
        drop(first);
        assert!(connect("192.0.2.1").is_some());
        assert_eq!(addresses.refused(), 2);
        drop((second, others));
        assert!(addresses.open.lock().unwrap().is_empty());
    }
}
