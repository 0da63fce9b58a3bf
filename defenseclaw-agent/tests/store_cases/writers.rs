//! Writers that come together, go without a word, or leave files that others must not read.

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
};

use defenseclaw::{
    model::{AuditRecord, BootTime, Handover, HandoverStep, Loss, LossReason, SessionId, WallTime},
    store::{Filter, Reader, SessionState, Writer, WriterOptions, verify},
};

use super::{Place, read};
use crate::records::{self, OTHER, SESSION};

fn losses(place: &Place) -> Vec<Loss> {
    read(&place.db(), &Filter { records: vec!["loss"], ..Filter::default() })
        .into_iter()
        .map(|stored| {
            let AuditRecord::Loss(loss) = stored.record else { panic!("{:?}", stored.record) };
            loss
        })
        .collect()
}

#[test]
fn files_are_for_their_owner_only() {
    let place = Place::new();
    let path = place.dir().join("state/defenseclaw/audit.db");
    let options = WriterOptions { create_parent: true, ..records::options() };
    let writer = Writer::open(&path, &options).unwrap();
    writer.append(vec![records::start(SESSION)]).unwrap();
    writer.flush().unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let dir = path.parent().unwrap();
    assert_eq!(mode(dir), 0o700);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(mode(&entry.path()), 0o600, "{entry:?}");
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["audit.db", "audit.db-shm", "audit.db-wal", "audit.db-writers"]);
    writer.close().unwrap();
}

#[test]
fn first_starts_at_the_same_moment_do_not_collide() {
    for _ in 0..30 {
        let place = Place::new();
        let together = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    together.wait();
                    Writer::open(&place.db(), &records::options()).unwrap().close().unwrap();
                });
            }
        });
        assert_eq!(losses(&place), []);
    }
}

#[test]
fn many_writers_make_one_chain() {
    const WRITERS: u64 = 4;
    const BATCHES: u64 = 40;
    let place = Place::new();
    std::thread::scope(|scope| {
        for number in 0..WRITERS {
            let path = place.db();
            scope.spawn(move || {
                let session = SessionId(number + 1);
                let writer = Writer::open(&path, &records::options()).unwrap();
                writer.append(vec![records::start(session)]).unwrap();
                for batch in 0..BATCHES {
                    writer.append((0..5).map(|n| records::opened(session, batch * 5 + n)).collect()).unwrap();
                    if batch % 7 == 0 {
                        writer.flush().unwrap();
                    }
                }
                writer.append(vec![records::end(session)]).unwrap();
                let stats = writer.close().unwrap();
                assert_eq!((stats.rows, stats.lost), (BATCHES * 5 + 2, 0));
            });
        }
    });
    let report = verify(&place.db(), None).unwrap();
    assert_eq!((report.intact_rows, report.first_break), (WRITERS * (BATCHES * 5 + 2), None));
    for number in 0..WRITERS {
        let filter =
            Filter { session: Some(SessionId(number + 1)), records: vec!["event"], ..Filter::default() };
        let times: Vec<_> = read(&place.db(), &filter)
            .into_iter()
            .map(|stored| {
                let AuditRecord::Event(event) = stored.record else { panic!("{:?}", stored.record) };
                event.time
            })
            .collect();
        assert!(times.is_sorted(), "each session keeps its order");
    }
    assert_eq!(losses(&place), [], "nobody was taken for dead");
}

#[test]
fn a_session_left_open_is_declared_cut_off_once_its_writer_is_gone() {
    let place = Place::new();
    let first = Writer::open(&place.db(), &records::options()).unwrap();
    first.append(vec![records::start(SESSION), records::opened(SESSION, 400)]).unwrap();
    first.flush().unwrap();
    // A second writer: the first one is alive, so nothing is missing.
    let second = Writer::open(&place.db(), &records::options()).unwrap();
    second.append(vec![records::start(OTHER)]).unwrap();
    second.flush().unwrap();
    assert_eq!(losses(&place), []);
    // The first goes without a session end; the second is still there when a third comes.
    first.close().unwrap();
    let third = Writer::open(&place.db(), &records::options()).unwrap();
    let cut_off = Loss {
        kind: "all".to_owned(),
        reason: LossReason::Unclean,
        count: 0,
        first: BootTime(records::BEGIN + 500_000_000),
        last: records::options().boot,
        session: Some(SESSION),
    };
    assert_eq!(losses(&place), std::slice::from_ref(&cut_off));
    third.close().unwrap();
    second.append(vec![records::end(OTHER)]).unwrap();
    second.close().unwrap();
    // It is said once.
    Writer::open(&place.db(), &records::options()).unwrap().close().unwrap();
    assert_eq!(losses(&place), [cut_off]);
    assert_eq!(verify(&place.db(), None).unwrap().first_break, None);
}

/// Half a minute after the start.
fn handover(step: HandoverStep) -> AuditRecord {
    let boot = BootTime(records::BEGIN + 30_000_000_000);
    AuditRecord::Handover(Handover { session: SESSION, boot, step, version: "0.1.0".to_owned() })
}

fn state_of(place: &Place) -> SessionState {
    Reader::open(&place.db()).unwrap().sessions().unwrap()[0].state
}

#[test]
fn a_session_that_is_left_is_not_cut_off_and_goes_on_with_another_writer() {
    let place = Place::new();
    let first = Writer::open(&place.db(), &records::options()).unwrap();
    let rows = [records::start(SESSION), records::opened(SESSION, 400), handover(HandoverStep::Left)];
    first.append(rows.to_vec()).unwrap();
    first.close().unwrap();
    assert_eq!(state_of(&place), SessionState::Left);
    Writer::open(&place.db(), &records::options()).unwrap().close().unwrap();
    assert_eq!(losses(&place), []);

    let past = Reader::open(&place.db()).unwrap().past(SESSION).unwrap().unwrap();
    assert!(past.left && !past.ended);
    assert_eq!((past.events.get("file_open"), past.losses.len()), (Some(&1), 0));
    assert_eq!(past.last, BootTime(records::BEGIN + 30_000_000_000));
    assert_eq!(Reader::open(&place.db()).unwrap().past(OTHER).unwrap(), None);

    let adopted = HandoverStep::Adopted { since: past.last, died: false, missing: Vec::new() };
    let options = WriterOptions { adopts: Some(SESSION), ..records::options() };
    let second = Writer::open(&place.db(), &options).unwrap();
    second.append(vec![handover(adopted.clone())]).unwrap();
    second.flush().unwrap();
    assert_eq!(state_of(&place), SessionState::Running);
    // This one goes without a word: whoever adopts it knows that, and others say so.
    second.close().unwrap();
    assert!(!Reader::open(&place.db()).unwrap().past(SESSION).unwrap().unwrap().left);
    let third = Writer::open(&place.db(), &options).unwrap();
    assert_eq!(losses(&place), []);
    third.append(vec![handover(adopted)]).unwrap();
    third.close().unwrap();
    Writer::open(&place.db(), &records::options()).unwrap().close().unwrap();
    assert_eq!(losses(&place).len(), 1);
    assert_eq!(state_of(&place), SessionState::Interrupted);

    // Cut off once more after it was adopted once more.
    let fourth = Writer::open(&place.db(), &options).unwrap();
    let adopted = HandoverStep::Adopted { since: BootTime(0), died: true, missing: Vec::new() };
    fourth.append(vec![handover(adopted)]).unwrap();
    fourth.close().unwrap();
    Writer::open(&place.db(), &records::options()).unwrap().close().unwrap();
    assert_eq!(losses(&place).len(), 2);
    let last = Writer::open(&place.db(), &options).unwrap();
    last.append(vec![records::end(SESSION)]).unwrap();
    last.close().unwrap();
    assert!(Reader::open(&place.db()).unwrap().past(SESSION).unwrap().unwrap().ended);
    assert_eq!(verify(&place.db(), None).unwrap().first_break, None);
}

#[test]
fn after_a_reboot_the_old_boot_clock_is_not_compared_with_the_new_one() {
    let place = Place::new();
    let writer = Writer::open(&place.db(), &records::options()).unwrap();
    writer.append(vec![records::start(SESSION), records::opened(SESSION, 400)]).unwrap();
    writer.close().unwrap();
    let rebooted = WriterOptions::new(
        BootTime(1_000_000_000),
        WallTime(records::WALL + 3_600_000_000_000),
        "boot-2".to_owned(),
    );
    Writer::open(&place.db(), &rebooted).unwrap().close().unwrap();
    let loss = losses(&place).remove(0);
    assert_eq!(loss.first, BootTime(records::BEGIN + 500_000_000));
    assert_eq!(loss.last, BootTime(records::BEGIN + 3_600_000_000_000));
}

/// Not a test: what [`start_child`] runs, until it is killed.
#[test]
#[ignore = "run by other tests"]
fn writes_until_killed() {
    let Some(path) = std::env::var_os("DEFENSECLAW_TEST_DB") else { return };
    let writer = Writer::open(path.as_ref(), &records::options()).unwrap();
    if std::env::var_os("DEFENSECLAW_TEST_IDLE").is_some() {
        println!("committed 0");
        std::thread::park();
    }
    writer.append(vec![records::start(SESSION)]).unwrap();
    for number in 1.. {
        writer.append((0..50).map(|n| records::opened(SESSION, number * 50 + n)).collect()).unwrap();
        if number % 20 == 0 {
            writer.flush().unwrap();
            println!("committed {}", number * 50 + 1);
        }
    }
}

/// Another process that writes, which has told that `rows` are committed.
fn start_child(place: &Place, idle: bool) -> (Child, u64) {
    #[expect(clippy::disallowed_methods, reason = "tests may start processes")]
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "store_cases::writers::writes_until_killed", "--ignored", "--nocapture"])
        .env("DEFENSECLAW_TEST_DB", place.db())
        .stdout(Stdio::piped());
    if idle {
        command.env("DEFENSECLAW_TEST_IDLE", "1");
    }
    let mut child = command.spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let committed = output
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.split_once("committed ").map(|(_, rows)| rows.trim().parse().unwrap()))
        .expect("the child commits");
    (child, committed)
}

#[test]
fn a_killed_writer_leaves_what_it_committed_and_a_row_that_says_so() {
    let place = Place::new();
    let (mut child, committed) = start_child(&place, false);
    let reader = Reader::open(&place.db()).unwrap();
    assert_eq!(reader.sessions().unwrap()[0].state, SessionState::Running);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(reader.sessions().unwrap()[0].state, SessionState::Interrupted);
    drop(reader);

    let report = verify(&place.db(), None).unwrap();
    assert_eq!(report.first_break, None);
    assert!(report.intact_rows >= committed, "{report:?} {committed}");
    Writer::open(&place.db(), &records::options()).unwrap().close().unwrap();
    let said = losses(&place);
    assert_eq!(said.len(), 1);
    assert_eq!((said[0].reason, said[0].session, said[0].count), (LossReason::Unclean, Some(SESSION), 0));
    assert_eq!(verify(&place.db(), None).unwrap().intact_rows, report.intact_rows + 1);
}

#[test]
fn a_writer_killed_before_its_first_row_is_said_too() {
    let place = Place::new();
    let (mut child, _) = start_child(&place, true);
    // While it lives it is no loss.
    Writer::open(&place.db(), &records::options()).unwrap().close().unwrap();
    assert_eq!(losses(&place), []);
    child.kill().unwrap();
    child.wait().unwrap();
    Writer::open(&place.db(), &records::options()).unwrap().close().unwrap();
    let said = losses(&place);
    assert_eq!(said.len(), 1);
    assert_eq!(
        (said[0].reason, said[0].session, said[0].first),
        (LossReason::Unclean, None, records::options().boot)
    );
}
