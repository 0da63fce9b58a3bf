//! Which internet sockets may be made. Other families are made without asking this hook; at level `lsm` there is one
//! for them.

use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    btf_maps::SkStorage,
    helpers::generated::bpf_sk_storage_get,
    macros::{btf_map, cgroup_sock},
    programs::SockContext,
};
use defenseclaw_ebpf::{Kind, image::privilege};

use super::{ALLOW, DENY};
use crate::{
    emit::{Ring, short},
    scope,
    shim::Ptr,
    verdict,
};

/// Sockets that were made in a cgroup with these programs. A socket keeps its cgroup: one that was made elsewhere and
/// handed in is none of theirs, whatever the task.
#[btf_map]
pub static HELD: SkStorage<u64> = SkStorage::new();

const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const SOCK_RAW: u32 = 3;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const IPPROTO_UDPLITE: u32 = 136;
const IPPROTO_MPTCP: u32 = 262;

/// Null or the mark of a socket.
#[inline(always)]
fn mark(sk: Ptr, flags: u32) -> Ptr {
    let map = core::ptr::from_ref(&HELD).cast_mut().cast();
    // SAFETY: the map is one of socket storage; without a value a new row is zero.
    unsafe { bpf_sk_storage_get(map, sk, core::ptr::null_mut(), u64::from(flags)) }
}

/// Whether the programs of this module see what `sk` connects to and sends to. For LSM programs, of a socket that the
/// verifier knows and that is not null.
#[inline(always)]
pub fn is_held(sk: Ptr) -> bool {
    !mark(sk, 0).is_null()
}

#[cgroup_sock(sock_create)]
pub fn cgroup_sock_create(ctx: SockContext) -> i32 {
    let Some(actor) = scope::current() else { return ALLOW };
    // SAFETY: the context of this program.
    let (family, kind, protocol) = unsafe {
        let sock = ctx.sock;
        (
            (&raw const (*sock).family).read_volatile(),
            (&raw const (*sock).type_).read_volatile(),
            (&raw const (*sock).protocol).read_volatile(),
        )
    };
    let privilege = match (kind, protocol) {
        // Their addresses are judged by the other programs.
        (SOCK_STREAM, IPPROTO_TCP | IPPROTO_MPTCP) | (SOCK_DGRAM, IPPROTO_UDP | IPPROTO_UDPLITE) => {
            mark(ctx.sock.cast(), BPF_SK_STORAGE_GET_F_CREATE);
            return ALLOW;
        }
        (SOCK_RAW, _) => privilege::RAW_SOCKET,
        // SCTP, DCCP, L2TP, SMC, ICMP without privileges.
        _ => privilege::OTHER_SOCKET,
    };
    let Some(policy) = verdict::policy(&actor) else { return ALLOW };
    let judged = policy.privilege(privilege);
    if !judged.blocks() {
        return ALLOW;
    }
    judged.count();
    short(Kind::SocketCreate, Ring::Priority, &actor, None, &judged, || {
        [u64::from(protocol << 16 | kind) << 32 | u64::from(family), 0, 0, 0, 0, 0]
    });
    DENY
}
