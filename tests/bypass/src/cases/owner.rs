//! Being, or looking like, the executable that a rule spares.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::{ptrace, wait::waitpid},
    unistd::{ForkResult, Pid, fork},
};

use super::{
    Case, Proof, Target, case,
    steps::{bytes, executable, executable_memory, in_child, jump, mount, own_mounts, read, run},
};
use crate::{
    arena::Class::Owned,
    elf,
    sys::{self, c, sys},
};

pub(super) const CASES: &[Case] = &[
    case("not-the-owner", Owned, Proof::Secret, |target| read(target.secret())),
    case("comm-spoof", Owned, Proof::Secret, |target| {
        let name = c("owner");
        sys!(libc::SYS_prctl, libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0)?;
        read(target.secret())
    }),
    case("argv0-spoof", Owned, Proof::Secret, |target| {
        let owner = target.arena.owner();
        run(Command::new(target.arena.program()).arg0(owner).arg("read").arg(target.secret()))
    }),
    case("same-name-elsewhere", Owned, Proof::Secret, |target| {
        fs::create_dir("bin")?;
        fs::copy(target.arena.program(), "bin/owner")?;
        run(Command::new("bin/owner").arg("read").arg(target.secret()))
    }),
    case("owner-by-loader", Owned, Proof::Secret, |target| {
        // The loader is the executable then, whatever its argument is called.
        let maps = fs::read_to_string("/proc/self/maps")?;
        let loader =
            maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|name| name.contains("/ld-"));
        run(Command::new(loader.context("no loader")?)
            .arg("--argv0")
            .arg(target.arena.owner())
            .arg(target.arena.program())
            .arg("read")
            .arg(target.secret()))
    }),
    case("owner-bind-mount", Owned, Proof::Secret, |target| {
        own_mounts()?;
        mount(&target.arena.program(), &target.arena.owner(), "none", libc::MS_BIND, "")?;
        run(Command::new(target.arena.owner()).arg("read").arg(target.secret()))
    })
    .privileged(),
    case("owner-replaced", Owned, Proof::Secret, |target| {
        // Everybody's executable: what is put in its place must do the same.
        let (owner, aside) = (target.arena.root.join("bin/replaced"), Path::new("replacement"));
        fs::copy(target.arena.program(), aside)?;
        if !target.is_open() {
            fs::rename(aside, &owner).or_else(|_| fs::copy(target.arena.program(), &owner).map(drop))?;
            return run(Command::new(&owner).arg("read").arg(target.secret()));
        }
        run(Command::new(target.work.join(aside)).arg("read").arg(target.secret()))
    })
    .set_up(|target| {
        // A second one, since others need the first; of the acting user, so that only policy protects it.
        let path = target.arena.root.join("bin/replaced");
        fs::copy(target.arena.program(), &path)?;
        crate::arena::give(&path, target.arena.uid)?;
        crate::arena::give(path.parent().context("parent")?, target.arena.uid)
    }),
    case("exe-spoof", Owned, Proof::Secret, spoofed_exe),
    case("owner-arguments", Owned, Proof::Secret, |target| {
        run(Command::new(target.arena.owner()).arg("read").arg(target.secret()))
    }),
    case("owner-preload", Owned, Proof::Secret, |target| {
        executable(Path::new("lib.so"), &elf::file(&elf::reads(bytes(&target.secret()), &[])))?;
        let library = target.work.join("lib.so");
        run(Command::new(target.arena.owner()).arg("read").arg("/dev/null").env("LD_PRELOAD", library))
    }),
    case("owner-ptrace", Owned, Proof::Secret, injected),
    case("owner-child", Owned, Proof::Secret, |target| {
        // What the owner starts is not the owner.
        run(Command::new(target.arena.owner()).arg("start").arg(target.arena.program()).arg(target.secret()))
    }),
];

/// Points `/proc/self/exe` to the owner without running it: unmaps this program from code that lies elsewhere, and asks.
fn spoofed_exe(target: &Target) -> Result<Vec<u8>> {
    let owner = sys::open(target.arena.owner(), libc::O_RDONLY)?;
    let exe = fs::read_link("/proc/self/exe")?;
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mut ranges = Vec::new();
    for line in maps.lines().filter(|line| line.ends_with(&exe.display().to_string())) {
        let (start, end) = line.split(' ').next().and_then(|range| range.split_once('-')).context("maps")?;
        ranges.push((u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?));
    }
    let (start, end) = (ranges.iter().map(|range| range.0).min(), ranges.iter().map(|range| range.1).max());
    let (start, end) = (start.context("not mapped")?, end.context("not mapped")?);
    let fd = std::os::fd::AsRawFd::as_raw_fd(&owner) as u64;
    let (set_mm, set_exe) = (libc::PR_SET_MM as u64, libc::PR_SET_MM_EXE_FILE as u64);
    let code = elf::reads(
        bytes(&target.secret()),
        &[(libc::SYS_munmap, [start, end - start, 0, 0, 0]), (libc::SYS_prctl, [set_mm, set_exe, fd, 0, 0])],
    );
    jump(executable_memory(&code)?)
}

/// A child becomes the owner under our eyes, and gets other code before its first instruction.
fn injected(target: &Target) -> Result<Vec<u8>> {
    let code = elf::reads(bytes(&target.secret()), &[]);
    in_child(|| {
        let output = nix::unistd::pipe()?;
        // SAFETY: this process has one thread.
        match unsafe { fork() }? {
            ForkResult::Child => {
                let _ = nix::unistd::dup2_stdout(&output.1);
                let _ = ptrace::traceme();
                let error = Command::new(target.arena.owner()).stdin(Stdio::null()).exec();
                eprintln!("{error}");
                sys::exit_now(1)
            }
            ForkResult::Parent { child } => {
                drop(output.1);
                inject(child, &code)?;
                let mut text = Vec::new();
                std::io::Read::read_to_end(&mut fs::File::from(output.0), &mut text)?;
                let _ = waitpid(child, None);
                ensure!(!text.is_empty(), "the injected code said nothing");
                Ok(text)
            }
        }
    })
}

fn inject(child: Pid, code: &[u8]) -> Result<()> {
    waitpid(child, None)?;
    let registers = ptrace::getregs(child)?;
    for (at, word) in code.chunks(8).enumerate() {
        let mut bytes = [0_u8; 8];
        bytes[..word.len()].copy_from_slice(word);
        let to = (registers.rip + 8 * at as u64) as ptrace::AddressType;
        ptrace::write(child, to, i64::from_ne_bytes(bytes)).context("PTRACE_POKETEXT")?;
    }
    ptrace::detach(child, None).context("PTRACE_DETACH")
}
