//! Internet sockets, and every other family by number. Unix sockets are in `lsm/unix.rs`.

use aya_ebpf::{helpers::generated::bpf_probe_read_kernel, macros::lsm, programs::LsmContext};
use defenseclaw_ebpf::{
    Kind,
    image::{effect, privilege},
    redirect::PORT,
};

use crate::{
    cgroup,
    emit::{Record, Ring, short},
    scope::{self, Actor},
    shim::*,
    sockaddr::{AF_INET, AF_INET6, AF_UNIX, Address, mapped, socket_word_direct},
    verdict::{self, Judged},
};

const AF_NETLINK: u16 = 16;
const AF_PACKET: u16 = 17;
const SOCK_RAW: u64 = 3;

/// The kernel's copy of a socket address, wherever it is.
#[inline(always)]
fn read_address(from: Ptr, len: i32) -> Option<Address> {
    let mut address = Address::empty();
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
fn operation(kind: Kind, effect: u16, actor: &Actor, socket: Ptr, from: Ptr, len: i32) -> i32 {
    // As unsigned it needs no extension of its sign, and the kernel accepts no negative length.
    if (len as u32) < 2 {
        return 0;
    }
    // The hook has the plain address in reach for IPv4, and that is cheaper than a copy.
    let family = shim_sockaddr_family_direct(from);
    if family == AF_UNIX || kind == Kind::NetBind && family != AF_INET && family != AF_INET6 {
        return 0;
    }
    if family != AF_INET6 && shim_sockaddr_is_known() {
        // Behind `len` the kernel's copy holds whatever was on its stack.
        let rest = if len < 8 { 0 } else { shim_sockaddr_rest_direct(from) };
        let rest = if family == AF_INET { rest } else { 0 };
        let (port, address) = (u16::from_be(rest as u16), (rest >> 16) as u32);
        let judged = if family == AF_INET && !left_to_cgroup(effect, actor, socket, port) {
            let Some(policy) = verdict::policy(actor) else { return 0 };
            policy.address(effect, 0, mapped(address), port)
        } else {
            Judged::NOTHING
        };
        if judged.asks() {
            let args = [word(socket, family), u64::from(port), u64::from(address), 0, 0, 0];
            return ask(kind, actor, &judged, &args);
        }
        short(kind, Ring::of(&judged), actor, None, &judged, || {
            [word(socket, family), u64::from(port), u64::from(address), 0, 0, 0]
        });
        judged.carry_out()
    } else if let Some(address) = read_address(from, len) {
        record(kind, effect, actor, socket, &address, 0)
    } else {
        let Some(policy) = verdict::policy(actor) else { return 0 };
        policy.blind(effect).carry_out()
    }
}

/// Whether the programs on the cgroup decide about it: they lead questions for names to the resolver, whatever is said of
/// the server's address.
#[inline(always)]
fn left_to_cgroup(effect: u16, actor: &Actor, socket: Ptr, port: u16) -> bool {
    if effect != effect::CONNECT || port != PORT {
        return false;
    }
    let sk = shim_socket_sk_direct(socket);
    !sk.is_null() && cgroup::is_question(actor, sk)
}

/// Socket word of a socket that the verifier knows.
#[inline(always)]
fn word(socket: Ptr, family: u16) -> u64 {
    let sk = shim_socket_sk_direct(socket);
    if sk.is_null() { u64::from(family) } else { socket_word_direct(sk, family) }
}

#[inline(always)]
fn record(kind: Kind, effect: u16, actor: &Actor, socket: Ptr, address: &Address, bytes: u64) -> i32 {
    let judged = if left_to_cgroup(effect, actor, socket, address.port()) {
        Judged::NOTHING
    } else {
        let Some(policy) = verdict::policy(actor) else { return 0 };
        address.judge(&policy, effect)
    };
    if judged.asks() {
        let args = address.args(word(socket, address.family), bytes);
        return ask(kind, actor, &judged, &args);
    }
    short(kind, Ring::of(&judged), actor, None, &judged, || {
        address.args(word(socket, address.family), bytes)
    });
    judged.carry_out()
}

/// A person decides about it.
#[inline(always)]
fn ask(kind: Kind, actor: &Actor, judged: &Judged, args: &[u64; 6]) -> i32 {
    let Some(mut record) = Record::begin(kind, actor) else { return judged.carry_out() };
    record
        .arg::<0>(args[0])
        .arg::<1>(args[1])
        .arg::<2>(args[2])
        .arg::<3>(args[3])
        .arg::<4>(args[4])
        .arg::<5>(args[5]);
    record.submit_judged(judged)
}

#[lsm(hook = "socket_connect")]
pub fn socket_connect(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    operation(Kind::NetConnect, effect::CONNECT, &actor, ctx.arg(0), ctx.arg(1), ctx.arg(2))
}

#[lsm(hook = "socket_bind")]
pub fn socket_bind(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    operation(Kind::NetBind, effect::BIND, &actor, ctx.arg(0), ctx.arg(1), ctx.arg(2))
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
    let Some(address) = read_address(name, shim_msghdr_namelen_direct(message)) else {
        let Some(policy) = verdict::policy(&actor) else { return 0 };
        return policy.blind(effect::CONNECT).carry_out();
    };
    if address.family == AF_INET || address.family == AF_INET6 {
        let bytes = ctx.arg::<u64>(2) & 0xffff_ffff;
        return record(Kind::NetSend, effect::CONNECT, &actor, ctx.arg(0), &address, bytes);
    }
    0
}

/// Netlink is how every program asks for addresses, names of interfaces and sockets.
#[inline(always)]
fn is_everyday(protocol: u32) -> bool {
    const ROUTE: u32 = 0;
    const SOCK_DIAG: u32 = 4;
    const GENERIC: u32 = 16;
    protocol == ROUTE || protocol == SOCK_DIAG || protocol == GENERIC
}

/// Sockets that reach past every other hook. Attached only where policy has something to say of them.
#[lsm(hook = "socket_create")]
pub fn socket_create(ctx: LsmContext) -> i32 {
    let Some(actor) = scope::current() else { return 0 };
    let Some(policy) = verdict::policy(&actor) else { return 0 };
    let family = ctx.arg::<u64>(0) as u16;
    let kind = ctx.arg::<u64>(1) & 15;
    let by_kernel = ctx.arg::<u64>(3) as u32 != 0;
    if !policy.judges() || by_kernel || family == AF_UNIX {
        return 0;
    }
    let inet = family == AF_INET || family == AF_INET6;
    let operation = if family == AF_PACKET || inet && kind == SOCK_RAW {
        privilege::RAW_SOCKET
    } else if inet || family == AF_NETLINK && is_everyday(ctx.arg::<u64>(2) as u32) {
        return 0;
    } else {
        privilege::OTHER_SOCKET
    };
    let judged = policy.privilege(operation);
    if judged.is_notable() {
        let protocol = ctx.arg::<u64>(2) & 0xffff;
        let socket = (protocol << 16 | kind) << 32 | u64::from(family);
        if judged.asks() {
            let args = [socket, 0, 0, 0, 0, 0];
            return ask(Kind::SocketCreate, &actor, &judged, &args);
        }
        short(Kind::SocketCreate, Ring::of(&judged), &actor, None, &judged, || [socket, 0, 0, 0, 0, 0]);
    }
    judged.carry_out()
}
