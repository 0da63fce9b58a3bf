//! connect, bind and sendmsg to an internet address; what recvmsg and getpeername say about where an answer came from.
//!
//! A record is made of denials only. What is permitted is recorded where it always was: by the LSM hook, which runs
//! before these programs, or at system call exit.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use defenseclaw_ebpf::{Kind, image::effect, redirect::PORT};

use super::{ALLOW, DENY, names};
use crate::{
    emit::{Ring, short},
    pause,
    scope::{self, Actor},
    sockaddr::{AF_INET, AF_INET6},
    verdict::{self, Judged},
};

/// Second word of an IPv4-mapped address, without the address.
const MAPPED: u64 = 0xffff_0000;
/// `127.0.0.1` and the second word of `::1`, in memory order.
pub const LOOPBACK4: u32 = u32::from_ne_bytes([127, 0, 0, 1]);
pub const LOOPBACK6: u64 = 1 << 56;

/// An address in network order, IPv4 as `::ffff:a.b.c.d`, and a port in host order.
#[derive(Clone, Copy)]
pub struct Endpoint {
    pub address: [u64; 2],
    pub port: u16,
}

impl Endpoint {
    /// From the fields that the programs for IPv4 may read.
    #[inline(always)]
    pub fn v4(ctx: &SockAddrContext) -> Self {
        // SAFETY: the context of this program; the loads stay single ones, as the verifier wants them.
        let (address, port) = unsafe {
            (
                (&raw const (*ctx.sock_addr).user_ip4).read_volatile(),
                (&raw const (*ctx.sock_addr).user_port).read_volatile(),
            )
        };
        Self { address: [0, mapped(address)], port: u16::from_be(port as u16) }
    }

    /// From those for IPv6, where an address may be mapped already.
    #[inline(always)]
    pub fn v6(ctx: &SockAddrContext) -> Self {
        // SAFETY: as above.
        let (words, port) = unsafe {
            let words = (&raw const (*ctx.sock_addr).user_ip6).cast::<u32>();
            (
                [
                    words.read_volatile(),
                    words.add(1).read_volatile(),
                    words.add(2).read_volatile(),
                    words.add(3).read_volatile(),
                ],
                (&raw const (*ctx.sock_addr).user_port).read_volatile(),
            )
        };
        let address = [
            u64::from(words[0]) | u64::from(words[1]) << 32,
            u64::from(words[2]) | u64::from(words[3]) << 32,
        ];
        Self { address, port: u16::from_be(port as u16) }
    }

    /// The IPv4 address, if it is one.
    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        self.address[0] == 0 && self.address[1] as u32 == MAPPED as u32
    }

    /// Where a connect to it goes: the unspecified address is this machine.
    #[inline(always)]
    fn reached(self) -> Self {
        let low = if self.address[0] != 0 {
            self.address[1]
        } else if self.address[1] == 0 {
            LOOPBACK6
        } else if self.address[1] == MAPPED {
            mapped(LOOPBACK4)
        } else {
            self.address[1]
        };
        Self { address: [self.address[0], low], port: self.port }
    }
}

/// Second word of the IPv6 address that stands for this IPv4 address.
#[inline(always)]
pub const fn mapped(address: u32) -> u64 {
    MAPPED | (address as u64) << 32
}

/// Type and protocol of the socket.
#[inline(always)]
pub fn kind(ctx: &SockAddrContext) -> (u32, u32) {
    // SAFETY: the context of this program.
    unsafe {
        (
            (&raw const (*ctx.sock_addr).type_).read_volatile(),
            (&raw const (*ctx.sock_addr).protocol).read_volatile(),
        )
    }
}

/// The one place where a denial is recorded. These programs may not send signals, so a rule that also ends the process
/// does so at level `lsm` only.
#[inline(always)]
fn denied(kind: Kind, actor: &Actor, socket: u64, at: &Endpoint, judged: &Judged) -> i32 {
    judged.count();
    // Arguments hold an IPv4 address in the first four bytes.
    let v4 = socket as u16 == AF_INET;
    let address = if v4 { [at.address[1] >> 32, 0] } else { at.address };
    short(kind, Ring::Priority, actor, None, judged, || {
        [socket, u64::from(at.port), address[0], address[1], 0, 0]
    });
    DENY
}

/// Argument word of the socket: protocol, type and family.
#[inline(always)]
fn word(ctx: &SockAddrContext, family: u16) -> u64 {
    let (kind, protocol) = kind(ctx);
    u64::from(protocol << 16 | kind) << 32 | u64::from(family)
}

#[inline(always)]
fn judge(ctx: &SockAddrContext, kind: Kind, actor: &Actor, effect: u16, family: u16, at: Endpoint) -> i32 {
    let Some(policy) = verdict::policy(actor) else { return ALLOW };
    let (high, low) = (u64::from_be(at.address[0]), u64::from_be(at.address[1]));
    let mut judged = policy.address(effect, high, low, at.port);
    if judged.asks() {
        judged = pause::settled_address(kind, actor, &judged, pause::address_object(high, low, at.port));
    }
    if judged.blocks() {
        return denied(kind, actor, word(ctx, family), &at, &judged);
    }
    ALLOW
}

/// connect, or a datagram to an explicit address.
#[inline(always)]
fn reach(ctx: &SockAddrContext, kind: Kind, family: u16, at: Endpoint) -> i32 {
    let Some(actor) = scope::current() else { return ALLOW };
    let at = at.reached();
    if at.port == PORT {
        match names::redirect(ctx, &actor, family, &at) {
            names::Redirection::Done => return ALLOW,
            names::Redirection::Impossible => {
                return denied(kind, &actor, word(ctx, family), &at, &Judged::REFUSED);
            }
            names::Redirection::None => {}
        }
    }
    judge(ctx, kind, &actor, effect::CONNECT, family, at)
}

#[inline(always)]
fn bind(ctx: &SockAddrContext, family: u16, at: Endpoint) -> i32 {
    let Some(actor) = scope::current() else { return ALLOW };
    if names::is_resolver_port(ctx, &actor, at.port) {
        return denied(Kind::NetBind, &actor, word(ctx, family), &at, &Judged::REFUSED);
    }
    judge(ctx, Kind::NetBind, &actor, effect::BIND, family, at)
}

#[cgroup_sock_addr(connect4)]
pub fn cgroup_connect4(ctx: SockAddrContext) -> i32 {
    reach(&ctx, Kind::NetConnect, AF_INET, Endpoint::v4(&ctx))
}

#[cgroup_sock_addr(connect6)]
pub fn cgroup_connect6(ctx: SockAddrContext) -> i32 {
    reach(&ctx, Kind::NetConnect, AF_INET6, Endpoint::v6(&ctx))
}

#[cgroup_sock_addr(sendmsg4)]
pub fn cgroup_sendmsg4(ctx: SockAddrContext) -> i32 {
    reach(&ctx, Kind::NetSend, AF_INET, Endpoint::v4(&ctx))
}

#[cgroup_sock_addr(sendmsg6)]
pub fn cgroup_sendmsg6(ctx: SockAddrContext) -> i32 {
    reach(&ctx, Kind::NetSend, AF_INET6, Endpoint::v6(&ctx))
}

#[cgroup_sock_addr(bind4)]
pub fn cgroup_bind4(ctx: SockAddrContext) -> i32 {
    bind(&ctx, AF_INET, Endpoint::v4(&ctx))
}

#[cgroup_sock_addr(bind6)]
pub fn cgroup_bind6(ctx: SockAddrContext) -> i32 {
    bind(&ctx, AF_INET6, Endpoint::v6(&ctx))
}

// What a socket asked is stored with it, by an enrolled task. So these ask the socket, not the task: it may have been
// handed to another process, and nothing is stored with any other socket.

#[cgroup_sock_addr(recvmsg4)]
pub fn cgroup_recvmsg4(ctx: SockAddrContext) -> i32 {
    names::restore4(&ctx);
    ALLOW
}

#[cgroup_sock_addr(recvmsg6)]
pub fn cgroup_recvmsg6(ctx: SockAddrContext) -> i32 {
    names::restore6(&ctx);
    ALLOW
}

#[cgroup_sock_addr(getpeername4)]
pub fn cgroup_getpeername4(ctx: SockAddrContext) -> i32 {
    names::restore4(&ctx);
    ALLOW
}

#[cgroup_sock_addr(getpeername6)]
pub fn cgroup_getpeername6(ctx: SockAddrContext) -> i32 {
    names::restore6(&ctx);
    ALLOW
}
