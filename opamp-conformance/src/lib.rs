//! Tests any OpAMP server or client, in any language, against the specification.
//!
//! The program `opamp-conformance` does it from the command line; its README says how. This library
//! does it from a test of one's own:
//!
//! ```
//! use opamp_conformance::run::Subject;
//! use opamp_conformance::server::ServerUnderTest;
//! use opamp_conformance::suite::Suite;
//!
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! # use opamp_conformance::{net::Network, reference::{Faults, server::ReferenceServer}};
//! # let my_server = ReferenceServer::start(&Network::Sockets, Faults::none()).await?;
//! # let (url, credentials) = (my_server.target().url.to_string(), my_server.target().headers);
//! let mut server = ServerUnderTest::new(url.parse()?);
//! server.headers = credentials;
//! let mut suite = Suite::default();
//! suite.selection.ids = vec!["SEQ".into(), "WS".into()];
//! let report = suite.test(&Subject::Server(server), "my server").await?;
//! report.assert_conformant();
//! # Ok::<_, Box<dyn std::error::Error>>(()) })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! What only the implementer of a server can bring about are its [`Hooks`](hook::Hooks). A client
//! is a [`ClientUnderTest`](client::ClientUnderTest), for example one that is started
//! [with a command](client::exec::ExecClient).
//!
//! The scripted peers can be used by themselves: an [`Agent`](server::Agent) that talks to a server
//! and a [`Host`](client::Host) that a client talks to, both on the tester's own [`wire`].

pub mod baseline;
pub mod case;
pub mod client;
pub mod coverage;
pub mod fuzz;
pub mod hook;
pub mod judge;
pub mod log;
pub mod mask;
pub mod net;
pub mod pace;
pub mod preflight;
pub mod program;
pub mod reference;
pub mod report;
pub mod run;
pub mod select;
pub mod selftest;
pub mod server;
pub mod suite;
pub mod verdict;
pub mod wire;
