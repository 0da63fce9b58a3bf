//! Sockets, at system call exit, successful or not. Addresses are read again from the process's memory, except the name
//! of a connected unix socket, which the kernel knows.

use aya_ebpf::{
    helpers::generated::bpf_probe_read_user, macros::btf_tracepoint, programs::BtfTracePointContext,
};
use defenseclaw_ebpf::Kind;

use super::{Call, call, file_of};
use crate::{
    emit::{Record, Ring, short},
    scope::{self, Actor},
    shim::*,
    sockaddr::{AF_INET, AF_INET6, AF_UNIX, AF_UNSPEC, Address, socket_word, unix_name},
};

const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;
const SOCK_STREAM: u16 = 1;

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
    let mut address = Address::EMPTY;
    let mut size = len as u32;
    if from == 0 || size < 2 {
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
    let sk = socket_of(call.args[0] as i32);
    let Some(address) = user_address(from, len) else { return };
    if sk.is_null() {
        return;
    }
    if address.family == AF_UNIX {
        if kind != Kind::NetBind {
            unix(actor, call, sk, from, len, kind == Kind::NetSend);
        }
        return;
    }
    let inet = address.family == AF_INET || address.family == AF_INET6;
    if !inet && (kind != Kind::NetConnect || address.family != AF_UNSPEC) {
        return;
    }
    let args = address.args(socket_word(sk, address.family), bytes);
    short(kind, Ring::Bulk, actor, Some(call.result), || args);
}

#[inline(always)]
fn unix(actor: &Actor, call: &Call, sk: Ptr, from: u64, len: u64, send: bool) {
    let Some(mut record) = Record::begin(Kind::UnixConnect, actor) else { return };
    let stream = shim_sock_type(sk) == SOCK_STREAM;
    record.arg::<0>(socket_word(sk, AF_UNIX)).arg::<1>(u64::from(!stream));
    let peer = shim_unix_sock_peer(sk);
    if !send && call.result == 0 && !peer.is_null() {
        unix_name(&mut record, peer);
    } else {
        let mut size = len as u32;
        if size > 110 {
            size = 110;
        }
        // Behind `sun_family`; an abstract name starts with its NUL and is taken whole.
        let name = (from + 2) as *const u8;
        let mut first = 0u8;
        // SAFETY: the helper checks the source.
        unsafe { bpf_probe_read_user((&raw mut first).cast(), 1, name.cast()) };
        if first == 0 {
            record.user_bytes(name, u64::from(size - 2) & 0x7f);
        } else {
            record.user_str(name);
        }
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
const MESSAGES: i64 = 8;

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_sendmmsg(ctx: BtfTracePointContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let call = call(&ctx);
    let mut index = 0;
    while index < MESSAGES {
        if index >= call.result {
            break;
        }
        let at = call.args[1] + index as u64 * MMSGHDR;
        let message = message(at);
        let mut bytes = 0u32;
        // SAFETY: the size is that of the destination; the helper checks the source.
        unsafe { bpf_probe_read_user((&raw mut bytes).cast(), 4, (at + MSG_LEN) as *const _) };
        endpoint(Kind::NetSend, &actor, &call, message.name, u64::from(message.name_len), u64::from(bytes));
        index += 1;
    }
    0
}
