//! Which rules of a policy block where nothing here can hold them: told from the hooks that work.

use std::collections::BTreeMap;

use super::words;
use crate::{
    model::{
        CapabilityState, Effect, Effects, Held, Level, Mechanism, PolicyAction, Privilege, Protection,
        RuleHold,
    },
    policy::image::{Entry, Image},
};

/// Capability of a session for which names are resolved: programs of the cgroup lead questions to the resolver, which
/// refuses names and tells the kernel whose the addresses are.
pub const RESOLVER: &str = "resolver";

/// What holds rules about host names, whatever the effect: names are judged by the resolver, their addresses by what it
/// told the kernel.
const NAMES: Lists =
    &[&["cgroup/connect4", "cgroup/connect6", "cgroup/sendmsg4", "cgroup/sendmsg6", RESOLVER]];

/// What refuses an effect: all hooks of one of these lists.
fn hooks_of(effect: Effect) -> Lists {
    match effect {
        Effect::FileRead => &[&["lsm/file_open"]],
        Effect::FileWrite => &[&["lsm/file_open", "lsm/path_truncate"]],
        Effect::FileCreate => &[&[
            "lsm/file_open",
            "lsm/path_mkdir",
            "lsm/path_mknod",
            "lsm/path_symlink",
            "lsm/path_link",
            "lsm/path_rename",
        ]],
        Effect::FileDelete => &[&["lsm/path_unlink", "lsm/path_rmdir", "lsm/path_rename"]],
        Effect::FileLink => &[&["lsm/path_link"]],
        Effect::FileAttr => &[&["lsm/path_chmod", "lsm/path_chown"]],
        Effect::Exec => &[&["lsm/bprm_check_security", "lsm/mmap_file"]],
        Effect::Unix => &[&["lsm/unix_stream_connect", "lsm/unix_may_send"]],
        Effect::NetConnect => &[
            &["lsm/socket_connect", "lsm/socket_sendmsg"],
            &["cgroup/connect4", "cgroup/connect6", "cgroup/sendmsg4", "cgroup/sendmsg6"],
        ],
        Effect::NetBind => &[&["lsm/socket_bind"], &["cgroup/bind4", "cgroup/bind6"]],
        Effect::Dns => NAMES,
    }
}

/// Likewise; nothing: nothing refuses it yet.
fn hooks_of_privilege(privilege: Privilege) -> Lists {
    match privilege {
        Privilege::Ptrace => &[&["lsm/ptrace_access_check", "lsm/ptrace_traceme"]],
        Privilege::Inspect => &[&["lsm/ptrace_access_check"]],
        Privilege::Signal => &[&["lsm/task_kill", "lsm/file_fcntl", "lsm/file_ioctl"]],
        Privilege::Mount => &[&["lsm/sb_mount", "lsm/sb_umount", "lsm/move_mount", "lsm/sb_pivotroot"]],
        Privilege::Chroot => &[&["lsm/path_chroot"]],
        Privilege::UserNamespace => &[&["lsm/userns_create"]],
        Privilege::Bpf => &[&["lsm/bpf"]],
        Privilege::Module => {
            &[&["lsm/kernel_read_file", "lsm/kernel_load_data", "lsm/kernel_module_request"]]
        }
        Privilege::SetId => &[&["lsm/task_fix_setuid", "lsm/task_fix_setgid", "lsm/task_fix_setgroups"]],
        Privilege::RawSocket | Privilege::OtherSocket => &[&["lsm/socket_create"]],
        Privilege::Device => &[&["lsm/path_mknod"]],
        Privilege::Namespace => &[&["lsm/capable", "lsm/task_alloc"]],
        Privilege::IoUring => &[&["lsm/inode_init_security_anon"]],
        Privilege::Perf => &[&["lsm/perf_event_open"]],
    }
}

/// Every rule that blocks something, in the policy's order, and how much of it the programs here refuse.
pub fn holds(image: &Image, protection: &Protection) -> Vec<RuleHold> {
    let mut rules: BTreeMap<u16, Pieces> = BTreeMap::new();
    let mut note = |entry: &Entry, lists: Lists| {
        if entry.action == PolicyAction::Block {
            rules.entry(entry.rule).or_default().add(lists, protection);
        }
    };
    let entries = image.paths.iter().flat_map(|row| &row.entries);
    let entries = entries.chain(image.abstract_names.iter().flat_map(|row| &row.entries));
    let entries =
        entries.chain(image.addresses.iter().flat_map(|row| row.entries.iter().map(|(_, entry)| entry)));
    for entry in entries.chain(&image.defaults) {
        for effect in Effect::ALL.iter().filter(|effect| entry.effects.contains((**effect).into())) {
            note(entry, hooks_of(*effect));
        }
    }
    // Nobody asks about the name of a question where no rule is about names.
    let names =
        !image.hosts.is_empty() || image.defaults.iter().any(|entry| entry.effects.contains(Effects::DNS));
    if let Some(entry) = &image.unresolved {
        let effects = Effect::ALL.iter().filter(|effect| entry.effects.contains((**effect).into()));
        for effect in effects.filter(|effect| names || **effect != Effect::Dns) {
            note(entry, hooks_of(*effect));
        }
    }
    for (_, entry) in image.hosts.iter().flat_map(|row| &row.entries) {
        note(entry, NAMES);
    }
    for (privilege, entry) in &image.privileges {
        note(entry, hooks_of_privilege(*privilege));
    }
    rules.into_iter().map(|(rule, pieces)| pieces.of(words::rule_id(image, rule))).collect()
}

/// Alternatives, each of which needs all its hooks.
type Lists = &'static [&'static [&'static str]];

/// What a rule blocks, piece by piece.
#[derive(Debug, Default)]
struct Pieces {
    held: bool,
    unheld: bool,
    /// What holds what is held, if not BPF LSM.
    mechanism: Option<Mechanism>,
    reasons: Vec<String>,
}

impl Pieces {
    fn add(&mut self, lists: Lists, protection: &Protection) {
        let missing = |hooks: &&&'static [&'static str]| hooks.iter().any(|hook| !works(hook, protection));
        if let Some(holding) = lists.iter().find(|hooks| !missing(hooks)) {
            if holding.contains(&RESOLVER) {
                self.mechanism = Some(Mechanism::Resolver);
            } else if holding.iter().any(|hook| hook.starts_with("cgroup/")) {
                self.mechanism = self.mechanism.or(Some(Mechanism::Cgroup));
            }
            self.held = true;
            return;
        }
        self.unheld = true;
        let reason = match lists.first() {
            Some(hooks) if hooks.contains(&RESOLVER) => unresolved(protection),
            Some(hooks) if protection.level == Level::Lsm => {
                let missing = hooks.iter().filter(|hook| !works(hook, protection));
                let missing: Vec<_> = missing.copied().collect();
                format!("not attached: {}", missing.join(", "))
            }
            Some(_) => "BPF LSM is not active".to_owned(),
            None => "the kernel has no hook for it that can refuse".to_owned(),
        };
        if !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }

    fn of(self, rule: String) -> RuleHold {
        let held = match (self.held, self.unheld) {
            (_, false) => Held::Whole,
            (true, true) => Held::Part,
            (false, true) => Held::Nothing,
        };
        let mechanism = self.mechanism.unwrap_or(Mechanism::Lsm);
        RuleHold { rule, mechanism, held, reasons: self.reasons }
    }
}

/// Why names are not resolved here.
fn unresolved(protection: &Protection) -> String {
    let found = protection.capabilities.iter().find(|capability| capability.name == RESOLVER);
    let reason = found.map_or("", |capability| capability.reason.as_str());
    if reason.is_empty() {
        "names are not resolved here".to_owned()
    } else {
        format!("no resolver: {reason}")
    }
}

fn works(hook: &str, protection: &Protection) -> bool {
    let same = protection.capabilities.iter().find(|capability| capability.name == hook);
    // Degraded: another hook does its work.
    same.is_some_and(|capability| capability.state != CapabilityState::Missing)
        && (protection.level == Level::Lsm || !hook.starts_with("lsm/"))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::{
        enforce::sample,
        model::{Capability, Effects},
        policy::image::{AddressRow, HostRow, Ports},
    };

    fn protection(level: Level, working: &[&str], missing: &[&str]) -> Protection {
        let capability =
            |name: &&str, state| Capability { name: (*name).to_owned(), state, reason: String::new() };
        let working = working.iter().map(|name| capability(name, CapabilityState::Available));
        let missing = missing.iter().map(|name| capability(name, CapabilityState::Missing));
        let capabilities = working.chain(missing).collect();
        Protection { level, level_reason: String::new(), capabilities, table: Vec::new(), rules: Vec::new() }
    }

    /// Level, hooks that work, hooks that do not, and the rules that are then not held.
    type Case<'a> = (Level, &'a [&'a str], &'a [&'a str], &'a [&'a str]);

    #[test]
    fn a_rule_is_held_by_the_hooks_that_work() {
        let mut image = sample::blocking(&["/a", "/b", "/c"]);
        let net = Entry { effects: Effects::NET_CONNECT, ..sample::entry(3) };
        image.addresses.push(AddressRow {
            network: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            length: 0,
            entries: vec![(Ports::ANY, net)],
        });
        image.privileges.push((Privilege::Bpf, Entry { effects: Effects::empty(), ..sample::entry(4) }));
        if let Some(entry) = image.paths.get_mut(1).and_then(|row| row.entries.first_mut()) {
            entry.action = PolicyAction::Alert;
        }
        let lsm = ["lsm/file_open", "lsm/socket_connect", "lsm/socket_sendmsg", "lsm/bpf"];
        let cgroup = ["cgroup/connect4", "cgroup/connect6", "cgroup/sendmsg4", "cgroup/sendmsg6"];
        let cases: [Case<'_>; 5] = [
            (Level::Lsm, &lsm, &[], &[]),
            (Level::Lsm, &lsm[..3], &["lsm/bpf"], &["number 4"]),
            (Level::Tracepoint, &cgroup, &[], &["rule-/a", "rule-/c", "number 4"]),
            (Level::Tracepoint, &cgroup[..3], &[], &["rule-/a", "rule-/c", "number 3", "number 4"]),
            (Level::Tracepoint, &lsm, &[], &["rule-/a", "rule-/c", "number 3", "number 4"]),
        ];
        for (level, working, missing, expected) in cases {
            let found = holds(&image, &protection(level, working, missing));
            let unheld = found.iter().filter(|hold| hold.held != Held::Whole);
            let unheld: Vec<_> = unheld.map(|hold| hold.rule.as_str()).collect();
            assert_eq!(unheld, expected, "{level:?} {working:?}");
            assert!(found.iter().all(|hold| (hold.held == Held::Whole) == hold.reasons.is_empty()));
        }
    }

    #[test]
    fn names_need_the_resolver_at_every_level() {
        let host = |entry| HostRow {
            labels: vec!["a".to_owned()],
            below: false,
            entries: vec![(Ports::ANY, entry)],
        };
        let block = |effects, rule| Entry { effects, ..sample::entry(rule) };
        let image = Image {
            hosts: vec![host(block(Effects::DNS, 0)), host(block(Effects::NET_CONNECT, 1))],
            defaults: vec![block(Effects::DNS, 2)],
            ..Image::default()
        };
        // Where no rule is about names, what cannot be resolved is no name.
        let files = Effects::FILE_READ | Effects::DNS;
        let nameless = Image { unresolved: Some(block(files, 0)), ..Image::default() };
        let held = |image: &Image| holds(image, &protection(Level::Lsm, &["lsm/file_open"], &[]));
        assert_eq!(held(&nameless).first().map(|hold| hold.held), Some(Held::Whole));
        let named = Image { unresolved: nameless.unresolved, ..image.clone() };
        assert_eq!(held(&named).first().map(|hold| hold.held), Some(Held::Part));

        let cgroup = ["cgroup/connect4", "cgroup/connect6", "cgroup/sendmsg4", "cgroup/sendmsg6", RESOLVER];
        for level in [Level::Lsm, Level::Tracepoint] {
            let found = holds(&image, &protection(level, &cgroup, &[]));
            let all: Vec<_> = found.iter().map(|hold| (hold.held, hold.mechanism)).collect();
            assert_eq!(all, [(Held::Whole, Mechanism::Resolver); 3]);
            let mut without = protection(level, &cgroup[..4], &[RESOLVER]);
            without.capabilities.last_mut().unwrap().reason = "no loopback".to_owned();
            for hold in holds(&image, &without) {
                assert_eq!(
                    (hold.held, hold.reasons),
                    (Held::Nothing, vec!["no resolver: no loopback".to_owned()])
                );
            }
            let silent = holds(&image, &protection(level, &cgroup[..4], &[]));
            assert!(silent.iter().all(|hold| hold.held == Held::Nothing));
        }
    }

    #[test]
    fn what_nothing_refuses_is_never_held() {
        let io_uring = Entry { effects: Effects::empty(), ..sample::entry(0) };
        let image = Image { privileges: vec![(Privilege::IoUring, io_uring)], ..Image::default() };
        let found = holds(&image, &protection(Level::Lsm, &["io_uring_create"], &[]));
        assert_eq!(found.iter().map(|hold| hold.held).collect::<Vec<_>>(), [Held::Nothing]);
    }
}
