//! Files: open, code mappings, and every change of the name space. Reads and writes through an open file are not hooked.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use defenseclaw_ebpf::{Kind, access};

use crate::{
    emit::{Record, Ring},
    scope::{self, Actor},
    shim::*,
};

const O_TRUNC: u32 = 0o1000;
const O_APPEND: u32 = 0o2000;
const O_TMPFILE: u32 = 0o20_000_000;
/// `__FMODE_EXEC`: execve opens the file.
const OPENED_BY_EXEC: u32 = 0x20;
/// `FMODE_CREATED`: this open made the file.
const FMODE_CREATED: u32 = 1 << 20;
const S_IFMT: u64 = 0o170_000;
const S_IFREG: u64 = 0o100_000;
const PROT_EXEC: u64 = 4;
const PAGE: u64 = 4096;

/// Access bits of an open file; the numbers of `FMODE_READ` and `FMODE_WRITE` are ours.
#[inline(always)]
pub fn access_of(mode: u32, flags: u32) -> u64 {
    let mut bits = u64::from(mode & 3);
    if mode & FMODE_CREATED != 0 || flags & O_TMPFILE != 0 {
        bits |= access::CREATE;
    }
    if flags & O_TRUNC != 0 {
        bits |= access::TRUNCATE;
    }
    if flags & O_APPEND != 0 {
        bits |= access::APPEND;
    }
    if flags & OPENED_BY_EXEC != 0 {
        bits |= access::EXECUTE;
    }
    bits
}

/// Device and inode of a dentry that the verifier knows, if it has one.
#[inline(always)]
fn identity(record: &mut Record, dentry: Ptr) {
    let inode = shim_dentry_inode_direct(dentry);
    if !inode.is_null() {
        record
            .arg::<1>(u64::from(shim_super_block_dev_direct(shim_inode_sb_direct(inode))))
            .arg::<2>(shim_inode_ino_direct(inode));
    }
}

#[lsm(hook = "file_open")]
pub fn file_open(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let file: Ptr = ctx.arg(0);
    open(&actor, file, access_of(shim_file_mode_direct(file), shim_file_flags_direct(file)));
    0
}

#[lsm(hook = "mmap_file")]
pub fn mmap_file(ctx: LsmContext) -> i32 {
    // Before the question that all programs begin with: most mappings are of data.
    let protection: u64 = ctx.arg(2);
    if protection & PROT_EXEC == 0 {
        return 0;
    }
    let Some(actor) = scope::current() else { return 0 };
    // Null for an anonymous mapping. Kernels before 6.14 take the argument for a valid pointer and remove the comparison
    // with null; they do not follow one of numbers. Later ones insist on the comparison with null.
    let file: Ptr = ctx.arg(0);
    if (core::hint::black_box(file) as u64) < PAGE || file.is_null() {
        return 0;
    }
    open(&actor, file, access::MAP_EXECUTE);
    0
}

/// An open file that the verifier knows. Not inlined: for a task that is not enrolled the registers it needs would be
/// saved for nothing.
#[inline(never)]
fn open(actor: &Actor, file: Ptr, access: u64) {
    let (dentry, mnt) = (shim_file_dentry_direct(file), shim_file_mnt_direct(file));
    let Some(mut record) = Record::about_known(Kind::FileOpen, actor, dentry, mnt) else { return };
    let inode = shim_file_inode_direct(file);
    record
        .arg::<0>(access)
        .arg::<1>(u64::from(shim_super_block_dev_direct(shim_inode_sb_direct(inode))))
        .arg::<2>(shim_inode_ino_direct(inode))
        .arg::<3>(u64::from(shim_file_flags_direct(file)))
        .arg::<4>(u64::from(shim_inode_mode_direct(inode)));
    record.submit(Ring::Bulk);
}

/// A record of an open file that the verifier does not know.
#[inline(always)]
pub fn opened(kind: Kind, actor: &Actor, file: Ptr, access: u64) -> Option<Record> {
    let path = shim_file_path(file);
    let mut record = Record::about(kind, actor, shim_path_dentry(path), shim_path_mnt(path))?;
    let inode = shim_file_inode(file);
    record
        .arg::<0>(access)
        .arg::<1>(u64::from(shim_super_block_dev(shim_inode_sb(inode))))
        .arg::<2>(shim_inode_ino(inode))
        .arg::<3>(u64::from(shim_file_flags(file)))
        .arg::<4>(u64::from(shim_inode_mode(inode)));
    Some(record)
}

/// A change of the entry `dentry` in the directory `directory`.
#[inline(always)]
fn entry(kind: Kind, directory: Ptr, dentry: Ptr, detail: u64) {
    let Some(actor) = scope::current() else { return };
    let mnt = shim_path_mnt_direct(directory);
    let Some(mut record) = Record::about_known(kind, &actor, dentry, mnt) else { return };
    record.arg::<0>(detail);
    identity(&mut record, dentry);
    record.submit(Ring::Bulk);
}

/// A change of the file at `path`.
#[inline(always)]
fn file(kind: Kind, path: Ptr, detail: u64) {
    let Some(actor) = scope::current() else { return };
    let dentry = shim_path_dentry_direct(path);
    let mnt = shim_path_mnt_direct(path);
    let Some(mut record) = Record::about_known(kind, &actor, dentry, mnt) else { return };
    record.arg::<0>(detail);
    identity(&mut record, dentry);
    record.submit(Ring::Bulk);
}

#[lsm(hook = "path_unlink")]
pub fn path_unlink(ctx: LsmContext) -> i32 {
    entry(Kind::FileUnlink, ctx.arg(0), ctx.arg(1), 0);
    0
}

#[lsm(hook = "path_mkdir")]
pub fn path_mkdir(ctx: LsmContext) -> i32 {
    entry(Kind::DirMake, ctx.arg(0), ctx.arg(1), ctx.arg::<u64>(2) & 0xffff);
    0
}

#[lsm(hook = "path_rmdir")]
pub fn path_rmdir(ctx: LsmContext) -> i32 {
    entry(Kind::DirRemove, ctx.arg(0), ctx.arg(1), 0);
    0
}

#[lsm(hook = "path_mknod")]
pub fn path_mknod(ctx: LsmContext) -> i32 {
    let mode = ctx.arg::<u64>(2) & 0xffff;
    // A regular file: open(O_CREAT) comes here too and is recorded by `file_open`.
    if mode & S_IFMT == S_IFREG || mode & S_IFMT == 0 {
        return 0;
    }
    let Some(actor) = scope::current() else { return 0 };
    let mnt = shim_path_mnt_direct(ctx.arg(0));
    let Some(mut record) = Record::about_known(Kind::FileMknod, &actor, ctx.arg(1), mnt) else { return 0 };
    record.arg::<0>(mode).arg::<3>(ctx.arg::<u64>(3) & 0xffff_ffff);
    record.submit(Ring::Bulk);
    0
}

#[lsm(hook = "path_rename")]
pub fn path_rename(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let old: Ptr = ctx.arg(1);
    let mnt = shim_path_mnt_direct(ctx.arg(0));
    let Some(mut record) = Record::about_known(Kind::FileRename, &actor, old, mnt) else { return 0 };
    record.arg::<0>(ctx.arg::<u64>(4) & 0xffff_ffff);
    identity(&mut record, old);
    record.path_known(&actor, ctx.arg(3), shim_path_mnt_direct(ctx.arg(2)));
    record.submit(Ring::Bulk);
    0
}

#[lsm(hook = "path_link")]
pub fn path_link(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let existing: Ptr = ctx.arg(0);
    // link(2) has already refused names on different mounts.
    let mnt = shim_path_mnt_direct(ctx.arg(1));
    let Some(mut record) = Record::about_known(Kind::FileLink, &actor, existing, mnt) else { return 0 };
    identity(&mut record, existing);
    record.path_known(&actor, ctx.arg(2), mnt);
    record.submit(Ring::Bulk);
    0
}

#[lsm(hook = "path_symlink")]
pub fn path_symlink(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let mnt = shim_path_mnt_direct(ctx.arg(0));
    let Some(mut record) = Record::about_known(Kind::FileSymlink, &actor, ctx.arg(1), mnt) else { return 0 };
    record.kernel_str(ctx.arg(2));
    record.submit(Ring::Bulk);
    0
}

#[lsm(hook = "path_truncate")]
pub fn path_truncate(ctx: LsmContext) -> i32 {
    file(Kind::FileTruncate, ctx.arg(0), u64::MAX);
    0
}

/// ftruncate and O_TRUNC since Linux 6.2; before, they reach `path_truncate`.
#[lsm(hook = "file_truncate")]
pub fn file_truncate(ctx: LsmContext) -> i32 {
    file(Kind::FileTruncate, shim_file_path(ctx.arg(0)), u64::MAX);
    0
}

#[lsm(hook = "path_chmod")]
pub fn path_chmod(ctx: LsmContext) -> i32 {
    file(Kind::FileChmod, ctx.arg(0), ctx.arg::<u64>(1) & 0xffff);
    0
}

#[lsm(hook = "path_chown")]
pub fn path_chown(ctx: LsmContext) -> i32 {
    let owner: u64 = ctx.arg(1);
    let group: u64 = ctx.arg(2);
    file(Kind::FileChown, ctx.arg(0), owner << 32 | group & 0xffff_ffff);
    0
}
