//! What happened, in one line of words for a person. Everything that came from a process is escaped here.

mod approvals;

use std::{fmt::Write, time::Duration};

use nix::{errno::Errno, sys::signal::Signal};

use super::output::{escape, size};
use crate::model::{
    Access, Action, AuditRecord, Correlated, CredChange, Decision, Enforced, Event, Exec, ExitStatus,
    Finding, Handover, HandoverStep, HookCall, KernelPath, Loss, LossReason, MainExit, ModuleOp, MountOp,
    NamespaceOp, Namespaces, NetEndpoint, Origin, PolicyAction, PolicyLoaded, PolicyRefused, Posture,
    ProcessKey, PtraceOp, Seen, SessionEnd, SessionStart, Text, Transport, UnixName,
};

/// Any row of the audit.
pub fn record(record: &AuditRecord) -> String {
    match record {
        AuditRecord::SessionStart(start) => session_start(start),
        AuditRecord::Event(event) => self::event(event),
        AuditRecord::PolicyLoaded(policy) => policy_loaded(policy),
        AuditRecord::PolicyRefused(policy) => policy_refused(policy),
        AuditRecord::Posture(change) => posture(&change.posture),
        AuditRecord::Handover(change) => handover(&change.step, unwatched(change)),
        AuditRecord::Hook(call) => hook(call),
        AuditRecord::Correlated(row) => correlated(row),
        AuditRecord::Finding(row) => finding(row),
        AuditRecord::Asked(approval) => approvals::asked(approval),
        AuditRecord::Settled(settled) => approvals::settled(settled),
        AuditRecord::Granted(grant) => approvals::granted(grant),
        AuditRecord::GrantEnded(ended) => approvals::grant_ended(ended),
        AuditRecord::Loss(loss) => self::loss(loss),
        AuditRecord::SessionEnd(end) => session_end(end),
    }
}

/// An event: its action, and how it failed if it did.
pub fn event(event: &Event) -> String {
    let mut text = action(&event.action);
    // Writing to a String cannot fail.
    if let Action::ProcessExec(exec) = &event.action
        && exec.euid != event.uid
    {
        write!(text, " (effective uid {})", exec.euid).ok();
    }
    if let Some(result) = event.result.filter(|result| *result < 0) {
        write!(text, " failed: {}", errno(i32::try_from(-result).unwrap_or(0))).ok();
    }
    if let Some(decision) = &event.decision {
        text.push_str(&self::decision(decision));
    } else if let Some(verdict) = event.verdict {
        let (rule, generation) = (verdict.rule, verdict.generation);
        write!(text, " [{} by rule number {rule} of unknown policy {generation}]", verdict.action).ok();
    }
    text
}

/// What policy said, in brackets; nothing if it simply allowed.
fn decision(decision: &Decision) -> String {
    let rules =
        decision.verdict.rule_ids.iter().map(|id| escape(id.as_bytes())).collect::<Vec<_>>().join(", ");
    let action = decision.action;
    if action == PolicyAction::Allow {
        String::new()
    } else if action != PolicyAction::Block
        && let Some(enforced) = decision.enforced
    {
        let ended = if enforced == Enforced::TooLate { ", process ended" } else { "" };
        format!(" [detected, not prevented: {rules}{ended}]")
    } else if decision.would_block {
        format!(" [{action} by {rules}, would be blocked in another mode]")
    } else {
        format!(" [{action} by {rules}]")
    }
}

/// Which agent said what, and what it heard.
fn hook(call: &HookCall) -> String {
    let mut text = call.connector.to_string();
    // Writing to a String cannot fail.
    match &call.event {
        Some(event) => write!(text, " {}", escape(event.name.as_bytes())).ok(),
        None => write!(text, " unreadable").ok(),
    };
    // Of our own rows these say what has happened.
    for said in call.event.iter().filter(|event| event.name == "defenseclaw.tamper") {
        for word in [&said.cause, &said.text].into_iter().flatten() {
            write!(text, " {}", escape(word.as_bytes())).ok();
        }
    }
    for call in call.event.iter().flat_map(|event| &event.tools) {
        write!(text, " {}", escape(call.tool.as_bytes())).ok();
        let shown =
            ["command", "file_path", "path", "url"].iter().find_map(|key| call.input.get(key)?.as_str());
        if let Some(shown) = shown {
            write!(text, " {}", escape(shown.as_bytes())).ok();
        }
    }
    if let Some(decision) = &call.decision {
        text.push_str(&self::decision(decision));
    }
    if let (Some(mode), why) = (call.answer.failed, call.problem.as_deref().unwrap_or_default()) {
        write!(text, " [not judged, fails {mode}: {}]", escape(why.as_bytes())).ok();
    }
    text
}

fn policy_loaded(policy: &PolicyLoaded) -> String {
    let PolicyLoaded { name, mode, generation, digest, rules, .. } = policy;
    let digest = digest.get(..12).unwrap_or(digest);
    let name = escape(name.as_bytes());
    format!(
        "{name} in mode {mode}, generation {generation}, {} rules (sha256 {})",
        rules.len(),
        escape(digest.as_bytes())
    )
}

fn policy_refused(policy: &PolicyRefused) -> String {
    let problems: Vec<_> = policy.problems.iter().map(|problem| escape(problem.as_bytes())).collect();
    format!("{} was not taken: {}", escape(policy.name.as_bytes()), problems.join("; "))
}

/// Whether blocking is proven to work.
pub fn posture(posture: &Posture) -> String {
    match posture {
        Posture::Enforced => "enforced: each forbidden operation that was tried was refused".to_owned(),
        Posture::Off => "off: no policy is in force".to_owned(),
        Posture::Degraded { which } => {
            let which: Vec<_> = which
                .iter()
                .map(|unproven| {
                    format!(
                        "{} ({})",
                        escape(unproven.operation.as_bytes()),
                        escape(unproven.reason.as_bytes())
                    )
                })
                .collect();
            format!("degraded: not refused: {}", which.join(", "))
        }
    }
}

/// What happened to which objects.
pub fn action(action: &Action) -> String {
    match action {
        Action::ProcessFork { child, namespaces } if namespaces.is_empty() => format!("child {}", child.tgid),
        Action::ProcessFork { child, namespaces } => {
            format!("child {} in new {}", child.tgid, namespace_names(*namespaces))
        }
        Action::ProcessExec(exec) => self::exec(exec),
        Action::ProcessExit { status } => exit_status(*status),
        Action::FileOpen { file, access } | Action::FileCreate { file, access } => {
            format!("{} ({})", path(&file.path), access_names(*access))
        }
        Action::FileUnlink { file } | Action::DirRemove { file } => path(&file.path),
        Action::FileRename { file, to, flags } => {
            let arrow = if flags & libc::RENAME_EXCHANGE == 0 { "->" } else { "<->" };
            format!("{} {arrow} {}", path(&file.path), path(to))
        }
        Action::FileLink { file, to } => format!("{} = {}", path(to), path(&file.path)),
        Action::FileSymlink { path: link, target } => format!("{} -> {}", path(link), word(target)),
        Action::FileChmod { file, mode } => format!("{} to {:04o}", path(&file.path), mode & 0o7777),
        Action::FileChown { file, owner, group } => {
            let id = |id: &Option<u32>| id.map_or_else(|| "same".to_owned(), |id| id.to_string());
            format!("{} to {}:{}", path(&file.path), id(owner), id(group))
        }
        Action::FileTruncate { file, length } => match length {
            Some(length) => format!("{} to {}", path(&file.path), size(*length)),
            None => path(&file.path),
        },
        Action::DirMake { path: dir, mode } => format!("{} with {:04o}", path(dir), mode & 0o7777),
        Action::NetConnect { endpoint: to }
        | Action::NetBind { endpoint: to }
        | Action::SocketCreate { endpoint: to } => endpoint(to),
        Action::NetSend { endpoint: to, bytes } => format!("{} to {}", size(*bytes), endpoint(to)),
        Action::DnsAnswer { server, name, code, aliases, addresses, truncated } => {
            let mut text = format!("{} is", escape(&name.0));
            // Writing to a String cannot fail.
            match code {
                0 if addresses.is_empty() && aliases.is_empty() => text.push_str(" without address"),
                0 => {
                    let names = aliases.iter().map(|name| escape(&name.0));
                    let all: Vec<_> = names.chain(addresses.iter().map(ToString::to_string)).collect();
                    write!(text, " {}", all.join(", ")).ok();
                }
                3 => text.push_str(" unknown"),
                code => {
                    write!(text, " refused (code {code})").ok();
                }
            }
            if *truncated {
                text.push_str(", …");
            }
            write!(text, " (from {})", endpoint(server)).ok();
            text
        }
        Action::UnixConnect { name, datagram } => {
            let name = match name {
                UnixName::Path(name) => path(name),
                UnixName::Abstract(name) => format!("@{}", escape(&name.0)),
                UnixName::Unnamed => "an unnamed socket".to_owned(),
            };
            if *datagram { format!("{name} (datagram)") } else { name }
        }
        Action::Ptrace { operation, target, mode: _ } => {
            let verb = match operation {
                PtraceOp::Access => "control of",
                PtraceOp::Traceme => "traced by",
                PtraceOp::VmRead => "read memory of",
                PtraceOp::VmWrite => "write memory of",
            };
            format!("{verb} {}", process(target))
        }
        Action::Signal { signal, target } => {
            let target = target.as_ref().map_or_else(|| "a group or unknown process".to_owned(), process);
            format!("{} to {target}", signal_name(i32::try_from(*signal).unwrap_or(0)))
        }
        Action::Mount { operation, target, source, filesystem, flags: _ } => {
            let verb = match operation {
                MountOp::Mount => "mount",
                MountOp::Umount => "unmount",
                MountOp::Move => "move mount",
                MountOp::PivotRoot => "pivot root",
                MountOp::Chroot => "chroot",
            };
            let mut text = format!("{verb} {}", path(target));
            if !source.is_empty() {
                write!(text, " from {}", word(source)).ok();
            }
            if !filesystem.is_empty() {
                write!(text, " ({})", escape(&filesystem.0)).ok();
            }
            text
        }
        Action::Namespace { operation, namespaces } => {
            let verb = match operation {
                NamespaceOp::Switch => "switch to",
                NamespaceOp::UserCreate => "create",
                NamespaceOp::Unshare => "unshare",
                NamespaceOp::Setns => "enter",
                NamespaceOp::Clone => "make with a process",
            };
            format!("{verb} {}", namespace_names(*namespaces))
        }
        Action::Bpf { command } => match bpf_command(*command) {
            Some(name) => name.to_owned(),
            None => format!("command {command}"),
        },
        Action::ModuleLoad { operation, module } => {
            let how = match operation {
                ModuleOp::Request => "asked for by the kernel",
                ModuleOp::File => "from a file",
                ModuleOp::Memory => "from memory",
            };
            if module.text.is_empty() { how.to_owned() } else { format!("{} ({how})", path(module)) }
        }
        Action::IoUringSetup { submission_entries, completion_entries, flags: _ } => {
            format!("{submission_entries} submission and {completion_entries} completion entries")
        }
        Action::PerfOpen { event_type, config } => format!("type {event_type}, configuration {config:#x}"),
        Action::CredChange(change) => cred_change(change),
    }
}

/// A path, with what the kernel could not tell about it.
pub fn path(path: &KernelPath) -> String {
    let mut text = String::new();
    if path.truncated {
        text.push('…');
    }
    text.push_str(&word(&path.text));
    for (set, words) in
        [(path.unresolved, " (unresolved)"), (path.deleted, " (deleted)"), (path.as_given, " (as given)")]
    {
        if set {
            text.push_str(words);
        }
    }
    text
}

/// Where a socket points.
pub fn endpoint(endpoint: &NetEndpoint) -> String {
    let transport = match endpoint.transport {
        Transport::Tcp => "tcp".to_owned(),
        Transport::Udp => "udp".to_owned(),
        Transport::Other(protocol) => format!("protocol {protocol}"),
    };
    match endpoint.address {
        Some(address) => format!("{transport} {}", std::net::SocketAddr::new(address, endpoint.port)),
        None if endpoint.family == 0 => format!("{transport} nowhere (disconnect)"),
        None => format!("{transport} address family {}", endpoint.family),
    }
}

/// A command line as it could be typed.
pub fn command(argv: &[Text]) -> String {
    let words: Vec<_> = argv.iter().map(word).collect();
    words.join(" ")
}

/// How a process ended.
pub fn exit_status(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("exit {code}"),
        ExitStatus::Signal(signal) => signal_name(signal.into()),
    }
}

/// An error number by its name.
pub fn errno(errno: i32) -> String {
    let known = Errno::from_raw(errno);
    if known == Errno::UnknownErrno { format!("errno {errno}") } else { format!("{known:?}") }
}

/// One word of a command line, quoted only if it must be.
fn word(text: &Text) -> String {
    let escaped = escape(&text.0);
    if escaped.as_bytes() != text.0.as_slice() {
        return format!("$'{}'", escaped.replace('\'', "\\'"));
    }
    let plain = |c: char| c.is_alphanumeric() || "_@%+=:,./-~".contains(c);
    if !escaped.is_empty() && escaped.chars().all(plain) {
        escaped
    } else {
        format!("'{}'", escaped.replace('\'', "'\\''"))
    }
}

fn exec(exec: &Exec) -> String {
    let mut text = path(&exec.exe.path);
    if let Some(arguments) = exec.argv.get(1..).filter(|arguments| !arguments.is_empty()) {
        text.push(' ');
        text.push_str(&command(arguments));
    }
    if exec.argv_truncated {
        text.push_str(" …");
    }
    // A name that is not the program's own is worth a look: busybox, or a disguise.
    let last = |bytes: &[u8]| bytes.rsplit(|byte| *byte == b'/').next().map(<[u8]>::to_vec);
    if let Some(name) = exec.argv.first().filter(|name| last(&name.0) != last(&exec.exe.path.text.0)) {
        write!(text, " (as {})", word(name)).ok();
    }
    text
}

fn session_start(start: &SessionStart) -> String {
    let adopted = adopted(&start.origin).map(|how| format!(", {how}")).unwrap_or_default();
    format!(
        "{}: {} in {} (level {}{adopted})",
        start.session,
        command(&start.command),
        word(&start.project),
        start.protection.level.as_str()
    )
}

/// How a session came to be watched that we did not start.
pub(super) fn adopted(origin: &Origin) -> Option<String> {
    match origin {
        Origin::Launched => None,
        Origin::Adopted { connector, agent_session, uid } => {
            let own = agent_session.as_ref().map(|own| format!(" {}", escape(own.as_bytes())));
            Some(format!("adopted from {connector}{} of uid {uid}", own.unwrap_or_default()))
        }
    }
}

fn unwatched(change: &Handover) -> Duration {
    match change.step {
        HandoverStep::Adopted { since, .. } => Duration::from_nanos(change.boot.0.saturating_sub(since.0)),
        HandoverStep::Left | HandoverStep::Released => Duration::ZERO,
    }
}

/// What became of the watcher, after this time without one.
pub fn handover(step: &HandoverStep, unwatched: Duration) -> String {
    match step {
        HandoverStep::Left => "the watcher went, and left its programs in force".to_owned(),
        HandoverStep::Adopted { died, missing, .. } => {
            let how = if *died { "was killed" } else { "went" };
            let seconds = unwatched.as_secs_f64();
            let mut text = format!("the watcher {how}, another one goes on after {seconds:.3} s without");
            if !missing.is_empty() {
                let missing: Vec<_> = missing.iter().map(|hook| escape(hook.as_bytes())).collect();
                write!(text, "; taken off meanwhile: {}", missing.join(", ")).ok();
            }
            text
        }
        HandoverStep::Released => "released: nothing is watched or enforced any more".to_owned(),
    }
}

fn session_end(end: &SessionEnd) -> String {
    let main = match end.main {
        MainExit::Ended(status) => exit_status(status),
        MainExit::StillRunning => "main process still running".to_owned(),
        MainExit::NotStarted(number) => format!("not started: {}", errno(number)),
        MainExit::Unknown => "main process ended unseen".to_owned(),
    };
    match end.left_running {
        0 => format!("{main}, {} events", end.events),
        1 => format!("{main}, {} events, 1 process left running", end.events),
        left => format!("{main}, {} events, {left} processes left running", end.events),
    }
}

fn loss(loss: &Loss) -> String {
    let kind = escape(loss.kind.as_bytes());
    let what = match (loss.count, kind.as_str()) {
        (0, "all") => "an unknown number of events".to_owned(),
        (0, kind) => format!("an unknown number of {kind}"),
        (1, kind) => format!("1 {kind}"),
        (count, "all") => format!("{count} events"),
        (count, kind) => format!("{count} {kind}"),
    };
    let why = match loss.reason {
        LossReason::RingFull => "missing: the ring was full",
        LossReason::Folded => "counted only: the same as the one before",
        LossReason::Oversized => "missing: too large for a record",
        LossReason::Unreadable => "missing: memory could not be read",
        LossReason::MapFull if loss.kind == "process_fork" => {
            "missing: the child is not watched, a map was full"
        }
        LossReason::MapFull => "missing: a map was full",
        LossReason::DecodeError => "missing: the record could not be understood",
        LossReason::QueueFull => "missing: a queue was full",
        LossReason::StoreError => "missing: could not be stored",
        LossReason::Unclean => "missing: the recording was cut off",
    };
    format!("{what} {why}")
}

fn process(key: &ProcessKey) -> String {
    if key.tgid == 0 { "an unknown process".to_owned() } else { format!("process {}", key.tgid) }
}

/// What a call came to, or what was done without one.
fn correlated(row: &Correlated) -> String {
    let what = match (&row.tool_call, &row.tool, row.program.is_empty()) {
        (Some(call), tool, _) => {
            let tool = tool.as_deref().map(|tool| escape(tool.as_bytes())).unwrap_or_default();
            format!("{call} {tool}")
        }
        (None, _, false) => escape(&row.program.0),
        (None, _, true) => "-".to_owned(),
    };
    let Seen { processes, files, connects, events: _ } = row.seen;
    let reason = escape(row.reason.as_bytes());
    format!(
        "{}: {what} ({reason}; {processes} processes, {files} files, {connects} connections)",
        row.correlation
    )
}

/// A finding, in one line.
pub fn finding(row: &Finding) -> String {
    let call = row.tool_call.map(|call| format!(" ({call})")).unwrap_or_default();
    format!("{} {}: {}{call}", row.severity, escape(row.rule.as_bytes()), escape(row.summary.as_bytes()))
}

fn access_names(access: Access) -> String {
    if access.is_empty() {
        return "no access".to_owned();
    }
    let words: Vec<_> =
        access
            .iter_names()
            .map(|(name, bit)| {
                if bit == Access::MAP_EXECUTE { "map as code".to_owned() } else { name.to_ascii_lowercase() }
            })
            .collect();
    words.join(", ")
}

fn namespace_names(namespaces: Namespaces) -> String {
    let names: Vec<_> = namespaces.iter_names().map(|(name, _)| name.to_ascii_lowercase()).collect();
    match names.as_slice() {
        [] => "unknown namespaces".to_owned(),
        [one] => format!("{one} namespace"),
        many => format!("{} namespaces", many.join(", ")),
    }
}

fn signal_name(signal: i32) -> String {
    Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |signal| signal.as_str().to_owned())
}

fn bpf_command(command: u32) -> Option<&'static str> {
    Some(match command {
        0 => "create a map",
        5 => "load a program",
        6 => "pin an object",
        7 => "get a pinned object",
        8 => "attach a program",
        17 => "open a raw tracepoint",
        18 => "load type information",
        28 => "create a link",
        _ => return None,
    })
}

fn cred_change(change: &CredChange) -> String {
    let whose = if change.group { "group" } else { "user" };
    let parts: Vec<_> = ["real", "effective", "saved"]
        .iter()
        .zip(change.old.iter().zip(&change.new))
        .filter(|(_, (old, new))| old != new)
        .map(|(name, (old, new))| format!("{name} {whose} id {old} to {new}"))
        .collect();
    if parts.is_empty() { format!("{whose} ids unchanged") } else { parts.join(", ") }
}
