//! Processes: enrolment follows fork before the child runs, and ends at exit. Attached at every level.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::generated::{bpf_loop, bpf_probe_read_user_str},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use defenseclaw_ebpf::{Count, ENV_MAX, Kind, Label, flags};

use crate::{
    emit::{Record, Ring, count, short},
    lsm::namespaces_that_differ,
    scope::{self, SCOPE},
    shim::*,
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
    let label = Label { start_ns: start, ..actor.label };
    if SCOPE.insert(u64::from(tgid), &label, 0).is_err() {
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
    short(Kind::ProcessFork, Ring::Priority, &actor, None, || [u64::from(tgid), start, changed, 0, 0, 0]);
    0
}

#[btf_tracepoint(function = "sched_process_exec")]
pub fn process_exec(ctx: BtfTracePointContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let Some(mut record) = Record::begin(Kind::ProcessExec, &actor) else { return 0 };
    let task: Ptr = ctx.arg(0);
    let program: Ptr = ctx.arg(2);
    let credentials = shim_task_struct_cred_direct(task);
    let parent = shim_task_struct_real_parent_direct(task);
    let memory = shim_task_struct_mm_direct(task);
    let exe = shim_mm_struct_exe_file_direct(memory);
    let inode = shim_file_inode_direct(exe);
    let directory = shim_task_struct_fs_direct(task);
    let (arguments, arguments_end) =
        (shim_mm_struct_arg_start_direct(memory), shim_mm_struct_arg_end_direct(memory));
    let argv_len = arguments_end.wrapping_sub(arguments);
    record
        .arg::<0>(pair(shim_cred_euid_direct(credentials), shim_cred_egid_direct(credentials)))
        .arg::<1>(u64::from(shim_super_block_dev_direct(shim_inode_sb_direct(inode))))
        .arg::<2>(shim_inode_ino_direct(inode))
        .arg::<3>(pair(shim_cred_gid_direct(credentials), shim_task_struct_tgid_direct(parent)))
        .arg::<4>(scope::start_ns_direct(parent))
        .arg::<5>(argv_len)
        .path_known(shim_file_dentry_direct(exe), shim_file_mnt_direct(exe))
        .path_known(shim_fs_struct_pwd_dentry_direct(directory), shim_fs_struct_pwd_mnt_direct(directory));
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
    let mut truncated = 0;
    record.filled(
        |to| {
            let mut search = Environment { at: start, end, to, used: 0, truncated: 0 };
            // SAFETY: `variable` has the signature the helper calls, and `search` outlives the call.
            unsafe { bpf_loop(VARIABLES, variable as *mut c_void, (&raw mut search).cast(), 0) };
            if search.truncated != 0 || search.at < end {
                truncated = flags::TRUNCATED;
            }
            i64::from(search.used)
        },
        0,
    );
    record.flag_last(truncated);
    record.submit(Ring::Priority);
    0
}

/// Environment strings that are looked at.
const VARIABLES: u32 = 512;
/// Longest string that is kept.
const VARIABLE_MAX: u32 = 256;
/// Longest string that is skipped over in one step.
const SKIP_MAX: u32 = 4096;

/// First eight bytes of the names that may carry an agent's session or call id. User space keeps exact names only; this
/// is to leave everything else, secrets first of all, in the process.
const PREFIXES: [[u8; 8]; 6] =
    [*b"CLAUDE_C", *b"CODEX_TH", *b"CODEX_TO", *b"CODEX_SE", *b"GEMINI_S", *b"DEFENSEC"];

struct Environment {
    at: u64,
    end: u64,
    to: *mut u8,
    used: u32,
    truncated: u32,
}

/// One environment string. Returns 1 to stop.
unsafe extern "C" fn variable(_index: u64, context: *mut c_void) -> i64 {
    // SAFETY: the helper passes the `Environment` that `process_exec` gave it.
    let search = unsafe { &mut *context.cast::<Environment>() };
    if search.at >= search.end {
        return 1;
    }
    let used = search.used & (ENV_MAX as u32 - 1);
    // SAFETY: the caller left STRING_MAX bytes behind `to`; `used` is below ENV_MAX and at most SKIP_MAX - ENV_MAX
    // bytes are written behind it.
    let to = unsafe { search.to.add(used as usize) };
    // The string goes where it would be kept; the next one overwrites it unless it is.
    // SAFETY: as above; the helper checks the source.
    let size = unsafe {
        bpf_probe_read_user_str(to.cast(), SKIP_MAX - ENV_MAX as u32 - 1, search.at as *const c_void)
    };
    if size <= 0 {
        search.truncated = 1;
        return 1;
    }
    search.at += size as u64;
    if size <= 8 {
        return 0;
    }
    // SAFETY: nine bytes at least were just written there.
    let start = unsafe { to.cast::<u64>().read_unaligned() };
    let mut wanted = false;
    for prefix in PREFIXES {
        wanted |= start == u64::from_ne_bytes(prefix);
    }
    if !wanted {
        return 0;
    }
    if size as u32 > VARIABLE_MAX || used + size as u32 >= ENV_MAX as u32 {
        search.truncated = 1;
        return 0;
    }
    search.used = used + size as u32;
    0
}

#[btf_tracepoint(function = "sched_process_exit")]
pub fn process_exit(ctx: BtfTracePointContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let task: Ptr = ctx.arg(0);
    let group = shim_task_struct_signal_direct(task);
    if shim_signal_struct_live_direct(group) != 0 {
        return 0;
    }
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
    short(Kind::ProcessExit, Ring::Priority, &actor, None, || [status as u32 as u64, 0, 0, 0, 0, 0]);
    0
}
