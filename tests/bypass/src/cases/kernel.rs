//! Getting at the kernel side of the watcher, and at its files: maps, pins, database, policy, settings of the kernel.

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
};

use anyhow::{Context, Result, ensure};

use super::{
    Case, HAPPENED, Proof, Target, case,
    steps::{read, unsupported},
};
use crate::{
    arena::{Class::Files, Tree},
    sys::{self, sys},
};

pub(super) const CASES: &[Case] = &[
    case("map-by-id", Files, Proof::Happened, |target| {
        let Some(id) = target.arena.map else { return unsupported("no bpf maps") };
        let map = bpf(BPF_MAP_GET_FD_BY_ID, &[u64::from(id)]).context("BPF_MAP_GET_FD_BY_ID")?;
        let (key, value) = (0_u32, 2_u64);
        update(&sys::owned(map), key, value)?;
        ensure!(
            lookup(&sys::owned(bpf(BPF_MAP_GET_FD_BY_ID, &[u64::from(id)])?), key)? == value,
            "not changed"
        );
        Ok(HAPPENED.to_vec())
    })
    .privileged(),
    case("map-create", Files, Proof::Happened, |_| {
        let map = make_map(7).context("BPF_MAP_CREATE")?;
        ensure!(lookup(&map, 0)? == 7, "not what was put in");
        Ok(HAPPENED.to_vec())
    })
    .privileged(),
    case("program-load", Files, Proof::Happened, |_| {
        // r0 = 0; exit. As a socket filter.
        let (code, licence) = ([0xb7_u64, 0x95], c"GPL");
        let attributes = [1 | (2 << 32), code.as_ptr() as u64, licence.as_ptr() as u64, 0, 0, 0, 0, 0, 0];
        let program = sys::owned(bpf(BPF_PROG_LOAD, &attributes).context("BPF_PROG_LOAD")?);
        let information = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
        ensure!(information.contains("prog_type:\t1"), "{information}");
        Ok(HAPPENED.to_vec())
    })
    .privileged(),
    case("pin-remove", Files, Proof::Happened, |target| {
        let pin = pin(target);
        fs::remove_file(&pin).with_context(|| format!("{}", pin.display()))?;
        Ok(HAPPENED.to_vec())
    })
    .set_up(|target| {
        let Some(map) = make_map(1) else { return unsupported("no bpf maps") };
        let path = sys::cpath(pin(target));
        match bpf(BPF_OBJ_PIN, &[path.as_ptr() as u64, map.as_raw_fd() as u64]) {
            Ok(_) => crate::arena::give(&pin(target), target.arena.uid),
            Err(error) => unsupported(format!("no bpf file system: {error}")),
        }
    }),
    case("database-edit", Files, Proof::Happened, |target| {
        changed(&target.arena.root.join(place(target, "audit.db")))
    })
    .set_up(|target| {
        if !target.arena.enrolled {
            fs::write(target.arena.root.join("state/audit.db"), "nobody writes an audit")?;
        }
        Ok(fs::write(target.arena.root.join("work/audit.db"), "an open twin")?)
    }),
    case("policy-edit", Files, Proof::Happened, |target| {
        changed(&target.arena.root.join(place(target, "policy.yaml")))
    })
    .set_up(|target| Ok(fs::write(target.arena.root.join("work/policy.yaml"), "# an open twin")?)),
    case("core-pattern", Files, Proof::Happened, |target| {
        // Written as it is: being able to is enough, and nothing of the machine changes.
        let name = if target.is_open() {
            "/proc/sys/kernel/printk_ratelimit"
        } else {
            "/proc/sys/kernel/core_pattern"
        };
        let file = fs::OpenOptions::new().read(true).write(true).open(name)?;
        let text = super::steps::read_fd(&file)?;
        let written = sys!(libc::SYS_pwrite64, file.as_raw_fd(), text.as_ptr(), text.len(), 0)?;
        ensure!(written as usize == text.len(), "{written} bytes were written");
        Ok(HAPPENED.to_vec())
    }),
    case("kcore", Files, Proof::Happened, |target| {
        let name = if target.is_open() { "/proc/self/auxv" } else { "/proc/kcore" };
        if fs::symlink_metadata("/proc/kcore").is_err() {
            return unsupported("no /proc/kcore");
        }
        let bytes = read(name)?;
        ensure!(target.is_open() || bytes.starts_with(b"\x7fELF"), "not the kernel's memory");
        ensure!(!bytes.is_empty(), "nothing there");
        Ok(HAPPENED.to_vec())
    }),
    case("module-load", Files, Proof::Happened, |target| {
        // Each tree has one of its own: both may try at the same time.
        let name = if target.tree == Tree::Inside { "dummy" } else { "ifb" };
        let Some((file, flags)) = module(name) else { return unsupported("no module to load") };
        sys!(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), flags).context("finit_module")?;
        let loaded =
            fs::read_to_string("/proc/modules")?.lines().any(|line| line.split(' ').next() == Some(name));
        let name = sys::c(name);
        let _ = sys!(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK);
        ensure!(loaded, "the kernel does not list it");
        Ok(HAPPENED.to_vec())
    })
    .privileged(),
    case("perf-event", Files, Proof::Happened, |_| {
        let mut attributes = [0_u8; 128];
        // A software event, its size, the task clock.
        attributes[..8].copy_from_slice(&[1, 0, 0, 0, 128, 0, 0, 0]);
        attributes[8] = 1;
        let opened = sys!(libc::SYS_perf_event_open, attributes.as_ptr(), 0, -1, -1, 8);
        let fd = sys::owned(super::steps::or_unsupported(opened, &[libc::ENOSYS], "perf_event_open")?);
        let mut count = 0_u64;
        ensure!(sys!(libc::SYS_read, fd.as_raw_fd(), &raw mut count, 8)? == 8, "nothing was counted");
        Ok(HAPPENED.to_vec())
    })
    .privileged(),
];

const BPF_MAP_CREATE: u32 = 0;
const BPF_MAP_LOOKUP_ELEM: u32 = 1;
const BPF_MAP_UPDATE_ELEM: u32 = 2;
const BPF_PROG_LOAD: u32 = 5;
const BPF_OBJ_PIN: u32 = 6;
const BPF_MAP_GET_FD_BY_ID: u32 = 14;

/// Modules of the running kernel, if somebody has put some there, and how to load one.
const MODULES: &str = "/usr/lib/suite-modules";

fn module(name: &str) -> Option<(OwnedFd, i32)> {
    // MODULE_INIT_COMPRESSED_FILE.
    let kinds = [(format!("{MODULES}/{name}.ko"), 0), (format!("{MODULES}/{name}.ko.xz"), 4)];
    kinds.into_iter().find_map(|(path, flags)| Some((sys::open(path, libc::O_RDONLY).ok()?, flags)))
}

/// Loads what other cases need: file systems and kinds of sockets. What is missing afterwards is skipped by name.
pub(crate) fn load_modules() {
    for name in ["overlay", "vsock", "af_alg", "nfnetlink"] {
        if let Some((file, flags)) = module(name) {
            let _ = sys!(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), flags);
        }
    }
}

/// bpf(2), with attributes as words.
fn bpf(command: u32, attributes: &[u64]) -> std::io::Result<i64> {
    let mut words = [0_u64; 16];
    words[..attributes.len()].copy_from_slice(attributes);
    sys!(libc::SYS_bpf, command, words.as_ptr(), 8 * attributes.len().max(4))
}

/// An array of one word.
pub(crate) fn make_map(value: u64) -> Option<OwnedFd> {
    // Type and key size, value size and entries.
    let map = sys::owned(bpf(BPF_MAP_CREATE, &[2 | (4 << 32), 8 | (1 << 32)]).ok()?);
    update(&map, 0, value).ok()?;
    Some(map)
}

/// The id by which others may find a map.
pub(crate) fn map_id(map: &OwnedFd) -> Option<u32> {
    let information = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd())).ok()?;
    information.lines().find_map(|line| line.strip_prefix("map_id:")?.trim().parse().ok())
}

fn update(map: &OwnedFd, key: u32, value: u64) -> Result<()> {
    let attributes = [map.as_raw_fd() as u64, &raw const key as u64, &raw const value as u64, 0];
    bpf(BPF_MAP_UPDATE_ELEM, &attributes).context("BPF_MAP_UPDATE_ELEM")?;
    Ok(())
}

fn lookup(map: &OwnedFd, key: u32) -> Result<u64> {
    let mut value = 0_u64;
    let attributes = [map.as_raw_fd() as u64, &raw const key as u64, &raw mut value as u64, 0];
    bpf(BPF_MAP_LOOKUP_ELEM, &attributes).context("BPF_MAP_LOOKUP_ELEM")?;
    Ok(value)
}

/// A pin of a map; one for each attempt.
fn pin(target: &Target) -> PathBuf {
    let name = target.arena.root.file_name().unwrap_or_default().to_string_lossy().replace('.', "-");
    PathBuf::from(format!("/sys/fs/bpf/{name}-{}{}", target.tree.name(), target.side.suffix()))
}

fn place(target: &Target, name: &str) -> String {
    format!("{}/{name}", if target.is_open() { "work" } else { "state" })
}

/// Opens a file for writing and appends nothing to it, so that it works for whoever reads it.
fn changed(path: &std::path::Path) -> Result<Vec<u8>> {
    // The tree outside may be here before the watcher is.
    sys::wait_until(60, || fs::symlink_metadata(path).is_ok());
    let file = sys::open(path, libc::O_WRONLY | libc::O_APPEND)?;
    // Its times change: the kernel has written to it.
    sys!(libc::SYS_utimensat, file.as_raw_fd(), 0, 0, 0)?;
    Ok(HAPPENED.to_vec())
}
