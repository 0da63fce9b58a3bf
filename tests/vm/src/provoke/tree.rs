//! Ways to leave a process tree without leaving the session, and pids that mean two processes.

use std::{
    fs,
    io::Read,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::MetadataExt,
        },
    },
};

use anyhow::{Context, Result, ensure};
use defenseclaw::model::{Action, ExitStatus, Namespaces, NetEndpoint, Transport};
use nix::unistd::{ForkResult, fork, pipe, setsid};

use super::{
    Stage,
    exec::{self, Start},
};
use crate::sys::{self, c, sys};

/// setsid, fork, and the middle process ends: the classic daemon, whose parent is somebody else then.
pub(crate) fn daemon(stage: &mut Stage) -> Result<()> {
    stage.in_child("session leader", |stage| {
        setsid()?;
        stage.make("by the session leader")?;
        Ok(())
    })?;

    let (read, write) = pipe()?;
    let middle = stage.start_child("daemon", |stage| {
        setsid()?;
        let middle = sys::pid();
        // SAFETY: this process has one thread.
        if let ForkResult::Parent { child } = unsafe { fork() }? {
            stage.forked("daemon proper", child.as_raw() as u32)?;
            return Ok(());
        }
        sys::deadline(60);
        sys::wait_until(30, || nix::unistd::getppid().as_raw() as u32 != middle);
        let made = fs::write("by the daemon", b"x").is_ok();
        // The pipe ends with this process, and only then.
        sys::exit_now(if made { 33 } else { 34 })
    })?;
    drop(write);
    stage.finish_child("daemon", middle)?;
    // Ends when the daemon has ended.
    fs::File::from(read).read_to_end(&mut Vec::new())?;
    let pid = stage
        .truth
        .claims
        .iter()
        .rev()
        .find_map(|claim| match (&claim.step[..], &claim.actions[0]) {
            ("daemon proper: fork", Action::ProcessFork { child, .. }) => Some(child.tgid),
            _ => None,
        })
        .context("the middle process did not say whom it forked")?;
    let file = Stage::file_at(&stage.path("by the daemon"))?;
    let access = defenseclaw::model::Access::WRITE
        | defenseclaw::model::Access::CREATE
        | defenseclaw::model::Access::TRUNCATE;
    stage.claim("reparented process makes a file", "openat", Action::FileCreate { file, access }).tgid(pid);
    let status = ExitStatus::Code(33);
    stage.claim("reparented process: exit", "exit", Action::ProcessExit { status }).tgid(pid);
    Ok(())
}

/// Children that borrow the parent's memory until they execute.
pub(crate) fn vfork(stage: &mut Stage) -> Result<()> {
    extern "C" fn child(start: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the parent waits in clone until this child executes, so `start` outlives it.
        unsafe { &*start.cast::<Start>() }.exec()
    }
    let program = stage.program().into_os_string().into_vec();
    let start = Start::new(&program, &[b"prog", b"exit", b"0"]);
    let expected = exec::expected(stage, &start, Stage::file_at(&stage.program())?)?;
    let mut stack = vec![0_u128; 64 * 1024];
    // SAFETY: the stack is large enough and the child uses it only while the parent waits; vfork(2) is this call.
    let pid = unsafe {
        libc::clone(
            child,
            stack.as_mut_ptr_range().end.cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            (&raw const start).cast_mut().cast(),
        )
    };
    ensure!(pid > 0, "clone: {}", std::io::Error::last_os_error());
    stage.forked("vfork", pid as u32)?;
    ensure!(stage.reap("vfork", pid as u32)? == ExitStatus::Code(0), "vfork: exec failed");
    exec::claim(stage, "vfork: exec", "execve", pid as u32, expected.clone());

    let mut pid = 0;
    let (file, argument, code) = (c(&program), c("exit"), c("0"));
    let argv = [c"prog".as_ptr(), argument.as_ptr(), code.as_ptr(), std::ptr::null()];
    let env = [c"PATH=/bin".as_ptr(), std::ptr::null()];
    // SAFETY: all pointers outlive the call.
    let failed = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            file.as_ptr(),
            std::ptr::null(),
            std::ptr::null(),
            argv.as_ptr().cast(),
            env.as_ptr().cast(),
        )
    };
    ensure!(failed == 0, "posix_spawn: errno {failed}");
    stage.forked("posix_spawn", pid as u32)?;
    ensure!(stage.reap("posix_spawn", pid as u32)? == ExitStatus::Code(0), "posix_spawn: exec failed");
    exec::claim(stage, "posix_spawn: exec", "execve", pid as u32, expected);
    Ok(())
}

/// The thread that executes takes the place of the leader; identity and start stay, and nothing has exited.
pub(crate) fn exec_from_thread(stage: &mut Stage) -> Result<()> {
    let program = stage.program().into_os_string().into_vec();
    let start = Start::new(&program, &[b"prog", b"exit", b"6"]);
    let expected = exec::expected(stage, &start, Stage::file_at(&stage.program())?)?;
    let pid = stage.spawn("exec from a thread", move || {
        let _ = std::thread::spawn(move || start.exec()).join();
        96
    })?;
    ensure!(stage.reap("exec from a thread", pid)? == ExitStatus::Code(6), "exec from a thread failed");
    exec::claim(stage, "exec from a thread", "execve", pid, expected);
    Ok(())
}

/// Argument of clone3(2).
#[repr(C, align(8))]
#[derive(Default)]
pub(crate) struct CloneArgs {
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

impl CloneArgs {
    /// A plain fork into these new namespaces.
    pub(crate) fn with_flags(flags: u64) -> Self {
        Self { flags, exit_signal: libc::SIGCHLD as u64, ..Self::default() }
    }

    /// Forks with these arguments.
    pub(crate) fn fork(&self, act: impl FnOnce() -> i32) -> std::io::Result<u32> {
        let pid = sys!(libc::SYS_clone3, std::ptr::from_ref(self), size_of::<Self>())?;
        if pid == 0 {
            sys::deadline(60);
            sys::exit_now(act());
        }
        Ok(pid as u32)
    }
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

pub(crate) fn other_cgroup(stage: &mut Stage) -> Result<()> {
    let Some(mount) = sys::cgroup_mount() else {
        stage.skip("clone3 into another cgroup", "cgroup2", "no cgroup2 hierarchy is mounted");
        return Ok(());
    };
    let cgroup = mount.join(format!("suite-vm-{}", sys::pid()));
    fs::create_dir(&cgroup).with_context(|| format!("{}", cgroup.display()))?;
    let id = fs::metadata(&cgroup)?.ino();
    let result = in_cgroup(stage, &cgroup, id);
    sys::wait_until(10, || fs::remove_dir(&cgroup).is_ok());
    result
}

fn in_cgroup(stage: &mut Stage, cgroup: &std::path::Path, id: u64) -> Result<()> {
    let step = "clone3 into another cgroup";
    let directory: OwnedFd = fs::File::open(cgroup)?.into();
    let arguments =
        CloneArgs { cgroup: directory.as_raw_fd() as u64, ..CloneArgs::with_flags(CLONE_INTO_CGROUP) };
    let path = stage.make("read from the other cgroup")?;
    let name = c(path.as_os_str().as_bytes());
    let pid = arguments.fork(|| {
        let opened = sys!(libc::SYS_openat, libc::AT_FDCWD, name.as_ptr(), libc::O_RDONLY, 0).is_ok();
        // A network program that is tied to the session's own cgroup is not asked about this socket.
        let socket =
            std::net::UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.connect("127.0.0.1:4999"));
        i32::from(!opened || socket.is_err())
    })?;
    stage.forked(step, pid)?;
    ensure!(stage.reap(step, pid)? == ExitStatus::Code(0), "{step}: the child failed");
    let file = Stage::file_at(&path)?;
    let access = defenseclaw::model::Access::READ;
    stage.claim("open from another cgroup", "openat", Action::FileOpen { file, access }).tgid(pid).cgroup(id);
    let endpoint = NetEndpoint {
        transport: Transport::Udp,
        address: Some([127, 0, 0, 1].into()),
        port: 4999,
        family: libc::AF_INET as u16,
    };
    stage
        .claim("connect from another cgroup", "connect", Action::NetConnect { endpoint })
        .tgid(pid)
        .cgroup(id)
        .result(0);
    Ok(())
}

/// Two processes with one pid, which only their start tells apart.
pub(crate) fn pid_reuse(stage: &mut Stage) -> Result<()> {
    let first = stage.spawn("first owner of the pid", || 11)?;
    stage.reap("first owner of the pid", first)?;
    // A start is known in clock ticks: let two of them pass.
    let later = sys::boottime() + 2 * crate::truth::TICK_NS;
    sys::wait_until(5, || sys::boottime() > later);
    let wanted = [first as i32];
    let arguments =
        CloneArgs { set_tid: wanted.as_ptr() as u64, set_tid_size: 1, ..CloneArgs::with_flags(0) };
    match arguments.fork(|| i32::from(fs::write("by the second owner", b"x").is_err()) + 12) {
        Ok(second) => {
            ensure!(second == first, "clone3 gave pid {second} instead of {first}");
            let ticks = sys::start_ticks(second)?;
            ensure!(!stage.truth.started.contains(&(second, ticks)), "both owners started in the same tick");
            stage.forked("second owner of the pid", second)?;
            stage.reap("second owner of the pid", second)?;
        }
        Err(error) => stage.skip("pid reuse", "pid_reuse", format!("clone3 with set_tid: {error}")),
    }
    Ok(())
}

/// A fork that does not share `namespaces` with its parent.
pub(crate) fn forked_into(stage: &mut Stage, step: &str, child: u32, namespaces: Namespaces) -> Result<()> {
    let child = stage.know(child)?;
    stage.claim(&format!("{step}: fork"), "fork", Action::ProcessFork { child, namespaces });
    Ok(())
}
