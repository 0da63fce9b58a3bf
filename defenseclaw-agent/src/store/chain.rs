//! The chain of hashes that makes a change of the audit visible.
//!
//! `hash(row n) = SHA-256(hash(row n - 1) || n || every stored column)`, columns with their type and length, so that
//! two different rows never give the same bytes. The hash before row 1 comes from a random id in `meta`. `meta` also
//! holds the head, number and hash of the last committed row, updated in the same transaction as the rows.
//!
//! What this proves: the rows from 1 to the head are those that were written, in that order, none changed, left out,
//! added or swapped by someone who did not also recompute everything after it.
//!
//! What it does not prove: there is no key in it. Whoever may write the file (root) can rewrite all rows from some
//! point on, with new hashes and a new head, or replace the whole file. That is visible only to somebody who noted a
//! head elsewhere before: `audit verify` prints the head, and `audit verify --head` compares. Neither does it prove
//! that what was recorded is all that happened: missing observations are `Loss` rows. After a power cut the last
//! commits may be gone with their head, and the chain is intact without them.

use std::{fmt, str::FromStr};

use rusqlite::{Connection, OptionalExtension, types::ValueRef};
use sha2::{Digest, Sha256};

use super::StoreError;

/// SHA-256.
pub(super) type Hash = [u8; 32];

/// Last row of an audit: if it is known, every row before it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its number; 0: no row yet.
    pub seq: u64,
    /// Its hash.
    pub hash: [u8; 32],
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.seq)?;
        self.hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Head {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (seq, digits) = text.split_once(':')?;
            let mut hash = [0; 32];
            let digits = digits.as_bytes();
            if digits.len() != 64 || !seq.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
                for digit in pair {
                    let digit = char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())?;
                    *byte = *byte << 4 | digit;
                }
            }
            Some(Self { seq: seq.parse().ok()?, hash })
        };
        parse().ok_or_else(|| StoreError::Head { text: text.to_owned() })
    }
}

/// Hashes rows; keeps its buffer from row to row.
#[derive(Default)]
pub(super) struct Sealer(Vec<u8>);

impl Sealer {
    /// Hash of row `seq` with these columns, after a row with hash `previous`.
    pub(super) fn seal<'a>(
        &mut self,
        previous: &Hash,
        seq: i64,
        columns: impl IntoIterator<Item = ValueRef<'a>>,
    ) -> Hash {
        let Self(buffer) = self;
        buffer.clear();
        buffer.extend_from_slice(previous);
        buffer.extend_from_slice(&seq.to_be_bytes());
        for column in columns {
            match column {
                ValueRef::Null => buffer.push(0),
                ValueRef::Integer(value) => {
                    buffer.push(1);
                    buffer.extend_from_slice(&value.to_be_bytes());
                }
                ValueRef::Real(value) => {
                    buffer.push(2);
                    buffer.extend_from_slice(&value.to_bits().to_be_bytes());
                }
                ValueRef::Text(bytes) => tagged(buffer, 3, bytes),
                ValueRef::Blob(bytes) => tagged(buffer, 4, bytes),
            }
        }
        Sha256::digest(buffer.as_slice()).into()
    }
}

fn tagged(buffer: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    buffer.push(tag);
    buffer.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
    buffer.extend_from_slice(bytes);
}

/// Hash before the first row; none if the file has lost its id.
pub(super) fn genesis(connection: &Connection) -> rusqlite::Result<Option<Hash>> {
    let id: Option<Vec<u8>> = connection
        .prepare_cached("SELECT value FROM meta WHERE key = 'id' AND typeof(value) = 'blob'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(id.map(|id| Sha256::new().chain_update(b"defenseclaw audit 1\0").chain_update(id).finalize().into()))
}

/// The committed head; none if no row was ever committed.
pub(super) fn read_head(connection: &Connection) -> rusqlite::Result<Option<Head>> {
    let stored: Option<Vec<u8>> = connection
        .prepare_cached("SELECT value FROM meta WHERE key = 'head' AND typeof(value) = 'blob'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    let parse = |stored: &[u8]| {
        let (seq, hash) = stored.split_first_chunk::<8>()?;
        Some(Head { seq: u64::from_be_bytes(*seq), hash: hash.try_into().ok()? })
    };
    Ok(stored.and_then(|stored| parse(&stored)))
}

/// Commits `head` with the transaction it is called in.
pub(super) fn write_head(connection: &Connection, head: &Head) -> rusqlite::Result<()> {
    let mut value = [0; 40];
    value[..8].copy_from_slice(&head.seq.to_be_bytes());
    value[8..].copy_from_slice(&head.hash);
    connection
        .prepare_cached("INSERT INTO meta VALUES ('head', ?1) ON CONFLICT (key) DO UPDATE SET value = ?1")?
        .execute([value.as_slice()])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_head_reads_back() {
        let head = Head { seq: 12, hash: std::array::from_fn(|i| u8::try_from(i * 8).unwrap()) };
        assert_eq!(head.to_string().parse::<Head>().unwrap(), head);
        let zeros = "0".repeat(64);
        for bad in [
            "",
            "1",
            "1:",
            "1:00",
            &format!("-1:{zeros}"),
            &format!("+1:{zeros}"),
            &format!("1:{zeros}0"),
            &format!("1:{}é", "0".repeat(62)),
        ] {
            bad.parse::<Head>().unwrap_err();
        }
    }

    #[test]
    fn columns_cannot_flow_into_each_other() {
        use ValueRef::{Blob, Integer, Null, Text};
        let rows: [&[ValueRef<'_>]; 9] = [
            &[Text(b"ab"), Text(b"c")],
            &[Text(b"a"), Text(b"bc")],
            &[Text(b"abc"), Text(b"")],
            &[Text(b"abc"), Null],
            &[Null, Text(b"abc")],
            &[Blob(b"ab"), Text(b"c")],
            &[Integer(0), Null],
            &[Null, Integer(0)],
            &[Text(&[0; 8]), Null],
        ];
        let mut sealer = Sealer::default();
        let mut hashes: Vec<Hash> =
            rows.iter().map(|row| sealer.seal(&[0; 32], 1, row.iter().copied())).collect();
        hashes.push(sealer.seal(&[0; 32], 2, rows[0].iter().copied()));
        hashes.push(sealer.seal(&[1; 32], 1, rows[0].iter().copied()));
        let count = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), count);
    }
}
