//! What policy says of an internet address: the narrowest network that has an entry, and in between what a name permitted that
//! led there.

use core::{ffi::c_void, mem::offset_of};

use aya_ebpf::helpers::generated::{bpf_ktime_get_boot_ns, bpf_loop};
use defenseclaw_ebpf::image::{self, Cell, Key, LENGTHS_MAX, Resolved, ResolvedKey, class, effect, has};

use super::{Entry, InForce, Policy, RESOLVED, RULES, default_of, in_bloom, seed_of};
use crate::shim::shim_word;

pub(super) struct Peer {
    pub(super) effect: u64,
    pub(super) high: u64,
    pub(super) low: u64,
    pub(super) port: u32,
    /// Answer: generation of the image that was asked.
    pub(super) generation: u64,
}

#[inline(never)]
pub(super) fn judge_address(policy: &Policy, peer: &mut Peer) -> u64 {
    let Some(policy) = policy.image() else { return 0 };
    let policy = &policy;
    // SAFETY: the image lies in its map.
    peer.generation = unsafe { (*policy.image).generation };
    let peer = &*peer;
    let effect_number = if peer.effect == u64::from(effect::BIND) { 9 } else { 8 };
    let default = default_of(policy.image, effect_number);
    // SAFETY: the image lies in its map.
    let image = unsafe { &*policy.image };
    let is_v4 = peer.high == 0 && peer.low >> 32 == 0xffff;
    let (lengths, n, base) = if is_v4 {
        ((&raw const image.lengths4).cast::<u8>(), image.n_lengths4, 96)
    } else {
        ((&raw const image.lengths).cast::<u8>(), image.n_lengths, 0)
    };
    let names_asked = core::hint::black_box(0);
    let mut search = Search { policy, peer, lengths, n, base, names_asked, answer: 0 };
    // A loop of the helper, for the same reason as in `judge_path`.
    // SAFETY: `one_length` has the signature the helper calls, and `search` outlives the call.
    unsafe { bpf_loop(LENGTHS_MAX as u32, one_length as *mut c_void, (&raw mut search).cast(), 0) };
    if search.answer == 0 && search.names_asked == 0 {
        search.answer = resolved(policy, peer).0;
    }
    if search.answer == 0 { default.0 } else { search.answer }
}

/// A way from the narrowest network to the widest.
struct Search<'a> {
    policy: &'a InForce,
    peer: &'a Peer,
    lengths: *const u8,
    n: u32,
    base: u32,
    /// Names stand between single addresses and everything wider.
    names_asked: u64,
    answer: u64,
}

unsafe extern "C" fn one_length(index: u64, context: *mut c_void) -> i64 {
    // SAFETY: the helper passes the `Search` that `judge_address` gave it.
    let search = unsafe { &mut *context.cast::<Search<'_>>() };
    if index as u32 >= search.n {
        return 1;
    }
    let (policy, peer) = (search.policy, search.peer);
    // SAFETY: the masked index is below the length of both arrays.
    let length = u32::from(unsafe { *search.lengths.add(index as usize & (LENGTHS_MAX - 1)) }) + search.base;
    if search.names_asked == 0 && length < 128 {
        search.names_asked = 1;
        search.answer = resolved(policy, peer).0;
        if search.answer != 0 {
            return 1;
        }
    }
    let (high, low) = cut(peer.high, peer.low, length);
    let hash = image::address(seed_of(policy.image), high, low, length);
    if in_bloom(policy.image, hash, class::ADDRESS) {
        let key = Key { hash, class: class::ADDRESS, slot: policy.slot };
        if let Some(cell) = RULES.get_ptr(&key) {
            search.answer = of_port(policy, cell, peer).0;
        }
    }
    i64::from(search.answer != 0)
}

#[inline(always)]
fn cut(high: u64, low: u64, length: u32) -> (u64, u64) {
    if length >= 128 {
        (high, low)
    } else if length > 64 {
        (high, low & u64::MAX << ((128 - length) & 63))
    } else if length == 64 {
        (high, 0)
    } else if length > 0 {
        (high & u64::MAX << ((64 - length) & 63), 0)
    } else {
        (0, 0)
    }
}

/// First entry of an address cell for this effect and port.
#[inline(never)]
fn of_port(policy: &InForce, cell: *const Cell, peer: &Peer) -> Entry {
    if cell.is_null() {
        return Entry::NONE;
    }
    let mut at = 0;
    while at < image::ENTRIES {
        // SAFETY: the cell lies in a map, the index in both arrays.
        let (entry, ports) = unsafe {
            let ports = (&raw const (*cell).ports).cast::<u32>().add(at).read();
            (Entry(shim_word(cell.cast::<u8>().add(at * 8))), ports)
        };
        if entry == Entry::NONE {
            break;
        }
        // Without branches, as in `look`.
        let concerned = entry.0 & peer.effect & 0xffff;
        let below = u64::from(peer.port).wrapping_sub(u64::from(ports & 0xffff)) >> 63;
        let above = u64::from(ports >> 16).wrapping_sub(u64::from(peer.port)) >> 63;
        let spared = entry.spares(policy.owner, policy.parent_owner);
        if u64::from(concerned == 0) | below | above | spared == 0 {
            return entry;
        }
        at += 1;
    }
    Entry::NONE
}

/// What a name permitted that led to this address.
#[inline(always)]
fn resolved(policy: &InForce, peer: &Peer) -> Entry {
    // SAFETY: the image lies in its map.
    if unsafe { (*policy.image).has } & has::NAMES == 0 {
        return Entry::NONE;
    }
    let mut address = [0; 16];
    let (high, low) = address.split_at_mut(8);
    high.copy_from_slice(&peer.high.to_be_bytes());
    low.copy_from_slice(&peer.low.to_be_bytes());
    // SAFETY: as above.
    let generation = unsafe { (*policy.image).generation } as u32;
    let key = ResolvedKey { address, profile: policy.profile, generation };
    let Some(found) = RESOLVED.get_ptr(&key) else { return Entry::NONE };
    // SAFETY: the value lies in its map, the image in its own; the helper has no preconditions.
    unsafe {
        if (*found).generation != (*policy.image).generation || (*found).expires_ns < bpf_ktime_get_boot_ns()
        {
            return Entry::NONE;
        }
        of_port(policy, found.cast::<u8>().add(offset_of!(Resolved, cell)).cast(), peer)
    }
}
