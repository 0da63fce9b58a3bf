//! One record as columns, and back. The JSON body holds everything; the columns repeat what is searched for.

use std::path::Path;

use rusqlite::types::ValueRef;

use super::StoreError;
use crate::model::{AuditRecord, BootTime, KernelPath, SessionId};

/// Columns that are hashed, in the order of the hash; `seq` stands before them and `hash` after.
pub(super) const COLUMNS: &str = "session, time, record, kind, tgid, path, path2, body";
/// How many.
pub(super) const COLUMN_COUNT: usize = 8;

/// Session of a record, if it has one.
pub(super) fn session_of(record: &AuditRecord) -> Option<SessionId> {
    match record {
        AuditRecord::SessionStart(start) => Some(start.session),
        AuditRecord::Event(event) => Some(event.session),
        AuditRecord::PolicyLoaded(policy) => Some(policy.session),
        AuditRecord::PolicyRefused(policy) => Some(policy.session),
        AuditRecord::Posture(change) => Some(change.session),
        AuditRecord::Handover(change) => Some(change.session),
        AuditRecord::Hook(call) => call.session,
        AuditRecord::Correlated(row) => Some(row.session),
        AuditRecord::Finding(row) => Some(row.session),
        AuditRecord::Asked(row) => row.session,
        AuditRecord::Settled(row) => row.session,
        AuditRecord::Granted(row) => row.session,
        AuditRecord::GrantEnded(row) => row.session,
        AuditRecord::Loss(loss) => loss.session,
        AuditRecord::SessionEnd(end) => Some(end.session),
    }
}

/// SQLite has signed integers only; ids and times keep their bits.
pub(super) fn session_column(session: SessionId) -> i64 {
    session.0.cast_signed()
}

/// The columns of `record`; `body` is its JSON, encoded into a buffer the caller keeps.
pub(super) fn columns<'a>(record: &'a AuditRecord, body: &'a [u8]) -> [ValueRef<'a>; COLUMN_COUNT] {
    let (time, name) = match record {
        AuditRecord::SessionStart(start) => (start.boot, "session_start"),
        AuditRecord::Event(event) => (event.time, "event"),
        AuditRecord::PolicyLoaded(policy) => (policy.boot, "policy_loaded"),
        AuditRecord::PolicyRefused(policy) => (policy.boot, "policy_refused"),
        AuditRecord::Posture(change) => (change.boot, "posture"),
        AuditRecord::Handover(change) => (change.boot, "handover"),
        AuditRecord::Hook(call) => (call.boot, "hook"),
        AuditRecord::Correlated(row) => (row.boot, "correlated"),
        AuditRecord::Finding(row) => (row.boot, "finding"),
        AuditRecord::Asked(row) => (row.since, "asked"),
        AuditRecord::Settled(row) => (row.boot, "settled"),
        AuditRecord::Granted(row) => (row.since, "granted"),
        AuditRecord::GrantEnded(row) => (row.boot, "grant_ended"),
        AuditRecord::Loss(loss) => (loss.first, "loss"),
        AuditRecord::SessionEnd(end) => (end.boot, "session_end"),
    };
    let (kind, pid, path, other) = match record {
        AuditRecord::SessionStart(start) => (None, Some(start.root.tgid), None, None),
        AuditRecord::Event(event) => {
            let action = &event.action;
            (Some(event.kind().as_str()), Some(event.process.tgid), action.path(), action.other_path())
        }
        AuditRecord::Hook(call) => {
            let phase = call.event.as_ref().map(|event| event.phase.as_str());
            (phase, Some(call.caller.pid), None, None)
        }
        AuditRecord::Correlated(row) => {
            (Some(row.correlation.as_str()), row.process.map(|process| process.tgid), None, None)
        }
        AuditRecord::Finding(row) => {
            (Some(row.rule.as_str()), row.process.map(|process| process.tgid), None, None)
        }
        AuditRecord::Loss(loss) => (Some(loss.kind.as_str()), None, None, None),
        AuditRecord::Asked(_)
        | AuditRecord::Settled(_)
        | AuditRecord::Granted(_)
        | AuditRecord::GrantEnded(_)
        | AuditRecord::PolicyLoaded(_)
        | AuditRecord::PolicyRefused(_)
        | AuditRecord::Posture(_)
        | AuditRecord::Handover(_)
        | AuditRecord::SessionEnd(_) => (None, None, None, None),
    };
    [
        session_of(record).map_or(ValueRef::Null, |session| ValueRef::Integer(session_column(session))),
        ValueRef::Integer(time_column(time)),
        ValueRef::Text(name.as_bytes()),
        kind.map_or(ValueRef::Null, |kind| ValueRef::Text(kind.as_bytes())),
        pid.map_or(ValueRef::Null, |pid| ValueRef::Integer(pid.into())),
        path.map_or(ValueRef::Null, path_column),
        other.map_or(ValueRef::Null, path_column),
        ValueRef::Text(body),
    ]
}

/// Reads a body back.
pub(super) fn decode(path: &Path, seq: u64, body: &str) -> Result<AuditRecord, StoreError> {
    serde_json::from_str(body).map_err(|source| StoreError::Row { path: path.to_owned(), seq, source })
}

fn time_column(time: BootTime) -> i64 {
    time.0.cast_signed()
}

fn path_column(path: &KernelPath) -> ValueRef<'_> {
    let bytes = path.text.0.as_slice();
    match std::str::from_utf8(bytes) {
        Ok(_) => ValueRef::Text(bytes),
        Err(_) => ValueRef::Blob(bytes),
    }
}
