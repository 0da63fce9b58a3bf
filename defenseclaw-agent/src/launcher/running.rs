//! The started command: how it goes, and what is passed on to it.

use std::os::fd::{AsFd, BorrowedFd};

use libc::c_int;

use super::{
    CgroupEnd, LaunchError, Placement, Received, Signals, job,
    process::{Change, Child},
    signals::asks_to_end,
};
use crate::model::ExitStatus;

/// A command that has been started. Dropping it does not end the command.
#[derive(Debug)]
pub struct Running {
    /// None: it was started by somebody who is gone, and is nobody's child or somebody else's.
    child: Option<Child>,
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
        Self { child: Some(child), placement, end_reported: false, hangup_is_ours: false }
    }

    /// A command that a run before us has started. Nothing is passed on to it, and how it goes is for others to say; a
    /// signal that asks to end means us.
    pub fn adopted(placement: Placement) -> Self {
        Self { child: None, placement, end_reported: true, hangup_is_ours: false }
    }

    /// From now on SIGHUP that a process outside the tree sends means us, as it does a daemon: it is not handed on.
    pub fn keep_hangup(&mut self) {
        self.hangup_is_ours = true;
    }

    /// Its pidfd: readable when it has ended. None if it was adopted.
    pub fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.child.as_ref().map(|child| child.pidfd.as_fd())
    }

    /// Its cgroup, or why it has none of its own.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Takes in one change of the command or one signal, and says what follows. To be called until it says
    /// [`Step::Idle`], whenever `signals` is readable; the end and the stops of the command arrive as SIGCHLD.
    pub fn step(&mut self, signals: &Signals) -> Result<Step, LaunchError> {
        loop {
            if let Some(child) = &mut self.child {
                let change = child.next_change()?;
                if let Some(status) = child.ended
                    && !self.end_reported
                {
                    self.end_reported = true;
                    return Ok(Step::Ended(status));
                }
                match change {
                    Some(Change::Stopped(signal)) if job::shell_waits(signal, child.pid) => {
                        return Ok(Step::Stop);
                    }
                    Some(_) => continue,
                    None => {}
                }
            }
            let Some(received) = signals.next()? else { return Ok(Step::Idle) };
            if let Some(step) = self.answer(received)? {
                return Ok(step);
            }
        }
    }

    fn answer(&self, received: Received) -> Result<Option<Step>, LaunchError> {
        let Received { signal, sender } = received;
        let child = self.child.as_ref();
        let is_child = |pid| child.is_some_and(|child| child.pid == pid);
        let from_tree = sender.is_some_and(|pid| is_child(pid) || self.placement.holds(pid));
        if signal == libc::SIGHUP && self.hangup_is_ours && sender.is_some() && !from_tree {
            return Ok(Some(Step::Hangup));
        }
        let Some(child) = child.filter(|child| child.ended.is_none()) else {
            return Ok((asks_to_end(signal) && !from_tree).then_some(Step::Asked(signal)));
        };
        match signal {
            // `fg` and `bg` continue the whole group; a second SIGCONT goes only where the first has not.
            libc::SIGCONT if child.stopped => self.forward(signal)?,
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
        match self.child.as_ref().filter(|child| child.ended.is_none()) {
            Some(child) => child.signal(signal),
            None => Ok(()),
        }
    }

    /// Stops this process until the shell continues it; [`Running::step`] then continues the command, if the shell has
    /// not. Meanwhile nothing is read: what other processes of the tree do is in the rings, and counted as lost where
    /// they overflow.
    pub fn stop_along(&self) {
        if let Some(child) = &self.child {
            job::stop_along(child);
        }
    }

    /// How it ended, if it has. For callers without [`Signals`]; stops are not reported.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, LaunchError> {
        let Some(child) = &mut self.child else { return Ok(None) };
        while child.next_change()?.is_some() {}
        Ok(child.ended)
    }

    /// Removes the cgroup, if nothing is left in it.
    pub fn finish(self) -> CgroupEnd {
        self.placement.remove()
    }
}
