//! The rows say what the policy says: the kernel's way through them, written down once more here, against the policy's
//! own answer, for random policies and objects.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use abi::{UNLESS_PARENT, action, reach};
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{
    enforce::owners::Registry,
    model::{Effect, Mode, Privilege},
    policy::{self, Actor, Bindings, Object, Session},
};

const SEED: u64 = 0x5eed_5eed_5eed_5eed;
const NAMES: [&str; 5] = ["a", "b", ".env", "x.pem", "u"];

/// What the programs do with the maps.
struct Kernel {
    image: Box<abi::Image>,
    rows: HashMap<Key, Cell>,
    registry: Registry,
}

impl Kernel {
    fn new(image: &Image) -> Self {
        let mut registry = Registry::default();
        let numbers = registry.register(image);
        let place = Place { seed: SEED, slot: 0, generation: 1, numbers: &numbers };
        let laid = lay_out(image, &[], &place).unwrap();
        Self {
            image: laid.image,
            rows: laid.rows.iter().map(|(key, cell, _)| (*key, *cell)).collect(),
            registry,
        }
    }

    fn cell(&self, hash: u64, class: u32) -> Option<&Cell> {
        let (word, bit) = abi::bloom(hash, class);
        if self.image.bloom[word] >> bit & 1 == 0 {
            return None;
        }
        self.rows.get(&Key { hash, class, slot: 0 })
    }

    fn spares(&self, entry: abi::Entry, actor: Actor<'_>) -> bool {
        let path = if entry.unless & UNLESS_PARENT == 0 { actor.executable } else { actor.parent };
        let set = entry.unless & !UNLESS_PARENT;
        set != 0 && self.registry.mask(path.unwrap_or_default()) >> (set - 1) & 1 != 0
    }

    fn path(&self, actor: Actor<'_>, effect: Effect, path: &str) -> abi::Entry {
        let parts: Vec<&[u8]> = path.split('/').filter(|part| !part.is_empty()).map(str::as_bytes).collect();
        let bit = 1u16 << effect as u16;
        let mut best = self.image.defaults[effect as usize];
        let mut look = |hash, class, reaches: u8| {
            let cell = self.cell(hash, class).copied().unwrap_or_default();
            let fits = |entry: &&abi::Entry| {
                entry.effects & bit != 0
                    && entry.raw_and_reach >> 4 & reaches != 0
                    && !self.spares(**entry, actor)
            };
            if let Some(entry) = cell.entries.iter().take_while(|entry| entry.action != 0).find(fits) {
                best = *entry;
            }
        };
        let (mut hash, mut previous) = (SEED, 0);
        for depth in 0..=parts.len() {
            let last = depth == parts.len();
            let reaches = if last { reach::EXACT | reach::SUBTREE | reach::ANCESTOR } else { reach::SUBTREE };
            if let Some(part) = depth.checked_sub(1).map(|at| parts[at]) {
                let component = abi::component(SEED, part);
                let above = hash;
                hash = abi::anchored(above, component);
                if last {
                    look(above, class::ANCHORED, reach::CHILDREN);
                    if let Some(dot) = part.iter().rposition(|byte| *byte == b'.')
                        && (1..=abi::EXTENSION_MAX).contains(&(part.len() - dot - 1))
                    {
                        look(abi::component(SEED, &part[dot + 1..]), class::EXTENSION, reach::EXACT);
                    }
                }
                look(abi::single(component), class::SINGLE, reaches);
                if depth > 1 {
                    look(abi::pair(previous, component), class::PAIR, reaches);
                }
                previous = component;
            }
            look(hash, class::ANCHORED, reaches);
        }
        best
    }

    fn address(&self, actor: Actor<'_>, effect: Effect, address: IpAddr, port: u16) -> abi::Entry {
        let (bits, lengths, n, base) = match address {
            IpAddr::V4(v4) => {
                (v4.to_ipv6_mapped().to_bits(), &self.image.lengths4, self.image.n_lengths4, 96)
            }
            IpAddr::V6(v6) => (v6.to_bits(), &self.image.lengths, self.image.n_lengths, 0),
        };
        for length in lengths.iter().take(n as usize) {
            let length = u32::from(*length) + base;
            let cut = if length == 0 { 0 } else { bits & u128::MAX << (128 - length) };
            let (high, low) = hashes::halves(cut);
            let Some(cell) = self.cell(abi::address(SEED, high, low, length), class::ADDRESS) else {
                continue;
            };
            for (entry, ports) in
                cell.entries.iter().zip(cell.ports).take_while(|(entry, _)| entry.action != 0)
            {
                let (first, last) = (ports & 0xffff, ports >> 16);
                if entry.effects >> (effect as u16) & 1 != 0
                    && (first..=last).contains(&u32::from(port))
                    && !self.spares(*entry, actor)
                {
                    return *entry;
                }
            }
        }
        self.image.defaults[effect as usize]
    }

    fn privilege(&self, actor: Actor<'_>, privilege: Privilege) -> abi::Entry {
        let entries = self.image.privileges[privilege as usize];
        let found = entries.into_iter().find(|entry| entry.action != 0 && !self.spares(*entry, actor));
        found.unwrap_or_default()
    }
}

fn pattern() -> impl Strategy<Value = String> {
    let front = select(vec!["", "~", "${project}"]);
    let tail = select(vec!["", "/**", "/*"]);
    let path = (front, vec(select(NAMES.to_vec()), 1..4), tail)
        .prop_map(|(front, names, tail)| format!("{front}/{}{tail}", names.join("/")));
    let floating = (vec(select(NAMES.to_vec()), 1..3), select(vec!["", "/**"]))
        .prop_map(|(names, tail)| format!("**/{}{tail}", names.join("/")));
    prop_oneof![4 => path, 2 => floating, 1 => select(vec!["**/*.pem", "**/*.env", "/**"]).prop_map(str::to_owned)]
}

fn said() -> impl Strategy<Value = String> {
    let severity = select(vec!["info", "medium", "high", "critical"]);
    let action = select(vec!["", ", action: alert", ", action: block"]);
    (severity, action).prop_map(|(severity, action)| format!("severity: {severity}{action}, reason: x"))
}

fn unless() -> impl Strategy<Value = &'static str> {
    select(vec![
        "",
        "",
        "",
        ", unless: {executables: /bin/git}",
        ", unless: {executables: ['**/ssh', '/opt/**']}",
        ", unless: {parents: '/bin/*'}",
    ])
}

fn path_rule(deletes: bool) -> impl Strategy<Value = String> {
    let effects = if deletes {
        vec!["file.delete", "'file.*'", "[file.delete, exec]"]
    } else {
        vec!["file.read", "[file.read, exec]", "file.write"]
    };
    (select(effects), vec(pattern(), 1..3), if deletes { Just("").boxed() } else { unless().boxed() }, said())
        .prop_map(|(effect, patterns, unless, said)| {
            let patterns: Vec<_> = patterns.iter().map(|pattern| format!("'{pattern}'")).collect();
            format!("effect: {effect}, match: {{paths: [{}]}}{unless}, {said}", patterns.join(", "))
        })
}

fn net_rule() -> impl Strategy<Value = String> {
    let networks =
        select(vec!["10.0.0.0/8", "10.1.2.3", "0.0.0.0/0", "'::/0'", "'fd00::/8'", "'::ffff:10.1.0.0/112'"]);
    let ports = select(vec!["", ", ports: [22]", ", ports: ['20-30', 443]"]);
    (select(vec!["net.connect", "[net.connect, net.bind]"]), networks, ports, unless(), said()).prop_map(
        |(effect, network, ports, unless, said)| {
            format!("effect: {effect}, match: {{addresses: [{network}]{ports}}}{unless}, {said}")
        },
    )
}

fn session(rules: &[String], default: &str, mode: Mode) -> Option<Session> {
    let rules: Vec<String> =
        rules.iter().enumerate().map(|(id, rule)| format!("  - {{id: r{id}, {rule}}}\n")).collect();
    let rules = rules.concat();
    let text = format!("version: 1\n{default}rules:\n{rules}");
    let policy =
        policy::load("p", &text, &|_| None).unwrap_or_else(|problems| panic!("{text}\n{problems:?}"));
    let bindings = Bindings {
        home: b"/a/u".to_vec(),
        project: b"/a/u/b".to_vec(),
        profile: "default".to_owned(),
        mode: Some(mode),
    };
    // More entries about one path than a cell holds is refused, rightly.
    Session::new(&policy, &bindings).ok()
}

fn actor() -> impl Strategy<Value = (&'static str, &'static str)> {
    let programs = vec!["/bin/git", "/usr/bin/ssh", "/opt/x/y", "/bin/sh", "/sbin/git"];
    (select(programs.clone()), select(programs))
}

/// Rule and action of an answer; 0: nothing is said, which allows.
fn of_policy(entry: Option<Entry>) -> (u8, u8) {
    entry.map_or((action::ALLOW, action::ALLOW), |entry| {
        (words::action_number(entry.action), words::action_number(entry.raw_action))
    })
}

fn of_kernel(entry: abi::Entry) -> (u8, u8) {
    if entry.action == 0 { (action::ALLOW, action::ALLOW) } else { (entry.action, entry.raw_and_reach & 15) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn about_paths(
        rules in vec(path_rule(false), 1..8),
        deletes in vec(path_rule(true), 0..6),
        default in select(vec!["", "defaults: {file.delete: alert, file.read: block}\n"]),
        mode in select(Mode::ALL),
        (executable, parent) in actor(),
        paths in vec(vec(select(NAMES.to_vec()), 0..6), 1..20),
    ) {
        let rules: Vec<_> = rules.into_iter().chain(deletes).collect();
        let Some(session) = session(&rules, default, mode) else { return Ok(()) };
        let Ok(image) = session.image() else { return Ok(()) };
        let kernel = Kernel::new(&image);
        let actor = Actor { executable: Some(executable.as_bytes()), parent: Some(parent.as_bytes()) };
        for path in paths {
            let path = format!("/{}", path.join("/"));
            for effect in [Effect::FileRead, Effect::FileDelete, Effect::Exec, Effect::FileWrite] {
                let expected = of_policy(session.judge(actor, &Object::Path(effect, path.as_bytes())));
                let found = of_kernel(kernel.path(actor, effect, &path));
                prop_assert_eq!(found, expected, "{} {} by {}", effect, path, executable);
            }
        }
    }

    #[test]
    fn about_addresses_and_privileges(
        rules in vec(net_rule(), 1..8),
        default in select(vec!["", "defaults: {net.connect: block, priv.bpf: alert}\n"]),
        mode in select(Mode::ALL),
        (executable, parent) in actor(),
        port in select(vec![22u16, 25, 443, 80]),
        random: (u32, u128),
    ) {
        let mut rules = rules;
        rules.push("effect: priv.mount, severity: high, reason: x, unless: {executables: /bin/git}".to_owned());
        let Some(session) = session(&rules, default, mode) else { return Ok(()) };
        let Ok(image) = session.image() else { return Ok(()) };
        let kernel = Kernel::new(&image);
        let actor = Actor { executable: Some(executable.as_bytes()), parent: Some(parent.as_bytes()) };
        let addresses = [
            IpAddr::V4(Ipv4Addr::from_bits(random.0)),
            IpAddr::V6(Ipv6Addr::from_bits(random.1)),
            IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)),
            IpAddr::V4(Ipv4Addr::new(10, 1, 9, 9)),
            "fd00::1".parse().unwrap(),
        ];
        for address in addresses.map(|address| address.to_canonical()) {
            for effect in [Effect::NetConnect, Effect::NetBind] {
                let object = Object::Address { effect, address, port, name: None };
                let expected = of_policy(session.judge(actor, &object));
                prop_assert_eq!(of_kernel(kernel.address(actor, effect, address, port)), expected, "{}", address);
            }
        }
        for privilege in [Privilege::Mount, Privilege::Bpf, Privilege::Chroot] {
            let expected = of_policy(session.judge(actor, &Object::Privilege(privilege)));
            prop_assert_eq!(of_kernel(kernel.privilege(actor, privilege)), expected, "{}", privilege);
        }
    }
}
