//! What each input leads to, and when a tree has ended.

use super::*;
use crate::model::{
    Answer, Caller, Connector, Exec, FileRef, HookEvent, HookOutput, Intent, KernelPath, Level, LossReason,
    MainExit, Namespaces, Origin, Phase, PolicyAction, Protection, SessionEnd, Text, ToolCall, Vantage,
    WallTime,
};

const SESSION: SessionId = SessionId(7);
const ROOT: ProcessKey = ProcessKey { tgid: 10, start_ns: 100 };
const CHILD: ProcessKey = ProcessKey { tgid: 11, start_ns: 200 };

fn start() -> Box<SessionStart> {
    Box::new(SessionStart {
        session: SESSION,
        wall: WallTime(5_000),
        boot: BootTime(100),
        boot_id: String::new(),
        root: ROOT,
        command: vec!["agent".into()],
        project: "/p".into(),
        home: "/home/u".into(),
        host: String::new(),
        kernel: String::new(),
        version: String::new(),
        origin: Origin::Launched,
        protection: Protection {
            level: Level::Lsm,
            level_reason: String::new(),
            capabilities: Vec::new(),
            table: Vec::new(),
            rules: Vec::new(),
        },
    })
}

pub(super) fn event(process: ProcessKey, time: u64, action: Action) -> Box<Event> {
    Box::new(Event {
        time: BootTime(time),
        session: SESSION,
        process,
        tid: process.tgid,
        uid: 0,
        cgroup: 0,
        tool_call: None,
        result: None,
        vantage: Vantage::Kernel,
        verdict: None,
        decision: None,
        action,
    })
}

fn fork() -> Input {
    Input::Event(event(ROOT, 200, Action::ProcessFork { child: CHILD, namespaces: Namespaces::empty() }))
}

fn exit(process: ProcessKey) -> Input {
    Input::Event(event(process, 300, Action::ProcessExit { status: ExitStatus::Code(0) }))
}

fn main_exited() -> Input {
    Input::MainExited { session: SESSION, status: ExitStatus::Code(0) }
}

/// Position of the input that ended the tree.
fn tree_ended_by(inputs: Vec<Input>) -> Option<usize> {
    let mut state = State::new();
    let mut ended = Vec::new();
    for (n, input) in inputs.into_iter().enumerate() {
        let mut effects = Vec::new();
        step(&mut state, input, BootTime(1000), &mut effects);
        let said = effects.iter().filter(|effect| **effect == Effect::TreeEnded { session: SESSION }).count();
        ended.extend(std::iter::repeat_n(n, said));
    }
    assert!(ended.len() <= 1, "said more than once: {ended:?}");
    ended.first().copied()
}

#[test]
fn tree_ends_with_its_last_process_after_the_main_one() {
    let begin = || Input::Started(start());
    let cases: Vec<(&str, Vec<Input>, Option<usize>)> = vec![
        ("child outlives main", vec![begin(), fork(), exit(ROOT), main_exited(), exit(CHILD)], Some(4)),
        ("main outlives child", vec![begin(), fork(), exit(CHILD), exit(ROOT), main_exited()], Some(4)),
        ("wait returns before the records are read", vec![begin(), main_exited(), fork(), exit(ROOT)], None),
        ("and then the child ends", vec![begin(), main_exited(), fork(), exit(ROOT), exit(CHILD)], Some(4)),
        ("main not waited for", vec![begin(), exit(ROOT)], None),
        ("exits lost, /proc asked", vec![begin(), fork(), main_exited(), gone(ROOT), gone(CHILD)], Some(4)),
        ("late records after the end", vec![begin(), exit(ROOT), main_exited(), exit(ROOT)], Some(2)),
        ("not started", vec![begin(), Input::NotStarted { session: SESSION, errno: 2 }], Some(1)),
        ("no such session", vec![main_exited(), exit(ROOT)], None),
    ];
    for (name, inputs, expected) in cases {
        assert_eq!(tree_ended_by(inputs), expected, "{name}");
    }
}

fn gone(process: ProcessKey) -> Input {
    Input::Gone(process)
}

#[test]
fn everything_is_stored_in_order_and_counted() {
    let mut state = State::new();
    let mut effects = Vec::new();
    let mut foreign = event(CHILD, 210, Action::Bpf { command: 1 });
    foreign.session = SessionId(99);
    let loss = Loss {
        kind: "file_open".to_owned(),
        reason: LossReason::RingFull,
        count: 3,
        first: BootTime(1),
        last: BootTime(2),
        session: None,
    };
    let facts = ProcessFacts {
        key: CHILD,
        session: SESSION,
        parent: Some(ROOT),
        exe: KernelPath::default(),
        argv: vec![Text::default()],
    };
    let inputs = [
        Input::Started(start()),
        fork(),
        Input::Event(foreign.clone()),
        Input::Loss(loss.clone()),
        Input::Learned(Box::new(facts)),
        Input::Tick,
        exit(ROOT),
    ];
    for input in inputs {
        step(&mut state, input, BootTime(400), &mut effects);
    }
    assert_eq!(state.n_events(SESSION), Some(2));
    assert_eq!(state.live_in(SESSION).collect::<Vec<_>>(), []);
    assert_eq!(state.live_in(SessionId(99)).collect::<Vec<_>>(), [CHILD]);
    step(&mut state, Input::Stop, BootTime(600), &mut effects);
    assert_eq!(state.sessions().count(), 0);

    let [Input::Event(fork), Input::Event(exit)] = [fork(), exit(ROOT)] else { unreachable!() };
    let end = SessionEnd {
        session: SESSION,
        wall: WallTime(5_500),
        boot: BootTime(600),
        main: MainExit::StillRunning,
        left_running: 0,
        events: 2,
    };
    let expected = [
        AuditRecord::SessionStart(start()),
        AuditRecord::Event(fork),
        AuditRecord::Event(foreign),
        AuditRecord::Loss(loss),
        AuditRecord::Event(exit),
        AuditRecord::SessionEnd(end),
    ];
    assert_eq!(effects, expected.map(Effect::Store));
}

#[test]
fn stop_says_who_is_left_running() {
    let mut state = State::new();
    let mut effects = Vec::new();
    for input in [Input::Started(start()), fork(), exit(ROOT), main_exited(), Input::Stop] {
        step(&mut state, input, BootTime(600), &mut effects);
    }
    let Some(Effect::Store(AuditRecord::SessionEnd(end))) = effects.last() else { panic!("{effects:?}") };
    assert_eq!((end.left_running, end.main), (1, MainExit::Ended(ExitStatus::Code(0))));
    assert!(!effects.contains(&Effect::TreeEnded { session: SESSION }));
}

#[test]
fn a_flood_of_processes_is_forgotten_without_a_tick() {
    let mut state = State::new();
    let mut effects = Vec::new();
    step(&mut state, Input::Started(start()), BootTime(0), &mut effects);
    for n in 0..60_000_u32 {
        effects.clear();
        let child = ProcessKey { tgid: 1000 + n % 30_000, start_ns: 1000 + u64::from(n) };
        let fork = Action::ProcessFork { child, namespaces: Namespaces::empty() };
        let now = BootTime(child.start_ns);
        step(&mut state, Input::Event(event(ROOT, now.0, fork)), now, &mut effects);
        let exit = Action::ProcessExit { status: ExitStatus::Code(0) };
        step(&mut state, Input::Event(event(child, now.0, exit)), now, &mut effects);
    }
    assert!(state.tree().len() <= ENDED_MAX, "{}", state.tree().len());
    assert_eq!((state.tree().n_live(), state.n_events(SESSION)), (1, Some(120_000)));
}

fn hook(phase: Phase, pid: u32, time: u64) -> Input {
    let mut event = HookEvent::new(Connector::Codex, phase, phase.as_str());
    event.tools = vec![ToolCall {
        id: Some("call_1".to_owned()),
        tool: "Bash".to_owned(),
        input: serde_json::json!({"command": "make test"}),
        intents: vec![Intent::Unparsed(String::new())],
        output: None,
        failed: false,
        background: false,
        process_group: None,
        mcp: None,
    }];
    Input::Hook(Box::new(HookCall {
        session: Some(SESSION),
        wall: WallTime(0),
        boot: BootTime(time),
        caller: Caller { pid, ..Caller::default() },
        connector: Connector::Codex,
        event: Some(event),
        calls: Vec::new(),
        cut: false,
        problem: None,
        policy: None,
        decision: None,
        answer: Answer::new(PolicyAction::Allow, None, &HookOutput::default()),
        latency_ns: 0,
    }))
}

#[test]
fn a_hook_is_stored_with_its_label_before_what_follows_from_it() {
    let mut state = State::new();
    let mut effects = Vec::new();
    let exec = |text: &str| {
        let exec = Exec {
            exe: FileRef { path: "/usr/bin/bash".into(), ..FileRef::default() },
            filename: "bash".into(),
            interpreter: None,
            cwd: "/p".into(),
            argv: vec!["bash".into(), "-c".into(), text.into()],
            argv_truncated: false,
            session_env: Vec::new(),
            euid: 0,
            gid: 0,
            egid: 0,
            parent: ROOT,
        };
        Input::Event(event(CHILD, 250, Action::ProcessExec(Box::new(exec))))
    };
    for input in [Input::Started(start()), hook(Phase::ToolPre, ROOT.tgid, 150), fork(), exec("make test")] {
        step(&mut state, input, BootTime(300), &mut effects);
    }
    let [_, Effect::Store(AuditRecord::Hook(stored)), Effect::Label { process, call }, rest @ ..] =
        effects.as_slice()
    else {
        panic!("{effects:?}")
    };
    let [label] = stored.calls.as_slice() else { panic!("{stored:?}") };
    assert_eq!((*process, *call), (ROOT, Some(*label)));
    let [Effect::Store(_), Effect::Store(AuditRecord::Event(started)), Effect::Label { process, call }] =
        rest
    else {
        panic!("{rest:?}")
    };
    // The kernel had not labelled it, so it is told.
    assert_eq!((started.tool_call, *process, *call), (Some(*label), CHILD, Some(*label)));
    effects.clear();
    for input in [hook(Phase::ToolPost, ROOT.tgid, 260), exit(CHILD), Input::Tick, exit(ROOT), main_exited()]
    {
        step(&mut state, input, BootTime(400), &mut effects);
    }
    step(&mut state, Input::Tick, BootTime(5_000_000_000), &mut effects);
    let concluded = |effect: &&Effect| matches!(effect, Effect::Store(AuditRecord::Correlated(_)));
    assert_eq!(effects.iter().filter(concluded).count(), 1);
    step(&mut state, Input::Stop, BootTime(5_000_000_000), &mut effects);
    // The end is the last row.
    assert!(matches!(effects.last(), Some(Effect::Store(AuditRecord::SessionEnd(_)))), "{effects:?}");
}

fn handover(step: HandoverStep) -> Input {
    Input::Handover(Handover { session: SESSION, boot: BootTime(500), step, version: String::new() })
}

fn adopted() -> HandoverStep {
    HandoverStep::Adopted { since: BootTime(300), died: true, missing: Vec::new() }
}

fn resumed() -> Input {
    Input::Resumed {
        start: start(),
        events: 7,
        policies: Vec::new(),
        judge: None,
        questions: Remembered::default(),
    }
}

/// The end of the session when these inputs have led to the end of the tree.
fn end_of(inputs: impl IntoIterator<Item = Input>) -> SessionEnd {
    let mut state = State::new();
    let mut effects = Vec::new();
    for input in inputs {
        step(&mut state, input, BootTime(600), &mut effects);
    }
    assert!(effects.contains(&Effect::TreeEnded { session: SESSION }), "{effects:?}");
    step(&mut state, Input::Stop, BootTime(600), &mut effects);
    match effects.pop() {
        Some(Effect::Store(AuditRecord::SessionEnd(end))) => end,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_adopted_session_ends_by_its_records() {
    let ended = MainExit::Ended(ExitStatus::Code(0));
    let replayed =
        |input| if let Input::Event(event) = input { Input::Replayed(event) } else { unreachable!() };
    let again = |input: &Input| if let Input::Event(event) = input { event.clone() } else { unreachable!() };
    let root_exit = exit(ROOT);
    let [first, second, third] = [again(&root_exit), again(&root_exit), again(&root_exit)];
    // Everything had happened before.
    let end = end_of([resumed(), handover(adopted()), replayed(Input::Event(first)), Input::Tick]);
    assert_eq!((end.main, end.events), (ended, 7));
    // The end of the main process was in the rings, and that of its child.
    let end = end_of([resumed(), handover(adopted()), replayed(fork()), Input::Event(second), exit(CHILD)]);
    assert_eq!((end.main, end.events), (ended, 9));
    // It is said before who is who.
    let end = end_of([resumed(), replayed(Input::Event(third)), handover(adopted()), Input::Tick]);
    assert_eq!(end.main, ended);
    // Its record is lost.
    let end = end_of([resumed(), handover(adopted()), Input::Gone(ROOT)]);
    assert_eq!((end.main, end.left_running), (MainExit::Unknown, 0));
}

#[test]
fn what_was_replayed_is_not_stored_again_and_what_was_left_gets_no_end() {
    let mut state = State::new();
    let mut effects = Vec::new();
    let Input::Event(before) = fork() else { unreachable!() };
    let inputs =
        [resumed(), Input::Replayed(before), handover(adopted()), handover(HandoverStep::Left), Input::Stop];
    for input in inputs {
        step(&mut state, input, BootTime(600), &mut effects);
    }
    let stored: Vec<_> = effects
        .iter()
        .map(|effect| {
            let Effect::Store(AuditRecord::Handover(change)) = effect else { panic!("{effect:?}") };
            &change.step
        })
        .collect();
    assert_eq!(stored, [&adopted(), &HandoverStep::Left]);
    assert_eq!(state.live_in(SESSION).count(), 2);
}

#[test]
fn an_adopted_session_ends_by_itself_and_others_go_on() {
    let adopted = |session: u64, root: ProcessKey| {
        let origin = Origin::Adopted { connector: Connector::Codex, agent_session: None, uid: 1000 };
        Input::Started(Box::new(SessionStart { session: SessionId(session), root, origin, ..*start() }))
    };
    let mut of_second = event(CHILD, 300, Action::Bpf { command: 1 });
    of_second.session = SessionId(8);
    let mut state = State::new();
    let mut effects = Vec::new();
    let inputs = [
        adopted(7, ROOT),
        adopted(8, CHILD),
        Input::Event(of_second),
        // Nobody waits for its root: the record of its end says how it ended.
        exit(ROOT),
        Input::Ended { session: SESSION },
        Input::Ended { session: SESSION },
    ];
    for input in inputs {
        step(&mut state, input, BootTime(1000), &mut effects);
    }
    assert!(effects.contains(&Effect::TreeEnded { session: SESSION }));
    let ends: Vec<_> =
        effects
            .iter()
            .filter_map(|effect| {
                if let Effect::Store(AuditRecord::SessionEnd(end)) = effect { Some(end) } else { None }
            })
            .map(|end| (end.session, end.main, end.left_running, end.events))
            .collect();
    assert_eq!(ends, [(SESSION, MainExit::Ended(ExitStatus::Code(0)), 0, 1)]);
    assert_eq!(state.sessions().collect::<Vec<_>>(), [SessionId(8)]);
    assert_eq!(state.n_events(SessionId(8)), Some(1));
}
