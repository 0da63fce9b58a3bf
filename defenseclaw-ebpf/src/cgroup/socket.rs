//! Which internet sockets may be made. Other families are made without asking this hook; at level `lsm` there is one
//! for them.

use aya_ebpf::{macros::cgroup_sock, programs::SockContext};
use defenseclaw_ebpf::{Kind, image::privilege};

use super::{ALLOW, DENY};
use crate::{
    emit::{Ring, short},
    scope, verdict,
};

const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const SOCK_RAW: u32 = 3;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const IPPROTO_UDPLITE: u32 = 136;
const IPPROTO_MPTCP: u32 = 262;

#[cgroup_sock(sock_create)]
pub fn cgroup_sock_create(ctx: SockContext) -> i32 {
    let Some(actor) = scope::current() else { return ALLOW };
    // SAFETY: the context of this program.
    let (kind, protocol) = unsafe {
        ((&raw const (*ctx.sock).type_).read_volatile(), (&raw const (*ctx.sock).protocol).read_volatile())
    };
    let privilege = match (kind, protocol) {
        // Their addresses are judged by the other programs.
        (SOCK_STREAM, IPPROTO_TCP | IPPROTO_MPTCP) | (SOCK_DGRAM, IPPROTO_UDP | IPPROTO_UDPLITE) => {
            return ALLOW;
        }
        (SOCK_RAW, _) => privilege::RAW_SOCKET,
        // SCTP, DCCP, L2TP, SMC, ICMP without privileges.
        _ => privilege::OTHER_SOCKET,
    };
    if !verdict::privilege(&actor, privilege).blocks() {
        return ALLOW;
    }
    // No kind of its own yet: a connect without family and address, which cannot be told from nothing else.
    short(Kind::NetConnect, Ring::Priority, &actor, None, || {
        [u64::from(protocol << 16 | kind) << 32, 0, 0, 0, 0, 0]
    });
    DENY
}
