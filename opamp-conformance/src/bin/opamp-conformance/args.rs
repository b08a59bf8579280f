//! What can be asked for on the command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use opamp_conformance::report::{Side, Transport};
use opamp_conformance::select::{Maturity, Selection};
use opamp_conformance::suite::Spec;
use opamp_spec::Weight;

/// Tests any OpAMP server or client, in any language, against the specification.
#[derive(Debug, Parser)]
#[command(name = "opamp-conformance", version, arg_required_else_help = true, after_help = STATUS)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const STATUS: &str = "\
Exit status:
  0  conformant: nothing that counts was missed
  1  a mandatory requirement was missed, or an entry of the baseline is stale
  2  only recommendations were missed (with --level should)
  3  the tester could not do its work: wrong usage, a subject that cannot be reached, a hook that
     failed, a report that cannot be written

Examples:
  opamp-conformance server --url ws://127.0.0.1:4320/v1/opamp
  opamp-conformance server --url https://opamp.test --ca ca.pem --header 'authorization=Bearer x' \\
      --junit junit.xml --baseline known.yaml
  opamp-conformance client --exec './my-agent --server {url} --heartbeat {heartbeat}'
  opamp-conformance server --url ws://127.0.0.1:4320 --id SEQ --id HB --transport websocket
  opamp-conformance explain SEQ-04";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Test a server: the tester plays agents
    Server(Box<ServerArgs>),
    /// Test a client: the tester starts it and plays servers
    Client(Box<ClientArgs>),
    /// Send conversations changed at random, and look for crashes, hangs and growth
    #[command(subcommand)]
    Fuzz(FuzzCommand),
    /// List cases or requirements
    List(ListArgs),
    /// Explain a requirement, a reading or a case
    Explain(ExplainArgs),
    /// Prove with deliberately broken peers that every case can fail
    Selftest(SelftestArgs),
    /// Show what changed between two JSON reports; exits with 1 when something got worse
    Compare(CompareArgs),
    /// Make one page of requirements and implementations from JSON reports
    Html(HtmlArgs),
}

/// Where a server is and how to be let in.
#[derive(Debug, ClapArgs)]
pub(crate) struct ServerAt {
    /// Where the server is: ws, wss, http or https. Both transports are tested at this address,
    /// whatever the scheme. The path is /v1/opamp where none is given
    #[arg(long, value_name = "URL")]
    pub(crate) url: String,
    /// A header field for every request and handshake, for example credentials
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    pub(crate) headers: Vec<(String, String)>,
    /// The authority to trust for wss and https, a PEM file
    #[arg(long, value_name = "PEM")]
    pub(crate) ca: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    pub(crate) at: ServerAt,
    /// The largest message the server is configured to take, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    pub(crate) max_message_size: u64,
    /// The largest message the server is configured to send, in bytes, where it has such a limit
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_send_size: Option<u64>,
    #[command(flatten)]
    pub(crate) hooks: HookArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, ClapArgs)]
#[command(group = clap::ArgGroup::new("start").required(true).args(["exec", "listen"]))]
pub(crate) struct ClientArgs {
    /// How to start the client, split into words as a shell would, without running one. Filled in:
    /// {url} where the server is (needed); {heartbeat} the interval of heartbeats and polls in
    /// seconds; {state} a directory for what has to outlive the client; {ca} a PEM file with the
    /// authority to trust; {max_message_size} the largest message to send and to take in bytes;
    /// {hook} a port of 127.0.0.1 where the client may serve its hooks. Each of these that is there
    /// makes more cases testable. SIGTERM is to stop the client in good order
    #[arg(long, value_name = "COMMAND")]
    pub(crate) exec: Option<String>,
    /// Instead of --exec: say for each case where to connect, and wait for a person to start the
    /// client. Listens at this address as long as it is free
    #[arg(long, value_name = "IP:PORT", num_args = 0..=1, default_missing_value = "127.0.0.1:0")]
    pub(crate) listen: Option<std::net::SocketAddr>,
    /// With --listen: how long to wait for the person, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 60.0)]
    pub(crate) start_timeout: f64,
    /// How the client is given header fields: words with {name} and {value} to put at the end of
    /// the command, for example '--header {name}={value}'
    #[arg(long, value_name = "WORDS", requires = "exec", allow_hyphen_values = true)]
    pub(crate) header_arg: Option<String>,
    /// The client's interval of heartbeats and polls in seconds, where it cannot be told one
    #[arg(long, value_name = "SECS", default_value_t = 30)]
    pub(crate) heartbeat: u64,
    /// The largest message the client is configured to take, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    pub(crate) max_message_size: u64,
    #[command(flatten)]
    pub(crate) hooks: HookArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FuzzCommand {
    /// Fuzz a server
    Server {
        #[command(flatten)]
        at: ServerAt,
        #[command(flatten)]
        fuzz: FuzzArgs,
    },
    /// Fuzz a client
    Client {
        /// How to start the client; see `client --exec`
        #[arg(long, value_name = "COMMAND")]
        exec: String,
        /// The client's interval of heartbeats and polls in seconds, where it cannot be told one
        #[arg(long, value_name = "SECS", default_value_t = 30)]
        heartbeat: u64,
        #[command(flatten)]
        fuzz: FuzzArgs,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct FuzzArgs {
    /// What every conversation follows from; the same seed makes the same ones. Random by default
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// How long to go on, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 60)]
    pub(crate) seconds: u64,
    /// How many conversations at most
    #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
    pub(crate) rounds: u64,
    /// Only this transport
    #[arg(long = "transport", value_name = "TRANSPORT")]
    pub(crate) transports: Vec<TransportArg>,
    /// The process of the subject, to watch how its memory grows (Linux)
    #[arg(long)]
    pub(crate) pid: Option<u32>,
    /// Multiply every wait with this, for a slow subject or machine
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = scale)]
    pub(crate) timeout_scale: f64,
    /// Where to write what led to each finding, to be played again with --replay
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) out: PathBuf,
    /// Plays one conversation from such a file again, and nothing else
    #[arg(long, value_name = "FILE")]
    pub(crate) replay: Option<PathBuf>,
}

/// What only the implementer can bring about.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Hooks")]
pub(crate) struct HookArgs {
    /// A command that brings about what cannot be from the wire: gets an action as JSON on standard
    /// input; exit status 0 means done, 77 not supported. For a client the JSON has its `pid` and
    /// `state` directory
    #[arg(long, value_name = "COMMAND", conflicts_with = "hook_url")]
    pub(crate) hook: Option<String>,
    /// The same as an HTTP endpoint that actions are posted to; status 501 means not supported
    #[arg(long, value_name = "URL")]
    pub(crate) hook_url: Option<String>,
}

#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Run")]
pub(crate) struct RunArgs {
    /// The specification the subject implements; what is newer does not apply to it
    #[arg(long, value_name = "v0.18.0|main", default_value_t = Spec::Released)]
    pub(crate) spec: Spec,
    /// Let requirements of development maturity set the exit status, too
    #[arg(long)]
    pub(crate) count_development: bool,
    /// A YAML file of known failures, each with its reason
    #[arg(long, value_name = "FILE")]
    pub(crate) baseline: Option<PathBuf>,
    /// Write the failures of this run as a baseline whose empty reasons are to be filled in
    #[arg(long, value_name = "FILE")]
    pub(crate) write_baseline: Option<PathBuf>,
    /// Multiply every wait with this, for a slow subject or machine
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = scale)]
    pub(crate) timeout_scale: f64,
    /// Where ids and other arbitrary content come from; each run has its own otherwise
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// How many cases run at a time: 16 by default, and for clients, each of which is a program of
    /// its own, no more than four for each processor
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// What the subject is called in reports
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// The subject's version, for reports
    #[arg(long, value_name = "VERSION")]
    pub(crate) version: Option<String>,
    #[command(flatten)]
    pub(crate) select: SelectArgs,
    #[command(flatten)]
    pub(crate) reports: ReportArgs,
}

#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Reports")]
pub(crate) struct ReportArgs {
    /// Write the report as JSON; - for standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the report as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    /// Write the report as one HTML page
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Show no progress and no summary
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Default, ClapArgs)]
#[command(next_help_heading = "Selection (several of one kind widen it, several kinds narrow it)")]
pub(crate) struct SelectArgs {
    /// Requirements: an id, the beginning of ids such as SEQ, or a pattern with *
    #[arg(long = "id", value_name = "ID")]
    pub(crate) ids: Vec<String>,
    /// Cases: a name or the beginning of names, such as server/sequence
    #[arg(long = "case", value_name = "NAME")]
    pub(crate) cases: Vec<String>,
    /// Requirements of sections with this in their heading or anchor
    #[arg(long = "section", value_name = "TEXT")]
    pub(crate) sections: Vec<String>,
    /// Requirements of at least this level; with should or may, missed recommendations set the exit
    /// status, too
    #[arg(long, value_enum)]
    pub(crate) level: Option<Level>,
    /// Requirements of at least this maturity
    #[arg(long, value_enum)]
    pub(crate) maturity: Option<MaturityArg>,
    /// Requirements about a capability, such as AcceptsRemoteConfig
    #[arg(long = "capability", value_name = "NAME")]
    pub(crate) capabilities: Vec<String>,
    /// Only this transport
    #[arg(long = "transport", value_enum)]
    pub(crate) transports: Vec<TransportArg>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Level {
    Must,
    Should,
    May,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum MaturityArg {
    Stable,
    Beta,
    Development,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TransportArg {
    #[value(alias = "ws")]
    Websocket,
    Http,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum SideArg {
    Server,
    Client,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ListArgs {
    /// Only what tests this side
    #[arg(long, value_enum)]
    pub(crate) side: Option<SideArg>,
    /// List requirements instead of cases
    #[arg(long)]
    pub(crate) requirements: bool,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) select: SelectArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ExplainArgs {
    /// A requirement such as SEQ-04, a reading such as A05, or a case such as server/sequence/gap
    #[arg(required = true, value_name = "ID|CASE")]
    pub(crate) what: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SelftestArgs {
    /// Only peers of this side
    #[arg(long, value_enum)]
    pub(crate) side: Option<SideArg>,
    /// Only peers with this fault; the conforming peers are left out then
    #[arg(long = "fault", value_name = "NAME")]
    pub(crate) faults: Vec<String>,
    /// How many peers are tested at a time; as many as there are processors by default
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// Name every peer, and not only those with which something is wrong
    #[arg(long, short)]
    pub(crate) verbose: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CompareArgs {
    /// The earlier report
    pub(crate) before: PathBuf,
    /// The later report
    pub(crate) after: PathBuf,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct HtmlArgs {
    /// The page to write; - for standard output
    pub(crate) out: PathBuf,
    /// JSON reports, one for each column
    #[arg(required = true, value_name = "REPORT")]
    pub(crate) reports: Vec<PathBuf>,
}

impl SelectArgs {
    pub(crate) fn selection(&self) -> Selection {
        Selection {
            ids: self.ids.clone(),
            cases: self.cases.clone(),
            sections: self.sections.clone(),
            level: self.level.map(|level| match level {
                Level::Must => Weight::Must,
                Level::Should => Weight::Should,
                Level::May => Weight::Note,
            }),
            maturity: match self.maturity {
                Some(MaturityArg::Stable) => Maturity::Stable,
                Some(MaturityArg::Beta) => Maturity::Beta,
                Some(MaturityArg::Development) | None => Maturity::Development,
            },
            capabilities: self.capabilities.clone(),
        }
    }

    pub(crate) fn transports(&self) -> Vec<Transport> {
        transports(&self.transports)
    }
}

/// The transports that are chosen; both where none is.
pub(crate) fn transports(args: &[TransportArg]) -> Vec<Transport> {
    let chosen = |transport: &Transport| {
        let arg = match transport {
            Transport::WebSocket => TransportArg::Websocket,
            Transport::Http => TransportArg::Http,
        };
        args.is_empty() || args.contains(&arg)
    };
    Transport::BOTH.iter().copied().filter(chosen).collect()
}

impl SideArg {
    pub(crate) fn side(self) -> Side {
        match self {
            Self::Server => Side::Server,
            Self::Client => Side::Client,
        }
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it has to be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn scale(text: &str) -> Result<f64, String> {
    let scale: f64 = text.parse().map_err(|_| "it has to be a number".to_owned())?;
    if (0.1..=100.0).contains(&scale) { Ok(scale) } else { Err("it has to be 0.1 to 100".into()) }
}
