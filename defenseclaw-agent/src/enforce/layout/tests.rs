//! Every row can be found again by the shared hashes, entries stand in the order the kernel takes them, and what does
//! not fit is refused by name.

use std::{collections::HashMap, net::IpAddr};

use abi::{UNLESS_PARENT, action, effect, privilege, reach};
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{
    enforce::{owners::Registry, sample},
    model::{Effects, PolicyAction, Privilege, Severity},
    policy::image::{AbstractRow, AddressRow, PathKey, PathPattern, PathRow, RuleInfo, Unless},
};

const SEED: u64 = 0x0123_4567_89ab_cdef;

fn lay(image: &Image) -> Result<Layout, EnforceError> {
    let numbers = Registry::default().register(image);
    let place = Place { seed: SEED, slot: 3, generation: 9, numbers: &numbers };
    lay_out(image, &[], &place)
}

fn rows(laid: &Layout) -> HashMap<Key, Cell> {
    laid.rows.iter().map(|(key, cell, _)| (*key, *cell)).collect()
}

fn may_have(laid: &Layout, hash: u64, class: u32) -> bool {
    let (word, bit) = abi::bloom(hash, class);
    laid.image.bloom[word] >> bit & 1 != 0
}

/// The cell that the kernel finds for a hash, by its own three questions.
fn found(laid: &Layout, hash: u64, class: u32, has: u64) -> Option<Cell> {
    if laid.image.has & has == 0 || !may_have(laid, hash, class) {
        return None;
    }
    rows(laid).get(&Key { hash, class, slot: 3 }).copied()
}

fn anchored(path: &str) -> u64 {
    // As the kernel does it: component by component from the root.
    path.split('/')
        .filter(|part| !part.is_empty())
        .fold(SEED, |hash, part| abi::anchored(hash, abi::component(SEED, part.as_bytes())))
}

fn named(names: &[&str]) -> Vec<RuleInfo> {
    names
        .iter()
        .map(|id| RuleInfo { id: (*id).to_owned(), severity: Severity::High, reason: String::new() })
        .collect()
}

#[test]
fn paths_of_every_form_are_found() {
    let floating = |key, rule| PathRow {
        pattern: PathPattern { key, reach: Reach::Exact },
        entries: vec![sample::entry(rule)],
    };
    let image = Image {
        paths: vec![
            sample::row("/home/u/.ssh", Reach::Subtree, vec![sample::entry(0)]),
            sample::row("/", Reach::Subtree, vec![sample::entry(1)]),
            floating(PathKey::Name(b".env".to_vec()), 2),
            floating(PathKey::Pair(b".git".to_vec(), b"hooks".to_vec()), 3),
            floating(PathKey::Extension(b"pem".to_vec()), 4),
        ],
        abstract_names: vec![AbstractRow { name: b"bus\0x".to_vec(), entries: vec![sample::entry(5)] }],
        ..Image::default()
    };
    let laid = lay(&image).unwrap();
    let part = |name: &[u8]| abi::component(SEED, name);
    let cases = [
        (anchored("/home/u/.ssh"), class::ANCHORED, has::ANCHORED),
        (SEED, class::ANCHORED, has::ANCHORED),
        (abi::single(part(b".env")), class::SINGLE, has::SINGLE),
        (abi::pair(part(b".git"), part(b"hooks")), class::PAIR, has::PAIR),
        (part(b"pem"), class::EXTENSION, has::EXTENSION),
        (part(b"bus\0x"), class::ABSTRACT, has::ABSTRACT),
    ];
    for (rule, (hash, class, has)) in (0u16..).zip(cases) {
        let cell = found(&laid, hash, class, has).unwrap_or_else(|| panic!("{rule}"));
        assert_eq!((cell.entries[0].rule, cell.entries[1].action), (rule, 0));
    }
    assert!(found(&laid, anchored("/home/u/.sshx"), class::ANCHORED, has::ANCHORED).is_none());
    assert_eq!(laid.image.has & (has::INODE | has::ADDRESS), 0);
    assert_eq!((laid.image.seed, laid.image.generation), (SEED, 9));
    assert_eq!(laid.image.has & has::POLICY, has::POLICY);
}

#[test]
fn an_entry_keeps_everything_it_says() {
    let set = vec![PathPattern { key: sample::anchored("/usr/bin/ssh"), reach: Reach::Exact }];
    let other = vec![PathPattern { key: sample::anchored("/usr/bin/git"), reach: Reach::Exact }];
    let image = Image {
        owners: vec![set, other],
        paths: vec![sample::row(
            "/a",
            Reach::Subtree,
            vec![
                Entry {
                    effects: Effects::FILE_READ | Effects::FILE_WRITE,
                    rule: 300,
                    action: PolicyAction::Alert,
                    raw_action: PolicyAction::Block,
                    would_block: true,
                    kill: false,
                    unless: Some(Unless::Executable(1)),
                },
                Entry {
                    kill: true,
                    raw_action: PolicyAction::Alert,
                    unless: Some(Unless::Parent(0)),
                    ..sample::entry(301)
                },
            ],
        )],
        ..Image::default()
    };
    let cell = found(&lay(&image).unwrap(), anchored("/a"), class::ANCHORED, has::ANCHORED).unwrap();
    let expected = abi::Entry {
        effects: effect::READ | effect::WRITE,
        rule: 300,
        action: action::ALERT,
        raw_and_reach: action::BLOCK | reach::SUBTREE << 4,
        unless: 2,
        flags: abi::entry_flags::WOULD_BLOCK,
    };
    assert_eq!(cell.entries[0], expected);
    assert_eq!(cell.entries[1].unless, 1 | UNLESS_PARENT);
    assert_eq!(cell.entries[1].flags, abi::entry_flags::KILL);
    assert_eq!(cell.ports[0], 0xffff_0000);
}

#[test]
fn addresses_are_found_by_their_prefix_lengths() {
    let network = |network: &str, length, rule| AddressRow {
        network: network.parse().unwrap(),
        length,
        entries: vec![
            (Ports { first: 80, last: 443 }, sample::entry(rule)),
            (Ports::ANY, sample::entry(rule)),
        ],
    };
    let image = Image {
        addresses: vec![
            network("10.0.0.0", 8, 0),
            network("169.254.169.254", 32, 1),
            network("0.0.0.0", 0, 2),
            network("fd00::", 8, 3),
            network("::1", 128, 4),
            network("::", 0, 5),
        ],
        ..Image::default()
    };
    let laid = lay(&image).unwrap();
    assert_eq!(&laid.image.lengths4[..4], [32, 8, 0, 0]);
    assert_eq!(&laid.image.lengths[..4], [128, 8, 0, 0]);
    assert_eq!((laid.image.n_lengths4, laid.image.n_lengths), (3, 3));
    for (address, expected) in [
        ("10.1.2.3", 0),
        ("169.254.169.254", 1),
        ("8.8.8.8", 2),
        ("fd00::9", 3),
        ("::1", 4),
        ("2001:db8::1", 5),
    ] {
        let (bits, four) = match address.parse().unwrap() {
            IpAddr::V4(address) => (address.to_ipv6_mapped().to_bits(), true),
            IpAddr::V6(address) => (address.to_bits(), false),
        };
        let (lengths, n, base) = if four {
            (&laid.image.lengths4, laid.image.n_lengths4, 96)
        } else {
            (&laid.image.lengths, laid.image.n_lengths, 0)
        };
        let cell = lengths.iter().take(n as usize).find_map(|length| {
            let length = base + u32::from(*length);
            let cut = if length == 0 { 0 } else { bits & u128::MAX << (128 - length) };
            let (high, low) = hashes::halves(cut);
            found(&laid, abi::address(SEED, high, low, length), class::ADDRESS, has::ADDRESS)
        });
        let cell = cell.unwrap_or_else(|| panic!("{address}"));
        assert_eq!(cell.entries[0].rule, expected, "{address}");
        assert_eq!(cell.ports[..3], [0x01bb_0050, 0xffff_0000, 0]);
    }
}

#[test]
fn what_is_not_looked_up_has_its_place() {
    let effects = Effects::FILE_WRITE | Effects::DNS;
    let image = Image {
        defaults: vec![
            Entry { effects, ..sample::entry(1) },
            Entry { effects: Effects::DNS | Effects::EXEC, ..sample::entry(2) },
        ],
        privileges: vec![
            (Privilege::Perf, sample::entry(3)),
            (Privilege::Perf, sample::entry(4)),
            (Privilege::Ptrace, sample::entry(5)),
        ],
        unresolved: Some(sample::entry(6)),
        ..Image::default()
    };
    let laid = lay(&image).unwrap().image;
    let rules: Vec<_> = laid.defaults.iter().map(|entry| (entry.action != 0).then_some(entry.rule)).collect();
    let mut expected = [None; 16];
    (expected[1], expected[6], expected[10]) = (Some(1), Some(2), Some(1));
    assert_eq!(rules, expected);
    assert_eq!(laid.privileges[privilege::PERF].map(|entry| entry.rule), [3, 4]);
    assert_eq!(laid.privileges[privilege::PTRACE].map(|entry| entry.rule), [5, 0]);
    assert_eq!(laid.unresolved.rule, 6);
}

#[test]
fn too_much_is_refused_by_the_rule_that_is_too_much() {
    let nine: Vec<Entry> = (0..9).map(|rule| Entry { rule, ..sample::entry(0) }).collect();
    let lengths = (0u8..33).map(|length| AddressRow {
        network: "::".parse().unwrap(),
        length,
        entries: vec![(Ports::ANY, sample::entry(u16::from(length)))],
    });
    let names: Vec<String> = (0..40).map(|n| format!("rule-{n}")).collect();
    let rules = named(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let images = [
        (Image { paths: vec![sample::row("/a", Reach::Exact, nine)], ..Image::default() }, "rule-8"),
        // Longest first: the shortest is the one too many.
        (Image { addresses: lengths.collect(), ..Image::default() }, "rule-0"),
        (
            Image {
                privileges: (0..3).map(|rule| (Privilege::Bpf, sample::entry(rule))).collect(),
                ..Image::default()
            },
            "rule-2",
        ),
        (
            Image {
                paths: vec![sample::row(
                    "/a",
                    Reach::Exact,
                    vec![Entry { unless: Some(Unless::Executable(0)), ..sample::entry(7) }],
                )],
                ..Image::default()
            },
            "rule-7",
        ),
    ];
    for (image, expected) in images {
        let error = lay(&Image { rules: rules.clone(), ..image }).unwrap_err();
        assert!(matches!(&error, EnforceError::Rule { rule, .. } if rule == expected), "{error}");
    }
}

#[test]
fn files_are_found_by_inode() {
    let image = Image::default();
    let numbers = Numbers::default();
    let place = Place { seed: SEED, slot: 3, generation: 1, numbers: &numbers };
    let file = Identity { dev: 8 << 20 | 1, ino: 42, entries: vec![sample::entry(1)] };
    let laid = lay_out(&image, &[file], &place).unwrap();
    let cell = found(&laid, abi::inode(SEED, 8 << 20 | 1, 42), class::INODE, has::INODE).unwrap();
    assert_eq!(cell.entries[0].raw_and_reach >> 4, reach::EXACT);
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>().prop_filter("no component", |byte| *byte != 0 && *byte != b'/'), 1..20)
}

fn key() -> impl Strategy<Value = PathKey> {
    prop_oneof![
        vec(name(), 0..6).prop_map(PathKey::Anchored),
        name().prop_map(PathKey::Name),
        (name(), name()).prop_map(|(directory, name)| PathKey::Pair(directory, name)),
        name().prop_map(PathKey::Extension),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    (1u16..0x80, any::<u16>(), select(PolicyAction::ALL)).prop_map(|(effects, rule, action)| Entry {
        effects: Effects::from_bits_truncate(effects),
        rule,
        action,
        raw_action: action,
        ..sample::entry(0)
    })
}

proptest! {
    #[test]
    fn every_row_is_found_with_all_its_entries_in_order(
        paths in proptest::collection::btree_map(key(), (vec(entry(), 0..4), vec(entry(), 0..4)), 1..60)
    ) {
        let rows = paths.iter().flat_map(|(key, (exact, subtree))| {
            let row = |reach, entries: &Vec<Entry>| PathRow {
                pattern: PathPattern { key: key.clone(), reach },
                entries: entries.clone(),
            };
            [row(Reach::Subtree, subtree), row(Reach::Exact, exact)]
        });
        let image = Image { paths: rows.collect(), ..Image::default() };
        let laid = lay(&image).unwrap();
        for (key, (exact, subtree)) in &paths {
            let (hash, class) = hashes::path(SEED, key);
            // In the order of the rows, which decides between equals.
            let mut expected: Vec<_> = [(Reach::Subtree, subtree), (Reach::Exact, exact)]
                .into_iter()
                .flat_map(|(reach, entries)| entries.iter().map(move |entry| (reach, entry)))
                .collect();
            let anchored = matches!(key, PathKey::Anchored(_));
            expected.sort_by_key(|(reach, entry)| {
                (anchored.then_some(*reach), std::cmp::Reverse(entry.action), entry.rule)
            });
            let expected: Vec<_> = expected
                .into_iter()
                .map(|(reach, entry)| (entry.rule, entry.effects.bits(), words::reach_bit(reach)))
                .collect();
            let cell = found(&laid, hash, class, u64::MAX);
            prop_assert_eq!(cell.is_some(), !expected.is_empty());
            let entries = cell.unwrap_or_default().entries;
            let got: Vec<_> = entries.iter().take_while(|entry| entry.action != 0)
                .map(|entry| (entry.rule, entry.effects, entry.raw_and_reach >> 4)).collect();
            prop_assert_eq!(got, expected);
        }
        let all = paths.values().filter(|(exact, subtree)| !(exact.is_empty() && subtree.is_empty())).count();
        prop_assert_eq!(laid.rows.len(), all, "one row for each key");
    }
}
