//! Makes the process that will become the command, and holds it before its first exec.
//!
//! The child reads from a pipe, the gate: one word lets it go on, end of file (we were killed) makes it exit. A second
//! pipe carries back what failed; a successful exec closes it.

use std::{
    ffi::OsString,
    mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use libc::{pid_t, sigset_t};
use nix::{
    errno::Errno,
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::{pipe2, read, write},
};

use super::{
    Cgroup, LaunchError, LaunchOptions, Placement, RunAs, Running,
    child::{self, ChildPlan, Failed, Ids},
    image::Image,
    inherited::sigset,
    landlock::Domain,
    process::{Child, open_pidfd, stat},
};
use crate::model::ProtectionRow;

/// `CLONE_INTO_CGROUP`; the C library's constant does not fit its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A process that waits before its first exec. Dropping it ends the process.
#[derive(Debug)]
pub struct Prepared {
    child: Child,
    start_ticks: u64,
    gate: OwnedFd,
    report: OwnedFd,
    placement: Placement,
    command: OsString,
    user: Option<RunAs>,
    table: Vec<ProtectionRow>,
}

/// Makes the process and its cgroup. No cgroup is not an error: see [`Placement`].
pub fn prepare(options: &LaunchOptions) -> Result<Prepared, LaunchError> {
    prepare_in(options, None)
}

/// Likewise, in a Landlock domain. Returns when the process has taken it on and has tried it out.
pub fn prepare_in(options: &LaunchOptions, domain: Option<&Domain>) -> Result<Prepared, LaunchError> {
    let image = Image::new(options, std::env::vars_os())?;
    let (gate_child, gate) = pipe2(OFlag::O_CLOEXEC).map_err(LaunchError::system("make a pipe"))?;
    let (report, report_child) = pipe2(OFlag::O_CLOEXEC).map_err(LaunchError::system("make a pipe"))?;
    let mut placement = Placement::create(options.session);
    let plan = ChildPlan {
        gate: gate_child.as_raw_fd(),
        gate_parent: gate.as_raw_fd(),
        report: report_child.as_raw_fd(),
        domain: domain.map(Domain::for_child),
        ids: options.user.as_ref().map(|user| Ids { uid: user.uid, gid: user.gid, groups: &user.groups }),
        candidates: &image.candidates,
        argv: image.argv.as_ptr(),
        envp: image.envp.as_ptr(),
    };
    let (child, is_inside) = start(placement.cgroup(), &plan)?;
    if !is_inside {
        placement.admit(child.pid);
    }
    // Ours: its end is the child's end.
    drop(report_child);
    let start_ticks = stat(child.pid)?.start_ticks;
    let command = options.command.first().cloned().unwrap_or_default();
    let user = options.user.clone();
    let mut prepared =
        Prepared { child, start_ticks, gate, report, placement, command, user, table: Vec::new() };
    if let Some(domain) = domain {
        prepared.table = domain.table(&prepared.try_out(domain.n_attempts())?);
    }
    Ok(prepared)
}

/// What a process does between its fork and its end, or its exec. It must keep to what is allowed after a fork of a
/// threaded process.
pub(super) trait ChildSide {
    fn run(&self) -> !;
}

impl ChildSide for ChildPlan<'_> {
    fn run(&self) -> ! {
        child::run(self)
    }
}

/// Makes a process that does nothing but `side`, in this cgroup if possible, and says whether it was. All signals are
/// blocked around the fork, so that none runs a handler of ours in the child.
pub(super) fn start(cgroup: Option<&Cgroup>, side: &dyn ChildSide) -> Result<(Child, bool), LaunchError> {
    let all = sigset(|_| true);
    let mut before = mem::MaybeUninit::<sigset_t>::zeroed();
    // SAFETY: both sets are ours; all zero is a valid set.
    let before = unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, before.as_mut_ptr());
        before.assume_init()
    };
    let started = start_blocked(cgroup, side);
    // SAFETY: `before` was filled by the call above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut()) };
    started
}

fn start_blocked(cgroup: Option<&Cgroup>, side: &dyn ChildSide) -> Result<(Child, bool), LaunchError> {
    if let Some(cgroup) = cgroup
        && let Ok(child) = clone_into(cgroup.as_fd().as_raw_fd(), side)
    {
        return Ok((child, true));
    }
    // No cgroup, or clone3 is forbidden (container seccomp filters) or refuses this one.
    // SAFETY: the child runs `side` only, which keeps to what is allowed after a fork of a threaded process.
    let pid = match unsafe { libc::fork() } {
        0 => side.run(),
        pid => Errno::result(pid).map_err(LaunchError::system("fork"))?,
    };
    let pidfd = open_pidfd(pid).inspect_err(|_| abandon(pid))?;
    Ok((Child::held(pid, pidfd), false))
}

/// The child is born in the cgroup: no moment outside of it, and no wait for the kernel's cgroup lock.
fn clone_into(cgroup: RawFd, side: &dyn ChildSide) -> Result<Child, Errno> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all zero is what clone3 takes as "not used" for every field.
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    args.flags = CLONE_INTO_CGROUP | u64::from(libc::CLONE_PIDFD.cast_unsigned());
    args.pidfd = (&raw mut pidfd).addr() as u64;
    args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    args.cgroup = u64::from(cgroup.cast_unsigned());
    // SAFETY: without CLONE_VM this is a fork: the child has its own copy of everything, and runs `side` only.
    // The kernel writes `pidfd` in the parent, before the call returns.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) } {
        0 => side.run(),
        -1 => Err(Errno::last()),
        pid => {
            // SAFETY: the kernel has just given us this descriptor, close-on-exec, and nobody else knows it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Child::held(pid_t::try_from(pid).unwrap_or(-1), pidfd))
        }
    }
}

/// Ends a child that cannot be held by a pidfd. It has not been reaped, so the pid is still its own.
fn abandon(pid: pid_t) {
    // SAFETY: numbers and a null pointer, which waitpid allows.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, ptr::null_mut(), 0);
    }
}

impl Prepared {
    /// Process id, in our pid namespace.
    pub fn pid(&self) -> pid_t {
        self.child.pid
    }

    /// When it started, in clock ticks since boot: all that `/proc` tells. The nanoseconds of a `ProcessKey` are the
    /// sensor's to read in the kernel.
    pub fn start_ticks(&self) -> u64 {
        self.start_ticks
    }

    /// Its pidfd.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    /// Its cgroup, or why it has none of its own.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// What holds the process back, with what its self-test found; empty without a domain.
    pub fn protections(&self) -> &[ProtectionRow] {
        &self.table
    }

    /// Reads what the self-test found: of each attempt, whether it went as it should.
    fn try_out(&self, n_attempts: usize) -> Result<Vec<bool>, LaunchError> {
        let mut as_expected = vec![false; n_attempts];
        while let Some((word, value)) = self.message()? {
            match word {
                child::RESTRICTED => return Ok(as_expected),
                child::AS_EXPECTED => {
                    if let Some(slot) =
                        usize::try_from(value).ok().and_then(|index| as_expected.get_mut(index))
                    {
                        *slot = true;
                    }
                }
                child::OTHERWISE => {}
                _ => return Err(LaunchError::Restrict(Errno::from_raw(value))),
            }
        }
        Err(LaunchError::Restrict(Errno::ECHILD))
    }

    /// The command gets /dev/null instead of this descriptor.
    pub fn withhold(&self, descriptor: RawFd) -> Result<(), LaunchError> {
        self.tell(descriptor)
    }

    fn tell(&self, word: i32) -> Result<(), LaunchError> {
        match write(&self.gate, &word.to_ne_bytes()) {
            // It was killed while it waited; its end will say so.
            Ok(_) | Err(Errno::EPIPE) => Ok(()),
            Err(errno) => Err(LaunchError::system("let the command start")(errno)),
        }
    }

    /// Lets the command start. Returns when it has, or with the reason why it could not.
    pub fn release(self) -> Result<Running, LaunchError> {
        self.tell(child::GO)?;
        let failure = self.failure()?;
        let Self { mut child, placement, command, user, .. } = self;
        let Some((failed, errno)) = failure else { return Ok(Running::new(child, placement)) };
        child.wait_for_end()?;
        placement.remove();
        Err(match failed {
            Failed::BecomeUser => {
                LaunchError::BecomeUser { user: user.map(|user| user.name).unwrap_or_default(), errno }
            }
            Failed::Restrict => LaunchError::Restrict(errno),
            Failed::Exec => {
                LaunchError::Exec { command, errno, as_invoker: user.is_some_and(|user| user.is_invoker) }
            }
        })
    }

    /// What failed; none when the pipe was closed by a successful exec, or by the end of the child.
    fn failure(&self) -> Result<Option<(Failed, Errno)>, LaunchError> {
        // A child that was stopped (Ctrl-Z) between gate and exec neither executes nor ends, and the shell waits for
        // us to stop, too. So look up from the pipe now and then; what the exec comes to is then said by the exit code.
        while !self.readable(100)? {
            if self.child.is_stopped_now() {
                return Ok(None);
            }
        }
        Ok(self.message()?.map(|(word, errno)| {
            let failed = [Failed::BecomeUser, Failed::Restrict];
            let failed = failed.into_iter().find(|failed| *failed as i32 == word).unwrap_or(Failed::Exec);
            (failed, Errno::from_raw(errno))
        }))
    }

    /// The next message of the child; none when it has closed the pipe.
    fn message(&self) -> Result<Option<(i32, i32)>, LaunchError> {
        let mut message = [0u8; 8];
        let length = loop {
            match read(&self.report, &mut message) {
                Err(Errno::EINTR) => {}
                other => {
                    break other.map_err(LaunchError::system("learn whether the command has started"))?;
                }
            }
        };
        // Shorter: closed without a word. Pipes do not split so few bytes.
        let (Some((word, value)), 8) = (message.split_first_chunk::<4>(), length) else { return Ok(None) };
        let value = value.first_chunk().map_or(0, |value| i32::from_ne_bytes(*value));
        Ok(Some((i32::from_ne_bytes(*word), value)))
    }

    fn readable(&self, milliseconds: u8) -> Result<bool, LaunchError> {
        let mut fds = [PollFd::new(self.report.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(milliseconds)) {
            Ok(count) => Ok(count > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(errno) => Err(LaunchError::system("learn whether the command has started")(errno)),
        }
    }
}
