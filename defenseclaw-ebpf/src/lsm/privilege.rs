//! What needs or changes privileges: other processes, mounts, namespaces, bpf, modules, credentials.

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel,
    macros::{fentry, lsm},
    programs::{FEntryContext, LsmContext},
};
use defenseclaw_ebpf::{Kind, cred, image::privilege, module, mount, namespace, ptrace};

use crate::{
    emit::{Record, Ring},
    scope::{self, Actor},
    shim::*,
    verdict::{self, Judged},
};

const PTRACE_MODE_ATTACH: u64 = 2;
const CLONE_NEWUSER: u64 = 0x1000_0000;
/// `READING_MODULE` and `LOADING_MODULE`.
const MODULE: u64 = 2;
const PERF_SECURITY_OPEN: u64 = 0;
/// What the kernel calls the files of io_uring.
const IO_URING: &[u8] = b"[io_uring]";
const IO_URING_WORD: u128 = u128::from_ne_bytes(*b"[io_uring]\0\0\0\0\0\0");

/// What policy says about a privileged operation of the current task.
#[inline(always)]
fn judge(actor: &Actor, operation: usize) -> Judged {
    match verdict::policy(actor) {
        Some(policy) => policy.privilege(operation),
        None => Judged::NOTHING,
    }
}

#[inline(always)]
fn other_process(actor: &Actor, operation: u64, task: Ptr, mode: u64, judged: &Judged) -> i32 {
    let Some(mut record) = Record::begin(Kind::Ptrace, actor) else { return judged.carry_out() };
    record
        .arg::<0>(operation)
        .arg::<1>(u64::from(shim_task_struct_tgid(task)))
        .arg::<2>(scope::start_ns(task))
        .arg::<3>(mode);
    record.submit_judged(judged)
}

#[lsm(hook = "ptrace_access_check")]
pub fn ptrace_access_check(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let mode = ctx.arg::<u64>(1) & 0xffff_ffff;
    let task: Ptr = ctx.arg(0);
    let outside = !scope::contains(shim_task_struct_tgid(task));
    let attach = mode & PTRACE_MODE_ATTACH != 0;
    let judged = if outside {
        judge(&actor, if attach { privilege::PTRACE } else { privilege::INSPECT })
    } else {
        Judged::NOTHING
    };
    // Without attach rights it is a read of /proc, which is recorded as the open of that file; here only what policy says.
    if attach || judged.is_notable() {
        return other_process(&actor, ptrace::ACCESS, task, mode, &judged);
    }
    judged.carry_out()
}

#[lsm(hook = "ptrace_traceme")]
pub fn ptrace_traceme(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let task: Ptr = ctx.arg(0);
    let outside = !scope::contains(shim_task_struct_tgid(task));
    let judged = if outside { judge(&actor, privilege::PTRACE) } else { Judged::NOTHING };
    other_process(&actor, ptrace::TRACEME, task, 0, &judged)
}

/// Signals inside the tree are its own business; signal 0 only asks whether a process exists.
#[lsm(hook = "task_kill")]
pub fn task_kill(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let target: Ptr = ctx.arg(0);
    let signal = ctx.arg::<u64>(2) & 0xffff_ffff;
    let tgid = shim_task_struct_tgid(target);
    if signal == 0 || scope::contains(tgid) {
        return 0;
    }
    let judged = judge(&actor, privilege::SIGNAL);
    let Some(mut record) = Record::begin(Kind::Signal, &actor) else { return judged.carry_out() };
    record.arg::<0>(signal).arg::<1>(u64::from(tgid)).arg::<2>(scope::start_ns(target));
    record.submit_judged(&judged)
}

#[inline(always)]
fn text_or_none(record: &mut Record, text: *const u8) {
    if text.is_null() {
        record.none();
    } else {
        record.kernel_str(text);
    }
}

#[lsm(hook = "sb_mount")]
pub fn sb_mount(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let judged = judge(&actor, privilege::MOUNT);
    let Some(mut record) = Record::begin(Kind::Mount, &actor) else { return judged.carry_out() };
    let path: Ptr = ctx.arg(1);
    record.arg::<0>(mount::MOUNT).arg::<1>(ctx.arg(3)).path(shim_path_dentry(path), shim_path_mnt(path));
    text_or_none(&mut record, ctx.arg(0));
    text_or_none(&mut record, ctx.arg(2));
    record.submit_judged(&judged)
}

#[lsm(hook = "sb_umount")]
pub fn sb_umount(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let judged = judge(&actor, privilege::MOUNT);
    let Some(mut record) = Record::begin(Kind::Mount, &actor) else { return judged.carry_out() };
    let mnt: Ptr = ctx.arg(0);
    record
        .arg::<0>(mount::UMOUNT)
        .arg::<1>(ctx.arg::<u64>(1) & 0xffff_ffff)
        .path(shim_vfsmount_root(mnt), mnt);
    record.submit_judged(&judged)
}

/// `target` and `source` are paths.
#[inline(always)]
fn mount_paths(operation: u64, permission: usize, target: Ptr, source: Ptr) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let judged = judge(&actor, permission);
    let Some(mut record) = Record::begin(Kind::Mount, &actor) else { return judged.carry_out() };
    record.arg::<0>(operation).path(shim_path_dentry(target), shim_path_mnt(target));
    if !source.is_null() {
        record.path(shim_path_dentry(source), shim_path_mnt(source));
    }
    record.submit_judged(&judged)
}

#[lsm(hook = "move_mount")]
pub fn move_mount(ctx: LsmContext) -> i32 {
    mount_paths(mount::MOVE, privilege::MOUNT, ctx.arg(1), ctx.arg(0))
}

#[lsm(hook = "sb_pivotroot")]
pub fn sb_pivotroot(ctx: LsmContext) -> i32 {
    mount_paths(mount::PIVOT_ROOT, privilege::MOUNT, ctx.arg(1), ctx.arg(0))
}

#[lsm(hook = "path_chroot")]
pub fn path_chroot(ctx: LsmContext) -> i32 {
    mount_paths(mount::CHROOT, privilege::CHROOT, ctx.arg(0), core::ptr::null_mut())
}

#[lsm(hook = "userns_create")]
pub fn userns_create(_ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let judged = judge(&actor, privilege::USER_NAMESPACE);
    let Some(mut record) = Record::begin(Kind::Namespace, &actor) else { return judged.carry_out() };
    record.arg::<0>(namespace::USER_CREATE).arg::<1>(CLONE_NEWUSER);
    record.submit_judged(&judged)
}

/// `CLONE_NEW*` bits of the namespaces in which two sets differ.
#[inline(always)]
pub fn namespaces_that_differ(one: Ptr, other: Ptr) -> u64 {
    let mut bits = 0;
    if shim_nsproxy_uts(one) != shim_nsproxy_uts(other) {
        bits |= 0x0400_0000;
    }
    if shim_nsproxy_ipc(one) != shim_nsproxy_ipc(other) {
        bits |= 0x0800_0000;
    }
    if shim_nsproxy_mnt(one) != shim_nsproxy_mnt(other) {
        bits |= 0x0002_0000;
    }
    if shim_nsproxy_pid(one) != shim_nsproxy_pid(other) {
        bits |= 0x2000_0000;
    }
    if shim_nsproxy_net(one) != shim_nsproxy_net(other) {
        bits |= 0x4000_0000;
    }
    // unshare changes the one for children only, as it does for pid namespaces.
    if shim_nsproxy_time(one) != shim_nsproxy_time(other)
        || shim_nsproxy_time_for_children(one) != shim_nsproxy_time_for_children(other)
    {
        bits |= 0x80;
    }
    if shim_nsproxy_cgroup(one) != shim_nsproxy_cgroup(other) {
        bits |= 0x0200_0000;
    }
    bits
}

/// No LSM hook sees unshare and setns of namespaces other than user; both end here. So does exit, with null.
#[fentry(function = "switch_task_namespaces")]
pub fn switch_task_namespaces(ctx: FEntryContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let next: u64 = ctx.arg(1);
    if next == 0 {
        return 0;
    }
    let changed = namespaces_that_differ(shim_task_struct_nsproxy(ctx.arg(0)), next as Ptr);
    if changed == 0 {
        return 0;
    }
    let Some(mut record) = Record::begin(Kind::Namespace, &actor) else { return 0 };
    record.arg::<0>(namespace::SWITCH).arg::<1>(changed);
    record.submit(Ring::Bulk);
    0
}

#[lsm(hook = "bpf")]
pub fn bpf(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let judged = judge(&actor, privilege::BPF);
    let Some(mut record) = Record::begin(Kind::Bpf, &actor) else { return judged.carry_out() };
    record.arg::<0>(ctx.arg::<u64>(0) & 0xffff_ffff).arg::<1>(ctx.arg::<u64>(2) & 0xffff_ffff);
    record.submit_judged(&judged)
}

#[lsm(hook = "kernel_read_file")]
pub fn kernel_read_file(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    if ctx.arg::<u64>(1) & 0xffff_ffff != MODULE {
        return 0;
    }
    let judged = judge(&actor, privilege::MODULE);
    let Some(mut record) = Record::begin(Kind::ModuleLoad, &actor) else { return judged.carry_out() };
    let path = shim_file_path(ctx.arg(0));
    record.arg::<0>(module::FILE).path(shim_path_dentry(path), shim_path_mnt(path));
    record.submit_judged(&judged)
}

#[lsm(hook = "kernel_load_data")]
pub fn kernel_load_data(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    if ctx.arg::<u64>(0) & 0xffff_ffff != MODULE {
        return 0;
    }
    let judged = judge(&actor, privilege::MODULE);
    let Some(mut record) = Record::begin(Kind::ModuleLoad, &actor) else { return judged.carry_out() };
    record.arg::<0>(module::MEMORY);
    record.submit_judged(&judged)
}

#[lsm(hook = "kernel_module_request")]
pub fn kernel_module_request(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let Some(mut record) = Record::begin(Kind::ModuleLoad, &actor) else { return 0 };
    record.arg::<0>(module::REQUEST).kernel_str(ctx.arg(0));
    record.submit(Ring::Bulk);
    0
}

/// The only sight of an io_uring before there is one: its file gets an inode of its own. Attached only where policy judges.
/// What is permitted is recorded by `io_uring_create`.
#[lsm(hook = "inode_init_security_anon")]
pub fn inode_init_security_anon(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let class: Ptr = ctx.arg(1);
    if shim_qstr_len_direct(class) as usize != IO_URING.len() {
        return 0;
    }
    let mut name = 0_u128;
    // SAFETY: the buffer is longer than the name; the helper checks the source.
    let failed = unsafe {
        bpf_probe_read_kernel(
            (&raw mut name).cast(),
            IO_URING.len() as u32,
            shim_qstr_name_direct(class).cast_const(),
        )
    };
    if failed != 0 || name != IO_URING_WORD {
        return 0;
    }
    let judged = judge(&actor, privilege::IO_URING);
    if !judged.blocks() && !judged.asks() {
        return 0;
    }
    let Some(record) = Record::begin(Kind::IoUringSetup, &actor) else { return judged.carry_out() };
    record.submit_judged(&judged)
}

/// Attached only where policy judges.
#[lsm(hook = "perf_event_open")]
pub fn perf_event_open(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    // It is asked again for some types of events.
    if ctx.arg::<u64>(1) & 0xffff_ffff != PERF_SECURITY_OPEN {
        return 0;
    }
    let judged = judge(&actor, privilege::PERF);
    if !judged.is_notable() {
        return 0;
    }
    let Some(mut record) = Record::begin(Kind::PerfOpen, &actor) else { return judged.carry_out() };
    let attributes: Ptr = ctx.arg(0);
    record
        .arg::<0>(u64::from(shim_perf_event_attr_type(attributes)))
        .arg::<1>(shim_perf_event_attr_config(attributes));
    record.submit_judged(&judged)
}

#[inline(always)]
fn pair(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

#[lsm(hook = "task_fix_setuid")]
pub fn task_fix_setuid(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let judged = judge(&actor, privilege::SET_ID);
    let Some(mut record) = Record::begin(Kind::CredChange, &actor) else { return judged.carry_out() };
    let (new, old): (Ptr, Ptr) = (ctx.arg(0), ctx.arg(1));
    record
        .arg::<0>(cred::UID)
        .arg::<1>(pair(shim_cred_uid(old), shim_cred_euid(old)))
        .arg::<2>(pair(shim_cred_uid(new), shim_cred_euid(new)))
        .arg::<3>(pair(shim_cred_suid(old), shim_cred_suid(new)));
    record.submit_judged(&judged)
}

#[lsm(hook = "task_fix_setgid")]
pub fn task_fix_setgid(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let judged = judge(&actor, privilege::SET_ID);
    let Some(mut record) = Record::begin(Kind::CredChange, &actor) else { return judged.carry_out() };
    let (new, old): (Ptr, Ptr) = (ctx.arg(0), ctx.arg(1));
    record
        .arg::<0>(cred::GID)
        .arg::<1>(pair(shim_cred_gid(old), shim_cred_egid(old)))
        .arg::<2>(pair(shim_cred_gid(new), shim_cred_egid(new)))
        .arg::<3>(pair(shim_cred_sgid(old), shim_cred_sgid(new)));
    record.submit_judged(&judged)
}

/// Supplementary groups, which decide about files as well.
#[lsm(hook = "task_fix_setgroups")]
pub fn task_fix_setgroups(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let judged = judge(&actor, privilege::SET_ID);
    if !judged.is_notable() {
        return 0;
    }
    let Some(mut record) = Record::begin(Kind::CredChange, &actor) else { return judged.carry_out() };
    let (new, old): (Ptr, Ptr) = (ctx.arg(0), ctx.arg(1));
    record
        .arg::<0>(cred::GID)
        .arg::<1>(pair(shim_cred_gid(old), shim_cred_egid(old)))
        .arg::<2>(pair(shim_cred_gid(new), shim_cred_egid(new)))
        .arg::<3>(pair(shim_cred_sgid(old), shim_cred_sgid(new)));
    record.submit_judged(&judged)
}
