//! Adding rows inside one transaction: the only code that writes to `log`.

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::{
    StoreError,
    chain::{self, Head, Sealer},
    row,
};
use crate::model::{AuditRecord, Handover, HandoverStep, SessionId};

/// Buffers that live as long as the writer.
#[derive(Default)]
pub(super) struct Buffers {
    body: Vec<u8>,
    sealer: Sealer,
}

/// Why a transaction failed; the caller knows the path.
#[derive(Debug)]
pub(super) enum Failed {
    Sqlite(rusqlite::Error),
    Encode(serde_json::Error),
}

impl From<rusqlite::Error> for Failed {
    fn from(err: rusqlite::Error) -> Self {
        Self::Sqlite(err)
    }
}

impl Failed {
    pub(super) fn at(self, path: &std::path::Path, action: &'static str) -> StoreError {
        match self {
            Self::Sqlite(err) => StoreError::sqlite(path, action, err),
            Self::Encode(source) => StoreError::Encode { source },
        }
    }
}

/// A transaction that holds the write lock from its beginning, so that no other writer can move the head.
pub(super) fn begin(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    Transaction::new(connection, TransactionBehavior::Immediate)
}

/// Adds `records` to the end of the chain; `writer` is the slot of the writer that accepted them. Returns how many.
pub(super) fn append<'a>(
    transaction: &Transaction<'_>,
    buffers: &mut Buffers,
    writer: i64,
    records: impl IntoIterator<Item = &'a AuditRecord>,
) -> Result<u64, Failed> {
    let mut head = end_of_chain(transaction)?;
    let before = head.seq;
    let mut insert = transaction.prepare_cached(
        "INSERT INTO log (seq, session, time, record, kind, tgid, path, path2, body, hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?;
    for record in records {
        buffers.body.clear();
        serde_json::to_writer(&mut buffers.body, record).map_err(Failed::Encode)?;
        let seq = (head.seq + 1).cast_signed();
        let [session, time, name, kind, tgid, path, path2, body] = row::columns(record, &buffers.body);
        let hash = buffers.sealer.seal(&head.hash, seq, [session, time, name, kind, tgid, path, path2, body]);
        insert.execute(params![
            seq,
            Bound(session),
            Bound(time),
            Bound(name),
            Bound(kind),
            Bound(tgid),
            Bound(path),
            Bound(path2),
            Bound(body),
            hash.as_slice(),
        ])?;
        head = Head { seq: head.seq + 1, hash };
        own(transaction, writer, record)?;
    }
    if head.seq > before {
        chain::write_head(transaction, &head)?;
    }
    Ok(head.seq - before)
}

/// Where the next row continues. Rows behind the committed head are not ours; they stay, for `verify` to name them,
/// and the chain goes on behind them.
fn end_of_chain(connection: &Connection) -> rusqlite::Result<Head> {
    let head = match chain::read_head(connection)? {
        Some(head) => head,
        None => Head { seq: 0, hash: chain::genesis(connection)?.unwrap_or_default() },
    };
    let last: i64 = connection
        .prepare_cached("SELECT coalesce(max(seq), 0) FROM log")?
        .query_row([], |row| row.get(0))?;
    Ok(Head { seq: head.seq.max(u64::try_from(last).unwrap_or(0)), hash: head.hash })
}

/// Remembers whose session it is, so that another writer can tell an open one from a lost one.
fn own(connection: &Connection, writer: i64, record: &AuditRecord) -> rusqlite::Result<()> {
    match record {
        AuditRecord::SessionStart(start) => {
            open(connection, writer, start.session)?;
        }
        AuditRecord::Handover(Handover { session, step: HandoverStep::Adopted { .. }, .. }) => {
            open(connection, writer, *session)?;
        }
        AuditRecord::SessionEnd(end) => {
            close(connection, end.session)?;
        }
        AuditRecord::Handover(Handover { session, step: HandoverStep::Left, .. }) => {
            close(connection, *session)?;
        }
        AuditRecord::Event(_)
        | AuditRecord::Hook(_)
        | AuditRecord::Correlated(_)
        | AuditRecord::Finding(_)
        | AuditRecord::PolicyLoaded(_)
        | AuditRecord::PolicyRefused(_)
        | AuditRecord::Posture(_)
        // The end of the session follows.
        | AuditRecord::Handover(Handover { step: HandoverStep::Released, .. })
        | AuditRecord::Asked(_)
        | AuditRecord::Settled(_)
        | AuditRecord::Granted(_)
        | AuditRecord::GrantEnded(_)
        | AuditRecord::Loss(_) => {}
    }
    Ok(())
}

fn open(connection: &Connection, writer: i64, session: SessionId) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO open_session VALUES (?1, ?2)")?
        .execute(params![row::session_column(session), writer])
        .map(drop)
}

fn close(connection: &Connection, session: SessionId) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM open_session WHERE session = ?1")?
        .execute([row::session_column(session)])
        .map(drop)
}

/// A borrowed value as a parameter: no copy on the way to SQLite.
struct Bound<'a>(rusqlite::types::ValueRef<'a>);

impl rusqlite::ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        Ok(rusqlite::types::ToSqlOutput::Borrowed(self.0))
    }
}
