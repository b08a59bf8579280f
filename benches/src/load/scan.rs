//! What a simulated Agent has to know of a ServerToAgent, found without decoding it: a load
//! generator that decodes costs more than the Server it measures.

/// The message, or a part of it, is not Protobuf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The parts of a ServerToAgent that matter here.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reply<'a> {
    /// Empty where it is left out.
    pub(crate) uid: &'a [u8],
    /// The encoded ServerErrorResponse.
    pub(crate) error: Option<&'a [u8]>,
    /// The hash of an offered configuration.
    pub(crate) config_hash: Option<&'a [u8]>,
    pub(crate) flags: u64,
    pub(crate) new_uid: Option<&'a [u8]>,
    /// Settings, packages, a command or a custom message are there, which are not looked at.
    pub(crate) other: bool,
}

/// One field, its number and what it holds.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

pub(crate) fn reply(message: &[u8]) -> Result<Reply<'_>, Malformed> {
    let mut reply = Reply::default();
    each_field(message, |field, value| {
        match (field, value) {
            (1, Value::Bytes(uid)) => reply.uid = uid,
            (2, Value::Bytes(error)) => reply.error = Some(error),
            (3, Value::Bytes(offer)) => reply.config_hash = Some(bytes_field(offer, 2)?),
            (6, Value::Number(flags)) => reply.flags = flags,
            (8, Value::Bytes(identification)) => {
                reply.new_uid = Some(bytes_field(identification, 1)?);
            }
            (4 | 5 | 9 | 11, _) => reply.other = true,
            _ => {}
        }
        Ok(())
    })?;
    Ok(reply)
}

/// The last field of bytes with this number; empty where there is none.
fn bytes_field(message: &[u8], wanted: u64) -> Result<&[u8], Malformed> {
    let mut found = &[][..];
    each_field(message, |field, value| {
        if let (true, Value::Bytes(bytes)) = (field == wanted, value) {
            found = bytes;
        }
        Ok(())
    })?;
    Ok(found)
}

fn each_field<'a>(
    mut rest: &'a [u8],
    mut take: impl FnMut(u64, Value<'a>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut rest)?),
            1 => Value::Bytes(split(&mut rest, 8)?),
            2 => {
                let len = usize::try_from(varint(&mut rest)?).map_err(|_| Malformed)?;
                Value::Bytes(split(&mut rest, len)?)
            }
            5 => Value::Bytes(split(&mut rest, 4)?),
            _ => return Err(Malformed),
        };
        take(tag >> 3, value)?;
    }
    Ok(())
}

fn split<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], Malformed> {
    let (taken, left) = rest.split_at_checked(len).ok_or(Malformed)?;
    *rest = left;
    Ok(taken)
}

fn varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, left) = rest.split_first().ok_or(Malformed)?;
        *rest = left;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

#[cfg(test)]
mod tests {
    use opamp_proto::{Message as _, v1};

    use super::*;

    #[test]
    fn it_finds_what_decoding_finds() {
        let config_map = [(String::new(), v1::AgentConfigFile::default())].into();
        let message = v1::ServerToAgent {
            instance_uid: vec![1; 16].into(),
            error_response: Some(v1::ServerErrorResponse {
                error_message: "no".into(),
                ..Default::default()
            }),
            remote_config: Some(v1::AgentRemoteConfig {
                config: Some(v1::AgentConfigMap { config_map }),
                config_hash: vec![7; 300].into(),
            }),
            flags: 300,
            capabilities: 1,
            agent_identification: Some(v1::AgentIdentification {
                new_instance_uid: vec![2; 16].into(),
            }),
            ..Default::default()
        };
        let encoded = message.encode_to_vec();
        let error = message.error_response.as_ref().map(opamp_proto::Message::encode_to_vec);
        let mut expected = Reply {
            uid: &[1; 16],
            error: error.as_deref(),
            config_hash: Some(&[7; 300]),
            flags: 300,
            new_uid: Some(&[2; 16]),
            other: false,
        };
        assert_eq!(reply(&encoded), Ok(expected));

        let command = v1::ServerToAgent { command: Some(Default::default()), ..message.clone() };
        expected.other = true;
        assert_eq!(reply(&command.encode_to_vec()), Ok(expected));
        assert_eq!(reply(&[]), Ok(Reply::default()));
    }

    #[test]
    fn what_is_cut_short_is_malformed() {
        let message = v1::ServerToAgent {
            instance_uid: vec![1; 16].into(),
            flags: 1 << 40,
            ..Default::default()
        };
        let encoded = message.encode_to_vec();
        let whole = [18, encoded.len()];
        for len in (1..encoded.len()).filter(|len| !whole.contains(len)) {
            assert_eq!(reply(&encoded[..len]), Err(Malformed), "{len}");
        }
        assert_eq!(reply(&[0x80; 11]), Err(Malformed));
        assert_eq!(reply(&[0x0b]), Err(Malformed));
    }
}
