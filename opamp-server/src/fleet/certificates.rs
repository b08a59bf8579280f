//! Certificates that Agents ask for, and what the operator says to that (CSR rows, TOFU rows).
//!
//! A message with a new request has [`Changes::CERTIFICATE_REQUEST`](crate::Changes); the request
//! stays pending until one of these operations decides, it is replaced by another, or it expires. A
//! decision names the request it is about, and fails if the Agent has sent another one since.

use std::time::Instant;

use opamp_proto::ServerCapabilities;

use super::budget::Reservation;
use super::shard::Slot;
use super::{AgentKey, Fleet};
use crate::core::{
    CertificateOffer, CertificateRequestId, OperationError, Part, PendingCertificate, Refusal,
    Scan, Terms,
};

impl<I> Fleet<I> {
    /// Every certificate request that nobody has decided about, in no particular order.
    ///
    /// It looks at every Agent, so it is for an operator's list.
    #[must_use]
    pub fn pending_certificates(&self) -> Vec<(AgentKey, PendingCertificate)> {
        let mut pending = Vec::new();
        for shard in self.shards() {
            let asking = shard.slots.values().filter_map(|slot| {
                slot.agent.pending_certificate().map(|pending| (slot.key(), pending))
            });
            pending.extend(asking);
        }
        pending
    }

    /// The certificate request of an Agent that nobody has decided about.
    #[must_use]
    pub fn pending_certificate(&self, key: impl Into<AgentKey>) -> Option<PendingCertificate> {
        let key = key.into();
        self.shard(&key).slots.get(&key)?.agent.pending_certificate()
    }

    /// Answers a certificate request with a certificate: it is offered as a part of the connection
    /// settings the Agent should have, pushed at once or with its next request, and repeated until
    /// the Agent has said what became of it (CSR-12, CSR-14, CSR-18). The outcome is that of
    /// [`AgentSnapshot::connection_settings`](super::AgentSnapshot::connection_settings).
    ///
    /// Nobody but this Agent is offered it. Connection settings that are set for the Agent alone
    /// later and have a certificate of their own replace it.
    ///
    /// # Errors
    ///
    /// [`OperationError::UnknownAgent`]; [`OperationError::NoCertificateRequest`] if this request
    /// is not pending; [`OperationError::NotAccepted`] if the Agent does not accept settings for
    /// its connection; [`OperationError::NotOffered`] if the Server does not offer settings; and
    /// [`OperationError::TooLarge`].
    pub fn issue_certificate(
        &self,
        key: impl Into<AgentKey>,
        request: CertificateRequestId,
        offer: CertificateOffer,
        now: Instant,
    ) -> Result<(), OperationError> {
        self.give_certificate(key, Some(request), offer, now)
    }

    /// Offers a certificate that was not asked for, with its private key: to an Agent that was
    /// approved on its first connection, or that shall have credentials of its own from then on
    /// (TOFU-04, TOFU-06). In all else as [`issue_certificate`](Self::issue_certificate).
    ///
    /// # Errors
    ///
    /// As [`issue_certificate`](Self::issue_certificate).
    pub fn offer_certificate(
        &self,
        key: impl Into<AgentKey>,
        offer: CertificateOffer,
        now: Instant,
    ) -> Result<(), OperationError> {
        self.give_certificate(key, None, offer, now)
    }

    fn give_certificate(
        &self,
        key: impl Into<AgentKey>,
        request: Option<CertificateRequestId>,
        offer: CertificateOffer,
        now: Instant,
    ) -> Result<(), OperationError> {
        let config = self.config();
        if !config.capabilities.contains(ServerCapabilities::OFFERS_CONNECTION_SETTINGS) {
            return Err(OperationError::NotOffered);
        }
        self.decide(key, |slot, terms| slot.agent.issue_certificate(request, offer, terms, now))?;
        self.inner.counting.certificates_issued.add();
        Ok(())
    }

    /// Refuses a certificate request: the Agent is told BAD_REQUEST and the reason, which should
    /// say to its operator what to do (CSR-15, ERR-07).
    ///
    /// # Errors
    ///
    /// [`OperationError::UnknownAgent`], and [`OperationError::NoCertificateRequest`] if this
    /// request is not pending.
    pub fn refuse_certificate(
        &self,
        key: impl Into<AgentKey>,
        request: CertificateRequestId,
        reason: &str,
    ) -> Result<(), OperationError> {
        self.decide(key, |slot, _| slot.agent.refuse_certificate(request, reason))?;
        self.inner.counting.certificates_refused.add();
        Ok(())
    }

    /// Forgets the certificate an Agent was given: it is no part of what the Agent should have any
    /// more. What the Agent has it keeps, until it is offered something else; see `Revocations` for
    /// taking the access.
    ///
    /// # Errors
    ///
    /// [`OperationError::UnknownAgent`].
    pub fn clear_certificate(&self, key: impl Into<AgentKey>) -> Result<(), OperationError> {
        self.decide(key, |slot, _| {
            slot.agent.clear_certificate();
            Ok(())
        })
    }

    /// Does what may free the bytes of a request, and wakes the Agent's connection.
    fn decide(
        &self,
        key: impl Into<AgentKey>,
        decide: impl FnOnce(&mut Slot<I>, Terms<'_>) -> Result<(), OperationError>,
    ) -> Result<(), OperationError> {
        let key = key.into();
        let mut shard = self.shard(&key);
        let (slot, terms) = shard.slot(&key, self.config()).ok_or(OperationError::UnknownAgent)?;
        let before = slot.retained_bytes();
        decide(slot, terms)?;
        self.inner.budget.release(before.saturating_sub(slot.retained_bytes()));
        slot.wake();
        self.inner.watching.note(self.place(&key), &mut slot.changed_at);
        let noted = slot.note_operation(&self.inner.saving);
        shard.queue(key, noted);
        Ok(())
    }

    /// Sets aside what a certificate request may add to what is kept, for the time of its message.
    pub(super) fn reserve_request(&self, scan: &Scan<'_>) -> Result<Reservation<'_>, Refusal> {
        let size = scan.part(Part::ConnectionSettingsRequest).map_or(0, <[u8]>::len);
        let size = size.min(self.config().max_certificate_request);
        self.inner.budget.reserve(size).ok_or_else(|| {
            self.inner.counting.over_budget.add();
            Refusal::unavailable("the Server has no room for a certificate request", None)
        })
    }
}
