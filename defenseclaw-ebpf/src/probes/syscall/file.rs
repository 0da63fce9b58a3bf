//! Files, at system call exit. Successful calls only.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use defenseclaw_ebpf::{Count, Kind, access};

use super::{AT_FDCWD, base, call, file_of};
use crate::{
    emit::{Record, Ring, count},
    lsm::file::{access_of, opened},
    scope::{self, Actor},
    shim::*,
};

const FMODE_PATH: u32 = 0x4000;
const O_TRUNC: u64 = 0o1000;
const AT_REMOVEDIR: u64 = 0x200;
const AT_EMPTY_PATH: u64 = 0x1000;
const PROT_EXEC: u64 = 4;
const MAP_ANONYMOUS: u64 = 0x20;
const S_IFMT: u64 = 0o170_000;
const S_IFREG: u64 = 0o100_000;

macro_rules! returning {
    ($ctx:ident, $actor:ident, $call:ident) => {
        let Some($actor) = scope::current() else { return 0 };
        let $call = call(&$ctx);
        if $call.result < 0 {
            return 0;
        }
    };
}

/// The descriptor was closed, by another thread, before we could look at it.
#[inline(always)]
fn gone(kind: Kind) {
    count(kind, Count::Seen);
    count(kind, Count::Unreadable);
}

#[inline(always)]
fn submit(kind: Kind, actor: &Actor, file: Ptr, detail: u64, result: i64) {
    if let Some(mut record) = opened(kind, actor, file, detail) {
        record.result(result);
        record.submit(Ring::Bulk);
    }
}

/// An open: `flags` are those of the call where it has any.
#[inline(always)]
fn open(ctx: BtfTracePointContext, flags: fn(&[u64; 6]) -> u64) -> i32 {
    returning!(ctx, actor, call);
    let file = file_of(call.result as i32);
    if file.is_null() {
        gone(Kind::FileOpen);
        return 0;
    }
    let mode = shim_file_mode(file);
    let mut bits = access_of(mode, shim_file_flags(file));
    if mode & FMODE_PATH != 0 {
        bits = access::REFERENCE;
    }
    // The kernel keeps O_TRUNC only until the file is open.
    if flags(&call.args) & O_TRUNC != 0 {
        bits |= access::TRUNCATE;
    }
    submit(Kind::FileOpen, &actor, file, bits, call.result);
    0
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_open(ctx: BtfTracePointContext) -> i32 {
    open(ctx, |args| args[1])
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_openat(ctx: BtfTracePointContext) -> i32 {
    open(ctx, |args| args[2])
}

/// creat: always truncates.
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_creat(ctx: BtfTracePointContext) -> i32 {
    open(ctx, |_| O_TRUNC)
}

/// openat2: the flags stand in memory.
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_openat2(ctx: BtfTracePointContext) -> i32 {
    open(ctx, |args| {
        let mut flags = 0u64;
        // SAFETY: the helper checks the source.
        unsafe {
            aya_ebpf::helpers::generated::bpf_probe_read_user((&raw mut flags).cast(), 8, args[2] as *const _)
        };
        flags
    })
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_mmap(ctx: BtfTracePointContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let call = call(&ctx);
    // An address, unless it is one of the last 4095 values.
    if call.result < 0 && call.result >= -4095 {
        return 0;
    }
    if call.args[2] & PROT_EXEC == 0 || call.args[3] & MAP_ANONYMOUS != 0 {
        return 0;
    }
    let file = file_of(call.args[4] as i32);
    if file.is_null() {
        gone(Kind::FileOpen);
        return 0;
    }
    submit(Kind::FileOpen, &actor, file, access::MAP_EXECUTE, 0);
    0
}

/// A call about one path: kind, argument index of the path, of the directory descriptor if there is one, and detail.
#[inline(always)]
fn one_path(ctx: BtfTracePointContext, describe: fn(&[u64; 6]) -> (Kind, i32, u64, u64)) -> i32 {
    returning!(ctx, actor, call);
    let (kind, directory, text, detail) = describe(&call.args);
    let Some(mut record) = Record::begin(kind, &actor) else { return 0 };
    record.arg::<0>(detail).user_str(text as *const u8).none();
    base(&mut record, directory, text as *const u8);
    record.result(call.result);
    record.submit(Ring::Bulk);
    0
}

/// A call about one descriptor.
#[inline(always)]
fn one_file(ctx: BtfTracePointContext, kind: Kind, detail: fn(&[u64; 6]) -> u64) -> i32 {
    returning!(ctx, actor, call);
    let file = file_of(call.args[0] as i32);
    if file.is_null() {
        gone(kind);
        return 0;
    }
    submit(kind, &actor, file, detail(&call.args), call.result);
    0
}

/// A call about two paths: directory and text of each, and flags.
#[inline(always)]
fn two_paths(
    ctx: BtfTracePointContext,
    kind: Kind,
    describe: fn(&[u64; 6]) -> (i32, u64, i32, u64, u64),
) -> i32 {
    returning!(ctx, actor, call);
    let (old_directory, old, new_directory, new, flags) = describe(&call.args);
    let Some(mut record) = Record::begin(kind, &actor) else { return 0 };
    record.arg::<0>(flags).user_str(old as *const u8).user_str(new as *const u8);
    base(&mut record, old_directory, old as *const u8);
    base(&mut record, new_directory, new as *const u8);
    record.result(call.result);
    record.submit(Ring::Bulk);
    0
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_unlink(ctx: BtfTracePointContext) -> i32 {
    one_path(ctx, |a| (Kind::FileUnlink, AT_FDCWD, a[0], 0))
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_unlinkat(ctx: BtfTracePointContext) -> i32 {
    one_path(ctx, |a| {
        let kind = if a[2] & AT_REMOVEDIR != 0 { Kind::DirRemove } else { Kind::FileUnlink };
        (kind, a[0] as i32, a[1], 0)
    })
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_rmdir(ctx: BtfTracePointContext) -> i32 {
    one_path(ctx, |a| (Kind::DirRemove, AT_FDCWD, a[0], 0))
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_mkdir(ctx: BtfTracePointContext) -> i32 {
    one_path(ctx, |a| (Kind::DirMake, AT_FDCWD, a[0], a[1] & 0xffff))
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_mkdirat(ctx: BtfTracePointContext) -> i32 {
    one_path(ctx, |a| (Kind::DirMake, a[0] as i32, a[1], a[2] & 0xffff))
}

#[inline(always)]
fn node_kind(mode: u64) -> Kind {
    if mode & S_IFMT == S_IFREG || mode & S_IFMT == 0 { Kind::FileOpen } else { Kind::FileMknod }
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_mknod(ctx: BtfTracePointContext) -> i32 {
    one_path(ctx, |a| {
        let kind = node_kind(a[1]);
        (kind, AT_FDCWD, a[0], if kind == Kind::FileMknod { a[1] & 0xffff } else { access::CREATE })
    })
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_mknodat(ctx: BtfTracePointContext) -> i32 {
    one_path(ctx, |a| {
        let kind = node_kind(a[2]);
        (kind, a[0] as i32, a[1], if kind == Kind::FileMknod { a[2] & 0xffff } else { access::CREATE })
    })
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_chmod(ctx: BtfTracePointContext) -> i32 {
    one_path(ctx, |a| (Kind::FileChmod, AT_FDCWD, a[0], a[1] & 0o7777))
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_fchmodat(ctx: BtfTracePointContext) -> i32 {
    one_path(ctx, |a| (Kind::FileChmod, a[0] as i32, a[1], a[2] & 0o7777))
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_fchmod(ctx: BtfTracePointContext) -> i32 {
    one_file(ctx, Kind::FileChmod, |a| a[1] & 0o7777)
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_chown(ctx: BtfTracePointContext) -> i32 {
    one_path(ctx, |a| (Kind::FileChown, AT_FDCWD, a[0], a[1] << 32 | a[2] & 0xffff_ffff))
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_fchownat(ctx: BtfTracePointContext) -> i32 {
    returning!(ctx, actor, call);
    let a = &call.args;
    let detail = a[2] << 32 | a[3] & 0xffff_ffff;
    let file = if a[4] & AT_EMPTY_PATH != 0 { file_of(a[0] as i32) } else { core::ptr::null_mut() };
    if file.is_null() {
        let Some(mut record) = Record::begin(Kind::FileChown, &actor) else { return 0 };
        record.result(call.result);
        record.arg::<0>(detail).user_str(a[1] as *const u8).none();
        base(&mut record, a[0] as i32, a[1] as *const u8);
        record.submit(Ring::Bulk);
    } else {
        submit(Kind::FileChown, &actor, file, detail, call.result);
    }
    0
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_fchown(ctx: BtfTracePointContext) -> i32 {
    one_file(ctx, Kind::FileChown, |a| a[1] << 32 | a[2] & 0xffff_ffff)
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_truncate(ctx: BtfTracePointContext) -> i32 {
    one_path(ctx, |a| (Kind::FileTruncate, AT_FDCWD, a[0], a[1]))
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_ftruncate(ctx: BtfTracePointContext) -> i32 {
    one_file(ctx, Kind::FileTruncate, |a| a[1])
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_rename(ctx: BtfTracePointContext) -> i32 {
    two_paths(ctx, Kind::FileRename, |a| (AT_FDCWD, a[0], AT_FDCWD, a[1], 0))
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_renameat(ctx: BtfTracePointContext) -> i32 {
    two_paths(ctx, Kind::FileRename, |a| (a[0] as i32, a[1], a[2] as i32, a[3], 0))
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_renameat2(ctx: BtfTracePointContext) -> i32 {
    two_paths(ctx, Kind::FileRename, |a| (a[0] as i32, a[1], a[2] as i32, a[3], a[4]))
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_link(ctx: BtfTracePointContext) -> i32 {
    two_paths(ctx, Kind::FileLink, |a| (AT_FDCWD, a[0], AT_FDCWD, a[1], 0))
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_linkat(ctx: BtfTracePointContext) -> i32 {
    two_paths(ctx, Kind::FileLink, |a| (a[0] as i32, a[1], a[2] as i32, a[3], a[4]))
}

/// String 0 is the link, string 1 its text, string 2 the base of string 0.
#[inline(always)]
fn symlink(ctx: BtfTracePointContext, describe: fn(&[u64; 6]) -> (u64, i32, u64)) -> i32 {
    returning!(ctx, actor, call);
    let (target, directory, link) = describe(&call.args);
    let Some(mut record) = Record::begin(Kind::FileSymlink, &actor) else { return 0 };
    record.user_str(link as *const u8).user_str(target as *const u8);
    base(&mut record, directory, link as *const u8);
    record.result(call.result);
    record.submit(Ring::Bulk);
    0
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_symlink(ctx: BtfTracePointContext) -> i32 {
    symlink(ctx, |a| (a[0], AT_FDCWD, a[1]))
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_symlinkat(ctx: BtfTracePointContext) -> i32 {
    symlink(ctx, |a| (a[0], a[1] as i32, a[2]))
}
