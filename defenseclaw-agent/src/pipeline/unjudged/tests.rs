//! What is said of events that no program judged, and what of those that one did.

use std::sync::Arc;

use super::*;
use crate::{
    model::{
        CredChange, Decision, Enforced, Exec, FileRef, KernelVerdict, Mechanism, Mode, NetEndpoint,
        PolicyAction, PolicyLoaded, ProcessKey, ProtectionRow, ProtectionState, PtraceOp, SessionId,
        SessionStart, Transport, WallTime,
    },
    pipeline::{self, Effect as Done, Input, State, tests::event},
    policy::{Bindings, Session, load},
};

const SESSION: SessionId = SessionId(7);
const ROOT: ProcessKey = ProcessKey { tgid: 10, start_ns: 100 };
const CHILD: ProcessKey = ProcessKey { tgid: 11, start_ns: 200 };

/// A policy in a session.
pub(in crate::pipeline) fn session(text: &str, mode: Mode) -> Arc<Session> {
    let policy = load("p", &format!("version: 1\nname: p\n{text}"), &|_| None).unwrap();
    let bindings = Bindings {
        home: b"/home/u".to_vec(),
        project: b"/p".to_vec(),
        profile: "default".to_owned(),
        mode: Some(mode),
    };
    Arc::new(Session::new(&policy, &bindings).unwrap())
}

const RULES: &str = "settings: {unresolved: block}
rules:
  - {id: keys, effect: 'file.*', match: {paths: '~/.ssh/**'}, severity: high, reason: r, unless: {executables: /usr/bin/ssh}}
  - {id: made, effect: file.create, match: {paths: /made/**}, severity: high, reason: r}
  - {id: ran, effect: exec, match: {executables: /bin/evil}, severity: high, reason: r, kill: true}
  - {id: net, effect: net.connect, match: {addresses: [10.0.0.0/8, 127.0.0.1]}, severity: high, reason: r}
  - {id: host, effect: [net.connect, dns], match: {hosts: a.test}, severity: medium}
  - {id: sock, effect: unix, match: {unix: /run/docker.sock, abstract: bus}, severity: high, reason: r}
  - {id: wild, effect: file.read, match: {paths: '/tmp/ssh-*/agent'}, severity: medium}
  - {id: low, effect: file.read, match: {paths: /low}, severity: low}
  - {id: priv, effect: 'priv.*', severity: high, reason: r, unless: {parents: /usr/bin/sudo}}
";

fn protection(level: Level, hooks: &[&str]) -> Protection {
    let capability = |name: &&str| Capability {
        name: (*name).to_owned(),
        state: CapabilityState::Available,
        reason: String::new(),
    };
    Protection {
        level,
        level_reason: String::new(),
        capabilities: hooks.iter().map(capability).collect(),
        table: Vec::new(),
        rules: Vec::new(),
    }
}

const CGROUP: &[&str] = &[
    "cgroup/connect4",
    "cgroup/connect6",
    "cgroup/sendmsg4",
    "cgroup/sendmsg6",
    "cgroup/bind4",
    "cgroup/bind6",
];

struct Stage {
    state: State,
    effects: Vec<Done>,
    generation: u64,
}

impl Stage {
    fn new(protection: Protection, text: &str, mode: Mode) -> Self {
        let mut stage = Self { state: State::new(), effects: Vec::new(), generation: 0 };
        let start = SessionStart {
            session: SESSION,
            wall: WallTime(0),
            boot: BootTime(100),
            boot_id: String::new(),
            root: ROOT,
            command: Vec::new(),
            project: "/p".into(),
            home: "/home/u".into(),
            host: String::new(),
            kernel: String::new(),
            version: String::new(),
            origin: crate::model::Origin::Launched,
            protection,
        };
        stage.step(Input::Started(Box::new(start)));
        stage.load(text, mode, 100);
        stage
    }

    fn load(&mut self, text: &str, mode: Mode, boot: u64) {
        self.generation += 1;
        let loaded = PolicyLoaded {
            session: SESSION,
            boot: BootTime(boot),
            profile: 0,
            name: "p".to_owned(),
            mode,
            generation: self.generation,
            digest: String::new(),
            rules: Vec::new(),
        };
        self.step(Input::PolicyLoaded(Box::new(loaded), Some(session(text, mode))));
    }

    fn step(&mut self, input: Input) {
        pipeline::step(&mut self.state, input, BootTime(1000), &mut self.effects);
    }

    fn exec(&mut self, process: ProcessKey, path: &str, time: u64) -> Option<Decision> {
        self.say(process, time, Vantage::Kernel, exec(path)).0
    }

    /// What the audit has of an operation, and whether somebody is ended for it.
    fn say(
        &mut self,
        process: ProcessKey,
        time: u64,
        vantage: Vantage,
        action: Action,
    ) -> (Option<Decision>, bool) {
        let mut event = event(process, time, action);
        event.vantage = vantage;
        self.say_event(*event)
    }

    fn say_event(&mut self, event: Event) -> (Option<Decision>, bool) {
        self.effects.clear();
        self.step(Input::Event(Box::new(event)));
        let kills = self.effects.iter().any(|effect| matches!(effect, Done::Kill(_)));
        let Some(Done::Store(crate::model::AuditRecord::Event(stored))) = self.effects.first() else {
            panic!("{:?}", self.effects);
        };
        (stored.decision.clone().map(|decision| *decision), kills)
    }

    fn rule(&mut self, action: Action) -> Option<String> {
        let (decision, _) = self.say(CHILD, 500, Vantage::SyscallExit, action);
        decision.and_then(|decision| decision.verdict.rule_ids.first().cloned())
    }
}

fn exec(path: &str) -> Action {
    Action::ProcessExec(Box::new(Exec {
        exe: FileRef { path: path.into(), dev: 1, ino: 1 },
        filename: path.into(),
        interpreter: None,
        cwd: "/p".into(),
        argv: Vec::new(),
        argv_truncated: false,
        session_env: Vec::new(),
        euid: 0,
        gid: 0,
        egid: 0,
        parent: ProcessKey { tgid: 1, start_ns: 1 },
    }))
}

fn script(name: &str) -> Action {
    let Action::ProcessExec(mut started) = exec("/bin/sh") else { unreachable!() };
    started.filename = name.into();
    started.interpreter = Some("/bin/sh".into());
    Action::ProcessExec(started)
}

fn file(path: &str) -> FileRef {
    FileRef { path: path.into(), dev: 0, ino: 0 }
}

fn open(path: &str, access: Access) -> Action {
    Action::FileOpen { file: file(path), access }
}

fn flagged(text: &str, change: impl Fn(&mut KernelPath)) -> Action {
    let mut path = KernelPath::from(text);
    change(&mut path);
    Action::FileOpen { file: FileRef { path, dev: 0, ino: 0 }, access: Access::READ }
}

fn endpoint(address: &str) -> NetEndpoint {
    let address: IpAddr = address.parse().unwrap();
    NetEndpoint { transport: Transport::Tcp, address: Some(address), port: 443, family: 2 }
}

fn connect(address: &str) -> Action {
    Action::NetConnect { endpoint: endpoint(address) }
}

fn rename(from: &str, to: &str, flags: u32) -> Action {
    Action::FileRename { file: file(from), to: to.into(), flags }
}

fn signal(tgid: u32) -> Action {
    Action::Signal { signal: 9, target: (tgid != 0).then_some(ProcessKey { tgid, start_ns: 0 }) }
}

#[test]
fn each_operation_is_judged_by_what_it_does_to_what() {
    let mut stage = Stage::new(protection(Level::Tracepoint, &[]), RULES, Mode::Observe);
    let fork = |namespaces| Action::ProcessFork { child: ProcessKey { tgid: 90, start_ns: 900 }, namespaces };
    stage.say(
        ROOT,
        200,
        Vantage::Kernel,
        Action::ProcessFork { child: CHILD, namespaces: Namespaces::empty() },
    );
    let key = "/home/u/.ssh/id";
    let ptrace = |tgid| Action::Ptrace {
        operation: PtraceOp::Access,
        target: ProcessKey { tgid, start_ns: 0 },
        mode: 0,
    };
    let unix = |name| Action::UnixConnect { name, datagram: false };
    let namespace = |operation, namespaces| Action::Namespace { operation, namespaces };
    let cases = [
        (open(key, Access::READ), Some("keys")),
        (open(key, Access::REFERENCE), None),
        (open(key, Access::READ | Access::EXECUTE), None),
        (open("/bin/evil", Access::READ), None),
        (open("/bin/evil", Access::MAP_EXECUTE), Some("ran")),
        (open("/made/x", Access::WRITE), None),
        (Action::FileCreate { file: file("/made/x"), access: Access::CREATE }, Some("made")),
        (open("/tmp/ssh-1/agent", Access::READ), Some("wild")),
        (open("/low", Access::READ), None),
        (Action::FileUnlink { file: file(key) }, Some("keys")),
        (Action::DirRemove { file: file("/home/u") }, Some("keys")),
        (rename("/home", "/elsewhere", 0), Some("keys")),
        (rename("/x", "/made/y", 0), Some("made")),
        (rename("/x", key, EXCHANGE), Some("keys")),
        (Action::FileLink { file: file(key), to: "/p/x".into() }, Some("keys")),
        (Action::FileSymlink { path: "/made/l".into(), target: key.into() }, Some("made")),
        (Action::DirMake { path: "/made/d".into(), mode: 0 }, Some("made")),
        (Action::FileChmod { file: file(key), mode: 0 }, Some("keys")),
        (Action::FileTruncate { file: file(key), length: None }, Some("keys")),
        (exec("/bin/evil"), Some("ran")),
        (script("/bin/evil"), Some("ran")),
        (script("../bin/evil"), Some("ran")),
        (script("evil"), None),
        (flagged(key, |path| path.truncated = true), Some("unresolved")),
        (flagged("/a/b", |path| path.unresolved = true), Some("unresolved")),
        (flagged("/memfd:x", |path| path.unresolved = true), None),
        (flagged("relative", |path| path.as_given = true), Some("unresolved")),
        (flagged("/home/x/../u//.ssh/./id", |path| path.as_given = true), Some("keys")),
        (flagged("", |path| (path.as_given, path.unresolved) = (true, true)), Some("unresolved")),
        (connect("10.1.2.3"), Some("net")),
        (connect("0.0.0.0"), Some("net")),
        (connect("11.1.2.3"), None),
        (Action::NetBind { endpoint: endpoint("10.1.2.3") }, None),
        (unix(UnixName::Path("/run/docker.sock".into())), Some("sock")),
        (unix(UnixName::Abstract("bus".into())), Some("sock")),
        (unix(UnixName::Unnamed), None),
        (ptrace(4), Some("priv")),
        (ptrace(ROOT.tgid), None),
        (ptrace(0), None),
        (signal(4), Some("priv")),
        (signal(ROOT.tgid), None),
        (signal(0), None),
        (namespace(NamespaceOp::Unshare, Namespaces::NET), Some("priv")),
        (namespace(NamespaceOp::Unshare, Namespaces::empty()), None),
        (namespace(NamespaceOp::Setns, Namespaces::empty()), Some("priv")),
        (fork(Namespaces::USER), Some("priv")),
        (fork(Namespaces::empty()), None),
        (Action::Bpf { command: 5 }, Some("priv")),
        (Action::ModuleLoad { operation: ModuleOp::Request, module: KernelPath::default() }, None),
        (Action::IoUringSetup { submission_entries: 8, completion_entries: 8, flags: 0 }, Some("priv")),
        (Action::CredChange(CredChange { group: false, old: [0; 3], new: [0; 3] }), Some("priv")),
    ];
    for (action, expected) in cases {
        let name = format!("{action:?}");
        assert_eq!(stage.rule(action).as_deref(), expected, "{name}");
    }
}

#[test]
fn what_went_through_is_never_called_blocked() {
    let key = || open("/home/u/.ssh/id", Access::READ);
    for (mode, action, expected) in [
        (Mode::Observe, key(), (true, Mechanism::None, None, false)),
        (Mode::Action, key(), (true, Mechanism::None, Some(Enforced::Unsupported), false)),
        (Mode::Observe, exec("/bin/evil"), (true, Mechanism::None, None, false)),
        (Mode::Action, exec("/bin/evil"), (true, Mechanism::Signal, Some(Enforced::TooLate), true)),
    ] {
        let mut stage = Stage::new(protection(Level::Tracepoint, &[]), RULES, mode);
        let (decision, kills) = stage.say(ROOT, 300, Vantage::SyscallExit, action);
        let decision = decision.unwrap();
        assert_eq!(
            (decision.action, decision.verdict.raw_action),
            (PolicyAction::Alert, PolicyAction::Block)
        );
        assert_eq!((decision.would_block, decision.mechanism, decision.enforced, kills), expected, "{mode}");
    }
}

#[test]
fn who_is_spared_is_what_the_tree_says() {
    let key = || open("/home/u/.ssh/id", Access::READ);
    let bpf = || Action::Bpf { command: 1 };
    let mut stage = Stage::new(protection(Level::Tracepoint, &[]), RULES, Mode::Observe);
    stage.exec(ROOT, "/usr/bin/sudo", 150);
    stage.say(
        ROOT,
        200,
        Vantage::Kernel,
        Action::ProcessFork { child: CHILD, namespaces: Namespaces::empty() },
    );
    assert_eq!(stage.rule(bpf()), None, "its parent is spared");
    // The parent becomes another program: what it was when it made the child counts.
    stage.exec(ROOT, "/usr/bin/ssh", 300);
    assert_eq!(stage.rule(bpf()), None);
    assert_eq!(stage.rule(key()).as_deref(), Some("keys"), "it was made by sudo, not by ssh");
    assert_eq!(stage.say(ROOT, 400, Vantage::SyscallExit, key()).0, None, "ssh itself is spared");
    assert!(stage.say(ROOT, 400, Vantage::SyscallExit, bpf()).0.is_some());
    // A program start is judged by who starts it.
    let started = stage.exec(CHILD, "/usr/bin/ssh", 450);
    assert_eq!(started, None);
    assert_eq!(stage.rule(key()), None);
}

#[test]
fn a_reload_judges_what_comes_after_it() {
    let mut stage =
        Stage::new(protection(Level::Tracepoint, &[]), "settings: {unresolved: allow}", Mode::Observe);
    let key = || open("/home/u/.ssh/id", Access::READ);
    assert_eq!(stage.say(ROOT, 300, Vantage::SyscallExit, key()).0, None);
    stage.load(RULES, Mode::Observe, 400);
    let late = stage.say(ROOT, 350, Vantage::SyscallExit, key()).0;
    assert_eq!(late, None, "it happened under the one before");
    let decision = stage.say(ROOT, 400, Vantage::SyscallExit, key()).0.unwrap();
    assert_eq!((decision.generation, decision.verdict.rule_ids), (2, vec!["keys".to_owned()]));
}

#[test]
fn what_a_program_judged_is_judged_once() {
    let lsm = ["lsm/bprm_check_security", "lsm/userns_create"];
    let said = |level, hooks: &[&str], vantage, result, action: Action| {
        let mut stage = Stage::new(protection(level, hooks), RULES, Mode::Action);
        let mut event = event(ROOT, 300, action);
        (event.vantage, event.result) = (vantage, result);
        stage.say_event(*event).0.and_then(|decision| decision.verdict.rule_ids.first().cloned())
    };
    let switch = || Action::Namespace { operation: NamespaceOp::Switch, namespaces: Namespaces::NET };
    let uring = || Action::IoUringSetup { submission_entries: 1, completion_entries: 1, flags: 0 };
    let fork = |namespaces| Action::ProcessFork { child: CHILD, namespaces };
    let key = || open("/home/u/.ssh/id", Access::READ);
    let (kernel, exit) = (Vantage::Kernel, Vantage::SyscallExit);
    let cases = [
        (Level::Lsm, &lsm[..], kernel, None, key(), None),
        (Level::Lsm, &lsm, kernel, None, exec("/bin/evil"), None),
        (Level::Lsm, &[], kernel, None, exec("/bin/evil"), Some("ran")),
        (Level::Lsm, &lsm, kernel, None, switch(), Some("priv")),
        (Level::Lsm, &lsm, kernel, None, uring(), Some("priv")),
        (Level::Lsm, &lsm, kernel, None, fork(Namespaces::USER), None),
        (Level::Lsm, &lsm, kernel, None, fork(Namespaces::USER | Namespaces::NET), Some("priv")),
        // Only user space knows this pattern.
        (Level::Lsm, &lsm, kernel, None, open("/tmp/ssh-1/agent", Access::READ), Some("wild")),
        // The cgroup's programs write down what they refuse, and know names.
        (Level::Tracepoint, CGROUP, exit, Some(-1), connect("10.0.0.1"), None),
        (Level::Tracepoint, CGROUP, exit, Some(0), connect("10.0.0.1"), None),
        (Level::Tracepoint, &[], exit, Some(0), connect("10.0.0.1"), Some("net")),
        (Level::Tracepoint, CGROUP, exit, Some(0), key(), Some("keys")),
    ];
    for (level, hooks, vantage, result, action, expected) in cases {
        let name = format!("{level:?} {vantage:?} {result:?} {action:?}");
        assert_eq!(said(level, hooks, vantage, result, action).as_deref(), expected, "{name}");
    }
}

#[test]
fn a_name_that_was_resolved_judges_its_address() {
    let mut stage = Stage::new(protection(Level::Tracepoint, CGROUP), RULES, Mode::Action);
    let answer = Action::DnsAnswer {
        server: endpoint("9.9.9.9"),
        name: "a.test".into(),
        code: 0,
        aliases: Vec::new(),
        addresses: vec!["11.0.0.1".parse().unwrap()],
        truncated: false,
    };
    assert_eq!(stage.rule(connect("11.0.0.1")), None);
    assert_eq!(stage.rule(answer).as_deref(), Some("host"));
    assert_eq!(stage.rule(connect("11.0.0.1")).as_deref(), Some("host"));
}

#[test]
fn what_the_cgroup_refuses_ends_the_process_where_the_rule_says_so() {
    for (rules, expected) in [("kill: true", true), ("kill: false", false)] {
        let text = format!(
            "rules:\n  - {{id: net, effect: net.connect, match: {{addresses: 10.0.0.0/8}}, severity: high, reason: r, {rules}}}"
        );
        let mut stage = Stage::new(protection(Level::Tracepoint, CGROUP), &text, Mode::Action);
        let mut event = event(ROOT, 300, connect("10.0.0.1"));
        event.verdict = Some(KernelVerdict {
            action: PolicyAction::Block,
            raw_action: PolicyAction::Block,
            would_block: false,
            rule: 0,
            generation: 1,
            asks: false,
        });
        // The numbers of the rule stand in the row of the policy.
        stage.generation = 0;
        let loaded = PolicyLoaded {
            session: SESSION,
            boot: BootTime(100),
            profile: 0,
            name: String::new(),
            mode: Mode::Action,
            generation: 1,
            digest: String::new(),
            rules: vec![crate::model::LoadedRule {
                id: "net".to_owned(),
                severity: crate::model::Severity::High,
                reason: String::new(),
            }],
        };
        stage.step(Input::PolicyLoaded(Box::new(loaded), Some(session(&text, Mode::Action))));
        let (decision, kills) = stage.say_event(*event);
        let decision = decision.unwrap();
        assert_eq!((decision.mechanism, decision.enforced), (Mechanism::Cgroup, Some(Enforced::Applied)));
        assert_eq!(kills, expected);
    }
}

#[test]
fn what_landlock_refused_was_refused() {
    let mut with = protection(Level::Tracepoint, &[]);
    with.table.push(ProtectionRow {
        name: "landlock/connect_tcp".to_owned(),
        state: ProtectionState::Degraded,
        reason: String::new(),
        verified: true,
    });
    let without = protection(Level::Tracepoint, &[]);
    for (protection, result, expected) in [
        (with.clone(), -EACCES, (PolicyAction::Block, Mechanism::Landlock)),
        (with, 0, (PolicyAction::Alert, Mechanism::None)),
        (without, -EACCES, (PolicyAction::Alert, Mechanism::None)),
    ] {
        let mut stage = Stage::new(protection, RULES, Mode::Action);
        let mut event = event(ROOT, 300, connect("10.0.0.1"));
        (event.vantage, event.result) = (Vantage::SyscallExit, Some(result));
        let decision = stage.say_event(*event).0.unwrap();
        assert_eq!((decision.action, decision.mechanism), expected);
    }
}

const EACCES: i64 = 13;
