//! The cases, one file per subject.

mod chain;
mod failure;
mod queries;
mod rate;
mod writers;

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use defenseclaw::store::{Filter, Reader, StoreError, Stored, Writer};
use tempfile::TempDir;

use crate::records;

/// A directory that goes away, and the database in it.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.dir.path().join("audit.db")
    }

    /// A closed audit with one session of `events` plain events.
    pub(crate) fn with_events(events: u64) -> Self {
        let place = Self::new();
        let writer = Writer::open(&place.db(), &records::options()).unwrap();
        writer.append(vec![records::start(records::SESSION)]).unwrap();
        writer.append((1..=events).map(|n| records::opened(records::SESSION, n)).collect()).unwrap();
        writer.append(vec![records::end(records::SESSION)]).unwrap();
        writer.close().unwrap();
        place
    }

    /// As an attacker would.
    pub(crate) fn tamper(&self, sql: &str) {
        rusqlite::Connection::open(self.db()).unwrap().execute_batch(sql).unwrap();
    }
}

pub(crate) fn read(path: &Path, filter: &Filter) -> Vec<Stored> {
    let mut found = Vec::new();
    Reader::open(path)
        .unwrap()
        .records(filter, 0, None, |stored| {
            found.push(stored);
            Ok::<_, StoreError>(ControlFlow::Continue(()))
        })
        .unwrap();
    found
}
