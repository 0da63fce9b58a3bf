//! Internet sockets, and every other family by number. Unix sockets are in `lsm/unix.rs`.

use aya_ebpf::{helpers::generated::bpf_probe_read_kernel, macros::lsm, programs::LsmContext};
use defenseclaw_ebpf::Kind;

use crate::{
    emit::{Ring, short},
    scope::{self, Actor},
    shim::*,
    sockaddr::{AF_INET, AF_INET6, AF_UNIX, Address, socket_word_direct},
};

/// The kernel's copy of a socket address, wherever it is.
#[inline(always)]
fn read_address(from: Ptr, len: i32) -> Option<Address> {
    let mut address = Address::EMPTY;
    let mut size = len as u32;
    if size > Address::SIZE {
        size = Address::SIZE;
    }
    // SAFETY: the size is at most that of the destination; the helper checks the source.
    let failed = unsafe { bpf_probe_read_kernel((&raw mut address).cast(), size & 31, from) };
    if failed == 0 { Some(address) } else { None }
}

/// An operation on the address `from`, which is an argument of the hook and `len` bytes long, as `socket` is.
#[inline(always)]
fn operation(kind: Kind, actor: &Actor, socket: Ptr, from: Ptr, len: i32) {
    // As unsigned it needs no extension of its sign, and the kernel accepts no negative length.
    if (len as u32) < 2 {
        return;
    }
    // The hook has the plain address in reach for IPv4, and that is cheaper than a copy.
    let family = shim_sockaddr_family_direct(from);
    if family == AF_UNIX || kind == Kind::NetBind && family != AF_INET && family != AF_INET6 {
        return;
    }
    if family != AF_INET6 && shim_sockaddr_is_known() {
        short(kind, Ring::Bulk, actor, None, || {
            // Behind `len` the kernel's copy holds whatever was on its stack.
            let rest = if len < 8 { 0 } else { shim_sockaddr_rest_direct(from) };
            let rest = if family == AF_INET { rest } else { 0 };
            [word(socket, family), u64::from(u16::from_be(rest as u16)), rest >> 16 & 0xffff_ffff, 0, 0, 0]
        });
    } else if let Some(address) = read_address(from, len) {
        record(kind, actor, socket, &address, 0);
    }
}

/// Socket word of a socket that the verifier knows.
#[inline(always)]
fn word(socket: Ptr, family: u16) -> u64 {
    let sk = shim_socket_sk_direct(socket);
    if sk.is_null() { u64::from(family) } else { socket_word_direct(sk, family) }
}

#[inline(always)]
fn record(kind: Kind, actor: &Actor, socket: Ptr, address: &Address, bytes: u64) {
    short(kind, Ring::Bulk, actor, None, || address.args(word(socket, address.family), bytes));
}

#[lsm(hook = "socket_connect")]
pub fn socket_connect(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    operation(Kind::NetConnect, &actor, ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}

#[lsm(hook = "socket_bind")]
pub fn socket_bind(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    operation(Kind::NetBind, &actor, ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}

/// Only with an explicit address: a connected socket was seen when it connected.
#[lsm(hook = "socket_sendmsg")]
pub fn socket_sendmsg(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let message: Ptr = ctx.arg(1);
    let name = shim_msghdr_name_direct(message);
    if name.is_null() || shim_msghdr_namelen_direct(message) < 2 {
        return 0;
    }
    let Some(address) = read_address(name, shim_msghdr_namelen_direct(message)) else { return 0 };
    if address.family == AF_INET || address.family == AF_INET6 {
        record(Kind::NetSend, &actor, ctx.arg(0), &address, ctx.arg::<u64>(2) & 0xffff_ffff);
    }
    0
}
