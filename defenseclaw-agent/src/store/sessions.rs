//! Which sessions there are, and what became of them.

use rusqlite::{Connection, OptionalExtension};
use serde::{Deserialize, Serialize};

use super::{
    Reader, StoreError,
    presence::{self, Presence},
    row,
};
use crate::model::{AuditRecord, SessionEnd, SessionId, SessionStart};

/// What became of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// Its writer is alive.
    Running,
    /// It has an end.
    Ended,
    /// It has no end, and its writer said that it leaves it in force.
    Left,
    /// It has no end and its writer is gone.
    Interrupted,
}

/// A session at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSummary {
    /// Its id.
    pub session: SessionId,
    /// What became of it.
    pub state: SessionState,
    /// Events in the audit.
    pub events: u64,
    /// Rows that say something is missing.
    pub losses: u64,
    /// Number of its first row.
    pub first_seq: u64,
    /// How it began.
    pub start: SessionStart,
    /// How it ended.
    pub end: Option<SessionEnd>,
}

impl Reader {
    /// Every session, in the order they began.
    pub fn sessions(&self) -> Result<Vec<SessionSummary>, StoreError> {
        // Looked at before the rows: a session that ends in between has its end among them.
        let presence = Presence::look(&self.path);
        let failed = |err| self.failed("listing its sessions", err);
        let mut found = Vec::new();
        let mut statement = self.connection.prepare_cached(STARTS).map_err(failed)?;
        let rows = statement
            .query_map([], |row| {
                Ok((
                    row.get::<_, i64>(0)?.cast_unsigned(),
                    row.get::<_, String>(1)?,
                    row.get(2)?,
                    row.get(3)?,
                ))
            })
            .map_err(failed)?;
        for row in rows {
            let (seq, body, writer, marked): (u64, String, Option<i64>, bool) = row.map_err(failed)?;
            if let AuditRecord::SessionStart(start) = row::decode(&self.path, seq, &body)? {
                let alive = marked
                    && writer.zip(presence.as_ref()).is_some_and(|(slot, presence)| {
                        // If the lock cannot be asked, do not call the session dead.
                        presence.is_alive(slot).unwrap_or(true)
                    });
                found.push(self.summary(seq, *start, alive)?);
            }
        }
        Ok(found)
    }

    /// The session meant by `last`, an id, or the beginning of one.
    pub fn resolve_session(&self, name: &str) -> Result<SessionId, StoreError> {
        let failed = |err| self.failed("looking for a session", err);
        if name == "last" {
            let last = self
                .connection
                .prepare_cached(&format!("{IDS} ORDER BY seq DESC LIMIT 1"))
                .and_then(|mut statement| statement.query_row([], |row| row.get::<_, i64>(0)).optional())
                .map_err(failed)?;
            return last
                .map(|session| SessionId(session.cast_unsigned()))
                .ok_or_else(|| StoreError::NoSession { path: self.path.clone() });
        }
        if let Ok(session) = name.parse::<SessionId>()
            && self.has_rows(session).map_err(failed)?
        {
            return Ok(session);
        }
        let prefix = name.to_ascii_lowercase();
        let mut statement = self.connection.prepare_cached(IDS).map_err(failed)?;
        let mut matches = statement
            .query_map([], |row| row.get::<_, i64>(0))
            .map_err(failed)?
            .map(|row| row.map(|session| SessionId(session.cast_unsigned())))
            .filter(|row| row.as_ref().map_or(true, |session| session.to_string().starts_with(&prefix)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed)?;
        matches.sort_unstable();
        matches.dedup();
        match matches.as_slice() {
            [session] if !prefix.is_empty() => Ok(*session),
            [_, _, ..] if !prefix.is_empty() => {
                Err(StoreError::AmbiguousSession { name: name.to_owned(), matches: matches.len() })
            }
            _ => Err(StoreError::UnknownSession { name: name.to_owned() }),
        }
    }

    /// How a session began; none if that row is missing.
    pub fn session_start(&self, session: SessionId) -> Result<Option<SessionStart>, StoreError> {
        let found = mark(&self.connection, "session_start", session)
            .map_err(|err| self.failed("reading a session", err))?;
        let Some((seq, body)) = found else { return Ok(None) };
        let record = row::decode(&self.path, seq, &body)?;
        Ok(if let AuditRecord::SessionStart(start) = record { Some(*start) } else { None })
    }

    fn summary(&self, seq: u64, start: SessionStart, alive: bool) -> Result<SessionSummary, StoreError> {
        let failed = |err| self.failed("reading a session", err);
        let session = start.session;
        let count = |sql: &str| -> rusqlite::Result<u64> {
            self.connection
                .prepare_cached(sql)?
                .query_row([row::session_column(session)], |row| row.get::<_, i64>(0))
                .map(i64::cast_unsigned)
        };
        let all = count("SELECT count(*) FROM log WHERE session = ?1").map_err(failed)?;
        let marks =
            count("SELECT count(*) FROM log WHERE record <> 'event' AND session = ?1").map_err(failed)?;
        let losses =
            count("SELECT count(*) FROM log WHERE record <> 'event' AND record = 'loss' AND session = ?1")
                .map_err(failed)?;
        let end = match mark(&self.connection, "session_end", session).map_err(failed)? {
            Some((seq, body)) => {
                let record = row::decode(&self.path, seq, &body)?;
                if let AuditRecord::SessionEnd(end) = record { Some(end) } else { None }
            }
            None => None,
        };
        let state = match (&end, alive) {
            (Some(_), _) => SessionState::Ended,
            (None, true) => SessionState::Running,
            (None, false) if self.is_left(session).map_err(failed)? => SessionState::Left,
            (None, false) => SessionState::Interrupted,
        };
        let events = all.saturating_sub(marks);
        Ok(SessionSummary { session, state, events, losses, first_seq: seq, start, end })
    }

    /// Whether its last watcher went on purpose.
    fn is_left(&self, session: SessionId) -> rusqlite::Result<bool> {
        self.connection
            .prepare_cached(&format!("SELECT {}", presence::left("?1")))?
            .query_row([row::session_column(session)], |row| row.get(0))
    }

    fn has_rows(&self, session: SessionId) -> rusqlite::Result<bool> {
        self.connection
            .prepare_cached("SELECT 1 FROM log WHERE session = ?1 LIMIT 1")?
            .exists([row::session_column(session)])
    }
}

// `record <> 'event'` is what lets SQLite use the index of the few rows that are not events.
const STARTS: &str = "SELECT s.seq, s.body, o.writer, EXISTS (SELECT 1 FROM writer w WHERE w.slot = o.writer)
    FROM log s LEFT JOIN open_session o ON o.session = s.session
    WHERE s.record <> 'event' AND s.record = 'session_start' AND s.session IS NOT NULL ORDER BY s.seq";
const IDS: &str =
    "SELECT session FROM log WHERE record <> 'event' AND record = 'session_start' AND session IS NOT NULL";

fn mark(
    connection: &Connection,
    record: &str,
    session: SessionId,
) -> rusqlite::Result<Option<(u64, String)>> {
    connection
        .prepare_cached(
            "SELECT seq, body FROM log WHERE record <> 'event' AND record = ?1 AND session = ?2
             ORDER BY seq LIMIT 1",
        )?
        .query_row((record, row::session_column(session)), |row| {
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?))
        })
        .optional()
}
