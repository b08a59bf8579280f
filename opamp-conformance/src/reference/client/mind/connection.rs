//! Connection settings: what to connect with, offers of others, and certificate requests.

use opamp_proto::v1::ConnectionSettingsOffers;

use super::{FULL, Mind, NEVER, Next, Part, TRIAL};
use crate::hook::HookError;
use crate::mask::server;
use crate::net::Network;
use crate::reference::client::settings::Reaction;
use crate::wire::http_client::Dialer;
use crate::wire::uid;
use tokio::time::Instant;

impl Mind {
    /// How to connect now.
    pub(in crate::reference::client) fn dialer(
        &mut self,
        network: &Network,
    ) -> Result<Dialer, String> {
        let dialer = self.connection.connecting().dialer(network, &self.faults);
        if self.connection.is_trying() || self.connection.is_untried() {
            self.begin_session();
        }
        dialer
    }

    /// When settings that are being tried have failed if the server has not answered by then.
    pub(in crate::reference::client) fn trial_ends_at(&self) -> Instant {
        let patience = if self.connection.is_trying() { TRIAL } else { NEVER };
        self.last_sent + patience
    }

    /// The connection is over; whether that means to go back to the settings before it, at once.
    pub(in crate::reference::client) fn fall_back(&mut self) -> bool {
        let failed = self.connection.fall_back();
        if failed {
            self.begin_session();
        }
        failed
    }

    /// The next report is a full one, to a server of which nothing is known.
    fn begin_session(&mut self) {
        self.server = None;
        self.patience.succeeded();
        self.in_flight.clear();
        self.unreported.extend(FULL);
    }

    pub(super) fn reconnect(&mut self, offer: &ConnectionSettingsOffers) -> Next {
        let mut reaction = self.connection.offered(offer);
        for settings in offer.own_metrics.iter() {
            self.connection.confuse_with(settings);
        }
        if self.telemetry.offer(offer, &self.faults) && offer.opamp.is_none() {
            reaction = reaction.max(self.connection.took(&offer.hash));
        }
        if reaction != Reaction::None {
            self.unreported.insert(Part::ConnectionSettingsStatus);
        }
        if reaction == Reaction::Move { Next::Move } else { Next::GoOn }
    }

    /// Asks for a certificate, where the server takes such requests.
    pub(super) fn ask_for_certificate(&mut self) -> Result<(), HookError> {
        let bit = server::ACCEPTS_CONNECTION_SETTINGS_REQUEST;
        // A request waits for the mask (A25).
        if self.server.is_none_or(|mask| mask & bit == 0)
            && !self.faults.has("certificate-request-to-any-server")
        {
            return Ok(());
        }
        let uid = uid::text(&self.kept.uid);
        self.connection.make_request(&uid).map_err(HookError::Failed)?;
        self.unreported.insert(Part::CertificateRequest);
        Ok(())
    }

    /// A certificate that names the id before is of no use any more.
    pub(super) fn renew_certificate(&mut self) {
        if self.connection.has_own_certificate()
            && !self.faults.has("certificate-stays-with-the-old-uid")
        {
            // Where the server takes none, it is used on.
            let _ = self.ask_for_certificate();
        }
    }
}
