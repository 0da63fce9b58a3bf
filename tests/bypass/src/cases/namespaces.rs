//! The same act from inside new namespaces: other ids, other pids, other mounts. A rule belongs to the task, not to where
//! it stands.

use std::fs;

use anyhow::Context;
use nix::sched::{CloneFlags, setns};

use super::{
    Case, Proof, case,
    steps::{in_child, namespaces, read, user_namespace},
};
use crate::{
    arena::Class::Files,
    sys::{self, sys},
};

pub(super) const CASES: &[Case] = &[
    case("user-namespace", Files, Proof::Secret, |target| {
        user_namespace()?;
        read(target.secret())
    }),
    case("pid-namespace", Files, Proof::Secret, |target| {
        namespaces(CloneFlags::CLONE_NEWPID)?;
        in_child(|| {
            anyhow::ensure!(std::process::id() == 1, "not the first process of a namespace");
            read(target.secret())
        })
    }),
    case("mount-namespace", Files, Proof::Secret, |target| {
        super::steps::own_mounts()?;
        fs::create_dir("proc")?;
        read(target.secret())
    }),
    case("all-namespaces", Files, Proof::Secret, |target| {
        namespaces(
            CloneFlags::CLONE_NEWNS
                | CloneFlags::CLONE_NEWPID
                | CloneFlags::CLONE_NEWNET
                | CloneFlags::CLONE_NEWUTS
                | CloneFlags::CLONE_NEWIPC
                | CloneFlags::CLONE_NEWCGROUP,
        )?;
        in_child(|| read(target.secret()))
    }),
    case("setns-outside", Files, Proof::Secret, |target| {
        let victim = target.victim()?.pid;
        for (name, flag) in [("mnt", CloneFlags::CLONE_NEWNS), ("net", CloneFlags::CLONE_NEWNET)] {
            let file = fs::File::open(format!("/proc/{victim}/ns/{name}"))?;
            setns(file, flag).with_context(|| format!("setns of {name}"))?;
        }
        read(target.secret())
    })
    .victim(),
    case("setuid-other", Files, Proof::Secret, |target| {
        fs::set_permissions(target.secret(), std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .or_else(|_| fs::metadata(target.secret()).map(drop))?;
        sys!(libc::SYS_setresuid, 12345, 12345, 12345)?;
        read(target.secret())
    })
    .set_up(|target| {
        Ok(fs::set_permissions(target.secret(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?)
    }),
    case("keyctl-session", Files, Proof::Secret, |target| {
        // A new session keyring, new limits, no capabilities: credentials are not membership.
        let name = sys::c("other");
        let _ = sys!(libc::SYS_keyctl, 1, name.as_ptr());
        sys!(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)?;
        read(target.secret())
    }),
];
