//! Opening the file, safely and with a clear answer when it cannot be opened. Knows nothing about rows.

use std::{
    fmt::Write,
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};

use super::{StoreError, schema};

/// How long one statement waits for another writer's transaction. Those take milliseconds.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Opens the database for writing; makes it (mode 0600, and the directory 0700 if `create_parent`) if it is not there.
pub(super) fn open_for_writing(path: &Path, create_parent: bool) -> Result<Connection, StoreError> {
    if create_parent && let Some(parent) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
            .map_err(|source| StoreError::Directory { path: parent.to_owned(), source })?;
    }
    // SQLite would make the file readable by everybody; the -wal and -shm files take their mode from this one.
    // An existing file must not even be opened here: closing it would drop the locks of this process's connections.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => {}
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => require_file(path)?,
        Err(err) => return Err(file_error(path, err)),
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = connect(path, path, flags)?;
    // Where SQLite may not write it opens for reading, and would fail later with a less clear answer.
    if connection.is_readonly("main").unwrap_or(true) {
        return Err(StoreError::ReadOnly { path: path.to_owned() });
    }
    // Before anything is changed: is it ours?
    if let schema::State::Blank = schema::state(&connection, path, schema::STEPS)? {
        // Also where an empty file was already there. Later the mode is the owner's business.
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(|err| file_error(path, err))?;
    }
    write_ahead_log(&connection, path)?;
    schema::migrate(&mut connection, path, schema::STEPS)?;
    Ok(connection)
}

/// Opens the database for reading only.
pub(super) fn open_for_reading(path: &Path) -> Result<Connection, StoreError> {
    require_file(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = connect(path, path, flags).and_then(|connection| {
        let state = schema::state(&connection, path, schema::STEPS)?;
        Ok((connection, state))
    });
    let (connection, state) = match opened {
        // A closed audit on read-only media has no -shm file, and none can be made: nobody can be writing either.
        Err(StoreError::Permission { .. } | StoreError::ReadOnly { .. } | StoreError::Sqlite { .. })
            if readable(path) && !sibling(path, "-wal").exists() =>
        {
            let connection = connect(path, &immutable_uri(path), flags | OpenFlags::SQLITE_OPEN_URI)?;
            let state = schema::state(&connection, path, schema::STEPS)?;
            (connection, state)
        }
        // Readable, but not with the -wal file that belongs to it.
        Err(StoreError::Permission { path }) if readable(&path) => {
            return Err(StoreError::ReadOnly { path });
        }
        other => other?,
    };
    match state {
        schema::State::Version(_) => Ok(connection),
        schema::State::Blank => Err(StoreError::Empty { path: path.to_owned() }),
    }
}

/// `audit.db` and `-wal`: `audit.db-wal`.
pub(super) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn connect(path: &Path, name: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let failed = |err| StoreError::sqlite(path, "opening it", err);
    // Absolute, or SQLite would take `:memory:` and `file:` for something else than file names.
    let name = if flags.contains(OpenFlags::SQLITE_OPEN_URI) {
        name.to_owned()
    } else {
        std::path::absolute(name).map_err(|source| StoreError::File { path: path.to_owned(), source })?
    };
    let connection = Connection::open_with_flags(name, flags).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    // The file may have been tampered with: nothing stored in it is executed.
    for (option, value) in [
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
    ] {
        connection.set_db_config(option, value).map_err(failed)?;
    }
    Ok(connection)
}

/// Readers do not block the writer, and a commit needs no sync. After a power cut the last commits may be missing,
/// whole; after the death of the process none is.
fn write_ahead_log(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |err| StoreError::sqlite(path, "switching it to write-ahead logging", err);
    // The switch needs the file for itself and does not wait by its own, so two first starts at once would collide.
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        let mode: rusqlite::Result<String> =
            connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0));
        match mode {
            Ok(mode) if mode == "wal" => break,
            Err(err)
                if err.sqlite_error_code() != Some(ErrorCode::DatabaseBusy) || Instant::now() >= deadline =>
            {
                return Err(failed(err));
            }
            Ok(_) if Instant::now() >= deadline => {
                return Err(StoreError::Busy { path: path.to_owned() });
            }
            Ok(_) | Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(failed)?;
    // 16 MiB between checkpoints: at full rate that is a few syncs a second.
    connection.pragma_update(None, "wal_autocheckpoint", 4096).map_err(failed)?;
    Ok(())
}

fn require_file(path: &Path) -> Result<(), StoreError> {
    let metadata = fs::metadata(path).map_err(|err| file_error(path, err))?;
    if metadata.is_file() { Ok(()) } else { Err(StoreError::NotAFile { path: path.to_owned() }) }
}

fn file_error(path: &Path, source: io::Error) -> StoreError {
    let path = path.to_owned();
    #[expect(clippy::wildcard_enum_match_arm, reason = "kinds without words of their own keep their source")]
    match source.kind() {
        io::ErrorKind::PermissionDenied => StoreError::Permission { path },
        io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly { path },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::DiskFull { path },
        io::ErrorKind::IsADirectory => StoreError::NotAFile { path },
        io::ErrorKind::NotFound => match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() && !parent.exists() => {
                StoreError::Directory { path: parent.to_owned(), source }
            }
            _ => StoreError::Missing { path },
        },
        _ => StoreError::File { path, source },
    }
}

fn readable(path: &Path) -> bool {
    nix::unistd::access(path, nix::unistd::AccessFlags::R_OK).is_ok()
}

fn immutable_uri(path: &Path) -> PathBuf {
    let mut uri = String::from("file:");
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for byte in path.as_os_str().as_bytes() {
        // Writing to a String cannot fail.
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                uri.push(char::from(*byte));
            }
            _ => {
                write!(uri, "%{byte:02X}").ok();
            }
        }
    }
    uri.push_str("?immutable=1");
    PathBuf::from(uri)
}
