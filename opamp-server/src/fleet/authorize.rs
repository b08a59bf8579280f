//! What an identity may do, as the application sees it: whose Agents it speaks for, and whether it
//! may speak for this one.
//!
//! A credential says who a peer is; an instance uid is what the peer says. An [`Authorizer`] ties
//! the two. It is asked about a [`Claim`] when an Agent is heard on a route for the first time, and
//! since each HTTP request is a route, at each of them; about the new uid when an Agent changes its
//! own; and about a uid that is going to be given to an Agent. Until it has agreed nothing in the
//! registry has changed.
//!
//! ```text
//!   message on route R about Agent A
//!       │
//!       ├─ A is served on R ───────────────────────────────▶ taken in
//!       └─ else: Claim { identity of R, A, A's holder } ─┬─▶ taken in; R's identity is the holder
//!                                                       └─▶ Denied
//! ```
//!
//! The *holder* is the identity that spoke for the Agent last. [`Claim::bind`] lets nobody else
//! speak for it. That needs no memory of its own: it holds for as long as the registry knows the
//! Agent, which is as long as it is connected and
//! [`ServerConfig::retain_disconnected`](crate::ServerConfig::retain_disconnected) afterwards, and
//! [`Fleet::release`] ends it before. Over a restart it holds for identities that can be
//! [stored](Authorizer::store_identity), where there is a store; else each Agent belongs to whoever
//! speaks for it first again.

use std::borrow::Cow;
use std::sync::MutexGuard;

use opamp_proto::WireUid;

use super::route::RouteShared;
use super::shard::Shard;
use super::slots::Hashed;
use super::{AgentKey, Fleet, Route, Tenant};
use crate::core::{OperationError, Refusal};

/// Says what peers may do, from the identity that admission gave them.
///
/// The registry asks it without holding a lock of its own, and waits for the answer: what takes
/// time belongs in admission, whose result the identity can carry.
pub trait Authorizer<I>: Send + Sync {
    /// Whose Agents this peer speaks for. Asked once, when a route opens. Default: all are of one
    /// tenant.
    fn tenant(&self, identity: &I) -> Tenant {
        let _ = identity;
        Tenant::default()
    }

    /// Whether this identity may speak for this Agent. Default: yes.
    ///
    /// # Errors
    ///
    /// [`Denied`], with what the Agent is told.
    fn authorize(&self, claim: Claim<'_, I>) -> Result<(), Denied> {
        let _ = claim;
        Ok(())
    }

    /// The holder of an Agent, as it is to be stored: short, and without secrets. Called under a
    /// lock of the registry, so it has to return at once and must not call the registry. Default:
    /// `None`, it is not stored.
    fn store_identity(&self, identity: &I) -> Option<Vec<u8>> {
        let _ = identity;
        None
    }

    /// The holder that was stored like this. `None` if it is not known any more: the Agent then
    /// belongs to whoever speaks for it first.
    fn stored_identity(&self, stored: &[u8]) -> Option<I> {
        let _ = stored;
        None
    }
}

/// Everyone belongs to the default tenant and may speak for every Agent.
pub(super) struct Everyone;

impl<I> Authorizer<I> for Everyone {}

/// An identity that is about to speak for an Agent.
#[derive(Debug)]
pub struct Claim<'a, I> {
    identity: &'a I,
    agent: &'a AgentKey,
    holder: Option<&'a I>,
}

impl<I> Clone for Claim<'_, I> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<I> Copy for Claim<'_, I> {}

impl<'a, I> Claim<'a, I> {
    /// A claim, to try a policy with.
    #[must_use]
    pub const fn new(identity: &'a I, agent: &'a AgentKey, holder: Option<&'a I>) -> Self {
        Self { identity, agent, holder }
    }

    /// Who claims to be the Agent.
    #[must_use]
    pub const fn identity(&self) -> &'a I {
        self.identity
    }

    /// The Agent; its tenant is that of the identity.
    #[must_use]
    pub const fn agent(&self) -> &'a AgentKey {
        self.agent
    }

    /// The identity that spoke for the Agent last; `None` if the registry does not know the Agent,
    /// or it was [released](Fleet::release).
    #[must_use]
    pub const fn holder(&self) -> Option<&'a I> {
        self.holder
    }

    /// A policy: an Agent belongs to the identity that spoke for it first.
    ///
    /// The identity has to be the same in each connection of an Agent, also after its token or
    /// certificate was renewed: compare the name of who it is, not the credential.
    ///
    /// # Errors
    ///
    /// [`Denied`] if another identity holds the Agent.
    ///
    /// ```
    /// use opamp_proto::InstanceUid;
    /// use opamp_server::{AgentKey, fleet::Claim};
    ///
    /// let agent = AgentKey::from(InstanceUid::from_bytes([1; 16]));
    /// assert!(Claim::new(&"host-1", &agent, None).bind().is_ok());
    /// assert!(Claim::new(&"host-1", &agent, Some(&"host-1")).bind().is_ok());
    /// assert!(Claim::new(&"host-2", &agent, Some(&"host-1")).bind().is_err());
    /// ```
    pub fn bind(&self) -> Result<(), Denied>
    where
        I: PartialEq,
    {
        match self.holder {
            Some(holder) if holder != self.identity => {
                Err(Denied::new("the Agent with this instance uid belongs to another identity"))
            }
            _ => Ok(()),
        }
    }

    /// A policy: the identity may speak for this Agent and no other, as the one whose uid is in its
    /// certificate. An Agent under it can only be renamed if its identity follows.
    ///
    /// # Errors
    ///
    /// [`Denied`] if the uids differ.
    pub fn only(&self, uid: impl Into<WireUid>) -> Result<(), Denied> {
        match self.agent.uid() == &uid.into() {
            true => Ok(()),
            false => Err(Denied::new("the credential is for another instance uid")),
        }
    }
}

/// An identity may not speak for an Agent.
///
/// Over HTTP the request is answered with 403, over a WebSocket the message with BAD_REQUEST and
/// this text. Every denial is counted in [`Counters::denied`](crate::Counters).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    text: Cow<'static, str>,
    panicked: bool,
}

impl Denied {
    /// A denial, with what the Agent's operator is told: up to 256 bytes.
    #[must_use]
    pub fn new(text: impl Into<Cow<'static, str>>) -> Self {
        Self { text: text.into(), panicked: false }
    }

    /// What the Agent's operator is told.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The authorizer could not say.
    #[cfg(feature = "service")]
    pub(crate) fn panicked() -> Self {
        Self { panicked: true, ..Self::new("it could not be decided who may speak for the Agent") }
    }
}

impl std::fmt::Display for Denied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Denied {}

/// Requests of one Agent that were served while another one was looked at, before that is given up.
const MAX_LOOKS: usize = 8;

impl<I> Fleet<I> {
    /// Lets an Agent be spoken for by whoever is next, whoever held it: for an Agent whose identity
    /// has changed for good, under a policy such as [`Claim::bind`]. Ends no session.
    ///
    /// # Errors
    ///
    /// [`OperationError::UnknownAgent`].
    pub fn release(&self, key: impl Into<AgentKey>) -> Result<(), OperationError> {
        self.with_slot(key, |slot| {
            slot.released = true;
            Ok(())
        })
    }

    /// The shard of an Agent that this route may speak for. Where it has not done so yet, that is
    /// asked first, without the lock, and asked again if the Agent has come into other hands
    /// meanwhile. With it comes whether the Agent is served on this very route.
    pub(super) fn shard_for(
        &self,
        route: &Route<I>,
        key: &Hashed,
    ) -> Result<(MutexGuard<'_, Shard<I>>, bool), Refusal> {
        let mut agreed = None;
        for _ in 0..MAX_LOOKS {
            let shard = self.shard(key);
            let slot = shard.slots.get(key);
            if slot.is_some_and(|slot| slot.is_served_on(route)) {
                return Ok((shard, true));
            }
            let holder = slot.filter(|slot| !slot.released).map(|slot| &slot.route);
            let id = holder.map(|holder| holder.id);
            if agreed == Some(id) {
                return Ok((shard, false));
            }
            let holder = holder.cloned();
            drop(shard);
            self.authorize(&route.shared, key.key(), holder.as_deref())?;
            agreed = Some(id);
        }
        Err(Refusal::unavailable("too many requests of this Agent at once", None))
    }

    /// Asks the authorizer. No lock must be held.
    pub(super) fn authorize(
        &self,
        route: &RouteShared<I>,
        key: &AgentKey,
        holder: Option<&RouteShared<I>>,
    ) -> Result<(), Refusal> {
        // Nobody whose identity was stored has spoken for the Agent.
        let Some(identity) = &route.identity else { return Ok(()) };
        let holder = holder.and_then(|holder| holder.identity.as_ref());
        let claim = Claim::new(identity, key, holder);
        self.inner.authorizer.authorize(claim).map_err(|denied| {
            if denied.panicked {
                self.inner.counting.handler_panics.add();
            }
            Refusal::denied(denied.text)
        })
    }
}
