//! Sockets, at system call exit, successful or not. Addresses are read again from the process's memory, except the name
//! of a connected unix socket, which the kernel knows.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::generated::{bpf_loop, bpf_probe_read_user},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use defenseclaw_ebpf::{Kind, flags};

use super::{AT_FDCWD, Call, base, call, file_of, lost};
use crate::{
    emit::{Record, Ring, short},
    scope::{self, Actor},
    shim::*,
    sockaddr::{AF_INET, AF_INET6, AF_UNIX, Address, socket_word, unix_record},
    verdict::{self, Judged},
};

const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;
const SOCK_STREAM: u16 = 1;
const SOCK_SEQPACKET: u16 = 5;
/// `sizeof(struct sockaddr_un)` without its family.
const UNIX_NAME_MAX: u32 = 108;
const EBADF: i64 = -9;
const EFAULT: i64 = -14;
const ENOTSOCK: i64 = -88;

/// The socket behind a descriptor, or null.
#[inline(always)]
fn socket_of(fd: i32) -> Ptr {
    let file = file_of(fd);
    if shim_inode_mode(shim_file_inode(file)) & S_IFMT != S_IFSOCK {
        return core::ptr::null_mut();
    }
    shim_socket_sk(shim_file_private_data(file))
}

#[inline(always)]
fn user_address(from: u64, len: u64) -> Option<Address> {
    let mut address = Address::empty();
    let mut size = len as u32;
    if size < 2 {
        return None;
    }
    if size > Address::SIZE {
        size = Address::SIZE;
    }
    // SAFETY: the size is at most that of the destination; the helper checks the source.
    let failed = unsafe { bpf_probe_read_user((&raw mut address).cast(), size & 31, from as *const _) };
    if failed == 0 { Some(address) } else { None }
}

/// An operation of `sk` on the address at `from`.
#[inline(always)]
fn endpoint(kind: Kind, actor: &Actor, call: &Call, from: u64, len: u64, bytes: u64) {
    // Without an address nothing was reached by it; with these results nothing was reached at all.
    if from == 0 || (len as u32) < 2 || matches!(call.result, EBADF | EFAULT | ENOTSOCK) {
        return;
    }
    let sk = socket_of(call.args[0] as i32);
    let Some(address) = user_address(from, len) else { return lost(kind) };
    if sk.is_null() {
        // Another thread has closed or replaced the descriptor since.
        return lost(kind);
    }
    if address.family == AF_UNIX {
        if kind != Kind::NetBind {
            unix(actor, call, sk, from, len, kind == Kind::NetSend);
        }
        return;
    }
    // As at level `lsm`: a connect of whatever family, sends and binds of IP only.
    let inet = address.family == AF_INET || address.family == AF_INET6;
    if !inet && kind != Kind::NetConnect {
        return;
    }
    let args = address.args(socket_word(sk, address.family), bytes);
    short(kind, Ring::Bulk, actor, Some(call.result), &Judged::NOTHING, || args);
}

#[inline(always)]
fn unix(actor: &Actor, call: &Call, sk: Ptr, from: u64, len: u64, send: bool) {
    let kind = shim_sock_type(sk);
    let datagram = kind != SOCK_STREAM && kind != SOCK_SEQPACKET;
    let (word, datagram) = (socket_word(sk, AF_UNIX), u64::from(datagram));
    let peer = shim_unix_sock_peer(sk);
    if !send && call.result == 0 && !peer.is_null() {
        let Some(policy) = verdict::policy(actor) else { return };
        let Some((mut record, _)) = unix_record(actor, peer, &policy) else { return };
        record.arg::<0>(word).arg::<1>(datagram).result(call.result);
        record.submit(Ring::Bulk);
        return;
    }
    let Some(mut record) = Record::begin(Kind::UnixConnect, actor) else { return };
    record.arg::<0>(word).arg::<1>(datagram);
    // Behind `sun_family`. An abstract name starts with a NUL and is taken whole; a path ends at its NUL or, as the kernel
    // allows, without one at the end of the address.
    let mut size = len as u32 - 2;
    if size > UNIX_NAME_MAX {
        size = UNIX_NAME_MAX;
    }
    let name = (from + 2) as *const u8;
    let mut first = 0u8;
    // SAFETY: the helper checks the source.
    unsafe { bpf_probe_read_user((&raw mut first).cast(), 1, name.cast()) };
    record.user_bytes(name, u64::from(size) & 0x7f);
    if size > 0 && first != 0 {
        record.flag_last(flags::AS_GIVEN);
        record.none();
        base(&mut record, AT_FDCWD, name);
    }
    record.result(call.result);
    record.submit(Ring::Bulk);
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_connect(ctx: BtfTracePointContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let call = call(&ctx);
    endpoint(Kind::NetConnect, &actor, &call, call.args[1], call.args[2], 0);
    0
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_bind(ctx: BtfTracePointContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let call = call(&ctx);
    endpoint(Kind::NetBind, &actor, &call, call.args[1], call.args[2], 0);
    0
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_sendto(ctx: BtfTracePointContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let call = call(&ctx);
    endpoint(Kind::NetSend, &actor, &call, call.args[4], call.args[5], call.args[2]);
    0
}

/// First two fields of `struct msghdr`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Message {
    name: u64,
    name_len: u32,
    reserved: u32,
}

#[inline(always)]
fn message(from: u64) -> Message {
    let mut message = Message { name: 0, name_len: 0, reserved: 0 };
    // SAFETY: the size is that of the destination; the helper checks the source.
    unsafe { bpf_probe_read_user((&raw mut message).cast(), 16, from as *const _) };
    message
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_sendmsg(ctx: BtfTracePointContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let call = call(&ctx);
    let message = message(call.args[1]);
    let bytes = if call.result > 0 { call.result as u64 } else { 0 };
    endpoint(Kind::NetSend, &actor, &call, message.name, u64::from(message.name_len), bytes);
    0
}

/// `sizeof(struct mmsghdr)`.
const MMSGHDR: u64 = 64;
/// `offsetof(struct mmsghdr, msg_len)`: how much of it was sent.
const MSG_LEN: u64 = 56;
/// Messages of one sendmmsg that are looked at; the rest of a longer burst is a stated blind spot.
const MESSAGES: u32 = 8;

struct Burst<'a> {
    actor: &'a Actor,
    call: &'a Call,
}

/// One message of sendmmsg. Returns 1 to stop.
unsafe extern "C" fn sent(index: u64, context: *mut c_void) -> i64 {
    // SAFETY: the helper passes the `Burst` that `sys_sendmmsg` gave it.
    let burst = unsafe { &*context.cast::<Burst<'_>>() };
    let call = burst.call;
    if index as i64 >= call.result {
        return 1;
    }
    let at = call.args[1] + index * MMSGHDR;
    let message = message(at);
    let mut bytes = 0u32;
    // SAFETY: the size is that of the destination; the helper checks the source.
    unsafe { bpf_probe_read_user((&raw mut bytes).cast(), 4, (at + MSG_LEN) as *const _) };
    let len = u64::from(message.name_len);
    endpoint(Kind::NetSend, burst.actor, call, message.name, len, u64::from(bytes));
    0
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_sendmmsg(ctx: BtfTracePointContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let call = call(&ctx);
    let mut burst = Burst { actor: &actor, call: &call };
    // A loop the verifier looks at once: unrolled, it would be the largest program by far.
    // SAFETY: `sent` has the signature the helper calls, and `burst` outlives the call.
    unsafe { bpf_loop(MESSAGES, sent as *mut c_void, (&raw mut burst).cast(), 0) };
    0
}
