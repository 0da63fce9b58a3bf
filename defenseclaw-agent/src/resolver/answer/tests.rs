//! Answers of honest, broken and hostile servers.

use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{
        Name, RecordType,
        rdata::{
            A, AAAA, CNAME, HTTPS, SRV as Srv, SVCB as Svcb, TXT,
            svcb::{IpHint, SvcParamKey},
        },
    },
};
use proptest::prelude::*;

use super::{super::question, *};

const ID: u16 = 77;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn a(owner: &str, address: &str, ttl: u32) -> Record {
    let data = match address.parse().unwrap() {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    };
    Record::from_rdata(name(owner), ttl, data)
}

fn alias(owner: &str, target: &str) -> Record {
    Record::from_rdata(name(owner), 5, RData::CNAME(CNAME(name(target))))
}

fn asked(text: &str, kind: RecordType) -> Question {
    question::read(&question::tests::asking(text, kind, false)).unwrap()
}

fn message(text: &str, kind: RecordType, answers: Vec<Record>) -> Message {
    let mut message = Message::response(ID, hickory_proto::op::OpCode::Query);
    message.add_query(Query::query(name(text), kind));
    message.add_answers(answers);
    message
}

fn answered(text: &str, answers: Vec<Record>) -> Result<Answer, NotAnAnswer> {
    let bytes = message(text, RecordType::A, answers).to_vec().unwrap();
    read(&bytes, &asked(text, RecordType::A), ID)
}

fn addresses(answer: &Answer) -> Vec<String> {
    answer.addresses.iter().map(|(address, ttl)| format!("{address}/{ttl}")).collect()
}

#[test]
fn aliases_are_followed_by_name_in_any_order() {
    let records = vec![
        a("host.example.net.", "192.0.2.1", 9),
        alias("alias.example.net.", "HOST.example.net."),
        a("stranger.example.net.", "192.0.2.9", 9),
        alias("www.example.com.", "alias.example.net."),
        a("host.example.net.", "2001:db8::1", 8),
        a("host.example.net.", "::ffff:192.0.2.2", 7),
    ];
    let answer = answered("WWW.example.com.", records).unwrap();
    assert_eq!(answer.aliases, ["alias.example.net", "host.example.net"].map(HostName::from_text));
    assert_eq!(addresses(&answer), ["192.0.2.1/9", "2001:db8::1/8", "192.0.2.2/7"]);
    assert_eq!(answer.others, ["192.0.2.9".parse::<IpAddr>().unwrap()], "nobody asked for the stranger");
}

#[test]
fn circles_forks_and_long_ways_are_refused() {
    let circle = vec![alias("a.example.", "b.example."), alias("b.example.", "a.example.")];
    assert_eq!(answered("a.example.", circle), Err(NotAnAnswer::Unreadable));
    assert_eq!(answered("a.example.", vec![alias("a.example.", "a.example.")]), Err(NotAnAnswer::Unreadable));
    let fork = vec![alias("a.example.", "b.example."), alias("a.example.", "c.example.")];
    assert_eq!(answered("a.example.", fork), Err(NotAnAnswer::Unreadable));
    let way = |length: usize| {
        let mut records: Vec<_> = (0..length)
            .map(|at| alias(&format!("n{at}.example."), &format!("n{}.example.", at + 1)))
            .collect();
        records.push(a(&format!("n{length}.example."), "192.0.2.1", 1));
        answered("n0.example.", records)
    };
    assert_eq!(addresses(&way(MOST_ALIASES).unwrap()), ["192.0.2.1/1"]);
    assert_eq!(way(MOST_ALIASES + 1), Err(NotAnAnswer::Unreadable));
    assert!(way(400).is_err());
    assert!(way(MOST_RECORDS as usize).is_err());
}

#[test]
fn hints_of_services_are_addresses_too() {
    let hints = Svcb::new(
        1,
        name("."),
        vec![
            (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(vec![A::new(192, 0, 2, 7)]))),
            (SvcParamKey::Ipv6Hint, SvcParamValue::Ipv6Hint(IpHint(vec![AAAA("::1".parse().unwrap())]))),
        ],
    );
    let record = Record::from_rdata(name("www.example."), 30, RData::HTTPS(HTTPS(hints)));
    let bytes = message("www.example.", RecordType::HTTPS, vec![record]).to_vec().unwrap();
    let answer = read(&bytes, &asked("www.example.", RecordType::HTTPS), ID).unwrap();
    assert_eq!(addresses(&answer), ["192.0.2.7/30", "::1/30"]);

    let mut service = message(
        "_x._tcp.example.",
        RecordType::SRV,
        vec![Record::from_rdata(
            name("_x._tcp.example."),
            30,
            RData::SRV(Srv::new(0, 0, 80, name("target.example."))),
        )],
    );
    service.add_additional(a("target.example.", "127.0.0.1", 3));
    let answer = read(&service.to_vec().unwrap(), &asked("_x._tcp.example.", RecordType::SRV), ID).unwrap();
    assert_eq!(answer.others, ["127.0.0.1".parse::<IpAddr>().unwrap()]);
}

#[test]
fn only_the_answer_to_this_question_counts() {
    let question = asked("a.example.", RecordType::A);
    let right = message("A.eXample.", RecordType::A, vec![a("a.example.", "192.0.2.1", 1)]);
    let bytes = right.to_vec().unwrap();
    assert!(read(&bytes, &question, ID).is_ok(), "in another case");
    assert_eq!(read(&bytes, &question, ID + 1), Err(NotAnAnswer::Foreign));
    let other = |text, kind| read(&message(text, kind, Vec::new()).to_vec().unwrap(), &question, ID);
    assert_eq!(other("b.example.", RecordType::A), Err(NotAnAnswer::Foreign));
    assert_eq!(other("a.example.", RecordType::AAAA), Err(NotAnAnswer::Foreign));
    assert_eq!(
        read(&question::tests::asking("a.example.", RecordType::A, false), &question, 0x1234),
        Err(NotAnAnswer::Foreign)
    );
    let mut bare = Message::response(ID, hickory_proto::op::OpCode::Query);
    assert_eq!(read(&bare.to_vec().unwrap(), &question, ID), Err(NotAnAnswer::Foreign));
    bare.metadata.response_code = ResponseCode::ServFail;
    assert_eq!(read(&bare.to_vec().unwrap(), &question, ID).unwrap().code, 2);
    bare.add_answer(a("a.example.", "192.0.2.1", 1));
    assert_eq!(
        read(&bare.to_vec().unwrap(), &question, ID),
        Err(NotAnAnswer::Foreign),
        "no question, but an answer"
    );
}

#[test]
fn what_is_left_of_a_truncated_answer_counts() {
    let mut cut = message("a.example.", RecordType::A, vec![a("a.example.", "192.0.2.1", 1)]);
    cut.metadata.truncation = true;
    let answer = read(&cut.to_vec().unwrap(), &asked("a.example.", RecordType::A), ID).unwrap();
    assert!(answer.truncated);
    assert_eq!(addresses(&answer), ["192.0.2.1/1"]);
}

#[test]
fn compression_that_goes_nowhere_ends() {
    let question = asked("a.example.", RecordType::A);
    let mut head = message("a.example.", RecordType::A, Vec::new()).to_vec().unwrap();
    head[7] = 1;
    let at = u8::try_from(head.len()).unwrap();
    for pointer in [at, at + 2, 0xff] {
        let mut bytes = head.clone();
        bytes.extend_from_slice(&[0xc0, pointer, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 1]);
        assert_eq!(read(&bytes, &question, ID), Err(NotAnAnswer::Unreadable), "{pointer}");
    }
    // An address that is longer than addresses are.
    let mut bytes = head.clone();
    bytes.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 5, 192, 0, 2, 1, 1]);
    assert_eq!(read(&bytes, &question, ID), Err(NotAnAnswer::Unreadable));
}

#[test]
fn other_types_pass() {
    let text = Record::from_rdata(name("a.example."), 3, RData::TXT(TXT::new(vec!["x".repeat(255); 200])));
    let bytes = message("a.example.", RecordType::TXT, vec![text]).to_vec().unwrap();
    assert!(bytes.len() > 50_000);
    let answer = read(&bytes, &asked("a.example.", RecordType::TXT), ID).unwrap();
    assert_eq!((answer.addresses, answer.others), (Vec::new(), Vec::new()));
}

proptest! {
    #[test]
    fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        read(&bytes, &asked("a.example.", RecordType::A), ID).ok();
        let mut right = message("a.example.", RecordType::A, Vec::new()).to_vec().unwrap();
        right[7] = 3;
        right.extend(bytes);
        read(&right, &asked("a.example.", RecordType::A), ID).ok();
    }

    /// Whatever is permitted stands in the message under a name that the question leads to.
    #[test]
    fn every_address_is_led_to(edges in prop::collection::vec((0..6_u8, 0..6_u8), 0..8), owners in prop::collection::vec(0..6_u8, 0..8)) {
        let node = |at: u8| format!("n{at}.example.");
        let mut records: Vec<_> = edges.iter().map(|(from, to)| alias(&node(*from), &node(*to))).collect();
        records.extend(owners.iter().zip(1..).map(|(owner, last)| a(&node(*owner), &format!("192.0.2.{last}"), 60)));
        if let Ok(answer) = answered("n0.example.", records) {
            let mut at = 0;
            let mut seen = vec![0];
            while let Some((_, to)) = edges.iter().find(|(from, _)| *from == at) {
                at = *to;
                seen.push(at);
                prop_assert!(seen.len() <= 7, "a circle was followed");
            }
            let expected: Vec<_> = owners.iter().zip(1..).filter(|(owner, _)| seen.contains(owner))
                .map(|(_, last)| format!("192.0.2.{last}/60")).collect();
            prop_assert_eq!(addresses(&answer), expected);
        }
    }
}
