//! Privileges, at system call exit. Attempts that failed are recorded with their result.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use defenseclaw_ebpf::{Kind, cred, module, mount, namespace, ptrace};

use super::{AT_FDCWD, base, call, current_task, file_of};
use crate::{
    emit::{Record, Ring},
    scope,
    shim::*,
};

const PTRACE_TRACEME: u64 = 0;
const PTRACE_ATTACH: u64 = 16;
const PTRACE_SEIZE: u64 = 0x4206;

macro_rules! begin {
    ($ctx:ident, $kind:expr, $call:ident, $record:ident) => {
        let Some(actor) = scope::current() else { return 0 };
        let $call = call(&$ctx);
        let Some(mut $record) = Record::begin($kind, &actor) else { return 0 };
        $record.result($call.result);
    };
}

/// Whether pids of the current task are those of the initial pid namespace.
#[inline(always)]
fn initial_pids() -> bool {
    shim_pid_level(shim_task_struct_thread_pid(current_task())) == 0
}

/// A pid the task passed. In another pid namespace it names another process here: better unknown, 0.
#[inline(always)]
fn pid(passed: u64) -> u64 {
    if initial_pids() { passed & 0xffff_ffff } else { 0 }
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_ptrace(ctx: BtfTracePointContext) -> i32 {
    let request = call(&ctx).args[0];
    if request != PTRACE_TRACEME && request != PTRACE_ATTACH && request != PTRACE_SEIZE {
        return 0;
    }
    begin!(ctx, Kind::Ptrace, call, record);
    if request == PTRACE_TRACEME {
        // The kernel's own pointer: true in every pid namespace.
        let tracer = shim_task_struct_real_parent(current_task());
        record
            .arg::<0>(ptrace::TRACEME)
            .arg::<1>(u64::from(shim_task_struct_tgid(tracer)))
            .arg::<2>(scope::start_ns(tracer));
    } else {
        record.arg::<0>(ptrace::ACCESS).arg::<1>(pid(call.args[1]));
    }
    record.arg::<3>(request);
    record.submit(Ring::Bulk);
    0
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_process_vm_readv(ctx: BtfTracePointContext) -> i32 {
    begin!(ctx, Kind::Ptrace, call, record);
    record.arg::<0>(ptrace::VM_READ).arg::<1>(pid(call.args[0]));
    record.submit(Ring::Bulk);
    0
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_process_vm_writev(ctx: BtfTracePointContext) -> i32 {
    begin!(ctx, Kind::Ptrace, call, record);
    record.arg::<0>(ptrace::VM_WRITE).arg::<1>(pid(call.args[0]));
    record.submit(Ring::Bulk);
    0
}

/// A signal to `target`, a pid as the caller sees it; 0 and below are groups.
#[inline(always)]
fn signal(ctx: BtfTracePointContext, target: i32, signal: u64) -> i32 {
    let signal = signal & 0xffff_ffff;
    let leader = target.unsigned_abs();
    let known = initial_pids();
    // Signal 0 only asks; pid 0 is the caller's own group.
    if signal == 0 || target == 0 || (known && scope::contains(leader)) {
        return 0;
    }
    begin!(ctx, Kind::Signal, call, record);
    let _ = call;
    record.arg::<0>(signal).arg::<1>(if target > 0 && known { target as u64 } else { 0 });
    record.submit(Ring::Bulk);
    0
}

/// tkill: a thread, whose process user space does not name. musl raises signals in its own thread with it.
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_tkill(ctx: BtfTracePointContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let call = call(&ctx);
    let (thread, signal) = (call.args[0] as u32, call.args[1] & 0xffff_ffff);
    let inside =
        initial_pids() && (thread == shim_task_struct_pid_direct(actor.task) || scope::contains(thread));
    if signal == 0 || inside {
        return 0;
    }
    let Some(mut record) = Record::begin(Kind::Signal, &actor) else { return 0 };
    record.result(call.result).arg::<0>(signal);
    record.submit(Ring::Bulk);
    0
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_kill(ctx: BtfTracePointContext) -> i32 {
    let args = call(&ctx).args;
    signal(ctx, args[0] as i32, args[1])
}

/// tgkill and rt_tgsigqueueinfo: the group comes first, the signal third.
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_tgkill(ctx: BtfTracePointContext) -> i32 {
    let args = call(&ctx).args;
    signal(ctx, args[0] as i32, args[2])
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_mount(ctx: BtfTracePointContext) -> i32 {
    begin!(ctx, Kind::Mount, call, record);
    let a = &call.args;
    record.arg::<0>(mount::MOUNT).arg::<1>(a[3]).user_str(a[1] as *const u8);
    text_or_none(&mut record, a[0]);
    text_or_none(&mut record, a[2]);
    base(&mut record, AT_FDCWD, a[1] as *const u8);
    record.submit(Ring::Bulk);
    0
}

#[inline(always)]
fn text_or_none(record: &mut Record, text: u64) {
    if text == 0 {
        record.none();
    } else {
        record.user_str(text as *const u8);
    }
}

/// Strings: target as given, source, no type, base of the target.
#[inline(always)]
fn mount_change(ctx: BtfTracePointContext, describe: fn(&[u64; 6]) -> (u64, u64, i32, u64, u64)) -> i32 {
    begin!(ctx, Kind::Mount, call, record);
    let (operation, flags, directory, target, source) = describe(&call.args);
    record.arg::<0>(operation).arg::<1>(flags & 0xffff_ffff).user_str(target as *const u8);
    text_or_none(&mut record, source);
    record.none();
    base(&mut record, directory, target as *const u8);
    record.submit(Ring::Bulk);
    0
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_umount2(ctx: BtfTracePointContext) -> i32 {
    mount_change(ctx, |a| (mount::UMOUNT, a[1], AT_FDCWD, a[0], 0))
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_move_mount(ctx: BtfTracePointContext) -> i32 {
    mount_change(ctx, |a| (mount::MOVE, a[4], a[2] as i32, a[3], a[1]))
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_pivot_root(ctx: BtfTracePointContext) -> i32 {
    mount_change(ctx, |a| (mount::PIVOT_ROOT, 0, AT_FDCWD, a[0], a[1]))
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_chroot(ctx: BtfTracePointContext) -> i32 {
    mount_change(ctx, |a| (mount::CHROOT, 0, AT_FDCWD, a[0], 0))
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_unshare(ctx: BtfTracePointContext) -> i32 {
    begin!(ctx, Kind::Namespace, call, record);
    record.arg::<0>(namespace::UNSHARE).arg::<1>(call.args[0] & 0x7e02_0080);
    record.submit(Ring::Bulk);
    0
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_setns(ctx: BtfTracePointContext) -> i32 {
    begin!(ctx, Kind::Namespace, call, record);
    record.arg::<0>(namespace::SETNS).arg::<1>(call.args[1] & 0x7e02_0080);
    record.submit(Ring::Bulk);
    0
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_bpf(ctx: BtfTracePointContext) -> i32 {
    begin!(ctx, Kind::Bpf, call, record);
    record.arg::<0>(call.args[0] & 0xffff_ffff).arg::<1>(call.args[2] & 0xffff_ffff);
    record.submit(Ring::Bulk);
    0
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_init_module(ctx: BtfTracePointContext) -> i32 {
    begin!(ctx, Kind::ModuleLoad, call, record);
    let _ = call;
    record.arg::<0>(module::MEMORY);
    record.submit(Ring::Bulk);
    0
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_finit_module(ctx: BtfTracePointContext) -> i32 {
    begin!(ctx, Kind::ModuleLoad, call, record);
    let path = shim_file_path(file_of(call.args[0] as i32));
    record.arg::<0>(module::FILE).path(shim_path_dentry(path), shim_path_mnt(path));
    record.submit(Ring::Bulk);
    0
}

/// The ids before the call are gone: they are reported as unknown (`u32::MAX`).
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_setuid(ctx: BtfTracePointContext) -> i32 {
    begin!(ctx, Kind::CredChange, call, record);
    let _ = call;
    let now = shim_task_struct_cred(current_task());
    record
        .arg::<0>(cred::UID)
        .arg::<1>(u64::MAX)
        .arg::<2>(u64::from(shim_cred_uid(now)) << 32 | u64::from(shim_cred_euid(now)))
        .arg::<3>(0xffff_ffff << 32 | u64::from(shim_cred_suid(now)));
    record.submit(Ring::Bulk);
    0
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_setgid(ctx: BtfTracePointContext) -> i32 {
    begin!(ctx, Kind::CredChange, call, record);
    let _ = call;
    let now = shim_task_struct_cred(current_task());
    record
        .arg::<0>(cred::GID)
        .arg::<1>(u64::MAX)
        .arg::<2>(u64::from(shim_cred_gid(now)) << 32 | u64::from(shim_cred_egid(now)))
        .arg::<3>(0xffff_ffff << 32 | u64::from(shim_cred_sgid(now)));
    record.submit(Ring::Bulk);
    0
}
