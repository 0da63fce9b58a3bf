//! Programs on the agents' cgroup: what a socket may reach, at every level. They hold without BPF LSM and also where its
//! `socket_connect` does not look: TCP Fast Open, multipath TCP, `connect` of io_uring at level `tracepoint`.
//!
//! `endpoint` judges addresses, `socket` what kind of socket may be made, `names` leads questions for names to the
//! resolver and its answers back, `flow` tells the resolver whose question it is.

mod endpoint;
mod flow;
mod names;
mod socket;

pub use names::is_question;

/// What these programs return.
const ALLOW: i32 = 1;
/// The system call fails with EPERM.
const DENY: i32 = 0;
