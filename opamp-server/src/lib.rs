//! The Server's end of OpAMP, the Open Agent Management Protocol.
//!
//! - [`core`]: the protocol without I/O. [`core::Agent`] is the machine of one Agent: messages and
//!   moments in, replies and pushes out.
//! - [`fleet`]: the registry. [`Fleet`] holds the Agents, whatever connections they come on, and is
//!   where an operator acts: [`Fleet::set_remote_config`], [`Fleet::set_connection_settings`],
//!   [`Fleet::set_packages`], [`Fleet::restart`], and looks: [`Fleet::agents`], [`Fleet::find`],
//!   [`Fleet::watch`].
//! - `service` (feature `service`): `OpampService` answers HTTP requests and WebSockets at a path
//!   of an existing application, `Server` listens by itself. A `Handler` decides who may connect
//!   and is told what changed.
//! - [`gateway`]: routing without I/O for a process that carries many Agents over few connections.
//! - [`websocket`]: the framing of WebSockets without I/O, which the service stands on.
//!
//! ```
//! # #[cfg(feature = "service")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use opamp_server::{AcceptAll, Server};
//!
//! let server = Server::bind("127.0.0.1:0").listen(AcceptAll).await?;
//! let fleet = server.fleet().clone();
//! println!("{} Agents at {}", fleet.len(), server.local_addr());
//! # server.shutdown_handle().shutdown();
//! server.run().await;
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "service"))]
//! # fn main() {}
//! ```
//!
//! Ids such as SEQ-03 or CFG-19 in this documentation are rows of the project's catalogue of the
//! specification's requirements; A05 or A32 are its readings of what the specification leaves open.
//!
//! # Features
//!
//! `service`, `tls` and `http2` are on by default. `ca` has certificates issued to Agents that ask
//! for them, and takes them back. `file-store` brings a store of what has to survive a restart, in
//! a file. Without default features there is the core and the registry alone: no runtime, no I/O,
//! no clock, nothing in the dependency tree for any of them.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod core;
mod counters;
pub mod fleet;
pub mod gateway;
pub mod limits;
#[cfg(feature = "service")]
pub mod service;
pub mod websocket;

pub use crate::core::{
    AgentState, CertificateDecision, CertificateOffer, CertificateRequestId,
    CertificateRequestState, Changes, ConnectionSettings, CustomCapabilities, CustomMessages,
    InvalidOffer, OfferHash, OfferState, OperationError, Outcome, Packages, PendingCertificate,
    Rate, RemoteConfig, ServerConfig, SettingsParts, Tolerances, Transport,
};
pub use crate::counters::{CounterFamily, CounterKind, CounterSample, Counters};
pub use crate::fleet::{
    AgentKey, AgentSnapshot, Authorizer, Claim, Denied, Fleet, Load, Now, Tenant,
};
#[cfg(feature = "service")]
pub use crate::service::{
    AcceptAll, AgentChange, Authenticate, Authorizing, BearerTokens, FilesFull, Handler,
    InvalidNetwork, Network, OpampService, OverloadLimits, PackageFile, PackageFiles, PeerAddr,
    Rejection, Server, ServerBuilder, ServiceConfig, ShutdownHandle, StoreHandle, TrustedProxies,
};
#[cfg(feature = "ca")]
pub use crate::service::{
    ApprovalError, CertificateAuthority, CertificateIssuing, CertificateRequest, CertificateSerial,
    CsrApproval, IssuedCertificate, KeyAlgorithm, LocalCa, NotIssued, Revocations, Revoked,
};
#[cfg(feature = "tls")]
pub use crate::service::{ClientCertificates, PeerCertificates};

#[cfg(all(doctest, feature = "service"))]
#[doc = include_str!("../README.md")]
struct Readme;
