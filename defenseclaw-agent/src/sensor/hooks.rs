//! Every program of the object: where it goes at which level, and what is missing without it.

/// Capability name of the name server reader.
pub(super) const DNS: &str = "cgroup_skb/dns_answer";

/// Programs on the cgroup of a session; see `cgroup.rs`.
pub(super) const CGROUP: &[&str] = &[
    "cgroup_connect4",
    "cgroup_connect6",
    "cgroup_sendmsg4",
    "cgroup_sendmsg6",
    "cgroup_bind4",
    "cgroup_bind6",
    "cgroup_recvmsg4",
    "cgroup_recvmsg6",
    "cgroup_getpeername4",
    "cgroup_getpeername6",
    "cgroup_sock_create",
    "dns_question",
];

/// Capability name of one of them.
pub(super) fn cgroup_name(program: &str) -> String {
    match program.strip_prefix("cgroup_") {
        Some(hook) => format!("cgroup/{hook}"),
        None => format!("cgroup_skb/{program}"),
    }
}

/// Capability name of any program that is attached.
pub(super) fn capability(program: &str) -> String {
    let hooks = COMMON.iter().chain(LSM).chain(JUDGING).chain(HOLDING).chain([&SYSCALL_EXIT]);
    match hooks.into_iter().find(|hook| hook.program == program) {
        Some(hook) => hook.capability(),
        // One that is on the cgroup of a session.
        None => cgroup_name(program),
    }
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// BTF tracepoint.
    Tracepoint(&'static str),
    /// LSM hook.
    Lsm(&'static str),
    /// Entry of a kernel function.
    Fentry(&'static str),
}

/// One program.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hook {
    /// Name in the object.
    pub(super) program: &'static str,
    /// Where it goes.
    pub(super) place: Place,
    /// Whether the level cannot do without it.
    pub(super) required: bool,
}

const fn tracepoint(program: &'static str, name: &'static str, required: bool) -> Hook {
    Hook { program, place: Place::Tracepoint(name), required }
}

const fn lsm(hook: &'static str) -> Hook {
    Hook { program: hook, place: Place::Lsm(hook), required: false }
}

/// Attached at every level.
pub(super) const COMMON: &[Hook] = &[
    tracepoint("process_fork", "sched_process_fork", true),
    tracepoint("process_exec", "sched_process_exec", true),
    tracepoint("process_exit", "sched_process_exit", true),
    tracepoint("io_uring_create", "io_uring_create", false),
];

/// Attached at level `lsm`.
pub(super) const LSM: &[Hook] = &[
    Hook { program: "file_open", place: Place::Lsm("file_open"), required: true },
    lsm("mmap_file"),
    lsm("path_unlink"),
    lsm("path_mkdir"),
    lsm("path_rmdir"),
    lsm("path_mknod"),
    lsm("path_rename"),
    lsm("path_link"),
    lsm("path_symlink"),
    lsm("path_truncate"),
    lsm("file_truncate"),
    lsm("path_chmod"),
    lsm("path_chown"),
    lsm("path_chroot"),
    lsm("socket_connect"),
    lsm("socket_bind"),
    lsm("socket_sendmsg"),
    lsm("unix_stream_connect"),
    lsm("unix_may_send"),
    lsm("ptrace_access_check"),
    lsm("ptrace_traceme"),
    lsm("task_kill"),
    lsm("sb_mount"),
    lsm("sb_umount"),
    lsm("move_mount"),
    lsm("sb_pivotroot"),
    lsm("userns_create"),
    Hook {
        program: "switch_task_namespaces",
        place: Place::Fentry("switch_task_namespaces"),
        required: false,
    },
    lsm("bpf"),
    lsm("kernel_read_file"),
    lsm("kernel_load_data"),
    lsm("kernel_module_request"),
    lsm("task_fix_setuid"),
    lsm("task_fix_setgid"),
];

/// Attached besides at level `lsm` where policy judges: without a verdict they would say nothing that others do not.
pub(super) const JUDGING: &[Hook] = &[
    lsm("bprm_check_security"),
    lsm("file_receive"),
    lsm("socket_create"),
    lsm("task_fix_setgroups"),
    lsm("file_fcntl"),
    lsm("file_ioctl"),
    lsm("file_ioctl_compat"),
    lsm("task_alloc"),
    lsm("capable"),
    lsm("inode_init_security_anon"),
    lsm("perf_event_open"),
];

/// Attached besides at level `tracepoint` where policy judges, before [`COMMON`].
pub(super) const HOLDING: &[Hook] = &[tracepoint("process_start", "sched_process_exec", false)];

/// Hooks that older supported kernels do without: their work is done elsewhere there.
pub(super) const REPLACED_BEFORE: &[(&str, &str)] = &[
    ("file_truncate", "before Linux 6.2 `path_truncate` sees ftruncate and O_TRUNC too"),
    ("file_ioctl_compat", "before Linux 6.8 `file_ioctl` sees those of 32-bit programs too"),
];

/// The program of level `tracepoint` that jumps to those of [`SYSCALLS`].
pub(super) const SYSCALL_EXIT: Hook = tracepoint("sys_exit", "sys_exit", true);

/// Programs by system call, for this machine's call numbers.
#[rustfmt::skip]
pub(super) const SYSCALLS: &[(&str, &[(&str, i64)])] = &[
    ("sys_open", &[("open", libc::SYS_open)]),
    // open_by_handle_at has its flags in the same place.
    ("sys_openat", &[("openat", libc::SYS_openat), ("open_by_handle_at", libc::SYS_open_by_handle_at)]),
    ("sys_creat", &[("creat", libc::SYS_creat)]),
    ("sys_openat2", &[("openat2", libc::SYS_openat2)]),
    ("sys_mmap", &[("mmap", libc::SYS_mmap)]),
    ("sys_unlink", &[("unlink", libc::SYS_unlink)]),
    ("sys_unlinkat", &[("unlinkat", libc::SYS_unlinkat)]),
    ("sys_rmdir", &[("rmdir", libc::SYS_rmdir)]),
    ("sys_mkdir", &[("mkdir", libc::SYS_mkdir)]),
    ("sys_mkdirat", &[("mkdirat", libc::SYS_mkdirat)]),
    ("sys_mknod", &[("mknod", libc::SYS_mknod)]),
    ("sys_mknodat", &[("mknodat", libc::SYS_mknodat)]),
    ("sys_chmod", &[("chmod", libc::SYS_chmod)]),
    ("sys_fchmod", &[("fchmod", libc::SYS_fchmod)]),
    ("sys_fchmodat", &[("fchmodat", libc::SYS_fchmodat), ("fchmodat2", 452)]),
    ("sys_chown", &[("chown", libc::SYS_chown), ("lchown", libc::SYS_lchown)]),
    ("sys_fchown", &[("fchown", libc::SYS_fchown)]),
    ("sys_fchownat", &[("fchownat", libc::SYS_fchownat)]),
    ("sys_truncate", &[("truncate", libc::SYS_truncate)]),
    ("sys_ftruncate", &[("ftruncate", libc::SYS_ftruncate)]),
    ("sys_rename", &[("rename", libc::SYS_rename)]),
    ("sys_renameat", &[("renameat", libc::SYS_renameat)]),
    ("sys_renameat2", &[("renameat2", libc::SYS_renameat2)]),
    ("sys_link", &[("link", libc::SYS_link)]),
    ("sys_linkat", &[("linkat", libc::SYS_linkat)]),
    ("sys_symlink", &[("symlink", libc::SYS_symlink)]),
    ("sys_symlinkat", &[("symlinkat", libc::SYS_symlinkat)]),
    ("sys_connect", &[("connect", libc::SYS_connect)]),
    ("sys_bind", &[("bind", libc::SYS_bind)]),
    ("sys_sendto", &[("sendto", libc::SYS_sendto)]),
    ("sys_sendmsg", &[("sendmsg", libc::SYS_sendmsg)]),
    ("sys_sendmmsg", &[("sendmmsg", libc::SYS_sendmmsg)]),
    ("sys_ptrace", &[("ptrace", libc::SYS_ptrace)]),
    ("sys_process_vm_readv", &[("process_vm_readv", libc::SYS_process_vm_readv)]),
    ("sys_process_vm_writev", &[("process_vm_writev", libc::SYS_process_vm_writev)]),
    ("sys_kill", &[("kill", libc::SYS_kill), ("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo)]),
    ("sys_tkill", &[("tkill", libc::SYS_tkill)]),
    ("sys_tgkill", &[("tgkill", libc::SYS_tgkill), ("rt_tgsigqueueinfo", libc::SYS_rt_tgsigqueueinfo)]),
    ("sys_mount", &[("mount", libc::SYS_mount)]),
    ("sys_umount2", &[("umount2", libc::SYS_umount2)]),
    ("sys_move_mount", &[("move_mount", libc::SYS_move_mount)]),
    ("sys_pivot_root", &[("pivot_root", libc::SYS_pivot_root)]),
    ("sys_chroot", &[("chroot", libc::SYS_chroot)]),
    ("sys_unshare", &[("unshare", libc::SYS_unshare)]),
    ("sys_setns", &[("setns", libc::SYS_setns)]),
    ("sys_bpf", &[("bpf", libc::SYS_bpf)]),
    ("sys_init_module", &[("init_module", libc::SYS_init_module)]),
    ("sys_finit_module", &[("finit_module", libc::SYS_finit_module)]),
    ("sys_setuid", &[("setuid", libc::SYS_setuid), ("setreuid", libc::SYS_setreuid), ("setresuid", libc::SYS_setresuid), ("setfsuid", libc::SYS_setfsuid)]),
    ("sys_setgid", &[("setgid", libc::SYS_setgid), ("setregid", libc::SYS_setregid), ("setresgid", libc::SYS_setresgid), ("setfsgid", libc::SYS_setfsgid)]),
];

/// What a level cannot see by its nature.
pub(super) const BLIND_EVERYWHERE: &[(&str, &str)] = &[
    ("blind/dns_tcp", "name server answers over TCP, TLS or HTTPS are not read; only connects are"),
    (
        "blind/open_files",
        "reads and writes through a file that was open before, or was passed in, are not recorded",
    ),
    ("blind/memory_files", "memfd_create is not recorded; a program started from its file is"),
    ("blind/mprotect", "code that mprotect makes executable is not recorded; code mapped with mmap is"),
    ("blind/file_attributes", "changes of times, extended attributes and ACLs of files are not recorded"),
    ("blind/accept", "connections that are accepted are not recorded; the bind of the socket is"),
    (
        "blind/detached_mounts",
        "mounts are recorded when they are attached; fsopen, open_tree and mount_setattr are not",
    ),
    (
        "blind/capabilities",
        "capset and setgroups are not recorded; a program start shows the effective ids it got",
    ),
];

/// Likewise, at level `lsm`.
pub(super) const BLIND_LSM: &[(&str, &str)] = &[
    (
        "blind/results",
        "an operation is recorded when it is permitted to start; whether it then failed is not known",
    ),
    ("blind/references", "opens with O_PATH are not recorded"),
    ("blind/mknod_regular", "mknod of a regular file is not recorded"),
    ("blind/setns_user", "setns into a user namespace alone is not recorded; into any other it is"),
];

/// Likewise, at level `tracepoint`.
pub(super) const BLIND_TRACEPOINT: &[(&str, &str)] = &[
    ("blind/io_uring", "operations through io_uring are not recorded; only its set-up is"),
    ("blind/compat_syscalls", "system calls of 32-bit and x32 programs are counted, not recorded"),
    (
        "blind/user_memory",
        "paths of calls that open no file are the text the process passed, read when the call returned",
    ),
    ("blind/failed_file_calls", "file operations that failed are not recorded"),
    ("blind/exec_open", "the opens that execve itself does are not recorded; the program start is"),
    ("blind/module_request", "modules that the kernel loads on demand are not recorded"),
    ("blind/pidfd_signal", "signals through pidfd_send_signal are not recorded"),
    ("blind/pidfd_getfd", "descriptors taken out of another process with pidfd_getfd are not recorded"),
    (
        "blind/pid_namespaces",
        "targets of signals and ptrace from inside another pid namespace are not known, nor those of tkill",
    ),
    ("blind/sendmmsg_tail", "of one sendmmsg the first 8 messages are recorded"),
    ("blind/userns_clone", "a user namespace made by clone is not recorded; one made by unshare is"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_numbers_fit_the_jump_table_and_are_unique() {
        let mut numbers: Vec<i64> =
            SYSCALLS.iter().flat_map(|(_, calls)| calls.iter().map(|call| call.1)).collect();
        assert!(numbers.iter().all(|number| (0..512).contains(number)));
        numbers.sort_unstable();
        let all = numbers.len();
        numbers.dedup();
        assert_eq!(all, numbers.len());
    }
}
