//! What the agent can be told on its command line.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use opamp_client::core::{ClientState, CustomCapabilities, Transport};
use opamp_client::tls::Tls;
use opamp_proto::InstanceUid;

use crate::program::Failure;

/// An agent whose configuration is a YAML file, managed over OpAMP.
///
/// It prints one line for each change of its state, and logs to stderr (RUST_LOG).
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "agent", version)]
pub struct AgentArgs {
    /// The OpAMP server: a ws, wss, http or https URL. Without a path it gets /v1/opamp
    #[arg(long, value_name = "URL")]
    pub server: String,

    /// How to talk to the server; auto goes by the scheme of the URL
    #[arg(long, value_enum, default_value_t)]
    pub transport: TransportChoice,

    /// The configuration: a YAML file, replaced by what the server offers, and read again on
    /// SIGHUP. Default: config.yaml in --state, or else a small built-in configuration kept in
    /// memory
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Keeps instance uid, configuration, accepted connection settings and what became of offers
    /// over restarts; created if missing, and holds secrets. Default: nothing is kept, and
    /// certificates are not accepted
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,

    /// An attribute of the agent's description, may be repeated: service.* identify the agent,
    /// others say where it runs. Default: service.name=opamp-example-agent, service.version,
    /// service.instance.id, os.type, host.name
    #[arg(long = "attribute", value_name = "KEY=VALUE")]
    pub attributes: Vec<Attribute>,

    /// A header for every request and handshake, may be repeated. Default: none
    #[arg(long = "header", value_name = "NAME=VALUE")]
    pub headers: Vec<Header>,

    /// Trusts the certificate authorities in this PEM file. Default: those the system trusts
    #[arg(long, value_name = "PEM")]
    pub ca: Option<PathBuf>,

    /// The client certificate, a PEM file with the chain. Default: none
    #[arg(long, value_name = "PEM", requires = "key")]
    pub cert: Option<PathBuf>,

    /// The private key of the client certificate, a PEM file
    #[arg(long, value_name = "PEM", requires = "cert")]
    pub key: Option<PathBuf>,

    /// Asks the server for a client certificate of a key of the agent's own, uses it, and renews it
    /// in time. Default: the agent has the certificate it is given, or one the server offers
    #[arg(long, requires = "state")]
    pub csr: bool,

    /// A custom capability, may be repeated: a name such as com.example.chat. Custom messages of it
    /// are printed and sent back as they came. Default: none
    #[arg(long = "custom-capability", value_name = "NAME")]
    pub custom_capabilities: Vec<String>,

    /// Serves the hooks of the conformance tester at this address: what is posted there is done.
    /// For tests, as anyone who reaches it is obeyed. Default: not served
    #[arg(long, value_name = "IP:PORT")]
    pub hooks: Option<SocketAddr>,

    /// Takes packages and installs their files into this directory, created if missing; those that
    /// are no longer offered are removed. Default: packages are not taken
    #[arg(long, value_name = "DIR")]
    pub packages: Option<PathBuf>,

    /// Takes only packages signed with this minisign public key, a file as minisign writes it.
    /// Default: packages are verified by the SHA-256 that the server says
    #[arg(long, value_name = "FILE", requires = "packages")]
    pub package_key: Option<PathBuf>,

    /// Seconds between heartbeats (WebSocket) or polls (HTTP), fractions allowed; 0 for no
    /// heartbeats. Default: 30
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    pub heartbeat_interval: Option<Duration>,

    /// The instance uid of a new agent; one kept in --state wins. Default: a new UUID v7
    #[arg(long, value_name = "UUID")]
    pub instance_uid: Option<InstanceUid>,
}

/// Which transport to use.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[non_exhaustive]
pub enum TransportChoice {
    /// What the scheme of the URL says.
    #[default]
    Auto,
    /// A WebSocket.
    #[value(name = "websocket")]
    WebSocket,
    /// Plain HTTP.
    Http,
}

impl TransportChoice {
    pub(super) fn transport(self) -> Option<Transport> {
        match self {
            Self::Auto => None,
            Self::WebSocket => Some(Transport::WebSocket),
            Self::Http => Some(Transport::Http),
        }
    }
}

/// An attribute of the description: key and value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute(pub String, pub String);

impl FromStr for Attribute {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self(key.to_owned(), value.to_owned())),
            _ => Err("an attribute is written KEY=VALUE".to_owned()),
        }
    }
}

/// An HTTP header: name and value. The value may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Header(pub String, pub String);

impl FromStr for Header {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Self(name.to_owned(), value.to_owned())),
            _ => Err("a header is written NAME=VALUE".to_owned()),
        }
    }
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Header").field(&self.0).finish_non_exhaustive()
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "not a number of seconds".to_owned())
}

impl AgentArgs {
    /// The arguments of an agent that is told nothing but where its server is.
    #[must_use]
    pub fn new(server: String) -> Self {
        Self {
            server,
            transport: TransportChoice::Auto,
            config: None,
            state: None,
            attributes: Vec::new(),
            headers: Vec::new(),
            ca: None,
            cert: None,
            key: None,
            csr: false,
            custom_capabilities: Vec::new(),
            hooks: None,
            packages: None,
            package_key: None,
            heartbeat_interval: None,
            instance_uid: None,
        }
    }

    pub(super) fn new_client_state(&self) -> ClientState {
        ClientState::new(self.instance_uid.unwrap_or_else(InstanceUid::generate))
    }

    pub(super) fn custom_capabilities(&self) -> Result<CustomCapabilities, Failure> {
        CustomCapabilities::new(&self.custom_capabilities)
            .map_err(|error| Failure::new(error).of_usage())
    }

    /// What the arguments say of trust and identity.
    pub(super) fn tls(&self) -> Result<Tls, Failure> {
        let unusable = |error| Failure::caused_by("TLS", error);
        let mut tls = Tls::new();
        if let Some(ca) = &self.ca {
            tls = tls.trust_file(ca).map_err(unusable)?;
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            tls = tls.identity_files(cert, key).map_err(unusable)?;
        }
        Ok(tls)
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path)
        .map_err(|error| Failure::caused_by(format!("cannot read {}", path.display()), error))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        AgentArgs::command().debug_assert();
    }

    #[test]
    fn seconds_may_be_fractions() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(seconds("0"), Ok(Duration::ZERO));
        for wrong in ["", "-1", "NaN", "inf", "1e300", "5s"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_header_value_is_not_for_logs() {
        let header: Header = "Authorization=Bearer secret=".parse().unwrap();
        assert_eq!(header.1, "Bearer secret=");
        assert!(!format!("{header:?}").contains("secret"));
    }
}
