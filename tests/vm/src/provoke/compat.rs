//! System calls of the 32-bit ABI from a 64-bit program: the usual way around filters that know numbers only.

use std::{arch::asm, os::unix::ffi::OsStrExt};

use anyhow::{Result, ensure};
use defenseclaw::model::{Access, Action, ExitStatus, Level};

use super::Stage;
use crate::sys;

/// `open` of the i386 table.
const OPEN_32: u32 = 5;

/// `int 0x80` with up to three arguments.
pub(crate) fn call_32(number: u32, first: u32, second: u32, third: u32) -> i32 {
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

pub(crate) fn ia32(stage: &mut Stage) -> Result<()> {
    let path = stage.make("through the 32-bit door")?;
    let name = path.as_os_str().as_bytes();
    let length = 4096;
    // A 32-bit pointer reaches the lower 4 GiB only.
    let low = sys::sys!(
        libc::SYS_mmap,
        0,
        length,
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
        -1,
        0
    )?;
    // SAFETY: the mapping is writable, zeroed and longer than any path here.
    unsafe { std::ptr::copy_nonoverlapping(name.as_ptr(), low as *mut u8, name.len()) };
    let pid = stage.spawn("int 0x80", || {
        let fd = call_32(OPEN_32, low as u32, libc::O_RDONLY as u32, 0);
        if fd >= 0 { 0 } else { 50 }
    })?;
    match stage.reap("int 0x80", pid)? {
        ExitStatus::Code(0) => {}
        // Without the emulation the trap is a fault.
        ExitStatus::Signal(11) | ExitStatus::Code(50) => {
            stage.skip("int 0x80", "ia32", "this kernel has no 32-bit system calls");
            return Ok(());
        }
        other => ensure!(false, "int 0x80: {other:?}"),
    }
    let file = Stage::file_at(&path)?;
    let action = Action::FileOpen { file, access: Access::READ };
    stage.claim("int 0x80", "open", action).tgid(pid).only(Level::Lsm);
    stage.loss("int 0x80", "compat_syscall", 1, Some(Level::Tracepoint));
    Ok(())
}
