//! io_uring: the set-up only. What it does reaches the LSM hooks; at level `tracepoint` it is a stated blind spot.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use defenseclaw_ebpf::Kind;

use crate::{
    emit::{Record, Ring},
    scope,
};

#[btf_tracepoint(function = "io_uring_create")]
pub fn io_uring_create(ctx: BtfTracePointContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let Some(mut record) = Record::begin(Kind::IoUringSetup, &actor) else { return 0 };
    record
        .arg::<0>(ctx.arg::<u64>(2) & 0xffff_ffff)
        .arg::<1>(ctx.arg::<u64>(3) & 0xffff_ffff)
        .arg::<2>(ctx.arg::<u64>(4) & 0xffff_ffff);
    record.submit(Ring::Bulk);
    0
}
