//! Answers of name servers over UDP that reach sockets of the agents' cgroup. Never drops a packet. TCP answers are not
//! read; the loader states that.

use aya_ebpf::{
    helpers::generated::{bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id, bpf_skb_load_bytes},
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use defenseclaw_ebpf::{DNS_MAX, Kind, flags};

use crate::{
    emit::{Record, Ring},
    scope::CGROUPS,
    sockaddr::{AF_INET, AF_INET6},
};

const DELIVER: i32 = 1;
const PORT_DNS: u16 = 53;
const IPPROTO_UDP: u8 = 17;
const SOCK_DGRAM: u64 = 2;
/// Levels of the cgroup tree that are searched for an enrolled one.
const LEVELS: i32 = 12;

#[inline(always)]
fn load<T: Copy>(ctx: &SkBuffContext, offset: u32) -> Option<T> {
    ctx.load::<T>(offset as usize).ok()
}

#[cgroup_skb]
pub fn dns_answer(ctx: SkBuffContext) -> i32 {
    let _ = answer(&ctx);
    DELIVER
}

#[inline(always)]
fn answer(ctx: &SkBuffContext) -> Option<()> {
    let version = load::<u8>(ctx, 0)?;
    let (family, udp, address) = if version >> 4 == 4 {
        if load::<u8>(ctx, 9)? != IPPROTO_UDP {
            return None;
        }
        (AF_INET, u32::from(version & 15) * 4, [u64::from(load::<u32>(ctx, 12)?), 0])
    } else {
        if load::<u8>(ctx, 6)? != IPPROTO_UDP {
            return None;
        }
        (AF_INET6, 40, load::<[u64; 2]>(ctx, 8)?)
    };
    if u16::from_be(load::<u16>(ctx, udp)?) != PORT_DNS {
        return None;
    }
    let skb = ctx.skb.skb;
    // SAFETY: `skb` is the context of this program.
    let cgroup = unsafe { bpf_skb_cgroup_id(skb) };
    let mut label = None;
    let mut level = 0;
    while level < LEVELS {
        // SAFETY: as above; the value is copied out at once.
        if let Some(found) = unsafe { CGROUPS.get(&bpf_skb_ancestor_cgroup_id(skb, level)) } {
            label = Some(*found);
        }
        level += 1;
    }
    let label = label?;
    let payload = ctx.len().checked_sub(udp + 8)?;
    let mut record = Record::nobody(Kind::DnsAnswer)?;
    record.session(label.session, cgroup);
    record
        .arg::<0>((u64::from(IPPROTO_UDP) << 16 | SOCK_DGRAM) << 32 | u64::from(family))
        .arg::<1>(u64::from(PORT_DNS))
        .arg::<2>(address[0])
        .arg::<3>(address[1])
        .arg::<5>(u64::from(payload));
    let (mut size, mut found) = (payload, 0);
    if size > DNS_MAX as u32 {
        size = DNS_MAX as u32;
        found = flags::TRUNCATED;
    }
    // The helper refuses a length that could be 0. Mask and increment say that it cannot in a way the verifier of every
    // kernel follows; the compiler, which knows better, must not simplify it.
    let size = (core::hint::black_box(size).wrapping_sub(1) & 0x7ff) + 1;
    record.filled(
        |to| {
            // SAFETY: 2048 bytes fit behind `to`; the helper checks the source.
            if unsafe { bpf_skb_load_bytes(skb.cast(), udp + 8, to.cast(), size) } == 0 {
                i64::from(size)
            } else {
                -1
            }
        },
        found,
    );
    record.submit(Ring::Bulk);
    Some(())
}
