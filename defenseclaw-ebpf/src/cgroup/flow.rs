//! Whose question it is: for each packet to the resolver, the server that was meant and the task that asked, where the
//! resolver can look it up by the addresses it sees. Never drops a packet.

use aya_ebpf::{
    helpers::generated::{bpf_ktime_get_boot_ns, bpf_sk_fullsock},
    macros::{cgroup_skb, map},
    maps::LruHashMap,
    programs::SkBuffContext,
};
use defenseclaw_ebpf::redirect::{Flow, FlowKey, LANES};

use super::{ALLOW, endpoint::mapped, names};

/// Questions of the last moments. A question that was pushed out is refused.
#[map]
pub static DNS_FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(16_384, 0);

const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;

#[cgroup_skb(egress)]
pub fn dns_question(ctx: SkBuffContext) -> i32 {
    let _ = question(&ctx);
    ALLOW
}

#[inline(always)]
fn load<T: Copy>(ctx: &SkBuffContext, offset: u32) -> Option<T> {
    ctx.load::<T>(offset as usize).ok()
}

#[inline(always)]
fn question(ctx: &SkBuffContext) -> Option<()> {
    // SAFETY: the context of this program.
    let sk = unsafe { (&raw const (*ctx.skb.skb).__bindgen_anon_2.sk).read_volatile() };
    if sk.is_null() {
        return None;
    }
    // SAFETY: as above.
    let sk = unsafe { bpf_sk_fullsock(sk) };
    if sk.is_null() {
        return None;
    }
    // For nearly every packet this is the end: its socket never asked for a name.
    let origins = names::origins(sk.cast(), 0);
    if origins.is_null() {
        return None;
    }
    let version = load::<u8>(ctx, 0)?;
    let (protocol, transport, address) = if version >> 4 == 4 {
        let address = [0, mapped(load::<u32>(ctx, 12)?)];
        (load::<u8>(ctx, 9)?, u32::from(version & 15) * 4, address)
    } else {
        (load::<u8>(ctx, 6)?, 40, load::<[u64; 2]>(ctx, 8)?)
    };
    if protocol != IPPROTO_UDP && protocol != IPPROTO_TCP {
        return None;
    }
    let port = u16::from_be(load::<u16>(ctx, transport)?);
    let to = u16::from_be(load::<u16>(ctx, transport + 2)?);
    let mut lane = 0;
    while lane < LANES {
        // SAFETY: the row of this socket; the loop bounds the index.
        let server = unsafe { (*origins).servers[lane] };
        if server.port != 0 && server.lane == to {
            // SAFETY: as above; the helper has no preconditions.
            let (netns, asker, time_ns) =
                unsafe { ((*origins).netns, (*origins).asker, bpf_ktime_get_boot_ns()) };
            let key = FlowKey { netns, address, port, lane: to, protocol: u32::from(protocol) };
            DNS_FLOWS.insert(&key, &Flow { server, asker, time_ns }, 0).ok();
            return Some(());
        }
        lane += 1;
    }
    None
}
