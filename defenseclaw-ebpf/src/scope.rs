//! Which tasks are watched: enrolment, inherited at fork in the kernel, ended at exit.
//!
//! The map is not LRU: an agent cannot push itself out of it. It is keyed by thread group, so that every thread counts.
//! This file only answers questions; programs in `probes/process.rs` change it.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::map, maps::HashMap};
use defenseclaw_ebpf::Label;

use crate::shim::*;

/// Enrolled thread groups. The loader may enlarge it.
#[map]
pub static SCOPE: HashMap<u32, Label> = HashMap::with_max_entries(65_536, 0);

/// Cgroups whose sockets belong to a session; for programs that run without the task.
#[map]
pub static CGROUPS: HashMap<u64, Label> = HashMap::with_max_entries(1024, 0);

/// The current task, if it is enrolled.
#[derive(Clone, Copy)]
pub struct Actor {
    pub label: Label,
    pub tgid: u32,
    pub tid: u32,
}

/// The first question of every program.
#[inline(always)]
pub fn current() -> Option<Actor> {
    let id = bpf_get_current_pid_tgid();
    let tgid = (id >> 32) as u32;
    // SAFETY: the value is copied out at once; a concurrent writer only fills in `start_ns`.
    let label = unsafe { SCOPE.get(&tgid) }?;
    Some(Actor { label: *label, tgid, tid: id as u32 })
}

/// Whether a thread group is enrolled.
#[inline(always)]
pub fn contains(tgid: u32) -> bool {
    // SAFETY: the value is not read.
    unsafe { SCOPE.get(&tgid) }.is_some()
}

/// As [`start_ns`], of a task that the verifier knows.
#[inline(always)]
pub fn start_ns_direct(task: Ptr) -> u64 {
    shim_task_struct_start_boottime_direct(shim_task_struct_group_leader_direct(task))
}

/// Start of a process, from any of its threads. It stays the same when another thread than the leader executes.
#[inline(always)]
pub fn start_ns(task: Ptr) -> u64 {
    shim_task_struct_start_boottime(shim_task_struct_group_leader(task))
}
