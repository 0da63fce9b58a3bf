//! Files that are not an audit, and file systems that do not take one.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use defenseclaw::{
    model::{AuditRecord, LossReason},
    store::{Filter, Reader, StoreError, Writer, WriterOptions, verify},
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{Place, read};
use crate::records::{self, SESSION};

type Check = fn(&StoreError) -> bool;

fn write_error(path: &Path) -> StoreError {
    Writer::open(path, &records::options()).map(drop).unwrap_err()
}

fn read_error(path: &Path) -> StoreError {
    Reader::open(path).map(drop).unwrap_err()
}

#[test]
fn each_bad_file_gets_its_own_error_and_is_left_alone() {
    let place = Place::new();
    let path = |name: &str| place.dir().join(name);
    fs::create_dir(path("directory")).unwrap();
    fs::write(path("text"), "this is a diary, not a database; do not write into it ".repeat(40)).unwrap();
    fs::write(path("short"), "hi").unwrap();
    let foreign = |name: &str, sql: &str| {
        rusqlite::Connection::open(path(name)).unwrap().execute_batch(sql).unwrap();
    };
    foreign("foreign", "CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)");
    foreign("newer", "CREATE TABLE log (x); PRAGMA application_id = 0x44664341; PRAGMA user_version = 99");
    nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();

    let cases: [(&str, Check); 7] = [
        ("directory", |err| matches!(err, StoreError::NotAFile { .. })),
        ("fifo", |err| matches!(err, StoreError::NotAFile { .. })),
        ("text", |err| matches!(err, StoreError::NotADatabase { .. })),
        ("short", |err| matches!(err, StoreError::NotADatabase { .. })),
        ("foreign", |err| matches!(err, StoreError::Foreign { found: 0, .. })),
        ("newer", |err| matches!(err, StoreError::Newer { found: 99, known: 5, .. })),
        ("no/such/directory", |err| matches!(err, StoreError::Directory { .. })),
    ];
    for (name, is_right) in cases {
        // Reading a fifo would wait for somebody to write.
        let contents = || if name == "fifo" { None } else { fs::read(path(name)).ok() };
        let before = contents();
        for err in [write_error(&path(name)), read_error(&path(name))] {
            assert!(is_right(&err), "{name}: {err:?}");
            assert!(err.hint().is_some(), "{name}: {err}");
        }
        assert_eq!(contents(), before, "{name}");
    }
    assert!(matches!(read_error(&path("absent")), StoreError::Missing { .. }));
    fs::write(path("empty"), "").unwrap();
    assert!(matches!(read_error(&path("empty")), StoreError::Empty { .. }));
    Writer::open(&path("empty"), &records::options()).unwrap().close().unwrap();
    assert_eq!(fs::metadata(path("empty")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn names_that_mean_something_to_sqlite_are_only_names() {
    let place = Place::new();
    for name in [":memory:", "file:x?mode=memory", "a%b?c#d", "-audit"] {
        let path = place.dir().join(name);
        let writer = Writer::open(&path, &records::options()).unwrap();
        writer.append(vec![records::start(SESSION)]).unwrap();
        writer.close().unwrap();
        assert!(path.is_file(), "{name}");
        assert_eq!(read(&path, &Filter::default()).len(), 1, "{name}");
    }
}

#[test]
fn a_damaged_file_is_an_error_not_a_panic() {
    let place = Place::with_events(2000);
    let sound = fs::read(place.db()).unwrap();
    let mut damaged = 0;
    for page in 1..sound.len() / 4096 {
        let mut bytes = sound.clone();
        for byte in &mut bytes[page * 4096..page * 4096 + 64] {
            *byte ^= 0xa5;
        }
        fs::write(place.db(), &bytes).unwrap();
        match verify(&place.db(), None) {
            Err(StoreError::Corrupt { .. }) => damaged += 1,
            Err(err) => panic!("page {page}: {err:?}"),
            Ok(report) => damaged += usize::from(report.first_break.is_some()),
        }
        // Whatever it finds, it comes back.
        drop(Writer::open(&place.db(), &records::options()).and_then(Writer::close));
    }
    // A page on the free list may be anything.
    assert!(damaged + 3 >= sound.len() / 4096, "{damaged} of {}", sound.len() / 4096);
    let half = &sound[..sound.len() / 2];
    fs::write(place.db(), half).unwrap();
    assert!(matches!(verify(&place.db(), None), Err(StoreError::Corrupt { .. })));
}

#[test]
fn a_locked_database_is_waited_for_and_then_named() {
    let place = Place::with_events(1);
    let writer =
        Writer::open(&place.db(), &WriterOptions { patience: Duration::ZERO, ..records::options() }).unwrap();
    let other = rusqlite::Connection::open(place.db()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    writer.append(vec![records::opened(SESSION, 7), records::end(SESSION)]).unwrap();
    let err = writer.flush().unwrap_err();
    let StoreError::Unwritten { events: 1, other: 1, source: Some(source), .. } = err else {
        panic!("{err:?}")
    };
    assert!(matches!(*source, StoreError::Busy { .. }), "{source:?}");
    // It works again: the event is accounted for, the end of the session is there.
    other.execute_batch("ROLLBACK").unwrap();
    writer.flush().unwrap();
    let stats = writer.close().unwrap();
    assert_eq!((stats.rows, stats.lost), (2, 1));
    let rows = read(&place.db(), &Filter::default());
    assert!(
        matches!(&rows[3].record, AuditRecord::Loss(loss) if loss.reason == LossReason::StoreError && loss.count == 1)
    );
    assert!(matches!(rows[4].record, AuditRecord::SessionEnd(_)));
}

#[test]
fn a_short_lock_is_only_waited_for() {
    let place = Place::with_events(1);
    let writer = Writer::open(&place.db(), &records::options()).unwrap();
    let other = rusqlite::Connection::open(place.db()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    writer.append(vec![records::opened(SESSION, 7)]).unwrap();
    let release = std::thread::spawn(move || other.execute_batch("ROLLBACK").unwrap());
    writer.flush().unwrap();
    release.join().unwrap();
    let stats = writer.close().unwrap();
    assert_eq!((stats.rows, stats.lost), (1, 0));
}

/// A file system of one mebibyte, unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(place: &Place) -> Option<Self> {
        let path = place.dir().join("disk");
        fs::create_dir(&path).unwrap();
        let mounted = mount(Some("none"), &path, Some("tmpfs"), MsFlags::empty(), Some("size=1m"));
        if let Err(err) = mounted {
            println!("skipped: needs CAP_SYS_ADMIN to mount a small tmpfs ({err})");
            return None;
        }
        Some(Self(path))
    }

    fn remount(&self, flags: MsFlags, options: &str) {
        mount(Some("none"), &self.0, Some("tmpfs"), MsFlags::MS_REMOUNT | flags, Some(options)).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

fn fill(writer: &Writer, events: u64) {
    for batch in 0..events / 100 {
        writer.append((0..100).map(|n| records::opened(SESSION, batch * 100 + n)).collect()).unwrap();
    }
}

/// Events the audit says could not be stored.
fn said_lost(db: &Path) -> u64 {
    let filter = Filter { session: Some(SESSION), records: vec!["loss"], ..Filter::default() };
    let count = |record: &AuditRecord| {
        if let AuditRecord::Loss(loss) = record
            && loss.reason == LossReason::StoreError
        {
            loss.count
        } else {
            0
        }
    };
    read(db, &filter).iter().map(|stored| count(&stored.record)).sum()
}

#[test]
fn a_full_disk_costs_counted_events_and_bounded_time() {
    let place = Place::new();
    let Some(disk) = SmallDisk::new(&place) else { return };
    let db = disk.0.join("audit.db");
    let options = WriterOptions { patience: Duration::from_millis(200), queue: 4, ..records::options() };
    let begin = Instant::now();

    // No room for the events. Whether there is for the few rows that say so depends on where SQLite stopped, and
    // `close` tells one from the other; no event is unaccounted for.
    let writer = Writer::open(&db, &options).unwrap();
    writer.append(vec![records::start(SESSION)]).unwrap();
    fill(&writer, 20_000);
    let unwritten = match writer.close() {
        Ok(stats) => {
            assert!(matches!(stats.last_error, Some(StoreError::DiskFull { .. })), "{stats:?}");
            assert_eq!(said_lost(&db), stats.lost);
            0
        }
        Err(StoreError::Unwritten { events, .. }) => events,
        Err(err) => panic!("{err:?}"),
    };
    let stored = read(&db, &Filter { records: vec!["event"], ..Filter::default() }).len() as u64;
    let said = said_lost(&db);
    assert!(stored > 0 && stored < 20_000, "{stored}");
    assert_eq!(stored + said + unwritten, 20_000, "received = stored + store_error");

    // No room for anything: `flush` and `close` are errors.
    disk.remount(MsFlags::empty(), "size=4m");
    let db = disk.0.join("second.db");
    let crumbs = disk.0.join("crumbs");
    let eat_all = || drop(fs::write(&crumbs, vec![0; 5 << 20]));
    let writer = Writer::open(&db, &options).unwrap();
    eat_all();
    fill(&writer, 1000);
    let err = writer.flush().unwrap_err();
    let StoreError::Unwritten { events: 1000, other: 0, source: Some(source), .. } = &err else {
        panic!("{err:?}")
    };
    assert!(matches!(**source, StoreError::DiskFull { .. }), "{source:?}");
    assert!(err.hint().is_some());
    assert!(matches!(writer.close(), Err(StoreError::Unwritten { events: 1000, .. })));
    assert_eq!(verify(&db, None).unwrap().first_break, None);

    // It gets better while the writer lives.
    fs::remove_file(&crumbs).unwrap();
    let writer = Writer::open(&db, &options).unwrap();
    eat_all();
    fill(&writer, 1000);
    writer.flush().unwrap_err();
    fs::remove_file(&crumbs).unwrap();
    writer.flush().unwrap();
    writer.append(vec![records::end(SESSION)]).unwrap();
    let stats = writer.close().unwrap();
    assert_eq!(stats.lost, 1000);
    assert_eq!(said_lost(&db), 1000);
    assert_eq!(verify(&db, None).unwrap().first_break, None);
    // A hang, not a measurement: everything above takes about a second.
    assert!(begin.elapsed() < Duration::from_mins(1));

    // No room for anything at all.
    eat_all();
    assert!(matches!(write_error(&disk.0.join("third.db")), StoreError::DiskFull { .. }));
}

#[test]
fn read_only_media_can_be_read_and_not_written() {
    let place = Place::new();
    let Some(disk) = SmallDisk::new(&place) else { return };
    let db = disk.0.join("a?b %.db");
    let writer = Writer::open(&db, &records::options()).unwrap();
    writer.append(vec![records::start(SESSION), records::end(SESSION)]).unwrap();
    writer.close().unwrap();
    disk.remount(MsFlags::MS_RDONLY, "size=1m");
    assert!(matches!(write_error(&db), StoreError::ReadOnly { .. }));
    assert!(matches!(write_error(&disk.0.join("new.db")), StoreError::ReadOnly { .. }));
    assert_eq!(read(&db, &Filter::default()).len(), 2);
    assert_eq!(verify(&db, None).unwrap().intact_rows, 2);
}

#[test]
fn without_permission_the_file_is_named() {
    let place = Place::with_events(1);
    if nix::unistd::geteuid().is_root() {
        println!("skipped: root may open every file");
        return;
    }
    fs::set_permissions(place.db(), fs::Permissions::from_mode(0o000)).unwrap();
    assert!(matches!(write_error(&place.db()), StoreError::Permission { .. }));
    assert!(matches!(read_error(&place.db()), StoreError::Permission { .. }));
}
