//! Look-ups against a table of cases and against a slow account of the same rules.

use proptest::prelude::*;

use super::*;
use crate::policy::image::{AddressRow, HostRow};

pub(in crate::resolver) fn entry(effects: Effects, rule: u16, action: PolicyAction) -> Entry {
    Entry { effects, rule, action, raw_action: action, would_block: false, kill: false, unless: None }
}

pub(in crate::resolver) fn host(pattern: &str, entries: Vec<(Ports, Entry)>) -> HostRow {
    let below = pattern.starts_with('*');
    let rest = pattern.trim_start_matches("*.").trim_start_matches('*');
    let labels = rest.split('.').filter(|label| !label.is_empty()).map(str::to_owned).collect();
    HostRow { labels, below, entries }
}

pub(in crate::resolver) fn names(hosts: Vec<HostRow>, defaults: Vec<Entry>) -> Names {
    Names::new(Arc::new(Image { hosts, defaults, ..Image::default() }))
}

fn port(port: u16) -> Ports {
    Ports { first: port, last: port }
}

const CONNECT: Effects = Effects::NET_CONNECT;
const NOBODY: Owners = Owners { own: 0, parent: 0 };

#[test]
fn the_longest_pattern_decides() {
    use PolicyAction::{Allow, Block};
    let any = |rule, action| vec![(Ports::ANY, entry(CONNECT, rule, action))];
    let names = names(
        vec![
            host("*", any(0, Block)),
            host("*.example.com", any(1, Allow)),
            host("*.b.example.com", any(2, Block)),
            host("a.b.example.com", any(3, Allow)),
        ],
        Vec::new(),
    );
    for (name, rule) in [
        ("a.b.example.com", 3),
        ("A.B.Example.COM", 3),
        ("x.a.b.example.com", 2),
        ("b.example.com", 1),
        ("example.com", 0),
        ("badexample.com", 0),
        ("org", 0),
    ] {
        let found = names.rule(Effect::NetConnect, &HostName::from_text(name), 443, NOBODY).unwrap();
        assert_eq!(found.rule, rule, "{name}");
    }
    assert_eq!(names.rule(Effect::Dns, &HostName::from_text("example.com"), 0, NOBODY), None);
}

#[test]
fn a_name_is_closed_only_if_no_port_is_left() {
    use PolicyAction::{Alert, Allow, Block, Confirm};
    let closed = |rows: Vec<HostRow>| {
        names(rows, Vec::new()).closed(&HostName::from_text("a.example.com"), NOBODY).is_some()
    };
    let one = |ports, action| (ports, entry(CONNECT, 0, action));
    assert!(closed(vec![host("a.example.com", vec![one(Ports::ANY, Block)])]));
    assert!(closed(vec![host("a.example.com", vec![one(Ports::ANY, Confirm)])]));
    assert!(!closed(vec![host("a.example.com", vec![one(Ports::ANY, Alert)])]));
    assert!(!closed(vec![host("a.example.com", vec![one(port(443), Block)])]), "other ports are open");
    assert!(!closed(vec![host("a.example.com", vec![one(Ports::ANY, Block), one(port(443), Allow)])]));
    assert!(!closed(vec![
        host("*.example.com", vec![one(Ports::ANY, Block)]),
        host("a.example.com", vec![one(port(0), Allow)])
    ]));
    assert!(!closed(vec![
        host("*.example.com", vec![one(Ports::ANY, Block)]),
        host("a.example.com", vec![one(port(65535), Allow)])
    ]));
    let halves = [Ports { first: 0, last: 99 }, Ports { first: 100, last: u16::MAX }];
    assert!(closed(vec![host("a.example.com", halves.map(|ports| one(ports, Block)).to_vec())]));
    let gap = [Ports { first: 0, last: 99 }, Ports { first: 101, last: u16::MAX }];
    assert!(!closed(vec![host("a.example.com", gap.map(|ports| one(ports, Block)).to_vec())]));
    assert!(!closed(Vec::new()));
}

#[test]
fn whom_a_rule_spares_it_does_not_see() {
    let blocked = Entry { unless: Some(Unless::Executable(3)), ..entry(CONNECT, 1, PolicyAction::Block) };
    let parents = Entry { unless: Some(Unless::Parent(63)), ..entry(CONNECT, 2, PolicyAction::Block) };
    let rows = vec![
        host("example.com", vec![(Ports::ANY, blocked)]),
        host("example.org", vec![(Ports::ANY, parents)]),
    ];
    let names = names(rows, Vec::new());
    let asked = |name: &str, own, parent| {
        names.question(&HostName::from_text(name), Owners { own, parent }).map(|entry| entry.rule)
    };
    assert_eq!(asked("example.com", 0, u64::MAX), Some(1));
    assert_eq!(asked("example.com", 1 << 3, 0), None);
    assert_eq!(asked("example.org", u64::MAX, 0), Some(2));
    assert_eq!(asked("example.org", 0, 1 << 63), None);
}

#[test]
fn questions_fall_back_to_the_default() {
    use PolicyAction::{Allow, Block};
    let rows = vec![
        host("*.example.com", vec![(Ports::ANY, entry(Effects::DNS, 1, Allow))]),
        host("shut.example.com", vec![(Ports::ANY, entry(CONNECT, 2, Block))]),
    ];
    let names = names(rows, vec![entry(Effects::DNS, 9, Block)]);
    let asked = |name: &str| {
        names.question(&HostName::from_text(name), NOBODY).map(|entry| (entry.rule, entry.action))
    };
    assert_eq!(asked("www.example.com"), Some((1, Allow)));
    assert_eq!(asked("shut.example.com"), Some((2, Block)), "nothing could be done with its address");
    assert_eq!(asked("example.org"), Some((9, Block)));
}

#[test]
fn addresses_by_prefix_then_ports_then_strictness() {
    use PolicyAction::{Allow, Block};
    let row =
        |network: &str, length, entries| AddressRow { network: network.parse().unwrap(), length, entries };
    let any = |rule, action| (Ports::ANY, entry(CONNECT, rule, action));
    let addresses = vec![
        row("10.0.0.0", 8, vec![any(1, Block)]),
        row("10.1.0.0", 16, vec![any(2, Allow), (port(22), entry(CONNECT, 3, Block))]),
        row("10.1.1.0", 24, vec![(Ports::ANY, entry(Effects::NET_BIND, 4, Block))]),
        row("::", 0, vec![any(5, Allow), any(6, Block)]),
    ];
    let names = Names::new(Arc::new(Image { addresses, ..Image::default() }));
    let said =
        |address: &str, port| names.address(address.parse().unwrap(), port, NOBODY).map(|entry| entry.rule);
    assert_eq!(said("10.2.0.1", 80), Some(1));
    assert_eq!(said("10.1.1.1", 80), Some(2));
    assert_eq!(said("10.1.1.1", 22), Some(3));
    assert_eq!(said("2001:db8::1", 22), Some(6));
    assert_eq!(said("11.0.0.1", 22), None, "IPv4 is not in ::/0");
    assert!(names.is_address_welcome("10.1.0.1".parse().unwrap(), NOBODY));
    assert!(!names.is_address_welcome("10.2.0.1".parse().unwrap(), NOBODY));
}

fn labels() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[ab]", 0..4)
}

fn rows() -> impl Strategy<Value = Vec<HostRow>> {
    let ports = (0..4_u16, 0..4_u16).prop_map(|(a, b)| Ports { first: a.min(b), last: a.max(b) });
    let action = prop::sample::select(PolicyAction::ALL.to_vec());
    let unless = prop::option::of((0..2_u8).prop_map(Unless::Executable));
    let effects = prop::sample::select(vec![Effects::DNS, CONNECT, Effects::DNS | CONNECT]);
    let entry = (effects, 0..99_u16, action, unless)
        .prop_map(|(effects, rule, action, unless)| Entry { unless, ..entry(effects, rule, action) });
    let entries = prop::collection::vec((ports, entry), 0..3);
    prop::collection::vec(
        (labels(), any::<bool>(), entries).prop_map(|(labels, below, entries)| HostRow {
            labels,
            below,
            entries,
        }),
        0..8,
    )
}

proptest! {
    /// The index gives what going through all rows gives.
    #[test]
    fn the_index_agrees_with_a_walk_over_all_rows(
        rows in rows(), name in labels(), port in 0..5_u16, own in 0..4_u64, dns: bool,
    ) {
        let effect = if dns { Effect::Dns } else { Effect::NetConnect };
        let owners = Owners { own, parent: 0 };
        let slow = rows
            .iter()
            .filter(|row| if row.below { name.len() > row.labels.len() && name.ends_with(&row.labels) } else { row.labels == name })
            .flat_map(|row| row.entries.iter().map(move |entry| (row, entry)))
            .filter(|(_, (ports, entry))| {
                entry.effects.contains(effect.into())
                    && ports.first <= port && port <= ports.last
                    && !matches!(entry.unless, Some(Unless::Executable(set)) if own >> set & 1 == 1)
            })
            .map(|(row, (ports, entry))| {
                ((!row.below, row.labels.len(), Reverse(ports.last - ports.first), entry.action), entry.action)
            })
            .max();
        let names = names(rows.clone(), Vec::new());
        let name = HostName::new(name.iter().map(String::as_bytes));
        let fast = names.rule(effect, &name, port, owners);
        prop_assert_eq!(fast.map(|entry| entry.action), slow.map(|(_, action)| action));
        if !dns && names.closed(&name, owners).is_some() {
            prop_assert!(blocks(&fast.unwrap()));
        }
    }
}
