//! The audit: every record of every session in one SQLite file, in order, each row sealed to the one before it.
//!
//! [`Writer`] takes records from the pipeline and commits them on its own thread; [`Reader`] answers questions on a
//! connection that cannot write; [`verify`] follows the chain of hashes from the first row to the last. This room
//! does not know where records come from, reads no clock and prints nothing.

mod append;
mod backlog;
mod chain;
mod database;
mod error;
mod past;
mod presence;
mod reader;
mod row;
mod schema;
mod sessions;
mod verify;
mod writer;

pub use chain::Head;
pub use error::StoreError;
pub use past::Past;
pub use reader::{CallName, Filter, Reader, Stored};
pub use sessions::{SessionState, SessionSummary};
pub use verify::{Break, VerifyReport, verify};
pub use writer::{Writer, WriterOptions, WriterStats};
