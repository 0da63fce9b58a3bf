//! Privileged operations as lines. Operations that read the same are one line with a count.

use std::collections::HashMap;

use super::{
    RenderOptions,
    command::{self, Commands},
    escape,
    line::{Line, Role, cut, shorten, width},
    words,
};
use crate::{
    model::{Action, CredChange, Exec, ModuleOp, MountOp, NamespaceOp, Namespaces, ProcessKey, PtraceOp},
    report::{Outcomes, Privileged, PrivilegedOperation},
};

/// Lines shown.
const LINES_MAX: usize = 30;
const TIME_WIDTH: usize = 9;

/// Lines of the section, without its heading.
pub(super) fn lines(privileged: &Privileged, commands: &Commands, options: &RenderOptions) -> Vec<Line> {
    let mut merged: Vec<(String, &PrivilegedOperation, u64, Outcomes)> = Vec::new();
    let mut known: HashMap<(String, &str), usize> = HashMap::new();
    for operation in &privileged.operations {
        let (text, name) = (describe(operation, commands), commands.name(operation.process));
        let position = *known.entry((text.clone(), name)).or_insert(merged.len());
        if let Some((_, _, count, outcomes)) = merged.get_mut(position).filter(|_| !options.full) {
            *count += operation.count;
            outcomes.succeeded += operation.outcomes.succeeded;
            outcomes.not_known += operation.outcomes.not_known;
            for (errno, times) in &operation.outcomes.failed {
                *outcomes.failed.entry(*errno).or_insert(0) += times;
            }
        } else {
            merged.push((text, operation, operation.count, operation.outcomes.clone()));
        }
    }
    let limit = if options.full { usize::MAX } else { LINES_MAX };
    let mut lines: Vec<Line> = merged
        .iter()
        .take(limit)
        .map(|(text, operation, count, outcomes)| line(text, operation, *count, outcomes, commands, options))
        .collect();
    if let Some(rest) = merged.get(limit..).filter(|rest| !rest.is_empty()) {
        let n = u64::try_from(rest.len()).unwrap_or(u64::MAX);
        lines.push(Line::new().dim(format!("  … {} more", words::number(n))));
    }
    if privileged.unlisted > 0 {
        let words = format!("  {} beyond what a report lists", words::count(privileged.unlisted, "event"));
        lines.push(Line::new().with(Role::Warning, words));
    }
    lines
}

fn line(
    text: &str,
    operation: &PrivilegedOperation,
    count: u64,
    outcomes: &Outcomes,
    commands: &Commands,
    options: &RenderOptions,
) -> Line {
    let who = format!("{} {}", cut(commands.name(operation.process), 12), operation.process.tgid);
    let right = Line::new().dim(format!("{}  {who}", words::times(count)));
    let time = words::offset(operation.first_ns);
    let left = Line::new().dim(format!("{time:>TIME_WIDTH$}  "));
    let remark = words::failures(outcomes).map(|words| format!("  [{words}]")).unwrap_or_default();
    let room = options.width.saturating_sub(left.width() + right.width() + 1);
    let remark = cut(&remark, room / 2);
    let text = shorten(text, room.saturating_sub(width(&remark)));
    left.with(Role::Warning, text)
        .with(Role::Bad, remark)
        .flush_right(right, options.width)
        .fit(options.width)
}

fn describe(operation: &PrivilegedOperation, commands: &Commands) -> String {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "other kinds are in other sections; a name is honest enough"
    )]
    match &operation.action {
        Action::ProcessExec(exec) => elevated(operation.uid, exec),
        Action::ProcessFork { child, namespaces } => {
            format!("process {} in new namespaces: {}", child.tgid, names(*namespaces))
        }
        Action::Ptrace { operation, target, .. } => {
            let target = process(*target, commands);
            match operation {
                PtraceOp::Access => format!("control of process {target}"),
                PtraceOp::Traceme => format!("traced by process {target}"),
                PtraceOp::VmRead => format!("reads memory of process {target}"),
                PtraceOp::VmWrite => format!("writes memory of process {target}"),
            }
        }
        Action::Signal { signal, target: Some(target) } => {
            format!(
                "{} to process {} outside of the tree",
                words::signal(*signal),
                process(*target, commands)
            )
        }
        Action::Signal { signal, target: None } => format!("{} to several processes", words::signal(*signal)),
        Action::Mount { operation, target, source, filesystem, .. } => {
            let target = command::path(target, &[]);
            let source = escape(&source.0);
            match operation {
                MountOp::Mount => format!("mount {} {source} at {target}", escape(&filesystem.0)),
                MountOp::Umount => format!("unmount {target}"),
                MountOp::Move => format!("move mount {source} to {target}"),
                MountOp::PivotRoot => format!("pivot_root to {target}"),
                MountOp::Chroot => format!("chroot to {target}"),
            }
        }
        Action::Namespace { operation, namespaces } => match operation {
            NamespaceOp::Switch => format!("other namespaces: {}", names(*namespaces)),
            NamespaceOp::UserCreate => "new user namespace".to_owned(),
            NamespaceOp::Unshare => format!("new namespaces: {}", names(*namespaces)),
            NamespaceOp::Setns => format!("joins namespaces: {}", names(*namespaces)),
            NamespaceOp::Clone => format!("process in new namespaces: {}", names(*namespaces)),
        },
        Action::Bpf { command } => match bpf_command(*command) {
            Some(name) => format!("bpf {name}"),
            None => format!("bpf command {command}"),
        },
        Action::ModuleLoad { operation, module } => {
            let module = command::path(module, &[]);
            match operation {
                ModuleOp::Request => format!("kernel asked for module {module}"),
                ModuleOp::File => format!("load kernel module {module}"),
                ModuleOp::Memory => format!("load kernel module {module} from memory"),
            }
        }
        Action::IoUringSetup { submission_entries, .. } => format!("io_uring, {submission_entries} entries"),
        Action::PerfOpen { event_type, .. } => format!("performance events of type {event_type}"),
        Action::CredChange(CredChange { group, old, new }) => {
            let ids = |ids: &[u32; 3]| ids.map(|id| id.to_string()).join("/");
            let what = if *group { "group" } else { "user" };
            format!("{what} ids {} → {}", ids(old), ids(new))
        }
        other => other.kind().as_str().to_owned(),
    }
}

fn elevated(uid: u32, exec: &Exec) -> String {
    let name = exec.exe.path.text.0.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let name = shorten(&escape(name), 60);
    if exec.euid == uid {
        format!("{name} runs as group {} instead of {}", exec.egid, exec.gid)
    } else {
        format!("{name} runs as user {} instead of {uid}", exec.euid)
    }
}

fn process(key: ProcessKey, commands: &Commands) -> String {
    match commands.name(key) {
        "" => key.tgid.to_string(),
        name => format!("{} ({name})", key.tgid),
    }
}

fn names(namespaces: Namespaces) -> String {
    if namespaces.is_empty() {
        return "not known".to_owned();
    }
    namespaces.iter_names().map(|(name, _)| name.to_ascii_lowercase()).collect::<Vec<_>>().join(", ")
}

/// Names of `enum bpf_cmd` that tell what somebody is up to.
fn bpf_command(command: u32) -> Option<&'static str> {
    Some(match command {
        0 => "map create",
        1 => "map lookup",
        2 => "map update",
        5 => "program load",
        6 => "object pin",
        7 => "object get",
        8 => "program attach",
        17 => "raw tracepoint open",
        18 => "BTF load",
        28 => "link create",
        36 => "token create",
        _ => return None,
    })
}
