//! Which system calls start again as if nothing had happened when a hook has stopped them, and for which operations. Each was
//! tried: `tests/vm/src/pause`. A call that is not named here is never stopped; the fallback applies, and a retry may pass.

use defenseclaw_ebpf::Kind;

/// Number of a system call, and the kinds of operations in which it may be stopped.
pub(super) fn restartable() -> impl Iterator<Item = (u32, &'static [Kind])> {
    const OPEN: &[Kind] = &[Kind::FileOpen, Kind::FileTruncate];
    let table: [(libc::c_long, &'static [Kind]); 42] = [
        (libc::SYS_open, OPEN),
        (libc::SYS_openat, OPEN),
        (libc::SYS_openat2, OPEN),
        (libc::SYS_creat, OPEN),
        (libc::SYS_truncate, &[Kind::FileTruncate]),
        (libc::SYS_ftruncate, &[Kind::FileTruncate]),
        (libc::SYS_unlink, &[Kind::FileUnlink]),
        (libc::SYS_unlinkat, &[Kind::FileUnlink, Kind::DirRemove]),
        (libc::SYS_rmdir, &[Kind::DirRemove]),
        (libc::SYS_rename, &[Kind::FileRename]),
        (libc::SYS_renameat, &[Kind::FileRename]),
        (libc::SYS_renameat2, &[Kind::FileRename]),
        (libc::SYS_link, &[Kind::FileLink]),
        (libc::SYS_linkat, &[Kind::FileLink]),
        (libc::SYS_symlink, &[Kind::FileSymlink]),
        (libc::SYS_symlinkat, &[Kind::FileSymlink]),
        (libc::SYS_mkdir, &[Kind::DirMake]),
        (libc::SYS_mkdirat, &[Kind::DirMake]),
        (libc::SYS_mknod, &[Kind::FileMknod, Kind::FileOpen]),
        (libc::SYS_mknodat, &[Kind::FileMknod, Kind::FileOpen]),
        (libc::SYS_chmod, &[Kind::FileChmod]),
        (libc::SYS_fchmod, &[Kind::FileChmod]),
        (libc::SYS_fchmodat, &[Kind::FileChmod]),
        (libc::SYS_chown, &[Kind::FileChown]),
        (libc::SYS_lchown, &[Kind::FileChown]),
        (libc::SYS_fchown, &[Kind::FileChown]),
        (libc::SYS_fchownat, &[Kind::FileChown]),
        (libc::SYS_connect, &[Kind::NetConnect, Kind::UnixConnect]),
        (libc::SYS_bind, &[Kind::NetBind, Kind::FileMknod]),
        (libc::SYS_sendto, &[Kind::NetSend, Kind::UnixConnect]),
        (libc::SYS_sendmsg, &[Kind::NetSend, Kind::UnixConnect]),
        (libc::SYS_socket, &[Kind::SocketCreate]),
        (libc::SYS_execve, &[Kind::ProcessExec]),
        (libc::SYS_kill, &[Kind::Signal]),
        (libc::SYS_tgkill, &[Kind::Signal]),
        (libc::SYS_chroot, &[Kind::Mount]),
        (libc::SYS_setuid, &[Kind::CredChange]),
        (libc::SYS_setgid, &[Kind::CredChange]),
        (libc::SYS_setreuid, &[Kind::CredChange]),
        (libc::SYS_setregid, &[Kind::CredChange]),
        (libc::SYS_setresuid, &[Kind::CredChange]),
        (libc::SYS_setresgid, &[Kind::CredChange]),
    ];
    table.into_iter().filter_map(|(number, kinds)| Some((u32::try_from(number).ok()?, kinds)))
}
