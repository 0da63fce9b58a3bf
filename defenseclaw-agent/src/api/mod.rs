//! HTTP over a unix socket, both ends: who may ask what, how much and for how long. What is answered is not decided here; see
//! [`Answers`]. The wire is described in docs/api.md.

mod approve;
mod asked;
mod client;
mod credentials;
mod held;
mod listen;
mod serve;
mod wanted;

use std::{future::Future, sync::Arc, time::Duration};

pub use asked::{
    Asks, EXPIRES_MAX, Granted, Lasting, MESSAGE_MAX, Open, Pending, Question, Said, Since, Untaken, WAIT_MAX,
};
pub use client::{Client, ClientError};
pub use credentials::Peer;
pub use held::Answered;
pub use listen::{ApiError, Listener};
pub use serve::{Limits, serve, serve_asks};
pub use wanted::Wanted;

use crate::model::{Caller, Connector};

/// Says where the next request for rows goes on.
pub const AFTER_HEADER: &str = "defenseclaw-after";

/// Rows of the audit, one JSON object a line, and the number of the last one that was looked at.
#[derive(Debug, Default)]
pub struct Page {
    /// The lines.
    pub lines: Vec<u8>,
    /// Where to go on.
    pub after: u64,
}

/// Why there is nothing to read.
#[derive(Debug)]
pub enum Unread {
    /// No such session, or not one of this peer.
    Unknown,
    /// The request makes no sense.
    Wrong(String),
    /// The audit cannot be read.
    Failed(String),
}

/// Who answers.
pub trait Answers: Asks {
    /// A hook fired. The payload is as the agent wrote it. Its reply may be held so long; zero: not at all.
    fn hook(
        self: &Arc<Self>,
        caller: Caller,
        connector: Connector,
        payload: Vec<u8>,
        hold: Duration,
    ) -> impl Future<Output = Answered> + Send;

    /// How the daemon is, as far as this peer may know.
    fn status(&self, peer: &Peer) -> serde_json::Value;

    /// The sessions this peer may read, as a JSON array.
    fn sessions(&self, peer: &Peer) -> impl Future<Output = Result<Vec<u8>, Unread>> + Send;

    /// The rows this peer may read.
    fn events(&self, peer: &Peer, wanted: Wanted) -> impl Future<Output = Result<Page, Unread>> + Send;

    /// Hooks that nobody was asked about, as their user remembers them: one [`Missed`](crate::model::Missed) a line.
    fn missed(&self, caller: Caller, lines: Vec<u8>) -> impl Future<Output = usize> + Send;

    /// Reads configuration and policy again. What was in force stays if they cannot be used; the text says why.
    fn reload(&self) -> impl Future<Output = Result<(), String>> + Send;

    /// Whether this peer may control the daemon.
    fn controls(&self, peer: &Peer) -> bool;
}
