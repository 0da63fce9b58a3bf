//! What the kernel's event is about, in the words of a question. Two operations that differ in what policy could tell apart
//! have different subjects; what has no exact name has none that an answer could be given for.

use std::net::{IpAddr, SocketAddr};

use crate::model::{
    Access, Action, CredChange, Effect, Event, KernelPath, ModuleOp, MountOp, NamespaceOp, Namespaces,
    NetEndpoint, Privilege, ProcessKey, PtraceOp, Subject, Text, Transport, UnixName,
};

/// `RENAME_EXCHANGE`.
const EXCHANGE: u32 = 2;
/// Families whose sockets are `priv.raw_socket` where policy speaks of them at all.
const INTERNET: [u16; 3] = [2, 10, 17];

/// What an event is about, and whether its name is exact. None for what nobody can be asked about.
pub fn subject(rule: &str, event: &Event) -> Option<(Subject, bool)> {
    let (effects, object, exact) = about(&event.action)?;
    Some((Subject { rule: rule.to_owned(), effect: effects.join("+"), object: Text(object) }, exact))
}

type About = (Vec<&'static str>, Vec<u8>, bool);

fn about(action: &Action) -> Option<About> {
    use Effect::{FileAttr, FileCreate, FileDelete, FileLink, FileRead, FileWrite};
    Some(match action {
        Action::ProcessExec(exec) => {
            if exec.interpreter.is_some() {
                // Which script it is decides what the interpreter does.
                let script = script(&exec.filename.0, &exec.cwd);
                two(&[Effect::Exec], &script, &exec.exe.path)
            } else {
                // Written like a pair, so that no file's name looks like one.
                (words(&[Effect::Exec]), joined(&[&exec.exe.path.text.0]), is_exact(&exec.exe.path))
            }
        }
        Action::FileOpen { file, access } | Action::FileCreate { file, access } => {
            one(&opened(*access, matches!(action, Action::FileCreate { .. })), &file.path)
        }
        Action::FileUnlink { file } | Action::DirRemove { file } => one(&[FileDelete], &file.path),
        Action::FileRename { file, to, flags } => {
            let there = if flags & EXCHANGE == 0 { FileCreate } else { FileWrite };
            two(&[FileDelete, there], &file.path, to)
        }
        Action::FileLink { file, to } => two(&[FileLink, FileRead, FileCreate], &file.path, to),
        Action::FileSymlink { path, .. } | Action::DirMake { path, .. } => one(&[FileCreate], path),
        Action::FileChmod { file, .. } | Action::FileChown { file, .. } => one(&[FileAttr], &file.path),
        Action::FileTruncate { file, .. } => one(&[FileWrite], &file.path),
        Action::NetConnect { endpoint } | Action::NetSend { endpoint, .. } => {
            address(Effect::NetConnect, endpoint)
        }
        Action::NetBind { endpoint } => address(Effect::NetBind, endpoint),
        Action::UnixConnect { name, .. } => match name {
            UnixName::Path(path) => one(&[Effect::Unix], path),
            UnixName::Abstract(name) => (vec![Effect::Unix.as_str()], [b"@", &*name.0].concat(), true),
            UnixName::Unnamed => return None,
        },
        Action::SocketCreate { endpoint } => {
            let raw = INTERNET.contains(&endpoint.family);
            let transport = match endpoint.transport {
                Transport::Tcp => "tcp".to_owned(),
                Transport::Udp => "udp".to_owned(),
                Transport::Other(number) => format!("protocol {number}"),
            };
            let privilege = if raw { Privilege::RawSocket } else { Privilege::OtherSocket };
            privileged(privilege, &[&format!("family {}", endpoint.family), &transport])
        }
        Action::Ptrace { operation, target, mode } => {
            let word = match operation {
                PtraceOp::Access => "access",
                PtraceOp::Traceme => "traceme",
                PtraceOp::VmRead => "vm_read",
                PtraceOp::VmWrite => "vm_write",
            };
            let (effects, object, exact) = privileged(
                Privilege::Ptrace,
                &[&format!("{word} {}", process(*target)), &format!("mode {mode:#x}")],
            );
            (effects, object, exact && is_known(*target))
        }
        Action::Signal { signal, target } => {
            let to = target.map_or_else(|| "?".to_owned(), process);
            let (effects, object, _) = privileged(Privilege::Signal, &[&format!("signal {signal}"), &to]);
            (effects, object, target.is_some_and(is_known))
        }
        Action::Mount { operation, target, source, filesystem, flags } => {
            let (privilege, word) = match operation {
                MountOp::Mount => (Privilege::Mount, "mount"),
                MountOp::Umount => (Privilege::Mount, "umount"),
                MountOp::Move => (Privilege::Mount, "move"),
                MountOp::PivotRoot => (Privilege::Mount, "pivot_root"),
                MountOp::Chroot => (Privilege::Chroot, "chroot"),
            };
            let flags = format!("flags {flags:#x}");
            let parts: [&[u8]; 5] =
                [word.as_bytes(), &source.0, &target.text.0, &filesystem.0, flags.as_bytes()];
            (vec![privilege.as_str()], joined(&parts), is_exact(target))
        }
        Action::Namespace { operation, namespaces } => namespace(*operation, *namespaces),
        Action::Bpf { command } => privileged(Privilege::Bpf, &[&format!("command {command}")]),
        Action::ModuleLoad { operation, module } => {
            let word = match operation {
                ModuleOp::Request => "request",
                ModuleOp::File => "file",
                ModuleOp::Memory => "memory",
            };
            // Memory has no name: what would be loaded nobody knows.
            let exact = is_exact(module) && *operation != ModuleOp::Memory;
            (vec![Privilege::Module.as_str()], joined(&[word.as_bytes(), &module.text.0]), exact)
        }
        Action::IoUringSetup { flags, .. } => privileged(Privilege::IoUring, &[&format!("flags {flags:#x}")]),
        Action::CredChange(CredChange { group, old, new }) => {
            let ids = |[real, effective, saved]: &[u32; 3]| format!("{real},{effective},{saved}");
            let what = if *group { "gid" } else { "uid" };
            privileged(Privilege::SetId, &[&format!("{what} {}", ids(old)), &ids(new)])
        }
        Action::PerfOpen { event_type, config } => {
            privileged(Privilege::Perf, &[&format!("type {event_type}"), &format!("config {config:#x}")])
        }
        Action::ProcessFork { .. } | Action::ProcessExit { .. } | Action::DnsAnswer { .. } => return None,
    })
}

/// Everything that an open does to the file.
fn opened(access: Access, creates: bool) -> Vec<Effect> {
    let writes = Access::WRITE | Access::TRUNCATE | Access::APPEND;
    let all = [
        (creates || access.contains(Access::CREATE), Effect::FileCreate),
        (access.contains(Access::READ), Effect::FileRead),
        (access.intersects(writes), Effect::FileWrite),
        (access.intersects(Access::EXECUTE | Access::MAP_EXECUTE), Effect::Exec),
    ];
    let found: Vec<_> = all.into_iter().filter_map(|(does, effect)| does.then_some(effect)).collect();
    // Only a reference, which is as much as reading for policy.
    if found.is_empty() { vec![Effect::FileRead] } else { found }
}

fn one(effects: &[Effect], path: &KernelPath) -> About {
    (words(effects), path.text.0.clone(), is_exact(path))
}

fn two(effects: &[Effect], path: &KernelPath, other: &KernelPath) -> About {
    (words(effects), joined(&[&path.text.0, &other.text.0]), is_exact(path) && is_exact(other))
}

fn words(effects: &[Effect]) -> Vec<&'static str> {
    effects.iter().map(|effect| effect.as_str()).collect()
}

/// Parts of a name, so that no others come to the same: `a -> b`, and within a part `\` is `\\` and `->` is `-\>`.
fn joined(parts: &[&[u8]]) -> Vec<u8> {
    let mut name = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        if number > 0 {
            name.extend_from_slice(b" -> ");
        }
        let mut before = 0;
        for byte in *part {
            if *byte == b'\\' || (*byte == b'>' && before == b'-') {
                name.push(b'\\');
            }
            name.push(*byte);
            before = *byte;
        }
    }
    name
}

fn is_exact(path: &KernelPath) -> bool {
    // The text of a process can be changed, or mean something else when the kernel reads it.
    !(path.truncated || path.unresolved || path.deleted || path.as_given) && path.text.0.starts_with(b"/")
}

fn script(name: &[u8], directory: &KernelPath) -> KernelPath {
    if name.starts_with(b"/") {
        return KernelPath { text: Text(name.to_vec()), ..KernelPath::default() };
    }
    KernelPath { text: Text([&directory.text.0, &b"/"[..], name].concat()), ..directory.clone() }
}

fn address(effect: Effect, endpoint: &NetEndpoint) -> About {
    let NetEndpoint { address, port, .. } = endpoint;
    let canonical = address.map(|address| match address {
        IpAddr::V6(long) => long.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    });
    match canonical {
        Some(address) => (words(&[effect]), SocketAddr::new(address, *port).to_string().into_bytes(), true),
        None => (words(&[effect]), format!("?:{port}").into_bytes(), false),
    }
}

fn privileged(privilege: Privilege, parts: &[&str]) -> About {
    let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
    (vec![privilege.as_str()], joined(&parts), true)
}

fn process(key: ProcessKey) -> String {
    format!("process {key}")
}

fn is_known(key: ProcessKey) -> bool {
    key.tgid != 0 && key.start_ns != 0
}

fn namespace(operation: NamespaceOp, namespaces: Namespaces) -> About {
    let word = match operation {
        NamespaceOp::Switch => "switch",
        NamespaceOp::UserCreate => "create",
        NamespaceOp::Unshare => "unshare",
        NamespaceOp::Setns => "setns",
        NamespaceOp::Clone => "clone",
    };
    let user = operation == NamespaceOp::UserCreate || namespaces == Namespaces::USER;
    let privilege = if user { Privilege::UserNamespace } else { Privilege::Namespace };
    let names: Vec<_> = namespaces.iter_names().map(|(name, _)| name.to_ascii_lowercase()).collect();
    privileged(privilege, &[word, &names.join("+")])
}

#[cfg(test)]
mod tests;
