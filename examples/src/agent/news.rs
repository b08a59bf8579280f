//! What the agent tells its user: a line for each change of its state, first what happened, then
//! details as `name=value`.

use std::fmt;
use std::time::{Duration, SystemTime};

use opamp_client::core::Event;
use opamp_proto::InstanceUid;

/// Something that happened to an agent. Its `Display` is the line that is printed.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum News<'a> {
    /// The agent has started and connects.
    Started {
        /// Its instance uid.
        instance_uid: InstanceUid,
        /// The URL it connects to.
        server: &'a str,
    },
    /// The server answers.
    Connected,
    /// The connection is over.
    Disconnected {
        /// Why.
        reason: &'a str,
    },
    /// The server cannot be reached, or refuses the agent.
    ConnectFailed {
        /// What failed.
        reason: &'a str,
        /// When it is tried again, from now.
        retry_in: Duration,
    },
    /// The server is overloaded.
    Throttled {
        /// When the agent comes back, from now.
        retry_in: Duration,
    },
    /// The agent runs an offered configuration.
    ConfigApplied {
        /// The offer's hash.
        hash: &'a [u8],
    },
    /// The agent did not take an offered configuration and goes on as before.
    ConfigFailed {
        /// The offer's hash.
        hash: &'a [u8],
        /// Why.
        why: &'a str,
    },
    /// The agent has an offered package.
    PackageInstalled {
        /// Its name.
        name: &'a str,
        /// Its version.
        version: &'a str,
    },
    /// A package is not what the server wants it to be.
    PackageFailed {
        /// Its name.
        name: &'a str,
        /// Why.
        why: &'a str,
    },
    /// A package that is no longer offered is gone.
    PackageRemoved {
        /// Its name.
        name: &'a str,
    },
    /// The agent's health is another one.
    Health {
        /// Why it is not healthy; `None` when it is.
        failing: Option<&'a str>,
    },
    /// The agent restarted its work as the server told it to.
    Restarted {
        /// When its work started.
        start_time: SystemTime,
    },
    /// The server gave the agent another instance uid.
    InstanceUidChanged {
        /// The one until now.
        old: InstanceUid,
        /// The one from now on.
        new: InstanceUid,
    },
    /// The agent sends its own metrics there from now on.
    Telemetry {
        /// The URL, without what may be secret in it.
        destination: &'a str,
    },
    /// The agent does not send its own metrics where the server wants them.
    TelemetryFailed {
        /// Why.
        why: &'a str,
    },
    /// A custom message came, and is sent back.
    CustomMessage {
        /// Its capability.
        capability: &'a str,
        /// Its type.
        kind: &'a str,
        /// Bytes of its data.
        len: usize,
    },
    /// The server refused a report.
    Refused {
        /// The server's words.
        reason: &'a str,
    },
    /// The connection settings that the server offered work and are kept.
    SettingsApplied,
    /// The connection settings that the server offered are not used.
    SettingsFailed {
        /// Why.
        why: &'a str,
    },
    /// No client certificate was issued.
    CertificateFailed {
        /// Why.
        why: &'a str,
    },
    /// The agent said goodbye and stopped.
    Stopped,
}

impl<'a> News<'a> {
    /// What of an event needs nothing but to be told.
    pub(super) fn of(event: &'a Event) -> Option<Self> {
        Some(match event {
            Event::Connected => Self::Connected,
            Event::Disconnected { reason } => Self::Disconnected { reason },
            Event::ConnectFailed { failure, retry_in } => {
                Self::ConnectFailed { reason: &failure.message, retry_in: *retry_in }
            }
            Event::Throttled { retry_in } => Self::Throttled { retry_in: *retry_in },
            Event::PackageFailed { name, why } => Self::PackageFailed { name, why },
            Event::Refused { reason, .. } => Self::Refused { reason },
            Event::OpampSettingsApplied => Self::SettingsApplied,
            Event::OpampSettingsFailed { reason } => Self::SettingsFailed { why: reason },
            Event::CertificateRequestFailed { reason } => Self::CertificateFailed { why: reason },
            Event::Stopped => Self::Stopped,
            _ => return None,
        })
    }
}

impl fmt::Display for News<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { instance_uid, server } => {
                // A query may hold a token.
                let server = server.split(['?', '#']).next().unwrap_or_default();
                write!(f, "started instance_uid={instance_uid} server={server}")
            }
            Self::Connected => f.write_str("connected"),
            Self::Disconnected { reason } => write!(f, "disconnected reason={reason:?}"),
            Self::ConnectFailed { reason, retry_in } => {
                let retry_in = retry_in.as_secs_f64();
                write!(f, "connect-failed retry_in={retry_in:.1} reason={reason:?}")
            }
            Self::Throttled { retry_in } => {
                write!(f, "throttled retry_in={:.1}", retry_in.as_secs_f64())
            }
            Self::ConfigApplied { hash } => write!(f, "config-applied hash={}", Hex(hash)),
            Self::ConfigFailed { hash, why } => {
                write!(f, "config-failed hash={} error={why:?}", Hex(hash))
            }
            Self::PackageInstalled { name, version } => {
                write!(f, "package-installed name={name:?} version={version:?}")
            }
            Self::PackageFailed { name, why } => {
                write!(f, "package-failed name={name:?} error={why:?}")
            }
            Self::PackageRemoved { name } => write!(f, "package-removed name={name:?}"),
            Self::Health { failing: None } => f.write_str("healthy"),
            Self::Health { failing: Some(why) } => write!(f, "unhealthy error={why:?}"),
            Self::Restarted { start_time } => {
                let start_time = humantime::format_rfc3339_nanos(*start_time);
                write!(f, "restarted start_time={start_time}")
            }
            Self::InstanceUidChanged { old, new } => {
                write!(f, "instance-uid-changed old={old} new={new}")
            }
            Self::Telemetry { destination } => write!(f, "telemetry destination={destination}"),
            Self::TelemetryFailed { why } => write!(f, "telemetry-failed error={why:?}"),
            Self::CustomMessage { capability, kind, len } => {
                write!(f, "custom-message capability={capability:?} type={kind:?} bytes={len}")
            }
            Self::Refused { reason } => write!(f, "refused reason={reason:?}"),
            Self::SettingsApplied => f.write_str("settings-applied"),
            Self::SettingsFailed { why } => write!(f, "settings-failed error={why:?}"),
            Self::CertificateFailed { why } => write!(f, "certificate-failed error={why:?}"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_is_one_line_and_tells_no_secret() {
        let started = News::Started {
            instance_uid: InstanceUid::from_bytes([7; 16]),
            server: "wss://example.com/v1/opamp?token=secret",
        };
        assert!(started.to_string().ends_with("server=wss://example.com/v1/opamp"));
        let failed = News::ConfigFailed { hash: &[1, 0xff], why: "line 1\nline 2" };
        assert_eq!(failed.to_string(), r#"config-failed hash=01ff error="line 1\nline 2""#);
    }
}
