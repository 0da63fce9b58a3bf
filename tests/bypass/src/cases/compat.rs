//! System calls by other doors: the 32-bit table, the x32 table. Filters that know numbers of one table miss them.

use std::{arch::asm, os::unix::ffi::OsStrExt, path::Path};

use anyhow::{Context, Result, ensure};

use super::{
    Case, Proof, Target, case,
    steps::{in_child, read_fd, unsupported},
};
use crate::{
    arena::Class::{Files, Programs},
    sys::{self, cpath, sys},
};

pub(super) const CASES: &[Case] = &[
    case("compat-open", Files, Proof::Secret, |target| {
        let path = low(&target.secret())?;
        let fd = call_32(OPEN_32, path, libc::O_RDONLY as u32, 0)?;
        ensure!(fd >= 0, "errno {}", -fd);
        read_fd(&sys::owned(fd.into()))
    }),
    case("compat-execve", Programs, Proof::Secret, |target| {
        let path = low(&target.dir.join("program"))?;
        let result = call_32(EXECVE_32, path, low_arguments(path)?, 0)?;
        anyhow::bail!("errno {}", -result)
    })
    .set_up(|target| super::steps::program(target, "program")),
    case("compat-connect", Files, Proof::Service, connect),
    case("x32-open", Files, Proof::Secret, |target| {
        let path = cpath(target.secret());
        // The calls of x32 have a bit of their own.
        let opened = sys!(0x4000_0002_i64, path.as_ptr(), libc::O_RDONLY, 0);
        let fd = super::steps::or_unsupported(opened, &[libc::ENOSYS], "no x32 system calls")?;
        read_fd(&sys::owned(fd))
    }),
];

const OPEN_32: u32 = 5;
const GETPID_32: u32 = 20;
const EXECVE_32: u32 = 11;
const SOCKET_32: u32 = 359;
const CONNECT_32: u32 = 362;

/// `int 0x80` with up to three arguments; fails where the kernel has no such door.
fn call_32(number: u32, first: u32, second: u32, third: u32) -> Result<i32> {
    // The trap is a fault without the emulation, so a child tries it first.
    let probe = in_child(|| {
        ensure!(trap(GETPID_32, 0, 0, 0) > 0);
        Ok(b"yes".to_vec())
    });
    if probe.is_err() {
        return unsupported("no 32-bit system calls");
    }
    Ok(trap(number, first, second, third))
}

fn trap(number: u32, first: u32, second: u32, third: u32) -> i32 {
    let result: u32;
    // SAFETY: rbx, which the compiler keeps for itself, is restored; the kernel changes no other register but these and
    // r8 to r11. Addresses among the arguments are below 4 GiB and live.
    unsafe {
        asm!(
            "xchg {first}, rbx",
            "int 0x80",
            "xchg {first}, rbx",
            first = inout(reg) u64::from(first) => _,
            inlateout("eax") number => result,
            in("ecx") second,
            in("edx") third,
            out("r8") _,
            out("r9") _,
            out("r10") _,
            out("r11") _,
        );
    }
    result as i32
}

/// Memory that a 32-bit pointer reaches, with these bytes.
fn low_bytes(bytes: &[u8]) -> Result<u32> {
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT);
    let at = sys!(libc::SYS_mmap, 0, 4096, protection, flags, -1, 0).context("low memory")?;
    ensure!(bytes.len() < 4096);
    // SAFETY: the mapping is writable, zeroed and longer.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len()) };
    Ok(u32::try_from(at)?)
}

fn low(path: &Path) -> Result<u32> {
    low_bytes(path.as_os_str().as_bytes())
}

/// One argument: the name.
fn low_arguments(name: u32) -> Result<u32> {
    low_bytes(&[name.to_le_bytes(), [0; 4]].concat())
}

fn connect(target: &Target) -> Result<Vec<u8>> {
    let fd = call_32(SOCKET_32, libc::AF_INET as u32, libc::SOCK_STREAM as u32, 0)?;
    ensure!(fd >= 0, "socket: errno {}", -fd);
    let fd = sys::owned(fd.into());
    let (address, length) = super::net::kernel_address(target.endpoints().v4);
    let at = low_bytes(&address[..length])?;
    let result = call_32(CONNECT_32, std::os::fd::AsRawFd::as_raw_fd(&fd) as u32, at, length as u32)?;
    ensure!(result >= 0, "connect: errno {}", -result);
    super::net::ask(&fd)
}
