//! The capability masks of both ends as sets.
//!
//! A mask travels as a bare `u64`. Received bits that this version of the protocol does not define
//! are kept in the set, so that they can be logged and compared, and are masked out when a set is
//! sent: an end must not claim what it does not know (CAP-01, CAP-09, CAP-15, INTEROP-08).

use std::fmt;

use bitflags::bitflags;

/// Defines a capability set and the protocol's names of its bits from one list.
macro_rules! capability_set {
    (
        $(#[$doc:meta])*
        $set:ident {
            $($(#[doc = $bit_doc:literal])* $bit:ident = $value:literal, $name:literal;)*
        }
    ) => {
        bitflags! {
            $(#[$doc])*
            #[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
            pub struct $set: u64 {
                $($(#[doc = $bit_doc])* const $bit = $value;)*
            }
        }

        impl $set {
            const NAMES: &'static [(Self, &'static str)] = &[$((Self::$bit, $name)),*];

            /// The mask to put into a message: the defined bits only.
            ///
            /// Judged by CAP-01, CAP-09 and INTEROP-08.
            #[must_use]
            pub const fn to_wire(self) -> u64 {
                self.bits() & Self::all().bits()
            }

            /// The bits that this version of the protocol does not define, kept by
            /// [`from_bits_retain`](Self::from_bits_retain).
            #[must_use]
            pub const fn unknown_bits(self) -> u64 {
                self.bits() & !Self::all().bits()
            }

            /// The protocol's names of the set's defined bits, without the enum's prefix, from the
            /// lowest bit to the highest.
            pub fn names(self) -> impl Iterator<Item = &'static str> {
                Self::NAMES
                    .iter()
                    .filter(move |(bit, _)| self.contains(*bit))
                    .map(|(_, name)| *name)
            }
        }

        /// Writes the names joined by ` | `, undefined bits as a hexadecimal number at the end, and
        /// `none` for the empty set.
        impl fmt::Display for $set {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if self.is_empty() {
                    return f.write_str("none");
                }
                let mut separator = "";
                for name in self.names() {
                    write!(f, "{separator}{name}")?;
                    separator = " | ";
                }
                match self.unknown_bits() {
                    0 => Ok(()),
                    unknown => write!(f, "{separator}{unknown:#x}"),
                }
            }
        }
    };
}

capability_set! {
    /// What an Agent can do, the mask of `AgentToServer.capabilities`.
    ///
    /// Build one from a received mask by [`from_bits_retain`](Self::from_bits_retain), which keeps
    /// undefined bits, and send it by [`to_wire`](Self::to_wire), which drops them.
    ///
    /// ```
    /// use opamp_proto::AgentCapabilities;
    ///
    /// let received = AgentCapabilities::from_bits_retain(0x1_0003);
    /// assert!(received.contains(AgentCapabilities::ACCEPTS_REMOTE_CONFIG));
    /// assert_eq!(received.to_string(), "ReportsStatus | AcceptsRemoteConfig | 0x10000");
    /// assert_eq!(received.to_wire(), 0x3);
    /// ```
    AgentCapabilities {
        /// Reports status; every Agent does (CAP-06).
        REPORTS_STATUS = 0x1, "ReportsStatus";
        /// Takes configurations from the Server.
        ACCEPTS_REMOTE_CONFIG = 0x2, "AcceptsRemoteConfig";
        /// Reports its effective configuration.
        REPORTS_EFFECTIVE_CONFIG = 0x4, "ReportsEffectiveConfig";
        /// Takes packages from the Server. Maturity: beta.
        ACCEPTS_PACKAGES = 0x8, "AcceptsPackages";
        /// Reports the statuses of its packages. Maturity: beta.
        REPORTS_PACKAGE_STATUSES = 0x10, "ReportsPackageStatuses";
        /// Can send its own traces where the Server says. Maturity: beta.
        REPORTS_OWN_TRACES = 0x20, "ReportsOwnTraces";
        /// Can send its own metrics where the Server says. Maturity: beta.
        REPORTS_OWN_METRICS = 0x40, "ReportsOwnMetrics";
        /// Can send its own logs where the Server says. Maturity: beta.
        REPORTS_OWN_LOGS = 0x80, "ReportsOwnLogs";
        /// Takes settings for the OpAMP connection. Maturity: beta.
        ACCEPTS_OPAMP_CONNECTION_SETTINGS = 0x100, "AcceptsOpAMPConnectionSettings";
        /// Takes settings for other connections. Maturity: beta.
        ACCEPTS_OTHER_CONNECTION_SETTINGS = 0x200, "AcceptsOtherConnectionSettings";
        /// Executes the restart command. Maturity: beta.
        ACCEPTS_RESTART_COMMAND = 0x400, "AcceptsRestartCommand";
        /// Reports health (HEALTH-10).
        REPORTS_HEALTH = 0x800, "ReportsHealth";
        /// Reports what became of remote configurations (CFG-23).
        REPORTS_REMOTE_CONFIG = 0x1000, "ReportsRemoteConfig";
        /// Sends heartbeats over WebSocket. Maturity: development.
        REPORTS_HEARTBEAT = 0x2000, "ReportsHeartbeat";
        /// Reports its available components (COMP-01). Maturity: development.
        REPORTS_AVAILABLE_COMPONENTS = 0x4000, "ReportsAvailableComponents";
        /// Reports what became of connection settings. Maturity: development.
        REPORTS_CONNECTION_SETTINGS_STATUS = 0x8000, "ReportsConnectionSettingsStatus";
    }
}

capability_set! {
    /// What a Server can do, the mask of `ServerToAgent.capabilities`.
    ///
    /// A mask of 0 in any but the first message means unchanged, not a Server without capabilities
    /// (CAP-12): that is for the receiver to tell.
    ///
    /// ```
    /// use opamp_proto::ServerCapabilities;
    ///
    /// let ours = ServerCapabilities::ACCEPTS_STATUS | ServerCapabilities::OFFERS_REMOTE_CONFIG;
    /// assert!(ours.names().eq(["AcceptsStatus", "OffersRemoteConfig"]));
    /// ```
    ServerCapabilities {
        /// Takes status reports; every Server does (CAP-13).
        ACCEPTS_STATUS = 0x1, "AcceptsStatus";
        /// Can offer configurations.
        OFFERS_REMOTE_CONFIG = 0x2, "OffersRemoteConfig";
        /// Takes effective configurations.
        ACCEPTS_EFFECTIVE_CONFIG = 0x4, "AcceptsEffectiveConfig";
        /// Can offer packages. Maturity: beta.
        OFFERS_PACKAGES = 0x8, "OffersPackages";
        /// Takes package statuses. Maturity: beta.
        ACCEPTS_PACKAGES_STATUS = 0x10, "AcceptsPackagesStatus";
        /// Can offer connection settings. Maturity: beta.
        OFFERS_CONNECTION_SETTINGS = 0x20, "OffersConnectionSettings";
        /// Takes requests for connection settings. Maturity: development.
        ACCEPTS_CONNECTION_SETTINGS_REQUEST = 0x40, "AcceptsConnectionSettingsRequest";
    }
}
