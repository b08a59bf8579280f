//! Sizes: no message is above the limit, and nothing is lost that fits.

use opamp_proto::{Message, MessageLimits, v1};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::pair::{Http, Pair, WebSocket};
use super::super::values::{description, effective, health, parts};
use super::properties::check;
use crate::core::{ClientCore, Event, Parts};

#[derive(Debug, Clone, Copy)]
enum Step {
    Describe(usize),
    Health(usize),
    Effective(usize),
    /// As many messages as are due go out and are answered.
    Settle,
    /// A message goes out, and the connection breaks before it is answered.
    Lose,
}

fn step() -> impl Strategy<Value = Step> {
    let size = 0..1500_usize;
    prop_oneof![
        size.clone().prop_map(Step::Describe),
        size.clone().prop_map(Step::Health),
        size.prop_map(Step::Effective),
        Just(Step::Settle),
        Just(Step::Lose),
    ]
}

struct Told {
    pair: Pair,
    view: v1::AgentToServer,
    oversized: Vec<Event>,
}

impl Told {
    fn apply(&mut self, step: Step) {
        let core: &mut ClientCore = &mut self.pair.core;
        match step {
            Step::Describe(size) => core.set_description(description(&"x".repeat(size))),
            Step::Health(size) => core.set_health(Some(health(&"x".repeat(size)))),
            Step::Effective(size) => core.set_effective_config(Some(effective(vec![b'x'; size]))),
            Step::Settle => self.settle(),
            Step::Lose => {
                if self.pair.poll().is_some() {
                    self.pair.lose();
                    self.pair.wait_for_retry();
                    self.pair.connect();
                }
            }
        }
    }

    /// [`Pair`] checks the size of each message.
    fn settle(&mut self) {
        while let Some(message) = self.pair.poll() {
            parts(&message).copy(&message, &mut self.view);
            self.pair.acknowledge();
        }
        self.oversized.extend(
            self.pair
                .events()
                .into_iter()
                .filter(|event| matches!(event, Event::TooLargeToSend { .. })),
        );
    }

    /// Bytes of a message with nothing but this part.
    fn len_alone(&self, part: Parts) -> usize {
        let status = self.pair.core.status();
        let mut message = v1::AgentToServer {
            instance_uid: status.instance_uid.clone(),
            // Any number here takes one byte.
            sequence_num: 1,
            capabilities: status.capabilities,
            ..Default::default()
        };
        part.copy(status, &mut message);
        message.encoded_len()
    }
}

#[test]
fn what_fits_is_told_and_what_does_not_is_complained_about() {
    let _judged =
        opamp_spec::judges(&["SIZE-16", "SIZE-17", "SIZE-34", "SIZE-35", "STATUS-04", "DELTA-04"]);
    let steps = vec(step(), 0..25);
    check((any::<bool>(), 256..1600_usize, steps), |(websocket, limit, steps)| {
        let transport = if websocket { WebSocket } else { Http };
        let mut pair = Pair::new(transport, |config| {
            config.limits = MessageLimits::new().with_max_send(limit);
        });
        pair.connect();
        let mut told = Told { pair, view: v1::AgentToServer::default(), oversized: Vec::new() };
        for step in steps {
            told.apply(step);
        }
        told.settle();
        let framing = usize::from(websocket);
        let status = told.pair.core.status().clone();
        for part in [Parts::DESCRIPTION, Parts::HEALTH, Parts::EFFECTIVE_CONFIG] {
            let (mut now, mut known) = <(v1::AgentToServer, v1::AgentToServer)>::default();
            part.copy(&status, &mut now);
            part.copy(&told.view, &mut known);
            if framing + told.len_alone(part) <= limit {
                assert_eq!(now, known);
            } else {
                assert_ne!(now, known);
                let size = part.encoded_len(&status).unwrap_or(0);
                let complaint = Event::TooLargeToSend { part, size, limit };
                assert!(told.oversized.contains(&complaint));
            }
        }
        assert!(told.pair.core.sequence_num() < 128, "the numbers take one byte");
    });
}
