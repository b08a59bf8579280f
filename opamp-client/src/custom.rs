//! Custom messages on their way from the handles to the core, and what became of them on the way
//! back.
//!
//! A message takes room from the moment it is accepted until its outcome is told, wherever it is;
//! so what all handles, the mailbox and the core together keep is bounded, and a handle knows at
//! once whether there is room.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use opamp_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot};

use crate::core::{ClientConfig, ClientCore, CustomMessageId, CustomOutcome, NotSent};
use crate::handle::Mailbox;

/// What becomes of a custom message: a future that yields its one
/// [`CustomOutcome`](crate::core::CustomOutcome).
///
/// It is ready within
/// [`custom_message_timeout`](crate::core::ClientConfig::custom_message_timeout), or when the
/// client stops. Dropping it does not take the message back.
#[derive(Debug)]
#[must_use = "the outcome says whether the message arrived; drop it if that does not matter"]
pub struct CustomDelivery(oneshot::Receiver<CustomOutcome>);

impl Future for CustomDelivery {
    type Output = CustomOutcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CustomOutcome> {
        // A driver that was dropped may have sent it before.
        let outcome = Pin::new(&mut self.0).poll(cx);
        outcome.map(|outcome| outcome.unwrap_or(CustomOutcome::Unconfirmed))
    }
}

/// The room for custom messages, shared by all handles.
#[derive(Debug)]
pub(crate) struct Room {
    messages: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    /// The largest message there may be.
    limit: usize,
}

/// A message with the room it takes until its outcome is told.
#[derive(Debug)]
pub(crate) struct Posted {
    message: v1::CustomMessage,
    addressee: Addressee,
}

#[derive(Debug)]
struct Addressee {
    outcome: oneshot::Sender<CustomOutcome>,
    room: [OwnedSemaphorePermit; 2],
}

impl Addressee {
    fn tell(self, outcome: CustomOutcome) {
        // Whoever hears of the outcome finds the room free.
        drop(self.room);
        // Nobody has to listen.
        let _ = self.outcome.send(outcome);
    }
}

impl Room {
    pub(crate) fn new(config: &ClientConfig) -> Self {
        let bytes = config.max_custom_bytes.min(MAX_BYTES);
        let messages = config.max_custom_messages.min(Semaphore::MAX_PERMITS);
        Self {
            messages: Arc::new(Semaphore::new(messages)),
            bytes: Arc::new(Semaphore::new(bytes)),
            limit: config.max_custom_message().min(bytes),
        }
    }

    /// Takes room for the message, if there is any now.
    pub(crate) fn try_take(
        &self,
        message: v1::CustomMessage,
    ) -> Result<(Posted, CustomDelivery), NotSent> {
        let bytes = self.bytes_of(&message)?;
        let full = |error| match error {
            TryAcquireError::NoPermits => NotSent::Full,
            TryAcquireError::Closed => NotSent::Stopped,
        };
        let room = [
            Arc::clone(&self.messages).try_acquire_owned().map_err(full)?,
            Arc::clone(&self.bytes).try_acquire_many_owned(bytes).map_err(full)?,
        ];
        Ok(posted(message, room))
    }

    /// Waits for room, in turn.
    pub(crate) async fn take(
        &self,
        message: v1::CustomMessage,
    ) -> Result<(Posted, CustomDelivery), NotSent> {
        let bytes = self.bytes_of(&message)?;
        let stopped = |_| NotSent::Stopped;
        let room = [
            Arc::clone(&self.messages).acquire_owned().await.map_err(stopped)?,
            Arc::clone(&self.bytes).acquire_many_owned(bytes).await.map_err(stopped)?,
        ];
        Ok(posted(message, room))
    }

    fn bytes_of(&self, message: &v1::CustomMessage) -> Result<u32, NotSent> {
        let size = message.capability.len() + message.r#type.len() + message.data.len();
        let too_large = NotSent::TooLarge { size, limit: self.limit };
        if size > self.limit {
            return Err(too_large);
        }
        u32::try_from(size).map_err(|_| too_large)
    }

    /// There is no room any more, for ever: whoever waits for some is told.
    pub(crate) fn close(&self) {
        self.messages.close();
        self.bytes.close();
    }
}

/// As many bytes as a message can take room for at once.
const MAX_BYTES: usize = if Semaphore::MAX_PERMITS < u32::MAX as usize {
    Semaphore::MAX_PERMITS
} else {
    u32::MAX as usize
};

fn posted(message: v1::CustomMessage, room: [OwnedSemaphorePermit; 2]) -> (Posted, CustomDelivery) {
    let (outcome, delivery) = oneshot::channel();
    let addressee = Addressee { outcome, room };
    (Posted { message, addressee }, CustomDelivery(delivery))
}

impl Posted {
    /// Nobody will ever send it.
    pub(crate) fn stopped(self) {
        self.addressee.tell(CustomOutcome::Dropped(NotSent::Stopped));
    }
}

/// Who is to be told what became of which message. Part of the driver: when it goes, no message can
/// be sent any more.
#[derive(Debug)]
pub(crate) struct Deliveries {
    mailbox: Arc<Mailbox>,
    addressees: HashMap<CustomMessageId, Addressee>,
}

impl Deliveries {
    pub(crate) fn new(mailbox: Arc<Mailbox>) -> Self {
        Self { mailbox, addressees: HashMap::new() }
    }

    /// Hands what was posted to the core.
    pub(crate) fn hand_on(&mut self, posted: Vec<Posted>, core: &mut ClientCore, now: Instant) {
        for Posted { message, addressee } in posted {
            match core.send_custom_message(message, now) {
                Ok(id) => {
                    self.addressees.insert(id, addressee);
                }
                Err(why) => addressee.tell(CustomOutcome::Dropped(why)),
            }
        }
    }

    /// Tells what became of messages.
    pub(crate) fn tell(&mut self, core: &mut ClientCore) {
        while let Some((id, outcome)) = core.poll_custom_outcome() {
            if let Some(addressee) = self.addressees.remove(&id) {
                addressee.tell(outcome);
            }
        }
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::sync::watch;

    use super::*;
    use crate::Client;
    use crate::core::{ClientState, CustomCapabilities};
    use crate::handle::Status;
    use crate::redaction::Redaction;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as an origin")]
    fn a_message_is_not_taken_without_the_capability_it_was_posted_after() {
        let state = ClientState::new(opamp_proto::InstanceUid::generate());
        let description = v1::AgentDescription {
            identifying_attributes: vec![v1::KeyValue::new("service.name", "agent")],
            ..Default::default()
        };
        let config = ClientConfig::new(state, description);
        let mailbox = Arc::new(Mailbox::new(&config, Redaction::default()));
        let now = Instant::now();
        let mut core = ClientCore::new(config, now).unwrap();
        let (_sender, status) = watch::channel(Status::of(&core));
        let client = Client::new(Arc::clone(&mailbox), status);
        let mut deliveries = Deliveries::new(Arc::clone(&mailbox));

        let taken = mailbox.empty_into(&mut core, now);
        // Another thread, while the driver is just here.
        client.set_custom_capabilities(CustomCapabilities::new(["com.example.a"]).unwrap());
        let capability = "com.example.a".to_owned();
        let message = v1::CustomMessage { capability, ..Default::default() };
        let mut delivery = client.send_custom_message(message).unwrap();
        deliveries.hand_on(taken, &mut core, now);
        deliveries.tell(&mut core);
        assert_eq!((&mut delivery).now_or_never(), None);

        let taken = mailbox.empty_into(&mut core, now);
        deliveries.hand_on(taken, &mut core, now);
        deliveries.tell(&mut core);
        assert_eq!((&mut delivery).now_or_never(), None, "it waits for the server");
        drop(deliveries);
        assert!(delivery.now_or_never().is_some());
    }
}
