//! Opening files: every access, every system call that opens, and mapping as code.

use std::os::{
    fd::{AsRawFd, OwnedFd},
    unix::ffi::OsStrExt,
};

use anyhow::{Context, Result, ensure};
use defenseclaw::model::{Access, Action, EventKind, Level};

use super::Stage;
use crate::{
    sys::{self, c, sys},
    truth::{PathRule, Times, kernel_path},
};

/// Argument of openat2(2).
#[repr(C)]
#[derive(Default)]
pub(crate) struct OpenHow {
    pub(crate) flags: u64,
    pub(crate) mode: u64,
    pub(crate) resolve: u64,
}

fn openat(path: &[u8], flags: i32, mode: u32) -> std::io::Result<OwnedFd> {
    sys!(libc::SYS_openat, libc::AT_FDCWD, c(path).as_ptr(), flags, mode).map(sys::owned)
}

pub(crate) fn modes(stage: &mut Stage) -> Result<()> {
    stage.close(&[]);
    let existing = [
        ("read", libc::O_RDONLY, Access::READ),
        ("write", libc::O_WRONLY, Access::WRITE),
        ("read and write", libc::O_RDWR, Access::READ | Access::WRITE),
        ("append", libc::O_WRONLY | libc::O_APPEND, Access::WRITE | Access::APPEND),
        ("truncate", libc::O_WRONLY | libc::O_TRUNC, Access::WRITE | Access::TRUNCATE),
        ("create what exists", libc::O_RDWR | libc::O_CREAT, Access::READ | Access::WRITE),
        // The fourth value of O_ACCMODE opens for ioctl alone.
        ("neither read nor write", libc::O_ACCMODE, Access::empty()),
        ("without blocking", libc::O_RDONLY | libc::O_NONBLOCK | libc::O_CLOEXEC, Access::READ),
    ];
    for (step, flags, access) in existing {
        let path = stage.make(step)?;
        let fd = openat(path.as_os_str().as_bytes(), flags, 0o644).context(step)?;
        let file = Stage::file_behind(&fd, kernel_path(path.as_os_str().as_bytes()))?;
        stage.claim(step, "openat", Action::FileOpen { file: file.clone(), access });
        if flags & libc::O_TRUNC != 0 {
            // The kernel asks for the truncation separately; a system call tracepoint sees one call.
            let action = Action::FileTruncate { file, length: Some(0) };
            stage.claim("truncate: length", "openat", action).only(Level::Lsm);
        }
    }

    let path = stage.make("reference")?;
    let fd = openat(path.as_os_str().as_bytes(), libc::O_PATH, 0)?;
    let file = Stage::file_behind(&fd, kernel_path(path.as_os_str().as_bytes()))?;
    stage
        .claim("reference", "openat", Action::FileOpen { file, access: Access::REFERENCE })
        .only(Level::Tracepoint);

    let made = [
        ("new", libc::O_WRONLY | libc::O_CREAT, Access::WRITE),
        ("new, exclusive", libc::O_RDWR | libc::O_CREAT | libc::O_EXCL, Access::READ | Access::WRITE),
        ("new, truncate", libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, Access::WRITE | Access::TRUNCATE),
        ("new, append", libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND, Access::WRITE | Access::APPEND),
        ("new, read only", libc::O_RDONLY | libc::O_CREAT, Access::READ),
    ];
    for (step, flags, access) in made {
        let path = stage.path(step);
        let fd = openat(path.as_os_str().as_bytes(), flags, 0o600).context(step)?;
        let file = Stage::file_behind(&fd, kernel_path(path.as_os_str().as_bytes()))?;
        stage.claim(step, "openat", Action::FileCreate { file, access: access | Access::CREATE });
    }

    let directory = stage.make_dir("directory")?;
    let fd = openat(directory.as_os_str().as_bytes(), libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
    let file = Stage::file_behind(&fd, kernel_path(directory.as_os_str().as_bytes()))?;
    stage.claim("directory", "openat", Action::FileOpen { file, access: Access::READ });

    // A file without a name: the kernel makes one up.
    let fd = openat(directory.as_os_str().as_bytes(), libc::O_RDWR | libc::O_TMPFILE, 0o600);
    match fd {
        Ok(fd) => {
            let file = Stage::file_behind(&fd, kernel_path(directory.as_os_str().as_bytes()))?;
            let access = Access::READ | Access::WRITE | Access::CREATE;
            stage.claim("temporary", "openat", Action::FileCreate { file, access }).path(PathRule::Below);
        }
        Err(error) => stage.skip("temporary", "o_tmpfile", format!("O_TMPFILE: {error}")),
    }

    // Opens that fail open nothing.
    let failing = [
        ("missing", libc::O_RDONLY, libc::ENOENT),
        ("new", libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, libc::EEXIST),
        ("directory", libc::O_WRONLY, libc::EISDIR),
    ];
    for (name, flags, errno) in failing {
        let path = stage.path(name);
        let failed =
            openat(path.as_os_str().as_bytes(), flags, 0o600).err().and_then(|error| error.raw_os_error());
        ensure!(failed == Some(errno), "open of {name} should fail with errno {errno}, not {failed:?}");
    }
    stage.never("failed open", EventKind::FileOpen, "/missing");
    Ok(())
}

pub(crate) fn calls(stage: &mut Stage) -> Result<()> {
    stage.close(&[]);
    let directory = stage.make_dir("d")?;
    let path = stage.make("d/file")?;
    let text = path.as_os_str().as_bytes().to_vec();
    let name = c(&text);
    let read = |stage: &mut Stage, step: &str, call: &str, fd: i64| -> Result<()> {
        let file = Stage::file_behind(&sys::owned(fd), kernel_path(&text))?;
        stage.claim(step, call, Action::FileOpen { file, access: Access::READ }).times(Times::Once);
        Ok(())
    };

    // Each call opens a file of its own, so that one event cannot stand for two of them.
    for (step, call, made) in [("creat", "creat", "created"), ("open", "open", "opened")] {
        let path = stage.path(made);
        let name = c(path.as_os_str().as_bytes());
        let (fd, access) = if call == "creat" {
            (sys!(libc::SYS_creat, name.as_ptr(), 0o600)?, Access::WRITE | Access::CREATE | Access::TRUNCATE)
        } else {
            let flags = libc::O_RDWR | libc::O_CREAT;
            (
                sys!(libc::SYS_open, name.as_ptr(), flags, 0o600)?,
                Access::READ | Access::WRITE | Access::CREATE,
            )
        };
        let file = Stage::file_behind(&sys::owned(fd), kernel_path(path.as_os_str().as_bytes()))?;
        stage.claim(step, call, Action::FileCreate { file, access });
    }

    read(stage, "openat, absolute", "openat", sys!(libc::SYS_openat, -1, name.as_ptr(), libc::O_RDONLY)?)?;
    let mut again =
        |step: &str, call: &str, open: &mut dyn FnMut(&Stage, &str) -> Result<i64>| -> Result<()> {
            let path = stage.make(&format!("d/{step}"))?;
            let file_name = step.to_owned();
            let fd = sys::owned(open(stage, &file_name).with_context(|| step.to_owned())?);
            let file = Stage::file_behind(&fd, kernel_path(path.as_os_str().as_bytes()))?;
            stage.claim(step, call, Action::FileOpen { file, access: Access::READ });
            Ok(())
        };
    let dir = openat(directory.as_os_str().as_bytes(), libc::O_PATH | libc::O_DIRECTORY, 0)?;
    let dirfd = dir.as_raw_fd();
    again("open, relative", "open", &mut |_, file| {
        Ok(sys!(libc::SYS_open, c(format!("d/{file}")).as_ptr(), libc::O_RDONLY)?)
    })?;
    again("openat, relative", "openat", &mut |_, file| {
        Ok(sys!(libc::SYS_openat, libc::AT_FDCWD, c(format!("./d/{file}")).as_ptr(), libc::O_RDONLY)?)
    })?;
    again("openat below a descriptor", "openat", &mut |_, file| {
        Ok(sys!(libc::SYS_openat, dirfd, c(file).as_ptr(), libc::O_RDONLY)?)
    })?;
    again("openat, up and down", "openat", &mut |_, file| {
        Ok(sys!(libc::SYS_openat, dirfd, c(format!("../d/./{file}")).as_ptr(), libc::O_RDONLY)?)
    })?;
    again("openat2", "openat2", &mut |_, file| {
        let how = OpenHow { resolve: libc::RESOLVE_BENEATH, ..OpenHow::default() };
        Ok(sys!(libc::SYS_openat2, dirfd, c(file).as_ptr(), &raw const how, size_of::<OpenHow>())?)
    })?;
    again("openat2 with another root", "openat2", &mut |_, file| {
        let how = OpenHow { resolve: libc::RESOLVE_IN_ROOT, ..OpenHow::default() };
        let path = c(format!("/../{file}"));
        Ok(sys!(libc::SYS_openat2, dirfd, path.as_ptr(), &raw const how, size_of::<OpenHow>())?)
    })?;
    again("after chdir", "openat", &mut |stage, file| {
        std::env::set_current_dir(&directory)?;
        let fd = sys!(libc::SYS_openat, libc::AT_FDCWD, c(file).as_ptr(), libc::O_RDONLY);
        std::env::set_current_dir(&stage.dir)?;
        Ok(fd?)
    })?;
    again("open_by_handle_at", "open_by_handle_at", &mut |_, file| by_handle(dirfd, file))?;

    // The reference above is an open too, where references are seen.
    let file = Stage::file_behind(&dir, kernel_path(directory.as_os_str().as_bytes()))?;
    stage
        .claim("directory reference", "openat", Action::FileOpen { file, access: Access::REFERENCE })
        .only(Level::Tracepoint);
    let file = Stage::file_behind(&std::fs::File::open("d")?, kernel_path(directory.as_os_str().as_bytes()))?;
    stage
        .claim("directory of handles", "openat", Action::FileOpen { file, access: Access::READ })
        .times(Times::AtLeastOnce);
    Ok(())
}

/// Opens a file without any path, as a file server does.
fn by_handle(dirfd: i32, name: &str) -> Result<i64> {
    #[repr(C, align(8))]
    struct Handle {
        bytes: u32,
        kind: i32,
        data: [u8; 128],
    }
    let mut handle = Handle { bytes: 128, kind: 0, data: [0; 128] };
    let mut mount = 0_i32;
    sys!(libc::SYS_name_to_handle_at, dirfd, c(name).as_ptr(), &raw mut handle, &raw mut mount, 0)?;
    // Needs a descriptor that is not O_PATH.
    let root = sys::owned(sys!(libc::SYS_openat, dirfd, c".".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY)?);
    Ok(sys!(libc::SYS_open_by_handle_at, root.as_raw_fd(), &raw mut handle, libc::O_RDONLY)?)
}

pub(crate) fn code(stage: &mut Stage) -> Result<()> {
    stage.close(&[]);
    for (step, protection, executable) in [
        ("code", libc::PROT_READ | libc::PROT_EXEC, true),
        ("only executable", libc::PROT_EXEC, true),
        ("data", libc::PROT_READ, false),
    ] {
        let path = stage.make(step)?;
        let text = path.as_os_str().as_bytes();
        let fd = openat(text, libc::O_RDONLY, 0)?;
        let file = Stage::file_behind(&fd, kernel_path(text))?;
        stage.claim(
            &format!("{step}: open"),
            "openat",
            Action::FileOpen { file: file.clone(), access: Access::READ },
        );
        let address = sys!(libc::SYS_mmap, 0, 4096, protection, libc::MAP_PRIVATE, fd.as_raw_fd(), 0)
            .with_context(|| format!("mmap for {step}; is the directory of the run on a noexec mount?"))?;
        sys!(libc::SYS_munmap, address, 4096)?;
        if executable {
            stage.claim(
                &format!("{step}: map"),
                "mmap",
                Action::FileOpen { file, access: Access::MAP_EXECUTE },
            );
        }
        // `data` is closed: a second event of it would be one that nothing explains.
    }
    Ok(())
}
