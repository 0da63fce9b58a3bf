//! What the view hears, from keys and from who is asked, and what it wants done. No I/O.

use std::{path::Path, sync::Arc, time::Duration};

use crossterm::event::KeyEvent;

use crate::{
    model::{Approval, ApprovalId, BootTime, Ruling, SessionId, WallTime},
    runtime::{Lasting, Pending},
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
    /// All open questions.
    Approvals { from: From, open: Vec<Pending> },
    /// Asking goes wrong, though somebody is there.
    Trouble { from: From, why: String },
    /// Nobody is there any more.
    Lost { from: From },
    /// Nobody is there at all; where was looked.
    Absent { looked: Vec<String> },
    /// The rule that `always` would write; otherwise why there is none.
    Lasting { key: Key, rule: Result<Lasting, String> },
    /// Nothing was asked, and why.
    Unasked { key: Key, why: String },
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

/// What is asked of who keeps a question.
#[derive(Debug)]
pub(super) enum Job {
    Answer(Answer),
    /// Which rule would be written.
    Lasting {
        key: Key,
        approval: Approval,
    },
}

impl Job {
    pub(super) fn key(&self) -> &Key {
        match self {
            Self::Answer(Answer { key, .. }) | Self::Lasting { key, .. } => key,
        }
    }
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Act {
    Quit,
    Ask(Box<Job>),
}
