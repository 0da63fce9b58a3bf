//! Questions as programs put them, and as nobody should.

use hickory_proto::{
    op::{EdnsFlags, ResponseCode as Code},
    rr::{Name, RecordType},
};
use proptest::prelude::*;

use super::*;

pub(in crate::resolver) fn asking(name: &str, kind: RecordType, edns: bool) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = 0x1234;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if edns {
        let mut edns = Edns::new();
        edns.set_max_payload(1400);
        *edns.flags_mut() = EdnsFlags { dnssec_ok: true, ..EdnsFlags::default() };
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

#[test]
fn a_question_is_read_as_it_stands() {
    let bytes = asking("wWw.eXample.Com.", RecordType::AAAA, true);
    let question = read(&bytes).unwrap();
    assert_eq!((question.id, question.kind), (0x1234, 28));
    assert_eq!(question.name, HostName::from_text("www.example.com"));
    assert_eq!(question.section, b"\x03wWw\x07eXample\x03Com\0\0\x1c\0\x01", "in the case it was asked");
}

#[test]
fn what_is_not_a_plain_question_is_not_forwarded() {
    let good = asking("a.example.com.", RecordType::A, false);
    let changed = |at: usize, bytes: &[u8]| {
        let mut message = good.clone();
        message.splice(at..at + bytes.len(), bytes.iter().copied());
        read(&message).unwrap_err()
    };
    assert_eq!(changed(2, &[0x81]), Unfit::Silent, "an answer");
    assert_eq!(changed(2, &[0x29]), Unfit::Code(Code::NotImp), "an update");
    assert_eq!(changed(2, &[0x21]), Unfit::Code(Code::NotImp), "a notification");
    assert_eq!(changed(4, &[0, 0]), Unfit::Code(Code::FormErr), "no question");
    assert_eq!(changed(4, &[0, 2]), Unfit::Code(Code::FormErr), "two questions");
    assert_eq!(changed(6, &[0, 1]), Unfit::Code(Code::FormErr), "an answer inside");
    assert_eq!(changed(8, &[0, 1]), Unfit::Code(Code::FormErr), "an authority inside");
    assert_eq!(changed(10, &[0, 9]), Unfit::Code(Code::FormErr), "records that are not there");
    assert_eq!(changed(12, &[0xc0, 0x0c]), Unfit::Code(Code::FormErr), "a pointer to itself");
    assert_eq!(changed(12, &[0xc0, 0x00]), Unfit::Code(Code::FormErr), "a pointer into the header");
    assert_eq!(changed(12, &[0x41]), Unfit::Code(Code::FormErr), "a label of no known kind");
    assert_eq!(changed(good.len() - 2, &[0, 3]), Unfit::Code(Code::Refused), "class CHAOS");
    assert_eq!(changed(good.len() - 4, &[0, 252]), Unfit::Code(Code::Refused), "a zone transfer");
    assert_eq!(read(&good[..good.len() - 1]).unwrap_err(), Unfit::Code(Code::FormErr));
    assert_eq!(read(&good[..7]).unwrap_err(), Unfit::Silent);
    assert_eq!(read(&[]).unwrap_err(), Unfit::Silent);
    let mut long = good.clone();
    long.resize(LONGEST + 1, 0);
    assert_eq!(read(&long).unwrap_err(), Unfit::Code(Code::FormErr));
    // 255 bytes are the longest name, 256 are none.
    let deep = |labels: usize, last: usize| {
        let mut message = good[..12].to_vec();
        for _ in 0..labels {
            message.extend_from_slice(&[63; 64]);
        }
        message.push(u8::try_from(last).unwrap());
        message.extend(vec![b'x'; last]);
        message.extend_from_slice(&[0, 0, 1, 0, 1]);
        read(&message)
    };
    assert!(deep(3, 61).is_ok());
    assert!(deep(3, 62).is_err());
}

#[test]
fn a_refusal_says_why_to_who_can_hear_it() {
    for edns in [false, true] {
        let asked = asking("eViL.example.com.", RecordType::A, edns);
        let bytes = refusal(&asked, Code::Refused, "blocked by rule x").unwrap();
        let reply = Message::from_vec(&bytes).unwrap();
        assert_eq!((reply.metadata.id, reply.metadata.response_code), (0x1234, Code::Refused));
        assert!(reply.metadata.recursion_desired && reply.metadata.recursion_available);
        assert_eq!(bytes[12..12 + 22], asked[12..12 + 22], "the question, in the same case");
        assert!(reply.answers.is_empty());
        assert_eq!(reply.edns.is_some(), edns);
        let said = b"\0\x0fblocked by rule x";
        assert_eq!(bytes.windows(said.len()).any(|part| part == said), edns);
    }
}

proptest! {
    #[test]
    fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read(&bytes).ok();
        if let Some(reply) = refusal(&bytes, ResponseCode::FormErr, "why") {
            prop_assert_eq!(&reply[..2], &bytes[..2]);
            prop_assert!(reply[2] & 0x80 != 0);
        }
    }

    #[test]
    fn damaged_questions_are_no_different(
        at in 0..60_usize, byte: u8, edns: bool,
    ) {
        let mut message = asking("www.example.com.", RecordType::A, edns);
        let at = at % message.len();
        message[at] = byte;
        if let Ok(question) = read(&message) {
            prop_assert_eq!(&message[12..12 + question.section.len()], &question.section[..]);
        }
        refusal(&message, ResponseCode::Refused, "");
    }
}
