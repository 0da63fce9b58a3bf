//! Starts the watched command and stays out of its way.
//!
//! [`prepare`] makes a process that waits, in its own cgroup, before it has executed anything: the time to enrol it.
//! [`Prepared::release`] lets it execute. [`Running`] says how it goes, hands on signals, stops when it is stopped,
//! and [`finish_like`] ends this process as the command ended. This room does not watch, store or judge.
//!
//! What the command must not notice, and why it does not:
//! - *Terminal.* No pseudo terminal stands between. The command stays in our process group, as under `strace` or
//!   `nice`, so keys reach it from the terminal itself; we take no notice of them (see [`signals`]).
//! - *Signals.* Dispositions and mask are those this process was started with, also SIGPIPE, which Rust changes.
//! - *Descriptors, environment, directory, limits.* Untouched. Everything of ours is close-on-exec.
//! - *Ancestry.* We are not a child subreaper. A daemonised grandchild gets the parent it always got; that its tree
//!   lives on is known from the kernel's exit events.
//!
//! What it can notice: its parent is this process, and it is in a cgroup of its own.

mod canary;
mod cgroup;
mod child;
mod error;
mod exit;
mod guardian;
mod image;
mod inherited;
mod job;
pub mod landlock;
mod mounts;
mod prepare;
mod process;
mod running;
pub mod signals;
mod user;

use std::ffi::OsString;

use crate::model::SessionId;

pub use canary::{Canary, Forbidden};
pub use cgroup::{Cgroup, CgroupEnd, Placement};
pub use error::LaunchError;
pub use exit::{exit_code, finish_like};
pub use guardian::{DONE as GUARDIAN_DONE, Guardian};
pub use prepare::{Prepared, prepare, prepare_in};
pub use running::{Running, Step};
pub use signals::{Received, Signals};
pub use user::{RunAs, UserChoice, choose_user};

/// What to start, and as whom.
#[derive(Clone, Debug)]
pub struct LaunchOptions {
    /// The program, searched in `PATH` unless it has a slash, and its arguments.
    pub command: Vec<OsString>,
    /// Names the cgroup.
    pub session: SessionId,
    /// Run as this user instead of ours; see [`choose_user`].
    pub user: Option<RunAs>,
}
