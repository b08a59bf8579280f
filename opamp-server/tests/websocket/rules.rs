//! RFC 6455, rule by rule; and each rule again with the bytes coming one by one.

use opamp_server::websocket::{CloseCode, CloseFrame, Decoder, Event, Violation};

use crate::frames::{
    BINARY, CLOSE, CONTINUATION, FIN, Frame, PING, PONG, Seen, TEXT, decode, encoded, frame,
};

const LIMIT: usize = 100_000;

fn check_with(
    decoder: fn() -> Decoder,
    frames: &[Frame],
    expected: (Vec<Seen>, Option<Violation>),
) {
    let bytes = encoded(frames);
    for pieces in [&[][..], &[1], &[2, 7], &[4096]] {
        let found = decode(&mut decoder(), &bytes, pieces);
        assert_eq!(found, expected, "in pieces of {pieces:?}");
    }
}

fn check(frames: &[Frame], events: &[Seen]) {
    check_with(|| Decoder::new(LIMIT), frames, (events.to_vec(), None));
}

fn check_fails(frames: &[Frame], events: &[Seen], violation: Violation, code: u16) {
    check_with(|| Decoder::new(LIMIT), frames, (events.to_vec(), Some(violation)));
    assert_eq!(violation.close_code().get(), code);
}

fn binary(payload: impl Into<Vec<u8>>) -> Seen {
    Seen::Binary(payload.into())
}

#[test]
fn messages_of_every_form_of_length() {
    for len in [0, 1, 125, 126, 127, 0xffff, 0x10000, LIMIT] {
        let payload: Vec<u8> = (0..len).map(|index| index as u8).collect();
        let frames = [frame(FIN | BINARY, payload.clone()), frame(FIN | BINARY, *b"next")];
        check(&frames, &[binary(payload), binary(*b"next")]);
    }
}

#[test]
fn fragments_with_control_frames_in_between() {
    let _judged = opamp_spec::judges(&["WS-09"]);
    let frames = [
        frame(BINARY, *b"one "),
        frame(FIN | PING, *b"ping"),
        frame(CONTINUATION, *b""),
        frame(CONTINUATION, *b"two "),
        frame(FIN | PONG, *b""),
        frame(FIN | PING, *b""),
        frame(FIN | CONTINUATION, *b"three"),
        frame(BINARY, *b""),
        frame(FIN | CONTINUATION, *b""),
    ];
    let events = [
        Seen::Ping(b"ping".into()),
        Seen::Pong(Vec::new()),
        Seen::Ping(Vec::new()),
        binary(*b"one two three"),
        binary(*b""),
    ];
    check(&frames, &events);
}

#[test]
fn frames_are_counted_whether_or_not_they_make_a_message() {
    let frames = [
        frame(FIN | BINARY, b"whole"),
        frame(BINARY, b"a fragment"),
        frame(FIN | PING, b""),
        frame(CONTINUATION, b""),
        frame(CONTINUATION, b""),
    ];
    let bytes = encoded(&frames);
    for at_once in [1, 3, bytes.len()] {
        let mut decoder = Decoder::new(100);
        for piece in bytes.clone().chunks_mut(at_once) {
            let mut input = piece;
            while decoder.decode(&mut input).expect("no violation").is_some() {}
        }
        assert_eq!((decoder.take_frames(), decoder.take_frames()), (5, 0), "{at_once}");
    }
}

#[test]
fn a_message_that_is_there_as_a_whole_is_borrowed() {
    let mut bytes = encoded(&[frame(FIN | BINARY, *b"whole"), frame(FIN | BINARY, *b"too")]);
    let at = bytes.as_ptr_range();
    let mut decoder = Decoder::new(LIMIT);
    let mut input = &mut bytes[..];
    for _ in 0..2 {
        let Ok(Some(Event::Binary(std::borrow::Cow::Borrowed(payload)))) =
            decoder.decode(&mut input)
        else {
            panic!("it is borrowed");
        };
        assert!(at.contains(&payload.as_ptr()));
        assert_eq!(decoder.held(), 0);
    }
}

#[test]
fn nothing_is_held_between_messages_however_large_they_were() {
    let mut decoder = Decoder::new(1 << 20);
    assert!(size_of::<Decoder>() <= 32);
    for fragments in [1, 10] {
        let mut frames = vec![frame(CONTINUATION, vec![7; (1 << 20) / fragments]); fragments];
        frames[0].first |= BINARY;
        frames[fragments - 1].first |= FIN;
        let (events, violation) = decode(&mut decoder, &encoded(&frames), &[4096]);
        assert_eq!((events.len(), violation, decoder.held()), (1, None, 0));
    }
}

#[test]
fn reserved_bits_and_opcodes_are_refused() {
    for bit in [0x10, 0x20, 0x40] {
        check_fails(&[frame(FIN | BINARY | bit, *b"")], &[], Violation::ReservedBits, 1002);
    }
    for opcode in [3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        let violation = Violation::ReservedOpcode(opcode);
        check_fails(&[frame(FIN | opcode, *b"")], &[], violation, 1002);
    }
}

#[test]
fn a_frame_without_a_mask_is_refused() {
    let unmasked = Frame { mask: None, ..frame(FIN | BINARY, *b"abc") };
    let good = frame(FIN | BINARY, *b"good");
    check_fails(&[good, unmasked], &[binary(*b"good")], Violation::Unmasked, 1002);
}

#[test]
fn a_control_frame_is_short_and_whole() {
    check(&[frame(FIN | PING, [1; 125])], &[Seen::Ping(vec![1; 125])]);
    for opcode in [PING, PONG, CLOSE] {
        let long = frame(FIN | opcode, [b'x'; 126]);
        check_fails(&[long], &[], Violation::LongControl, 1002);
        check_fails(&[frame(opcode, *b"")], &[], Violation::FragmentedControl, 1002);
    }
}

#[test]
fn a_length_has_its_shortest_form() {
    for (len, length_bytes) in [(0, 2), (125, 2), (0, 8), (126, 8), (0xffff, 8)] {
        let frame = Frame { length_bytes: Some(length_bytes), ..frame(FIN | BINARY, vec![0; len]) };
        check_fails(&[frame], &[], Violation::Length, 1002);
    }
}

#[test]
fn fragments_are_in_order() {
    let stray = frame(FIN | CONTINUATION, *b"");
    check_fails(std::slice::from_ref(&stray), &[], Violation::UnexpectedContinuation, 1002);
    let whole = frame(FIN | BINARY, *b"");
    check_fails(&[whole, stray], &[binary(*b"")], Violation::UnexpectedContinuation, 1002);
    for opcode in [BINARY, TEXT] {
        let frames = [frame(BINARY, *b"a"), frame(FIN | opcode, *b"b")];
        check_fails(&frames, &[], Violation::InterruptedMessage, 1002);
    }
}

#[test]
fn a_text_message_is_refused_at_its_first_byte() {
    let _judged = opamp_spec::judges(&["WS-01"]);
    check_fails(&[frame(FIN | TEXT, *b"hello")], &[], Violation::Text, 1003);
    check_fails(&[frame(TEXT, vec![0xff; 10 * LIMIT])], &[], Violation::Text, 1003);
}

fn with_text() -> Decoder {
    Decoder::new(LIMIT).with_text()
}

#[test]
fn text_is_utf_8_where_it_is_welcome() {
    let text = "aé€𝄞".repeat(100);
    let (first, second) = text.as_bytes().split_at(502);
    let frames = [
        frame(FIN | TEXT, text.clone()),
        // Cut within a character.
        frame(TEXT, first),
        frame(FIN | CONTINUATION, second),
        frame(FIN | TEXT, *b""),
    ];
    let events = [&*text, &*text, ""].map(|text| Seen::Text(text.to_owned()));
    check_with(with_text, &frames, (events.to_vec(), None));

    for invalid in [&b"\xff"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"] {
        let whole = [frame(FIN | TEXT, [b"ab", invalid].concat())];
        check_with(with_text, &whole, (vec![], Some(Violation::InvalidUtf8)));
        let fragments = [frame(TEXT, *b"ab"), frame(FIN | CONTINUATION, invalid)];
        check_with(with_text, &fragments, (vec![], Some(Violation::InvalidUtf8)));
    }
    assert_eq!(Violation::InvalidUtf8.close_code(), CloseCode::INVALID_DATA);
}

#[test]
fn text_is_refused_as_soon_as_it_cannot_become_utf_8() {
    // The message is not complete, nor is its first frame.
    let mut bytes = encoded(&[frame(TEXT, [&b"ab\xe2\x28"[..], &[b'x'; 1000]].concat())]);
    bytes.truncate(20);
    let found = decode(&mut with_text(), &bytes, &[1]);
    assert_eq!(found, (vec![], Some(Violation::InvalidUtf8)));
}

#[test]
fn a_message_above_the_limit_is_refused_at_the_header_that_exceeds_it() {
    let _judged = opamp_spec::judges(&["SIZE-01", "SIZE-04", "SIZE-06", "SIZE-07"]);
    let violation = Violation::TooLarge { limit: LIMIT };
    check(&[frame(FIN | BINARY, vec![0; LIMIT])], &[binary(vec![0; LIMIT])]);
    let exact = [frame(BINARY, vec![0; LIMIT - 1]), frame(FIN | CONTINUATION, *b"x")];
    check(&exact, &[binary([&vec![0; LIMIT - 1][..], b"x"].concat())]);
    check_fails(&[frame(FIN | BINARY, vec![0; LIMIT + 1])], &[], violation, 1009);
    let fragments = [frame(BINARY, vec![0; LIMIT]), frame(FIN | CONTINUATION, *b"x")];
    check_fails(&fragments, &[], violation, 1009);

    // Nothing but the header is there, and its length would wrap around if it were added up.
    let header =
        [FIN | CONTINUATION, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    let mut bytes = encoded(&[frame(BINARY, *b"x")]);
    bytes.extend(header);
    assert_eq!(decode(&mut Decoder::new(LIMIT), &bytes, &[]), (vec![], Some(violation)));
    let mut decoder = Decoder::new(usize::MAX);
    assert_eq!(decode(&mut decoder, &bytes, &[]), (vec![], None), "a limit that is none");
    assert!(decoder.held() < 64 * 1024);
}

#[test]
fn control_frames_do_not_count_towards_the_limit() {
    let frames = [
        frame(BINARY, vec![0; LIMIT]),
        frame(FIN | PING, [1; 125]),
        frame(FIN | CONTINUATION, *b""),
    ];
    check(&frames, &[Seen::Ping(vec![1; 125]), binary(vec![0; LIMIT])]);
}

#[test]
fn a_close_frame_ends_it_all() {
    let close = |payload: &[u8]| frame(FIN | CLOSE, payload);
    let after = frame(0xff, *b"not even a frame");
    check(&[close(b""), after.clone()], &[Seen::Close(None)]);
    let code = CloseCode::new(3000).expect("a code");
    let seen = Seen::Close(Some(CloseFrame { code, reason: "bye".to_owned() }));
    check(&[frame(BINARY, *b"unfinished"), close(b"\x0b\xb8bye"), after], &[seen]);
    check_fails(&[close(b"\x03")], &[], Violation::TruncatedCloseCode, 1002);
    check_fails(&[close(b"\x03\xed")], &[], Violation::InvalidCloseCode(1005), 1002);
    check_fails(&[close(b"\x03\xe8\xff")], &[], Violation::InvalidUtf8, 1007);
}

#[test]
fn nothing_is_decoded_after_a_violation() {
    let mut decoder = Decoder::new(LIMIT);
    let bytes = encoded(&[frame(BINARY, [0; 1000]), frame(FIN | BINARY, *b"")]);
    assert_eq!(decode(&mut decoder, &bytes, &[]).1, Some(Violation::InterruptedMessage));
    assert_eq!(decoder.held(), 0);
    let good = encoded(&[frame(FIN | BINARY, *b"good")]);
    assert_eq!(decode(&mut decoder, &good, &[]), (vec![], None));
}
