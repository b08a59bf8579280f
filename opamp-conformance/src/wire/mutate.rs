//! Messages changed at random, with their structure in mind: a field dropped, repeated, moved, of
//! the wrong type or at the edge of its range, a text that is none, a nesting without need. What
//! comes out is mostly still a message, so it gets past a first check and reaches the code behind
//! it.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _};

use super::record::{self, Value};
use super::schema::{self, Field, Kind};

/// How deep a message is taken apart.
const MAX_DEPTH: usize = 24;
/// How deep nesting without need goes.
const MAX_NESTING: usize = 120;
/// The longest content made up.
const MAX_MADE_UP: usize = 64 << 10;

/// A message taken apart.
struct Tree {
    records: Vec<(u32, Node)>,
}

enum Node {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(Vec<u8>),
    Tree(Tree),
    /// Written as it is, tag included.
    Raw(Vec<u8>),
}

/// Changes a message of this type in one to four places; says in words what it did.
#[must_use]
pub fn mutate(root: &str, message: &[u8], rng: &mut StdRng) -> (Bytes, String) {
    let mut what = Vec::new();
    let mut tree = take_apart(schema::message(root), message, 0);
    for _ in 0..rng.random_range(1..=4) {
        let mut places = 0;
        tree.count(&mut places);
        let mut place = rng.random_range(0..places.max(1));
        what.push(tree.change(&mut place, rng).unwrap_or("nothing"));
    }
    let mut bytes = Vec::new();
    tree.write(&mut bytes);
    if rng.random_ratio(1, 12) && !bytes.is_empty() {
        what.push("cut off");
        bytes.truncate(rng.random_range(0..bytes.len()));
    }
    if rng.random_ratio(1, 20) && !bytes.is_empty() {
        what.push("a byte changed");
        let at = rng.random_range(0..bytes.len());
        bytes[at] ^= 1 << rng.random_range(0..8);
    }
    (bytes.into(), what.join(", "))
}

fn take_apart(fields: Option<&'static [Field]>, mut bytes: &[u8], depth: usize) -> Tree {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let Ok((number, value)) = record::take(&mut bytes) else {
            records.push((0, Node::Raw(bytes.to_vec())));
            break;
        };
        let field = fields.and_then(|fields| fields.iter().find(|field| field.number == number));
        records.push((number, node(field, value, depth)));
    }
    Tree { records }
}

fn node(field: Option<&'static Field>, value: Value<'_>, depth: usize) -> Node {
    match value {
        Value::Varint(value) => Node::Varint(value),
        Value::Fixed64(value) => Node::Fixed64(value),
        Value::Fixed32(value) => Node::Fixed32(value),
        Value::Bytes(bytes) => match field.map(|field| &field.kind) {
            Some(Kind::Message(name)) if depth < MAX_DEPTH => {
                Node::Tree(take_apart(schema::message(name), bytes, depth + 1))
            }
            Some(Kind::Map(entry)) if depth < MAX_DEPTH => {
                Node::Tree(take_apart(Some(&entry[..]), bytes, depth + 1))
            }
            _ => Node::Bytes(bytes.to_vec()),
        },
    }
}

impl Tree {
    /// Counts the places where a change can be made: every record, however deep.
    fn count(&self, places: &mut usize) {
        for (_, node) in &self.records {
            *places += 1;
            if let Node::Tree(tree) = node {
                tree.count(places);
            }
        }
    }

    /// Makes a change at this place, counted as [`count`](Self::count) does.
    fn change(&mut self, place: &mut usize, rng: &mut StdRng) -> Option<&'static str> {
        if self.records.is_empty() && *place == 0 {
            self.records.push((rng.random_range(1..2_000), made_up(rng)));
            return Some("a field added");
        }
        for index in 0..self.records.len() {
            if *place == 0 {
                return Some(self.change_record(index, rng));
            }
            *place -= 1;
            if let Node::Tree(tree) = &mut self.records[index].1
                && let Some(what) = tree.change(place, rng)
            {
                return Some(what);
            }
        }
        None
    }

    fn change_record(&mut self, index: usize, rng: &mut StdRng) -> &'static str {
        match rng.random_range(0..12) {
            0 => {
                self.records.remove(index);
                "a field dropped"
            }
            1 => {
                let times = rng.random_range(1..40);
                let (number, node) = &self.records[index];
                let copy = (*number, node.copy());
                for _ in 0..times {
                    self.records.push((copy.0, copy.1.copy()));
                }
                "a field repeated"
            }
            2 => {
                self.records[index].0 = rng.random_range(1..40);
                "a field under another number"
            }
            3 => {
                self.records[index].1 = made_up(rng);
                "a field of another type"
            }
            4 => {
                self.records.push((rng.random_range(100..1 << 20), made_up(rng)));
                "an unknown field"
            }
            5 => {
                let number = self.records[index].0;
                let mut nested = Vec::new();
                for _ in 0..rng.random_range(2..MAX_NESTING) {
                    let mut outer = Vec::new();
                    put_bytes(number, &nested, &mut outer);
                    nested = outer;
                }
                self.records[index].1 = Node::Bytes(nested);
                "a deep nesting"
            }
            6 => {
                let mut raw = Vec::new();
                put_varint(u64::from(self.records[index].0) << 3 | 2, &mut raw);
                put_varint(edge(rng), &mut raw);
                self.records[index].1 = Node::Raw(raw);
                "a length that is wrong"
            }
            _ => self.records[index].1.change(rng),
        }
    }

    fn write(&self, to: &mut Vec<u8>) {
        for (number, node) in &self.records {
            let tag = u64::from(*number) << 3;
            match node {
                Node::Varint(value) => {
                    put_varint(tag, to);
                    put_varint(*value, to);
                }
                Node::Fixed64(value) => {
                    put_varint(tag | 1, to);
                    to.extend_from_slice(&value.to_le_bytes());
                }
                Node::Fixed32(value) => {
                    put_varint(tag | 5, to);
                    to.extend_from_slice(&value.to_le_bytes());
                }
                Node::Bytes(bytes) => put_bytes(*number, bytes, to),
                Node::Tree(tree) => {
                    let mut bytes = Vec::new();
                    tree.write(&mut bytes);
                    put_bytes(*number, &bytes, to);
                }
                Node::Raw(bytes) => to.extend_from_slice(bytes),
            }
        }
    }
}

impl Node {
    fn copy(&self) -> Self {
        match self {
            Self::Varint(value) => Self::Varint(*value),
            Self::Fixed64(value) => Self::Fixed64(*value),
            Self::Fixed32(value) => Self::Fixed32(*value),
            Self::Bytes(bytes) => Self::Bytes(bytes.clone()),
            Self::Raw(bytes) => Self::Raw(bytes.clone()),
            Self::Tree(tree) => Self::Tree(Tree {
                records: tree.records.iter().map(|(number, node)| (*number, node.copy())).collect(),
            }),
        }
    }

    fn change(&mut self, rng: &mut StdRng) -> &'static str {
        match self {
            Self::Varint(value) => {
                *value = edge(rng);
                "a number at an edge"
            }
            Self::Fixed64(value) => {
                *value = edge(rng);
                "a fixed number at an edge"
            }
            Self::Fixed32(value) => {
                *value = rng.random();
                "a fixed number changed"
            }
            Self::Bytes(bytes) => change_bytes(bytes, rng),
            Self::Tree(tree) => {
                tree.records.clear();
                "a message emptied"
            }
            Self::Raw(bytes) => change_bytes(bytes, rng),
        }
    }
}

fn change_bytes(bytes: &mut Vec<u8>, rng: &mut StdRng) -> &'static str {
    match rng.random_range(0..5) {
        0 => {
            bytes.clear();
            "content emptied"
        }
        1 => {
            bytes.extend_from_slice(&[0xc3, 0x28, 0xff, 0x00]);
            "content that is no text"
        }
        2 => {
            let length = rng.random_range(0..MAX_MADE_UP);
            *bytes = vec![b'x'; length];
            "long content"
        }
        3 => {
            let length = rng.random_range(0..bytes.len() + 1);
            bytes.truncate(length);
            "content cut"
        }
        _ => {
            let mut content = vec![0; rng.random_range(1..64)];
            rng.fill_bytes(&mut content);
            *bytes = content;
            "random content"
        }
    }
}

fn made_up(rng: &mut StdRng) -> Node {
    match rng.random_range(0..4) {
        0 => Node::Varint(edge(rng)),
        1 => Node::Fixed64(rng.random()),
        2 => Node::Fixed32(rng.random()),
        _ => {
            let mut content = vec![0; rng.random_range(0..64)];
            rng.fill_bytes(&mut content);
            Node::Bytes(content)
        }
    }
}

fn edge(rng: &mut StdRng) -> u64 {
    const EDGES: [u64; 12] = [
        0,
        1,
        2,
        127,
        128,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        1 << 62,
        i64::MAX as u64,
        i64::MIN as u64,
        u64::MAX,
    ];
    if rng.random_ratio(3, 4) { EDGES[rng.random_range(0..EDGES.len())] } else { rng.random() }
}

fn put_varint(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn put_bytes(number: u32, bytes: &[u8], to: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | 2, to);
    put_varint(bytes.len() as u64, to);
    to.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    /// id, number, a description and a health map entry, by hand.
    const MESSAGE: &[u8] =
        b"\x0a\x10aaaaaaaaaaaaaaaa\x10\x05\x1a\x07\x0a\x05\x0a\x03key\x2a\x02\x08\x01";

    #[test]
    fn taking_apart_and_writing_changes_nothing() {
        let mut written = Vec::new();
        take_apart(schema::message("AgentToServer"), MESSAGE, 0).write(&mut written);
        assert_eq!(written, MESSAGE);
    }

    #[test]
    fn the_same_seed_makes_the_same_change_and_others_make_others() {
        let made = |seed| mutate("AgentToServer", MESSAGE, &mut StdRng::seed_from_u64(seed));
        assert_eq!(made(7), made(7));
        let all: std::collections::BTreeSet<_> = (0..500).map(|seed| made(seed).0).collect();
        assert!(all.len() > 400, "{} different messages", all.len());
    }

    #[test]
    fn any_bytes_can_be_changed() {
        let mut rng = StdRng::seed_from_u64(1);
        for length in 0..200 {
            let mut bytes = vec![0; length];
            rng.fill_bytes(&mut bytes);
            let _ = mutate("ServerToAgent", &bytes, &mut rng);
        }
        assert!(mutate("ServerToAgent", b"", &mut rng).0.len() < MAX_MADE_UP);
    }
}
