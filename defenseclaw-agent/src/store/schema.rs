//! Tables of the audit, and how older files become newer ones.
//!
//! `application_id` says that a file is ours, `user_version` which of the steps below it has been through. A step is
//! never edited once released: a new one is added.

use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::StoreError;

/// "DfCA" in ASCII.
pub(super) const APPLICATION_ID: i32 = 0x4466_4341;

/// Step `n` takes a file from version `n` to `n + 1`.
pub(super) const STEPS: &[&str] = &["
    CREATE TABLE meta (
        key   TEXT PRIMARY KEY,
        value ANY NOT NULL
    ) STRICT, WITHOUT ROWID;
    INSERT INTO meta VALUES ('id', randomblob(16));

    -- Every record, in the order it was accepted. `path` is text, or a blob where it is not UTF-8.
    CREATE TABLE log (
        seq     INTEGER PRIMARY KEY,
        session INTEGER,
        time    INTEGER NOT NULL,
        record  TEXT NOT NULL,
        kind    TEXT,
        tgid    INTEGER,
        path    ANY,
        path2   ANY,
        body    TEXT NOT NULL,
        hash    BLOB NOT NULL
    ) STRICT;
    CREATE INDEX log_session ON log (session);
    -- Starts, ends and losses are few: finding them must not read every event.
    CREATE INDEX log_marks ON log (record, session) WHERE record <> 'event';

    -- Writers that have not said goodbye, and the sessions they had open.
    CREATE TABLE writer (
        slot    INTEGER PRIMARY KEY,
        boot_id TEXT NOT NULL,
        boot    INTEGER NOT NULL,
        wall    INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE open_session (
        session INTEGER PRIMARY KEY,
        writer  INTEGER NOT NULL
    ) STRICT;
", "
    -- Rows may be of the types policy_loaded, policy_refused and posture, and events may have a decision: nothing that
    -- the tables show, but what older programs cannot read.
    UPDATE meta SET value = value WHERE false;
", "
    -- Rows may be of the type handover, and a main process may have ended unseen: likewise.
    UPDATE meta SET value = value WHERE false;
", "
    -- Rows may be of the type hook, with the phase as their kind and the pid of who asked.
    UPDATE meta SET value = value WHERE false;
", "
    -- Rows may be of the types correlated and finding, with the answer or the rule as their kind.
    UPDATE meta SET value = value WHERE false;
"];

/// What a file is, before anything is done to it.
pub(super) enum State {
    /// No table, no mark of any program.
    Blank,
    /// Ours, at this version.
    Version(usize),
}

/// Reads whose file this is; refuses those of other programs and of later versions.
pub(super) fn state(connection: &Connection, path: &Path, steps: &[&str]) -> Result<State, StoreError> {
    // One statement, so that all three are of the same moment: another process may be making the tables just now.
    let (application, version, tables): (i64, i64, i64) = connection
        .query_row(
            "SELECT (SELECT application_id FROM pragma_application_id),
                    (SELECT user_version FROM pragma_user_version),
                    (SELECT count(*) FROM sqlite_schema)",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .map_err(|err| StoreError::sqlite(path, "reading its header", err))?;
    if application == 0 && version == 0 && tables == 0 {
        return Ok(State::Blank);
    }
    if application != i64::from(APPLICATION_ID) {
        return Err(StoreError::Foreign {
            path: path.to_owned(),
            found: i32::try_from(application).unwrap_or(i32::MAX),
        });
    }
    match usize::try_from(version) {
        Ok(found @ 1..) if found <= steps.len() => Ok(State::Version(found)),
        Ok(0) | Err(_) => {
            Err(StoreError::Corrupt { path: path.to_owned(), detail: format!("schema version {version}") })
        }
        Ok(_) => Err(StoreError::Newer { path: path.to_owned(), found: version, known: number(steps) }),
    }
}

/// Brings a file to the last version, all steps in one transaction. Two processes may do this at once: the second
/// one waits for the first and finds nothing left to do.
pub(super) fn migrate(connection: &mut Connection, path: &Path, steps: &[&str]) -> Result<(), StoreError> {
    let failed = |err| StoreError::sqlite(path, "preparing its tables", err);
    if let State::Version(version) = state(connection, path, steps)?
        && version == steps.len()
    {
        return Ok(());
    }
    let transaction = Transaction::new(connection, TransactionBehavior::Immediate).map_err(failed)?;
    let done = match state(&transaction, path, steps)? {
        State::Blank => 0,
        State::Version(version) => version,
    };
    for step in steps.iter().skip(done) {
        transaction.execute_batch(step).map_err(failed)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
    transaction.pragma_update(None, "user_version", number(steps)).map_err(failed)?;
    transaction.commit().map_err(failed)
}

fn number(steps: &[&str]) -> i64 {
    i64::try_from(steps.len()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "memory";

    fn version(connection: &Connection) -> i64 {
        connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_file_walks_through_the_steps_it_lacks_and_keeps_its_rows() {
        let path = Path::new(PATH);
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, path, STEPS).unwrap();
        let id: Vec<u8> =
            connection.query_row("SELECT value FROM meta WHERE key = 'id'", [], |row| row.get(0)).unwrap();
        assert_eq!(id.len(), 16);

        let mut later = STEPS.to_vec();
        later.push("ALTER TABLE log ADD COLUMN extra TEXT;");
        migrate(&mut connection, path, &later).unwrap();
        assert_eq!(version(&connection), number(&later));
        let same: Vec<u8> =
            connection.query_row("SELECT value FROM meta WHERE key = 'id'", [], |row| row.get(0)).unwrap();
        assert_eq!(id, same);
        connection.prepare("SELECT extra FROM log").unwrap();

        // The older program meets the newer file.
        let err = migrate(&mut connection, path, STEPS).unwrap_err();
        assert!(matches!(err, StoreError::Newer { found, known, .. } if found == known + 1), "{err}");
    }

    #[test]
    fn files_of_every_version_come_up_to_the_last() {
        for version in 1..STEPS.len() {
            let mut connection = Connection::open_in_memory().unwrap();
            migrate(&mut connection, Path::new(PATH), &STEPS[..version]).unwrap();
            connection
                .execute("INSERT INTO log VALUES (1, 7, 1, 'event', NULL, 1, NULL, NULL, '{}', x'00')", [])
                .unwrap();
            migrate(&mut connection, Path::new(PATH), STEPS).unwrap();
            let rows: i64 = connection.query_row("SELECT count(*) FROM log", [], |row| row.get(0)).unwrap();
            assert_eq!((self::version(&connection), rows), (number(STEPS), 1));
        }
    }

    #[test]
    fn a_step_that_fails_leaves_the_file_as_it_was() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, Path::new(PATH), STEPS).unwrap();
        let mut broken = STEPS.to_vec();
        broken.push("CREATE TABLE half (x TEXT); CREATE TABLE log (y TEXT);");
        migrate(&mut connection, Path::new(PATH), &broken).unwrap_err();
        assert_eq!(version(&connection), number(STEPS));
        connection.prepare("SELECT * FROM half").unwrap_err();
    }

    #[test]
    fn files_of_others_are_refused() {
        for (sql, want) in [
            ("CREATE TABLE theirs (x)", "Foreign { path: \"memory\", found: 0 }"),
            ("PRAGMA application_id = 7", "Foreign { path: \"memory\", found: 7 }"),
            ("PRAGMA user_version = 3", "Foreign { path: \"memory\", found: 0 }"),
            (
                "PRAGMA application_id = 0x44664341",
                "Corrupt { path: \"memory\", detail: \"schema version 0\" }",
            ),
        ] {
            let mut connection = Connection::open_in_memory().unwrap();
            connection.execute_batch(sql).unwrap();
            let err = migrate(&mut connection, Path::new(PATH), STEPS).unwrap_err();
            assert_eq!(format!("{err:?}"), want, "{sql}");
        }
    }
}
