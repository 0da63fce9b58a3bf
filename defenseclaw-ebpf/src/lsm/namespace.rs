//! New processes and new namespaces, where they can still be refused. Attached only where policy judges: what is permitted
//! is recorded where it is done, by `probes/process.rs` and `switch_task_namespaces`.
//!
//! No hook is asked about `unshare` and `setns` as such. Both need CAP_SYS_ADMIN over the user namespace concerned, so
//! `capable` is asked, in the system call of that number.

use aya_ebpf::{helpers::generated::bpf_task_pt_regs, macros::lsm, programs::LsmContext};
use defenseclaw_ebpf::{Kind, image::privilege, namespace};

use crate::{
    emit::{Record, Ring, short},
    scope::{self, Actor},
    shim::*,
    verdict::{self, Judged},
};

const CAP_SYS_ADMIN: u64 = 21;
const CLONE_THREAD: u64 = 0x1_0000;
/// `CLONE_NEW*` but for user namespaces, which have a hook of their own.
const NAMESPACES: u64 = 0x6e02_0080;
const EAGAIN: i32 = 11;

/// `TS_COMPAT`: the call came through the 32-bit entry, which has other numbers.
const TS_COMPAT: u32 = 2;
/// `__X32_SYSCALL_BIT`.
const X32: u64 = 0x4000_0000;
const UNSHARE: u64 = 272;
const SETNS: u64 = 308;
const UNSHARE_32: u64 = 310;
const SETNS_32: u64 = 346;

/// The start of a process, or of a thread.
#[lsm(hook = "task_alloc")]
pub fn task_alloc(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let flags: u64 = ctx.arg(1);
    if flags & CLONE_THREAD != 0 {
        return 0;
    }
    let Some(policy) = verdict::policy(&actor) else { return 0 };
    if !policy.judges() {
        return 0;
    }
    if flags & NAMESPACES != 0 {
        let answer =
            refuse(&actor, namespace::CLONE, flags & NAMESPACES, &policy.privilege(privilege::NAMESPACE));
        if answer != 0 {
            return answer;
        }
    }
    if !scope::reserve(&actor) && policy.blocks_anything() {
        // A child that cannot be watched could do whatever policy forbids.
        let judged = Judged::REFUSED;
        short(Kind::ProcessFork, Ring::Priority, &actor, None, &judged, || [0; 6]);
        return -EAGAIN;
    }
    0
}

#[lsm(hook = "capable")]
pub fn capable(ctx: LsmContext) -> i32 {
    // Before the question that all programs begin with: most checks are of other capabilities.
    if ctx.arg::<u64>(2) & 0xffff_ffff != CAP_SYS_ADMIN {
        return 0;
    }
    let Some(actor) = scope::current() else { return 0 };
    let Some(policy) = verdict::policy(&actor) else { return 0 };
    if !policy.judges() {
        return 0;
    }
    let compat = shim_task_struct_thread_status_exists(actor.task)
        && shim_task_struct_thread_status_direct(actor.task) & TS_COMPAT != 0;
    // SAFETY: the task is the current one, known to the verifier.
    let registers = unsafe { bpf_task_pt_regs(actor.task.cast()) } as Ptr;
    let number = shim_pt_regs_nr_direct(registers) & 0xffff_ffff;
    let number = if compat { number } else { number & !X32 };
    let (unshare, setns) = if compat { (UNSHARE_32, SETNS_32) } else { (UNSHARE, SETNS) };
    let (operation, wanted) = if number == unshare {
        // In the 32-bit entry arguments lie in other registers.
        (namespace::UNSHARE, if compat { 0 } else { shim_pt_regs_arg0_direct(registers) })
    } else if number == setns {
        (namespace::SETNS, if compat { 0 } else { shim_pt_regs_arg1_direct(registers) })
    } else {
        return 0;
    };
    refuse(&actor, operation, wanted & NAMESPACES, &policy.privilege(privilege::NAMESPACE))
}

/// Records what is refused, and is what the program returns.
#[inline(always)]
fn refuse(actor: &Actor, operation: u64, namespaces: u64, judged: &Judged) -> i32 {
    if !judged.blocks() && !judged.asks() {
        return 0;
    }
    let Some(mut record) = Record::begin(Kind::Namespace, actor) else { return judged.carry_out() };
    record.arg::<0>(operation).arg::<1>(namespaces);
    record.submit_judged(judged)
}
