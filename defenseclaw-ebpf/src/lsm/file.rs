//! Files: open, code mappings, and every change of the name space. Reads and writes through an open file are not hooked.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use defenseclaw_ebpf::{
    Kind, access,
    image::{effect, privilege},
};

use crate::{
    emit::{Record, allowed_values},
    pause,
    scope::{self, Actor},
    shim::*,
    verdict::{self, Judged},
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
const S_IFCHR: u64 = 0o020_000;
const S_IFBLK: u64 = 0o060_000;
const RENAME_EXCHANGE: u64 = 2;

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

/// Effects of an open, by what the file is opened for.
#[inline(always)]
fn effects_of(access: u64) -> u16 {
    // execve opens the file to start it, which is judged where that is decided.
    if access & access::EXECUTE != 0 {
        return 0;
    }
    // Refused at `path_mknod` already, where there is one; here for what policy only wants to know, and for files without a
    // name.
    let mut effects = if access & access::CREATE != 0 { effect::CREATE } else { 0 };
    if access & access::READ != 0 {
        effects |= effect::READ;
    }
    if access & (access::WRITE | access::TRUNCATE | access::APPEND) != 0 {
        effects |= effect::WRITE;
    }
    effects
}

#[lsm(hook = "file_open")]
pub fn file_open(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let file: Ptr = ctx.arg(0);
    let access = access_of(shim_file_mode_direct(file), shim_file_flags_direct(file));
    open(&actor, file, access, effects_of(access) as u32)
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
    // execve maps the program and what interprets it. Its own record names both, so these are only judged: the program is
    // a second time then, but its interpreter was not before.
    if shim_task_struct_in_execve_exists(actor.task) && shim_task_struct_in_execve_direct(actor.task) {
        return judge_only(&actor, file, access::MAP_EXECUTE, u32::from(effect::EXEC));
    }
    open(&actor, file, access::MAP_EXECUTE, u32::from(effect::EXEC))
}

/// A descriptor that another process passed: judged as if it were opened here.
#[lsm(hook = "file_receive")]
pub fn file_receive(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let file: Ptr = ctx.arg(0);
    let access = access_of(shim_file_mode_direct(file), shim_file_flags_direct(file)) & !access::CREATE;
    judge_only(&actor, file, access, effects_of(access) as u32)
}

/// The start of a program; for a script once for itself and once for its interpreter.
#[lsm(hook = "bprm_check_security")]
pub fn bprm_check_security(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let program: Ptr = ctx.arg(0);
    // Once for itself, and once more for the interpreter of a script.
    if shim_linux_binprm_filename_direct(program) == shim_linux_binprm_interp_direct(program) {
        pause::pause_forget_start();
    }
    judge_only(&actor, shim_linux_binprm_file_direct(program), access::EXECUTE, u32::from(effect::EXEC))
}

/// An open file that the verifier knows. Not inlined: for a task that is not enrolled the registers it needs would be
/// saved for nothing.
#[inline(never)]
fn open(actor: &Actor, file: Ptr, access: u64, effects: u32) -> i32 {
    match judged(actor, file, access, effects) {
        // What an overlay does to show the file that the task has opened, which has a record of its own.
        Ok((record, judged)) if record.is_internal() && !judged.is_notable() => {
            record.drop_unseen();
            0
        }
        Ok((record, judged)) => record.submit_judged(&judged),
        Err(answer) => answer,
    }
}

/// The same, of an operation that is recorded elsewhere unless policy has something to say.
#[inline(never)]
fn judge_only(actor: &Actor, file: Ptr, access: u64, effects: u32) -> i32 {
    if !verdict::policy(actor).is_some_and(|policy| policy.judges()) {
        return 0;
    }
    match judged(actor, file, access, effects) {
        Ok((mut record, judged)) if judged.asks() && access & access::EXECUTE != 0 => {
            allowed_values(pause::pause_start(record.park(&judged)))
        }
        Ok((record, judged)) if judged.is_notable() => record.submit_judged(&judged),
        Ok((record, _)) => {
            record.drop_unseen();
            0
        }
        Err(answer) => answer,
    }
}

/// A program that has started already: whether it may is asked now, and refused is killed.
#[inline(never)]
pub fn start(actor: &Actor, file: Ptr) {
    let Ok((mut record, judged)) = judged(actor, file, access::EXECUTE, u32::from(effect::EXEC)) else {
        return;
    };
    if !judged.asks() {
        record.drop_unseen();
    } else if pause::pause_start(record.park(&judged)) != 0 {
        pause::kill();
    }
}

#[inline(always)]
fn judged(actor: &Actor, file: Ptr, access: u64, effects: u32) -> Result<(Record, Judged), i32> {
    let Some(policy) = verdict::policy(actor) else { return Err(0) };
    let effects = effects as u16;
    let (dentry, mnt) = (shim_file_dentry_direct(file), shim_file_mnt_direct(file));
    let Some(mut record) = Record::about_known(Kind::FileOpen, actor, dentry, mnt, &policy) else {
        return Err(policy.blind(effects).carry_out());
    };
    let inode = shim_file_inode_direct(file);
    let (dev, ino) =
        (u64::from(shim_super_block_dev_direct(shim_inode_sb_direct(inode))), shim_inode_ino_direct(inode));
    record
        .arg::<0>(access)
        .arg::<1>(dev)
        .arg::<2>(ino)
        .arg::<3>(u64::from(shim_file_flags_direct(file)))
        .arg::<4>(u64::from(shim_inode_mode_direct(inode)));
    let judged = record.judge(&policy, effects, dev, ino);
    Ok((record, judged))
}

/// A record of an open file that the verifier does not know.
#[inline(always)]
pub fn opened(kind: Kind, actor: &Actor, file: Ptr, access: u64) -> Option<Record> {
    let path = shim_file_path(file);
    let mut record =
        Record::about(kind, actor, shim_path_dentry(path), shim_path_mnt(path), verdict::nobody()?)?;
    let inode = shim_file_inode(file);
    record
        .arg::<0>(access)
        .arg::<1>(u64::from(shim_super_block_dev(shim_inode_sb(inode))))
        .arg::<2>(shim_inode_ino(inode))
        .arg::<3>(u64::from(shim_file_flags(file)))
        .arg::<4>(u64::from(shim_inode_mode(inode)));
    Some(record)
}

/// Device and inode of a dentry that the verifier knows; 0 if it has none yet.
#[inline(always)]
fn identity(dentry: Ptr) -> (u64, u64) {
    let inode = shim_dentry_inode_direct(dentry);
    if inode.is_null() {
        return (0, 0);
    }
    (u64::from(shim_super_block_dev_direct(shim_inode_sb_direct(inode))), shim_inode_ino_direct(inode))
}

/// A change of the file at `dentry`, or of that entry in its directory.
#[inline(always)]
fn change(kind: Kind, dentry: Ptr, mnt: Ptr, detail: u64, effects: u16) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let Some(policy) = verdict::policy(&actor) else { return 0 };
    let Some(mut record) = Record::about_known(kind, &actor, dentry, mnt, &policy) else {
        return policy.blind(effects).carry_out();
    };
    let (dev, ino) = identity(dentry);
    record.arg::<0>(detail).arg::<1>(dev).arg::<2>(ino);
    let judged = record.judge(&policy, effects, dev, ino);
    record.submit_judged(&judged)
}

/// A change of the entry `dentry` in the directory `directory`.
#[inline(always)]
fn entry(kind: Kind, directory: Ptr, dentry: Ptr, detail: u64, effects: u16) -> i32 {
    change(kind, dentry, shim_path_mnt_direct(directory), detail, effects)
}

/// A change of the file at `path`.
#[inline(always)]
fn file(kind: Kind, path: Ptr, detail: u64, effects: u16) -> i32 {
    change(kind, shim_path_dentry_direct(path), shim_path_mnt_direct(path), detail, effects)
}

#[lsm(hook = "path_unlink")]
pub fn path_unlink(ctx: LsmContext) -> i32 {
    entry(Kind::FileUnlink, ctx.arg(0), ctx.arg(1), 0, effect::DELETE)
}

#[lsm(hook = "path_mkdir")]
pub fn path_mkdir(ctx: LsmContext) -> i32 {
    entry(Kind::DirMake, ctx.arg(0), ctx.arg(1), ctx.arg::<u64>(2) & 0xffff, effect::CREATE)
}

#[lsm(hook = "path_rmdir")]
pub fn path_rmdir(ctx: LsmContext) -> i32 {
    entry(Kind::DirRemove, ctx.arg(0), ctx.arg(1), 0, effect::DELETE)
}

#[lsm(hook = "path_mknod")]
pub fn path_mknod(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let mode = ctx.arg::<u64>(2) & 0xffff;
    // A regular file: open(O_CREAT) comes here too and is recorded by `file_open`.
    let regular = mode & S_IFMT == S_IFREG || mode & S_IFMT == 0;
    let Some(policy) = verdict::policy(&actor) else { return 0 };
    if regular && !policy.judges() {
        return 0;
    }
    let mnt = shim_path_mnt_direct(ctx.arg(0));
    let kind = if regular { Kind::FileOpen } else { Kind::FileMknod };
    let Some(mut record) = Record::about_known(kind, &actor, ctx.arg(1), mnt, &policy) else {
        return policy.blind(effect::CREATE).carry_out();
    };
    let mut judged = record.judge(&policy, effect::CREATE, 0, 0);
    if regular {
        // Refused here, before there is a file; permitted, `file_open` has more to say of it.
        if !judged.blocks() && !judged.asks() {
            record.drop_unseen();
            return 0;
        }
        record.arg::<0>(access::CREATE);
        return record.submit_judged(&judged);
    }
    if mode & S_IFMT == S_IFCHR || mode & S_IFMT == S_IFBLK {
        judged = judged.stricter(policy.privilege(privilege::DEVICE));
    }
    record.arg::<0>(mode).arg::<3>(ctx.arg::<u64>(3) & 0xffff_ffff);
    record.submit_judged(&judged)
}

#[lsm(hook = "path_rename")]
pub fn path_rename(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let Some(policy) = verdict::policy(&actor) else { return 0 };
    let (old, new): (Ptr, Ptr) = (ctx.arg(1), ctx.arg(3));
    let flags = ctx.arg::<u64>(4) & 0xffff_ffff;
    // What stands at the new name goes away, or with this flag to the old one.
    let exchange = flags & RENAME_EXCHANGE != 0;
    let old_effects = if exchange { effect::DELETE | effect::WRITE } else { effect::DELETE };
    let new_effects = if exchange {
        effect::DELETE | effect::WRITE
    } else if shim_dentry_inode_direct(new).is_null() {
        effect::CREATE
    } else {
        effect::WRITE
    };
    let mnt = shim_path_mnt_direct(ctx.arg(0));
    let Some(mut record) = Record::about_known(Kind::FileRename, &actor, old, mnt, &policy) else {
        return policy.blind(old_effects | new_effects).carry_out();
    };
    let (dev, ino) = identity(old);
    record.arg::<0>(flags).arg::<1>(dev).arg::<2>(ino);
    let judged = record.judge(&policy, old_effects, dev, ino);
    let mnt = shim_path_mnt_direct(ctx.arg(2));
    let there = record.path_judged(&actor, new, mnt, &policy, new_effects, identity(new));
    record.submit_judged(&judged.stricter(there))
}

#[lsm(hook = "path_link")]
pub fn path_link(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let Some(policy) = verdict::policy(&actor) else { return 0 };
    let existing: Ptr = ctx.arg(0);
    // link(2) has already refused names on different mounts.
    let mnt = shim_path_mnt_direct(ctx.arg(1));
    let effects = effect::LINK | effect::READ;
    let Some(mut record) = Record::about_known(Kind::FileLink, &actor, existing, mnt, &policy) else {
        return policy.blind(effects).carry_out();
    };
    let (dev, ino) = identity(existing);
    record.arg::<1>(dev).arg::<2>(ino);
    let judged = record.judge(&policy, effects, dev, ino);
    let there = record.path_judged(&actor, ctx.arg(2), mnt, &policy, effect::CREATE, (0, 0));
    record.submit_judged(&judged.stricter(there))
}

#[lsm(hook = "path_symlink")]
pub fn path_symlink(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let Some(policy) = verdict::policy(&actor) else { return 0 };
    let mnt = shim_path_mnt_direct(ctx.arg(0));
    let Some(mut record) = Record::about_known(Kind::FileSymlink, &actor, ctx.arg(1), mnt, &policy) else {
        return policy.blind(effect::CREATE).carry_out();
    };
    let judged = record.judge(&policy, effect::CREATE, 0, 0);
    record.kernel_str(ctx.arg(2));
    record.submit_judged(&judged)
}

#[lsm(hook = "path_truncate")]
pub fn path_truncate(ctx: LsmContext) -> i32 {
    file(Kind::FileTruncate, ctx.arg(0), u64::MAX, effect::WRITE)
}

/// ftruncate and O_TRUNC since Linux 6.2; before, they reach `path_truncate`.
#[lsm(hook = "file_truncate")]
pub fn file_truncate(ctx: LsmContext) -> i32 {
    file(Kind::FileTruncate, shim_file_path(ctx.arg(0)), u64::MAX, effect::WRITE)
}

#[lsm(hook = "path_chmod")]
pub fn path_chmod(ctx: LsmContext) -> i32 {
    file(Kind::FileChmod, ctx.arg(0), ctx.arg::<u64>(1) & 0xffff, effect::ATTR)
}

#[lsm(hook = "path_chown")]
pub fn path_chown(ctx: LsmContext) -> i32 {
    let owner: u64 = ctx.arg(1);
    let group: u64 = ctx.arg(2);
    file(Kind::FileChown, ctx.arg(0), owner << 32 | group & 0xffff_ffff, effect::ATTR)
}
