//! Certificates of the agent's own: made when the core says so, and renewed in time.

use std::time::{Duration, Instant, SystemTime};

use super::servers::SharedSettings;
use crate::core::ClientCore;
use crate::csr;

/// Longest wait without a look at the clock: the machine may have slept, or its time been set.
const LOOK: Duration = Duration::from_secs(600);

/// When the certificate in use has to be renewed.
#[derive(Default)]
pub(super) struct Renewal {
    /// What spreads the renewals of many agents.
    seed: u64,
    settings: Option<SharedSettings>,
    /// `None` when there is nothing to renew, or it has been told.
    due: Option<SystemTime>,
}

impl Renewal {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Makes what is to be made, and tells what is due.
    pub(super) fn act(&mut self, core: &mut ClientCore, now: Instant) {
        if let Some(order) = core.poll_certificate_request() {
            core.handle_certificate_made(order.id, csr::make(order.instance_uid), now);
        }
        self.look_at(core);
        if self.due.is_some_and(|due| due <= time()) {
            self.due = None;
            core.handle_certificate_due();
            self.act(core, now);
        }
    }

    fn look_at(&mut self, core: &ClientCore) {
        let in_force = core.opamp_settings();
        if in_force == self.settings.as_deref() {
            return;
        }
        self.settings = in_force.cloned().map(SharedSettings::new);
        let certificate = in_force.and_then(|settings| settings.certificate.as_ref());
        self.due =
            certificate.and_then(|certificate| csr::renewal_of(&certificate.cert, self.seed));
    }

    /// When to [act](Self::act) although nothing happens.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let wait = self.due?.duration_since(time()).unwrap_or_default();
        now.checked_add(wait.min(LOOK))
    }
}

#[expect(clippy::disallowed_methods, reason = "certificates are valid by the calendar")]
fn time() -> SystemTime {
    SystemTime::now()
}
