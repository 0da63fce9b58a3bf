//! The started command: how it goes, and what is passed on to it.

use std::os::fd::{AsFd, BorrowedFd};

use libc::{c_int, pid_t};

use super::{
    CgroupEnd, LaunchError, Placement, Received, Signals, job,
    process::{Change, Child},
    signals::asks_to_end,
};
use crate::model::ExitStatus;

/// A command that has been started. Dropping it does not end the command.
#[derive(Debug)]
pub struct Running {
    child: Child,
    placement: Placement,
    /// `step` has reported the end.
    end_reported: bool,
    /// SIGHUP of a process outside the tree is for us.
    hangup_is_ours: bool,
}

/// What [`Running::step`] asks its caller to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing until the signals' descriptor is readable again.
    Idle,
    /// The command was stopped by job control, and the shell waits for us to be, too: finish what must not wait, then
    /// call [`Running::stop_along`].
    Stop,
    /// A process outside the tree has sent SIGHUP, which is for us; see [`Running::keep_hangup`].
    Hangup,
    /// The command has ended. Its children may go on.
    Ended(ExitStatus),
    /// The command had ended before, and this signal asks for an end: it can only mean us.
    Asked(c_int),
}

impl Running {
    pub(super) fn new(mut child: Child, placement: Placement) -> Self {
        child.let_go();
        Self { child, placement, end_reported: false, hangup_is_ours: false }
    }

    /// Process id of the command, in our pid namespace.
    pub fn pid(&self) -> pid_t {
        self.child.pid
    }

    /// From now on SIGHUP that a process outside the tree sends means us, as it does a daemon: it is not handed on.
    pub fn keep_hangup(&mut self) {
        self.hangup_is_ours = true;
    }

    /// Its pidfd: readable when it has ended.
    pub fn wait_fd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    /// Its cgroup, or why it has none of its own.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Takes in one change of the command or one signal, and says what follows. To be called until it says
    /// [`Step::Idle`], whenever `signals` is readable; the end and the stops of the command arrive as SIGCHLD.
    pub fn step(&mut self, signals: &Signals) -> Result<Step, LaunchError> {
        loop {
            let change = self.child.next_change()?;
            if let Some(status) = self.child.ended
                && !self.end_reported
            {
                self.end_reported = true;
                return Ok(Step::Ended(status));
            }
            match change {
                Some(Change::Stopped(signal)) if job::shell_waits(signal, self.child.pid) => {
                    return Ok(Step::Stop);
                }
                Some(_) => continue,
                None => {}
            }
            let Some(received) = signals.next()? else { return Ok(Step::Idle) };
            if let Some(step) = self.answer(received)? {
                return Ok(step);
            }
        }
    }

    fn answer(&self, received: Received) -> Result<Option<Step>, LaunchError> {
        let Received { signal, sender } = received;
        let from_tree = sender.is_some_and(|pid| pid == self.child.pid || self.placement.holds(pid));
        if signal == libc::SIGHUP && self.hangup_is_ours && sender.is_some() && !from_tree {
            return Ok(Some(Step::Hangup));
        }
        if self.child.ended.is_some() {
            return Ok((asks_to_end(signal) && !from_tree).then_some(Step::Asked(signal)));
        }
        match signal {
            // `fg` and `bg` continue the whole group; a second SIGCONT goes only where the first has not.
            libc::SIGCONT if self.child.stopped => self.forward(signal)?,
            libc::SIGCONT | libc::SIGCHLD => {}
            // A closed terminal tells the session's leader alone, which is us where no shell is: `xterm -e`, `ssh -t`.
            libc::SIGHUP if sender.is_none() && job::leads_session() => self.forward(signal)?,
            // The terminal's, which the command has got; or the tree's own, such as `kill 0` of a script: it reached
            // us because we are in the same group.
            _ if sender.is_none() || from_tree => {}
            _ => self.forward(signal)?,
        }
        Ok(None)
    }

    /// Sends the command a signal. Does nothing if it has ended.
    pub fn forward(&self, signal: c_int) -> Result<(), LaunchError> {
        if self.child.ended.is_some() { Ok(()) } else { self.child.signal(signal) }
    }

    /// Stops this process until the shell continues it; [`Running::step`] then continues the command, if the shell has
    /// not. Meanwhile nothing is read: what other processes of the tree do is in the rings, and counted as lost where
    /// they overflow.
    pub fn stop_along(&self) {
        job::stop_along(&self.child);
    }

    /// How it ended, if it has. For callers without [`Signals`]; stops are not reported.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, LaunchError> {
        while self.child.next_change()?.is_some() {}
        Ok(self.child.ended)
    }

    /// Removes the cgroup, if nothing is left in it.
    pub fn finish(self) -> CgroupEnd {
        self.placement.remove()
    }
}
