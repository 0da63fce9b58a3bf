//! Programs of level `lsm`, one file per subject. They see the kernel's own objects, before the operation happens.

pub mod file;
mod net;
mod privilege;
mod signal_owner;
pub use privilege::namespaces_that_differ;
mod unix;
