//! What is merged, named, classed, and that every event is counted once.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    sample::{Sample, any_rows, endpoint, report},
    *,
};
use crate::model::{Action, ExitStatus, LossReason, MainExit, Namespaces, ProcessKey, Transport};

const ENDED: MainExit = MainExit::Ended(ExitStatus::Code(0));

fn agent() -> Sample {
    let mut sample = Sample::start(&["agent"], Sample::lsm());
    sample.exec(sample.root, "/usr/bin/agent", &["agent"]);
    sample
}

/// Paths of a class with what was done to them.
fn listed(report: &Report, class: PathClass) -> Vec<(String, Vec<FileOperation>)> {
    let files =
        report.files.groups.iter().filter(|group| group.class == class).flat_map(|group| &group.files);
    files
        .map(|file| (file.path.text.lossy().into_owned(), file.operations.keys().copied().collect()))
        .collect()
}

#[test]
fn changed_files_come_first_and_a_rename_shows_at_both_names() {
    use FileOperation::{Create, Read, RenameAway, RenameHere, Truncate, Write};
    let mut sample = agent();
    let root = sample.root;
    sample.read(root, "/home/dev/app/a").read(root, "/home/dev/app/a").write(root, "/home/dev/app/b");
    sample.create(root, "/home/dev/app/c.tmp").rename(root, "/home/dev/app/c.tmp", "/home/dev/app/c");
    let report = sample.end(ENDED, 0).report();
    let expected = [
        ("b", vec![Write, Truncate]),
        ("c", vec![RenameHere]),
        ("c.tmp", vec![RenameAway, Create, Write]),
        ("a", vec![Read]),
    ];
    let expected = expected.map(|(name, operations)| (format!("/home/dev/app/{name}"), operations));
    assert_eq!(listed(&report, PathClass::Project), expected);
    let files = &report.files.groups[0].files;
    assert_eq!(files.iter().map(|file| file.events).collect::<Vec<_>>(), [1, 0, 2, 2]);
    assert_eq!((&files[1].from[0], &files[2].to[0]), (&files[2].path, &files[1].path));
}

#[test]
fn a_failed_attempt_is_no_change_but_is_not_folded_either() {
    let mut sample = agent();
    let action = Action::FileUnlink { file: sample::file("/usr/bin/ls") };
    let root = sample.root;
    sample.act_with(root, action, Some(-13)).read(root, "/usr/lib/libc.so.6");
    let report = sample.report();
    assert_eq!(
        listed(&report, PathClass::Elsewhere),
        [("/usr/bin/ls".to_owned(), vec![FileOperation::Failed])]
    );
    assert_eq!(report.files.groups[0].files[0].outcomes.failed.get(&13), Some(&1));
    assert_eq!(report.files.noise.len(), 1);
}

#[test]
fn names_are_those_answered_before_the_address_was_used() {
    let mut sample = agent();
    let root = sample.root;
    sample.answer("api.example.com", 0, &["edge.example.net"], &["192.0.2.7"]).pass(1);
    sample.connect(root, "192.0.2.7", 443, -115).pass(1).connect(root, "192.0.2.7", 443, -111).pass(1);
    sample.answer("late.example.com", 0, &[], &["192.0.2.7"]).answer("nowhere.example", 3, &[], &[]);
    let network = sample.report().network;
    let [only] = &network.endpoints[..] else { panic!("{network:?}") };
    assert_eq!((only.connects, only.outcomes.failed.len(), only.processes.len()), (2, 2, 1));
    let names: Vec<_> = only.names.iter().map(|name| (name.name.lossy(), name.aliases.len())).collect();
    assert_eq!(names, [("api.example.com".into(), 1)]);
    let lookups: Vec<_> = network.lookups.iter().map(|lookup| (lookup.name.lossy(), lookup.code)).collect();
    assert_eq!(
        lookups,
        [("api.example.com".into(), 0), ("late.example.com".into(), 0), ("nowhere.example".into(), 3)]
    );
}

#[test]
fn processes_keep_history_and_say_what_is_not_known() {
    let mut sample = agent();
    let root = sample.root;
    let shell = sample.fork(root, 5000);
    sample.exec(shell, "/bin/sh", &["sh", "-c", "exec ls"]).pass(1).exec(shell, "/bin/ls", &["ls"]);
    sample.pass(1).exit(shell, 2);
    // Its fork and exec were lost.
    let ghost = ProcessKey { tgid: 6000, start_ns: sample.now };
    sample.read(ghost, "/etc/passwd").exit(root, 0);
    let report = sample.end(ENDED, 1).report();
    let [main, shell, ghost] = &report.processes.nodes[..] else { panic!("{report:?}") };
    assert!(main.main && !main.fork_lost && main.exit.is_some());
    assert_eq!(shell.execs.iter().map(|exec| exec.at_ns).collect::<Vec<_>>(), [1000, 1_001_000]);
    assert_eq!((shell.depth, shell.duration_ns, shell.exit), (1, Some(2_000_000), Some(ExitStatus::Code(2))));
    assert!(ghost.fork_lost && ghost.reconstructed && ghost.exit.is_none());
    assert_eq!((ghost.counts.files, ghost.counts.total()), (1, 1));
}

#[test]
fn status_of_the_main_process_is_known_without_its_exit() {
    let mut sample = agent();
    let report = sample.pass(5).end(MainExit::Ended(ExitStatus::Code(3)), 0).report();
    let main = &report.processes.nodes[0];
    assert_eq!((main.exit, main.duration_ns), (Some(ExitStatus::Code(3)), None));
}

#[test]
fn programs_with_other_rights_are_listed_but_counted_once() {
    let mut sample = agent();
    let root = sample.root;
    sample.exec(root, "/usr/bin/sudo", &["sudo", "id"]);
    let Some(AuditRecord::Event(event)) = sample.rows.last_mut() else { panic!() };
    let Action::ProcessExec(exec) = &mut event.action else { panic!() };
    exec.euid = 0;
    let child = ProcessKey { tgid: 5000, start_ns: sample.now };
    sample.act(root, Action::ProcessFork { child, namespaces: Namespaces::USER });
    let bpf = || Action::Bpf { command: 5 };
    sample.act(root, bpf()).pass(1).act_with(root, bpf(), Some(-1));
    let report = sample.report();
    let operations: Vec<_> = report
        .privileged
        .operations
        .iter()
        .map(|operation| (operation.action.kind(), operation.count, operation.counted_elsewhere))
        .collect();
    assert_eq!(
        operations,
        [(EventKind::ProcessExec, 1, true), (EventKind::ProcessFork, 1, true), (EventKind::Bpf, 2, false)]
    );
    assert_eq!((report.privileged.events, report.processes.events), (2, 3));
}

#[test]
fn complete_and_exact_are_claims_with_conditions() {
    let claims = |sample: &Sample| (sample.report().complete, sample.report().exact);
    let mut sample = agent();
    assert_eq!(claims(&sample), (false, false), "no end");
    sample.end(ENDED, 0);
    assert_eq!(claims(&sample), (true, true));
    sample.loss("file_open", LossReason::Folded, 3);
    assert_eq!(claims(&sample), (true, true), "folded is not lost");
    sample.loss("file_open", LossReason::RingFull, 3).loss("file_open", LossReason::RingFull, 4);
    assert_eq!(claims(&sample), (true, false));
    assert_eq!(sample.report().losses.rows.iter().map(|loss| loss.count).collect::<Vec<_>>(), [7, 3]);
    sample.loss("file_open", LossReason::RingFull, 0);
    assert_eq!(sample.report().losses.rows[0].count, 0, "unknown stays unknown");
    sample.rows.remove(1);
    assert_eq!(claims(&sample), (false, false), "an event row is missing");
    assert!(!report(&[]).complete);
}

#[test]
fn json_has_the_documented_shape() {
    let mut sample = agent();
    let bind = Action::NetBind { endpoint: endpoint(Transport::Tcp, "0.0.0.0", 8080) };
    let root = sample.root;
    sample.act(root, bind).read(root, "/home/dev/.bashrc").exit(root, 0).end(ENDED, 0);
    let json = serde_json::to_value(sample.report()).unwrap();
    assert_eq!(json["session"]["session"], "0198f3c2a4b00001");
    assert_eq!(json["processes"]["nodes"][0]["execs"][0]["argv"], json!(["agent"]));
    assert_eq!(json["files"]["groups"][0]["class"], "home");
    assert_eq!(json["files"]["groups"][0]["files"][0]["operations"], json!({"read": 1}));
    assert_eq!(json["network"]["binds"][0]["address"], "0.0.0.0");
    assert_eq!(json["end"]["main"], json!({"ended": {"code": 0}}));
    assert_eq!((&json["complete"], &json["events"]), (&Value::Bool(true), &json!(4)));
}

#[test]
fn a_very_deep_tree_is_flat() {
    let mut sample = agent();
    let mut process = sample.root;
    for n in 0..50_000 {
        process = sample.fork(process, 10_000 + n);
    }
    let report = sample.report();
    assert_eq!(report.processes.nodes.last().unwrap().depth, 50_000);
    assert!(serde_json::to_string(&report).unwrap().len() > 50_000);
}

proptest! {
    #[test]
    fn every_event_is_counted_once(rows in any_rows()) {
        let events = rows.iter().filter(|row| matches!(row, AuditRecord::Event(_))).count() as u64;
        let Report { events: counted, processes, files, network, privileged, .. } = report(&rows);
        prop_assert_eq!(counted, events);
        prop_assert_eq!(processes.events + files.events + network.events + privileged.events, events);

        let by_process: u64 = processes.nodes.iter().map(|node| node.counts.total()).sum();
        prop_assert_eq!(by_process + processes.unattributed.total(), events);

        let groups: u64 = files.groups.iter().map(|group| group.events).sum();
        let noise: u64 = files.noise.iter().map(|folder| folder.events).sum();
        prop_assert_eq!(groups + noise + files.unlisted, files.events);
        let entries = files.groups.iter().flat_map(|g| &g.files).chain(files.noise.iter().flat_map(|f| &f.files));
        prop_assert_eq!(entries.map(|file| file.outcomes.total()).sum::<u64>() + files.unlisted, files.events);

        let endpoints: u64 = network.endpoints.iter().chain(&network.binds).map(|e| e.connects + e.sends).sum();
        let unix: u64 = network.unix.iter().map(|peer| peer.outcomes.total()).sum();
        let lookups: u64 = network.lookups.iter().map(|lookup| lookup.count).sum();
        prop_assert_eq!(endpoints + unix + lookups + network.unlisted, network.events);

        let own = privileged.operations.iter().filter(|operation| !operation.counted_elsewhere);
        prop_assert_eq!(own.map(|operation| operation.count).sum::<u64>() + privileged.unlisted, privileged.events);
    }

    #[test]
    fn parents_stand_before_their_children_and_json_is_possible(rows in any_rows()) {
        let report = report(&rows);
        let mut path: Vec<ProcessKey> = Vec::new();
        for node in &report.processes.nodes {
            path.truncate(node.depth as usize);
            prop_assert_eq!(path.len(), node.depth as usize);
            if let Some(above) = path.last() {
                prop_assert_eq!(node.parent, Some(*above));
            }
            path.push(node.process);
        }
        prop_assert!(serde_json::to_string(&report).is_ok());
    }
}
