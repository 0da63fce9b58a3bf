//! Random policies over a small alphabet, so that most objects meet several rules.

use std::{fmt::Write as _, path::Path};

use super::{
    random::Random,
    tree::{ABSTRACT, DIRECTORIES, NAMES},
};

/// What is not a rule, and each rule, as YAML.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    head: String,
    pub(super) rules: Vec<String>,
}

impl Draft {
    pub(super) fn text(&self) -> String {
        let mut text = format!("version: 1\nname: random\n{}rules:\n", self.head);
        for rule in &self.rules {
            let _ = writeln!(text, "  - {rule}");
        }
        if self.rules.is_empty() {
            // A policy has rules.
            text.push_str("  - {id: none, effect: dns, severity: info, match: {hosts: [nowhere.test]}}\n");
        }
        text
    }
}

/// What rules may speak of.
pub(super) struct Alphabet<'a> {
    /// Everything happens below.
    pub(super) root: &'a Path,
    /// Where the programs of the workers are.
    pub(super) bin: &'a Path,
    /// Beginning of abstract names.
    pub(super) prefix: &'a str,
    /// Only addresses are held.
    pub(super) only_addresses: bool,
}

const FILE_EFFECTS: &[&str] =
    &["file.read", "file.write", "file.create", "file.delete", "file.link", "file.attr", "exec"];
const PRIVILEGES: &[&str] = &["priv.bpf", "priv.raw_socket", "priv.device", "priv.signal"];
const NETWORKS: &[&str] = &[
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.128/25",
    "10.1.2.3/32",
    "10.1.2.3",
    "127.0.0.0/8",
    "127.9.0.0/16",
    "127.9.1.1",
    "::/0",
    "2001:db8::/32",
    "2001:db8:0:1::/64",
    "2001:db8:0:1::8000/113",
    "2001:db8::1",
    "::1",
    "::ffff:10.1.2.0/120",
    "::ffff:127.9.1.1",
];
const PORTS: &[&str] = &["80", "443", "80-443", "1-1024", "8080", "1-65535", "444-9000"];

impl Alphabet<'_> {
    pub(super) fn policy(&self, random: &mut Random) -> Draft {
        let mut head = format!(
            "settings: {{unresolved: {}, confirm_fallback: {}}}\n",
            random.of(&["block", "alert", "allow"]),
            random.of(&["block", "allow"]),
        );
        if random.percent(25) {
            let subject = if self.only_addresses {
                random.of(&["net.connect", "net.bind"])
            } else {
                let all = [FILE_EFFECTS, PRIVILEGES, &["unix", "net.connect", "net.bind"]].concat();
                random.of(&all)
            };
            let _ = writeln!(head, "defaults: {{{subject}: {}}}", random.of(&["block", "block", "alert"]));
        }
        // Few rules leave more to defaults, many rules hide each other.
        let most = [4, 12, 30, 60][random.below(4)];
        let count = 1 + random.below(most);
        Draft { head, rules: (0..count).map(|number| self.rule(random, number)).collect() }
    }

    fn rule(&self, random: &mut Random, number: usize) -> String {
        let mut rule = format!("{{id: r{number}, reason: because");
        let action = match random.below(100) {
            0..52 => Some("block"),
            52..72 => Some("allow"),
            72..80 => Some("alert"),
            80..88 => Some("confirm"),
            _ => None,
        };
        let severities: &[&str] = match action {
            // Critical rules cannot allow, and `confirm` may become that.
            Some("allow" | "confirm") => &["info", "low", "medium", "high"],
            _ => &["info", "low", "medium", "high", "critical"],
        };
        let _ = write!(rule, ", severity: {}", random.of(severities));
        if let Some(action) = action {
            let _ = write!(rule, ", action: {action}");
        }
        let kind = if self.only_addresses { 99 } else { random.below(100) };
        match kind {
            0..72 => {
                let mut effects: Vec<&str> = (0..=random.below(4)).map(|_| random.of(FILE_EFFECTS)).collect();
                if random.percent(15) {
                    effects = FILE_EFFECTS.to_vec();
                }
                effects.sort_unstable();
                effects.dedup();
                let wild = matches!(action, Some("allow" | "alert")) && random.percent(15);
                let patterns: Vec<String> =
                    (0..=random.below(3)).map(|_| format!("{:?}", self.pattern(random, wild))).collect();
                let _ = write!(
                    rule,
                    ", effect: [{}], match: {{paths: [{}]}}",
                    effects.join(", "),
                    patterns.join(", ")
                );
            }
            72..78 => {
                let _ = write!(rule, ", effect: unix, match: {{unix: [{:?}]}}", self.pattern(random, false));
            }
            78..83 => {
                let name = format!("{}{}", self.prefix, random.of(ABSTRACT));
                let _ = write!(rule, ", effect: unix, match: {{abstract: [{name:?}]}}");
            }
            83..87 => {
                let _ = write!(rule, ", effect: {}", random.of(PRIVILEGES));
            }
            _ => {
                let effect = random.of(&["net.connect", "net.bind", "[net.connect, net.bind]"]);
                let mut about = Vec::new();
                let by_address = random.percent(85);
                if by_address {
                    let networks: Vec<String> =
                        (0..=random.below(2)).map(|_| format!("{:?}", random.of(NETWORKS))).collect();
                    about.push(format!("addresses: [{}]", networks.join(", ")));
                }
                if !by_address || random.percent(50) {
                    about.push(format!("ports: [{:?}]", random.of(PORTS)));
                }
                let _ = write!(rule, ", effect: {effect}, match: {{{}}}", about.join(", "));
            }
        }
        if random.percent(25) {
            let _ = write!(rule, ", unless: {{{}}}", self.owners(random));
        }
        rule.push('}');
        rule
    }

    /// Few different lists: the kernel numbers each that it has ever seen.
    fn owners(&self, random: &mut Random) -> String {
        let bin = self.bin.display();
        let lists = [
            format!("\"{bin}/one\""),
            format!("\"{bin}/two\""),
            format!("\"{bin}/two\", \"{bin}/one\""),
            format!("\"{bin}/**\""),
            format!("\"{bin}/*\""),
            "\"**/two\"".to_owned(),
            "\"**/bin/one\"".to_owned(),
            "/usr/bin/absent".to_owned(),
        ];
        let kind = random.of(&["executables", "executables", "parents"]);
        format!("{kind}: [{}]", lists[random.below(lists.len())])
    }

    fn pattern(&self, random: &mut Random, wild: bool) -> String {
        let root = self.root.display();
        if wild {
            let directory = random.of(DIRECTORIES);
            return match random.below(4) {
                0 => format!("{root}/{directory}/*.env"),
                1 => format!("{root}/**/{}", random.of(NAMES)),
                2 => format!("**/{directory}/{}/{}", random.of(DIRECTORIES), random.of(NAMES)),
                _ => format!("{root}/?/{}", random.of(NAMES)),
            };
        }
        if random.percent(60) {
            let mut path = root.to_string();
            for _ in 0..random.below(4) {
                let _ = write!(path, "/{}", random.of(DIRECTORIES));
            }
            return match random.below(10) {
                0..4 => format!("{path}/{}", random.of(NAMES)),
                4 | 5 => path,
                6 => format!("{path}/*"),
                7 => format!("{path}/{}/**", random.of(NAMES)),
                _ => format!("{path}/**"),
            };
        }
        let name = if random.percent(50) { random.of(NAMES) } else { random.of(DIRECTORIES) };
        match random.below(8) {
            0 | 1 => format!("**/{name}"),
            2 => format!("**/{name}/**"),
            3 | 4 => format!("**/{}/{name}", random.of(DIRECTORIES)),
            5 => format!("**/{}/{name}/**", random.of(DIRECTORIES)),
            _ => format!("**/*.{}", random.of(&["env", "pem", "e"])),
        }
    }
}
