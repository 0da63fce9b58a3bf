//! Records for the suites of this package: one of every kind, and as many plain ones as a test wants.

mod joined;

use defenseclaw::{
    model::{
        Access, Action, AuditRecord, BootTime, Capability, CapabilityState, CredChange, Decision, Enforced,
        Event, Exec, ExitStatus, FileRef, KernelPath, Level, LoadedRule, Loss, LossReason, MainExit,
        Mechanism, Mode, ModuleOp, MountOp, NamespaceOp, Namespaces, NetEndpoint, PolicyAction, PolicyLoaded,
        Posture, PostureChange, ProcessKey, Protection, PtraceOp, SessionEnd, SessionId, SessionStart,
        Severity, Text, Transport, UnixName, Unproven, Vantage, Verdict, WallTime,
    },
    store::WriterOptions,
};
pub(crate) use joined::{CALL, joined};

pub(crate) const SESSION: SessionId = SessionId(0x19ab_cdef_0120_0001);
pub(crate) const OTHER: SessionId = SessionId(0x19ab_cdef_0130_0002);
/// Boot time of the first row of a session.
pub(crate) const BEGIN: u64 = 5_000_000_000;
/// 2026-03-01T12:00:00Z.
pub(crate) const WALL: i64 = 1_772_366_400_000_000_000;

pub(crate) fn options() -> WriterOptions {
    WriterOptions::new(BootTime(BEGIN + 60_000_000_000), WallTime(WALL + 60_000_000_000), "boot-1".to_owned())
}

pub(crate) fn start(session: SessionId) -> AuditRecord {
    AuditRecord::SessionStart(Box::new(SessionStart {
        session,
        wall: WallTime(WALL),
        boot: BootTime(BEGIN),
        boot_id: "boot-1".to_owned(),
        root: process(100),
        command: vec!["agent".into(), "--task".into(), "fix the tests".into()],
        project: "/home/dev/project".into(),
        home: "/home/dev".into(),
        host: "workstation".to_owned(),
        kernel: "6.12.0".to_owned(),
        version: "0.1.0".to_owned(),
        origin: defenseclaw::model::Origin::Launched,
        protection: Protection {
            level: Level::Tracepoint,
            level_reason: "BPF LSM is not active".to_owned(),
            capabilities: vec![Capability {
                name: "lsm/file_open".to_owned(),
                state: CapabilityState::Missing,
                reason: "boot with lsm=...,bpf".to_owned(),
            }],
            table: Vec::new(),
            rules: Vec::new(),
        },
    }))
}

pub(crate) fn end(session: SessionId) -> AuditRecord {
    AuditRecord::SessionEnd(SessionEnd {
        session,
        wall: WallTime(WALL + 90_500_000_000),
        boot: BootTime(BEGIN + 90_500_000_000),
        main: MainExit::Ended(ExitStatus::Code(0)),
        left_running: 1,
        events: 3,
    })
}

pub(crate) fn loss(session: Option<SessionId>) -> AuditRecord {
    AuditRecord::Loss(Loss {
        kind: "file_open".to_owned(),
        reason: LossReason::RingFull,
        count: 17,
        first: BootTime(BEGIN + 2_000_000_000),
        last: BootTime(BEGIN + 3_500_000_000),
        session,
    })
}

pub(crate) fn process(tgid: u32) -> ProcessKey {
    ProcessKey { tgid, start_ns: BEGIN - 1 + u64::from(tgid) }
}

pub(crate) fn event(session: SessionId, number: u64, action: Action) -> AuditRecord {
    AuditRecord::Event(Box::new(Event {
        time: BootTime(BEGIN + number * 1_250_000),
        session,
        process: process(101),
        tid: 101,
        uid: 1000,
        cgroup: 4242,
        tool_call: None,
        result: None,
        vantage: Vantage::Kernel,
        verdict: None,
        decision: None,
        action,
    }))
}

/// A policy of one rule comes into force.
pub(crate) fn policy_loaded() -> AuditRecord {
    AuditRecord::PolicyLoaded(Box::new(PolicyLoaded {
        session: SESSION,
        boot: BootTime(BEGIN),
        profile: 0,
        name: "default".to_owned(),
        mode: Mode::Action,
        generation: 1,
        digest: "5f".repeat(32),
        rules: vec![LoadedRule {
            id: "CRED-SSH".to_owned(),
            severity: Severity::High,
            reason: "keys are not for agents; ask the user".to_owned(),
        }],
    }))
}

/// What that rule says of reading a key.
pub(crate) fn judged(action: PolicyAction) -> AuditRecord {
    let open = Action::FileOpen { file: file("/home/dev/.ssh/id_ed25519"), access: Access::READ };
    let AuditRecord::Event(mut event) = event(SESSION, 5, open) else { unreachable!() };
    let blocked = action == PolicyAction::Block;
    event.result = blocked.then_some(-1);
    event.decision = Some(Box::new(Decision {
        verdict: Verdict {
            raw_action: PolicyAction::Block,
            severity: Some(Severity::High),
            rule_ids: vec!["CRED-SSH".to_owned()],
            reason: "keys are not for agents; ask the user".to_owned(),
        },
        action,
        would_block: !blocked,
        mechanism: if blocked { Mechanism::Lsm } else { Mechanism::None },
        enforced: blocked.then_some(Enforced::Applied),
        generation: 1,
    }));
    AuditRecord::Event(event)
}

/// The canary was not refused a connect.
pub(crate) fn degraded() -> AuditRecord {
    let which = vec![Unproven { operation: "connect".to_owned(), reason: "it went through".to_owned() }];
    AuditRecord::Posture(PostureChange {
        session: SESSION,
        boot: BootTime(BEGIN + 30_000_000_000),
        posture: Posture::Degraded { which },
    })
}

/// The most frequent row there is.
pub(crate) fn opened(session: SessionId, number: u64) -> AuditRecord {
    let path = format!("/home/dev/project/src/module_{}/file_{number}.rs", number % 97);
    let file = FileRef { path: path.as_str().into(), dev: 0x0080_0001, ino: 1_000_000 + number };
    event(session, number, Action::FileOpen { file, access: Access::READ })
}

pub(crate) fn file(path: &str) -> FileRef {
    FileRef { path: path.into(), dev: 0x0080_0001, ino: 77 }
}

/// One of every kind, with the awkward values among them.
pub(crate) fn every_action() -> Vec<Action> {
    let endpoint = |address: &str, port| NetEndpoint {
        transport: Transport::Tcp,
        address: Some(address.parse().unwrap()),
        port,
        family: if address.contains(':') { 10 } else { 2 },
    };
    vec![
        Action::ProcessFork { child: process(102), namespaces: Namespaces::PID | Namespaces::NET },
        Action::ProcessExec(Box::new(Exec {
            exe: file("/usr/bin/bash"),
            filename: "./run me.sh".into(),
            interpreter: Some("/bin/bash".into()),
            cwd: "/home/dev/project".into(),
            argv: vec![
                "/bin/bash".into(),
                "./run me.sh".into(),
                "it's".into(),
                Text(b"\x1b[2J\xff".to_vec()),
                "".into(),
            ],
            argv_truncated: true,
            session_env: vec![("AGENT_SESSION".into(), "abc".into())],
            euid: 0,
            gid: 1000,
            egid: 1000,
            parent: process(101),
        })),
        Action::ProcessExit { status: ExitStatus::Code(3) },
        Action::ProcessExit { status: ExitStatus::Signal(9) },
        Action::FileOpen { file: file("/etc/passwd"), access: Access::READ | Access::WRITE },
        Action::FileOpen {
            file: FileRef {
                path: KernelPath { text: "/proc/7/mem".into(), unresolved: true, ..KernelPath::default() },
                dev: 0,
                ino: 0,
            },
            access: Access::empty(),
        },
        Action::FileCreate {
            file: FileRef {
                path: KernelPath {
                    text: Text(b"/tmp/\xe2\x80\xae\nbad\xfe".to_vec()),
                    ..KernelPath::default()
                },
                dev: 1,
                ino: 2,
            },
            access: Access::WRITE | Access::CREATE | Access::TRUNCATE,
        },
        Action::FileUnlink { file: file("/home/dev/project/old") },
        Action::FileRename { file: file("/home/dev/project/a"), to: "/home/dev/project/b".into(), flags: 2 },
        Action::FileLink { file: file("/etc/shadow"), to: "/tmp/innocent".into() },
        Action::FileSymlink { path: "/tmp/link".into(), target: "../etc".into() },
        Action::FileChmod { file: file("/tmp/x"), mode: 0o104_755 },
        Action::FileChown { file: file("/tmp/x"), owner: Some(0), group: None },
        Action::FileTruncate { file: file("/tmp/x"), length: Some(2048) },
        Action::DirMake { path: "/tmp/d".into(), mode: 0o40_700 },
        Action::DirRemove {
            file: FileRef {
                path: KernelPath { text: "/tmp/d".into(), deleted: true, ..KernelPath::default() },
                dev: 1,
                ino: 9,
            },
        },
        Action::NetConnect { endpoint: endpoint("93.184.216.34", 443) },
        Action::NetConnect {
            endpoint: NetEndpoint { transport: Transport::Udp, address: None, port: 0, family: 0 },
        },
        Action::NetBind { endpoint: endpoint("::1", 8080) },
        Action::SocketCreate {
            endpoint: NetEndpoint { transport: Transport::Other(1), address: None, port: 0, family: 16 },
        },
        Action::NetSend {
            endpoint: NetEndpoint { transport: Transport::Udp, ..endpoint("8.8.8.8", 53) },
            bytes: 4096,
        },
        Action::DnsAnswer {
            server: NetEndpoint { transport: Transport::Udp, ..endpoint("9.9.9.9", 53) },
            name: "example.org".into(),
            code: 0,
            aliases: vec!["cdn.example.net".into()],
            addresses: vec!["93.184.216.34".parse().unwrap(), "2606:2800::1".parse().unwrap()],
            truncated: false,
        },
        Action::UnixConnect { name: UnixName::Path("/run/docker.sock".into()), datagram: false },
        Action::UnixConnect { name: UnixName::Abstract("/tmp/.X11-unix/X0".into()), datagram: true },
        Action::Ptrace { operation: PtraceOp::VmRead, target: process(300), mode: 2 },
        Action::Signal { signal: 15, target: Some(process(301)) },
        Action::Mount {
            operation: MountOp::Mount,
            target: "/mnt".into(),
            source: "/dev/sda1".into(),
            filesystem: "ext4".into(),
            flags: 1,
        },
        Action::Namespace { operation: NamespaceOp::UserCreate, namespaces: Namespaces::USER },
        Action::Bpf { command: 5 },
        Action::ModuleLoad { operation: ModuleOp::File, module: "/lib/modules/evil.ko".into() },
        Action::IoUringSetup { submission_entries: 8, completion_entries: 16, flags: 0 },
        Action::PerfOpen { event_type: 1, config: 9 },
        Action::CredChange(CredChange { group: false, old: [1000, 1000, 1000], new: [1000, 0, 0] }),
    ]
}

/// A session from its start to its end: one event of every kind and a loss.
pub(crate) fn session_of_everything(session: SessionId) -> Vec<AuditRecord> {
    let mut records = vec![start(session)];
    records.extend((1..).zip(every_action()).map(|(number, action)| event(session, number, action)));
    records.extend([loss(Some(session)), end(session)]);
    records
}
