//! Which executables a process belongs to, of those that rules spare. Asked once, when a program starts.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use defenseclaw_ebpf::image::{self, DEPTH_MAX, Key, SHARED, class};

use super::RULES;
use crate::{
    path::{self, Buffer, Found},
    scope::{Actor, SCOPE},
    shim::shim_word,
};

/// Sets of executables that the program at the path in `buffer` belongs to. To be asked when it starts.
#[inline(always)]
pub fn learn_owner(actor: &Actor, buffer: *mut Buffer, found: &Found, seed: u64) {
    if found.flags & (path::CUT | path::LOST) != 0 {
        set_owner(actor, 0);
        return;
    }
    let mut search = Owners { buffer, count: found.components, sets: 0, hash: seed, previous: 0 };
    // SAFETY: `owner_step` has the signature the helper calls, and `search` outlives the call.
    unsafe { bpf_loop(DEPTH_MAX as u32 + 1, owner_step as *mut c_void, (&raw mut search).cast(), 0) };
    set_owner(actor, search.sets);
}

/// Of a program that could not be looked at nothing is known: it is spared nothing.
#[inline(always)]
pub fn forget_owner(actor: &Actor) {
    set_owner(actor, 0);
}

#[inline(always)]
fn set_owner(actor: &Actor, sets: u64) {
    if let Some(label) = SCOPE.get_ptr_mut(u64::from(actor.tgid)) {
        // SAFETY: the label lies in the map; only the process itself and the loader write this field.
        unsafe { (*label).owner = sets };
    }
}

struct Owners {
    buffer: *mut Buffer,
    count: u32,
    sets: u64,
    hash: u64,
    previous: u64,
}

unsafe extern "C" fn owner_step(index: u64, context: *mut c_void) -> i64 {
    // SAFETY: the helper passes the `Owners` that `learn_owner` gave it.
    let search = unsafe { &mut *context.cast::<Owners>() };
    let depth = index as u32;
    if depth > search.count {
        return 1;
    }
    let last = depth == search.count;
    if depth != 0 {
        let component = path::component(search.buffer, search.count.wrapping_sub(depth));
        let above = search.hash;
        search.hash = image::anchored(above, component);
        if last {
            search.sets |= owner_sets(above, class::ANCHORED, false, true);
            search.sets |= owner_sets(image::single(component), class::SINGLE, true, false);
            search.sets |= owner_sets(image::pair(search.previous, component), class::PAIR, true, false);
        }
        search.previous = component;
    }
    search.sets |= owner_sets(search.hash, class::ANCHORED, last, false);
    i64::from(last)
}

#[inline(never)]
fn owner_sets(hash: u64, class: u32, exact: bool, children: bool) -> u64 {
    let key = Key { hash, class: class | class::OWNER, slot: SHARED };
    let Some(cell) = RULES.get_ptr(&key) else { return 0 };
    // SAFETY: the cell lies in the map and holds three masks.
    unsafe {
        let at = cell.cast::<u8>();
        if children {
            return shim_word(at.add(8));
        }
        let below = shim_word(at.add(16));
        if exact { below | shim_word(at) } else { below }
    }
}
