//! Internet sockets, and every other family by number. Unix sockets are in `lsm/unix.rs`.

use core::mem::MaybeUninit;

use aya_ebpf::{helpers::generated::bpf_probe_read_kernel, macros::lsm, programs::LsmContext};
use defenseclaw_ebpf::Kind;

use crate::{
    emit::{Ring, Short},
    scope::{self, Actor},
    shim::*,
    sockaddr::{AF_INET, AF_INET6, AF_UNIX, Address, socket_word_direct},
};

/// The kernel's copy of a socket address.
#[inline(always)]
fn kernel_address(from: Ptr) -> Option<Address> {
    if from.is_null() {
        return None;
    }
    let mut address = MaybeUninit::<Address>::uninit();
    // The kernel's copy is a full sockaddr_storage, so reading past the length given stays inside it.
    // SAFETY: the helper checks the source, writes the whole destination in any case, and its size is that of it.
    unsafe {
        if bpf_probe_read_kernel(address.as_mut_ptr().cast(), Address::SIZE, from) != 0 {
            return None;
        }
        Some(address.assume_init())
    }
}

/// `socket` must be known to the verifier.
#[inline(always)]
fn record(kind: Kind, actor: &Actor, socket: Ptr, address: &Address, bytes: u64) {
    let sk = shim_socket_sk_direct(socket);
    let word = if sk.is_null() { u64::from(address.family) } else { socket_word_direct(sk, address.family) };
    let Some(mut record) = Short::begin(kind, Ring::Bulk, actor) else { return };
    record.arg::<0>(word).arg::<5>(bytes);
    address.put(&mut record);
    record.submit();
}

#[lsm(hook = "socket_connect")]
pub fn socket_connect(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    if ctx.arg::<i32>(2) < 2 {
        return 0;
    }
    let Some(address) = kernel_address(ctx.arg(1)) else { return 0 };
    if address.family != AF_UNIX {
        record(Kind::NetConnect, &actor, ctx.arg(0), &address, 0);
    }
    0
}

#[lsm(hook = "socket_bind")]
pub fn socket_bind(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    if ctx.arg::<i32>(2) < 2 {
        return 0;
    }
    let Some(address) = kernel_address(ctx.arg(1)) else { return 0 };
    if address.family == AF_INET || address.family == AF_INET6 {
        record(Kind::NetBind, &actor, ctx.arg(0), &address, 0);
    }
    0
}

/// Only with an explicit address: a connected socket was seen when it connected.
#[lsm(hook = "socket_sendmsg")]
pub fn socket_sendmsg(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let message: Ptr = ctx.arg(1);
    if shim_msghdr_namelen_direct(message) < 2 {
        return 0;
    }
    let Some(address) = kernel_address(shim_msghdr_name_direct(message)) else { return 0 };
    if address.family == AF_INET || address.family == AF_INET6 {
        record(Kind::NetSend, &actor, ctx.arg(0), &address, ctx.arg::<u64>(2) & 0xffff_ffff);
    }
    0
}
