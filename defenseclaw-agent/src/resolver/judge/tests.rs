//! Questions and answers under whole policies.

use super::{
    super::names::tests::{entry, host},
    *,
};
use crate::{
    model::{BootTime, Effects, ProcessKey, SessionId},
    policy::image::{AddressRow, Ports, RuleInfo},
};

const NOBODY: Owners = Owners { own: 0, parent: 0 };

fn judge(image: Image, rebinding: PolicyAction) -> Judge {
    let rules = (0..10)
        .map(|at| RuleInfo {
            id: format!("rule-{at}"),
            severity: Severity::High,
            reason: format!("because {at}"),
        })
        .collect();
    let image = Arc::new(Image { rules, ..image });
    Judge::new(&Rules { image, generation: 5, sets: vec![Some(3), None, Some(0)], rebinding })
}

fn system() -> System {
    System::from_resolv_conf(
        b"# by hand\nnameserver 192.0.2.53\nnonsense here\nnameserver 2001:db8::53\nnameserver fe80::1%eth0\n\
          search corp.example.net lan.example.net\noptions edns0 trust-ad\n",
    )
}

fn any(effects: Effects, rule: u16, action: PolicyAction) -> Vec<(Ports, Entry)> {
    vec![(Ports::ANY, entry(effects, rule, action))]
}

fn server(text: &str) -> SocketAddr {
    SocketAddr::new(text.parse().unwrap(), 53)
}

fn answering(addresses: &[&str], aliases: &[&str]) -> Answer {
    Answer {
        addresses: addresses.iter().map(|address| (address.parse().unwrap(), 60)).collect(),
        aliases: aliases.iter().map(|alias| HostName::from_text(alias)).collect(),
        ..Answer::default()
    }
}

#[test]
fn the_system_is_read_line_by_line() {
    let system = system();
    assert_eq!(system.servers.len(), 3);
    assert!(system.trusts(server("192.0.2.53")) && system.trusts(server("2001:db8::53")));
    assert!(system.trusts(server("::ffff:192.0.2.53")));
    assert!(!system.trusts(server("192.0.2.54")));
    assert_eq!(system.searched, ["corp.example.net", "lan.example.net"]);
    assert_eq!(System::from_resolv_conf(b"\xff\xfe\0"), System::default());
}

#[test]
fn a_blocked_name_is_refused_with_its_rule() {
    let image = Image {
        hosts: vec![
            host("evil.example", any(Effects::DNS, 1, PolicyAction::Block)),
            host("*.evil.example", any(Effects::NET_CONNECT, 2, PolicyAction::Block)),
            host("odd.example", any(Effects::NET_CONNECT, 3, PolicyAction::Alert)),
        ],
        ..Image::default()
    };
    let judge = judge(image, PolicyAction::Block);
    let asked =
        |name: &str| judge.question(&system(), server("192.0.2.53"), &HostName::from_text(name), NOBODY);
    for (name, rule) in [("evil.example", 1), ("EVIL.example", 1), ("data.in.labels.evil.example", 2)] {
        let ruling = asked(name);
        assert!(ruling.refuse, "{name}");
        let decision = ruling.decision.unwrap();
        assert_eq!(decision.verdict.rule_ids, [format!("rule-{rule}")]);
        assert_eq!((decision.mechanism, decision.generation), (Mechanism::Resolver, 5));
        assert_eq!(decision.verdict.reason, format!("because {rule}"));
    }
    assert_eq!(asked("good.example"), Ruling { refuse: false, decision: None });
}

#[test]
fn what_would_block_in_another_mode_is_told_and_passes() {
    let told = Entry {
        raw_action: PolicyAction::Block,
        would_block: true,
        ..entry(Effects::DNS, 1, PolicyAction::Alert)
    };
    let image = Image { hosts: vec![host("evil.example", vec![(Ports::ANY, told)])], ..Image::default() };
    let judge = judge(image, PolicyAction::Alert);
    let ruling =
        judge.question(&system(), server("192.0.2.53"), &HostName::from_text("evil.example"), NOBODY);
    assert!(!ruling.refuse);
    assert!(ruling.decision.unwrap().would_block);
    let rebound =
        judge.answer(&system(), &HostName::from_text("www.example"), &answering(&["127.0.0.1"], &[]), NOBODY);
    assert!(!rebound.refuse);
    assert!(rebound.decision.unwrap().would_block);
}

#[test]
fn a_server_of_the_task_is_an_address_like_any_other() {
    let image = Image {
        addresses: vec![AddressRow {
            network: [9, 9, 9, 9].into(),
            length: 32,
            entries: any(Effects::NET_CONNECT, 1, PolicyAction::Allow),
        }],
        defaults: vec![entry(Effects::NET_CONNECT, 2, PolicyAction::Block)],
        ..Image::default()
    };
    let judge = judge(image, PolicyAction::Block);
    let refused =
        |at: &str| judge.question(&system(), server(at), &HostName::from_text("a.example"), NOBODY).refuse;
    assert!(!refused("192.0.2.53"), "the system's own server, although its address is blocked");
    assert!(!refused("9.9.9.9"));
    assert!(refused("6.6.6.6"));
}

#[test]
fn private_answers_of_public_names_are_refused() {
    let image = Image {
        hosts: vec![
            host("named.example", any(Effects::NET_CONNECT, 1, PolicyAction::Allow)),
            host("*.wild.example", any(Effects::NET_CONNECT, 2, PolicyAction::Allow)),
        ],
        addresses: vec![AddressRow {
            network: [10, 1, 0, 0].into(),
            length: 16,
            entries: any(Effects::NET_CONNECT, 3, PolicyAction::Allow),
        }],
        ..Image::default()
    };
    let judge = judge(image, PolicyAction::Block);
    let ruled = |name: &str, addresses: &[&str]| {
        judge.answer(&system(), &HostName::from_text(name), &answering(addresses, &[]), NOBODY)
    };
    for (name, addresses, refuse) in [
        ("www.example", &["1.1.1.1"] as &[_], false),
        ("www.example", &["1.1.1.1", "169.254.169.254"], true),
        ("www.example", &["::ffff:10.2.0.1"], true),
        ("www.example", &["10.1.2.3"], false),
        ("named.example", &["10.2.0.1"], false),
        ("a.wild.example", &["10.2.0.1"], true),
        ("git.corp.example.net", &["10.2.0.1"], false),
        ("corp.example.net.evil.org", &["10.2.0.1"], true),
        ("printer", &["192.168.1.9"], false),
    ] {
        let ruling = ruled(name, addresses);
        assert_eq!(ruling.refuse, refuse, "{name} {addresses:?}");
        assert_eq!(ruling.decision.is_some(), refuse);
        if let Some(decision) = ruling.decision {
            assert_eq!(decision.verdict.rule_ids, [REBINDING]);
        }
    }
    let hidden = Answer { others: vec!["127.0.0.1".parse().unwrap()], ..Answer::default() };
    assert!(judge.answer(&system(), &HostName::from_text("www.example"), &hidden, NOBODY).refuse);
}

#[test]
fn a_blocked_name_cannot_hide_behind_an_alias() {
    let image = Image {
        hosts: vec![host("*.tracker.example", any(Effects::DNS, 1, PolicyAction::Block))],
        defaults: vec![entry(Effects::DNS, 2, PolicyAction::Block)],
        ..Image::default()
    };
    let judge = judge(image, PolicyAction::Block);
    let through = |alias| {
        judge
            .answer(
                &system(),
                &HostName::from_text("www.example"),
                &answering(&["1.1.1.1"], &[alias]),
                NOBODY,
            )
            .refuse
    };
    assert!(through("x.tracker.example"));
    assert!(!through("cdn.example"), "the default is about questions");
}

#[test]
fn the_kernels_numbers_become_those_of_the_image() {
    let judge = judge(Image::default(), PolicyAction::Block);
    let asker = |owner, parent_owner| Asker {
        server: server("192.0.2.53"),
        time: BootTime(1),
        session: SessionId(1),
        tool_call: None,
        process: ProcessKey { tgid: 1, start_ns: 1 },
        tid: 1,
        uid: 0,
        cgroup: 1,
        profile: 0,
        owner,
        parent_owner,
    };
    for (kernel, own) in
        [(0, 0), (0b1000, 0b001), (0b0001, 0b100), (0b1001, 0b101), (0b0110, 0), (u64::MAX, 0b101)]
    {
        assert_eq!(judge.owners(&asker(kernel, 0)), Owners { own, parent: 0 });
        assert_eq!(judge.owners(&asker(0, kernel)), Owners { own: 0, parent: own });
    }
}
