//! Offers of connection settings in any order, against a model that fits on a page: what is in
//! force, and the one status.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use opamp_proto::v1;
use opamp_proto::v1::ConnectionSettingsStatuses::{self, Applied, Applying, Failed};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::connection_settings::{OWN, telemetry};
use super::model::check;
use super::pair::{Pair, TRANSPORTS};
use super::values::{acknowledgement, seconds};
use crate::core::{
    ClientState, Connection, ConnectionSettingsOffer, Connections, Event, Transport,
};

/// Destinations by connection: a name that is no kind of telemetry is another connection.
type Destinations = BTreeMap<&'static str, String>;

const CONNECTIONS: [&str; 4] = ["metrics", "logs", "one", "two"];

#[derive(Debug, Clone)]
enum Op {
    /// An offer: which hash, 0 for none, and for each connection a destination or nothing.
    Offer(u8, [Option<u8>; 4]),
    /// One of the offers the application has is answered, old ones included.
    Resolve(prop::sample::Index, Outcome),
    /// What is under way is exchanged.
    Exchange,
    Wait(Duration),
    Crash,
}

#[derive(Debug, Clone, Copy)]
enum Outcome {
    Applied,
    Failed,
    /// The metrics are taken, the rest is not.
    Metrics,
}

fn ops() -> impl Strategy<Value = Op> + Clone {
    let part = || option::of(0..3_u8);
    let outcome = prop_oneof![
        3 => Just(Outcome::Applied),
        2 => Just(Outcome::Failed),
        1 => Just(Outcome::Metrics),
    ];
    prop_oneof![
        6 => (0..5_u8, part(), part(), part(), part())
            .prop_map(|(hash, a, b, c, d)| Op::Offer(hash, [a, b, c, d])),
        6 => (any::<prop::sample::Index>(), outcome).prop_map(|(which, it)| Op::Resolve(which, it)),
        5 => Just(Op::Exchange),
        2 => (0..200_u64).prop_map(|wait| Op::Wait(seconds(wait))),
        1 => Just(Op::Crash),
    ]
}

/// What should be true.
#[derive(Debug, Default)]
struct Model {
    in_force: Destinations,
    /// What is to be, and when that fails.
    pending: Option<(Destinations, Duration)>,
    /// Starts of the agent since the offer.
    starts: u32,
    last: Option<v1::ConnectionSettingsOffers>,
    /// What the hash alone tells, after a restart.
    last_hash: Bytes,
    status: (Bytes, ConnectionSettingsStatuses),
    now: Duration,
}

const DEADLINE: Duration = seconds(300);

impl Model {
    fn offer(&mut self, offer: &v1::ConnectionSettingsOffers, named: &Destinations) {
        let handled = match offer.hash.is_empty() {
            true => self.last.as_ref() == Some(offer),
            false => self.last_hash == offer.hash,
        };
        if handled {
            return;
        }
        self.last = Some(offer.clone());
        self.last_hash.clone_from(&offer.hash);
        let before = self.pending.take().map_or_else(|| self.in_force.clone(), |it| it.0);
        let mut wanted = before;
        wanted.extend(named.clone());
        self.starts = 0;
        let status = if wanted == self.in_force {
            Applied
        } else {
            self.pending = Some((wanted, self.now + DEADLINE));
            Applying
        };
        self.status = (offer.hash.clone(), status);
    }

    fn end(&mut self, status: ConnectionSettingsStatuses) {
        self.pending = None;
        self.status.1 = status;
    }

    fn resolve(&mut self, outcome: Outcome) {
        let Some((wanted, _)) = self.pending.clone() else { return };
        match outcome {
            Outcome::Applied => {
                self.in_force = wanted;
                self.end(Applied);
            }
            Outcome::Failed => self.end(Failed),
            Outcome::Metrics => {
                self.in_force.extend(wanted.get_key_value("metrics").map(|(k, v)| (*k, v.clone())));
                self.end(Failed);
            }
        }
    }

    fn wait(&mut self, duration: Duration) {
        self.now += duration;
        if self.pending.as_ref().is_some_and(|(_, deadline)| *deadline <= self.now) {
            self.end(Failed);
        }
    }

    fn crash(&mut self) {
        self.last = None;
        self.last_hash.clone_from(&self.status.0);
        if let Some((_, deadline)) = &mut self.pending {
            *deadline = self.now + DEADLINE;
            self.starts += 1;
            if self.starts > 3 {
                self.end(Failed);
            }
        }
    }
}

fn destinations(connections: &Connections) -> Destinations {
    let own = [("metrics", &connections.own_metrics), ("logs", &connections.own_logs)];
    let own = own.into_iter().filter_map(|(name, settings)| {
        settings.as_ref().map(|settings| (name, settings.destination_endpoint.clone()))
    });
    let others = CONNECTIONS.into_iter().filter_map(|name| {
        connections.others.get(name).map(|it| (name, it.destination_endpoint.clone()))
    });
    own.chain(others).collect()
}

struct World {
    pair: Pair,
    transport: Transport,
    model: Model,
    tokens: Vec<ConnectionSettingsOffer>,
    told: Option<v1::ConnectionSettingsStatus>,
}

impl World {
    fn start(transport: Transport, state: Option<ClientState>) -> Pair {
        Pair::new(transport, |config| {
            config.accepted_settings = OWN;
            config.heartbeat_interval = None;
            config.answer_timeout = None;
            if let Some(state) = state {
                config.state = state;
            }
        })
    }

    fn new(transport: Transport) -> Self {
        let mut pair = Self::start(transport, None);
        pair.connect();
        let (model, tokens) = (Model::default(), Vec::new());
        let mut world = Self { pair, transport, model, tokens, told: None };
        world.exchange();
        world
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Offer(hash, parts) => self.offer(hash, parts),
            Op::Resolve(which, outcome) => self.resolve(which, outcome),
            Op::Exchange => self.exchange(),
            Op::Wait(duration) => {
                self.exchange();
                self.pair.advance(duration);
                self.model.wait(duration);
                self.exchange();
            }
            Op::Crash => {
                let saved = self.pair.core.state().to_bytes();
                let state = ClientState::from_bytes(&saved).expect("as it was saved");
                self.pair = Self::start(self.transport, Some(state));
                self.pair.connect();
                self.tokens.clear();
                self.told = None;
                self.model.crash();
                self.exchange();
            }
        }
        for event in self.pair.events() {
            if let Event::ConnectionSettings(offer) = event {
                self.tokens.push(offer);
            }
        }
        self.check();
    }

    fn offer(&mut self, hash: u8, parts: [Option<u8>; 4]) {
        let named: Destinations = CONNECTIONS
            .into_iter()
            .zip(parts)
            .filter_map(|(name, part)| part.map(|part| (name, format!("https://{name}/{part}"))))
            .collect();
        let own = |name: &str| named.get(name).map(|endpoint| telemetry(endpoint));
        let others = named.iter().filter(|(name, _)| !matches!(**name, "metrics" | "logs"));
        let others = others.map(|(name, endpoint)| {
            let destination_endpoint = endpoint.clone();
            let settings =
                v1::OtherConnectionSettings { destination_endpoint, ..Default::default() };
            ((*name).to_owned(), settings)
        });
        let offer = v1::ConnectionSettingsOffers {
            hash: if hash == 0 { Bytes::new() } else { vec![hash].into() },
            own_metrics: own("metrics"),
            own_logs: own("logs"),
            other_connections: others.collect(),
            ..Default::default()
        };
        self.exchange();
        if self.transport == Transport::Http {
            // A poll comes to answer, or the status of what failed meanwhile.
            while !self.poll() {
                self.pair.advance(seconds(1));
                self.model.wait(seconds(1));
            }
        }
        self.model.offer(&offer, &named);
        let connection_settings = Some(offer);
        self.pair.receive(v1::ServerToAgent { connection_settings, ..acknowledgement() });
    }

    fn resolve(&mut self, which: prop::sample::Index, outcome: Outcome) {
        if self.tokens.is_empty() {
            return;
        }
        let at = which.index(self.tokens.len());
        let token = self.tokens[at].clone();
        let newest = at + 1 == self.tokens.len();
        let pending = newest && self.model.pending.is_some();
        let resolution = match outcome {
            Outcome::Applied => token.applied(),
            Outcome::Failed => token.failed("no"),
            Outcome::Metrics => token.applied_only([Connection::OwnMetrics], "metrics only"),
        };
        let resolved = self.pair.core.resolve_connection_settings(resolution);
        assert_eq!(resolved.is_ok(), pending);
        if pending {
            self.model.resolve(outcome);
        }
    }

    /// Everything that is due is told and answered.
    fn exchange(&mut self) {
        for _ in 0..20 {
            if !self.poll() {
                return;
            }
            self.pair.acknowledge();
        }
        panic!("the client has always something to say");
    }

    /// The next message, if there is one, goes out.
    fn poll(&mut self) -> bool {
        let Some(message) = self.pair.poll() else { return false };
        if let Some(status) = message.connection_settings_status {
            // Without a hash the outcome of another offer looks the same.
            let again = self.told.as_ref() == Some(&status);
            assert!(!again || status.last_connection_settings_hash.is_empty(), "told twice");
            self.told = Some(status);
        }
        true
    }

    fn check(&mut self) {
        let core = &self.pair.core;
        assert_eq!(destinations(core.connections()), self.model.in_force);
        let status = core.status().connection_settings_status.clone().expect("a status");
        let shown = (status.last_connection_settings_hash.clone(), status.status());
        assert_eq!(shown, self.model.status);
        assert_eq!(!status.error_message.is_empty(), status.status() == Failed, "CONN-35");
        let kept = core.state().connection_settings_status.clone();
        assert_eq!(kept.unwrap_or_default(), status);
        assert_eq!(
            core.state().pending_connection_settings.is_some(),
            self.model.pending.is_some()
        );
    }
}

#[test]
fn the_status_and_the_settings_in_force_are_those_of_the_model() {
    let _judged = opamp_spec::judges(&[
        "CONN-24",
        "CONN-26",
        "CONN-27",
        "CONN-31",
        "CONN-34",
        "CONN-35",
        "OTHER-01",
        "TEL-06",
        "TEL-07",
        "STATUS-14",
    ]);
    check((any::<bool>(), vec(ops(), 0..60)), |(websocket, ops)| {
        let mut world = World::new(TRANSPORTS[usize::from(!websocket)]);
        for op in ops {
            world.apply(op);
        }
        // Whatever the application forgot to answer, no offer stays for ever.
        world.apply(Op::Wait(DEADLINE));
        let status = world.pair.core.status().connection_settings_status.clone();
        assert!(status.is_none_or(|status| status.status() != Applying));
    });
}
