//! Following the chain from the first row to the head, with memory for one row.
//!
//! The first row that does not follow is named; everything behind it is not looked at, since it hangs on that row.

use std::path::Path;

use rusqlite::{Connection, Row, types::ValueRef};
use serde::{Serialize, Serializer};

use super::{
    StoreError,
    chain::{self, Hash, Head, Sealer},
    database,
    row::{COLUMN_COUNT, COLUMNS},
};

/// Answer of [`verify`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Rows that follow each other from the first on.
    pub intact_rows: u64,
    /// The last of them: note it elsewhere to recognise this audit later.
    #[serde(serialize_with = "display")]
    pub head: Head,
    /// The first thing that is wrong.
    #[serde(rename = "break")]
    pub first_break: Option<Break>,
}

/// The first thing that is wrong with an audit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Break {
    /// The row is not the one that was written there, and that one is nowhere else.
    Changed { seq: u64 },
    /// The rows from `first` to `last` are gone.
    Missing { first: u64, last: u64 },
    /// The row that was written as `seq` stands at another place.
    Reordered { seq: u64, found_at: i64 },
    /// A row that no writer committed.
    Added { seq: i64 },
    /// What the file says about itself, its id and its last row, is missing or does not fit the rows.
    Head,
    /// Row `seq` is intact, but not the one whose hash was noted.
    OtherHead { seq: u64 },
}

/// Checks every row of the audit at `path`, against `noted` too if a head was noted earlier. An error only if the
/// file cannot be read.
pub fn verify(path: &Path, noted: Option<&Head>) -> Result<VerifyReport, StoreError> {
    let mut connection = database::open_for_reading(path)?;
    let failed = |err| StoreError::sqlite(path, "verifying it", err);
    // One transaction: rows and head of the same moment, while others write.
    let snapshot = connection.transaction().map_err(failed)?;
    let sound: String =
        snapshot.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if sound != "ok" {
        return Err(StoreError::Corrupt { path: path.to_owned(), detail: sound });
    }
    walk(&snapshot, noted).map_err(failed)
}

fn walk(connection: &Connection, noted: Option<&Head>) -> rusqlite::Result<VerifyReport> {
    let Some(genesis) = chain::genesis(connection)? else {
        let head = Head { seq: 0, hash: Hash::default() };
        return Ok(VerifyReport { intact_rows: 0, head, first_break: Some(Break::Head) });
    };
    let committed = chain::read_head(connection)?;
    let mut head = Head { seq: 0, hash: genesis };
    let mut first_break = noted
        .filter(|noted| noted.seq == 0 && noted.hash != genesis)
        .map(|noted| Break::OtherHead { seq: noted.seq });
    let mut sealer = Sealer::default();
    let mut statement = connection.prepare(&format!("SELECT seq, {COLUMNS}, hash FROM log ORDER BY seq"))?;
    let mut rows = statement.query([])?;
    while first_break.is_none()
        && let Some(row) = rows.next()?
    {
        let found: i64 = row.get(0)?;
        let seq = head.seq + 1;
        let hash = seal(&mut sealer, &head.hash, seq, row)?;
        let complete = committed.is_some_and(|committed| committed.seq == head.seq);
        if !complete && found == seq.cast_signed() && is(row, &hash)? {
            head = Head { seq, hash };
            if let Some(noted) = noted.filter(|noted| noted.seq == seq && noted.hash != hash) {
                first_break = Some(Break::OtherHead { seq: noted.seq });
            }
            continue;
        }
        first_break = Some(if complete || found < seq.cast_signed() {
            Break::Added { seq: found }
        } else if let Some(found_at) = elsewhere(connection, &mut sealer, &head.hash, seq)? {
            Break::Reordered { seq, found_at }
        } else if found > seq.cast_signed() {
            let last = found.cast_unsigned() - 1;
            Break::Missing { first: seq, last: committed.map_or(last, |committed| committed.seq.min(last)) }
        } else {
            Break::Changed { seq }
        });
    }
    if first_break.is_none() {
        let end = committed.into_iter().chain(noted.copied()).map(|head| head.seq).max().unwrap_or(0);
        first_break = match committed {
            _ if end > head.seq => Some(Break::Missing { first: head.seq + 1, last: end }),
            None if head.seq > 0 => Some(Break::Head),
            Some(committed) if committed.hash != head.hash => Some(Break::Head),
            _ => None,
        };
    }
    Ok(VerifyReport { intact_rows: head.seq, head, first_break })
}

/// Where the row stands that follows `previous` as `seq`, if it is in the file at all.
fn elsewhere(
    connection: &Connection,
    sealer: &mut Sealer,
    previous: &Hash,
    seq: u64,
) -> rusqlite::Result<Option<i64>> {
    let mut statement = connection.prepare(&format!("SELECT seq, {COLUMNS}, hash FROM log ORDER BY seq"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let hash = seal(sealer, previous, seq, row)?;
        if is(row, &hash)? {
            return row.get(0).map(Some);
        }
    }
    Ok(None)
}

fn seal(sealer: &mut Sealer, previous: &Hash, seq: u64, row: &Row<'_>) -> rusqlite::Result<Hash> {
    let mut columns = [ValueRef::Null; COLUMN_COUNT];
    for (index, column) in columns.iter_mut().enumerate() {
        *column = row.get_ref(index + 1)?;
    }
    Ok(sealer.seal(previous, seq.cast_signed(), columns))
}

fn is(row: &Row<'_>, hash: &Hash) -> rusqlite::Result<bool> {
    Ok(row.get_ref(COLUMN_COUNT + 1)? == ValueRef::Blob(hash))
}

fn display<S: Serializer>(head: &Head, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(head)
}
