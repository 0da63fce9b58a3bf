//! What only root can do to the kernel or to itself: bpf, modules, ids.

use std::os::{fd::AsRawFd, unix::ffi::OsStrExt};

use anyhow::{Result, ensure};
use defenseclaw::model::{Action, CredChange, ModuleOp};

use super::Stage;
use crate::{
    sys::{self, sys},
    truth::{Times, kernel_path},
};

#[expect(clippy::unnecessary_wraps, reason = "every case has this signature")]
pub(crate) fn bpf(stage: &mut Stage) -> Result<()> {
    // BPF_MAP_CREATE of an array: type, key size, value size, entries.
    let mut attribute = [0_u32; 32];
    attribute[..4].copy_from_slice(&[2, 4, 8, 1]);
    let result = sys!(libc::SYS_bpf, 0, attribute.as_ptr(), 128);
    let fd = match &result {
        Ok(fd) => sys::owned(*fd),
        Err(error) => {
            stage.skip("bpf", "bpf", format!("BPF_MAP_CREATE: {error}"));
            return Ok(());
        }
    };
    stage.claim("map create", "bpf", Action::Bpf { command: 0 }).result(sys::raw(&result));
    // BPF_OBJ_GET_INFO_BY_FD, which asks for nothing: descriptor, length 0, pointer 0.
    attribute = [0; 32];
    attribute[0] = fd.as_raw_fd() as u32;
    let result = sys!(libc::SYS_bpf, 15, attribute.as_ptr(), 16);
    stage.claim("object info", "bpf", Action::Bpf { command: 15 }).result(sys::raw(&result));
    Ok(())
}

pub(crate) fn modules(stage: &mut Stage) -> Result<()> {
    // Larger than an ELF header: smaller ones are refused before anybody is asked.
    let junk = vec![0x55_u8; 4096];
    let result = sys!(libc::SYS_init_module, junk.as_ptr(), junk.len(), c"".as_ptr());
    if sys::errno(&result) == libc::ENOSYS {
        stage.skip("modules", "modules", "this kernel has no modules");
        return Ok(());
    }
    ensure!(result.is_err(), "the kernel has loaded junk");
    let action = Action::ModuleLoad { operation: ModuleOp::Memory, module: kernel_path("") };
    stage.claim("init_module", "init_module", action).result(sys::raw(&result));

    let path = stage.make("junk.ko")?;
    std::fs::write(&path, &junk)?;
    let file = std::fs::File::open(&path)?;
    let result = sys!(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0);
    ensure!(result.is_err(), "the kernel has loaded junk");
    let module = kernel_path(path.as_os_str().as_bytes());
    let action = Action::ModuleLoad { operation: ModuleOp::File, module };
    stage.claim("finit_module", "finit_module", action).result(sys::raw(&result)).times(Times::AtLeastOnce);
    Ok(())
}

pub(crate) fn ids(stage: &mut Stage) -> Result<()> {
    type Change = (&'static str, &'static str, i64, [i64; 3], bool, [u32; 3]);
    let changes: [Change; 6] = [
        ("setgid", "setgid", libc::SYS_setgid, [7, 0, 0], true, [7, 7, 7]),
        ("setregid", "setregid", libc::SYS_setregid, [8, 9, 0], true, [8, 9, 9]),
        ("setresgid", "setresgid", libc::SYS_setresgid, [10, 11, 12], true, [10, 11, 12]),
        ("setuid", "setuid", libc::SYS_setuid, [1007, 0, 0], false, [1007, 1007, 1007]),
        ("setreuid", "setreuid", libc::SYS_setreuid, [1008, 1009, 0], false, [1008, 1009, 1009]),
        ("setresuid", "setresuid", libc::SYS_setresuid, [-1, 1011, 1012], false, [0, 1011, 1012]),
    ];
    for (step, call, number, arguments, group, new) in changes {
        // In a child: without privileges there is no way back.
        stage.in_child(step, |stage| {
            sys!(number, arguments[0], arguments[1], arguments[2])?;
            let action = Action::CredChange(CredChange { group, old: [0; 3], new });
            // Recorded before or after the change.
            stage.claim(step, call, action).result(0).uid = None;
            Ok(())
        })?;
    }
    // Refused: nothing has changed.
    stage.in_child("refused", |_| {
        sys!(libc::SYS_setresuid, 1000, 1000, 1000)?;
        let failed = sys!(libc::SYS_setuid, 0);
        ensure!(sys::errno(&failed) == libc::EPERM, "setuid(0) without privileges: {failed:?}");
        Ok(())
    })?;
    Ok(())
}
