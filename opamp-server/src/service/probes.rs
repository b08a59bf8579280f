//! Signs of life that the registry wants of a connection: pings with a number as payload.
//!
//! Keep-alive pings have no payload, so their pongs prove nothing here. A peer may answer several
//! pings with one pong for the last of them; so each pong stands for all pings before it, too.

use crate::fleet::AgentKey;

/// The Agents of a connection whose duplicates wait for a sign: at most one entry for each.
#[derive(Debug, Default)]
pub(super) struct Probes {
    /// The number of the last ping.
    pings: u64,
    asked: Vec<Asked>,
}

#[derive(Debug)]
struct Asked {
    key: AgentKey,
    probe: u64,
    /// The ping that was sent for it, if one was.
    ping: Option<u64>,
}

impl Probes {
    /// The registry wants a sign. A later one for the same Agent replaces an earlier one.
    pub(super) fn ask(&mut self, key: AgentKey, probe: u64) {
        self.asked.retain(|asked| asked.key != key);
        self.asked.push(Asked { key, probe, ping: None });
    }

    /// The payload of the ping to be sent, if one is.
    pub(super) fn send(&mut self) -> Option<[u8; 8]> {
        let ping = self.pings + 1;
        for asked in self.asked.iter_mut().filter(|asked| asked.ping.is_none()) {
            asked.ping = Some(ping);
            self.pings = ping;
        }
        (self.pings == ping).then(|| ping.to_be_bytes())
    }

    /// What a pong is the answer to.
    pub(super) fn answered(&mut self, payload: &[u8]) -> Vec<(AgentKey, u64)> {
        let Ok(payload) = payload.try_into() else { return Vec::new() };
        let number = u64::from_be_bytes(payload);
        // Nobody can answer what was not asked.
        if number > self.pings {
            return Vec::new();
        }
        let is_answered = |asked: &Asked| asked.ping.is_some_and(|ping| ping <= number);
        let answered = self.asked.iter().filter(|asked| is_answered(asked));
        let answered = answered.map(|asked| (asked.key, asked.probe)).collect();
        self.asked.retain(|asked| !is_answered(asked));
        if self.asked.is_empty() {
            self.asked = Vec::new();
        }
        answered
    }
}

#[cfg(test)]
mod tests {
    use opamp_proto::InstanceUid;

    use super::*;

    #[test]
    fn a_pong_answers_what_was_asked_before_its_ping_and_nothing_else() {
        let key = |number: u8| AgentKey::from(InstanceUid::from_bytes([number; 16]));
        let mut probes = Probes::default();
        assert_eq!(probes.send(), None);
        probes.ask(key(1), 10);
        let first = probes.send().expect("a ping");
        assert_eq!(probes.send(), None);
        probes.ask(key(2), 20);
        assert_eq!(probes.answered(&[]), [], "a keep-alive");
        assert_eq!(probes.answered(&u64::MAX.to_be_bytes()), [], "a peer that guesses");
        let second = probes.send().expect("another ping");
        assert_eq!(probes.answered(&first), [(key(1), 10)]);
        assert_eq!(probes.answered(&first), []);
        probes.ask(key(2), 21);
        assert_eq!(probes.answered(&second), [], "it is asked anew");
        let third = probes.send().expect("a ping");
        probes.ask(key(3), 30);
        let fourth = probes.send().expect("a ping");
        assert_eq!(probes.answered(&fourth), [(key(2), 21), (key(3), 30)]);
        assert_eq!(probes.answered(&third), []);
        assert_eq!(probes.asked.capacity(), 0);
    }
}
