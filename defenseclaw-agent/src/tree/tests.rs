//! Every ordering hazard by name, then any order of any history.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::model::{Exec, ExitStatus, FileRef, KernelPath, Namespaces, Text, Vantage};

const SESSION: SessionId = SessionId(7);

fn key(tgid: u32, start_ns: u64) -> ProcessKey {
    ProcessKey { tgid, start_ns }
}

fn event(process: ProcessKey, time: u64, action: Action) -> Event {
    Event {
        time: BootTime(time),
        session: SESSION,
        process,
        tid: process.tgid,
        uid: 1000,
        cgroup: 1,
        tool_call: None,
        result: None,
        vantage: Vantage::Kernel,
        verdict: None,
        decision: None,
        action,
    }
}

fn fork(parent: ProcessKey, child: ProcessKey) -> Event {
    event(parent, child.start_ns, Action::ProcessFork { child, namespaces: Namespaces::empty() })
}

fn exec(process: ProcessKey, time: u64, parent: ProcessKey, exe: &str) -> Event {
    let exe = FileRef { path: exe.into(), ..FileRef::default() };
    let exec = Exec {
        exe,
        filename: Text::default(),
        interpreter: None,
        cwd: KernelPath::default(),
        argv: vec!["a".into(), "b".into()],
        argv_truncated: false,
        session_env: Vec::new(),
        euid: 1000,
        gid: 1000,
        egid: 1000,
        parent,
    };
    event(process, time, Action::ProcessExec(Box::new(exec)))
}

fn exit(process: ProcessKey, time: u64) -> Event {
    event(process, time, Action::ProcessExit { status: ExitStatus::Code(3) })
}

fn open(process: ProcessKey, time: u64) -> Event {
    event(process, time, Action::Bpf { command: 0 })
}

fn build<'a>(events: impl IntoIterator<Item = &'a Event>) -> ProcessTree {
    let mut tree = ProcessTree::new();
    events.into_iter().for_each(|event| tree.apply(event));
    tree
}

const ROOT: ProcessKey = ProcessKey { tgid: 10, start_ns: 100 };
const CHILD: ProcessKey = ProcessKey { tgid: 11, start_ns: 200 };
const GRANDCHILD: ProcessKey = ProcessKey { tgid: 12, start_ns: 300 };

#[test]
fn exec_before_fork() {
    let tree = build(&[exec(CHILD, 210, ROOT, "/bin/sh"), fork(ROOT, CHILD)]);
    assert_eq!(tree.roots(), [ROOT]);
    assert_eq!(tree.children(ROOT).collect::<Vec<_>>(), [CHILD]);
    assert_eq!(&*tree.get(CHILD).unwrap().image().unwrap().exe, b"/bin/sh");
}

#[test]
fn exit_before_fork_and_exec() {
    let tree = build(&[exit(CHILD, 220), exec(CHILD, 210, ROOT, "/bin/sh"), fork(ROOT, CHILD)]);
    let ended = tree.get(CHILD).unwrap().ended().unwrap();
    assert_eq!(ended, Ended { time: BootTime(220), status: Some(ExitStatus::Code(3)) });
    assert_eq!((tree.n_live(), tree.len()), (1, 2));
}

#[test]
fn fork_lost() {
    let tree = build(&[exec(ROOT, 110, key(1, 1), "/bin/sh"), exec(CHILD, 210, ROOT, "/bin/ls")]);
    assert_eq!(tree.children(ROOT).collect::<Vec<_>>(), [CHILD]);
    assert!(!tree.get(CHILD).unwrap().fork_seen());
    // The parent of the root is outside; it is known, but no process of the tree.
    assert_eq!(tree.get(ROOT).unwrap().parent(), Some(key(1, 1)));
    assert_eq!(tree.roots(), [ROOT]);
}

#[test]
fn orphan_keeps_its_parent() {
    let adopted_by = exec(GRANDCHILD, 400, ROOT, "/bin/sleep");
    let tree = build(&[fork(ROOT, CHILD), fork(CHILD, GRANDCHILD), exit(CHILD, 350), adopted_by]);
    assert_eq!(tree.ancestors(GRANDCHILD).map(|(key, _)| key).collect::<Vec<_>>(), [CHILD, ROOT]);

    // The fork was lost, and only the second exec saw the new parent.
    let execs = [exec(GRANDCHILD, 400, ROOT, "/b"), exec(GRANDCHILD, 310, CHILD, "/a")];
    assert_eq!(build(&execs).get(GRANDCHILD).unwrap().parent(), Some(CHILD));
}

#[test]
fn reused_pid_is_another_process_and_ends_the_first() {
    let again = key(CHILD.tgid, 500);
    let tree = build(&[fork(ROOT, again), fork(ROOT, CHILD), exec(again, 510, ROOT, "/bin/new")]);
    assert_eq!(tree.children(ROOT).collect::<Vec<_>>(), [CHILD, again]);
    assert_eq!(tree.get(CHILD).unwrap().ended(), Some(Ended { time: BootTime(500), status: None }));
    assert!(tree.get(CHILD).unwrap().image().is_none());
    assert_eq!(tree.n_live(), 2);
}

#[test]
fn facts_of_proc_yield_to_events() {
    let mut tree = build(&[open(CHILD, 250)]);
    tree.learn(&ProcessFacts {
        key: CHILD,
        session: SessionId(1),
        parent: Some(ROOT),
        exe: "/bin/sh".into(),
        argv: vec!["sh".into()],
    });
    let child = tree.get(CHILD).unwrap();
    assert!(child.reconstructed());
    assert_eq!((child.parent(), child.session()), (Some(ROOT), SESSION));
    assert_eq!(&*child.image().unwrap().argv, b"sh\0");

    tree.apply(&exec(CHILD, 260, key(5, 150), "/bin/ls"));
    let child = tree.get(CHILD).unwrap();
    assert!(!child.reconstructed());
    assert_eq!(&*child.image().unwrap().exe, b"/bin/ls");
    assert_eq!(child.parent(), Some(key(5, 150)));
}

#[test]
fn gone_is_an_end_until_the_exit_comes() {
    let mut tree = build(&[fork(ROOT, CHILD)]);
    tree.gone(CHILD, BootTime(900));
    tree.gone(key(99, 99), BootTime(900));
    assert_eq!((tree.n_live_in(SESSION), tree.len()), (1, 2));
    tree.apply(&exit(CHILD, 400));
    assert_eq!(tree.get(CHILD).unwrap().ended().unwrap().time, BootTime(400));
    tree.gone(CHILD, BootTime(950));
    assert_eq!(tree.get(CHILD).unwrap().ended().unwrap().status, Some(ExitStatus::Code(3)));
}

#[test]
fn newest_label_decides_the_session() {
    let mut enrolled_again = exec(CHILD, 300, ROOT, "/bin/sh");
    enrolled_again.session = SessionId(8);
    for order in [[fork(ROOT, CHILD), enrolled_again.clone()], [enrolled_again, fork(ROOT, CHILD)]] {
        let tree = build(&order);
        assert_eq!(tree.session(CHILD), Some(SessionId(8)));
        assert_eq!((tree.n_live_in(SESSION), tree.n_live_in(SessionId(8)), tree.n_live()), (1, 1, 2));
        assert_eq!(tree.live_in(SessionId(8)).collect::<Vec<_>>(), [CHILD]);
    }
}

#[test]
fn a_loop_of_execs_stays_small() {
    let execs: Vec<_> = (0..1000).map(|n| exec(CHILD, 210 + n, ROOT, "/bin/sh")).collect();
    let process = build(&execs);
    let process = process.get(CHILD).unwrap();
    assert_eq!((process.execs().len(), process.execs_left_out()), (16, 984));
    assert_eq!((process.execs()[0].time, process.execs()[15].time), (BootTime(210), BootTime(1209)));
}

#[test]
fn nonsense_is_no_cycle() {
    let events = [
        fork(CHILD, ROOT),
        fork(ROOT, CHILD),
        exec(ROOT, 300, CHILD, "/x"),
        exec(CHILD, 300, CHILD, "/x"),
        fork(ROOT, key(0, 999)),
        open(key(0, 0), 1),
    ];
    let tree = build(&events);
    assert_eq!((tree.roots(), tree.len()), (vec![ROOT], 2));
    assert_eq!(tree.ancestors(CHILD).count(), 1);
}

#[test]
fn expiry_keeps_what_leads_to_the_living() {
    let other = key(13, 310);
    let mut tree = build(&[fork(ROOT, CHILD), fork(CHILD, GRANDCHILD), fork(CHILD, other)]);
    for process in [ROOT, CHILD, other] {
        tree.apply(&exit(process, 400));
    }
    assert_eq!(tree.expire(BootTime(450), Duration::from_nanos(100)), 0);
    assert_eq!(tree.expire(BootTime(500), Duration::from_nanos(100)), 1);
    assert_eq!(tree.children(CHILD).collect::<Vec<_>>(), [GRANDCHILD]);
    tree.apply(&exit(GRANDCHILD, 500));
    assert_eq!(tree.expire(BootTime(600), Duration::from_nanos(100)), 3);
    assert_eq!(tree, ProcessTree::new());
}

#[test]
fn an_endless_chain_of_forks_is_forgotten() {
    let mut tree = ProcessTree::new();
    for n in 1..2000 {
        let (parent, child) = (key(n, u64::from(n)), key(n + 1, u64::from(n + 1)));
        tree.apply(&fork(parent, child));
        tree.apply(&exit(parent, u64::from(n) + 1));
    }
    tree.expire(BootTime(1_000_000), Duration::ZERO);
    assert_eq!((tree.len(), tree.n_live()), (257, 1));
}

#[test]
fn ten_thousand_processes_stay_small() {
    assert!(size_of::<Process>() <= 160, "{}", size_of::<Process>());
}

/// What a process of a history does, as numbers that are read modulo what is possible at that moment.
#[derive(Clone, Copy, Debug)]
enum Step {
    Fork { parent: usize, reuse_pid: Option<usize>, lost: bool },
    Exec { who: usize },
    Act { who: usize },
    Exit { who: usize, lost: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let rarely = prop::bool::weighted(0.1);
    prop_oneof![
        4 => (any::<usize>(), prop::option::of(any::<usize>()), rarely)
            .prop_map(|(parent, reuse_pid, lost)| Step::Fork { parent, reuse_pid, lost }),
        3 => any::<usize>().prop_map(|who| Step::Exec { who }),
        1 => any::<usize>().prop_map(|who| Step::Act { who }),
        3 => (any::<usize>(), rarely).prop_map(|(who, lost)| Step::Exit { who, lost }),
    ]
}

/// A possible history, and what is true at its end.
#[derive(Clone, Debug, Default)]
struct History {
    events: Vec<Event>,
    parents: BTreeMap<ProcessKey, ProcessKey>,
    live: Vec<ProcessKey>,
    ended: Vec<ProcessKey>,
}

fn history(steps: &[Step]) -> History {
    let mut history = History { live: vec![ROOT], ..History::default() };
    history.events.push(exec(ROOT, 101, key(1, 1), "/root"));
    let mut pid = 1000;
    for (step, now) in steps.iter().zip((1000..).step_by(10)) {
        let History { events, parents, live, ended } = &mut history;
        if live.is_empty() {
            break;
        }
        match *step {
            Step::Fork { parent, reuse_pid, lost } => {
                let parent = live[parent % live.len()];
                let free: Vec<_> =
                    ended.iter().filter(|key| live.iter().all(|l| l.tgid != key.tgid)).collect();
                pid += 1;
                let tgid = match reuse_pid {
                    Some(n) if !free.is_empty() => free[n % free.len()].tgid,
                    _ => pid,
                };
                let child = key(tgid, now);
                // Without its fork a process is known by what it does next.
                let known_by = if lost { exec(child, now + 1, parent, "/lost") } else { fork(parent, child) };
                events.push(known_by);
                parents.insert(child, parent);
                live.push(child);
            }
            Step::Exec { who } => {
                let who = live[who % live.len()];
                // An orphan sees an older ancestor: here the root stands for it.
                let parent =
                    parents.get(&who).copied().filter(|parent| live.contains(parent)).unwrap_or(ROOT);
                events.push(exec(who, now, parent, "/bin/x"));
            }
            Step::Act { who } => events.push(open(live[who % live.len()], now)),
            Step::Exit { who, lost } => {
                let who = live.swap_remove(who % live.len());
                if lost {
                    // Only a process that takes its pid, or `/proc`, can tell.
                } else {
                    events.push(exit(who, now));
                }
                ended.push(who);
            }
        }
    }
    history
}

fn shuffled_history() -> impl Strategy<Value = (History, Vec<Event>)> {
    prop::collection::vec(step(), 0..60).prop_flat_map(|steps| {
        let history = history(&steps);
        let shuffled = Just(history.events.clone()).prop_shuffle();
        (Just(history), shuffled)
    })
}

proptest! {
    #[test]
    fn any_order_builds_the_same_tree((history, shuffled) in shuffled_history()) {
        let tree = build(&shuffled);
        prop_assert_eq!(&tree, &build(&history.events));

        let known: Vec<_> = history.parents.keys().copied().chain([ROOT]).collect();
        prop_assert_eq!(tree.len(), known.len());
        for (child, parent) in &history.parents {
            prop_assert_eq!(tree.get(*child).unwrap().parent(), Some(*parent));
        }
        for parent in known {
            let mut expected: Vec<_> =
                history.parents.iter().filter(|(_, p)| **p == parent).map(|(child, _)| *child).collect();
            expected.sort_by_key(|child| child.start_ns);
            prop_assert_eq!(tree.children(parent).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn live_count_is_that_of_a_naive_model((history, shuffled) in shuffled_history()) {
        let mut tree = build(&shuffled);
        // Whoever has neither exited visibly nor lost its pid counts as live, until `/proc` is asked.
        let mut naive: Vec<ProcessKey> = history.parents.keys().copied().chain([ROOT]).collect();
        let all = naive.clone();
        naive.retain(|key| {
            let exited = history.events.iter().any(|event| {
                event.process == *key && matches!(event.action, Action::ProcessExit { .. })
            });
            !exited && !all.iter().any(|other| other.tgid == key.tgid && other.start_ns > key.start_ns)
        });
        prop_assert_eq!(tree.n_live(), naive.len());
        prop_assert_eq!(tree.n_live_in(SESSION), naive.len());
        prop_assert_eq!(tree.live_in(SESSION).count(), naive.len());

        for key in tree.live_in(SESSION).collect::<Vec<_>>() {
            if !history.live.contains(&key) {
                tree.gone(key, BootTime(1_000_000));
            }
        }
        prop_assert_eq!(tree.n_live(), history.live.len());
    }

    #[test]
    fn expiry_leaves_the_living_and_their_ancestors((history, shuffled) in shuffled_history()) {
        let mut tree = build(&shuffled);
        let live: Vec<_> = tree.live_in(SESSION).collect();
        let before: Vec<Vec<ProcessKey>> =
            live.iter().map(|key| tree.ancestors(*key).map(|(key, _)| key).collect()).collect();
        tree.expire(BootTime(u64::MAX), Duration::ZERO);
        for (key, ancestors) in live.iter().zip(before) {
            prop_assert_eq!(tree.ancestors(*key).map(|(key, _)| key).collect::<Vec<_>>(), ancestors);
        }
        prop_assert_eq!(tree.n_live(), live.len());
        for (key, process) in tree.iter() {
            prop_assert!(process.is_live() || tree.children(key).next().is_some());
        }
        prop_assert_eq!(tree.children.len(), tree.iter().filter(|(_, p)| p.parent().is_some()).count());
        let _ = history;
    }
}
