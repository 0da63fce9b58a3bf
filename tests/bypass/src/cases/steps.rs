//! Steps that several techniques have in common.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::{
    sched::{CloneFlags, unshare},
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, fork, pipe},
};

use super::Unsupported;
use crate::sys::{self, cpath, exit_now, sys};

/// The machine cannot do this.
pub(super) fn unsupported<T>(reason: impl std::fmt::Display) -> Result<T> {
    Err(anyhow!(Unsupported(reason.to_string())))
}

/// An error that says that the machine cannot do it, if its number is one of these.
pub(super) fn or_unsupported<T>(result: io::Result<T>, numbers: &[i32], what: &str) -> Result<T> {
    match result {
        Err(error) if error.raw_os_error().is_some_and(|number| numbers.contains(&number)) => {
            unsupported(format!("{what}: {error}"))
        }
        other => other.context(what.to_owned()),
    }
}

/// The first bytes of a file, by the plainest calls there are.
pub(super) fn read(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    let fd = sys::open(path.as_ref(), libc::O_RDONLY)
        .with_context(|| format!("open {}", path.as_ref().display()))?;
    read_fd(&fd)
}

/// The first bytes behind a descriptor, without moving its offset.
pub(super) fn read_fd(fd: &impl AsRawFd) -> Result<Vec<u8>> {
    let mut bytes = vec![0_u8; 4096];
    let length =
        sys!(libc::SYS_pread64, fd.as_raw_fd(), bytes.as_mut_ptr(), bytes.len(), 0).context("pread")?;
    bytes.truncate(length as usize);
    Ok(bytes)
}

/// A file below a directory descriptor.
pub(super) fn read_at(directory: &impl AsRawFd, name: &str) -> Result<Vec<u8>> {
    let name = sys::c(name);
    let fd =
        sys!(libc::SYS_openat, directory.as_raw_fd(), name.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC, 0);
    read_fd(&sys::owned(fd.context("openat")?))
}

/// Runs `act` in a forked child and returns what it got there.
pub(super) fn in_child(act: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    let (output, input) = pipe()?;
    // SAFETY: cases fork while they have one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop(output);
            exit_now(report(input, act()))
        }
        ForkResult::Parent { child } => {
            drop(input);
            let (bytes, error) = reported(output)?;
            let status = waitpid(child, None)?;
            match status {
                WaitStatus::Exited(_, 0) => Ok(bytes),
                WaitStatus::Exited(_, 77) => unsupported(error),
                other => bail!("child: {other:?}: {error}"),
            }
        }
    }
}

/// Writes an outcome to a pipe: the first byte says which it is. Returns an exit code.
pub(super) fn report(input: OwnedFd, outcome: Result<Vec<u8>>) -> i32 {
    let mut input = File::from(input);
    let (code, mut text) = match outcome {
        Ok(bytes) => (0, bytes),
        Err(error) if error.downcast_ref::<Unsupported>().is_some() => {
            (77, format!("{error:#}").into_bytes())
        }
        Err(error) => (1, format!("{error:#}").into_bytes()),
    };
    text.insert(0, u8::from(code == 0));
    let _ = input.write_all(&text);
    code
}

/// What [`report`] wrote: bytes, or the text of an error. Waits until every writer has ended.
pub(super) fn reported(output: OwnedFd) -> Result<(Vec<u8>, String)> {
    let mut bytes = Vec::new();
    File::from(output).read_to_end(&mut bytes)?;
    match bytes.split_first() {
        Some((1, rest)) => Ok((rest.to_vec(), String::new())),
        Some((_, text)) => Ok((Vec::new(), String::from_utf8_lossy(text).into_owned())),
        None => Ok((Vec::new(), "it said nothing".to_owned())),
    }
}

/// Standard output of a program.
pub(super) fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    ensure!(
        !output.stdout.is_empty(),
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

/// Replaces this process by what is behind a descriptor.
pub(super) fn execveat(fd: &impl AsRawFd) -> Result<Vec<u8>> {
    let (name, argument) = (c"", c"program");
    let arguments = [argument.as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null::<u8>()];
    sys!(
        libc::SYS_execveat,
        fd.as_raw_fd(),
        name.as_ptr(),
        arguments.as_ptr(),
        environment.as_ptr(),
        libc::AT_EMPTY_PATH
    )
    .context("execveat")?;
    Ok(Vec::new())
}

/// Enters new namespaces; whoever is not root makes a user namespace first, in which it is.
pub(super) fn namespaces(flags: CloneFlags) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(unshare(flags)?);
    }
    user_namespace()?;
    unshare(flags).context("unshare")
}

/// Becomes root of a new user namespace.
pub(super) fn user_namespace() -> Result<()> {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    match unshare(CloneFlags::CLONE_NEWUSER) {
        Err(nix::Error::ENOSYS | nix::Error::EUSERS | nix::Error::ENOSPC) => {
            return unsupported("no user namespaces");
        }
        other => other.context("unshare of the user namespace")?,
    }
    std::fs::write("/proc/self/setgroups", "deny").context("setgroups")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1")).context("uid_map")?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1")).context("gid_map")
}

/// mount(2).
pub(super) fn mount(source: &Path, target: &Path, kind: &str, flags: u64, data: &str) -> io::Result<()> {
    let (source, target, kind, data) = (cpath(source), cpath(target), sys::c(kind), sys::c(data));
    sys!(libc::SYS_mount, source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr()).map(drop)
}

/// A mount namespace whose mounts stay in it.
pub(super) fn own_mounts() -> Result<()> {
    namespaces(CloneFlags::CLONE_NEWNS)?;
    mount(Path::new("none"), Path::new("/"), "none", libc::MS_REC | libc::MS_PRIVATE, "")
        .context("make mounts private")
}

/// Makes memory that code may be put into and run from.
pub(super) fn executable_memory(code: &[u8]) -> Result<*const u8> {
    let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let length = code.len().next_multiple_of(4096);
    let at = sys!(libc::SYS_mmap, 0, length, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
        .context("executable memory")? as *mut u8;
    // SAFETY: the mapping is writable and at least as long.
    unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), at, code.len()) };
    Ok(at)
}

/// Jumps there. The code ends the process.
pub(super) fn jump(code: *const u8) -> ! {
    // SAFETY: the code was made for this: it needs a stack only, and never returns.
    let code: extern "C" fn() -> ! = unsafe { std::mem::transmute(code) };
    code()
}

/// Writes a program that prints the secret of the target.
pub(super) fn program(target: &super::Target, name: &str) -> Result<()> {
    let secret = std::fs::read(target.secret())?;
    executable(&target.dir.join(name), &crate::elf::file(&crate::elf::says(&secret)))
}

pub(super) fn executable(path: &Path, content: &[u8]) -> Result<()> {
    std::fs::write(path, content)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(())
}

/// Bytes of a path.
pub(super) fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}
