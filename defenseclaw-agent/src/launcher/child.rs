//! The child's side, between fork and exec. Our process has other threads, whose locks the child has copied in
//! whatever state they were: so nothing here allocates, locks, panics or calls anything but async-signal-safe
//! functions. Ids are changed with raw system calls, because the C library's wrappers talk to all threads it knows.

use std::os::fd::RawFd;

use libc::{c_char, c_int, c_long, gid_t, uid_t};
use nix::errno::Errno;

use super::{inherited, landlock::ChildDomain};

/// What the child needs; borrowed from memory that the parent filled before the fork.
pub(super) struct ChildPlan<'a> {
    /// Our end of the gate, and the parent's: the child's copy of that has to go, or it would never see its end.
    pub(super) gate: RawFd,
    pub(super) gate_parent: RawFd,
    /// Where a failure is reported; closed by a successful exec.
    pub(super) report: RawFd,
    /// Taken on before the gate, so that the self-test is over before anything is watched.
    pub(super) domain: Option<ChildDomain<'a>>,
    pub(super) ids: Option<Ids<'a>>,
    pub(super) candidates: &'a [std::ffi::CString],
    pub(super) argv: *const *const c_char,
    pub(super) envp: *const *const c_char,
}

/// User to become.
pub(super) struct Ids<'a> {
    pub(super) uid: uid_t,
    pub(super) gid: gid_t,
    pub(super) groups: &'a [gid_t],
}

/// What failed, as it crosses the report pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Failed {
    BecomeUser = 1,
    Exec = 2,
    Restrict = 3,
}

/// What the report pipe says before the gate: the domain is taken on, and an attempt of the self-test (its index
/// added) went as it should, or otherwise.
pub(super) const RESTRICTED: c_int = 1000;
pub(super) const AS_EXPECTED: c_int = 2000;
pub(super) const OTHERWISE: c_int = 3000;

/// Waits for the gate, becomes the command. All signals are blocked when it is called.
pub(super) fn run(plan: &ChildPlan<'_>) -> ! {
    // SAFETY: a descriptor that only this process, which never returns from here, still refers to.
    unsafe { libc::close(plan.gate_parent) };
    if let Some(domain) = &plan.domain {
        if let Err(errno) = domain.enter() {
            report(plan.report, Failed::Restrict as c_int, errno as c_int);
            exit(125);
        }
        domain.try_out(|index, as_expected| {
            let word = if as_expected { AS_EXPECTED } else { OTHERWISE };
            report(plan.report, word, c_int::try_from(index).unwrap_or(c_int::MAX));
        });
        report(plan.report, RESTRICTED, 0);
    }
    // Before the gate, because behind it policy may forbid to become another user. The kernel keeps processes of that user
    // from reading our memory and descriptors, which are still the parent's.
    if let Some(ids) = &plan.ids
        && let Err(errno) = become_user(ids)
    {
        report(plan.report, Failed::BecomeUser as c_int, errno as c_int);
        exit(125);
    }
    if !gate_opens(plan.gate) {
        // The parent ended before it let us go: nobody watches, so nothing runs.
        exit(125);
    }
    inherited::restore_dispositions();
    inherited::restore_mask();
    let errno = exec(plan);
    report(plan.report, Failed::Exec as c_int, errno as c_int);
    exit(if errno == Errno::ENOENT { 127 } else { 126 })
}

/// What the gate says when it opens; every other number is a descriptor that the command is not to have.
pub(super) const GO: c_int = -1;

fn gate_opens(gate: RawFd) -> bool {
    let mut word: c_int = 0;
    loop {
        // SAFETY: reads at most the four bytes of `word`. They are written at once, and pipes do not split so few.
        match unsafe { libc::read(gate, (&raw mut word).cast(), size_of_val(&word)) } {
            4 if word == GO => return true,
            4 => withhold(word),
            -1 if Errno::last() == Errno::EINTR => {}
            _ => return false,
        }
    }
}

/// Puts /dev/null in its place: a number that is free would become another file's, and the program might rely on it.
fn withhold(descriptor: RawFd) {
    // SAFETY: a string that ends in NUL, and numbers.
    unsafe {
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        if null < 0 || libc::dup2(null, descriptor) < 0 {
            libc::close(descriptor);
        }
        if null >= 0 {
            libc::close(null);
        }
    }
}

fn become_user(ids: &Ids<'_>) -> Result<(), Errno> {
    // SAFETY: the pointer and length are of one slice; the other calls take numbers only.
    unsafe {
        succeeded(libc::syscall(libc::SYS_setgroups, ids.groups.len(), ids.groups.as_ptr()))?;
        succeeded(libc::syscall(libc::SYS_setresgid, ids.gid, ids.gid, ids.gid))?;
        succeeded(libc::syscall(libc::SYS_setresuid, ids.uid, ids.uid, ids.uid))
    }
}

fn succeeded(result: c_long) -> Result<(), Errno> {
    if result == 0 { Ok(()) } else { Err(Errno::last()) }
}

/// Tries the candidates in order. Returns only when none could be executed.
fn exec(plan: &ChildPlan<'_>) -> Errno {
    // These say "not here": the next component of PATH may have it.
    const ELSEWHERE: [Errno; 5] =
        [Errno::ENOENT, Errno::ENOTDIR, Errno::ESTALE, Errno::ENODEV, Errno::ETIMEDOUT];
    let mut outcome = Errno::ENOENT;
    for file in plan.candidates {
        // SAFETY: `file` ends in NUL; `argv` and `envp` are null-terminated arrays of such strings.
        unsafe { libc::execve(file.as_ptr(), plan.argv, plan.envp) };
        let errno = Errno::last();
        if plan.candidates.len() == 1 {
            return errno;
        } else if errno == Errno::EACCES {
            // As a shell does: look further, but name a file that may not be executed if nothing else is found. A
            // directory that may not be searched, such as root's own after a change of user, holds nothing for us.
            // SAFETY: `file` ends in NUL; access is async-signal-safe.
            if unsafe { libc::access(file.as_ptr(), libc::F_OK) } == 0 {
                outcome = errno;
            }
        } else if !ELSEWHERE.contains(&errno) {
            return errno;
        }
    }
    outcome
}

fn report(pipe: RawFd, word: c_int, value: c_int) {
    let message: [c_int; 2] = [word, value];
    // SAFETY: writes the eight bytes of `message`; that few go into a pipe at once or not at all. The parent may have
    // stopped reading (see `Prepared::release`): then the exit code says it, so SIGPIPE must not end us before.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::write(pipe, message.as_ptr().cast(), size_of_val(&message));
    }
}

fn exit(code: c_int) -> ! {
    // SAFETY: ends the process without running anything of the parent's.
    unsafe { libc::_exit(code) }
}
