//! What every embedded run begins with, watched or only confined: its id, its audit, and the audit's first row.

use std::{
    hash::{BuildHasher, RandomState},
    os::unix::ffi::OsStrExt,
    process,
};

use super::{
    clock, host,
    run::{RunError, RunOptions},
};
use crate::{
    launcher::{Prepared, Signals},
    model::{BootTime, Origin, ProcessKey, Protection, SessionId, SessionStart, Text, WallTime},
    store::{Writer, WriterOptions},
};

/// Nanoseconds of a clock tick, in which `/proc` tells the start of a process.
const TICK_NS: u64 = 10_000_000;

/// A run that has an id.
pub(super) struct Beginning {
    pub(super) session: SessionId,
    pub(super) signals: Signals,
    boot_id: String,
    wall: WallTime,
    boot: BootTime,
}

impl Beginning {
    /// Blocks signals for all threads, of which there is one.
    pub(super) fn new() -> Result<Self, RunError> {
        let signals = Signals::block()?;
        let boot_id = clock::boot_id().map_err(RunError::system("read the boot id"))?;
        let (wall, boot) = (clock::wall_now(), clock::boot_now());
        Ok(Self { session: SessionId::new(wall, random()), signals, boot_id, wall, boot })
    }

    /// Opens the audit.
    pub(super) fn writer(&self, options: &RunOptions) -> Result<Writer, RunError> {
        let writer = WriterOptions {
            create_parent: options.default_database,
            ..WriterOptions::new(self.boot, self.wall, self.boot_id.clone())
        };
        Ok(Writer::open(&options.database, &writer)?)
    }

    /// The first row, now: what was done before is our time, not the command's.
    pub(super) fn start(
        &self,
        options: &RunOptions,
        prepared: &Prepared,
        protection: Protection,
    ) -> SessionStart {
        let host = host::host();
        SessionStart {
            session: self.session,
            wall: clock::wall_now(),
            boot: clock::boot_now(),
            boot_id: self.boot_id.clone(),
            root: root(prepared),
            command: options.command.iter().cloned().map(host::text).collect(),
            project: host::project(),
            home: home(options),
            host: host.name,
            kernel: host.kernel,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            origin: Origin::Launched,
            protection,
        }
    }
}

/// The process that will be the command, as far as `/proc` knows it.
pub(super) fn root(prepared: &Prepared) -> ProcessKey {
    ProcessKey {
        tgid: u32::try_from(prepared.pid()).unwrap_or(0),
        start_ns: prepared.start_ticks() * TICK_NS,
    }
}

/// Home directory of whoever the command runs as.
pub(super) fn home(options: &RunOptions) -> Text {
    match &options.user {
        Some(user) => user.home.as_os_str().as_bytes().into(),
        None => std::env::var_os("HOME").map(host::text).unwrap_or_default(),
    }
}

/// Bits that keep two sessions of the same millisecond apart. Not a secret.
pub(super) fn random() -> u32 {
    u32::try_from(RandomState::new().hash_one(process::id()) & 0xffff_ffff).unwrap_or(0)
}
