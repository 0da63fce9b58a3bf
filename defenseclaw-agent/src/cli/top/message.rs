//! What the view hears, from keys and from who is asked, and what it wants done. No I/O.

use std::{path::Path, sync::Arc, time::Duration};

use crossterm::event::KeyEvent;
use serde::Deserialize;

use crate::{
    model::{Approval, ApprovalId, BootTime, Ruling, SessionId, WallTime},
    store::Stored,
};

/// Who is asked: the socket of a daemon or of a run.
pub(super) type From = Arc<Path>;

/// The clocks, read together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// Since the view was started; does not jump.
    pub(super) since: Duration,
    pub(super) boot: BootTime,
    pub(super) wall: WallTime,
}

/// An open question, as it is listed.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Open {
    #[serde(flatten)]
    pub(super) approval: Approval,
    #[serde(default)]
    pub(super) waiters: u64,
    #[serde(default)]
    pub(super) remaining_ms: u64,
}

/// A session that goes on.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) session: SessionId,
    /// The connector, or the program that was started.
    pub(super) agent: String,
    pub(super) user: String,
    pub(super) pid: Option<u32>,
    pub(super) since: Option<WallTime>,
    pub(super) events: Option<u64>,
    pub(super) adopted: bool,
}

/// What has happened.
#[derive(Debug)]
pub(super) enum Message {
    /// A key, and when it was read.
    Key(KeyEvent, Duration),
    /// Text that was pasted: never an answer.
    Paste(String),
    /// What was on the screen may not be there any more.
    Disturbed,
    /// Time to leave.
    End,
    /// How somebody is; null if they do not say.
    Status { from: From, status: serde_json::Value },
    /// The sessions that somebody watches.
    Sessions { from: From, live: Vec<Live> },
    /// What somebody has told of is told from its beginning.
    Begin { from: From },
    /// New rows of an audit.
    Rows { from: From, rows: Vec<Stored> },
    /// All open questions, and how many could not be understood.
    Approvals { from: From, open: Vec<Open>, unread: usize },
    /// Asking goes wrong, though somebody is there.
    Trouble { from: From, why: String },
    /// Nobody is there any more.
    Lost { from: From },
    /// Nobody is there at all; where was looked.
    Absent { looked: Vec<String> },
    /// What became of an answer; otherwise what was said against it.
    Answered { key: Key, ruling: Ruling, refused: Option<String> },
}

/// Which question. Ids start again with each watcher; when it was asked tells them apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) from: From,
    pub(super) id: ApprovalId,
    pub(super) session: Option<SessionId>,
    pub(super) since: BootTime,
}

/// An answer, with the question as the person saw it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) key: Key,
    pub(super) approval: Approval,
    pub(super) ruling: Ruling,
    pub(super) message: Option<String>,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Act {
    Quit,
    Answer(Box<Answer>),
}
