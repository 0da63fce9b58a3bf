//! Sessions for tests of the report and of its text: a recorder with a clock that moves when told to.

use std::net::IpAddr;

use proptest::prelude::*;

use super::{Report, ReportBuilder};
use crate::model::{
    Access, Action, AuditRecord, BootTime, Capability, CapabilityState, CredChange, Event, Exec, ExitStatus,
    FileRef, KernelPath, Level, Loss, LossReason, MainExit, ModuleOp, MountOp, NamespaceOp, Namespaces,
    NetEndpoint, ProcessKey, Protection, PtraceOp, SessionEnd, SessionId, SessionStart, Text, Transport,
    UnixName, Vantage, WallTime,
};

pub(crate) const SESSION: SessionId = SessionId(0x0198_f3c2_a4b0_0001);
const START: u64 = 5_000_000_000;
const WALL: i64 = 1_760_000_000_000_000_000;

#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) now: u64,
    pub(crate) rows: Vec<AuditRecord>,
    pub(crate) root: ProcessKey,
    events: u64,
}

impl Sample {
    pub(crate) fn start(command: &[&str], protection: Protection) -> Self {
        let root = ProcessKey { tgid: 4711, start_ns: START };
        let start = SessionStart {
            session: SESSION,
            wall: WallTime(WALL),
            boot: BootTime(START),
            boot_id: "b".to_owned(),
            root,
            command: texts(command),
            project: "/home/dev/app".into(),
            home: "/home/dev".into(),
            host: "workstation".to_owned(),
            kernel: "6.12.48".to_owned(),
            version: "0.1.0".to_owned(),
            origin: crate::model::Origin::Launched,
            protection,
        };
        Self { now: START, rows: vec![AuditRecord::SessionStart(Box::new(start))], root, events: 0 }
    }

    pub(crate) fn lsm() -> Protection {
        Protection {
            level: Level::Lsm,
            level_reason: String::new(),
            capabilities: Vec::new(),
            table: Vec::new(),
            rules: Vec::new(),
        }
    }

    pub(crate) fn tracepoint() -> Protection {
        let missing = |name: &str, state, reason: &str| Capability {
            name: name.to_owned(),
            state,
            reason: reason.to_owned(),
        };
        Protection {
            level: Level::Tracepoint,
            level_reason: "bpf is not in the active LSM list (boot with lsm=…,bpf)".to_owned(),
            capabilities: vec![
                missing("tp/sched_process_exec", CapabilityState::Available, ""),
                missing("io_uring", CapabilityState::Missing, "operations of io_uring make no system call"),
                missing(
                    "file paths",
                    CapabilityState::Degraded,
                    "unlink and rename show the text that was passed",
                ),
            ],
            table: Vec::new(),
            rules: Vec::new(),
        }
    }

    /// Lets milliseconds pass.
    pub(crate) fn pass(&mut self, milliseconds: u64) -> &mut Self {
        self.now += milliseconds * 1_000_000;
        self
    }

    pub(crate) fn act(&mut self, process: ProcessKey, action: Action) -> &mut Self {
        self.act_with(process, action, None)
    }

    pub(crate) fn act_with(&mut self, process: ProcessKey, action: Action, result: Option<i64>) -> &mut Self {
        self.events += 1;
        self.rows.push(AuditRecord::Event(Box::new(event(process, self.now, action, result))));
        self
    }

    pub(crate) fn fork(&mut self, parent: ProcessKey, tgid: u32) -> ProcessKey {
        self.now += 1000;
        let child = ProcessKey { tgid, start_ns: self.now };
        self.act(parent, Action::ProcessFork { child, namespaces: Namespaces::empty() });
        child
    }

    pub(crate) fn exec(&mut self, process: ProcessKey, exe: &str, argv: &[&str]) -> &mut Self {
        self.exec_bytes(
            process,
            exe.as_bytes(),
            argv.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        )
    }

    pub(crate) fn exec_bytes(&mut self, process: ProcessKey, exe: &[u8], argv: Vec<Vec<u8>>) -> &mut Self {
        let path = KernelPath { text: exe.into(), ..KernelPath::default() };
        let exec = Exec {
            exe: FileRef { path, dev: 1, ino: 2 },
            filename: exe.into(),
            interpreter: None,
            cwd: "/home/dev/app".into(),
            argv: argv.into_iter().map(Text).collect(),
            argv_truncated: false,
            session_env: Vec::new(),
            euid: 1000,
            gid: 1000,
            egid: 1000,
            parent: ProcessKey { tgid: 1, start_ns: 1 },
        };
        self.act(process, Action::ProcessExec(Box::new(exec)))
    }

    /// Forks, runs, lets time pass and exits.
    pub(crate) fn run(
        &mut self,
        parent: ProcessKey,
        tgid: u32,
        argv: &[&str],
        ms: u64,
        code: u8,
    ) -> ProcessKey {
        let child = self.fork(parent, tgid);
        let exe = format!("/usr/bin/{}", argv[0]);
        self.exec(child, &exe, argv).pass(ms).exit(child, code);
        child
    }

    pub(crate) fn exit(&mut self, process: ProcessKey, code: u8) -> &mut Self {
        self.act(process, Action::ProcessExit { status: ExitStatus::Code(code) })
    }

    pub(crate) fn read(&mut self, process: ProcessKey, path: &str) -> &mut Self {
        self.act(process, Action::FileOpen { file: file(path), access: Access::READ })
    }

    pub(crate) fn write(&mut self, process: ProcessKey, path: &str) -> &mut Self {
        let access = Access::WRITE | Access::TRUNCATE;
        self.act(process, Action::FileOpen { file: file(path), access })
    }

    pub(crate) fn create(&mut self, process: ProcessKey, path: &str) -> &mut Self {
        self.act(process, Action::FileCreate { file: file(path), access: Access::CREATE | Access::WRITE })
    }

    pub(crate) fn rename(&mut self, process: ProcessKey, from: &str, to: &str) -> &mut Self {
        self.act(process, Action::FileRename { file: file(from), to: to.into(), flags: 0 })
    }

    pub(crate) fn unlink(&mut self, process: ProcessKey, path: &str) -> &mut Self {
        self.act(process, Action::FileUnlink { file: file(path) })
    }

    pub(crate) fn connect(
        &mut self,
        process: ProcessKey,
        address: &str,
        port: u16,
        result: i64,
    ) -> &mut Self {
        let endpoint = endpoint(Transport::Tcp, address, port);
        self.act_with(process, Action::NetConnect { endpoint }, Some(result))
    }

    pub(crate) fn answer(
        &mut self,
        name: &str,
        code: u16,
        aliases: &[&str],
        addresses: &[&str],
    ) -> &mut Self {
        let answer = Action::DnsAnswer {
            server: endpoint(Transport::Udp, "127.0.0.53", 53),
            name: name.into(),
            code,
            aliases: texts(aliases),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            truncated: false,
        };
        self.act(ProcessKey { tgid: 0, start_ns: 0 }, answer)
    }

    pub(crate) fn loss(&mut self, kind: &str, reason: LossReason, count: u64) -> &mut Self {
        let (first, last) = (BootTime(self.now - 2_000_000), BootTime(self.now));
        self.rows.push(AuditRecord::Loss(Loss {
            kind: kind.to_owned(),
            reason,
            count,
            first,
            last,
            session: None,
        }));
        self
    }

    pub(crate) fn end(&mut self, main: MainExit, left_running: u64) -> &mut Self {
        let passed = i64::try_from(self.now - START).unwrap();
        self.rows.push(AuditRecord::SessionEnd(SessionEnd {
            session: SESSION,
            wall: WallTime(WALL + passed),
            boot: BootTime(self.now),
            main,
            left_running,
            events: self.events,
        }));
        self
    }

    pub(crate) fn report(&self) -> Report {
        report(&self.rows)
    }
}

pub(crate) fn report(rows: &[AuditRecord]) -> Report {
    let mut builder = ReportBuilder::new();
    (1..).zip(rows).for_each(|(seq, row)| builder.push(seq, row));
    builder.finish()
}

pub(crate) fn texts(list: &[&str]) -> Vec<Text> {
    list.iter().map(|text| Text::from(*text)).collect()
}

pub(crate) fn file(path: &str) -> FileRef {
    FileRef { path: path.into(), ..FileRef::default() }
}

pub(crate) fn endpoint(transport: Transport, address: &str, port: u16) -> NetEndpoint {
    let address: IpAddr = address.parse().unwrap();
    NetEndpoint { transport, address: Some(address), port, family: if address.is_ipv4() { 2 } else { 10 } }
}

fn event(process: ProcessKey, now: u64, action: Action, result: Option<i64>) -> Event {
    Event {
        time: BootTime(now),
        session: SESSION,
        process,
        tid: process.tgid,
        uid: 1000,
        cgroup: 1,
        tool_call: None,
        result,
        vantage: Vantage::Kernel,
        verdict: None,
        decision: None,
        action,
    }
}

/// Every kind of row in any order, with hostile texts.
pub(crate) fn any_rows() -> impl Strategy<Value = Vec<AuditRecord>> {
    let ended = prop::option::of((any_main(), 0..5_u64));
    (prop::collection::vec(any_row(), 0..120), any::<bool>(), any::<bool>(), ended).prop_map(
        |(rows, started, tracepoint, ended)| {
            let protection = if tracepoint { Sample::tracepoint() } else { Sample::lsm() };
            let mut sample = Sample::start(&["agent", "-p", "text"], protection);
            if !started {
                sample.rows.clear();
            }
            sample.events = rows.iter().filter(|row| matches!(row, AuditRecord::Event(_))).count() as u64;
            sample.rows.extend(rows);
            sample.pass(10_000);
            if let Some((main, left_running)) = ended {
                sample.end(main, left_running);
            }
            sample.rows
        },
    )
}

fn any_main() -> impl Strategy<Value = MainExit> {
    prop_oneof![
        any::<u8>().prop_map(|code| MainExit::Ended(ExitStatus::Code(code))),
        any::<u8>().prop_map(|signal| MainExit::Ended(ExitStatus::Signal(signal))),
        Just(MainExit::StillRunning),
        any::<i32>().prop_map(MainExit::NotStarted),
    ]
}

fn any_row() -> impl Strategy<Value = AuditRecord> {
    let result = prop_oneof![Just(None), Just(Some(0)), (-200..0_i64).prop_map(Some)];
    let event = (any_key(), 0..10_000_000_000_u64, any_action().boxed(), result).prop_map(
        |(key, time, action, result)| AuditRecord::Event(Box::new(event(key, START + time, action, result))),
    );
    let loss = (any_string(), any_reason(), 0..3_u64).prop_map(|(kind, reason, count)| {
        let (first, last) = (BootTime(START), BootTime(START + 1));
        AuditRecord::Loss(Loss { kind, reason, count, first, last, session: None })
    });
    prop_oneof![30 => event.boxed(), 1 => loss.boxed()]
}

fn any_reason() -> impl Strategy<Value = LossReason> {
    prop::sample::select(vec![
        LossReason::RingFull,
        LossReason::Folded,
        LossReason::Oversized,
        LossReason::Unreadable,
        LossReason::MapFull,
        LossReason::DecodeError,
        LossReason::QueueFull,
        LossReason::StoreError,
        LossReason::Unclean,
    ])
}

fn any_key() -> impl Strategy<Value = ProcessKey> {
    (0..12_u32, 0..3_u64).prop_map(|(tgid, start)| ProcessKey {
        tgid: if tgid == 11 { 4711 } else { tgid },
        start_ns: START + start * (1 + u64::from(tgid)) * 500_000,
    })
}

/// Escape sequences, right-to-left marks, wide and combining characters, line breaks.
fn any_string() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{0,12}",
        "\\PC{0,20}",
        ".{0,30}",
        "[\u{1b}\\[\n\t\u{202e}\u{300}漢🦀\u{200d}\u{fe0f}]{0,20}"
    ]
}

fn any_text() -> impl Strategy<Value = Text> {
    let bytes = prop::collection::vec(any::<u8>(), 0..40).prop_map(Text);
    let long = (any_string(), 1..400_usize).prop_map(|(text, times)| Text(text.repeat(times).into_bytes()));
    prop_oneof![4 => any_string().prop_map(|text| Text(text.into_bytes())), 1 => bytes, 1 => long]
}

fn any_path() -> impl Strategy<Value = KernelPath> {
    let directory = prop::sample::select(vec![
        "/home/dev/app/",
        "/home/dev/app/node_modules/",
        "/home/dev/.",
        "/etc/",
        "/usr/lib/",
        "/tmp/",
        "/srv/",
        "",
    ]);
    (directory, any_text(), any::<[bool; 4]>(), any::<bool>()).prop_map(|(directory, name, flags, odd)| {
        let text = Text([directory.as_bytes(), &name.0].concat());
        let [truncated, unresolved, deleted, as_given] = flags.map(|flag| flag && odd);
        KernelPath { text, truncated, unresolved, deleted, as_given }
    })
}

fn any_endpoint() -> impl Strategy<Value = NetEndpoint> {
    let transport =
        prop_oneof![Just(Transport::Tcp), Just(Transport::Udp), any::<u16>().prop_map(Transport::Other)];
    let address = prop::option::of(
        prop_oneof![(0..4_u128).prop_map(u128::to_be_bytes), any::<[u8; 16]>()].prop_map(IpAddr::from),
    );
    (transport, address, any::<u16>()).prop_map(|(transport, address, port)| NetEndpoint {
        transport,
        address,
        port,
        family: 10,
    })
}

fn any_action() -> impl Strategy<Value = Action> {
    let file = || any_path().prop_map(|path| FileRef { path, dev: 1, ino: 1 });
    let namespaces = || prop_oneof![Just(Namespaces::empty()), Just(Namespaces::USER | Namespaces::PID)];
    let access = || (0..256_u32).prop_map(Access::from_bits_truncate);
    let exec = (any_path(), prop::collection::vec(any_text(), 0..4), any_path(), any_key(), 999..1001_u32)
        .prop_map(|(path, argv, cwd, parent, euid)| Exec {
            exe: FileRef { path, ..FileRef::default() },
            filename: Text::default(),
            interpreter: None,
            cwd,
            argv,
            argv_truncated: false,
            session_env: Vec::new(),
            euid,
            gid: 1000,
            egid: 1000,
            parent,
        });
    let processes = prop_oneof![
        (any_key(), namespaces()).prop_map(|(child, namespaces)| Action::ProcessFork { child, namespaces }),
        exec.prop_map(|exec| Action::ProcessExec(Box::new(exec))),
        any::<u8>().prop_map(|code| Action::ProcessExit { status: ExitStatus::Code(code) }),
        any::<u8>().prop_map(|signal| Action::ProcessExit { status: ExitStatus::Signal(signal) }),
    ];
    let files = prop_oneof![
        (file(), access()).prop_map(|(file, access)| Action::FileOpen { file, access }),
        (file(), access()).prop_map(|(file, access)| Action::FileCreate { file, access }),
        file().prop_map(|file| Action::FileUnlink { file }),
        (file(), any_path()).prop_map(|(file, to)| Action::FileRename { file, to, flags: 0 }),
        (file(), any_path()).prop_map(|(file, to)| Action::FileLink { file, to }),
        (any_path(), any_text()).prop_map(|(path, target)| Action::FileSymlink { path, target }),
        file().prop_map(|file| Action::FileChmod { file, mode: 0o644 }),
        file().prop_map(|file| Action::FileChown { file, owner: Some(0), group: None }),
        file().prop_map(|file| Action::FileTruncate { file, length: None }),
        any_path().prop_map(|path| Action::DirMake { path, mode: 0o755 }),
        file().prop_map(|file| Action::DirRemove { file }),
    ];
    let unix_name = prop_oneof![
        any_path().prop_map(UnixName::Path),
        any_text().prop_map(UnixName::Abstract),
        Just(UnixName::Unnamed),
    ];
    let address = (0..4_u128).prop_map(|n| IpAddr::from(n.to_be_bytes()));
    let answer = (any_endpoint(), any_text(), 0..5_u16, prop::collection::vec(any_text(), 0..3), address)
        .prop_map(|(server, name, code, aliases, address)| Action::DnsAnswer {
            server,
            name,
            code,
            aliases,
            addresses: vec![address],
            truncated: false,
        });
    let network = prop_oneof![
        any_endpoint().prop_map(|endpoint| Action::NetConnect { endpoint }),
        any_endpoint().prop_map(|endpoint| Action::NetBind { endpoint }),
        (any_endpoint(), any::<u64>()).prop_map(|(endpoint, bytes)| Action::NetSend { endpoint, bytes }),
        answer,
        (unix_name, any::<bool>()).prop_map(|(name, datagram)| Action::UnixConnect { name, datagram }),
    ];
    let operation =
        prop::sample::select(vec![PtraceOp::Access, PtraceOp::Traceme, PtraceOp::VmRead, PtraceOp::VmWrite]);
    let mount = prop::sample::select(vec![
        MountOp::Mount,
        MountOp::Umount,
        MountOp::Move,
        MountOp::PivotRoot,
        MountOp::Chroot,
    ]);
    let namespace = prop::sample::select(vec![
        NamespaceOp::Switch,
        NamespaceOp::UserCreate,
        NamespaceOp::Unshare,
        NamespaceOp::Setns,
        NamespaceOp::Clone,
    ]);
    let module = prop::sample::select(vec![ModuleOp::Request, ModuleOp::File, ModuleOp::Memory]);
    let privileged = prop_oneof![
        (operation, any_key(), any::<u64>()).prop_map(|(operation, target, mode)| Action::Ptrace {
            operation,
            target,
            mode
        }),
        (any::<u32>(), prop::option::of(any_key()))
            .prop_map(|(signal, target)| Action::Signal { signal, target }),
        (mount, any_path(), any_text(), any_text()).prop_map(|(operation, target, source, filesystem)| {
            Action::Mount { operation, target, source, filesystem, flags: 1 }
        }),
        (namespace, namespaces())
            .prop_map(|(operation, namespaces)| Action::Namespace { operation, namespaces }),
        any::<u32>().prop_map(|command| Action::Bpf { command }),
        (module, any_path()).prop_map(|(operation, module)| Action::ModuleLoad { operation, module }),
        any::<u32>().prop_map(|flags| Action::IoUringSetup {
            submission_entries: 8,
            completion_entries: 16,
            flags
        }),
        (any::<bool>(), any::<[u32; 3]>(), any::<[u32; 3]>())
            .prop_map(|(group, old, new)| Action::CredChange(CredChange { group, old, new })),
        (any::<u32>(), any::<u64>()).prop_map(|(event_type, config)| Action::PerfOpen { event_type, config }),
    ];
    // Boxed: the values of all variants together are larger than a test's stack.
    prop::strategy::Union::new([processes.boxed(), files.boxed(), network.boxed(), privileged.boxed()])
}
