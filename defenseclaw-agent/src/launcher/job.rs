//! Job control without a terminal of our own. The shell knows us, not the command: when the command is stopped, we
//! stop, so that the shell says "Stopped" and prompts; when the shell continues us, the command goes on.
//!
//! We do not stop at the key itself: a program may clean up the screen first, or refuse. What counts is that it stopped.

use std::{fs, fs::File};

use libc::{c_int, pid_t};
use nix::unistd::{Pid, getpgid, getpgrp, getsid, tcgetpgrp, tcsetpgrp};

use super::{
    LaunchError,
    process::{Change, Child, stat},
};

/// Whether a shell waits for us to be stopped, because the command was, by `signal`.
///
/// SIGTSTP, SIGTTIN and SIGTTOU are job control by nature. SIGSTOP is what some programs send themselves at Ctrl-Z, but
/// debuggers and limiters send it as well, and then SIGCONT to the command alone, which would leave us stopped: so it
/// counts only in the foreground, where the user sees it and can type `fg`. Without a shell nobody would continue us.
pub(super) fn shell_waits(signal: c_int, command: pid_t) -> bool {
    let by_nature = matches!(signal, libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU);
    (by_nature || in_foreground(command)) && started_by_shell()
}

/// Whether this process is the session's leader.
pub(super) fn leads_session() -> bool {
    getsid(None) == Ok(Pid::this())
}

/// The controlling terminal, if there is one.
fn terminal() -> Option<File> {
    fs::OpenOptions::new().read(true).write(true).open("/dev/tty").ok()
}

fn in_foreground(command: pid_t) -> bool {
    let group = terminal().and_then(|terminal| tcgetpgrp(terminal).ok());
    group.is_some_and(|group| group == getpgrp() || getpgid(Some(Pid::from_raw(command))) == Ok(group))
}

/// Whether our process group has a parent in another group of our session; the kernel calls the group orphaned
/// otherwise. Processes between us and the shell in our own group (sudo, `env`) are passed over.
fn started_by_shell() -> bool {
    let group = getpgrp();
    let mut pid = nix::unistd::getppid();
    // Parents cannot form a circle, but pids can change hands while we look.
    for _ in 0..64 {
        match getpgid(Some(pid)) {
            Ok(other) if other == group => {}
            Ok(_) => return getsid(Some(pid)).is_ok_and(|session| Ok(session) == getsid(None)),
            Err(_) => return false,
        }
        let Ok(stat) = stat(pid.as_raw()) else { return false };
        pid = Pid::from_raw(stat.parent);
    }
    false
}

/// Stops this process; after it was continued, continues the command.
pub(super) fn stop_along(command: &mut Child) -> Result<(), LaunchError> {
    let group = getpgid(Some(Pid::from_raw(command.pid))).ok();
    let terminal = terminal();
    let foreground = || terminal.as_ref().and_then(|terminal| tcgetpgrp(terminal).ok());
    loop {
        // An interactive shell under watch makes a process group of its own and takes the terminal.
        let had_terminal = group.is_some() && group != Some(getpgrp()) && foreground() == group;
        // It may have been continued since; then stopping would leave us behind.
        if !command.is_stopped_now() {
            return Ok(());
        }
        // SAFETY: takes a number. Sent to this thread, so it holds before raise returns.
        unsafe { libc::raise(libc::SIGSTOP) };
        if had_terminal
            && foreground() == Some(getpgrp())
            && let (Some(terminal), Some(group)) = (&terminal, group)
        {
            // The shell gave the terminal to us. If it cannot be handed on, the command is in the background, and
            // stops again when it reads.
            tcsetpgrp(terminal, group).ok();
        }
        match command.next_change()? {
            // The shell continued it with us, and by now it is stopped again.
            Some(Change::Stopped(signal)) if shell_waits(signal, command.pid) => {}
            // Still the same stop: it is in another process group than the one the shell continued.
            None if command.stopped => return command.signal(libc::SIGCONT),
            _ => return Ok(()),
        }
    }
}
