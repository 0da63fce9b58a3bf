//! Getting at processes outside of the tree: their memory, environment, life. The twin is a process of the same tree.

use std::{fs, os::fd::AsRawFd};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::{ptrace, signal::Signal, wait::waitpid},
    unistd::{Pid, pipe},
};

use super::{Case, Proof, case, steps::read};
use crate::{
    arena::{Class::Files, victim::Victim},
    sys::{self, sys},
};

pub(super) const CASES: &[Case] = &[
    case("proc-environ", Files, Proof::Secret, |target| {
        read(format!("/proc/{}/environ", target.victim()?.pid))
    })
    .victim(),
    case("proc-mem-read", Files, Proof::Secret, |target| {
        let victim = target.victim()?;
        let memory = sys::open(format!("/proc/{}/mem", victim.pid), libc::O_RDONLY)?;
        let mut bytes = vec![0_u8; victim.length];
        let at = victim.address;
        sys!(libc::SYS_pread64, memory.as_raw_fd(), bytes.as_mut_ptr(), bytes.len(), at)?;
        Ok(bytes)
    })
    .victim(),
    case("proc-mem-write", Files, Proof::Victim, |target| {
        let victim = target.victim()?;
        let memory = sys::open(format!("/proc/{}/mem", victim.pid), libc::O_RDWR)?;
        done(sys!(libc::SYS_pwrite64, memory.as_raw_fd(), b"mine".as_ptr(), 4, victim.address))
    })
    .victim(),
    case("process-vm-readv", Files, Proof::Secret, |target| {
        let mut bytes = vec![0_u8; target.victim()?.length];
        let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        across(libc::SYS_process_vm_readv, target.victim()?, &local)?;
        Ok(bytes)
    })
    .victim(),
    case("process-vm-writev", Files, Proof::Victim, |target| {
        let local = libc::iovec { iov_base: b"mine".as_ptr().cast_mut().cast(), iov_len: 4 };
        done(across(libc::SYS_process_vm_writev, target.victim()?, &local))
    })
    .victim(),
    case("ptrace-attach", Files, Proof::Secret, |target| {
        let pid = Pid::from_raw(target.victim()?.pid as i32);
        ptrace::attach(pid)?;
        waitpid(pid, None)?;
        peek(target.victim()?)
    })
    .victim(),
    case("ptrace-seize", Files, Proof::Secret, |target| {
        let pid = Pid::from_raw(target.victim()?.pid as i32);
        ptrace::seize(pid, ptrace::Options::empty())?;
        ptrace::interrupt(pid)?;
        waitpid(pid, None)?;
        peek(target.victim()?)
    })
    .victim(),
    case("ptrace-poke", Files, Proof::Victim, |target| {
        let pid = Pid::from_raw(target.victim()?.pid as i32);
        ptrace::attach(pid)?;
        waitpid(pid, None)?;
        ptrace::write(pid, target.victim()?.address as ptrace::AddressType, 0x656e_696d)?;
        ptrace::detach(pid, None)?;
        Ok(b"done".to_vec())
    })
    .victim(),
    case("kill", Files, Proof::Victim, |target| {
        done(sys!(libc::SYS_kill, target.victim()?.pid, libc::SIGKILL))
    })
    .victim(),
    case("tgkill", Files, Proof::Victim, |target| {
        let pid = target.victim()?.pid;
        done(sys!(libc::SYS_tgkill, pid, pid, libc::SIGTERM))
    })
    .victim(),
    case("sigqueue", Files, Proof::Victim, |target| {
        let mut info = [0_i32; 32];
        // si_signo, si_errno, si_code: SI_QUEUE.
        (info[0], info[2]) = (libc::SIGTERM, -1);
        done(sys!(libc::SYS_rt_sigqueueinfo, target.victim()?.pid, libc::SIGTERM, info.as_ptr()))
    })
    .victim(),
    case("pidfd-signal", Files, Proof::Victim, |target| {
        let fd = sys::owned(sys!(libc::SYS_pidfd_open, target.victim()?.pid, 0)?);
        done(sys!(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), libc::SIGKILL, 0, 0))
    })
    .victim(),
    case("signal-by-descriptor", Files, Proof::Victim, |target| {
        // The kernel sends it for us when something arrives in the pipe.
        let (output, input) = pipe()?;
        let fd = output.as_raw_fd();
        sys!(libc::SYS_fcntl, fd, libc::F_SETOWN, target.victim()?.pid)?;
        sys!(libc::SYS_fcntl, fd, 10, Signal::SIGTERM as i32)?;
        sys!(libc::SYS_fcntl, fd, libc::F_SETFL, libc::O_ASYNC)?;
        done(sys!(libc::SYS_write, input.as_raw_fd(), b"x".as_ptr(), 1))
    })
    .victim(),
    case("limits-of-another", Files, Proof::Happened, |target| {
        let (pid, limit) = (target.victim()?.pid, [7_u64, 7]);
        sys!(libc::SYS_prlimit64, pid, libc::RLIMIT_CORE, limit.as_ptr(), 0)?;
        let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
        let core = limits.lines().find(|line| line.starts_with("Max core")).context("limits")?;
        ensure!(core.split_whitespace().nth(4) == Some("7"), "{core}");
        Ok(super::HAPPENED.to_vec())
    })
    .victim(),
    case("watcher-kill", Files, Proof::Happened, |target| {
        ensure!(target.daemon > 1, "nobody watches");
        sys!(libc::SYS_kill, target.daemon, libc::SIGKILL)?;
        ensure!(sys::wait_until(10, || !sys::alive(target.daemon)), "it lives");
        Ok(super::HAPPENED.to_vec())
    })
    .victim(),
];

fn done(result: std::io::Result<i64>) -> Result<Vec<u8>> {
    result?;
    Ok(b"done".to_vec())
}

/// process_vm_readv(2) or writev(2), between one piece here and the secret there.
fn across(number: i64, victim: &Victim, local: &libc::iovec) -> std::io::Result<i64> {
    let remote = libc::iovec { iov_base: victim.address as *mut libc::c_void, iov_len: local.iov_len };
    sys!(number, victim.pid, std::ptr::from_ref(local), 1, &raw const remote, 1, 0)
}

/// Reads the secret of a stopped process word by word, and lets it go.
fn peek(victim: &Victim) -> Result<Vec<u8>> {
    let pid = Pid::from_raw(victim.pid as i32);
    let mut bytes = Vec::new();
    for at in (0..victim.length as u64).step_by(8) {
        let word =
            ptrace::read(pid, (victim.address + at) as ptrace::AddressType).context("PTRACE_PEEKDATA")?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    ptrace::detach(pid, None)?;
    Ok(bytes)
}
