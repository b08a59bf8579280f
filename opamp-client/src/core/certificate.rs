//! Asking the server for a client certificate (CSR rows): a key of the agent's own, a request
//! signed with it, and the certificate that comes back as an offer of connection settings.
//!
//! ```text
//!   no certificate, a due renewal, another uid     poll_certificate_request
//!      ──────────────────────────────► Wanted ─────────────────────────────► being made
//!                                        ▲    the server takes requests          │
//!                         after a while  │                                       │ handle_certificate_made
//!                                        │                                       ▼
//!            Event ◄── refused ◄─────────┼──────────────┐                     saved
//!                                        │              │                        │
//!                                        └─ failed      │                        ▼
//!   a certificate in force ◄── offer ◄──────────────── sent, repeated ◄──────────┘
//! ```
//!
//! The key is saved before the request is sent: a certificate for a key that was lost would be of
//! no use. A request is a part of the report, so it is told again until it surely arrived. It is
//! repeated after a restart and, unanswered, now and then: a server may wait for a human, and
//! forget.

use std::time::Instant;

use opamp_proto::{InstanceUid, ServerCapabilities, v1};

use super::state::CertificateRequest;
use super::timer::Timer;
use super::{ClientCore, Event, Parts};

/// A key and a request for a certificate that the driver is to make. Answer with
/// [`ClientCore::handle_certificate_made`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "it has to be answered"]
pub struct CertificateOrder {
    /// To be given back in the answer.
    pub id: u64,
    /// What the subject is to name, where the certificate is for this uid (CSR-19).
    pub instance_uid: Option<InstanceUid>,
}

/// What is not sent to a server of which nothing is known (A25).
pub(super) const UNKNOWN_SERVER: Parts = Parts::CERTIFICATE_REQUEST;

#[derive(Debug, Default)]
pub(super) struct Certificates {
    /// The agent needs a certificate and has no request for one.
    wanted: bool,
    /// The order that the driver is at.
    under_way: Option<u64>,
    last_order: u64,
    /// The version of the state that has to be saved before the request is sent.
    unsaved: Option<u64>,
    /// A certificate came into force a short while ago, and says whether another one is due
    /// already: that has to wait, or an agent whose clock is wrong would ask for ever.
    resting: Option<bool>,
    /// The uid changed while settings were on trial: a certificate in them is for the one before.
    renamed: bool,
}

impl ClientCore {
    /// Asks the server for a certificate of a new key, whatever the agent has (CSR-16). A request
    /// that has no answer yet is repeated instead. Without effect unless the agent
    /// [requests certificates](super::ClientConfig::requests_certificate).
    pub fn request_certificate(&mut self) {
        if !self.config.requests_certificate {
            return;
        }
        if self.state.certificate_request.is_some() {
            self.tell_certificate_request();
        } else {
            self.certificates.wanted = true;
        }
    }

    /// The certificate in use is due for renewal: a new one is asked for, unless that has been
    /// done. It is not asked for sooner than
    /// [`certificate_retry_interval`](super::ClientConfig::certificate_retry_interval) after that
    /// came.
    pub fn handle_certificate_due(&mut self) {
        if self.config.requests_certificate && self.state.certificate_request.is_none() {
            match &mut self.certificates.resting {
                Some(due) => *due = true,
                None => self.certificates.wanted = true,
            }
        }
    }

    /// A key and a request to make, if there is something to make. Only a server that takes
    /// requests causes one (CSR-25).
    pub fn poll_certificate_request(&mut self) -> Option<CertificateOrder> {
        let takes = ServerCapabilities::ACCEPTS_CONNECTION_SETTINGS_REQUEST;
        if !self.certificates.wanted
            || self.certificates.under_way.is_some()
            || self.opamp_settings_pending()
            || self.is_stopped()
            || !self.server_capabilities.is_some_and(|server| server.contains(takes))
        {
            return None;
        }
        let certificates = &mut self.certificates;
        certificates.wanted = false;
        certificates.renamed = false;
        certificates.last_order += 1;
        certificates.under_way = Some(certificates.last_order);
        let names_uid = self.config.certificate_names_uid;
        let instance_uid = names_uid.then_some(self.state.instance_uid);
        Some(CertificateOrder { id: certificates.last_order, instance_uid })
    }

    /// What came of a [`CertificateOrder`].
    pub fn handle_certificate_made(
        &mut self,
        id: u64,
        outcome: Result<CertificateRequest, String>,
        now: Instant,
    ) {
        if self.certificates.under_way != Some(id) {
            return;
        }
        self.certificates.under_way = None;
        match outcome {
            Ok(request) => {
                self.state.certificate_request = Some(request);
                self.state_changed();
                self.certificates.unsaved = Some(self.state_version);
                self.send_saved_request();
            }
            Err(reason) => {
                self.events.push(Event::CertificateRequestFailed { reason });
                self.set_certificate_timer(now);
            }
        }
    }

    /// Something was saved.
    pub(super) fn send_saved_request(&mut self) {
        if let Some(version) = self.certificates.unsaved
            && self.is_saved(version)
        {
            self.certificates.unsaved = None;
            self.tell_certificate_request();
        }
    }

    fn tell_certificate_request(&mut self) {
        if self.certificates.unsaved.is_some() {
            return;
        }
        let request = self.state.certificate_request.as_ref().map(|request| {
            let certificate_request = Some(v1::CertificateRequest { csr: request.csr.clone() });
            v1::ConnectionSettingsRequest {
                opamp: Some(v1::OpAmpConnectionSettingsRequest { certificate_request }),
            }
        });
        // Also one that was told before, or is refused, is told anew.
        self.withdraw_certificate_request();
        let part = Parts::CERTIFICATE_REQUEST;
        self.report.update(part, |s| &mut s.connection_settings_request, request);
    }

    /// The server surely has the request: nothing is told until it is time to repeat it.
    pub(super) fn certificate_request_told(&mut self, now: Instant) {
        if self.report.surely_told(Parts::CERTIFICATE_REQUEST) {
            self.withdraw_certificate_request();
            self.set_certificate_timer(now);
        }
    }

    /// The server refused `parts`, or what else it was told. A refused request is not sent again
    /// (ERR-14); one that a human refuses was acknowledged long before (A20).
    pub(super) fn certificate_refused(&mut self, parts: Parts, reason: &str, now: Instant) {
        let waiting = parts.is_empty() && self.timers.is_set(Timer::Certificate);
        if self.state.certificate_request.is_none()
            || !(parts.contains(Parts::CERTIFICATE_REQUEST) || waiting)
        {
            return;
        }
        self.drop_certificate_request();
        self.set_certificate_timer(now);
        let reason = format!("the server refused it: {reason}");
        self.events.push(Event::CertificateRequestFailed { reason });
    }

    /// Time has passed without an answer, or since the last failure.
    pub(super) fn certificate_request_overdue(&mut self) {
        match self.certificates.resting.take() {
            None => self.request_certificate(),
            Some(true) => self.handle_certificate_due(),
            Some(false) => {}
        }
    }

    /// Settings are in force. A certificate in them is what was asked for, unless it was there
    /// `before`: servers repeat it with other settings (A17).
    pub(super) fn certificate_in_force(
        &mut self,
        before: Option<&v1::TlsCertificate>,
        now: Instant,
    ) {
        let certificate = self.opamp_settings().and_then(|settings| settings.certificate.as_ref());
        if certificate == before || self.certificates.renamed {
            return;
        }
        if certificate.is_none() {
            return self.handle_certificate_due();
        }
        self.certificates.wanted = false;
        self.drop_certificate_request();
        if self.config.requests_certificate {
            self.set_certificate_timer(now);
            self.certificates.resting = Some(false);
        }
    }

    /// A certificate that names the uid is of no use with another one (CSR-21).
    pub(super) fn certificate_names_another(&mut self) {
        if self.config.requests_certificate && self.config.certificate_names_uid {
            self.drop_certificate_request();
            self.certificates.wanted = true;
            self.certificates.renamed = self.opamp_settings_pending();
        }
    }

    /// What the process before this one left: a request is repeated, as its answer may be lost.
    pub(super) fn restore_certificate_request(&mut self) {
        self.report.withhold(UNKNOWN_SERVER);
        if !self.config.requests_certificate {
            return;
        }
        let certificate =
            self.opamp_settings().and_then(|settings| settings.certificate.as_ref()).is_some();
        if self.state.certificate_request.is_some() {
            self.tell_certificate_request();
        } else if !certificate {
            self.certificates.wanted = true;
        }
    }

    fn drop_certificate_request(&mut self) {
        // One that is being made is for the wrong uid, or for nothing.
        self.certificates.under_way = None;
        self.certificates.unsaved = None;
        self.certificates.resting = None;
        self.timers.stop(Timer::Certificate);
        self.withdraw_certificate_request();
        if self.state.certificate_request.take().is_some() {
            self.state_changed();
        }
    }

    fn withdraw_certificate_request(&mut self) {
        let part = Parts::CERTIFICATE_REQUEST;
        self.report.update(part, |s| &mut s.connection_settings_request, None);
    }

    fn set_certificate_timer(&mut self, now: Instant) {
        self.certificates.resting = None;
        let again = now.checked_add(self.config.certificate_retry_interval);
        self.timers.set(Timer::Certificate, again);
    }
}
