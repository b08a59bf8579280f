//! Offers: what the server wants of the agent, as a value the agent has to answer.
//!
//! ```text
//!              ┌────────────── applying() ─────────────┐
//!   offered ───┤                                       ▼
//!      │       │                                    APPLYING
//!      │       │                                       │
//!      ├───────┴─► applied() ──► APPLIED ◄─────────────┤
//!      ├─────────► failed()  ──► FAILED  ◄─────────────┤
//!      ├─ newer offer ─────────► FAILED "superseded"  ◄┤
//!      └─ deadline ────────────► FAILED "no outcome"  ◄┘
//! ```

use bytes::Bytes;
use opamp_proto::v1;

/// Which offer an outcome belongs to; never reused by one core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OfferId(pub(super) u64);

/// A remote configuration that the server offers (CFG-01), to be answered with
/// [`applied`](Self::applied), [`applied_with`](Self::applied_with) or [`failed`](Self::failed).
///
/// The answer is a [`Resolution`] to hand to [`ClientCore::resolve`](super::ClientCore::resolve).
/// An offer that is never answered fails at its deadline, so that no server waits for it for ever.
///
/// `Debug` shows names and sizes, never the bodies.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "an offer has to be answered: applied, or failed with the reason"]
pub struct RemoteConfigOffer {
    pub(super) id: OfferId,
    pub(super) config: v1::AgentConfigMap,
    pub(super) hash: Bytes,
}

impl RemoteConfigOffer {
    /// Which offer this is.
    #[must_use]
    pub fn id(&self) -> OfferId {
        self.id
    }

    /// The offered files by name. The name is empty where the agent has a single file (CFG-13).
    #[must_use]
    pub fn config(&self) -> &v1::AgentConfigMap {
        &self.config
    }

    /// The server's hash of the offer, opaque to the agent (CFG-20). Empty from a server that
    /// breaks CFG-25.
    #[must_use]
    pub fn hash(&self) -> &Bytes {
        &self.hash
    }

    /// The agent has begun to apply the offer: the server is told APPLYING (CFG-21).
    pub fn applying(&self) -> Resolution {
        Resolution { id: self.id, outcome: Outcome::Applying }
    }

    /// The agent runs the offered configuration: the server is told APPLIED (CFG-21).
    pub fn applied(self) -> Resolution {
        Resolution { id: self.id, outcome: Outcome::Applied(None) }
    }

    /// As [`applied`](Self::applied), and what the agent runs now is told in the same report
    /// (CFG-04, CFG-07).
    pub fn applied_with(self, effective: v1::EffectiveConfig) -> Resolution {
        Resolution { id: self.id, outcome: Outcome::Applied(Some(effective)) }
    }

    /// The agent did not take the offer and goes on as before: the server is told FAILED and why
    /// (CFG-21, CFG-22).
    pub fn failed(self, why: impl Into<String>) -> Resolution {
        Resolution { id: self.id, outcome: Outcome::Failed(why.into()) }
    }
}

/// What became of an offer.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "hand it to ClientCore::resolve"]
pub struct Resolution {
    pub(super) id: OfferId,
    pub(super) outcome: Outcome,
}

impl Resolution {
    /// Which offer it is about.
    #[must_use]
    pub fn id(&self) -> OfferId {
        self.id
    }

    /// Whether it is the last word on that offer.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self.outcome, Outcome::Applying)
    }

    /// What the agent runs now, which is true whatever becomes of the offer.
    pub(crate) fn take_effective(&mut self) -> Option<v1::EffectiveConfig> {
        match &mut self.outcome {
            Outcome::Applied(effective) => effective.take(),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outcome {
    Applying,
    Applied(Option<v1::EffectiveConfig>),
    Failed(String),
}

/// The offer a [`Resolution`] was for is no longer pending: a newer one took its place, or its
/// deadline passed. The resolution has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the offer is no longer pending: a newer one took its place, or its deadline passed")]
pub struct NotPending;

/// Longest error message that is reported; a longer one is cut (a parser may quote a whole file).
pub(super) const MAX_ERROR_MESSAGE: usize = 4 * 1024;

pub(super) fn cut(mut message: String) -> String {
    if message.len() > MAX_ERROR_MESSAGE {
        let end = (0..=MAX_ERROR_MESSAGE).rev().find(|at| message.is_char_boundary(*at));
        message.truncate(end.unwrap_or(0));
        message.push('…');
    }
    message
}
