//! What each kind of event is about.

use proptest::prelude::*;

use super::*;
use crate::model::{BootTime, Exec, ExitStatus, FileRef, SessionId, Vantage};

fn event(action: Action) -> Event {
    Event {
        time: BootTime(0),
        session: SessionId(1),
        process: ProcessKey { tgid: 5, start_ns: 5 },
        tid: 5,
        uid: 0,
        cgroup: 0,
        tool_call: None,
        result: None,
        vantage: Vantage::Kernel,
        verdict: None,
        decision: None,
        action,
    }
}

fn file(path: &str) -> FileRef {
    FileRef { path: path.into(), dev: 1, ino: 2 }
}

fn exec(exe: &str, filename: &str, interpreter: Option<&str>) -> Action {
    Action::ProcessExec(Box::new(Exec {
        exe: file(exe),
        filename: filename.into(),
        interpreter: interpreter.map(Text::from),
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

fn endpoint(address: Option<&str>, family: u16) -> NetEndpoint {
    let address = address.map(|address| address.parse().unwrap());
    NetEndpoint { transport: Transport::Tcp, address, port: 443, family }
}

/// In short: effect, object, and `?` if it is not exact.
fn said(action: Action) -> Option<String> {
    let (subject, exact) = subject("rule", &event(action))?;
    assert_eq!(subject.rule, "rule");
    Some(format!("{} {}{}", subject.effect, subject.object.lossy(), if exact { "" } else { " ?" }))
}

#[test]
fn every_kind_names_what_is_done_to_what() {
    let other = ProcessKey { tgid: 9, start_ns: 77 };
    let unknown = ProcessKey { tgid: 9, start_ns: 0 };
    let open = |access| Action::FileOpen { file: file("/a"), access };
    let rename = |flags| Action::FileRename { file: file("/a"), to: "/b".into(), flags };
    let cases = [
        (open(Access::READ), "file.read /a"),
        (open(Access::READ | Access::WRITE), "file.read+file.write /a"),
        (open(Access::TRUNCATE), "file.write /a"),
        (open(Access::READ | Access::MAP_EXECUTE), "file.read+exec /a"),
        (open(Access::REFERENCE), "file.read /a"),
        (Action::FileCreate { file: file("/a"), access: Access::WRITE }, "file.create+file.write /a"),
        (Action::FileUnlink { file: file("/a") }, "file.delete /a"),
        (Action::DirRemove { file: file("/a") }, "file.delete /a"),
        (rename(0), "file.delete+file.create /a -> /b"),
        (rename(EXCHANGE), "file.delete+file.write /a -> /b"),
        (Action::FileLink { file: file("/a"), to: "/b".into() }, "file.link+file.read+file.create /a -> /b"),
        (Action::FileSymlink { path: "/a".into(), target: "b".into() }, "file.create /a"),
        (Action::DirMake { path: "/a".into(), mode: 0 }, "file.create /a"),
        (Action::FileChmod { file: file("/a"), mode: 0 }, "file.attr /a"),
        (Action::FileChown { file: file("/a"), owner: None, group: None }, "file.attr /a"),
        (Action::FileTruncate { file: file("/a"), length: None }, "file.write /a"),
        (exec("/bin/rm", "rm", None), "exec /bin/rm"),
        (exec("/bin/sh", "x.sh", Some("/bin/sh")), "exec /p/x.sh -> /bin/sh"),
        (exec("/bin/sh", "/x.sh", Some("/bin/sh")), "exec /x.sh -> /bin/sh"),
        (Action::NetConnect { endpoint: endpoint(Some("1.2.3.4"), 2) }, "net.connect 1.2.3.4:443"),
        (Action::NetConnect { endpoint: endpoint(Some("::ffff:1.2.3.4"), 10) }, "net.connect 1.2.3.4:443"),
        (Action::NetSend { endpoint: endpoint(Some("::1"), 10), bytes: 1 }, "net.connect [::1]:443"),
        (Action::NetBind { endpoint: endpoint(Some("::"), 10) }, "net.bind [::]:443"),
        (Action::NetConnect { endpoint: endpoint(None, 0) }, "net.connect ?:443 ?"),
        (Action::UnixConnect { name: UnixName::Path("/s".into()), datagram: false }, "unix /s"),
        (Action::UnixConnect { name: UnixName::Abstract("s".into()), datagram: false }, "unix @s"),
        (Action::SocketCreate { endpoint: endpoint(None, 17) }, "priv.raw_socket family 17 -> tcp"),
        (Action::SocketCreate { endpoint: endpoint(None, 40) }, "priv.other_socket family 40 -> tcp"),
        (
            Action::Ptrace { operation: PtraceOp::VmRead, target: other, mode: 2 },
            "priv.ptrace vm_read process 9@77 -> mode 0x2",
        ),
        (
            Action::Ptrace { operation: PtraceOp::Access, target: unknown, mode: 2 },
            "priv.ptrace access process 9@0 -> mode 0x2 ?",
        ),
        (Action::Signal { signal: 9, target: Some(other) }, "priv.signal signal 9 -> process 9@77"),
        (Action::Signal { signal: 9, target: None }, "priv.signal signal 9 -> ? ?"),
        (
            Action::Mount {
                operation: MountOp::Mount,
                target: "/mnt".into(),
                source: "/dev/sda".into(),
                filesystem: "ext4".into(),
                flags: 1,
            },
            "priv.mount mount -> /dev/sda -> /mnt -> ext4 -> flags 0x1",
        ),
        (
            Action::Mount {
                operation: MountOp::Chroot,
                target: "/mnt".into(),
                source: "".into(),
                filesystem: "".into(),
                flags: 0,
            },
            "priv.chroot chroot ->  -> /mnt ->  -> flags 0x0",
        ),
        (
            Action::Namespace { operation: NamespaceOp::UserCreate, namespaces: Namespaces::USER },
            "priv.userns create -> user",
        ),
        (
            Action::Namespace {
                operation: NamespaceOp::Setns,
                namespaces: Namespaces::NET | Namespaces::PID,
            },
            "priv.namespace setns -> pid+net",
        ),
        (Action::Bpf { command: 5 }, "priv.bpf command 5"),
        (
            Action::ModuleLoad { operation: ModuleOp::File, module: "/m.ko".into() },
            "priv.module file -> /m.ko",
        ),
        (
            Action::ModuleLoad { operation: ModuleOp::Memory, module: "/m.ko".into() },
            "priv.module memory -> /m.ko ?",
        ),
        (
            Action::IoUringSetup { submission_entries: 1, completion_entries: 1, flags: 3 },
            "priv.io_uring flags 0x3",
        ),
        (
            Action::CredChange(CredChange { group: false, old: [1, 1, 1], new: [0, 0, 0] }),
            "priv.setid uid 1,1,1 -> 0,0,0",
        ),
        (Action::PerfOpen { event_type: 1, config: 2 }, "priv.perf type 1 -> config 0x2"),
    ];
    for (action, want) in cases {
        assert_eq!(said(action.clone()).as_deref(), Some(want), "{action:?}");
    }
}

#[test]
fn nobody_is_asked_about_what_only_happens() {
    assert_eq!(said(Action::ProcessExit { status: ExitStatus::Code(0) }), None);
    assert_eq!(said(Action::UnixConnect { name: UnixName::Unnamed, datagram: false }), None);
}

#[test]
fn what_has_no_exact_name_says_so() {
    let path = |change: fn(&mut KernelPath)| {
        let mut path = KernelPath::from("/a");
        change(&mut path);
        Action::FileUnlink { file: FileRef { path, dev: 0, ino: 0 } }
    };
    for action in [
        path(|path| path.truncated = true),
        path(|path| path.unresolved = true),
        path(|path| path.as_given = true),
        path(|path| path.deleted = true),
        path(|path| path.text = "a".into()),
    ] {
        assert!(said(action.clone()).unwrap().ends_with(" ?"), "{action:?}");
    }
    assert_eq!(said(path(|_| {})).as_deref(), Some("file.delete /a"));
}

proptest! {
    /// Of two files at once, no other two have the same name, and no program's path looks like a script.
    #[test]
    fn names_of_two_are_told_apart(
        one in "(/|-|>| |\\\\|a| -> ){0,8}", other in "(/|-|>| |\\\\|a| -> ){0,8}",
        third in "(/|-|>| |\\\\|a| -> ){0,8}", fourth in "(/|-|>| |\\\\|a| -> ){0,8}",
    ) {
        let pair = |a: &str, b: &str| joined(&[a.as_bytes(), b.as_bytes()]);
        prop_assert_eq!(pair(&one, &other) == pair(&third, &fourth), (&one, &other) == (&third, &fourth));
        prop_assert_ne!(pair(&one, &other), joined(&[third.as_bytes()]));
        // Where the parts are cut cannot be moved.
        let whole = format!("{one}{other}");
        for at in (0..=whole.len()).filter(|at| whole.is_char_boundary(*at)) {
            let (a, b) = whole.split_at(at);
            prop_assert_eq!(pair(&one, &other) == pair(a, b), one.as_str() == a);
        }
    }
}
