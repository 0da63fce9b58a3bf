//! One record of every kind at least, and the whole event it becomes.

use std::net::IpAddr;

use super::*;
use crate::{model::EventKind, sensor::dns};

const DEV: u64 = 0x0010_0003;
const INO: u64 = 42;

/// A name, a record and what it must become.
pub(super) type Case = (&'static str, Raw, Event);

fn case(name: &'static str, raw: Raw, action: Action) -> Case {
    (name, raw, event(action))
}

/// Seen at system call exit.
fn exit_case(name: &'static str, raw: Raw, result: i64, action: Action) -> Case {
    let expected = Event { result: Some(result), vantage: Vantage::SyscallExit, ..event(action) };
    (name, raw.at_exit(result), expected)
}

fn socket(protocol: u32, kind: u32, family: u32) -> u64 {
    pair(protocol << 16 | kind, family)
}

fn v4(address: [u8; 4]) -> u64 {
    u64::from(u32::from_ne_bytes(address))
}

fn v6(address: &str) -> [u64; 2] {
    let octets = address.parse::<Ipv6Addr>().unwrap().octets();
    let (first, second) = octets.split_at(8);
    [first, second].map(|half| u64::from_ne_bytes(half.try_into().unwrap()))
}

fn endpoint(transport: Transport, address: &str, port: u16, family: u16) -> NetEndpoint {
    NetEndpoint { transport, address: Some(address.parse::<IpAddr>().unwrap()), port, family }
}

pub(super) fn cases() -> Vec<Case> {
    [processes(), files(), files_at_exit(), sockets(), privileges()].concat()
}

fn processes() -> Vec<Case> {
    let exec = Exec {
        exe: file("/usr/bin/python3.11"),
        filename: "./run.py".into(),
        interpreter: Some("/usr/bin/env".into()),
        cwd: "/home/u/p".into(),
        argv: ["env", "python3", "", "--now"].map(Text::from).to_vec(),
        argv_truncated: false,
        session_env: vec![("CLAUDE_CODE_SESSION_ID".into(), "5d1a".into())],
        euid: 1001,
        gid: 1002,
        egid: 1003,
        parent: ProcessKey { tgid: 690, start_ns: 3_000 },
    };
    let exec_raw = Raw::of(Kind::ProcessExec)
        .args([pair(1001, 1003), DEV, INO, pair(1002, 690), 3_000, 19])
        .string(0, "/usr/bin/python3.11")
        .string(1, "/home/u/p")
        .string(2, "./run.py")
        .string(3, "/usr/bin/env")
        .string(4, "env\0python3\0\0--now\0")
        .string(5, "CLAUDE_CODE_SESSION_ID=5d1a\0");
    let mut labelled = Raw::of(Kind::ProcessExit).args([0]);
    labelled.header.tool_call = 9;
    let exited = Action::ProcessExit { status: ExitStatus::Code(0) };
    vec![
        case(
            "process_fork",
            Raw::of(Kind::ProcessFork).args([710, 4_500, 0x2002_0000]),
            Action::ProcessFork {
                child: ProcessKey { tgid: 710, start_ns: 4_500 },
                namespaces: Namespaces::MOUNT | Namespaces::PID,
            },
        ),
        case("process_exec", exec_raw, Action::ProcessExec(Box::new(exec))),
        case(
            "process_exit_code",
            Raw::of(Kind::ProcessExit).args([7 << 8]),
            Action::ProcessExit { status: ExitStatus::Code(7) },
        ),
        case(
            "process_exit_signal",
            // Bit 7: a core was dumped.
            Raw::of(Kind::ProcessExit).args([0x80 + 11]),
            Action::ProcessExit { status: ExitStatus::Signal(11) },
        ),
        ("process_exit_tool_call", labelled, Event { tool_call: Some(ToolCallId(9)), ..event(exited) }),
    ]
}

fn files() -> Vec<Case> {
    let on = |kind, detail| Raw::of(kind).args([detail, DEV, INO]).string(0, "/home/u/a");
    let two = |kind| on(kind, 1).string(1, "/home/u/b");
    vec![
        case(
            "file_open",
            on(Kind::FileOpen, 0b0001_1011).args([0b0001_1011, DEV, INO, 0o2001, 0o100_644]),
            Action::FileOpen {
                file: file("/home/u/a"),
                access: Access::READ | Access::WRITE | Access::TRUNCATE | Access::APPEND,
            },
        ),
        case(
            "file_open_code",
            on(Kind::FileOpen, 0x60),
            Action::FileOpen { file: file("/home/u/a"), access: Access::EXECUTE | Access::MAP_EXECUTE },
        ),
        case(
            "file_create",
            on(Kind::FileOpen, 0b110),
            Action::FileCreate { file: file("/home/u/a"), access: Access::WRITE | Access::CREATE },
        ),
        case(
            "file_mknod",
            Raw::of(Kind::FileMknod).args([0o010_644, 0, 0, 0]).string(0, "/home/u/fifo"),
            Action::FileCreate {
                file: FileRef { path: "/home/u/fifo".into(), dev: 0, ino: 0 },
                access: Access::CREATE,
            },
        ),
        case("file_unlink", on(Kind::FileUnlink, 0), Action::FileUnlink { file: file("/home/u/a") }),
        case(
            "file_rename",
            two(Kind::FileRename),
            Action::FileRename { file: file("/home/u/a"), to: "/home/u/b".into(), flags: 1 },
        ),
        case(
            "file_link",
            two(Kind::FileLink),
            Action::FileLink { file: file("/home/u/a"), to: "/home/u/b".into() },
        ),
        case(
            "file_symlink",
            Raw::of(Kind::FileSymlink).string(0, "/home/u/l").string(1, "../../etc/passwd"),
            Action::FileSymlink { path: "/home/u/l".into(), target: "../../etc/passwd".into() },
        ),
        case(
            "file_chmod",
            on(Kind::FileChmod, 0o104_755),
            Action::FileChmod { file: file("/home/u/a"), mode: 0o4755 },
        ),
        case(
            "file_chown",
            on(Kind::FileChown, pair(u32::MAX, 50)),
            Action::FileChown { file: file("/home/u/a"), owner: None, group: Some(50) },
        ),
        case(
            "file_truncate",
            on(Kind::FileTruncate, u64::MAX),
            Action::FileTruncate { file: file("/home/u/a"), length: None },
        ),
        case(
            "dir_make",
            Raw::of(Kind::DirMake).args([0o040_700]).string(0, "/home/u/d"),
            Action::DirMake { path: "/home/u/d".into(), mode: 0o700 },
        ),
        case("dir_remove", on(Kind::DirRemove, 0), Action::DirRemove { file: file("/home/u/a") }),
    ]
}

fn files_at_exit() -> Vec<Case> {
    let named = |path: &str| FileRef { path: given(path), dev: 0, ino: 0 };
    let home = |kind| Raw::of(kind).given(0, "a", 2, "/home/u");
    let two = |kind| home(kind).given(1, "/etc/b", 3, "");
    vec![
        exit_case(
            "exit_open_reference",
            Raw::of(Kind::FileOpen).args([0x80, DEV, INO]).string(0, "/home/u"),
            3,
            Action::FileOpen { file: file("/home/u"), access: Access::REFERENCE },
        ),
        exit_case("exit_unlink", home(Kind::FileUnlink), 0, Action::FileUnlink { file: named("/home/u/a") }),
        exit_case(
            "exit_rename",
            two(Kind::FileRename),
            0,
            Action::FileRename { file: named("/home/u/a"), to: given("/etc/b"), flags: 0 },
        ),
        exit_case(
            "exit_link",
            Raw::of(Kind::FileLink).given(0, "/etc/a", 2, "").given(1, "b", 3, "/home/u"),
            0,
            Action::FileLink { file: named("/etc/a"), to: given("/home/u/b") },
        ),
        exit_case(
            "exit_symlink",
            Raw::of(Kind::FileSymlink).given(0, "l", 2, "/").string(1, "t").flag(1, flags::AS_GIVEN),
            0,
            Action::FileSymlink { path: given("/l"), target: "t".into() },
        ),
        exit_case(
            "exit_truncate",
            home(Kind::FileTruncate).args([4096]),
            0,
            Action::FileTruncate { file: named("/home/u/a"), length: Some(4096) },
        ),
        exit_case(
            "exit_mkdir",
            home(Kind::DirMake).args([0o755]),
            0,
            Action::DirMake { path: given("/home/u/a"), mode: 0o755 },
        ),
        exit_case("exit_rmdir", home(Kind::DirRemove), 0, Action::DirRemove { file: named("/home/u/a") }),
    ]
}

fn sockets() -> Vec<Case> {
    let [first, second] = v6("2001:db8::1");
    let [mapped_first, mapped_second] = v6("::ffff:192.0.2.7");
    vec![
        exit_case(
            "net_connect_v4",
            Raw::of(Kind::NetConnect).args([socket(0, 1, 2), 443, v4([192, 0, 2, 7])]),
            -115,
            Action::NetConnect { endpoint: endpoint(Transport::Tcp, "192.0.2.7", 443, 2) },
        ),
        case(
            "net_connect_v6",
            Raw::of(Kind::NetConnect).args([socket(262, 1, 10), 443, first, second, 2]),
            Action::NetConnect { endpoint: endpoint(Transport::Tcp, "2001:db8::1", 443, 10) },
        ),
        case(
            "net_connect_mapped",
            Raw::of(Kind::NetConnect).args([socket(6, 1, 10), 80, mapped_first, mapped_second]),
            Action::NetConnect { endpoint: endpoint(Transport::Tcp, "192.0.2.7", 80, 10) },
        ),
        case(
            "net_connect_vsock",
            Raw::of(Kind::NetConnect).args([socket(0, 1, 40)]),
            Action::NetConnect {
                endpoint: NetEndpoint { transport: Transport::Tcp, address: None, port: 0, family: 40 },
            },
        ),
        case(
            "socket_create",
            Raw::of(Kind::SocketCreate).args([socket(0, 3, 17)]),
            Action::SocketCreate {
                endpoint: NetEndpoint { transport: Transport::Other(0), address: None, port: 0, family: 17 },
            },
        ),
        case(
            "net_bind",
            Raw::of(Kind::NetBind).args([socket(17, 2, 2), 53, v4([127, 0, 0, 1])]),
            Action::NetBind { endpoint: endpoint(Transport::Udp, "127.0.0.1", 53, 2) },
        ),
        case(
            "net_send",
            Raw::of(Kind::NetSend).args([socket(1, 3, 2), 0, v4([8, 8, 8, 8]), 0, 0, 64]),
            Action::NetSend { endpoint: endpoint(Transport::Other(1), "8.8.8.8", 0, 2), bytes: 64 },
        ),
        case(
            "dns_answer",
            Raw::of(Kind::DnsAnswer)
                .args([socket(17, 2, 2), 53, v4([127, 0, 0, 53])])
                .string(0, dns::tests::reply()),
            Action::DnsAnswer {
                server: endpoint(Transport::Udp, "127.0.0.53", 53, 2),
                name: "www.example.org".into(),
                code: 0,
                aliases: vec!["a.example.net".into()],
                addresses: vec!["192.0.2.7".parse().unwrap()],
                truncated: false,
            },
        ),
        case(
            "unix_path",
            Raw::of(Kind::UnixConnect).args([socket(0, 1, 1), 0]).string(0, "/run/docker.sock"),
            Action::UnixConnect { name: UnixName::Path("/run/docker.sock".into()), datagram: false },
        ),
        case(
            "unix_abstract",
            Raw::of(Kind::UnixConnect).args([socket(0, 2, 1), 1]).string(0, b"\0/tmp/.X11\0x"),
            Action::UnixConnect {
                name: UnixName::Abstract(b"/tmp/.X11\0x".as_slice().into()),
                datagram: true,
            },
        ),
        case(
            "unix_unnamed",
            Raw::of(Kind::UnixConnect).args([socket(0, 2, 1), 1]),
            Action::UnixConnect { name: UnixName::Unnamed, datagram: true },
        ),
        exit_case(
            "exit_unix_relative",
            Raw::of(Kind::UnixConnect).args([socket(0, 1, 1), 0]).given(0, "s\0stale", 2, "/run/user"),
            -111,
            Action::UnixConnect { name: UnixName::Path(given("/run/user/s")), datagram: false },
        ),
    ]
}

fn privileges() -> Vec<Case> {
    let target = ProcessKey { tgid: 1, start_ns: 10 };
    let ptrace = |code, operation| {
        let raw = Raw::of(Kind::Ptrace).args([code, 1, 10, 18]);
        (raw, Action::Ptrace { operation, target, mode: 18 })
    };
    let mount = |code, operation| {
        let raw =
            Raw::of(Kind::Mount).args([code, 0x1000]).string(0, "/mnt").string(1, "/src").string(2, "ext4");
        let (source, filesystem) = ("/src".into(), "ext4".into());
        (raw, Action::Mount { operation, target: "/mnt".into(), source, filesystem, flags: 0x1000 })
    };
    let namespace = |code, operation| {
        let raw = Raw::of(Kind::Namespace).args([code, 0x4000_0080]);
        (raw, Action::Namespace { operation, namespaces: Namespaces::NET | Namespaces::TIME })
    };
    let module = |code, operation| {
        let raw = Raw::of(Kind::ModuleLoad).args([code]).string(0, "/lib/m.ko");
        (raw, Action::ModuleLoad { operation, module: "/lib/m.ko".into() })
    };
    let cred = |code, group| {
        let raw = Raw::of(Kind::CredChange).args([code, pair(1000, 1001), pair(0, 1), pair(1002, 2)]);
        (raw, Action::CredChange(CredChange { group, old: [1000, 1001, 1002], new: [0, 1, 2] }))
    };
    let by_operation = [
        ("ptrace_access", ptrace(ptrace::ACCESS, PtraceOp::Access)),
        ("ptrace_traceme", ptrace(ptrace::TRACEME, PtraceOp::Traceme)),
        ("ptrace_vm_read", ptrace(ptrace::VM_READ, PtraceOp::VmRead)),
        ("ptrace_vm_write", ptrace(ptrace::VM_WRITE, PtraceOp::VmWrite)),
        ("mount", mount(mount::MOUNT, MountOp::Mount)),
        ("umount", mount(mount::UMOUNT, MountOp::Umount)),
        ("mount_move", mount(mount::MOVE, MountOp::Move)),
        ("pivot_root", mount(mount::PIVOT_ROOT, MountOp::PivotRoot)),
        ("chroot", mount(mount::CHROOT, MountOp::Chroot)),
        ("namespace_switch", namespace(namespace::SWITCH, NamespaceOp::Switch)),
        ("namespace_user", namespace(namespace::USER_CREATE, NamespaceOp::UserCreate)),
        ("unshare", namespace(namespace::UNSHARE, NamespaceOp::Unshare)),
        ("setns", namespace(namespace::SETNS, NamespaceOp::Setns)),
        ("clone", namespace(namespace::CLONE, NamespaceOp::Clone)),
        ("module_request", module(module::REQUEST, ModuleOp::Request)),
        ("module_file", module(module::FILE, ModuleOp::File)),
        ("module_memory", module(module::MEMORY, ModuleOp::Memory)),
        ("cred_uid", cred(cred::UID, false)),
        ("cred_gid", cred(cred::GID, true)),
    ];
    let mut all: Vec<Case> =
        by_operation.into_iter().map(|(name, (raw, action))| case(name, raw, action)).collect();
    all.extend([
        exit_case(
            "exit_mount_relative",
            Raw::of(Kind::Mount).args([mount::MOUNT]).given(0, "m", 3, "/home/u"),
            -1,
            Action::Mount {
                operation: MountOp::Mount,
                target: given("/home/u/m"),
                source: Text::default(),
                filesystem: Text::default(),
                flags: 0,
            },
        ),
        case(
            "signal",
            Raw::of(Kind::Signal).args([9, 1, 10]),
            Action::Signal { signal: 9, target: Some(target) },
        ),
        case("signal_group", Raw::of(Kind::Signal).args([15]), Action::Signal { signal: 15, target: None }),
        case("bpf", Raw::of(Kind::Bpf).args([5, 144]), Action::Bpf { command: 5 }),
        case(
            "io_uring_setup",
            Raw::of(Kind::IoUringSetup).args([8, 16, 2]),
            Action::IoUringSetup { submission_entries: 8, completion_entries: 16, flags: 2 },
        ),
        case(
            "perf_open",
            Raw::of(Kind::PerfOpen).args([1, 2]),
            Action::PerfOpen { event_type: 1, config: 2 },
        ),
    ]);
    all
}

#[test]
fn every_record_becomes_its_event() {
    for (name, raw, expected) in cases() {
        let decoded = decode(&raw.bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(decoded, (Kind::from_u16(raw.header.kind).unwrap(), expected), "{name}");
    }
}

#[test]
fn no_kind_is_left_out() {
    let cases = cases();
    for kind in Kind::ALL {
        let decodable = cases.iter().any(|(_, raw, _)| raw.header.kind == kind as u16);
        let counters_only = kind == Kind::CompatSyscall;
        assert_ne!(decodable, counters_only, "{kind:?}");
    }
    for kind in EventKind::ALL {
        assert!(
            cases.iter().any(|(_, _, event)| event.kind() == *kind),
            "no record becomes {}",
            kind.as_str()
        );
    }
}

#[test]
fn audit_json_keeps_every_event() {
    for (name, _, event) in cases() {
        let json = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event, "{name}: {json}");
    }
}
