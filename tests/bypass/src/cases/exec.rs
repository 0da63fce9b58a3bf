//! Running a program that must not run: by other names and calls, through the loader, an interpreter, memory; and copies of
//! it. The program itself prints its secret; reading its file is allowed.

use std::{
    fs,
    os::{
        fd::AsRawFd,
        unix::{fs::symlink, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Result, bail};

use super::{
    Case, Proof, Target, case,
    steps::{
        executable, executable_memory, execveat, jump, mount, or_unsupported, own_mounts, program, run,
        unsupported,
    },
};
use crate::{
    arena::Class::Programs,
    elf,
    sys::{self, c, sys},
};

pub(super) const CASES: &[Case] = &[
    case("exec", Programs, Proof::Secret, |target| run(&mut Command::new(path(target)))).set_up(made),
    case("exec-no-fork", Programs, Proof::Secret, |target| bail!(Command::new(path(target)).exec()))
        .set_up(made),
    case("exec-symlink", Programs, Proof::Secret, |target| {
        symlink(path(target), "link")?;
        run(&mut Command::new("./link"))
    })
    .set_up(made),
    case("exec-hard-link", Programs, Proof::Secret, |target| {
        fs::hard_link(path(target), "link")?;
        run(&mut Command::new("./link"))
    })
    .set_up(made),
    case("exec-hard-link-earlier", Programs, Proof::Secret, |target| {
        run(&mut Command::new(target.work.join("older")))
    })
    .set_up(|target| {
        made(target)?;
        Ok(fs::hard_link(path(target), target.work.join("older"))?)
    }),
    case("exec-renamed", Programs, Proof::Secret, |target| {
        fs::rename(path(target), "moved")?;
        run(&mut Command::new("./moved"))
    })
    .set_up(made),
    case("exec-bind-mount", Programs, Proof::Secret, |target| {
        own_mounts()?;
        fs::write("alias", "")?;
        mount(&path(target), Path::new("alias"), "none", libc::MS_BIND, "")?;
        run(&mut Command::new("./alias"))
    })
    .set_up(made),
    case("exec-proc-self-root", Programs, Proof::Secret, |target| {
        run(&mut Command::new(format!("/proc/self/root{}", path(target).display())))
    })
    .set_up(made),
    case("execveat-descriptor", Programs, Proof::Secret, |target| {
        execveat(&sys::open(path(target), libc::O_PATH)?)
    })
    .set_up(made),
    case("exec-proc-fd", Programs, Proof::Secret, |target| {
        let file = sys::open(path(target), libc::O_RDONLY)?;
        bail!(Command::new(format!("/proc/self/fd/{}", file.as_raw_fd())).exec())
    })
    .set_up(made),
    case("exec-thread", Programs, Proof::Secret, |target| {
        let path = path(target);
        let ended = thread::spawn(move || Command::new(path).exec()).join();
        bail!("{ended:?}")
    })
    .set_up(made),
    case("exec-shebang", Programs, Proof::Secret, |target| run(&mut Command::new(target.dir.join("script"))))
        .set_up(|target| {
            let text = format!("#!/bin/sh\necho {}\n", fs::read_to_string(target.secret())?);
            executable(&target.dir.join("script"), text.as_bytes())
        }),
    case("exec-as-interpreter", Programs, Proof::Secret, |target| {
        executable(Path::new("script"), format!("#!{}\n", path(target).display()).as_bytes())?;
        run(&mut Command::new("./script"))
    })
    .set_up(made),
    case("exec-loader", Programs, Proof::Secret, |target| run(Command::new(loader()?).arg(path(target))))
        .set_up(made),
    case("exec-preload", Programs, Proof::Secret, |target| {
        run(Command::new(target.arena.program()).arg("read").arg("/dev/null").env("LD_PRELOAD", path(target)))
    })
    .set_up(made),
    case("exec-audit-library", Programs, Proof::Secret, |target| {
        run(Command::new(target.arena.program()).arg("read").arg("/dev/null").env("LD_AUDIT", path(target)))
    })
    .set_up(made),
    case("exec-mapped", Programs, Proof::Secret, mapped).set_up(|target| {
        let code = elf::says(&fs::read(target.secret())?);
        executable(&target.dir.join("code"), &code)
    }),
    case("exec-userland", Programs, Proof::Secret, |target| {
        // Nothing of it is an exec for the kernel: bytes are read, and jumped to.
        let code = fs::read(target.dir.join("code"))?;
        jump(executable_memory(&code)?)
    })
    .set_up(|target| {
        let code = elf::says(&fs::read(target.secret())?);
        executable(&target.dir.join("code"), &code)
    }),
    case("exec-copy", Programs, Proof::Secret, |target| {
        executable(Path::new("copy"), &fs::read(path(target))?)?;
        run(&mut Command::new("./copy"))
    })
    .set_up(made),
    case("exec-interpreter-argument", Programs, Proof::Secret, |target| {
        run(Command::new("/bin/sh").arg(target.dir.join("script")))
    })
    .set_up(|target| {
        let text = format!("echo {}\n", fs::read_to_string(target.secret())?);
        executable(&target.dir.join("script"), text.as_bytes())
    }),
    case("exec-memfd", Programs, Proof::Secret, |target| {
        let memory = sys::owned(sys!(libc::SYS_memfd_create, c("x").as_ptr(), libc::MFD_CLOEXEC)?);
        fs::write(format!("/proc/self/fd/{}", memory.as_raw_fd()), fs::read(path(target))?)?;
        if target.is_open() {
            // The twin of a program without a name is one with a name.
            executable(Path::new("named"), &fs::read(path(target))?)?;
            return execveat(&sys::open("named", libc::O_RDONLY)?);
        }
        execveat(&memory)
    })
    .set_up(made),
    case("exec-deleted", Programs, Proof::Secret, |target| {
        executable(Path::new("copy"), &fs::read(path(target))?)?;
        let copy = sys::open("copy", libc::O_RDONLY)?;
        fs::remove_file("copy")?;
        execveat(&copy)
    })
    .set_up(made),
];

fn path(target: &Target) -> PathBuf {
    target.dir.join("program")
}

fn made(target: &Target) -> Result<()> {
    program(target, "program")
}

/// The loader of this very program.
fn loader() -> Result<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let found =
        maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|name| name.contains("/ld-"));
    match found {
        Some(found) => Ok(found.into()),
        None => unsupported("this program has no loader"),
    }
}

/// Maps the file itself as code.
fn mapped(target: &Target) -> Result<Vec<u8>> {
    let file = sys::open(target.dir.join("code"), libc::O_RDONLY)?;
    let protection = libc::PROT_READ | libc::PROT_EXEC;
    let at = sys!(libc::SYS_mmap, 0, 4096, protection, libc::MAP_PRIVATE, file.as_raw_fd(), 0);
    jump(or_unsupported(at, &[], "mmap as code")? as *const u8)
}
