//! Which tasks are watched: enrolment, inherited at fork in the kernel, ended at exit.
//!
//! The map is not LRU: an agent cannot push itself out of it. It is keyed by thread group, so that every thread counts.
//! This file only answers questions; programs in `probes/process.rs` change it.

use aya_ebpf::{helpers::generated::bpf_get_current_task_btf, macros::map, maps::HashMap};
use defenseclaw_ebpf::{Label, RESERVED};

use crate::shim::*;

/// Enrolled thread groups. The loader may enlarge it. The id is widened, because the kernel compares eight bytes in fewer
/// instructions than four.
#[map]
pub static SCOPE: HashMap<u64, Label> = HashMap::with_max_entries(65_536, 0);

/// Cgroups whose sockets belong to a session; for programs that run without the task.
#[map]
pub static CGROUPS: HashMap<u64, Label> = HashMap::with_max_entries(1024, 0);

/// The current task, if it is enrolled.
#[derive(Clone, Copy)]
pub struct Actor {
    /// In the map, where it stays as long as the task is enrolled; a concurrent writer only fills in `start_ns`.
    pub label: *const Label,
    pub tgid: u32,
    /// The task, known to the verifier.
    pub task: Ptr,
}

/// The first question of every program, and for most tasks the last: each instruction here is paid by all of them.
#[inline(always)]
pub fn current() -> Option<Actor> {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task_btf() } as Ptr;
    let tgid = shim_task_struct_tgid_direct(task);
    let label = SCOPE.get_ptr(u64::from(tgid))?;
    Some(Actor { label, tgid, task })
}

/// Whether a thread group is enrolled.
#[inline(always)]
pub fn contains(tgid: u32) -> bool {
    // SAFETY: the value is not read.
    unsafe { SCOPE.get(u64::from(tgid)) }.is_some()
}

/// Takes room for a child of the current thread; false if there is none. What is left of a fork that failed goes with the
/// thread's next one, or with its end.
#[inline(always)]
pub fn reserve(actor: &Actor) -> bool {
    let thread = u64::from(shim_task_struct_pid_direct(actor.task));
    // SAFETY: the label is that of the current task, which stays enrolled while it forks. Nobody looks at the copy.
    SCOPE.insert(thread | RESERVED, unsafe { &*actor.label }, 0).is_ok()
}

/// Gives back what [`reserve`] took, if anything.
#[inline(always)]
pub fn unreserve(task: Ptr) {
    let thread = u64::from(shim_task_struct_pid_direct(task));
    SCOPE.remove(thread | RESERVED).ok();
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
