//! What becomes of reports that were not acknowledged, and how long to wait.

use std::time::Duration;

use opamp_proto::v1::{ServerErrorResponse, ServerErrorResponseType, server_error_response};
use tokio::time::Instant;

use super::super::patience::Patience;
use super::{ANSWER, Mind, NEVER, Next, Part};
use crate::wire::uid;

impl Mind {
    /// The server has answered with an error.
    pub(super) fn refused(&mut self, error: &ServerErrorResponse) -> Next {
        let stated = error.details.as_ref().map(|details| {
            let server_error_response::Details::RetryInfo(info) = details;
            Duration::from_nanos(info.retry_after_nanoseconds)
        });
        let retries = |fault, kind| self.faults.has(fault) && error.r#type == kind as i32;
        if error.r#type != ServerErrorResponseType::Unavailable as i32 {
            if self.in_flight.contains(&Part::CertificateRequest)
                && self.faults.has("refused-certificate-request-is-repeated")
            {
                self.unreported.insert(Part::CertificateRequest);
            }
            if retries("unknown-error-is-retried", ServerErrorResponseType::Unknown)
                || retries("bad-request-is-retried", ServerErrorResponseType::BadRequest)
            {
                self.unreported.append(&mut self.in_flight);
            }
            self.in_flight.clear();
            // Settings with which the server does not accept a report are not good.
            return if self.connection.is_trying() {
                Next::Wait(Duration::ZERO)
            } else if error.r#type > 2 && self.faults.has("unknown-error-type-disconnects") {
                Next::Wait(self.backoff())
            } else if self.faults.has("retry-info-is-always-used") {
                stated.map_or(Next::GoOn, Next::Wait)
            } else {
                Next::GoOn
            };
        }
        if self.faults.has("unavailable-loses-the-report") {
            self.in_flight.clear();
        }
        self.lost();
        Next::Wait(if self.faults.has("retry-info-is-ignored") {
            self.backoff()
        } else if self.faults.has("unavailable-pauses-do-not-grow") {
            stated.unwrap_or(Duration::from_secs(5))
        } else {
            self.patience.overloaded(stated)
        })
    }

    /// The connection is gone without an answer to what is in flight.
    pub(in crate::reference::client) fn lost(&mut self) {
        if self.faults.has("sent-counts-as-reported") {
            self.in_flight.clear();
        }
        self.unreported.append(&mut self.in_flight);
        if self.faults.has("numbers-start-over-with-the-connection") {
            self.sequence_num = 0;
        }
        if self.faults.has("uid-changes-with-the-connection") {
            self.kept.uid = uid::fresh(&mut rand::rng(), uid::now_ms());
        }
        if let Some(uid) = self.uid_before.take() {
            self.kept.uid = uid;
        }
    }

    /// What is in flight is too large for the server; it comes with the next change.
    pub(in crate::reference::client) fn too_large(&mut self) {
        if !self.faults.has("413-is-retried") {
            self.held.append(&mut self.in_flight);
        }
    }

    /// The last message composed is too large to be sent, and is not.
    pub(in crate::reference::client) fn unsent(&mut self) {
        self.sequence_num -= 1;
        self.held.append(&mut self.in_flight);
    }

    /// When the server has let the report that is in flight wait for too long.
    pub(in crate::reference::client) fn answer_is_due_at(&self) -> Instant {
        let waits = !self.in_flight.is_empty() && !self.faults.has("silence-is-never-noticed");
        self.reported + if waits { ANSWER } else { NEVER }
    }

    /// How long to wait.
    pub(in crate::reference::client) fn patience(&mut self) -> &mut Patience {
        &mut self.patience
    }

    /// How long to wait after one more failure that states no time.
    pub(in crate::reference::client) fn backoff(&mut self) -> Duration {
        self.patience.backoff()
    }
}
