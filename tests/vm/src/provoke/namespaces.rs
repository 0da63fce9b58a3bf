//! Namespaces of every kind: left, entered, and given to a child.

use std::{fs, os::fd::AsRawFd};

use anyhow::Result;
use defenseclaw::model::{Action, EventKind, ExitStatus, Level, NamespaceOp, Namespaces};

use super::{
    Stage,
    tree::{CloneArgs, forked_into},
};
use crate::{
    sys::{self, sys},
    truth::{Times, switched},
};

const KINDS: [(&str, Namespaces); 8] = [
    ("mount", Namespaces::MOUNT),
    ("uts", Namespaces::UTS),
    ("ipc", Namespaces::IPC),
    ("cgroup", Namespaces::CGROUP),
    ("network", Namespaces::NET),
    ("pid", Namespaces::PID),
    ("time", Namespaces::TIME),
    ("user", Namespaces::USER),
];

/// At level `lsm` the creation of a user namespace is a hook of its own, besides what the task becomes.
fn user_created(stage: &mut Stage, step: &str) {
    let action = Action::Namespace { operation: NamespaceOp::UserCreate, namespaces: Namespaces::USER };
    let claim = stage.claim(&format!("{step}: created"), "unshare", action).only(Level::Lsm);
    // Before it has another user namespace, or after.
    claim.uid = None;
}

pub(crate) fn unshare(stage: &mut Stage) -> Result<()> {
    for (step, namespaces) in KINDS {
        stage.in_child(step, |stage| {
            if let Err(error) = sys!(libc::SYS_unshare, namespaces.bits()) {
                stage.skip(step, &format!("{step}_namespace"), format!("unshare: {error}"));
                return Ok(());
            }
            let [first, second] = switched(namespaces, NamespaceOp::Unshare);
            let claim = stage.claim(step, "unshare", first).or(second).result(0);
            // A process in a new user namespace has no id that the old one knows, by its own eyes.
            claim.uid = (namespaces != Namespaces::USER).then_some(0);
            if namespaces == Namespaces::USER {
                user_created(stage, step);
                // The task itself changes by its credentials, which the switch need not show.
                let at = stage.truth.claims.len() - 2;
                stage.truth.claims[at].only(Level::Tracepoint);
            }
            Ok(())
        })?;
    }
    // More than one at once, and one that changes nothing.
    stage.in_child("two at once", |stage| {
        let both = Namespaces::UTS | Namespaces::IPC;
        sys!(libc::SYS_unshare, both.bits())?;
        let [first, second] = switched(both, NamespaceOp::Unshare);
        stage.claim("two at once", "unshare", first).or(second).result(0);
        Ok(())
    })?;
    Ok(())
}

pub(crate) fn clone(stage: &mut Stage) -> Result<()> {
    for (step, namespaces) in KINDS {
        // A child in another time namespace cannot be made by clone3 with this flag.
        if namespaces == Namespaces::TIME {
            continue;
        }
        match CloneArgs::with_flags(namespaces.bits()).fork(|| 21) {
            Ok(pid) => {
                forked_into(stage, step, pid, namespaces)?;
                let status = stage.reap(step, pid)?;
                anyhow::ensure!(status == ExitStatus::Code(21), "{step}: {status:?}");
                if namespaces == Namespaces::USER {
                    user_created(stage, step);
                }
            }
            Err(error) => stage.skip(step, &format!("{step}_namespace"), format!("clone3: {error}")),
        }
    }
    Ok(())
}

pub(crate) fn setns(stage: &mut Stage) -> Result<()> {
    // A child of its own namespace, which waits until it may go.
    let (read, write) = nix::unistd::pipe()?;
    let (ready_read, ready_write) = nix::unistd::pipe()?;
    let held = write.as_raw_fd();
    let pid = stage.spawn("owner of the namespace", || {
        // SAFETY: this copy would keep the pipe open.
        unsafe { libc::close(held) };
        let failed = sys!(libc::SYS_unshare, Namespaces::UTS.bits()).is_err();
        let _ = nix::unistd::write(&ready_write, b"r");
        let _ = nix::unistd::read(&read, &mut [0]);
        i32::from(failed)
    })?;
    nix::unistd::read(&ready_read, &mut [0])?;
    let namespace = fs::File::open(format!("/proc/{pid}/ns/uts"))?;
    stage.in_child("setns", |stage| {
        sys!(libc::SYS_setns, namespace.as_raw_fd(), Namespaces::UTS.bits())?;
        let [first, second] = switched(Namespaces::UTS, NamespaceOp::Setns);
        let nothing_known =
            Action::Namespace { operation: NamespaceOp::Setns, namespaces: Namespaces::empty() };
        stage.claim("setns", "setns", first).or(second).or(nothing_known).result(0).times(Times::Once);
        Ok(())
    })?;
    drop(write);
    let status = stage.reap("owner of the namespace", pid)?;
    anyhow::ensure!(status == ExitStatus::Code(0), "unshare in the child failed");

    // Fails: not a namespace.
    stage.in_child("failed setns", |stage| {
        let failed = sys!(libc::SYS_setns, -1, 0);
        anyhow::ensure!(sys::errno(&failed) == libc::EBADF, "setns of nothing: {failed:?}");
        stage.never("failed setns", EventKind::Namespace, "switch");
        Ok(())
    })?;
    Ok(())
}
