//! What the gateway can be told on its command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use opamp_proto::{DEFAULT_MAX_MESSAGE_SIZE, MessageLimits};
use opamp_server::gateway::GatewayConfig;

use crate::agent::Header;
use crate::program::Failure;

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

    /// A header for the handshakes with the server, may be repeated. Those of agents are not passed
    /// on. Default: none
    #[arg(long = "header", value_name = "NAME=VALUE")]
    pub headers: Vec<Header>,

    /// Trusts the certificate authorities in this PEM file. Default: those the system trusts
    #[arg(long, value_name = "PEM")]
    pub ca: Option<PathBuf>,

    /// The greatest message passed on, in bytes: what the server takes, or less; at least 1024
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_MAX_MESSAGE_SIZE,
        value_parser = crate::server::message_size)]
    pub max_message_size: usize,
}

impl GatewayArgs {
    pub(super) fn config(&self) -> GatewayConfig {
        let mut config = GatewayConfig::default();
        config.connections = self.connections.into();
        config.max_message_bytes = self.max_message_size;
        config
    }

    pub(super) fn limits(&self) -> MessageLimits {
        let size = self.max_message_size;
        MessageLimits::new().with_max_receive(size).with_max_send(size)
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
