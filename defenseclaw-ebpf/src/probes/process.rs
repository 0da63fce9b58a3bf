//! Processes: enrolment follows fork before the child runs, and ends at exit. Attached at every level.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use defenseclaw_ebpf::{Count, Kind, Label};

use super::environment;
use crate::{
    emit::{Record, Ring, count, short},
    lsm::{file::start, namespaces_that_differ},
    pause,
    scope::{self, Actor, SCOPE},
    shim::*,
    verdict::{self, Judged},
};

const CLONE_NEWUSER: u64 = 0x1000_0000;
/// `SIGNAL_GROUP_EXIT`: the whole group ends with `group_exit_code`.
const SIGNAL_GROUP_EXIT: u32 = 4;

#[inline(always)]
fn pair(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

#[btf_tracepoint(function = "sched_process_fork")]
pub fn process_fork(ctx: BtfTracePointContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let child: Ptr = ctx.arg(1);
    let tgid = shim_task_struct_tgid_direct(child);
    if tgid == actor.tgid {
        // A thread: enrolled with its group.
        return 0;
    }
    let start = shim_task_struct_start_boottime_direct(child);
    // SAFETY: the label is that of the current task, which stays enrolled while it forks.
    let label = unsafe { Label { start_ns: start, parent_owner: (*actor.label).owner, ..*actor.label } };
    let judges = verdict::policy(&actor).is_some_and(|policy| policy.judges());
    let mut full = SCOPE.insert(u64::from(tgid), &label, 0).is_err();
    if judges {
        // The last place is the one that `task_alloc` has taken for this child. Between the two steps another processor may
        // get it: then this is one of the losses below.
        scope::unreserve(actor.task);
        if full {
            full = SCOPE.insert(u64::from(tgid), &label, 0).is_err();
        }
    }
    if full {
        // The child is not watched: that is the alarm, and user space refuses to be quiet about it.
        count(Kind::ProcessFork, Count::Seen);
        count(Kind::ProcessFork, Count::MapFull);
        return 0;
    }
    let (ours, theirs) =
        (shim_task_struct_nsproxy_direct(ctx.arg(0)), shim_task_struct_nsproxy_direct(child));
    let mut changed = if ours == theirs { 0 } else { namespaces_that_differ(ours, theirs) };
    let (ours, theirs) = (shim_task_struct_cred_direct(ctx.arg(0)), shim_task_struct_cred_direct(child));
    if ours != theirs && shim_cred_user_ns_direct(ours) != shim_cred_user_ns_direct(theirs) {
        changed |= CLONE_NEWUSER;
    }
    short(Kind::ProcessFork, Ring::Priority, &actor, None, &Judged::NOTHING, || {
        [u64::from(tgid), start, changed, 0, 0, 0]
    });
    0
}

#[btf_tracepoint(function = "sched_process_exec")]
pub fn process_exec(ctx: BtfTracePointContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let task: Ptr = ctx.arg(0);
    let program: Ptr = ctx.arg(2);
    let credentials = shim_task_struct_cred_direct(task);
    let parent = shim_task_struct_real_parent_direct(task);
    let memory = shim_task_struct_mm_direct(task);
    // By now the same as the file of `memory`, and the verifier lets it be loaded from at less cost.
    let exe = shim_linux_binprm_file_direct(program);
    let inode = shim_file_inode_direct(exe);
    let directory = shim_task_struct_fs_direct(task);
    let (arguments, arguments_end) =
        (shim_mm_struct_arg_start_direct(memory), shim_mm_struct_arg_end_direct(memory));
    let argv_len = arguments_end.wrapping_sub(arguments);
    let (dentry, mnt) = (shim_file_dentry_direct(exe), shim_file_mnt_direct(exe));
    let Some(policy) = verdict::policy(&actor) else { return 0 };
    let Some(mut record) = Record::about_known(Kind::ProcessExec, &actor, dentry, mnt, &policy) else {
        verdict::forget_owner(&actor);
        return 0;
    };
    if policy.judges() {
        record.learn_owner(&actor);
    }
    let asks = policy.asks() && pause::started(&mut record, &actor);
    record
        .arg::<0>(pair(shim_cred_euid_direct(credentials), shim_cred_egid_direct(credentials)))
        .arg::<1>(u64::from(shim_super_block_dev_direct(shim_inode_sb_direct(inode))))
        .arg::<2>(shim_inode_ino_direct(inode))
        .arg::<3>(pair(shim_cred_gid_direct(credentials), shim_task_struct_tgid_direct(parent)))
        .arg::<4>(scope::start_ns_direct(parent))
        .arg::<5>(argv_len)
        .path_known(
            &actor,
            shim_fs_struct_pwd_dentry_direct(directory),
            shim_fs_struct_pwd_mnt_direct(directory),
        );
    let filename = shim_linux_binprm_filename_direct(program);
    let interpreter = shim_linux_binprm_interp_direct(program);
    record.kernel_str(filename.cast());
    if filename == interpreter {
        record.none();
    } else {
        record.kernel_str(interpreter.cast());
    }
    record.user_bytes(arguments as *const u8, argv_len);
    let (start, end) = (shim_mm_struct_env_start_direct(memory), shim_mm_struct_env_end_direct(memory));
    environment::put(&mut record, start, end);
    let handed_over = record.hand_over(Ring::Priority);
    if asks {
        pause::hold(&actor, handed_over);
    }
    0
}

/// A program has started, and nobody was asked before: level `tracepoint`. Runs before `process_exec`.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn process_start(ctx: BtfTracePointContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let Some(policy) = verdict::policy(&actor) else { return 0 };
    if policy.asks() {
        pause::pause_forget_start();
        start(&actor, shim_linux_binprm_file_direct(ctx.arg(2)));
    }
    0
}

#[btf_tracepoint(function = "sched_process_exit")]
pub fn process_exit(ctx: BtfTracePointContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let task: Ptr = ctx.arg(0);
    if verdict::policy(&actor).is_some_and(|policy| policy.judges()) {
        scope::unreserve(task);
    }
    let group = shim_task_struct_signal_direct(task);
    if shim_signal_struct_live_direct(group) != 0 {
        return 0;
    }
    // SAFETY: the label is that of the current task. Copied, because it is about to leave the map.
    let label = unsafe { *actor.label };
    // The last two threads can both see no other one alive: who removes the label reports the exit.
    if SCOPE.remove(u64::from(actor.tgid)).is_err() {
        return 0;
    }
    let status = if shim_signal_struct_flags_direct(group) & SIGNAL_GROUP_EXIT != 0 {
        shim_signal_struct_group_exit_code_direct(group)
    } else {
        // What wait(2) reports then is the leader's, even if it ended before.
        shim_task_struct_exit_code_direct(shim_task_struct_group_leader_direct(task))
    };
    let actor = Actor { label: &raw const label, ..actor };
    short(Kind::ProcessExit, Ring::Priority, &actor, None, &Judged::NOTHING, || {
        [status as u32 as u64, 0, 0, 0, 0, 0]
    });
    0
}
