//! What a failure means for the command line: a hint, or silence. One line here for each room whose errors have hints.

use std::io;

use super::ERROR;
use crate::{config::ConfigError, runtime::RunError, store::StoreError};

/// What to do about it, from the first error of the chain that knows.
pub(super) fn hint(err: &anyhow::Error) -> Option<&'static str> {
    err.chain().find_map(|cause| {
        let store = cause.downcast_ref().and_then(StoreError::hint);
        let run = cause.downcast_ref().and_then(RunError::hint);
        store.or(run).or_else(|| cause.downcast_ref().and_then(ConfigError::hint))
    })
}

/// `run` exits as a shell would of a command that cannot be started; everything else with [`ERROR`].
pub(super) fn exit_code(err: &anyhow::Error) -> u8 {
    err.downcast_ref().map_or(ERROR, RunError::exit_code)
}

/// The reader of our output is gone.
pub(super) fn is_broken_pipe(err: &anyhow::Error) -> bool {
    err.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|err| err.kind() == io::ErrorKind::BrokenPipe)
    })
}
