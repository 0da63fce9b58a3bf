//! One running session: its main process, its count of events, and whether its tree has ended.

use super::{policies::Held, unjudged::InKernel};
use crate::model::{
    BootTime, ExitStatus, MainExit, Origin, ProcessKey, ProtectionState, SessionEnd, SessionId, SessionStart,
    WallTime,
};

#[derive(Debug)]
pub(super) struct Session {
    pub(super) root: ProcessKey,
    pub(super) n_events: u64,
    pub(super) held: Held,
    main: MainExit,
    /// How it ended by its record, which counts where it is nobody's child.
    recorded: Option<ExitStatus>,
    /// Nobody waits for the main process.
    adopted: bool,
    tree_ended: bool,
    wall: WallTime,
    boot: BootTime,
}

impl Session {
    pub(super) fn new(start: &SessionStart) -> Self {
        Self {
            root: start.root,
            n_events: 0,
            held: held(start),
            main: MainExit::StillRunning,
            recorded: None,
            adopted: !start.origin.is_launched(),
            tree_ended: false,
            wall: start.wall,
            boot: start.boot,
        }
    }

    pub(super) fn main_ended(&mut self, status: ExitStatus) {
        self.main = MainExit::Ended(status);
    }

    pub(super) fn main_not_started(&mut self, errno: i32) {
        self.main = MainExit::NotStarted(errno);
    }

    /// The main process is not a child of ours.
    pub(super) fn main_is_not_ours(&mut self) {
        self.adopted = true;
        self.settle();
    }

    pub(super) fn main_recorded(&mut self, status: ExitStatus) {
        self.recorded = Some(status);
        self.settle();
    }

    /// It is gone, and there was no record.
    pub(super) fn main_unseen(&mut self) {
        if self.adopted && self.main == MainExit::StillRunning {
            self.main = MainExit::Unknown;
        }
    }

    fn settle(&mut self) {
        if let (true, MainExit::StillRunning | MainExit::Unknown, Some(status)) =
            (self.adopted, self.main, self.recorded)
        {
            self.main = MainExit::Ended(status);
        }
    }

    /// The main process is over, and the end of the tree was not said yet.
    pub(super) fn may_end(&self) -> bool {
        self.main != MainExit::StillRunning && !self.tree_ended
    }

    pub(super) fn tree_ended(&mut self) {
        self.tree_ended = true;
    }

    /// The wall clock of the start plus what the boot clock says has passed: setting the clock does not matter.
    pub(super) fn wall_at(&self, now: BootTime) -> WallTime {
        let passed = i64::try_from(now.0.saturating_sub(self.boot.0)).unwrap_or(i64::MAX);
        WallTime(self.wall.0.saturating_add(passed))
    }

    pub(super) fn end(self, session: SessionId, left_running: usize, now: BootTime) -> SessionEnd {
        SessionEnd {
            session,
            wall: self.wall_at(now),
            boot: now,
            main: self.main,
            left_running: u64::try_from(left_running).unwrap_or(u64::MAX),
            events: self.n_events,
        }
    }
}

fn held(start: &SessionStart) -> Held {
    let protection = &start.protection;
    let addresses = ["landlock/connect_tcp", "landlock/bind_tcp"];
    let mut rows = protection.table.iter();
    Held {
        level: protection.level,
        in_kernel: match start.origin {
            Origin::Launched => InKernel::of(protection),
            Origin::Adopted { .. } => InKernel::UNJUDGED,
        },
        landlock: rows.any(|row| addresses.contains(&row.name.as_str()) && row.state != ProtectionState::Off),
    }
}
