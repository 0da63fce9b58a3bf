//! Messages, written byte by byte, against what is kept of them.

use proptest::prelude::*;

use super::*;
use crate::model::Transport;

const RESPONSE: u16 = 0x8180;
const TRUNCATED: u16 = 0x0200;
const TXT: u16 = 16;
/// Where the question's name stands in every message.
const QUESTION: &[u8] = b"\xc0\x0c";

fn name(dotted: &str) -> Vec<u8> {
    let labels = dotted.split('.').flat_map(|label| {
        let len = u8::try_from(label.len()).unwrap();
        std::iter::once(len).chain(label.bytes())
    });
    labels.chain([0]).collect()
}

fn record(owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let len = u16::try_from(data.len()).unwrap();
    [owner, &kind.to_be_bytes(), &[0, 1], &ttl.to_be_bytes(), &len.to_be_bytes(), data].concat()
}

/// A message with one question and these sections.
fn message(flags: u16, question: &[u8], sections: [&[Vec<u8>]; 3]) -> Vec<u8> {
    let mut bytes = [[0x12, 0x34], flags.to_be_bytes(), [0, 1]].concat();
    for section in sections {
        bytes.extend(u16::try_from(section.len()).unwrap().to_be_bytes());
    }
    bytes.extend(question);
    bytes.extend([0, 1, 0, 1]);
    bytes.extend(sections.concat().concat());
    bytes
}

fn simple(flags: u16, answers: &[Vec<u8>]) -> Vec<u8> {
    message(flags, &name("WWW.Example.org"), [answers, &[], &[]])
}

fn address(last: u8) -> Vec<u8> {
    record(QUESTION, A, 60, &[192, 0, 2, last])
}

/// `www.example.org` is an alias of `a.example.net`, which is 192.0.2.7.
pub(in crate::sensor) fn reply() -> Vec<u8> {
    let target = name("a.example.net");
    simple(RESPONSE, &[record(QUESTION, CNAME, 60, &target), record(&target, A, 60, &[192, 0, 2, 7])])
}

/// Named messages, well-formed and not: the fuzzer starts from them.
pub(in crate::sensor) fn messages() -> Vec<(&'static str, Vec<u8>)> {
    let owner = b"\xc0\x0c".as_slice();
    let v6 = record(QUESTION, AAAA, 60, &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let edns = record(&[0], OPT, 0x0100_0000, &[]);
    let question = name("www.example.org");
    vec![
        ("reply", reply()),
        ("v6", simple(RESPONSE, std::slice::from_ref(&v6))),
        ("no_such_name", simple(RESPONSE | 3, &[])),
        ("truncated", simple(RESPONSE | TRUNCATED, &[])),
        ("edns", message(RESPONSE, &question, [&[address(1)], &[], &[edns]])),
        ("text", simple(RESPONSE, &[record(owner, TXT, 60, b"\x03abc"), address(1)])),
        ("self_pointer", message(RESPONSE, b"\xc0\x0c", [&[], &[], &[]])),
        ("pointer_loop", simple(RESPONSE, &[record(QUESTION, CNAME, 60, b"\xc0\x2d")])),
        ("forward_pointer", message(RESPONSE, b"\xc0\x20", [&[address(1)], &[], &[]])),
        ("query", simple(0x0100, &[])),
        ("no_question", [&[0, 1, 0x81, 0x80][..], &[0; 8]].concat()),
        ("claims_everything", [&[0, 1, 0x81, 0x80][..], &[0xff; 8]].concat()),
    ]
}

fn server() -> NetEndpoint {
    NetEndpoint { transport: Transport::Udp, address: None, port: 53, family: 2 }
}

struct Kept {
    name: Text,
    code: u16,
    aliases: Vec<Text>,
    addresses: Vec<IpAddr>,
    truncated: bool,
}

fn kept(message: &[u8], cut: bool) -> Option<Kept> {
    let action = answer(server(), message, cut)?;
    let Action::DnsAnswer { server: from, name, code, aliases, addresses, truncated } = action else {
        panic!("{action:?}")
    };
    assert_eq!(from, server());
    Some(Kept { name, code, aliases, addresses, truncated })
}

fn seed(name: &str) -> Vec<u8> {
    messages().into_iter().find(|(found, _)| *found == name).unwrap().1
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn names_are_compared_in_lower_case_and_without_the_last_dot() {
    assert_eq!(kept(&reply(), false).unwrap().name, "www.example.org".into());
    assert_eq!(kept(&message(RESPONSE, &[0], [&[], &[], &[]]), false).unwrap().name, ".".into());
}

#[test]
fn a_chain_of_aliases_is_kept_in_order() {
    let (b, c) = (name("b.example"), name("c.example"));
    let found = kept(
        &simple(
            RESPONSE,
            &[record(QUESTION, CNAME, 60, &b), record(&b, CNAME, 60, &c), record(&c, A, 60, &[192, 0, 2, 1])],
        ),
        false,
    )
    .unwrap();
    assert_eq!(found.aliases, ["b.example", "c.example"].map(Text::from));
    assert_eq!((found.addresses, found.truncated), (vec![ip("192.0.2.1")], false));
}

#[test]
fn both_address_families_are_kept() {
    assert_eq!(kept(&seed("v6"), false).unwrap().addresses, [ip("2001:db8::1")]);
    assert_eq!(kept(&seed("text"), false).unwrap().addresses, [ip("192.0.2.1")]);
}

#[test]
fn codes_are_those_of_header_and_edns() {
    assert_eq!(kept(&seed("no_such_name"), false).unwrap().code, 3);
    let found = kept(&seed("edns"), false).unwrap();
    assert_eq!((found.code, found.truncated), (16, false));
    for code in 0..16 {
        assert_eq!(kept(&simple(RESPONSE | code, &[]), false).unwrap().code, code);
    }
}

#[test]
fn a_message_says_that_it_is_truncated() {
    assert!(kept(&seed("truncated"), false).unwrap().truncated);
    assert!(kept(&reply(), true).unwrap().truncated);
    assert!(!kept(&reply(), false).unwrap().truncated);
}

#[test]
fn what_is_whole_before_a_cut_is_kept() {
    let all: Vec<_> = (1..=20).map(address).collect();
    let bytes = simple(RESPONSE, &all);
    let first = bytes.len() - 20 * 16;
    for end in first..bytes.len() {
        let found = kept(&bytes[..end], true).unwrap();
        assert_eq!(found.addresses.len(), (end - first) / 16, "cut to {end}");
        assert!(found.truncated);
        assert!(kept(&bytes[..end], false).unwrap().truncated, "cut to {end}, unannounced");
    }
    for end in 0..first {
        assert!(kept(&bytes[..end], true).is_none(), "no whole question in {end} bytes");
    }
}

#[test]
fn more_answers_than_are_kept_are_not_passed_over_in_silence() {
    let all: Vec<_> = (0..=MOST).map(|last| address(u8::try_from(last).unwrap())).collect();
    let found = kept(&simple(RESPONSE, &all), false).unwrap();
    assert_eq!((found.addresses.len(), found.truncated), (MOST, true));
    assert!(!kept(&simple(RESPONSE, &all[1..]), false).unwrap().truncated);
}

#[test]
fn loops_of_compression_end() {
    for name in ["self_pointer", "forward_pointer"] {
        assert!(kept(&seed(name), false).is_none(), "{name}");
    }
    let found = kept(&seed("pointer_loop"), false).unwrap();
    assert!(found.truncated && found.aliases.is_empty());
}

#[test]
fn lengths_that_disagree_end_the_reading() {
    for bad in [
        record(QUESTION, A, 60, &[192, 0, 2]),
        record(QUESTION, A, 60, &[192, 0, 2, 1, 0]),
        record(QUESTION, AAAA, 60, &[0; 15]),
        record(QUESTION, CNAME, 60, b"\xc0\x0c\x00"),
        record(QUESTION, CNAME, 60, b""),
    ] {
        let found = kept(&simple(RESPONSE, &[address(1), bad.clone(), address(2)]), false).unwrap();
        assert_eq!((found.addresses, found.truncated), (vec![ip("192.0.2.1")], true), "{bad:02x?}");
    }
}

#[test]
fn addresses_of_another_class_are_no_addresses() {
    let mut chaos = address(1);
    chaos[5] = 3;
    let found = kept(&simple(RESPONSE, &[chaos]), false).unwrap();
    assert_eq!((found.addresses.len(), found.truncated), (0, false));
}

#[test]
fn what_is_no_answer_is_none() {
    for name in ["query", "no_question", "claims_everything"] {
        assert!(kept(&seed(name), false).is_none(), "{name}");
    }
    for garbage in [&b""[..], b"\0", &[0xff; 12], &[0xff; 1472], b"HTTP/1.1 200 OK\r\n\r\n"] {
        assert!(kept(garbage, false).is_none(), "{}", garbage.escape_ascii());
    }
}

proptest! {
    #[test]
    fn any_bytes_are_an_answer_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = kept(&bytes, false);
    }

    #[test]
    fn any_damage_keeps_at_most_so_many_answers(
        index in any::<proptest::sample::Index>(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = index.get(&messages()).1.clone();
        for (at, byte) in damage {
            *at.get_mut(&mut bytes) = byte;
        }
        if let Some(found) = kept(&bytes, false) {
            prop_assert!(found.aliases.len() + found.addresses.len() <= MOST);
        }
    }
}
