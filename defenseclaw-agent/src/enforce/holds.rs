//! Which rules of a policy block where nothing here can hold them: told from the hooks that work.

use std::collections::BTreeSet;

use super::words;
use crate::{
    model::{CapabilityState, Effect, Level, PolicyAction, Privilege, Protection},
    policy::image::{Entry, Image},
};

/// What refuses an effect: all hooks of one of these lists. Names of users' resolution are held by the resolver, which
/// says so itself.
fn hooks_of(effect: Effect) -> &'static [&'static [&'static str]] {
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
        Effect::Dns => &[&[]],
    }
}

/// Likewise; nothing: nothing refuses it yet.
fn hooks_of_privilege(privilege: Privilege) -> &'static [&'static [&'static str]] {
    match privilege {
        Privilege::Ptrace => &[&["lsm/ptrace_access_check", "lsm/ptrace_traceme"]],
        Privilege::Inspect => &[&["lsm/ptrace_access_check"]],
        Privilege::Signal => &[&["lsm/task_kill"]],
        Privilege::Mount => &[&["lsm/sb_mount", "lsm/sb_umount", "lsm/move_mount", "lsm/sb_pivotroot"]],
        Privilege::Chroot => &[&["lsm/path_chroot"]],
        Privilege::UserNamespace => &[&["lsm/userns_create"]],
        Privilege::Bpf => &[&["lsm/bpf"]],
        Privilege::Module => {
            &[&["lsm/kernel_read_file", "lsm/kernel_load_data", "lsm/kernel_module_request"]]
        }
        Privilege::SetId => &[&["lsm/task_fix_setuid", "lsm/task_fix_setgid"]],
        Privilege::RawSocket | Privilege::OtherSocket => &[&["lsm/socket_create"]],
        Privilege::Device => &[&["lsm/path_mknod"]],
        Privilege::Namespace | Privilege::IoUring | Privilege::Perf => &[],
    }
}

/// Ids of the rules that would block here, and cannot; in the policy's order.
pub fn unheld(image: &Image, protection: &Protection) -> Vec<String> {
    let works = |hook: &&str| {
        let same = protection.capabilities.iter().find(|capability| capability.name == **hook);
        // Degraded: another hook does its work.
        same.is_some_and(|capability| capability.state != CapabilityState::Missing)
            && (protection.level == Level::Lsm || !hook.starts_with("lsm/"))
    };
    let held = |lists: &[&[&str]]| lists.iter().any(|hooks| hooks.iter().all(&works));
    let mut rules = BTreeSet::new();
    let mut note = |entry: &Entry| {
        let about = Effect::ALL.iter().filter(|effect| entry.effects.contains((**effect).into()));
        if entry.action == PolicyAction::Block && !about.copied().all(|effect| held(hooks_of(effect))) {
            rules.insert(entry.rule);
        }
    };
    image.paths.iter().flat_map(|row| &row.entries).for_each(&mut note);
    image.abstract_names.iter().flat_map(|row| &row.entries).for_each(&mut note);
    image.addresses.iter().flat_map(|row| &row.entries).for_each(|(_, entry)| note(entry));
    image.defaults.iter().for_each(&mut note);
    image.unresolved.iter().for_each(&mut note);
    for (privilege, entry) in &image.privileges {
        if entry.action == PolicyAction::Block && !held(hooks_of_privilege(*privilege)) {
            rules.insert(entry.rule);
        }
    }
    rules.into_iter().map(|rule| words::rule_id(image, rule)).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::{
        enforce::sample,
        model::{Capability, Effects},
        policy::image::{AddressRow, Ports},
    };

    fn protection(level: Level, working: &[&str], missing: &[&str]) -> Protection {
        let capability =
            |name: &&str, state| Capability { name: (*name).to_owned(), state, reason: String::new() };
        let working = working.iter().map(|name| capability(name, CapabilityState::Available));
        let missing = missing.iter().map(|name| capability(name, CapabilityState::Missing));
        Protection { level, level_reason: String::new(), capabilities: working.chain(missing).collect() }
    }

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
        let cases: [(Level, &[&str], &[&str], &[&str]); 5] = [
            (Level::Lsm, &lsm, &[], &[]),
            (Level::Lsm, &lsm[..3], &["lsm/bpf"], &["number 4"]),
            (Level::Tracepoint, &cgroup, &[], &["rule-/a", "rule-/c", "number 4"]),
            (Level::Tracepoint, &cgroup[..3], &[], &["rule-/a", "rule-/c", "number 3", "number 4"]),
            (Level::Tracepoint, &lsm, &[], &["rule-/a", "rule-/c", "number 3", "number 4"]),
        ];
        for (level, working, missing, expected) in cases {
            let found = unheld(&image, &protection(level, working, missing));
            assert_eq!(found, expected, "{level:?} {working:?}");
        }
    }

    #[test]
    fn what_nothing_refuses_is_never_held() {
        let io_uring = Entry { effects: Effects::empty(), ..sample::entry(0) };
        let image = Image { privileges: vec![(Privilege::IoUring, io_uring)], ..Image::default() };
        assert_eq!(unheld(&image, &protection(Level::Lsm, &["io_uring_create"], &[])), ["number 0"]);
    }
}
