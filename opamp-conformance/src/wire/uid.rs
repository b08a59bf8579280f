//! Instance uids: 16 bytes, best a UUID of version 7.

use bytes::Bytes;
use rand::Rng;

use super::hex;

/// Start of 2020 in Unix milliseconds: before OpAMP, so no uid is that old.
const EARLIEST_MS: u64 = 1_577_836_800_000;
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// A UUID of version 7 for this time in Unix milliseconds.
pub fn fresh(rng: &mut (impl Rng + ?Sized), unix_ms: u64) -> Bytes {
    let mut uid = [0; 16];
    rng.fill_bytes(&mut uid);
    uid[..6].copy_from_slice(&unix_ms.to_be_bytes()[2..]);
    uid[6] = uid[6] & 0x0f | 0x70;
    uid[8] = uid[8] & 0x3f | 0x80;
    Bytes::copy_from_slice(&uid)
}

/// The time of the machine's clock, in Unix milliseconds.
#[must_use]
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The 16 bytes that [`text`] writes so; `None` where it is no UUID.
#[must_use]
pub fn parse(text: &str) -> Option<Bytes> {
    let uid = uuid::Uuid::parse_str(text).ok()?;
    Some(Bytes::copy_from_slice(uid.as_bytes()))
}

/// The canonical text of a UUID; plain hexadecimal of what is not 16 bytes.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    let mut text = hex(bytes);
    if bytes.len() == 16 {
        for place in [20, 16, 12, 8] {
            text.insert(place, '-');
        }
    }
    text
}

/// The version of a UUID; `None` for what is not 16 bytes or not of the variant that has versions.
#[must_use]
pub fn version(bytes: &[u8]) -> Option<u8> {
    let uid: &[u8; 16] = bytes.try_into().ok()?;
    (uid[8] & 0xc0 == 0x80).then_some(uid[6] >> 4)
}

/// Whether this can be a UUID of version 7 made by now: its time is in 2020 or later, and at most a
/// day ahead of the tester's clock.
///
/// # Errors
///
/// Says what is wrong with it.
pub fn is_v7_plausible(bytes: &[u8], now_ms: u64) -> Result<(), String> {
    let uid: &[u8; 16] =
        bytes.try_into().map_err(|_| format!("{} bytes instead of 16", bytes.len()))?;
    match version(uid) {
        Some(7) => {}
        Some(version) => return Err(format!("{} has version {version}", text(uid))),
        None => return Err(format!("{} is not of the variant of RFC 9562", text(uid))),
    }
    let unix_ms = uid[..6].iter().fold(0, |ms, byte| ms << 8 | u64::from(*byte));
    if unix_ms < EARLIEST_MS {
        return Err(format!("{} has a time before 2020", text(uid)));
    }
    if unix_ms > now_ms.saturating_add(DAY_MS) {
        return Err(format!("{} has a time more than a day ahead", text(uid)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    /// The example of a version 7 UUID in RFC 9562.
    const EXAMPLE: [u8; 16] = [
        0x01, 0x7f, 0x22, 0xe2, 0x79, 0xb0, 0x7c, 0xc3, 0x98, 0xc4, 0xdc, 0x0c, 0x0c, 0x07, 0x39,
        0x8f,
    ];
    const EXAMPLE_MS: u64 = 1_645_557_742_000;

    #[test]
    fn a_fresh_uid_is_a_v7_of_its_time() {
        let mut rng = rand::rngs::SmallRng::seed_from_u64(1);
        let uid = fresh(&mut rng, EXAMPLE_MS);
        assert_eq!(uid[..6], EXAMPLE[..6]);
        for _ in 0..100 {
            assert_eq!(is_v7_plausible(&fresh(&mut rng, EXAMPLE_MS), EXAMPLE_MS), Ok(()));
        }
        assert_ne!(fresh(&mut rng, EXAMPLE_MS), fresh(&mut rng, EXAMPLE_MS));
    }

    #[test]
    fn text_is_canonical() {
        assert_eq!(text(&EXAMPLE), "017f22e2-79b0-7cc3-98c4-dc0c0c07398f");
        assert_eq!(text(&[0xab, 0x01]), "ab01");
        assert_eq!(text(&[]), "");
    }

    #[test]
    fn what_is_no_v7_of_a_plausible_time_is_told() {
        let judge = |change: fn(&mut [u8; 16]), now| {
            let mut uid = EXAMPLE;
            change(&mut uid);
            is_v7_plausible(&uid, now).map_err(|error| error[37..].to_owned())
        };
        let wrong = |text: &str| Err(text.to_owned());
        assert_eq!(judge(|_| {}, EXAMPLE_MS), Ok(()));
        assert_eq!(judge(|_| {}, EXAMPLE_MS - DAY_MS), Ok(()));
        let ahead = "has a time more than a day ahead";
        assert_eq!(judge(|_| {}, EXAMPLE_MS - DAY_MS - 1), wrong(ahead));
        assert_eq!(judge(|uid| uid[6] = 0x4c, EXAMPLE_MS), wrong("has version 4"));
        let variant = "is not of the variant of RFC 9562";
        assert_eq!(judge(|uid| uid[8] = 0xc8, EXAMPLE_MS), wrong(variant));
        assert_eq!(judge(|uid| uid[..2].fill(0), EXAMPLE_MS), wrong("has a time before 2020"));
        assert_eq!(is_v7_plausible(&EXAMPLE[..15], 0), wrong("15 bytes instead of 16"));
        assert_eq!(version(&EXAMPLE), Some(7));
        assert_eq!(version(&EXAMPLE[1..]), None);
    }
}
