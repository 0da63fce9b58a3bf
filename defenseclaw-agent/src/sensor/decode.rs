//! From ring bytes to the model. Total: whatever the bytes are, it answers with an event or an error, and allocates no
//! more than a small multiple of the record's length (an empty argument is one byte there and a `Text` here).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use defenseclaw_ebpf::{
    ABI_VERSION, Body, Header, Kind, STRINGS, cred, flags, image, image::VerdictWord, module, mount,
    namespace, ptrace,
};
use zerocopy::FromBytes;

use super::dns;
use crate::model::{
    Access, Action, BootTime, CredChange, Event, Exec, ExitStatus, FileRef, KernelPath, KernelVerdict,
    ModuleOp, MountOp, NamespaceOp, Namespaces, NetEndpoint, PolicyAction, ProcessKey, PtraceOp, SessionId,
    Text, ToolCallId, Transport, UnixName, Vantage,
};

/// Bytes that are no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("undecodable record: {what}")]
pub struct DecodeError {
    /// Kind, where it could be read.
    pub(super) kind: Option<Kind>,
    what: &'static str,
}

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Environment names that are kept. `PREFIXES` of the exec program lets them through.
const SESSION_ENV: &[&[u8]] = &[
    b"CLAUDE_CODE_SESSION_ID",
    b"CLAUDE_CODE_ENTRYPOINT",
    b"CODEX_THREAD_ID",
    b"CODEX_TOOL_CALL_ID",
    b"CODEX_SESSION_ID",
    b"GEMINI_SESSION_ID",
    b"DEFENSECLAW_TOOL_CALL_ID",
];

struct Record<'a> {
    header: Header,
    body: Body,
    strings: [&'a [u8]; STRINGS],
}

/// The event in the bytes of one ring record. For replays and fuzzing; [`super::Sensor::read`] does it for live ones.
pub fn decode_record(bytes: &[u8]) -> Result<Event, DecodeError> {
    decode(bytes).map(|(_, event)| event)
}

pub(super) fn decode(bytes: &[u8]) -> Result<(Kind, Event), DecodeError> {
    let record = split(bytes)?;
    let header = &record.header;
    let kind = Kind::from_u16(header.kind).ok_or(DecodeError { kind: None, what: "unknown kind" })?;
    let invalid = |what| DecodeError { kind: Some(kind), what };
    let action = action(kind, &record).ok_or_else(|| invalid("invalid fields"))?;
    let verdict = match VerdictWord(record.body.verdict) {
        VerdictWord(0) => None,
        word => Some(verdict(word).ok_or_else(|| invalid("invalid verdict"))?),
    };
    let event = Event {
        time: BootTime(header.time_ns),
        session: SessionId(header.session),
        process: ProcessKey { tgid: header.tgid, start_ns: header.start_ns },
        tid: header.tid,
        uid: header.uid,
        cgroup: header.cgroup,
        tool_call: (header.tool_call != 0).then_some(ToolCallId(header.tool_call)),
        result: (header.flags & flags::HAS_RESULT != 0).then_some(record.body.result),
        vantage: if header.flags & flags::AT_SYSCALL_EXIT == 0 {
            Vantage::Kernel
        } else {
            Vantage::SyscallExit
        },
        verdict,
        decision: None,
        action,
    };
    Ok((kind, event))
}

fn verdict(word: VerdictWord) -> Option<KernelVerdict> {
    Some(KernelVerdict {
        action: policy_action(word.action())?,
        raw_action: policy_action(word.raw_action())?,
        would_block: word.would_block(),
        rule: word.rule(),
        generation: word.generation(),
        asks: word.asks(),
    })
}

fn policy_action(number: u8) -> Option<PolicyAction> {
    match number {
        image::action::ALLOW => Some(PolicyAction::Allow),
        image::action::ALERT => Some(PolicyAction::Alert),
        image::action::CONFIRM => Some(PolicyAction::Confirm),
        image::action::BLOCK => Some(PolicyAction::Block),
        _ => None,
    }
}

fn split(bytes: &[u8]) -> Result<Record<'_>, DecodeError> {
    let error = |what| DecodeError { kind: None, what };
    let (header, rest) =
        Header::read_from_prefix(bytes).ok().ok_or_else(|| error("shorter than its header"))?;
    if header.abi != ABI_VERSION {
        return Err(error("another ABI version"));
    }
    let (body, mut rest) = Body::read_from_prefix(rest).ok().ok_or_else(|| error("shorter than its body"))?;
    if usize::try_from(header.len) != Ok(bytes.len()) {
        return Err(error("length differs from its header"));
    }
    let mut strings = [<&[u8]>::default(); STRINGS];
    for (string, len) in strings.iter_mut().zip(body.string_len) {
        (*string, rest) =
            rest.split_at_checked(usize::from(len)).ok_or_else(|| error("shorter than its strings"))?;
    }
    Ok(Record { header, body, strings })
}

fn high(pair: u64) -> u32 {
    (pair >> 32) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is asked for")]
fn low(pair: u64) -> u32 {
    pair as u32
}

impl Record<'_> {
    fn arg(&self, index: usize) -> u64 {
        self.body.args.get(index).copied().unwrap_or_default()
    }

    fn string(&self, index: usize) -> &[u8] {
        self.strings.get(index).copied().unwrap_or_default()
    }

    fn flag(&self, string: usize, flag: u32) -> bool {
        let shift = flags::PER_STRING * u32::try_from(string).unwrap_or(0);
        self.header.flags & (flag << shift) != 0
    }

    fn path(&self, index: usize) -> KernelPath {
        KernelPath {
            text: self.string(index).into(),
            truncated: self.flag(index, flags::TRUNCATED),
            unresolved: self.flag(index, flags::UNRESOLVED),
            deleted: self.flag(index, flags::DELETED),
            as_given: self.flag(index, flags::AS_GIVEN),
        }
    }

    /// A path, which if the process gave it may be relative to string `base`. One that could not be read stays empty:
    /// with its base it would name the directory instead.
    fn path_from(&self, index: usize, base: usize) -> KernelPath {
        let path = self.path(index);
        if path.unresolved { path } else { self.joined(path, base) }
    }

    fn joined(&self, mut path: KernelPath, base: usize) -> KernelPath {
        if path.as_given && !path.text.0.starts_with(b"/") && !self.string(base).is_empty() {
            let mut text = self.string(base).to_vec();
            if !path.text.is_empty() {
                if !text.ends_with(b"/") {
                    text.push(b'/');
                }
                text.extend_from_slice(&path.text.0);
            }
            path.text = Text(text);
            path.truncated |= self.flag(base, flags::TRUNCATED);
            path.unresolved |= self.flag(base, flags::UNRESOLVED);
        }
        path
    }

    fn file_at(&self, index: usize, base: usize) -> FileRef {
        FileRef { path: self.path_from(index, base), dev: self.arg(1), ino: self.arg(2) }
    }

    fn file(&self) -> FileRef {
        self.file_at(0, 2)
    }

    fn endpoint(&self) -> NetEndpoint {
        let (socket, family) = (high(self.arg(0)), (self.arg(0) & 0xffff) as u16);
        let protocol = (socket >> 16) as u16;
        let transport = match (protocol, socket & 0xffff) {
            // IPPROTO_TCP, IPPROTO_MPTCP; protocol 0 is the type's default.
            (6 | 262, _) | (0, 1) => Transport::Tcp,
            (17, _) | (0, 2) => Transport::Udp,
            (other, _) => Transport::Other(other),
        };
        let address = match family {
            AF_INET => Some(IpAddr::V4(Ipv4Addr::from(low(self.arg(2)).to_ne_bytes()))),
            AF_INET6 => {
                let mut octets = [0; 16];
                let (first, second) = octets.split_at_mut(8);
                first.copy_from_slice(&self.arg(2).to_ne_bytes());
                second.copy_from_slice(&self.arg(3).to_ne_bytes());
                Some(IpAddr::V6(Ipv6Addr::from(octets)).to_canonical())
            }
            _ => None,
        };
        NetEndpoint { transport, address, port: (self.arg(1) & 0xffff) as u16, family }
    }
}

fn action(kind: Kind, record: &Record<'_>) -> Option<Action> {
    let arg = |index| record.arg(index);
    Some(match kind {
        Kind::ProcessFork => Action::ProcessFork {
            child: ProcessKey { tgid: low(arg(0)), start_ns: arg(1) },
            namespaces: Namespaces::from_bits_truncate(arg(2)),
        },
        Kind::ProcessExec => Action::ProcessExec(Box::new(exec(record))),
        Kind::ProcessExit => Action::ProcessExit { status: exit_status(low(arg(0))) },
        Kind::FileOpen => {
            let access = Access::from_bits_truncate(low(arg(0)));
            if access.contains(Access::CREATE) {
                Action::FileCreate { file: record.file(), access }
            } else {
                Action::FileOpen { file: record.file(), access }
            }
        }
        Kind::FileMknod => Action::FileCreate { file: record.file(), access: Access::CREATE },
        Kind::FileUnlink => Action::FileUnlink { file: record.file() },
        Kind::FileRename => {
            Action::FileRename { file: record.file(), to: record.path_from(1, 3), flags: low(arg(0)) }
        }
        Kind::FileLink => Action::FileLink { file: record.file(), to: record.path_from(1, 3) },
        Kind::FileSymlink => {
            Action::FileSymlink { path: record.path_from(0, 2), target: record.string(1).into() }
        }
        Kind::FileChmod => Action::FileChmod { file: record.file(), mode: low(arg(0)) & 0o7777 },
        Kind::FileChown => {
            let id = |id: u32| (id != u32::MAX).then_some(id);
            Action::FileChown { file: record.file(), owner: id(high(arg(0))), group: id(low(arg(0))) }
        }
        Kind::FileTruncate => {
            Action::FileTruncate { file: record.file(), length: (arg(0) != u64::MAX).then_some(arg(0)) }
        }
        Kind::DirMake => Action::DirMake { path: record.path_from(0, 2), mode: low(arg(0)) & 0o7777 },
        Kind::DirRemove => Action::DirRemove { file: record.file() },
        Kind::NetConnect => Action::NetConnect { endpoint: record.endpoint() },
        Kind::SocketCreate => Action::SocketCreate { endpoint: record.endpoint() },
        Kind::NetBind => Action::NetBind { endpoint: record.endpoint() },
        Kind::NetSend => Action::NetSend { endpoint: record.endpoint(), bytes: arg(5) },
        Kind::DnsAnswer => {
            dns::answer(record.endpoint(), record.string(0), record.flag(0, flags::TRUNCATED))?
        }
        Kind::UnixConnect => Action::UnixConnect { name: unix_name(record), datagram: arg(1) != 0 },
        Kind::Ptrace => Action::Ptrace {
            operation: match arg(0) {
                ptrace::ACCESS => PtraceOp::Access,
                ptrace::TRACEME => PtraceOp::Traceme,
                ptrace::VM_READ => PtraceOp::VmRead,
                ptrace::VM_WRITE => PtraceOp::VmWrite,
                _ => return None,
            },
            target: ProcessKey { tgid: low(arg(1)), start_ns: arg(2) },
            mode: arg(3),
        },
        Kind::Signal => Action::Signal {
            signal: low(arg(0)),
            target: (arg(1) != 0).then(|| ProcessKey { tgid: low(arg(1)), start_ns: arg(2) }),
        },
        Kind::Mount => Action::Mount {
            operation: match arg(0) {
                mount::MOUNT => MountOp::Mount,
                mount::UMOUNT => MountOp::Umount,
                mount::MOVE => MountOp::Move,
                mount::PIVOT_ROOT => MountOp::PivotRoot,
                mount::CHROOT => MountOp::Chroot,
                _ => return None,
            },
            target: record.path_from(0, 3),
            source: record.string(1).into(),
            filesystem: record.string(2).into(),
            flags: arg(1),
        },
        Kind::Namespace => Action::Namespace {
            operation: match arg(0) {
                namespace::SWITCH => NamespaceOp::Switch,
                namespace::USER_CREATE => NamespaceOp::UserCreate,
                namespace::UNSHARE => NamespaceOp::Unshare,
                namespace::SETNS => NamespaceOp::Setns,
                namespace::CLONE => NamespaceOp::Clone,
                _ => return None,
            },
            namespaces: Namespaces::from_bits_truncate(arg(1)),
        },
        Kind::Bpf => Action::Bpf { command: low(arg(0)) },
        Kind::ModuleLoad => Action::ModuleLoad {
            operation: match arg(0) {
                module::REQUEST => ModuleOp::Request,
                module::FILE => ModuleOp::File,
                module::MEMORY => ModuleOp::Memory,
                _ => return None,
            },
            module: record.path(0),
        },
        Kind::IoUringSetup => Action::IoUringSetup {
            submission_entries: low(arg(0)),
            completion_entries: low(arg(1)),
            flags: low(arg(2)),
        },
        Kind::CredChange => {
            let group = match arg(0) {
                cred::UID => false,
                cred::GID => true,
                _ => return None,
            };
            let ids = |pair, saved| [high(pair), low(pair), saved];
            Action::CredChange(CredChange {
                group,
                old: ids(arg(1), high(arg(3))),
                new: ids(arg(2), low(arg(3))),
            })
        }
        Kind::PerfOpen => Action::PerfOpen { event_type: low(arg(0)), config: arg(1) },
        Kind::CompatSyscall => return None,
    })
}

fn exec(record: &Record<'_>) -> Exec {
    let interpreter = record.string(3);
    Exec {
        exe: FileRef { path: record.path(0), dev: record.arg(1), ino: record.arg(2) },
        filename: record.string(2).into(),
        interpreter: (!interpreter.is_empty()).then(|| interpreter.into()),
        cwd: record.path(1),
        argv: arguments(record.string(4)),
        argv_truncated: record.flag(4, flags::TRUNCATED) || record.flag(4, flags::UNRESOLVED),
        session_env: record.string(5).split(|byte| *byte == 0).filter_map(session_variable).collect(),
        euid: high(record.arg(0)),
        gid: high(record.arg(3)),
        egid: low(record.arg(0)),
        parent: ProcessKey { tgid: low(record.arg(3)), start_ns: record.arg(4) },
    }
}

/// Each argument ends with a NUL; an empty one is an argument too.
fn arguments(bytes: &[u8]) -> Vec<Text> {
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.strip_suffix(&[0]).unwrap_or(bytes).split(|byte| *byte == 0).map(Text::from).collect()
}

fn session_variable(variable: &[u8]) -> Option<(Text, Text)> {
    let equals = variable.iter().position(|byte| *byte == b'=')?;
    let (name, value) = (variable.get(..equals)?, variable.get(equals + 1..)?);
    SESSION_ENV.contains(&name).then(|| (name.into(), value.into()))
}

/// From a status as wait(2) encodes it.
fn exit_status(status: u32) -> ExitStatus {
    match (status & 0x7f) as u8 {
        0 => ExitStatus::Code((status >> 8 & 0xff) as u8),
        signal => ExitStatus::Signal(signal),
    }
}

fn unix_name(record: &Record<'_>) -> UnixName {
    match record.string(0) {
        [] => UnixName::Unnamed,
        [0, name @ ..] => UnixName::Abstract(name.into()),
        bytes => {
            // As the process passed it: up to its NUL, if it has one.
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            let mut path = record.path(0);
            path.text.0.truncate(end);
            UnixName::Path(if path.unresolved { path } else { record.joined(path, 2) })
        }
    }
}

#[cfg(test)]
mod tests;
