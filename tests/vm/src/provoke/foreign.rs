//! Other processes: their memory, their control, signals to them.

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};
use defenseclaw::model::{Action, EventKind, Level, PtraceOp};
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::Pid,
};

use super::Stage;
use crate::sys::{self, sys};

/// A child that waits until the returned pipe ends.
fn waiting_child(stage: &mut Stage, step: &str, before: impl FnOnce()) -> Result<(u32, OwnedFd)> {
    let (read, write) = nix::unistd::pipe()?;
    let held = write.as_raw_fd();
    let pid = stage.spawn(step, move || {
        // SAFETY: the child has no use for its copy, which would keep the pipe open.
        unsafe { libc::close(held) };
        before();
        let mut byte = [0];
        let _ = nix::unistd::read(&read, &mut byte);
        0
    })?;
    Ok((pid, write))
}

pub(crate) fn ptrace(stage: &mut Stage) -> Result<()> {
    let request = |number: libc::c_uint, pid: u32, data: i64| sys!(libc::SYS_ptrace, number, pid, 0, data);
    let wait = |pid: u32| waitpid(Pid::from_raw(pid as i32), None);
    for (step, number) in [("attach", libc::PTRACE_ATTACH), ("seize", libc::PTRACE_SEIZE)] {
        let (pid, release) = waiting_child(stage, step, || ())?;
        let target = stage.key(pid);
        let result = request(number, pid, 0);
        if let Err(error) = &result {
            stage.skip(step, "ptrace", format!("ptrace {step}: {error}"));
        } else {
            let action = Action::Ptrace { operation: PtraceOp::Access, target, mode: 0 };
            stage.claim(step, "ptrace", action).result(0);
            if number == libc::PTRACE_SEIZE {
                request(libc::PTRACE_INTERRUPT, pid, 0)?;
            }
            wait(pid)?;
            request(libc::PTRACE_DETACH, pid, 0).context("detach")?;
        }
        drop(release);
        stage.reap(step, pid)?;
    }

    let (pid, release) = waiting_child(stage, "traceme", || {
        let _ = sys!(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, 0, 0);
    })?;
    let target = stage.key(stage.pid());
    drop(release);
    stage.reap("traceme", pid)?;
    let action = Action::Ptrace { operation: PtraceOp::Traceme, target, mode: 0 };
    stage.claim("traceme", "ptrace", action).tgid(pid).result(0);
    Ok(())
}

pub(crate) fn memory(stage: &mut Stage) -> Result<()> {
    let mut word = Box::new(0x1122_3344_5566_7788_u64);
    let address = &raw mut *word;
    let (pid, release) = waiting_child(stage, "target", || ())?;
    let target = stage.key(pid);
    let mut local = 0_u64;
    let here = libc::iovec { iov_base: (&raw mut local).cast(), iov_len: 8 };
    let there = libc::iovec { iov_base: address.cast(), iov_len: 8 };
    let action = |operation| Action::Ptrace { operation, target, mode: 0 };
    let calls = [
        ("process_vm_readv", libc::SYS_process_vm_readv, PtraceOp::VmRead),
        ("process_vm_writev", libc::SYS_process_vm_writev, PtraceOp::VmWrite),
    ];
    for (call, number, operation) in calls {
        let moved = sys!(number, pid, &raw const here, 1, &raw const there, 1, 0).context(call)?;
        ensure!(moved == 8, "{call} moved {moved} bytes");
        // The LSM hook knows that the memory was reached, not in which direction.
        stage.claim(call, call, action(operation)).result(8).only(Level::Tracepoint);
    }
    ensure!(local == *word, "the child has the value of its parent");
    let memory = fs::OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
    drop(memory);
    // Both calls and the open of mem ask for the same right.
    stage
        .claim("access to memory", "process_vm_readv", action(PtraceOp::Access))
        .only(Level::Lsm)
        .times(crate::truth::Times::AtLeastOnce);
    drop(release);
    stage.reap("target", pid)?;
    drop(word);
    Ok(())
}

pub(crate) fn signal(stage: &mut Stage) -> Result<()> {
    // Inside the tree: to a child, to a grandchild's group, to oneself.
    let (pid, release) = waiting_child(stage, "own child", || ())?;
    kill(Pid::from_raw(pid as i32), None)?;
    kill(Pid::from_raw(pid as i32), Signal::SIGTERM)?;
    drop(release);
    stage.reap("own child", pid)?;
    for own in [pid, sys::pid()] {
        stage.never("inside the tree", EventKind::Signal, &format!("\"tgid\":{own},"));
    }
    // SAFETY: an ignored signal to this process.
    unsafe {
        libc::signal(libc::SIGURG, libc::SIG_IGN);
        libc::kill(libc::getpid(), libc::SIGURG);
    }

    let Some(outside) = std::env::var("SUITE_OUTSIDE_PID").ok().and_then(|pid| pid.parse::<u32>().ok())
    else {
        stage.skip("outside the tree", "outside", "SUITE_OUTSIDE_PID names no process");
        return Ok(());
    };
    let target = stage.know(outside)?;
    let sent = |signal| Action::Signal { signal, target: Some(target) };
    kill(Pid::from_raw(outside as i32), None)?;
    stage.never("signal 0", EventKind::Signal, "\"signal\":0,");
    kill(Pid::from_raw(outside as i32), Signal::SIGUSR1)?;
    stage.claim("kill", "kill", sent(libc::SIGUSR1 as u32)).result(0);
    sys!(libc::SYS_tgkill, outside, outside, libc::SIGUSR2)?;
    stage.claim("tgkill", "tgkill", sent(libc::SIGUSR2 as u32)).result(0);
    let pidfd = sys::owned(sys!(libc::SYS_pidfd_open, outside, 0)?);
    sys!(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGURG, 0, 0)?;
    stage
        .claim("pidfd_send_signal", "pidfd_send_signal", sent(libc::SIGURG as u32))
        .result(0)
        .blind("blind/pidfd_signal");
    Ok(())
}
