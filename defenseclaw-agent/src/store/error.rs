//! What can go wrong with the audit, said so that the reader knows what to do. One enum for the whole room.

use std::{
    io,
    path::{Path, PathBuf},
};

use rusqlite::{ErrorCode, ffi};

/// Failure of the audit. [`StoreError::hint`] says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Nothing is there.
    #[error("there is no audit database at {}", path.display())]
    Missing { path: PathBuf },
    /// A file is there, and holds nothing yet.
    #[error("the audit database {} is empty", path.display())]
    Empty { path: PathBuf },
    /// The path is a directory, device, pipe or socket.
    #[error("{} is not a regular file, so it cannot be the audit database", path.display())]
    NotAFile { path: PathBuf },
    /// The directory could not be made or looked into.
    #[error("cannot use the directory of the audit database, {}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    /// A file beside the database could not be used.
    #[error("cannot use {}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// The file system or the file mode forbids it.
    #[error("no permission for the audit database {}", path.display())]
    Permission { path: PathBuf },
    /// It can be read but not written.
    #[error("the audit database {} can only be read", path.display())]
    ReadOnly { path: PathBuf },
    /// No room.
    #[error("no space left for the audit database {}", path.display())]
    DiskFull { path: PathBuf },
    /// Another process holds it.
    #[error("the audit database {} stayed locked by another process", path.display())]
    Busy { path: PathBuf },
    /// Not SQLite at all.
    #[error("{} is not a SQLite database", path.display())]
    NotADatabase { path: PathBuf },
    /// SQLite, but somebody else's.
    #[error("{} is a database of another program (application id {found:#010x})", path.display())]
    Foreign { path: PathBuf, found: i32 },
    /// Written by a later version of this program.
    #[error("the audit database {} has schema version {found}, this program knows versions up to {known}", path.display())]
    Newer { path: PathBuf, found: i64, known: i64 },
    /// Damaged.
    #[error("the audit database {} is damaged ({detail})", path.display())]
    Corrupt { path: PathBuf, detail: String },
    /// A row does not hold what this program writes.
    #[error("row {seq} of the audit database {} cannot be read", path.display())]
    Row { path: PathBuf, seq: u64, source: serde_json::Error },
    /// Reading or writing failed below SQLite.
    #[error("input/output error on the audit database {} while {action}", path.display())]
    Io { path: PathBuf, action: &'static str, source: rusqlite::Error },
    /// Any other answer of SQLite.
    #[error("the audit database {} failed while {action}", path.display())]
    Sqlite { path: PathBuf, action: &'static str, source: rusqlite::Error },
    /// A record has no JSON form.
    #[error("a record could not be encoded")]
    Encode { source: serde_json::Error },
    /// Accepted rows are neither stored nor accounted for.
    #[error("{events} events and {other} other rows could not be written to the audit database {}", path.display())]
    Unwritten { path: PathBuf, events: u64, other: u64, source: Option<Box<StoreError>> },
    /// The writer thread is gone.
    #[error("the writer of the audit database {} has stopped", path.display())]
    Stopped { path: PathBuf },
    /// No session was ever recorded.
    #[error("the audit database {} has no session yet", path.display())]
    NoSession { path: PathBuf },
    /// No session has this id.
    #[error("no session is called `{name}`")]
    UnknownSession { name: String },
    /// Several sessions begin like this.
    #[error("`{name}` is the beginning of {matches} session ids")]
    AmbiguousSession { name: String, matches: usize },
    /// A glob that does not parse.
    #[error("`{pattern}` is not a path pattern")]
    Pattern { pattern: String, source: globset::Error },
    /// Not `SEQ:HASH`.
    #[error("`{text}` is not a head of an audit (SEQ:HASH, 64 hexadecimal digits)")]
    Head { text: String },
}

impl StoreError {
    /// What to do about it, where the message alone does not say it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Missing { .. } | Self::Empty { .. } => {
                "`defenseclaw run -- COMMAND` makes one; name another with --db PATH (root's is /var/lib/defenseclaw/audit.db)"
            }
            Self::NotAFile { .. } | Self::Foreign { .. } => "name another file with --db PATH",
            Self::NotADatabase { .. } => {
                "name another file with --db PATH, or move this one away to start a new audit"
            }
            Self::Directory { .. } => "make the directory, or name another database with --db PATH",
            Self::Permission { .. } => {
                "the audit of a run as root is readable by root only: use sudo, or --db PATH for another one"
            }
            Self::ReadOnly { .. } => {
                "make the file and its directory writable, or name another database with --db PATH; \
                 to read an audit on read-only media, copy it with its -wal file first"
            }
            Self::DiskFull { .. } => "make room, or name a database on another file system with --db PATH",
            Self::Busy { .. } => {
                "find the process that holds it (`fuser PATH`), or use another database with --db PATH"
            }
            Self::Newer { .. } => "update this program, or use another database with --db PATH",
            Self::Corrupt { .. } => {
                "keep the file as evidence and move it away to start a new audit; \
                 `sqlite3 PATH .recover` reads what is left of it"
            }
            Self::Row { .. } => "`defenseclaw audit verify` tells whether the row was changed",
            Self::NoSession { .. } => "`defenseclaw run -- COMMAND` records one",
            Self::UnknownSession { .. } | Self::AmbiguousSession { .. } => {
                "`defenseclaw sessions` lists them; the beginning of an id is enough if only one begins so"
            }
            Self::Pattern { .. } => "example: --path '/etc/**' or --path '**/.env'",
            Self::Head { .. } => "use the head as `defenseclaw audit verify` printed it",
            Self::Unwritten { source: Some(source), .. } => return source.hint(),
            Self::File { .. }
            | Self::Io { .. }
            | Self::Sqlite { .. }
            | Self::Encode { .. }
            | Self::Unwritten { source: None, .. }
            | Self::Stopped { .. } => return None,
        })
    }

    /// Whether trying the same again can succeed without anybody repairing the database.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::DiskFull { .. }
                | Self::Busy { .. }
                | Self::Io { .. }
                | Self::ReadOnly { .. }
                | Self::Permission { .. }
                | Self::Sqlite { .. }
        )
    }

    /// Says in our words what SQLite answered while doing `action`.
    pub(crate) fn sqlite(path: &Path, action: &'static str, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        // A full file system first shows when the shared-memory file grows, which SQLite calls an I/O error.
        if source.sqlite_error().is_some_and(|error| error.extended_code == ffi::SQLITE_IOERR_SHMSIZE) {
            return Self::DiskFull { path };
        }
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull { path },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { path },
            Some(ErrorCode::NotADatabase) => Self::NotADatabase { path },
            Some(ErrorCode::ReadOnly) => Self::ReadOnly { path },
            Some(ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => Self::Permission { path },
            Some(ErrorCode::SystemIoFailure) => Self::Io { path, action, source },
            // A column of the wrong type, a missing table: not what this program writes.
            Some(ErrorCode::DatabaseCorrupt) | None => Self::Corrupt { path, detail: source.to_string() },
            Some(_) => Self::Sqlite { path, action, source },
        }
    }
}
