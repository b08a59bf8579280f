//! What the server can be told on its command line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use http::Uri;
use opamp_proto::{DEFAULT_MAX_MESSAGE_SIZE, MessageLimits, v1};
use opamp_server::{CustomCapabilities, Rate, RemoteConfig, ServerConfig, ServiceConfig};

use crate::program::Failure;
use crate::tls::TlsArgs;

/// An OpAMP server that keeps the fleet in memory or in a directory, with an admin API.
///
/// It prints `listening opamp=ADDR admin=ADDR` when it serves, and logs to stderr (RUST_LOG).
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "server", version)]
pub struct ServerArgs {
    /// Where agents connect, over WebSocket and plain HTTP alike; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4320")]
    pub listen: SocketAddr,

    /// Where the admin API is served. It asks nobody who they are: keep it on a loopback address
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4321")]
    pub admin: SocketAddr,

    /// The path at which agents are served
    #[arg(long, default_value = "/v1/opamp", value_parser = path)]
    pub path: String,

    /// A configuration file to offer to every agent that accepts one, may be repeated. A single
    /// file is offered without a name, several by their file names. Default: none
    #[arg(long = "config", value_name = "FILE")]
    pub configs: Vec<PathBuf>,

    /// TLS towards agents
    #[command(flatten)]
    pub tls: TlsArgs,

    /// The certificate of an authority of the server's own, a PEM file: agents can ask for client
    /// certificates, and who presents one needs no token. With --client-ca one from either will do.
    /// Default: none
    #[arg(long, value_name = "PEM", requires = "ca_key")]
    pub ca: Option<PathBuf>,

    /// The private key of that authority, a PEM file (PKCS#8)
    #[arg(long, value_name = "PEM", requires = "ca")]
    pub ca_key: Option<PathBuf>,

    /// What happens with agents' requests for certificates
    #[arg(long, value_enum, default_value = "manual", requires = "ca")]
    pub csr: Csr,

    /// Where agents reach the server, a ws, wss, http or https URL that offers of connection
    /// settings repeat. Without a path it gets that of --path. Default: the address it listens on
    #[arg(long, value_name = "URL", value_parser = endpoint)]
    pub endpoint: Option<String>,

    /// Requires `Authorization: Bearer TOKEN` with this token, or another if repeated.
    /// Default: no token is asked for
    #[arg(long = "token", value_name = "TOKEN")]
    pub tokens: Vec<Token>,

    /// The greatest message taken and sent, in bytes; at least 1024
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_MAX_MESSAGE_SIZE,
        value_parser = message_size)]
    pub max_message_size: usize,

    /// A custom capability to announce, a reverse domain name such as org.example.chat; may be
    /// repeated. Default: none
    #[arg(long = "custom-capability", value_name = "NAME")]
    pub custom_capabilities: Vec<String>,

    /// Keeps the fleet, what agents should have and the packages that are hosted in this directory,
    /// which is created if it is missing, and goes on with what is there: agents are known at once,
    /// and not asked for their state again. A `--config` replaces the configuration for all that is
    /// there. Default: everything is forgotten at the end
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,

    /// The heartbeat interval to offer to agents that take settings for their connection, in
    /// seconds: one that agreed to it counts as gone when it misses three. Default: none is offered
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..))]
    pub heartbeat_interval: Option<u64>,

    /// The time over which a stop spreads the ends of connections, so that the agents do not all
    /// arrive elsewhere at once. A second signal ends it
    #[arg(long, value_name = "SECS", default_value_t = 0)]
    pub drain: u32,

    /// Serves as many connections, requests and agents from one address, and as fast, as there
    /// are, for a load test from one machine
    #[arg(long)]
    pub unlimited: bool,

    /// Deviations from the specification to serve. Default: none
    #[arg(long, value_name = "NAME,…", value_enum, value_delimiter = ',')]
    pub tolerate: Vec<Tolerance>,
}

/// A bearer token: a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub(super) String);

impl std::str::FromStr for Token {
    type Err = String;

    fn from_str(token: &str) -> Result<Self, Self::Err> {
        match token.is_empty() || token.contains(|c: char| c.is_whitespace() || c.is_control()) {
            true => Err("a token is not empty and has no spaces".to_owned()),
            false => Ok(Self(token.to_owned())),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(_)")
    }
}

/// What happens with requests for certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[non_exhaustive]
pub enum Csr {
    /// Who may connect gets one.
    Auto,
    /// Somebody has to approve each by the admin API.
    Manual,
    /// Agents are told that the server takes none.
    Off,
}

/// A deviation from the specification that can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[non_exhaustive]
pub enum Tolerance {
    /// Every deviation listed here.
    All,
    /// An instance uid in a text form that old agents used.
    LegacyInstanceUid,
    /// A WebSocket message without the header byte.
    MissingHeader,
    /// A custom message without an instance uid, as Bindplane's gateway opens its connections with.
    MissingInstanceUid,
}

pub(crate) fn path(text: &str) -> Result<String, String> {
    // As requests have it: nothing in it is to be read otherwise.
    let parsed = text.parse::<Uri>();
    match text.is_ascii() && parsed.is_ok_and(|uri| text.starts_with('/') && uri.path() == text) {
        true => Ok(text.to_owned()),
        false => {
            Err("a path starts with /, is written as in a URL and has neither query nor fragment"
                .to_owned())
        }
    }
}

fn endpoint(text: &str) -> Result<String, String> {
    let wrong = || "not a ws, wss, http or https URL with a host".to_owned();
    let uri = text.parse::<Uri>().map_err(|_| wrong())?;
    let schemes = ["ws", "wss", "http", "https"];
    let authority =
        uri.authority().filter(|_| uri.scheme_str().is_some_and(|it| schemes.contains(&it)));
    let authority = authority.filter(|it| !it.host().is_empty()).ok_or_else(wrong)?;
    match authority.as_str().contains('@') || text.contains('#') {
        true => Err("an endpoint has neither credentials nor a fragment".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// Less than this leaves no room for words in an error.
pub(crate) fn message_size(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|size| *size >= 1024)
        .ok_or_else(|| "not a number of at least 1024".to_owned())
}

impl ServerArgs {
    /// The arguments of a server on free loopback ports.
    #[must_use]
    pub fn on_free_ports() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            listen: any,
            admin: any,
            path: "/v1/opamp".to_owned(),
            configs: Vec::new(),
            tls: TlsArgs::default(),
            ca: None,
            ca_key: None,
            csr: Csr::Manual,
            endpoint: None,
            tokens: Vec::new(),
            max_message_size: DEFAULT_MAX_MESSAGE_SIZE,
            custom_capabilities: Vec::new(),
            state: None,
            heartbeat_interval: None,
            drain: 0,
            unlimited: false,
            tolerate: Vec::new(),
        }
    }

    pub(super) fn server_config(&self) -> Result<ServerConfig, Failure> {
        let mut config = ServerConfig::default();
        let size = self.max_message_size;
        config.limits = MessageLimits::new().with_max_receive(size).with_max_send(size);
        let tolerates =
            |one| self.tolerate.contains(&one) || self.tolerate.contains(&Tolerance::All);
        config.tolerances.legacy_instance_uid = tolerates(Tolerance::LegacyInstanceUid);
        config.tolerances.missing_header = tolerates(Tolerance::MissingHeader);
        config.tolerances.missing_instance_uid = tolerates(Tolerance::MissingInstanceUid);
        if self.unlimited {
            config.arrivals = Rate::UNLIMITED;
        }
        config.custom_capabilities = CustomCapabilities::new(&self.custom_capabilities)
            .map_err(|error| Failure::new(error.to_string()).of_usage())?;
        Ok(config)
    }

    pub(super) fn service_config(&self) -> ServiceConfig {
        let mut config = ServiceConfig::default();
        if self.unlimited {
            config.max_connections_per_address = usize::MAX;
            config.requests_per_address = Rate::UNLIMITED;
            config.max_frames_per_second = 0;
        }
        config
    }

    /// The configuration to offer to all.
    pub(super) fn remote_config(&self) -> Result<Option<RemoteConfig>, Failure> {
        let mut files = v1::AgentConfigMap::default();
        for path in &self.configs {
            let name = match self.configs.len() {
                1 => String::new(),
                _ => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            };
            let file = v1::AgentConfigFile {
                body: read(path)?.into(),
                content_type: content_type(path).to_owned(),
            };
            if files.config_map.insert(name.clone(), file).is_some() {
                let message = format!("two configuration files are called {name:?}");
                return Err(Failure::new(message).of_usage());
            }
        }
        Ok((!files.config_map.is_empty()).then(|| RemoteConfig::new(files)))
    }
}

/// By the file's extension; empty where that says nothing.
fn content_type(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("yaml" | "yml") => "text/yaml",
        Some("json") => "application/json",
        _ => "",
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path)
        .map_err(|error| Failure::caused_by(format!("cannot read {}", path.display()), error))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};
    use opamp_server::Tolerances;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        ServerArgs::command().debug_assert();
    }

    #[test]
    fn who_names_no_port_gets_the_registered_one() {
        let _judged = opamp_spec::judges(&["NET-06"]);
        let args = ServerArgs::try_parse_from(["server"]).unwrap();
        assert_eq!(args.listen.port(), opamp_server::service::DEFAULT_PORT);
        assert_eq!(args.listen.port(), 4320);
    }

    #[test]
    fn one_file_has_no_name_and_several_have_theirs() {
        let _judged = opamp_spec::judges(&["CFG-11"]);
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a.yaml", "b.json"].map(|name| dir.path().join(name));
        fs::write(&a, "a: 1").unwrap();
        fs::write(&b, "{}").unwrap();
        let offered = |configs: &[&PathBuf]| {
            let configs = configs.iter().map(|path| (*path).clone()).collect();
            let args = ServerArgs { configs, ..ServerArgs::on_free_ports() };
            args.remote_config().map(|config| {
                let files = config.map(|config| config.to_message().config_map);
                files.map(|files| files.into_iter().map(|(n, f)| (n, f.content_type)))
            })
        };
        let names = |configs: &[&PathBuf]| {
            let files = offered(configs).unwrap().unwrap();
            files.map(|(name, kind)| format!("{name} {kind}")).collect::<Vec<_>>()
        };
        assert_eq!(names(&[&a]), [" text/yaml"]);
        assert_eq!(names(&[&a, &b]), ["a.yaml text/yaml", "b.json application/json"]);
        assert!(offered(&[]).unwrap().is_none());
        assert!(offered(&[&a, &a]).is_err());
        assert!(offered(&[&dir.path().join("none")]).is_err());
    }

    #[test]
    fn tolerances_are_named_one_by_one_or_all() {
        let tolerances = |names: &str| {
            let args = ServerArgs::try_parse_from(["server", "--tolerate", names]).unwrap();
            let tolerances = args.server_config().unwrap().tolerances;
            let Tolerances { legacy_instance_uid, missing_header, missing_instance_uid, .. } =
                tolerances;
            (legacy_instance_uid, missing_header, missing_instance_uid)
        };
        assert_eq!(tolerances("missing-header"), (false, true, false));
        assert_eq!(tolerances("missing-header,legacy-instance-uid"), (true, true, false));
        assert_eq!(tolerances("missing-instance-uid"), (false, false, true));
        assert_eq!(tolerances("all"), (true, true, true));
    }

    #[test]
    fn a_path_and_an_endpoint_are_what_agents_can_ask_for() {
        for right in ["/", "/v1/opamp", "/a%20b"] {
            assert_eq!(path(right), Ok(right.to_owned()));
        }
        for wrong in ["", "opamp", "/a b", "/a?b", "/a#b", "http://host/a", "/é"] {
            assert!(path(wrong).is_err(), "{wrong}");
        }
        for right in ["ws://a", "wss://a:1/b", "http://[::1]:1/b?c", "https://a.b/"] {
            assert_eq!(endpoint(right), Ok(right.to_owned()));
        }
        for wrong in ["", "a", "/a", "ftp://a", "ws://", "ws://u:p@a", "ws://a#b", "ws:a", "a:1/b"]
        {
            assert!(endpoint(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_token_is_not_for_logs() {
        let args = ServerArgs::try_parse_from(["server", "--token", "secret"]).unwrap();
        assert!(!format!("{args:?}").contains("secret"));
    }
}
