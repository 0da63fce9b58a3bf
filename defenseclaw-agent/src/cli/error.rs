//! What a failure means for the command line: a hint, or silence. One line here for each room whose errors have hints.

use std::io;

use crate::{config::ConfigError, store::StoreError};

/// What to do about it, from the first error of the chain that knows.
pub(super) fn hint(err: &anyhow::Error) -> Option<&'static str> {
    err.chain().find_map(|cause| {
        let store = cause.downcast_ref().and_then(StoreError::hint);
        store.or_else(|| cause.downcast_ref().and_then(ConfigError::hint))
    })
}

/// The reader of our output is gone.
pub(super) fn is_broken_pipe(err: &anyhow::Error) -> bool {
    err.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|err| err.kind() == io::ErrorKind::BrokenPipe)
    })
}
