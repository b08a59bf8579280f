//! The agent's end of OpAMP, the Open Agent Management Protocol.
//!
//! A [`Client`] connects an agent to an OpAMP server over WebSocket or plain HTTP: it reports what
//! the agent is, how it fares and what it runs, hands it the configurations the server offers, and
//! keeps the connection alive through whatever happens to it. [`Client::builder`] gives three
//! things:
//!
//! - a [`Client`], the handle, cheap to clone: it takes what is to be reported;
//! - [`Events`], the stream of what the agent may want to know or has to act on;
//! - a [`Driver`], the future that does the work: spawn it.
//!
#![cfg_attr(feature = "ws", doc = "```no_run")]
#![cfg_attr(not(feature = "ws"), doc = "```ignore")]
//! use opamp_client::{Client, core::Event};
//! use opamp_proto::v1;
//!
//! # async fn agent() -> Result<(), opamp_client::Error> {
//! let (client, mut events, driver) = Client::builder("ws://127.0.0.1:4320/v1/opamp")
//!     .identifying_attribute("service.name", "my-agent")
//!     .health(v1::ComponentHealth { healthy: true, ..Default::default() })
//!     .accept_remote_config()
//!     .build()?;
//! tokio::spawn(driver.run());
//!
//! while let Some(event) = events.next().await {
//!     match event {
//!         Event::RemoteConfig(offer) => {
//!             // … use the files in offer.config(), then say how it went:
//!             client.resolve(offer.applied());
//!         }
//!         Event::Restart => client.stop().await,
//!         other => println!("{other:?}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The protocol itself is the state machine without I/O in [`core`], for those who bring their own
//! transport; `default-features = false` gives it alone, without tokio.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! | --- | --- | --- |
//! | `ws` | yes | the WebSocket transport |
//! | `http` | yes | the plain HTTP transport |
//! | `tls` | yes | `wss` and `https`, with rustls |
//! | `csr` | no | client certificates that the agent asks its server for |
//! | `file-store` | no | `FileStore`, which keeps the client's state in a file, and `FilePackageStore` |
//! | `packages` | no | packages: downloads, and the trait for a store of them |
//! | `minisign` | no | a verifier of packages signed with minisign |

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod core;

#[cfg(any(feature = "ws", feature = "http"))]
mod builder;
#[cfg(all(feature = "csr", any(feature = "ws", feature = "http")))]
mod csr;
#[cfg(any(feature = "ws", feature = "http"))]
mod custom;
#[cfg(any(feature = "ws", feature = "http"))]
mod driver;
#[cfg(any(feature = "ws", feature = "http"))]
mod error;
#[cfg(all(feature = "file-store", any(feature = "ws", feature = "http")))]
mod file_store;
#[cfg(any(feature = "ws", feature = "http"))]
mod handle;
#[cfg(all(feature = "packages", any(feature = "ws", feature = "http")))]
pub mod packages;
#[cfg(any(feature = "ws", feature = "http"))]
mod redaction;
#[cfg(any(feature = "ws", feature = "http"))]
mod store;
#[cfg(all(feature = "tls", any(feature = "ws", feature = "http")))]
pub mod tls;

#[cfg(any(feature = "ws", feature = "http"))]
pub use self::builder::Builder;
#[cfg(any(feature = "ws", feature = "http"))]
pub use self::custom::CustomDelivery;
#[cfg(any(feature = "ws", feature = "http"))]
pub use self::driver::{Driver, HeaderError, HeaderProvider, Proxy};
#[cfg(any(feature = "ws", feature = "http"))]
pub use self::error::{Error, ErrorKind};
#[cfg(all(feature = "file-store", any(feature = "ws", feature = "http")))]
pub use self::file_store::FileStore;
#[cfg(any(feature = "ws", feature = "http"))]
pub use self::handle::{Client, EventHandler, Events, Status};
#[cfg(any(feature = "ws", feature = "http"))]
pub use self::store::SettingsStore;

#[cfg(all(doctest, feature = "ws"))]
#[doc = include_str!("../README.md")]
struct Readme;
