//! Agents that change their instance uid (ID-09, ID-14, DUP-06).
//!
//! A uid that is given to an Agent is reserved for it, by the serial number of the Agent's slot, in
//! the shard the uid belongs to. When a message comes under it, the slot moves there. Locks are
//! taken one after the other and never two at a time, so every step looks again at what it found
//! before.

use std::sync::atomic::Ordering;
use std::time::Instant;

use opamp_proto::InstanceUid;

use super::shard::{PendingRename, Slot};
use super::{AgentKey, Fleet, Now, Route};
use crate::core::{Changes, OperationError, later};

impl<I> Fleet<I> {
    /// Gives an Agent another instance uid, which should be of version 7 (ID-14, ID-15). It is told
    /// under its old one; when it speaks under the new one, all that is known of it goes with it.
    /// The last few it was given before, and may have been told, it may still take until they
    /// expire.
    ///
    /// # Errors
    ///
    /// [`OperationError::UnknownAgent`]; [`OperationError::NotAuthorized`] if the identity that
    /// speaks for the Agent may not do so under the new instance uid, which would lock it out; and
    /// [`OperationError::UidInUse`] if another Agent has the new instance uid or is about to get
    /// it.
    pub fn rename(
        &self,
        key: impl Into<AgentKey>,
        new: InstanceUid,
        now: Instant,
    ) -> Result<(), OperationError> {
        let expires = later(now, self.config().rename_expiry);
        let key = key.into();
        let reserved = key.tenant().agent(new);
        let (serial, route) = self.with_slot(key, |slot| Ok((slot.serial, slot.route.clone())))?;
        self.authorize(&route, &reserved, None).map_err(|_denied| OperationError::NotAuthorized)?;
        let reserved_now = {
            let mut shard = self.shard(&reserved);
            if shard.slots.contains_key(&reserved) {
                return Err(OperationError::UidInUse);
            }
            match shard.renames.get_mut(&reserved) {
                Some(rename) if rename.serial == serial => {
                    rename.expires = expires;
                    false
                }
                Some(rename) if now < rename.expires => return Err(OperationError::UidInUse),
                _ => {
                    let rename = PendingRename { old: key, serial, expires };
                    shard.renames.insert(reserved, rename);
                    true
                }
            }
        };
        let renamed = self.with_slot(key, |slot| {
            if slot.serial != serial {
                return Err(OperationError::UnknownAgent);
            }
            slot.agent.rename(new, expires);
            Ok(slot.give(reserved))
        });
        match renamed {
            Ok(outdated) => {
                self.forget_rename(outdated, serial);
                Ok(())
            }
            Err(error) => {
                // Since the first look the Agent has moved, or was forgotten.
                self.forget_rename(reserved_now.then_some(reserved), serial);
                Err(error)
            }
        }
    }

    /// An Agent asked for a uid, and is given this one (ID-09). One that it may not speak under
    /// would lock it out: it is taken back, and the Agent keeps its own.
    pub(super) fn reserve_requested(
        &self,
        route: &Route<I>,
        key: AgentKey,
        serial: u64,
        new: InstanceUid,
        now: Now,
    ) {
        let reserved = key.tenant().agent(new);
        if self.authorize(&route.shared, &reserved, None).is_err() {
            // If the Agent is gone meanwhile, so is what it was given.
            let _ = self.with_slot(key, |slot| {
                if slot.serial == serial {
                    slot.agent.withdraw_rename(new);
                    slot.given.retain(|given| *given != reserved);
                }
                Ok(())
            });
            return;
        }
        let expires = later(now.instant, self.config().rename_expiry);
        let rename = PendingRename { old: key, serial, expires };
        self.shard(&reserved).renames.insert(reserved, rename);
    }

    /// An Agent speaks under an instance uid it was given: its slot moves there. Shards are locked
    /// one after the other, so two such moves cannot wait for each other.
    pub(super) fn move_slot(&self, rename: &PendingRename, new: AgentKey) -> Changes {
        let slot = {
            let mut shard = self.shard(&rename.old);
            let slot = shard.slots.remove_if(&rename.old, |slot| slot.serial == rename.serial);
            let Some(slot) = slot else { return Changes::empty() };
            let place = self.place(&rename.old);
            self.inner.watching.note_departed(place, &mut shard.departed, rename.old);
            if slot.news.is_busy() {
                shard.moved.insert(slot.serial, new);
            }
            slot
        };
        let mut slot = slot;
        slot.note_moved(rename.old);
        let retained = slot.retained_bytes();
        let changes = self.settle(slot, new);
        if changes.is_empty() {
            self.inner.agents.fetch_sub(1, Ordering::Relaxed);
            self.inner.budget.release(retained);
        }
        changes
    }

    fn settle(&self, mut slot: Box<Slot<I>>, new: AgentKey) -> Changes {
        let changes = slot.agent.handle_renamed(*new.uid());
        slot.news.forget_queue();
        // Who waits under the old uid has it for itself.
        slot.others = None;
        slot.given.retain(|given| *given != new);
        let (serial, others) = (slot.serial, slot.given.clone());
        {
            let mut shard = self.shard(&new);
            shard.renames.remove(&new);
            if shard.slots.contains_key(&new) {
                // Two messages under the new uid came at once, and the other one was first.
                shard.forgotten.extend(slot.into_stored());
                return Changes::empty();
            }
            shard.slots.insert(&new, slot);
        }
        for given in others {
            let mut shard = self.shard(&given);
            if let Some(rename) = shard.renames.get_mut(&given).filter(|it| it.serial == serial) {
                rename.old = new;
            }
        }
        changes
    }

    /// An Agent cannot take this uid any more.
    pub(super) fn forget_rename(&self, given: Option<AgentKey>, serial: u64) {
        if let Some(given) = given {
            let mut shard = self.shard(&given);
            if shard.renames.get(&given).is_some_and(|rename| rename.serial == serial) {
                shard.renames.remove(&given);
            }
        }
    }
}
