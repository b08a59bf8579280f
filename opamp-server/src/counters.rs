//! Counts of what a Server saw and did, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// Defines the snapshot and the live counters from one list.
macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// What a Server saw and did since it started.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counters {
            $($(#[doc = $doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counting {
            $(pub(crate) $name: Count,)*
        }

        impl Counting {
            pub(crate) fn snapshot(&self) -> Counters {
                Counters { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Messages received, malformed ones included.
    messages,
    /// Messages told BAD_REQUEST as they are malformed.
    malformed,
    /// Messages told BAD_REQUEST as they ask for more than is granted, such as too much state of one
    /// Agent.
    over_limit,
    /// Messages told UNAVAILABLE.
    unavailable,
    /// Those of them that were refused as all Agents together would have reported more than is kept
    /// ([`ServerConfig::max_fleet_bytes`](crate::ServerConfig::max_fleet_bytes)).
    over_budget,
    /// Messages of a connection whose Agent has since appeared on a newer one.
    stale,
    /// Custom messages of Agents that were dropped as the handler had not taken those before, or as
    /// there was no room for them.
    custom_messages_dropped,
    /// Messages accepted with an instance uid in a legacy form
    /// ([`Tolerances::legacy_instance_uid`](crate::Tolerances)).
    legacy_instance_uids,
    /// WebSocket messages accepted without the header byte
    /// ([`Tolerances::missing_header`](crate::Tolerances)).
    missing_headers,
    /// Messages or bodies above the limit of what is received.
    oversized,
    /// Messages above the limit of what is sent, and therefore not sent.
    unsendable,
    /// Requests refused by admission.
    rejected,
    /// Connections closed because the peer did not read, answer or speak in time.
    timed_out,
    /// Calls of the handler that panicked.
    handler_panics,
}

#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
