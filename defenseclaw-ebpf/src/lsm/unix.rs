//! Unix sockets, by the name of the other end as the kernel knows it.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use defenseclaw_ebpf::image::effect;

use crate::{
    scope,
    shim::*,
    sockaddr::{AF_UNIX, socket_word, unix_record},
    verdict,
};

#[inline(always)]
fn connect(socket: Ptr, other: Ptr, datagram: u64) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let Some(policy) = verdict::policy(&actor) else { return 0 };
    let Some((mut record, judged)) = unix_record(&actor, other, &policy) else {
        return policy.blind(effect::UNIX).carry_out();
    };
    record.arg::<0>(socket_word(socket, AF_UNIX)).arg::<1>(datagram);
    record.submit_judged(&judged)
}

#[lsm(hook = "unix_stream_connect")]
pub fn unix_stream_connect(ctx: LsmContext) -> i32 {
    connect(ctx.arg(0), ctx.arg(1), 0)
}

/// A datagram, or the connect of a datagram socket.
#[lsm(hook = "unix_may_send")]
pub fn unix_may_send(ctx: LsmContext) -> i32 {
    if scope::current().is_none() {
        return 0;
    }
    let other = shim_socket_sk(ctx.arg(1));
    // The other end of a socket pair has neither path nor address: nothing was reached by name.
    if shim_unix_sock_addr(other).is_null() {
        return 0;
    }
    connect(shim_socket_sk(ctx.arg(0)), other, 1)
}
