//! Leaving the tree: daemons, other parents, other cgroups, floods. Membership ends with the process, not before.

use std::{
    fs,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use nix::unistd::{ForkResult, fork, pipe, setsid};

use super::{
    Case, Proof, case,
    steps::{in_child, read, report, reported, run, unsupported},
};
use crate::{
    arena::Class::Files,
    sys::{self, exit_now, sys},
};

pub(super) const CASES: &[Case] = &[
    case("setsid", Files, Proof::Secret, |target| {
        in_child(|| {
            setsid()?;
            read(target.secret())
        })
    }),
    case("double-fork", Files, Proof::Secret, |target| reparented(|| read(target.secret()))),
    case("daemonised-exec", Files, Proof::Secret, |target| {
        reparented(|| {
            run(Command::new(target.arena.program()).arg0("daemon").arg("read").arg(target.secret()))
        })
    }),
    case("clone-parent", Files, Proof::Secret, |target| {
        let (output, input) = pipe()?;
        let flags = libc::CLONE_PARENT as u64;
        let cloned =
            in_child_with(&CloneArgs { flags, ..CloneArgs::default() }, input, || read(target.secret()));
        cloned.context("clone3")?;
        Ok(reported(output)?.0)
    }),
    case("vfork-exec", Files, Proof::Secret, |target| {
        let (program, path) = (sys::cpath(target.arena.program()), sys::cpath(target.secret()));
        let arguments = [c"suite".as_ptr(), c"read".as_ptr(), path.as_ptr(), std::ptr::null()];
        spawn_vfork(&program, &arguments)
    }),
    case("exec-chain", Files, Proof::Secret, |target| {
        let script = format!("exec sh -c 'exec sh -c \"exec cat {}\"'", target.secret().display());
        run(Command::new("/bin/sh").args(["-c", &script]))
    }),
    case("thread-read", Files, Proof::Secret, |target| {
        let path = target.secret();
        std::thread::spawn(move || read(path))
            .join()
            .map_err(|panic| anyhow::anyhow!("the thread panicked: {panic:?}"))?
    }),
    case("cgroup-clone", Files, Proof::Secret, |target| {
        let cgroup = OtherCgroup::new()?;
        let directory = fs::File::open(&cgroup.0)?;
        let (output, input) = pipe()?;
        let into = CloneArgs {
            flags: 0x2_0000_0000,
            exit_signal: libc::SIGCHLD as u64,
            cgroup: directory.as_raw_fd() as u64,
            ..CloneArgs::default()
        };
        in_child_with(&into, input, || read(target.secret())).context("clone3 into another cgroup")?;
        Ok(reported(output)?.0)
    }),
    case("cgroup-move", Files, Proof::Secret, |target| {
        let cgroup = OtherCgroup::new()?;
        in_child(|| {
            fs::write(cgroup.0.join("cgroup.procs"), "0").context("cgroup.procs")?;
            read(target.secret())
        })
    }),
    case("cgroup-move-connect", Files, Proof::Service, |target| {
        let cgroup = OtherCgroup::new()?;
        in_child(|| {
            fs::write(cgroup.0.join("cgroup.procs"), "0").context("cgroup.procs")?;
            super::net::tcp(target.endpoints().v4)
        })
    }),
    case("flood-then-read", Files, Proof::Secret, |target| {
        // More records than any buffer holds, then the act: what is dropped is a record, never a verdict.
        for _ in 0..20_000 {
            sys::open("/", libc::O_PATH | libc::O_DIRECTORY)?;
            sys::open("/dev/null", libc::O_RDONLY)?;
        }
        read(target.secret())
    }),
    case("fork-storm-then-read", Files, Proof::Secret, |target| {
        for _ in 0..300 {
            in_child(|| Ok(b"x".to_vec()))?;
        }
        in_child(|| read(target.secret()))
    }),
];

/// Argument of clone3(2).
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Clones; what the child got is in the pipe.
fn in_child_with(
    arguments: &CloneArgs,
    input: OwnedFd,
    act: impl FnOnce() -> Result<Vec<u8>>,
) -> std::io::Result<()> {
    let pid = sys!(libc::SYS_clone3, std::ptr::from_ref(arguments), size_of::<CloneArgs>())?;
    if pid == 0 {
        exit_now(report(input, act()));
    }
    Ok(())
}

/// Runs `act` in a process whose parent is gone.
fn reparented(act: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    let (output, input) = pipe()?;
    // SAFETY: cases fork while they have one thread.
    if let ForkResult::Child = unsafe { fork() }? {
        drop(output);
        let _ = setsid();
        let middle = std::process::id();
        // SAFETY: as above.
        if let Ok(ForkResult::Child) = unsafe { fork() } {
            sys::wait_until(30, || nix::unistd::getppid().as_raw() as u32 != middle);
            exit_now(report(input, act()));
        }
        exit_now(0);
    }
    drop(input);
    let (bytes, error) = reported(output)?;
    ensure!(!bytes.is_empty(), error);
    Ok(bytes)
}

/// Starts a program in a child that borrows our memory until then; its output is ours.
fn spawn_vfork(program: &std::ffi::CStr, arguments: &[*const libc::c_char]) -> Result<Vec<u8>> {
    let mut pid = 0;
    let environment = [std::ptr::null_mut()];
    // SAFETY: all pointers outlive the call.
    let failed = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            std::ptr::null(),
            std::ptr::null(),
            arguments.as_ptr().cast(),
            environment.as_ptr(),
        )
    };
    ensure!(failed == 0, "posix_spawn: errno {failed}");
    let status = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None)?;
    ensure!(status == nix::sys::wait::WaitStatus::Exited(nix::unistd::Pid::from_raw(pid), 0), "{status:?}");
    Ok(Vec::new())
}

/// A cgroup that is not the session's. Goes again.
struct OtherCgroup(PathBuf);

impl OtherCgroup {
    fn new() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mount = mounts.lines().find_map(|line| {
            let (place, what) = line.split_once(" - ")?;
            what.starts_with("cgroup2 ").then(|| place.split(' ').nth(4).map(PathBuf::from))?
        });
        let Some(mount) = mount else { return unsupported("no cgroup2 hierarchy is mounted") };
        let path = mount.join(format!("suite-bypass-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("{}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for OtherCgroup {
    fn drop(&mut self) {
        let path: &Path = &self.0;
        sys::wait_until(5, || fs::remove_dir(path).is_ok());
    }
}
