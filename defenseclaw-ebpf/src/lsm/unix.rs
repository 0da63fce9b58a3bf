//! Unix sockets, by the name of the other end as the kernel knows it.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use defenseclaw_ebpf::Kind;

use crate::{
    emit::{Record, Ring},
    scope,
    shim::*,
    sockaddr::{AF_UNIX, socket_word, unix_name},
};

#[lsm(hook = "unix_stream_connect")]
pub fn unix_stream_connect(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let Some(mut record) = Record::begin(Kind::UnixConnect, &actor) else { return 0 };
    record.arg::<0>(socket_word(ctx.arg(0), AF_UNIX));
    unix_name(&mut record, ctx.arg(1));
    record.submit(Ring::Bulk);
    0
}

/// A datagram, or the connect of a datagram socket.
#[lsm(hook = "unix_may_send")]
pub fn unix_may_send(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let other = shim_socket_sk(ctx.arg(1));
    // The other end of a socket pair has neither path nor address: nothing was reached by name.
    if shim_unix_sock_addr(other).is_null() {
        return 0;
    }
    let Some(mut record) = Record::begin(Kind::UnixConnect, &actor) else { return 0 };
    record.arg::<0>(socket_word(shim_socket_sk(ctx.arg(0)), AF_UNIX)).arg::<1>(1);
    unix_name(&mut record, other);
    record.submit(Ring::Bulk);
    0
}
