//! HTTP over a unix socket: who may ask what, how much and for how long. What is answered is not decided here; see
//! [`Answers`]. The wire is described in docs/api.md.

mod credentials;
mod listen;
mod serve;

use std::future::Future;

pub use credentials::Peer;
pub use listen::{ApiError, Listener};
pub use serve::{Limits, serve};

use crate::model::{Caller, Connector, HookOutput};

/// Who answers.
pub trait Answers: Send + Sync + 'static {
    /// A hook fired. The payload is as the agent wrote it.
    fn hook(
        &self,
        caller: Caller,
        connector: Connector,
        payload: Vec<u8>,
    ) -> impl Future<Output = HookOutput> + Send;

    /// Hooks that nobody was asked about, as their user remembers them: one [`Missed`](crate::model::Missed) a line.
    fn missed(&self, caller: Caller, lines: Vec<u8>) -> impl Future<Output = usize> + Send;

    /// How the daemon is.
    fn status(&self) -> serde_json::Value;

    /// Reads configuration and policy again. What was in force stays if they cannot be used; the text says why.
    fn reload(&self) -> impl Future<Output = Result<(), String>> + Send;

    /// Whether this peer may control the daemon.
    fn controls(&self, peer: &Peer) -> bool;
}
