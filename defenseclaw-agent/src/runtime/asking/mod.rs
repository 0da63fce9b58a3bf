//! Questions to a person, between the loop that has them and the socket where they are answered: a bounded picture of what is
//! open, a bounded queue of answers, and who may give them. What an answer leads to is the pipeline's business.

mod desk;
mod inbox;
mod local;
mod outside;
mod serve;

pub(super) use desk::{Desk, Rights};
pub(super) use inbox::{Asked, Inbox, Mail, Taken, due, is_watched};
pub(super) use local::Local;
pub use serve::AskingError;
pub(super) use serve::{Served, how_to_answer};
