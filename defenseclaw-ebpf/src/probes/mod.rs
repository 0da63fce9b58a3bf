//! Programs that are not LSM hooks: scheduler tracepoints and DNS answers at every level, system call exit at level
//! `tracepoint`.

mod dns;
pub mod environment;
mod process;
mod syscall;
mod uring;
