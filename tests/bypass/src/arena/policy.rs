//! The policies that the cases try to get around: one that protects objects and leaves every privilege alone, so that no
//! trick fails for want of a privilege, and one that blocks privileged operations for all but one executable.

use std::fmt::Write as _;

use super::{Arena, Class};

/// One rule.
struct Rule<'a> {
    id: &'a str,
    effects: &'a str,
    matches: String,
    unless: Option<String>,
    severity: &'a str,
}

/// Effects that read or change a file.
const FILES: &str = "file.read, file.write, file.create, file.delete, file.link, file.attr";
const CHANGES: &str = "file.write, file.create, file.delete, file.link, file.attr";
const PRIVILEGES: &str = "priv.mount, priv.chroot, priv.userns, priv.namespace, priv.bpf, priv.module, priv.io_uring, \
                          priv.setid, priv.raw_socket, priv.other_socket, priv.device, priv.perf";

/// Names that are protected wherever they stand.
const PERSISTENCE: &[&str] = &[
    "**/.git/hooks/**",
    "**/.git/config",
    "**/.claude/settings.json",
    "**/.codex/hooks.json",
    "**/.vscode/tasks.json",
    "**/.bashrc",
    "**/.ssh/authorized_keys",
    "**/systemd/user/**",
    "**/autostart/**",
    "**/cron/crontabs/**",
    "**/cron/atjobs/**",
    "**/*.env",
];

impl Arena {
    pub(crate) fn abstract_name(&self, side: super::Side) -> String {
        let name = self.root.file_name().unwrap_or_default().to_string_lossy();
        format!("{name}{}", side.suffix())
    }

    /// Whether every enrolled task meets this rule; the id that the audit must name.
    pub(crate) fn policy(&self) -> String {
        let root = self.root.display();
        let tree = |class: Class| format!("paths: [\"{root}/{}/**\"]", class.directory());
        let owner =
            || Some(format!("executables: [\"{}\", \"{root}/bin/replaced\"]", self.owner().display()));
        let name = self.root.file_name().unwrap_or_default().to_string_lossy().replace('.', "-");
        let pins = format!("/sys/fs/bpf/{name}");
        let rule = |id, effects, matches| Rule { id, effects, matches, unless: None, severity: "critical" };
        let ancestors: Vec<String> = self
            .cases
            .iter()
            .filter(|case| crate::cases::find(&case.id).is_some_and(|case| case.class == Class::Ancestors))
            .flat_map(|case| {
                [super::Tree::Inside, super::Tree::Outside].map(|tree| {
                    let objects = self.objects(Class::Ancestors, &case.id, tree, super::Side::Protected);
                    format!("\"{}/keep/**\"", objects.display())
                })
            })
            .collect();
        let (v4, v6) = (self.protected.v4.ip(), self.protected.v6);
        let mut rules = vec![
            rule("bypass.files", FILES, tree(Class::Files)),
            rule("bypass.exec", "exec", tree(Class::Programs)),
            Rule { unless: owner(), ..rule("bypass.owned", FILES, tree(Class::Owned)) },
            rule("bypass.persistence", CHANGES, format!("paths: [\"{}\"]", PERSISTENCE.join("\", \""))),
            rule("bypass.programs", CHANGES, format!("paths: [\"{root}/bin/**\"]")),
            rule(
                "bypass.self",
                CHANGES,
                format!("paths: [\"{root}/state/**\", \"{pins}-inside\", \"{pins}-outside\"]"),
            ),
            rule(
                "bypass.kernel",
                FILES,
                "paths: [\"/proc/sys/kernel/core_pattern\", \"/proc/kcore\"]".to_owned(),
            ),
            rule("bypass.unix", "unix", format!("unix: [\"{root}/sockets/**\"]")),
            rule(
                "bypass.abstract",
                "unix",
                format!("abstract: [\"{}\"]", self.abstract_name(super::Side::Protected)),
            ),
            rule(
                "bypass.net",
                "net.connect",
                format!("addresses: [\"{v4}/16\"]").replace(".0.1/16", ".0.0/16"),
            ),
            rule("bypass.bind", "net.bind", format!("ports: [{}]", self.bind_ports.0)),
            rule("bypass.dns", "dns", "hosts: [\"*.blocked.test\", \"blocked.test\"]".to_owned()),
            rule("bypass.processes", "priv.ptrace, priv.inspect, priv.signal", String::new()),
            Rule { severity: "medium", ..rule("bypass.watched", FILES, tree(Class::Watched)) },
        ];
        if !ancestors.is_empty() {
            rules.push(rule("bypass.ancestors", FILES, format!("paths: [{}]", ancestors.join(", "))));
        }
        if let Some(v6) = v6 {
            rules.push(rule(
                "bypass.net6",
                "net.connect",
                format!("addresses: [\"{}/128\"], ports: [{}]", v6.ip(), v6.port()),
            ));
        }
        if self.privileged {
            rules.push(Rule { unless: owner(), ..rule("bypass.privileges", PRIVILEGES, String::new()) });
        }
        let mut text = String::from("version: 1\nname: bypass\nsettings:\n  unresolved: block\nrules:\n");
        for rule in &rules {
            let _ = writeln!(text, "  - id: {}\n    effect: [{}]", rule.id, rule.effects);
            if !rule.matches.is_empty() {
                let _ = writeln!(text, "    match: {{{}}}", rule.matches);
            }
            if let Some(unless) = &rule.unless {
                let _ = writeln!(text, "    unless: {{{unless}}}");
            }
            let _ = writeln!(
                text,
                "    severity: {}\n    reason: \"the bypass suite must not get through\"",
                rule.severity
            );
        }
        text
    }
}
