//! Which sets of executables the enrolled processes belong to. The kernel asks when a program starts; for sets that are
//! newer than a process, it is asked here.

use std::{fs, os::unix::ffi::OsStrExt};

use aya::maps::{HashMap, MapData};

use super::{maps::LabelPod, owners::Registry};

/// Times a process is looked at again because it has started another program meanwhile.
const ATTEMPTS: usize = 3;
/// `BPF_EXIST`: only if it is still enrolled.
const EXIST: u64 = 2;

/// Brings the labels of all enrolled processes up to date. One that has ended, or that cannot be read, is left out: it
/// stays spared by the sets it was in before, and the next program it starts is looked at by the kernel.
pub(super) fn refresh(scope: &mut HashMap<MapData, u64, LabelPod>, registry: &Registry) -> usize {
    let processes: Vec<u64> = scope.keys().filter_map(Result::ok).collect();
    processes.into_iter().filter(|process| refresh_one(scope, registry, *process)).count()
}

fn refresh_one(scope: &mut HashMap<MapData, u64, LabelPod>, registry: &Registry, process: u64) -> bool {
    for _ in 0..ATTEMPTS {
        let (Some(exe), Ok(LabelPod(mut label))) = (executable(process), scope.get(&process, 0)) else {
            return false;
        };
        let before = (label.owner, label.parent_owner);
        let inherited = registry.inherited();
        label.owner = registry.mask(&exe) | label.owner & inherited;
        if let Some(parent) = parent(process).and_then(executable) {
            label.parent_owner = registry.mask(&parent) | label.parent_owner & inherited;
        }
        if (label.owner, label.parent_owner) == before {
            return false;
        }
        if scope.insert(process, LabelPod(label), EXIST).is_err() {
            return false;
        }
        // If it has started another program since, the kernel's word about that one may just have been overwritten.
        if executable(process).is_none_or(|now| now == exe) {
            return true;
        }
    }
    true
}

/// Path of the program a process runs.
fn executable(process: u64) -> Option<Vec<u8>> {
    let link = fs::read_link(format!("/proc/{process}/exe")).ok()?;
    let path = link.as_os_str().as_bytes();
    Some(path.strip_suffix(b" (deleted)").unwrap_or(path).to_vec())
}

fn parent(process: u64) -> Option<u64> {
    let status = fs::read(format!("/proc/{process}/status")).ok()?;
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"PPid:\t"))?;
    std::str::from_utf8(line).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_program_and_a_parent() {
        let own = u64::from(std::process::id());
        assert_eq!(executable(own).unwrap(), std::env::current_exe().unwrap().as_os_str().as_bytes());
        assert_eq!(parent(own), u64::try_from(nix::unistd::getppid().as_raw()).ok());
        assert_eq!(executable(u64::MAX), None);
    }
}
