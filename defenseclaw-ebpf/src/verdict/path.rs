//! What policy says of a path: hashes of its components lead from the root to the object, and the identity of the file adds
//! what is known of it under another name.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use defenseclaw_ebpf::image::{self, DEPTH_MAX, EXTENSION_MAX, Image, Key, class, effect, has, reach};

use super::{Entry, Policy, RULES, default_of, in_bloom, seed_of};
use crate::{
    path::{self, Buffer, Found},
    shim::shim_word,
};

pub(super) struct Question {
    /// Of the policy that is asked.
    pub(super) image: *const Image,
    pub(super) effects: u32,
    pub(super) dev: u64,
    pub(super) ino: u64,
    /// Answer: generation of the image that was asked.
    pub(super) generation: u64,
}

/// What a way from the root to the object knows so far. It lies in a map, not on the stack: there the verifier would know its
/// values, and take every combination of them for another way through the program.
#[repr(C)]
pub struct State {
    /// Not 0: some key of the path can have a cell; otherwise the answer for other effects is the default as well.
    hit: u64,
    /// Hash of the file, if cells may know it by its identity; 0: they do not.
    alias: u64,
    /// Hash of the extension, likewise.
    extension: u64,
    pub(super) effect: u64,
    hash: u64,
    previous: u64,
    pub(super) best: u64,
    /// Effects that were not asked for yet, and the strictest answer of the others.
    left: u64,
    answer: u64,
}

/// A way from the root to the object.
pub(super) struct Way {
    pub(super) buffer: *mut Buffer,
    pub(super) image: *const Image,
    pub(super) slot: u32,
    pub(super) count: u32,
    pub(super) owner: u64,
    pub(super) parent_owner: u64,
}

impl Way {
    #[inline(always)]
    pub(super) fn state(&mut self) -> &mut State {
        // SAFETY: the buffer is ours as long as the record, and nobody else holds this reference.
        unsafe { &mut *path::state(self.buffer) }
    }
}

/// Not inlined: it is the same for every hook.
#[inline(never)]
pub(super) fn judge_path(
    policy: &Policy,
    buffer: *mut Buffer,
    found: &Found,
    question: &mut Question,
) -> u64 {
    let policy = policy.in_force(question.image);
    // SAFETY: the image lies in its map.
    let has = unsafe { (*policy.image).has };
    let effects = question.effects;
    // A file system that opens its own layers: which file it is says everything, its place there nothing. What the task
    // asked for has been judged by the name that it used.
    let internal = found.flags & path::INTERNAL != 0;
    if found.flags & (path::CUT | path::LOST) != 0 && !internal {
        let entry = policy.unresolved();
        let sensitive =
            if found.flags & path::PSEUDO != 0 { effects & u32::from(effect::EXEC) } else { effects };
        if entry.effects() & u64::from(sensitive) != 0 {
            // SAFETY: the image lies in its map.
            question.generation = unsafe { (*policy.image).generation };
            return entry.0;
        }
    }
    let extension = if has & has::EXTENSION == 0 { 0 } else { extension(policy.image, buffer, found.leaf) };
    // A path that was not read to its end is one nobody knows the names of.
    let hit = path::is_named(buffer)
        | has & has::ROOT
        | u64::from(found.flags & (path::CUT | path::LOST))
        | extension;
    let alias = if has & has::INODE == 0 { 0 } else { of_file(policy.image, question) };
    if hit | alias | has & has::DEFAULTS == 0 {
        // So it is for nearly everything that is opened.
        return 0;
    }
    // SAFETY: the image lies in its map.
    question.generation = unsafe { (*policy.image).generation };
    let mut way = policy.way(buffer, found.components);
    let state = way.state();
    (state.hit, state.alias, state.left, state.answer) = (hit, alias, u64::from(effects & 0xff), 0);
    state.extension = extension;
    let mut ways = Ways { way, by_name: u64::from(!internal) };
    // Most operations have one effect. For the others a loop of the helper, because the verifier would go through
    // everything again for each round of ours.
    // SAFETY: `ways` outlives the calls, and `one_effect` has the signature the helper calls.
    unsafe {
        one_effect(0, (&raw mut ways).cast());
        if ways.way.state().left != 0 {
            bpf_loop(7, one_effect as *mut c_void, (&raw mut ways).cast(), 0);
        }
    }
    ways.way.state().answer
}

/// The ways for all effects of an operation.
struct Ways {
    way: Way,
    by_name: u64,
}

/// Hash of the file, if it may be one that is known by its identity; otherwise 0.
#[inline(always)]
fn of_file(image: *const Image, question: &Question) -> u64 {
    if question.ino == 0 {
        return 0;
    }
    let hash = image::inode(seed_of(image), question.dev, question.ino);
    if in_bloom(image, hash, class::INODE) { hash } else { 0 }
}

unsafe extern "C" fn one_effect(_index: u64, context: *mut c_void) -> i64 {
    // SAFETY: the helper passes the `Ways` that `judge_path` gave it.
    let ways = unsafe { &mut *context.cast::<Ways>() };
    let way = &mut ways.way;
    let image = way.image;
    let state = way.state();
    let left = state.left;
    if left == 0 {
        return 1;
    }
    let bit = left & left.wrapping_neg();
    (state.left, state.effect) = (left ^ bit, bit);
    // Number of the bit, counted without branches.
    let below = bit - 1;
    let pairs = below - (below >> 1 & 0x55);
    let fours = (pairs & 0x33) + (pairs >> 2 & 0x33);
    if ways.by_name == 0 {
        state.best = 0;
        alias(way);
        return stricter_of(way);
    }
    state.best = default_of(image, (fours + (fours >> 4)) as u32 & 15).0;
    // Once a way was seen to hold nothing, it holds nothing for other effects either.
    if state.hit != 0 {
        (state.hit, state.hash) = (0, seed_of(image));
        // SAFETY: `step` has the signature the helper calls, and `way` outlives the call.
        unsafe { bpf_loop(DEPTH_MAX as u32 + 1, step as *mut c_void, core::ptr::from_mut(way).cast(), 0) };
    }
    alias(way);
    stricter_of(way)
}

#[inline(always)]
fn stricter_of(way: &mut Way) -> i64 {
    let state = way.state();
    if Entry(state.best).action() > Entry(state.answer).action() {
        state.answer = state.best;
    }
    0
}

/// A step from the root. Later steps know better, and within a step later questions do.
unsafe extern "C" fn step(index: u64, context: *mut c_void) -> i64 {
    // SAFETY: the helper passes the `Way` that `judge_path` gave it.
    let way = unsafe { &mut *context.cast::<Way>() };
    let depth = index as u32;
    if depth > way.count {
        return 1;
    }
    let last = depth == way.count;
    // SAFETY: the image lies in its map.
    let has = unsafe { (*way.image).has };
    let reaches = if last { reach::EXACT | reach::SUBTREE | reach::ANCESTOR } else { reach::SUBTREE };
    let above = way.state().hash;
    if depth != 0 {
        let component = path::component(way.buffer, way.count.wrapping_sub(depth));
        way.state().hash = image::anchored(above, component);
        if last {
            if may_have(way, above, class::ANCHORED) {
                look(way, above, class::ANCHORED, reach::CHILDREN);
            }
            let extension = way.state().extension;
            if extension != 0 {
                look(way, extension, class::EXTENSION, reach::EXACT);
            }
        }
        if has & has::SINGLE != 0 && may_have(way, component, class::SINGLE) {
            look(way, image::single(component), class::SINGLE, reaches);
        }
        if has & has::PAIR != 0 && depth > 1 {
            let hash = image::pair(way.state().previous, component);
            if may_have(way, hash, class::PAIR) {
                look(way, hash, class::PAIR, reaches);
            }
        }
        way.state().previous = component;
    }
    let hash = way.state().hash;
    if may_have(way, hash, class::ANCHORED) {
        look(way, hash, class::ANCHORED, reaches);
    }
    i64::from(last)
}

#[inline(always)]
fn may_have(way: &Way, hash: u64, class: u32) -> bool {
    in_bloom(way.image, hash, class)
}

/// Takes the first entry of a cell that applies.
#[inline(never)]
pub(super) fn look(way: &mut Way, hash: u64, class: u32, reaches: u8) {
    way.state().hit = 1;
    let key = Key { hash, class, slot: way.slot };
    let Some(cell) = RULES.get_ptr(&key) else { return };
    let mut at = 0;
    while at < image::ENTRIES {
        // SAFETY: the cell lies in the map, the index in the array.
        let entry = Entry(unsafe { shim_word(cell.cast::<u8>().add(at * 8)) });
        if entry == Entry::NONE {
            return;
        }
        // Without branches: each would double what the verifier goes through.
        let reached = entry.0 >> 44 & u64::from(reaches);
        let concerned = entry.0 & way.state().effect & 0xffff;
        let spared = entry.spares(way.owner, way.parent_owner);
        if u64::from(reached == 0) | u64::from(concerned == 0) | spared == 0 {
            way.state().best = entry.0;
            return;
        }
        at += 1;
    }
}

/// Hash of what follows the last dot of the last component, which is `leaf` bytes long, if it is short enough and may have a
/// cell; otherwise 0.
#[inline(always)]
fn extension(image: *const Image, buffer: *mut Buffer, leaf: u32) -> u64 {
    // SAFETY: eight bytes before the end of a path lie inside the buffer.
    let word = unsafe { shim_word(path::end(buffer).wrapping_sub(8)) };
    // A byte of 0x80 for each dot, exactly.
    let x = word ^ 0x2e2e_2e2e_2e2e_2e2e;
    let low = 0x7f7f_7f7f_7f7f_7f7f;
    let mut dots = !((x & low).wrapping_add(low) | x | low);
    if leaf < 8 {
        // What stands before the component is not ours.
        dots &= u64::MAX << ((8 * (8 - leaf)) & 63);
    }
    let mut len = 0;
    while len <= EXTENSION_MAX as u32 {
        if dots >> 63 != 0 {
            break;
        }
        dots <<= 8;
        len += 1;
    }
    if len == 0 || len > EXTENSION_MAX as u32 {
        return 0;
    }
    let hash = image::finish(image::mix(seed_of(image), word >> ((8 * (8 - len)) & 63)), len);
    if in_bloom(image, hash, class::EXTENSION) { hash } else { 0 }
}

/// Another name of a protected file: the stricter of what path and file say.
#[inline(always)]
fn alias(way: &mut Way) {
    let hash = way.state().alias;
    if hash == 0 {
        return;
    }
    let by_path = Entry(way.state().best);
    way.state().best = 0;
    look(way, hash, class::INODE, reach::EXACT);
    if Entry(way.state().best).action() < by_path.action() {
        way.state().best = by_path.0;
    }
}
