//! Each way of changing the file behind the writer's back is found and named.

use defenseclaw::{
    model::PolicyAction,
    store::{Break, Filter, Head, VerifyReport, Writer, verify},
};

use super::Place;
use crate::records;

/// A copy of row 3 as row `seq`.
fn copy(seq: u64) -> String {
    format!(
        "INSERT INTO log SELECT {seq}, session, time, record, kind, tgid, path, path2, body, hash FROM log WHERE seq = 3"
    )
}

fn check(place: &Place) -> VerifyReport {
    verify(&place.db(), None).unwrap()
}

#[test]
fn an_untouched_audit_is_intact_and_its_head_can_be_noted() {
    let place = Place::with_events(20);
    let report = check(&place);
    assert_eq!((report.intact_rows, report.head.seq, report.first_break.clone()), (22, 22, None));
    // It grows, and the noted head still lies in it.
    let writer = Writer::open(&place.db(), &records::options()).unwrap();
    writer.append(vec![records::opened(records::SESSION, 1)]).unwrap();
    writer.close().unwrap();
    let later = verify(&place.db(), Some(&report.head)).unwrap();
    assert_eq!((later.intact_rows, later.first_break), (23, None));
}

#[test]
fn an_audit_without_rows_is_intact() {
    let place = Place::new();
    Writer::open(&place.db(), &records::options()).unwrap().close().unwrap();
    assert_eq!(check(&place).first_break, None);
}

#[test]
fn every_column_is_covered() {
    for (column, value) in [
        ("session", "session + 1"),
        ("session", "NULL"),
        ("time", "time - 1"),
        ("record", "'loss'"),
        ("kind", "'file_create'"),
        ("kind", "NULL"),
        ("tgid", "NULL"),
        ("tgid", "1"),
        ("path", "'/etc/hosts'"),
        ("path", "CAST(path AS BLOB)"),
        ("path", "NULL"),
        ("path2", "''"),
        ("body", "replace(body, '1000', '0')"),
        ("body", "body || ' '"),
        ("hash", "zeroblob(32)"),
        ("hash", "(SELECT hash FROM log WHERE seq = 9)"),
    ] {
        let place = Place::with_events(20);
        place.tamper(&format!("UPDATE log SET {column} = {value} WHERE seq = 10"));
        let report = check(&place);
        assert_eq!(report.first_break, Some(Break::Changed { seq: 10 }), "{column} = {value}");
        assert_eq!(report.intact_rows, 9, "{column} = {value}");
    }
}

#[test]
fn rows_that_are_gone_moved_or_added_are_named() {
    // The seals of rows 1 to 22; the last one is the end of the session.
    let cases: [(&str, String, Break); 14] = [
        ("first row", "DELETE FROM log WHERE seq = 1".into(), Break::Missing { first: 1, last: 1 }),
        ("one row", "DELETE FROM log WHERE seq = 7".into(), Break::Missing { first: 7, last: 7 }),
        (
            "a range",
            "DELETE FROM log WHERE seq BETWEEN 7 AND 12".into(),
            Break::Missing { first: 7, last: 12 },
        ),
        ("the tail", "DELETE FROM log WHERE seq > 20".into(), Break::Missing { first: 21, last: 22 }),
        ("everything", "DELETE FROM log".into(), Break::Missing { first: 1, last: 22 }),
        (
            "two neighbours swapped",
            "UPDATE log SET seq = -7 WHERE seq = 7; UPDATE log SET seq = 7 WHERE seq = 8;
             UPDATE log SET seq = 8 WHERE seq = -7"
                .into(),
            Break::Reordered { seq: 7, found_at: 8 },
        ),
        (
            "two distant rows swapped",
            "UPDATE log SET seq = -7 WHERE seq = 7; UPDATE log SET seq = 7 WHERE seq = 18;
             UPDATE log SET seq = 18 WHERE seq = -7"
                .into(),
            Break::Reordered { seq: 7, found_at: 18 },
        ),
        (
            "moved to the end",
            "UPDATE log SET seq = 23 WHERE seq = 7".into(),
            Break::Reordered { seq: 7, found_at: 23 },
        ),
        (
            "gone and renumbered",
            "DELETE FROM log WHERE seq = 7; UPDATE log SET seq = -seq WHERE seq > 7;
             UPDATE log SET seq = -seq - 1 WHERE seq < 0"
                .into(),
            Break::Changed { seq: 7 },
        ),
        (
            "put in between",
            format!(
                "UPDATE log SET seq = -seq WHERE seq >= 7; UPDATE log SET seq = 1 - seq WHERE seq < 0; {}",
                copy(7)
            ),
            Break::Reordered { seq: 7, found_at: 8 },
        ),
        ("put before the first", copy(0), Break::Added { seq: 0 }),
        ("put behind the last", copy(23), Break::Added { seq: 23 }),
        ("no head", "DELETE FROM meta WHERE key = 'head'".into(), Break::Head),
        ("no id", "DELETE FROM meta WHERE key = 'id'".into(), Break::Head),
    ];
    for (name, sql, want) in cases {
        let place = Place::with_events(20);
        place.tamper(&sql);
        assert_eq!(check(&place).first_break, Some(want), "{name}");
    }
}

#[test]
fn a_rewritten_audit_is_told_from_the_noted_head_only() {
    let place = Place::with_events(20);
    let noted = check(&place).head;
    // Somebody with root replaces the file by another one that is sound in itself.
    let forged = Place::with_events(20);
    std::fs::copy(forged.db(), place.db()).unwrap();
    assert_eq!(check(&place).first_break, None);
    assert_eq!(verify(&place.db(), Some(&noted)).unwrap().first_break, Some(Break::OtherHead { seq: 22 }));
    // Or by a shorter one.
    let shorter = Place::with_events(3);
    std::fs::copy(shorter.db(), place.db()).unwrap();
    assert_eq!(
        verify(&place.db(), Some(&noted)).unwrap().first_break,
        Some(Break::Missing { first: 6, last: 22 })
    );
    let empty = Head { seq: 0, hash: [0; 32] };
    assert_eq!(verify(&place.db(), Some(&empty)).unwrap().first_break, Some(Break::OtherHead { seq: 0 }));
}

#[test]
fn the_writer_goes_on_behind_rows_that_are_not_its_own() {
    let place = Place::with_events(3);
    place.tamper(&copy(6));
    let writer = Writer::open(&place.db(), &records::options()).unwrap();
    writer.append(vec![records::opened(records::SESSION, 9)]).unwrap();
    assert_eq!(writer.close().unwrap().rows, 1);
    let report = check(&place);
    assert_eq!((report.intact_rows, report.first_break), (5, Some(Break::Changed { seq: 6 })));
}

#[test]
fn an_audit_of_before_policies_goes_on_with_them() {
    let place = Place::with_events(20);
    place.tamper("PRAGMA user_version = 1");
    let before = check(&place);
    assert_eq!((before.intact_rows, before.first_break), (22, None), "read as it is");

    let writer = Writer::open(&place.db(), &records::options()).unwrap();
    let (blocked, alerted) = (records::judged(PolicyAction::Block), records::judged(PolicyAction::Alert));
    let rows = [records::policy_loaded(), blocked.clone(), alerted, records::degraded()];
    writer.append(rows.to_vec()).unwrap();
    writer.close().unwrap();

    let after = verify(&place.db(), Some(&before.head)).unwrap();
    assert_eq!((after.intact_rows, after.first_break), (26, None), "the noted head still lies in it");
    let all = super::read(&place.db(), &Filter::default());
    let added: Vec<_> = all.into_iter().skip(22).map(|stored| stored.record).collect();
    assert_eq!(added, rows);
    let filter = Filter { blocked: true, ..Filter::default() };
    let found: Vec<_> = super::read(&place.db(), &filter).into_iter().map(|stored| stored.record).collect();
    assert_eq!(found, [blocked]);
    let connection = rusqlite::Connection::open(place.db()).unwrap();
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, 5, "so that an older program says what it lacks instead of failing at a row");
}
