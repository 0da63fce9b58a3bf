//! Descriptors that send signals: the kernel sends one to whoever `F_SETOWN` names when input is there, and `F_SETSIG`
//! says which. No `kill` is called then, and the sender may be an interrupt, so what is judged is the naming. Attached only
//! where policy judges.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use defenseclaw_ebpf::{Kind, image::privilege};

use crate::{emit::Record, scope, verdict};

const F_SETOWN: u32 = 8;
const F_SETOWN_EX: u32 = 15;
const FIOSETOWN: u32 = 0x8901;
const SIOCSPGRP: u32 = 0x8902;
/// What is sent unless `F_SETSIG` says otherwise.
const SIGIO: u64 = 29;

#[lsm(hook = "file_fcntl")]
pub fn file_fcntl(ctx: LsmContext) -> i32 {
    // Before the question that all programs begin with: descriptors are asked for their flags all the time.
    let command = ctx.arg::<u64>(1) as u32;
    if command == F_SETOWN {
        let who = ctx.arg::<u64>(2) as i32;
        // 0 takes the name away.
        return if who == 0 { 0 } else { named(who) };
    }
    if command == F_SETOWN_EX { named(0) } else { 0 }
}

#[lsm(hook = "file_ioctl")]
pub fn file_ioctl(ctx: LsmContext) -> i32 {
    ioctl(ctx.arg::<u64>(1) as u32)
}

/// The same, from a 32-bit program; before Linux 6.8 those reach `file_ioctl`.
#[lsm(hook = "file_ioctl_compat")]
pub fn file_ioctl_compat(ctx: LsmContext) -> i32 {
    ioctl(ctx.arg::<u64>(1) as u32)
}

#[inline(always)]
fn ioctl(command: u32) -> i32 {
    if command == FIOSETOWN || command == SIOCSPGRP { named(0) } else { 0 }
}

/// A process by its number; 0 where the number lies in memory that the caller can still change, so that it cannot be
/// believed. A group of processes is a negative number: nothing says that all of them are of the tree.
#[inline(always)]
fn named(who: i32) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let Some(policy) = verdict::policy(&actor) else { return 0 };
    if !policy.judges() || who > 0 && scope::contains(who as u32) {
        return 0;
    }
    let judged = policy.privilege(privilege::SIGNAL);
    if !judged.is_notable() {
        return 0;
    }
    let Some(mut record) = Record::begin(Kind::Signal, &actor) else { return judged.carry_out() };
    record.arg::<0>(SIGIO).arg::<1>(if who > 0 { who as u64 } else { 0 });
    record.submit_judged(&judged)
}
