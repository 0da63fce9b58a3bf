//! Internet sockets, and every other family by number. Unix sockets are in `lsm/unix.rs`.

use aya_ebpf::{helpers::generated::bpf_probe_read_kernel, macros::lsm, programs::LsmContext};
use defenseclaw_ebpf::Kind;

use crate::{
    emit::{Record, Ring},
    scope::{self, Actor},
    shim::*,
    sockaddr::{AF_INET, AF_INET6, AF_UNIX, Address, socket_word},
};

/// The kernel's copy of a socket address.
#[inline(always)]
fn kernel_address(from: Ptr, len: i32) -> Option<Address> {
    let mut address = Address::EMPTY;
    if from.is_null() || len < 2 {
        return None;
    }
    let mut size = len as u32;
    if size > Address::SIZE {
        size = Address::SIZE;
    }
    // Behind `len` the kernel's copy holds whatever was on its stack.
    // SAFETY: the size is at most that of the destination; the helper checks the source.
    let failed = unsafe { bpf_probe_read_kernel((&raw mut address).cast(), size & 31, from) };
    if failed == 0 { Some(address) } else { None }
}

#[inline(always)]
fn record(kind: Kind, actor: &Actor, sk: Ptr, address: &Address, bytes: u64) {
    let Some(mut record) = Record::begin(kind, actor) else { return };
    record.arg::<0>(socket_word(sk, address.family)).arg::<5>(bytes);
    address.put(&mut record);
    record.submit(Ring::Bulk);
}

#[lsm(hook = "socket_connect")]
pub fn socket_connect(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let Some(address) = kernel_address(ctx.arg(1), ctx.arg(2)) else { return 0 };
    if address.family != AF_UNIX {
        record(Kind::NetConnect, &actor, shim_socket_sk(ctx.arg(0)), &address, 0);
    }
    0
}

#[lsm(hook = "socket_bind")]
pub fn socket_bind(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let Some(address) = kernel_address(ctx.arg(1), ctx.arg(2)) else { return 0 };
    if address.family == AF_INET || address.family == AF_INET6 {
        record(Kind::NetBind, &actor, shim_socket_sk(ctx.arg(0)), &address, 0);
    }
    0
}

/// Only with an explicit address: a connected socket was seen when it connected.
#[lsm(hook = "socket_sendmsg")]
pub fn socket_sendmsg(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let message: Ptr = ctx.arg(1);
    let Some(address) = kernel_address(shim_msghdr_name(message), shim_msghdr_namelen(message)) else {
        return 0;
    };
    if address.family == AF_INET || address.family == AF_INET6 {
        record(Kind::NetSend, &actor, shim_socket_sk(ctx.arg(0)), &address, ctx.arg::<u64>(2) & 0xffff_ffff);
    }
    0
}
