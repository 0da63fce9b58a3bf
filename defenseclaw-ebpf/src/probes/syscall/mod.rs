//! Level `tracepoint`: what a system call did, seen when it returns. Observes only.
//!
//! One program runs at every system call exit, asks whether the task is enrolled, and jumps to the program of that
//! call. The loader fills the jump table with this machine's call numbers. Where a call leaves an open file behind, the
//! kernel's file is recorded; other paths are the text the process passed, read again at exit, and are flagged so.
//! Calls of 32-bit programs, x32 ones too, have other numbers: they are counted, not read.

mod file;
mod net;
mod privilege;

use aya_ebpf::{
    helpers::generated::{bpf_get_current_task, bpf_get_current_task_btf},
    macros::btf_tracepoint,
    macros::map,
    maps::{Array, ProgramArray},
    programs::BtfTracePointContext,
};
use defenseclaw_ebpf::{Count, Kind};

use crate::{
    emit::{Record, count},
    scope,
    shim::*,
};

/// Programs by system call number.
#[map]
pub static SYSCALLS: ProgramArray = ProgramArray::with_max_entries(512, 0);
/// The calls that have one, a bit each. All others end here, enrolled or not: there are more of them than of all hooked
/// ones together.
#[map]
pub static HOOKED: Array<[u64; 8]> = Array::with_max_entries(1, 0);

/// `TS_COMPAT`: the call came through the 32-bit entry.
const TS_COMPAT: u32 = 2;
/// `__X32_SYSCALL_BIT`: the call came from an x32 program.
const X32: u64 = 0x4000_0000;
const AT_FDCWD: i32 = -100;

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    let number = shim_pt_regs_nr_direct(ctx.arg(0));
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task_btf() } as Ptr;
    let compat = shim_task_struct_thread_status_exists(task)
        && shim_task_struct_thread_status_direct(task) & TS_COMPAT != 0;
    // After rt_sigreturn the number is -1, which has that bit as well.
    if compat || (number & X32 != 0 && number >> 32 == 0) {
        if scope::current().is_some() {
            lost(Kind::CompatSyscall);
        }
        return 0;
    }
    if number >= 512 {
        return 0;
    }
    let Some(hooked) = HOOKED.get(0) else { return 0 };
    if hooked[(number >> 6) as usize & 7] >> (number & 63) & 1 == 0 || scope::current().is_none() {
        return 0;
    }
    // SAFETY: does not return if there is a program for this number.
    unsafe { SYSCALLS.tail_call(&ctx, number as u32) };
    0
}

/// Counts a call that did something we can not tell any more.
#[inline(always)]
fn lost(kind: Kind) {
    count(kind, Count::Seen);
    count(kind, Count::Unreadable);
}

#[inline(always)]
fn current_task() -> Ptr {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_task() as Ptr }
}

/// Arguments and result of the call that returns.
struct Call {
    result: i64,
    args: [u64; 6],
}

#[inline(always)]
fn call(ctx: &BtfTracePointContext) -> Call {
    let regs: Ptr = ctx.arg(0);
    Call {
        result: ctx.arg(1),
        args: [
            shim_pt_regs_arg0_direct(regs),
            shim_pt_regs_arg1_direct(regs),
            shim_pt_regs_arg2_direct(regs),
            shim_pt_regs_arg3_direct(regs),
            shim_pt_regs_arg4_direct(regs),
            shim_pt_regs_arg5_direct(regs),
        ],
    }
}

/// The open file behind a descriptor of the current task, or null. Another thread may have replaced it since the call.
#[inline(always)]
fn file_of(fd: i32) -> Ptr {
    let table = shim_files_struct_fdt(shim_task_struct_files(current_task()));
    if fd < 0 || fd as u32 >= shim_fdtable_max_fds(table) {
        return core::ptr::null_mut();
    }
    let slot = shim_fdtable_fd(table).wrapping_byte_add(fd as usize * 8);
    let mut file: Ptr = core::ptr::null_mut();
    // SAFETY: the helper checks the source.
    unsafe { aya_ebpf::helpers::generated::bpf_probe_read_kernel((&raw mut file).cast(), 8, slot) };
    file
}

/// String: the directory a relative path starts from. Empty if `text` is absolute.
#[inline(always)]
fn base(record: &mut Record, directory: i32, text: *const u8) {
    let mut first = 0u8;
    // SAFETY: the helper checks the source.
    unsafe { aya_ebpf::helpers::generated::bpf_probe_read_user((&raw mut first).cast(), 1, text.cast()) };
    if first == b'/' {
        record.none();
        return;
    }
    let path = if directory == AT_FDCWD {
        shim_fs_struct_pwd(shim_task_struct_fs(current_task()))
    } else {
        shim_file_path(file_of(directory))
    };
    record.path(shim_path_dentry(path), shim_path_mnt(path));
}
