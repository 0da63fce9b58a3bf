//! Who is writing: so that the end of a writer nobody heard of becomes a row of the audit.
//!
//! Each writer has a row in `writer` and holds a lock on the byte with that number in a file beside the database.
//! The kernel drops the lock when the process is gone, however it went and whatever pid it had. A session without an
//! end whose writer holds no lock was cut off.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rusqlite::{Connection, Transaction, params};

use super::{StoreError, WriterOptions, database::sibling};
use crate::model::{AuditRecord, BootTime, Loss, LossReason, SessionId, WallTime};

/// The file of locks. It is empty: locks on bytes need no bytes.
#[derive(Debug)]
pub(super) struct Presence(File);

impl Presence {
    /// Opens the file for a writer.
    pub(super) fn open(database: &Path) -> Result<Self, StoreError> {
        Self::with(
            database,
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600),
        )
    }

    /// Opens the file to look only; none if no writer ever made one.
    pub(super) fn look(database: &Path) -> Option<Self> {
        Self::with(database, OpenOptions::new().read(true)).ok()
    }

    fn with(database: &Path, options: &mut OpenOptions) -> Result<Self, StoreError> {
        // The same file for every name of the database.
        let failed = |path: &Path, source| StoreError::File { path: path.to_owned(), source };
        let database = database.canonicalize().map_err(|source| failed(database, source))?;
        let path = sibling(&database, "-writers");
        let file = options
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&path)
            .map_err(|source| failed(&path, source))?;
        Ok(Self(file))
    }

    /// Whether another writer holds this slot.
    pub(super) fn is_alive(&self, slot: i64) -> io::Result<bool> {
        let mut range = byte(slot);
        fcntl(&self.0, FcntlArg::F_OFD_GETLK(&mut range))?;
        Ok(range.l_type != kind(libc::F_UNLCK))
    }

    /// Takes a slot; false if another writer holds it.
    fn take(&self, slot: i64) -> io::Result<bool> {
        match fcntl(&self.0, FcntlArg::F_OFD_SETLK(&byte(slot))) {
            Ok(_) => Ok(true),
            Err(nix::Error::EAGAIN | nix::Error::EACCES) => Ok(false),
            Err(err) => Err(err.into()),
        }
    }

    /// Enters this writer and clears away dead ones. Returns its slot and the rows that say what is missing.
    pub(super) fn enter(
        &self,
        transaction: &Transaction<'_>,
        options: &WriterOptions,
    ) -> Result<(i64, Vec<AuditRecord>), Entering> {
        let mut alive = Vec::new();
        let mut dead = Vec::new();
        for mark in marks(transaction)? {
            if self.is_alive(mark.slot)? { alive.push(mark.slot) } else { dead.push(mark) }
        }
        let mut losses = Vec::new();
        let mut owners = Vec::new();
        for open in open_sessions(transaction)? {
            if open.writer.is_some_and(|writer| alive.contains(&writer)) {
                continue;
            }
            owners.extend(open.writer);
            if options.adopts == Some(open.session) {
                continue;
            }
            losses.push(cut_off(options, &open));
            transaction
                .execute("DELETE FROM open_session WHERE session = ?1", [open.session.0.cast_signed()])?;
        }
        for mark in dead {
            transaction.execute("DELETE FROM writer WHERE slot = ?1", [mark.slot])?;
            // A writer that died before it had stored a session: still, something may be missing.
            if !owners.contains(&mark.slot) {
                losses.push(mark.since.unclean(None, options, mark.since.boot));
            }
        }
        // A slot without a row can still be held, by a writer whose database was moved away under it.
        let mut slot = alive.iter().max().map_or(1, |last| last + 1);
        while !self.take(slot)? {
            slot += 1;
        }
        transaction.execute(
            "INSERT INTO writer VALUES (?1, ?2, ?3, ?4)",
            params![slot, options.boot_id, options.boot.0.cast_signed(), options.wall.0],
        )?;
        Ok((slot, losses))
    }
}

/// Takes the writer's mark away: it said goodbye.
pub(super) fn leave(connection: &Connection, slot: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM writer WHERE slot = ?1", [slot]).map(drop)
}

/// Why a writer could not be entered; the caller knows the paths.
#[derive(Debug)]
pub(super) enum Entering {
    Sqlite(rusqlite::Error),
    Lock(io::Error),
}

impl From<rusqlite::Error> for Entering {
    fn from(err: rusqlite::Error) -> Self {
        Self::Sqlite(err)
    }
}

impl From<io::Error> for Entering {
    fn from(err: io::Error) -> Self {
        Self::Lock(err)
    }
}

/// A moment on both clocks.
struct Moment {
    boot_id: String,
    boot: BootTime,
    wall: WallTime,
}

impl Moment {
    /// Now, on the boot clock this moment was read from. After a reboot that clock has stopped, at a time nobody
    /// noted: what the wall clock has moved since is the latest it can have reached.
    fn now_on_its_clock(&self, options: &WriterOptions) -> BootTime {
        if self.boot_id == options.boot_id {
            return options.boot;
        }
        let passed = options.wall.0.saturating_sub(self.wall.0);
        BootTime(self.boot.0.saturating_add(u64::try_from(passed).unwrap_or(0)))
    }

    fn unclean(&self, session: Option<SessionId>, options: &WriterOptions, first: BootTime) -> AuditRecord {
        AuditRecord::Loss(Loss {
            kind: "all".to_owned(),
            reason: LossReason::Unclean,
            count: 0,
            first,
            last: self.now_on_its_clock(options).max(first),
            session,
        })
    }
}

struct Mark {
    slot: i64,
    since: Moment,
}

struct OpenSession {
    session: SessionId,
    /// Who had it open; none if that was never noted.
    writer: Option<i64>,
    last_row: BootTime,
    body: String,
}

fn cut_off(options: &WriterOptions, open: &OpenSession) -> AuditRecord {
    let since = match serde_json::from_str(&open.body) {
        Ok(AuditRecord::SessionStart(start)) => {
            Moment { boot_id: start.boot_id, boot: start.boot, wall: start.wall }
        }
        // A row that was changed must not keep the audit from going on; `verify` names it.
        Ok(_) | Err(_) => Moment { boot_id: options.boot_id.clone(), boot: options.boot, wall: options.wall },
    };
    since.unclean(Some(open.session), options, open.last_row)
}

/// SQL that is true if the last watcher of a session went on purpose; `session` is SQL, too.
pub(super) fn left(session: &str) -> String {
    format!(
        "coalesce((SELECT instr(h.body, '\"step\":\"left\"') > 0 FROM log h WHERE h.record <> 'event'
                   AND h.record = 'handover' AND h.session = {session} ORDER BY h.seq DESC LIMIT 1), 0)"
    )
}

fn marks(connection: &Connection) -> rusqlite::Result<Vec<Mark>> {
    let mut statement = connection.prepare("SELECT slot, boot_id, boot, wall FROM writer")?;
    let rows = statement.query_map([], |row| {
        let boot = BootTime(row.get::<_, i64>(2)?.cast_unsigned());
        Ok(Mark {
            slot: row.get(0)?,
            since: Moment { boot_id: row.get(1)?, boot, wall: WallTime(row.get(3)?) },
        })
    })?;
    rows.collect()
}

/// Sessions that the log neither ends nor declares cut off since their last watcher came, and that were not left.
fn open_sessions(connection: &Connection) -> rusqlite::Result<Vec<OpenSession>> {
    // `record <> 'event'` is what lets SQLite use the index of the few rows that are not events.
    let mut statement = connection.prepare(&format!(
        "SELECT s.session, o.writer, s.body,
                (SELECT l.time FROM log l WHERE l.session = s.session ORDER BY l.seq DESC LIMIT 1)
         FROM log s LEFT JOIN open_session o ON o.session = s.session
         WHERE s.record <> 'event' AND s.record = 'session_start' AND s.session IS NOT NULL
           AND NOT EXISTS (SELECT 1 FROM log e WHERE e.record <> 'event' AND e.record = 'session_end'
                           AND e.session = s.session)
           AND NOT EXISTS (SELECT 1 FROM log u WHERE u.record <> 'event' AND u.record = 'loss'
                           AND u.session = s.session AND u.kind = 'all' AND instr(u.body, '\"reason\":\"unclean\"') > 0
                           AND u.seq > coalesce((SELECT max(h.seq) FROM log h WHERE h.record <> 'event'
                                                 AND h.record = 'handover' AND h.session = s.session), 0))
           AND NOT {}
         ORDER BY s.seq",
        left("s.session")
    ))?;
    let rows = statement.query_map([], |row| {
        Ok(OpenSession {
            session: SessionId(row.get::<_, i64>(0)?.cast_unsigned()),
            writer: row.get(1)?,
            body: row.get(2)?,
            last_row: BootTime(row.get::<_, i64>(3)?.cast_unsigned()),
        })
    })?;
    rows.collect()
}

fn byte(slot: i64) -> libc::flock {
    libc::flock {
        l_type: kind(libc::F_WRLCK),
        l_whence: kind(libc::SEEK_SET),
        l_start: slot,
        l_len: 1,
        l_pid: 0,
    }
}

fn kind(constant: libc::c_int) -> libc::c_short {
    libc::c_short::try_from(constant).unwrap_or_default()
}
