//! Operations that need privileges or give them. The twin is the executable that the rule spares.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};

use super::{
    Case, HAPPENED, Proof, Target, case,
    steps::{in_child, mount, or_unsupported, unsupported},
};
use crate::{
    arena::Class::Files,
    sys::{self, c, sys},
};

pub(super) const CASES: &[Case] = &[
    case("privileged-mount", Files, Proof::Happened, |target| {
        aside(target)?;
        mounted()
    })
    .privileged(),
    case("privileged-mount-new-calls", Files, Proof::Happened, |target| {
        aside(target)?;
        fs::create_dir("there")?;
        let context = sys!(libc::SYS_fsopen, c"tmpfs".as_ptr(), 0);
        let context = sys::owned(or_unsupported(context, &[libc::ENOSYS], "fsopen")?);
        let fd = std::os::fd::AsRawFd::as_raw_fd(&context);
        // FSCONFIG_CMD_CREATE.
        sys!(libc::SYS_fsconfig, fd, 6, 0, 0, 0).context("fsconfig")?;
        let tree = sys::owned(sys!(libc::SYS_fsmount, fd, 0, 0).context("fsmount")?);
        let there = c("there");
        let at = std::os::fd::AsRawFd::as_raw_fd(&tree);
        sys!(libc::SYS_move_mount, at, c"".as_ptr(), libc::AT_FDCWD, there.as_ptr(), 4)
            .context("move_mount")?;
        is_mount(Path::new("there"))?;
        let _ = sys!(libc::SYS_umount2, there.as_ptr(), libc::MNT_DETACH);
        Ok(HAPPENED.to_vec())
    })
    .privileged(),
    case("privileged-chroot", Files, Proof::Happened, |target| {
        nix::unistd::chroot(&target.work)?;
        ensure!(fs::metadata("/proc").is_err(), "the same root");
        Ok(HAPPENED.to_vec())
    })
    .privileged(),
    case("privileged-user-namespace", Files, Proof::Happened, |_| {
        super::steps::user_namespace()?;
        ensure!(nix::unistd::getuid().is_root(), "not root in it");
        Ok(HAPPENED.to_vec())
    })
    .privileged(),
    case("privileged-user-namespace-clone", Files, Proof::Happened, |_| {
        let arguments = [libc::CLONE_NEWUSER as u64, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0];
        let before = fs::read_link("/proc/self/ns/user")?;
        let pid = sys!(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)).context("clone3")?;
        if pid == 0 {
            let other = fs::read_link("/proc/self/ns/user").is_ok_and(|now| now != before);
            sys::exit_now(i32::from(!other));
        }
        let ended = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid as i32), None)?;
        ensure!(matches!(ended, nix::sys::wait::WaitStatus::Exited(_, 0)), "{ended:?}");
        Ok(HAPPENED.to_vec())
    })
    .privileged(),
    case("privileged-namespaces", Files, Proof::Happened, |_| {
        let before = fs::read_link("/proc/self/ns/net")?;
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC)?;
        ensure!(fs::read_link("/proc/self/ns/net")? != before, "the same");
        Ok(HAPPENED.to_vec())
    })
    .privileged(),
    case("privileged-setns", Files, Proof::Happened, |target| {
        let own = in_child(|| {
            unshare(CloneFlags::CLONE_NEWUTS)?;
            let file = fs::File::open(format!("/proc/{}/ns/uts", target.victim()?.pid))?;
            nix::sched::setns(file, CloneFlags::CLONE_NEWUTS)?;
            Ok(HAPPENED.to_vec())
        });
        own.context("setns")
    })
    .privileged()
    .victim(),
    case("privileged-io-uring", Files, Proof::Happened, |_| match io_uring::IoUring::new(4) {
        Ok(ring) => {
            ensure!(ring.params().sq_entries() >= 4, "not a ring");
            Ok(HAPPENED.to_vec())
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => unsupported("no io_uring"),
        Err(error) => Err(error.into()),
    })
    .privileged(),
    case("privileged-setuid", Files, Proof::Happened, |_| {
        sys!(libc::SYS_setresuid, 12345, 12345, 12345)?;
        ensure!(nix::unistd::geteuid().as_raw() == 12345, "not changed");
        Ok(HAPPENED.to_vec())
    })
    .privileged(),
    case("privileged-setgroups", Files, Proof::Happened, |_| {
        let groups = [54321_u32];
        sys!(libc::SYS_setgroups, 1, groups.as_ptr())?;
        ensure!(nix::unistd::getgroups()?.iter().any(|group| group.as_raw() == 54321), "not changed");
        Ok(HAPPENED.to_vec())
    })
    .privileged(),
    case("privileged-device-node", Files, Proof::Happened, |_| {
        let path = c("disk");
        // The memory of the machine: the node is made, and not opened.
        sys!(libc::SYS_mknod, path.as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(1, 1))?;
        let made = std::os::unix::fs::MetadataExt::rdev(&fs::symlink_metadata("disk")?);
        ensure!(made == libc::makedev(1, 1), "another device");
        fs::remove_file("disk")?;
        Ok(HAPPENED.to_vec())
    })
    .privileged(),
];

/// Where others live, too, mounts are made in a namespace of their own.
fn aside(target: &Target) -> Result<()> {
    if target.arena.own_machine {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(Path::new("none"), Path::new("/"), "none", libc::MS_REC | libc::MS_PRIVATE, "")
        .context("private mounts")
}

/// Mounts an empty file system and looks whether it is there.
fn mounted() -> Result<Vec<u8>> {
    fs::create_dir("there")?;
    mount(Path::new("none"), Path::new("there"), "tmpfs", 0, "").context("mount")?;
    is_mount(Path::new("there"))?;
    let there = c("there");
    let _ = sys!(libc::SYS_umount2, there.as_ptr(), libc::MNT_DETACH);
    Ok(HAPPENED.to_vec())
}

fn is_mount(path: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let (own, above) = (fs::metadata(path)?.dev(), fs::metadata(".")?.dev());
    ensure!(own != above, "{} is no mount", path.display());
    Ok(())
}
