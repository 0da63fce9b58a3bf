//! The fuzzers' seeds: kept equal to the records of these tests, and run here so that every build covers them.
//! `DEFENSECLAW_WRITE_SEEDS=1 cargo test -p defenseclaw seeds` writes them anew.

use std::{collections::BTreeMap, fs, path::PathBuf};

use super::{kinds::cases, *};
use crate::model::{
    AuditRecord, Capability, CapabilityState, Level, Loss, LossReason, MainExit, Protection, SessionEnd,
    SessionStart, WallTime,
};

fn directory(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target)
}

fn agree(target: &str, seeds: BTreeMap<String, Vec<u8>>) {
    let directory = directory(target);
    if std::env::var_os("DEFENSECLAW_WRITE_SEEDS").is_some() {
        fs::create_dir_all(&directory).unwrap();
        for (name, bytes) in &seeds {
            fs::write(directory.join(name), bytes).unwrap();
        }
    }
    for (name, bytes) in seeds {
        let found =
            fs::read(directory.join(&name)).unwrap_or_else(|error| panic!("seed {target}/{name}: {error}"));
        assert_eq!(found, bytes, "seed {target}/{name} is out of date: see the head of this file");
    }
}

/// Everything in a corpus, also what a fuzzer found and somebody kept.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(directory(target)).unwrap().map(|entry| entry.unwrap());
    let all: Vec<_> =
        entries.map(|entry| (format!("{:?}", entry.path()), fs::read(entry.path()).unwrap())).collect();
    assert!(!all.is_empty());
    all
}

fn session() -> Vec<AuditRecord> {
    let session = SessionId(0x0197_0000_0000_0001);
    let root = ProcessKey { tgid: 700, start_ns: START };
    vec![
        AuditRecord::SessionStart(Box::new(SessionStart {
            session,
            wall: WallTime(1_700_000_000_000_000_000),
            boot: BootTime(NOW),
            boot_id: "b2a1".to_owned(),
            root,
            command: vec!["claude".into(), b"\xff".as_slice().into()],
            project: "/home/u/p".into(),
            home: "/home/u".into(),
            host: "host".to_owned(),
            kernel: "6.1.0".to_owned(),
            version: "0.1.0".to_owned(),
            origin: crate::model::Origin::Launched,
            protection: Protection {
                level: Level::Tracepoint,
                level_reason: "why".to_owned(),
                capabilities: vec![Capability {
                    name: "lsm/file_open".to_owned(),
                    state: CapabilityState::Missing,
                    reason: "why".to_owned(),
                }],
                table: Vec::new(),
                rules: Vec::new(),
            },
        })),
        AuditRecord::Loss(Loss {
            kind: "file_open".to_owned(),
            reason: LossReason::RingFull,
            count: 3,
            first: BootTime(1),
            last: BootTime(2),
            session: Some(session),
        }),
        AuditRecord::SessionEnd(SessionEnd {
            session,
            wall: WallTime(1),
            boot: BootTime(2),
            main: MainExit::Ended(ExitStatus::Signal(9)),
            left_running: 0,
            events: 5,
        }),
    ]
}

#[test]
fn seeds_of_decode_are_these_records_and_decode() {
    agree("decode", cases().into_iter().map(|(name, raw, _)| (name.to_owned(), raw.bytes())).collect());
    for (name, _, _) in cases() {
        assert!(decode_record(&fs::read(directory("decode").join(name)).unwrap()).is_ok(), "{name}");
    }
    for (_, bytes) in corpus("decode") {
        drop(decode_record(&bytes));
    }
}

#[test]
fn seeds_of_dns_are_these_messages() {
    let seeds = crate::sensor::dns::tests::messages();
    agree("dns", seeds.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect());
    for (_, bytes) in corpus("dns") {
        drop(decode_record(&Raw::of(Kind::DnsAnswer).string(0, bytes).bytes()));
    }
}

#[test]
fn seeds_of_audit_record_are_rows_and_survive_a_round() {
    let events = cases().into_iter().map(|(name, _, event)| (name, AuditRecord::Event(Box::new(event))));
    let rows = ["session_start", "loss", "session_end"].into_iter().zip(session()).chain(events);
    agree(
        "audit_record",
        rows.map(|(name, row)| (name.to_owned(), serde_json::to_vec(&row).unwrap())).collect(),
    );
    for (name, bytes) in corpus("audit_record") {
        if let Ok(row) = serde_json::from_slice::<AuditRecord>(&bytes) {
            let again = serde_json::to_vec(&row).unwrap();
            assert_eq!(serde_json::from_slice::<AuditRecord>(&again).unwrap(), row, "{name}");
        }
    }
}
