//! What the machines of Agents did, added to the counts of the Server.

use super::Fleet;
use crate::core::{Agent, OfferEvents, OperationError, Tally};
use crate::counters::Count;

/// Something that can be offered, for counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    RemoteConfig,
    ConnectionSettings,
    Packages,
    Command,
    CustomMessage,
}

impl<I> Fleet<I> {
    /// Counts what an Agent's machine did since the last time. `pushed`: what it composed meanwhile
    /// was a push and no reply.
    pub(super) fn count(&self, agent: &mut Agent, pushed: bool) {
        if let Some(tally) = agent.take_tally() {
            self.add(&tally, pushed);
        }
    }

    #[cold]
    fn add(&self, tally: &Tally, pushed: bool) {
        let counting = &**self.inner.counting;
        let offers: [(OfferEvents, [&Count; 5]); 3] = [
            (
                tally.config,
                [
                    &counting.configs_offered,
                    &counting.configs_applied,
                    &counting.configs_failed,
                    &counting.configs_timed_out,
                    &counting.configs_superseded,
                ],
            ),
            (
                tally.settings,
                [
                    &counting.settings_offered,
                    &counting.settings_applied,
                    &counting.settings_failed,
                    &counting.settings_timed_out,
                    &counting.settings_superseded,
                ],
            ),
            (
                tally.packages,
                [
                    &counting.packages_offered,
                    &counting.packages_applied,
                    &counting.packages_failed,
                    &counting.packages_timed_out,
                    &counting.packages_superseded,
                ],
            ),
        ];
        for (happened, counts) in offers {
            let events = OfferEvents::all().iter();
            let counted = events.zip(counts).filter(|(event, _)| happened.contains(*event));
            counted.for_each(|(_, count)| count.add());
        }
        let flags = [
            (tally.full_state && pushed, &counting.full_state_pushes),
            (tally.full_state && !pushed, &counting.full_state_replies),
            (tally.command_sent, &counting.commands_sent),
            (tally.command_dropped, &counting.commands_dropped),
        ];
        flags.into_iter().filter(|(happened, _)| *happened).for_each(|(_, count)| count.add());
        let numbers = [
            (tally.custom_sent, &counting.custom_messages_sent),
            (tally.custom_expired, &counting.custom_messages_expired),
            (tally.custom_unsupported, &counting.custom_messages_unsupported),
        ];
        numbers.into_iter().for_each(|(number, count)| count.add_all(number.into()));
    }

    /// Counts that the operator was refused something, as the Agent does not take it or has no room
    /// for more.
    pub(super) fn count_refused<T>(
        &self,
        kind: Kind,
        outcome: Result<T, OperationError>,
    ) -> Result<T, OperationError> {
        let counting = &**self.inner.counting;
        match (&outcome, kind) {
            (Err(OperationError::NotAccepted), _) => match kind {
                Kind::RemoteConfig => counting.configs_unsupported.add(),
                Kind::ConnectionSettings => counting.settings_unsupported.add(),
                Kind::Packages => counting.packages_unsupported.add(),
                Kind::Command => counting.commands_unsupported.add(),
                Kind::CustomMessage => counting.custom_messages_unsupported.add(),
            },
            (Err(OperationError::QueueFull), Kind::CustomMessage) => {
                counting.custom_messages_refused.add();
            }
            _ => {}
        }
        outcome
    }
}
