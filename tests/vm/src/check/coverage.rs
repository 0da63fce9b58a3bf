//! Which capability a claim depends on, and what this session says about it.

use defenseclaw::model::{Action, CapabilityState, Level, MountOp, NamespaceOp, Protection, PtraceOp};

use crate::truth::Claim;

/// The first capability that `claim` needs and the session declares missing, with the reason.
pub(crate) fn missing(protection: &Protection, claim: &Claim) -> Option<(String, String)> {
    let needed = needed(protection.level, claim);
    protection
        .capabilities
        .iter()
        .find(|capability| {
            let missing = capability.state == CapabilityState::Missing && needed.contains(&capability.name);
            missing || claim.blind.as_ref() == Some(&capability.name)
        })
        .map(|capability| (capability.name.clone(), capability.reason.clone()))
}

/// Names that must be available for the claim to be seen at this level. A name that the session does not list is not
/// an excuse.
fn needed(level: Level, claim: &Claim) -> Vec<String> {
    let action = &claim.actions[0];
    let common = match action {
        Action::ProcessFork { .. } => Some("tp_btf/sched_process_fork"),
        Action::ProcessExec(_) => Some("tp_btf/sched_process_exec"),
        Action::ProcessExit { .. } => Some("tp_btf/sched_process_exit"),
        Action::DnsAnswer { .. } => Some("cgroup_skb/dns_answer"),
        Action::IoUringSetup { .. } => Some("tp_btf/io_uring_create"),
        _ => None,
    };
    if let Some(name) = common {
        return vec![name.to_owned()];
    }
    match level {
        Level::Tracepoint | Level::Fentry | Level::None => vec![format!("syscall/{}", claim.call)],
        Level::Lsm if matches!(action, Action::Namespace { operation, .. } if *operation != NamespaceOp::UserCreate) =>
        {
            vec!["fentry/switch_task_namespaces".to_owned()]
        }
        Level::Lsm => hooks(action, &claim.call).iter().map(|hook| format!("lsm/{hook}")).collect(),
    }
}

fn hooks(action: &Action, call: &str) -> &'static [&'static str] {
    match action {
        Action::FileOpen { .. } if call == "mmap" => &["mmap_file"],
        Action::FileCreate { .. } if call.starts_with("mknod") => &["path_mknod"],
        Action::FileOpen { .. } | Action::FileCreate { .. } => &["file_open"],
        Action::FileUnlink { .. } => &["path_unlink"],
        Action::FileRename { .. } => &["path_rename"],
        Action::FileLink { .. } => &["path_link"],
        Action::FileSymlink { .. } => &["path_symlink"],
        Action::FileChmod { .. } => &["path_chmod"],
        Action::FileChown { .. } => &["path_chown"],
        Action::FileTruncate { .. } => &["path_truncate", "file_truncate"],
        Action::DirMake { .. } => &["path_mkdir"],
        Action::DirRemove { .. } => &["path_rmdir"],
        Action::NetConnect { .. } => &["socket_connect"],
        Action::NetBind { .. } => &["socket_bind"],
        Action::SocketCreate { .. } => &["socket_create"],
        Action::NetSend { .. } => &["socket_sendmsg"],
        Action::UnixConnect { datagram: false, .. } => &["unix_stream_connect"],
        Action::UnixConnect { datagram: true, .. } => &["unix_may_send"],
        Action::Ptrace { operation: PtraceOp::Traceme, .. } => &["ptrace_traceme"],
        Action::Ptrace { .. } => &["ptrace_access_check"],
        Action::Signal { .. } => &["task_kill"],
        Action::Mount { operation, .. } => match operation {
            MountOp::Mount => &["sb_mount"],
            MountOp::Umount => &["sb_umount"],
            MountOp::Move => &["move_mount"],
            MountOp::PivotRoot => &["sb_pivotroot"],
            MountOp::Chroot => &["path_chroot"],
        },
        Action::Namespace { .. } => &["userns_create"],
        Action::Bpf { .. } => &["bpf"],
        Action::ModuleLoad { .. } if call == "finit_module" => &["kernel_read_file"],
        Action::ModuleLoad { .. } => &["kernel_load_data"],
        Action::PerfOpen { .. } => &["perf_event_open"],
        Action::CredChange(change) if change.group => &["task_fix_setgid"],
        Action::CredChange(_) => &["task_fix_setuid"],
        Action::ProcessFork { .. }
        | Action::ProcessExec(_)
        | Action::ProcessExit { .. }
        | Action::DnsAnswer { .. }
        | Action::IoUringSetup { .. } => &[],
    }
}
