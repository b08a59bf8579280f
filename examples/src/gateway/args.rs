//! What the gateway can be told on its command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use opamp_client::tls::Tls;
use opamp_proto::{DEFAULT_MAX_MESSAGE_SIZE, MessageLimits};
use opamp_server::gateway::GatewayConfig;
use opamp_server::service::tls::ListenerTls;

use crate::agent::Header;
use crate::program::Failure;
use crate::tls::TlsArgs;

/// A gateway: carries many OpAMP agents over few connections to their server.
///
/// It prints `listening opamp=ADDR` when it serves, and logs to stderr (RUST_LOG).
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "gateway", version)]
pub struct GatewayArgs {
    /// Where agents connect, over WebSocket and plain HTTP alike; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4330")]
    pub listen: SocketAddr,

    /// The path at which agents are served
    #[arg(long, default_value = "/v1/opamp", value_parser = crate::server::path)]
    pub path: String,

    /// The OpAMP server: a ws or wss URL. Without a path it gets /v1/opamp
    #[arg(long, value_name = "URL")]
    pub upstream: Uri,

    /// Connections to the server. Each carries up to 1000 agents at a time; more are refused
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..))]
    pub connections: u16,

    /// Connections from one address, or from one network of 64 bits with IPv6; one more is closed
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    pub max_per_address: usize,

    /// A header for the handshakes with the server, may be repeated. Those of agents are not passed
    /// on. Default: none
    #[arg(long = "header", value_name = "NAME=VALUE")]
    pub headers: Vec<Header>,

    /// TLS towards agents
    #[command(flatten)]
    pub tls: TlsArgs,

    /// Trusts the certificate authorities in this PEM file to name the server. Default: those the
    /// system trusts
    #[arg(long, value_name = "PEM")]
    pub ca: Option<PathBuf>,

    /// The gateway's own client certificate for the server, a PEM file with the chain; those of
    /// agents are not passed on. Default: none
    #[arg(long, value_name = "PEM", requires = "key")]
    pub cert: Option<PathBuf>,

    /// The private key of the client certificate, a PEM file
    #[arg(long, value_name = "PEM", requires = "cert")]
    pub key: Option<PathBuf>,

    /// The greatest message taken from an agent, in bytes, over WebSocket with its header byte; at
    /// least 1024
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_MAX_MESSAGE_SIZE,
        value_parser = crate::server::message_size)]
    pub max_message_size: usize,

    /// The greatest message the server takes and sends, with its header byte: it would close the
    /// connection of many agents over a larger one. Default: that of --max-message-size, and of an
    /// HTTP request's body a byte less is passed on, as it has no header yet
    #[arg(long, value_name = "BYTES", value_parser = crate::server::message_size)]
    pub server_max_message_size: Option<usize>,
}

impl GatewayArgs {
    pub(super) fn config(&self) -> GatewayConfig {
        let mut config = GatewayConfig::default();
        config.connections = self.connections.into();
        config.max_message_bytes = self.server_limits().max_send();
        config
    }

    /// Towards agents: what the server has sent they are sent.
    pub(super) fn limits(&self) -> MessageLimits {
        self.server_limits().with_max_receive(self.max_message_size)
    }

    /// Towards the server.
    pub(super) fn server_limits(&self) -> MessageLimits {
        let size = self.server_max_message_size.unwrap_or(self.max_message_size);
        MessageLimits::new().with_max_receive(size).with_max_send(size)
    }

    /// TLS towards agents, if there is to be some.
    pub(super) fn tls(&self) -> Result<Option<ListenerTls>, Failure> {
        let Some(files) = self.tls.files() else { return Ok(None) };
        let files = match &self.tls.client_ca {
            Some(authorities) => files.require_clients_of([authorities]),
            None => files,
        };
        let tls = ListenerTls::from_files(files);
        Ok(Some(tls.map_err(|error| Failure::caused_by("TLS towards agents", error))?))
    }

    /// What is trusted to be the server, and who the gateway is there.
    pub(super) fn upstream_tls(&self) -> Result<Tls, Failure> {
        let unusable = |error| Failure::caused_by("TLS towards the server", error);
        let mut tls = match &self.ca {
            Some(ca) => Tls::new().trust_file(ca).map_err(unusable)?,
            None => Tls::new().trust_system(),
        };
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            tls = tls.identity_files(cert, key).map_err(unusable)?;
        }
        // Whether there is anything the system trusts, say.
        tls.config().map_err(unusable)?;
        Ok(tls)
    }

    pub(super) fn headers(&self) -> Result<HeaderMap, Failure> {
        let mut headers = HeaderMap::new();
        for Header(name, value) in &self.headers {
            let unusable = || Failure::new(format!("the header {name:?} is not usable")).of_usage();
            let header = HeaderName::try_from(name).map_err(|_| unusable())?;
            let mut value = HeaderValue::try_from(value).map_err(|_| unusable())?;
            value.set_sensitive(true);
            headers.append(header, value);
        }
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        GatewayArgs::command().debug_assert();
    }

    #[test]
    fn a_header_is_not_for_logs() {
        let args = ["gateway", "--upstream", "ws://localhost", "--header", "Authorization=secret"];
        let args = GatewayArgs::try_parse_from(args).unwrap();
        assert!(!format!("{args:?}{:?}", args.headers().unwrap()).contains("secret"));
    }
}
