//! What policy says about an operation: lookups in the image that is in force. Verdicts come from maps alone; whether a
//! record gets through never changes them. How the image lies in the maps is in `image.rs` of the library.
//!
//! LSM programs that ran before ours and refused have ended the chain: ours never turns a refusal into anything else.

use core::{ffi::c_void, mem::offset_of};

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    helpers::generated::{bpf_ktime_get_boot_ns, bpf_loop, bpf_send_signal},
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
};
use defenseclaw_ebpf::{
    Label,
    image::{
        self, COUNTED_RULES, Cell, Current, DEPTH_MAX, EXTENSION_MAX, Image, Key, LENGTHS_MAX, PROFILES,
        Resolved, ResolvedKey, SHARED, SLOTS, UNLESS_PARENT, VerdictCounts, VerdictWord, action, class,
        effect, entry_flags, has, reach,
    },
};

use crate::{
    path::{self, Buffer, Found},
    scope::{Actor, SCOPE},
    shim::shim_word,
};

/// Which image is in force for a profile.
#[map]
pub static CURRENT: Array<Current> = Array::with_max_entries(PROFILES as u32, 0);
/// The first one stays empty: it is that of profiles without a policy.
#[map]
pub static IMAGES: Array<Image> = Array::with_max_entries(SLOTS as u32 + 1, 0);
/// Cells of all images.
#[map]
pub static RULES: HashMap<Key, Cell> = HashMap::with_max_entries(1 << 18, BPF_F_NO_PREALLOC);
/// What resolved names permit.
#[map]
pub static RESOLVED: HashMap<ResolvedKey, Resolved> = HashMap::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);
#[map]
pub static VERDICTS: PerCpuArray<VerdictCounts> = PerCpuArray::with_max_entries(COUNTED_RULES as u32, 0);

const SIGKILL: u32 = 9;
const EPERM: i32 = 1;

/// An [`image::Entry`] as one word, which is how it is loaded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Entry(u64);

impl Entry {
    pub const NONE: Self = Self(0);

    #[inline(always)]
    fn effects(self) -> u64 {
        self.0 & 0xffff
    }

    #[inline(always)]
    fn rule(self) -> u32 {
        (self.0 >> 16) as u32 & 0xffff
    }

    #[inline(always)]
    pub fn action(self) -> u8 {
        (self.0 >> 32) as u8
    }

    #[inline(always)]
    fn flags(self) -> u8 {
        (self.0 >> 56) as u8
    }

    /// Whether the executable of the task, or that of its parent, is one the entry does not apply to.
    #[inline(always)]
    fn spares(self, owner: u64, parent_owner: u64) -> u64 {
        let unless = self.0 >> 48;
        let by_parent = unless >> 7 & 1;
        let sets = owner & by_parent.wrapping_sub(1) | parent_owner & by_parent.wrapping_neg();
        // Bit 0 stands for no set, so that a shift by the number finds it.
        (sets << 1) >> (unless & u64::from(!UNLESS_PARENT) & 63) & 1
    }
}

/// What was decided.
#[derive(Clone, Copy)]
pub struct Judged {
    entry: Entry,
    generation: u64,
}

impl Judged {
    /// No policy spoke.
    pub const NOTHING: Self = Self { entry: Entry::NONE, generation: 0 };

    #[inline(always)]
    pub fn blocks(&self) -> bool {
        self.entry.action() == action::BLOCK
    }

    /// Worth a record even where the operation itself is not recorded.
    #[inline(always)]
    pub fn is_notable(&self) -> bool {
        self.entry.action() > action::ALLOW
    }

    #[inline(always)]
    pub fn stricter(self, other: Self) -> Self {
        if other.entry.action() > self.entry.action() { other } else { self }
    }

    /// For the record; see [`image::VerdictWord`].
    #[inline(always)]
    pub fn word(&self) -> u32 {
        let entry = self.entry;
        if entry == Entry::NONE {
            return 0;
        }
        let would_block = entry.flags() & entry_flags::WOULD_BLOCK != 0;
        let raw_action = (entry.0 >> 40) as u8 & 15;
        VerdictWord::pack(entry.action(), raw_action, would_block, entry.rule() as u16, self.generation).0
    }

    /// A refusal that no rule is behind; its number stands for none.
    pub const REFUSED: Self = Self {
        entry: Entry(0xffff << 16 | (action::BLOCK as u64) << 32 | (action::BLOCK as u64) << 40),
        generation: 0,
    };

    /// Counts it.
    #[inline(always)]
    pub fn count(&self) {
        if !self.is_notable() {
            return;
        }
        let mut rule = self.entry.rule();
        if rule >= COUNTED_RULES as u32 {
            rule = COUNTED_RULES as u32 - 1;
        }
        if let Some(row) = VERDICTS.get_ptr_mut(rule) {
            // SAFETY: the row lies in the map. Preemption by another program on this CPU could lose a count, so it is
            // atomic.
            unsafe {
                crate::shim::shim_atomic_increment(&raw mut (*row).counts[self.entry.action() as usize & 7])
            };
        }
    }

    /// Counts it, ends the process if the rule says so, and is what an LSM program returns.
    #[inline(always)]
    pub fn carry_out(&self) -> i32 {
        self.count();
        if !self.blocks() {
            return 0;
        }
        if self.entry.flags() & entry_flags::KILL != 0 {
            // SAFETY: takes a number.
            unsafe { bpf_send_signal(SIGKILL) };
        }
        -EPERM
    }
}

/// Which image is in force for a task. Only this much is known without a policy: the image itself is looked up where it is
/// asked.
#[derive(Clone, Copy)]
pub struct Policy {
    label: *const Label,
    /// Index of the image; 0: nothing is judged.
    current: u32,
    profile: u32,
}

/// Where hashes start, for all images: they share the cells of owners. The loader puts a secret here.
#[unsafe(no_mangle)]
static SEED: u64 = 0;

/// None only if the maps are not what they should be.
#[inline(always)]
pub fn policy(actor: &Actor) -> Option<Policy> {
    // SAFETY: the label stays in the map as long as its task, which is the current one, runs this program.
    let profile = unsafe { (*actor.label).profile };
    let current = *CURRENT.get(profile)?;
    Some(Policy { label: actor.label, current, profile })
}

impl Policy {
    /// Whether anything is judged.
    #[inline(always)]
    pub fn judges(&self) -> bool {
        self.current != 0
    }

    /// Where hashes of paths start; 0 where nothing is judged.
    #[inline(always)]
    pub fn seed(&self) -> u64 {
        if self.current == 0 {
            return 0;
        }
        // SAFETY: it is there. Volatile, because it gets its value after it was compiled.
        unsafe { (&raw const SEED).read_volatile() }
    }

    /// The image, and the executables of the task.
    #[inline(always)]
    fn image(&self) -> Option<InForce> {
        let image = IMAGES.get_ptr(self.current)?;
        // SAFETY: as for `policy`.
        let (owner, parent_owner) = unsafe { ((*self.label).owner, (*self.label).parent_owner) };
        Some(InForce {
            image,
            owner,
            parent_owner,
            slot: self.current.wrapping_sub(1),
            profile: self.profile,
        })
    }

    /// An operation on an object that could not be looked at, for lack of a buffer.
    #[inline(always)]
    pub fn blind(&self, effects: u16) -> Judged {
        if self.current == 0 {
            return Judged::NOTHING;
        }
        self.image().map_or(Judged::NOTHING, |image| image.blind(effects))
    }

    /// A privileged operation.
    #[inline(always)]
    pub fn privilege(&self, operation: usize) -> Judged {
        if self.current == 0 {
            return Judged::NOTHING;
        }
        self.image().map_or(Judged::NOTHING, |image| image.privilege(operation))
    }

    /// An operation on an internet address: two words in the order of numbers, IPv4 as `::ffff:a.b.c.d`.
    #[inline(always)]
    pub fn address(&self, effect: u16, high: u64, low: u64, port: u16) -> Judged {
        if self.current == 0 {
            return Judged::NOTHING;
        }
        let low = match (high, low) {
            // To no address means to this machine.
            (0, 0) if effect == effect::CONNECT => 1,
            (0, 0xffff_0000_0000) if effect == effect::CONNECT => 0xffff_7f00_0001,
            _ => low,
        };
        let mut peer = Peer { effect: u64::from(effect), high, low, port: u32::from(port), generation: 0 };
        let entry = judge_address(self, &mut peer);
        Judged { entry: Entry(entry), generation: peer.generation }
    }

    /// An operation on a path that `buffer` holds; `dev` and `ino` are 0 where there is no file yet.
    #[inline(always)]
    pub fn path(&self, effects: u16, buffer: *mut Buffer, found: &Found, dev: u64, ino: u64) -> Judged {
        if self.current == 0 || effects == 0 {
            return Judged::NOTHING;
        }
        let mut question = Question { effects: u32::from(effects), dev, ino, generation: 0 };
        let entry = judge_path(self, buffer, found, &mut question);
        Judged { entry: Entry(entry), generation: question.generation }
    }

    /// A unix socket by its abstract name, of which `name` holds `len` bytes and `path::hash_words` may read 256.
    #[inline(always)]
    pub fn abstract_name(&self, buffer: *mut Buffer, name: *const u8, len: u32) -> Judged {
        if self.current == 0 {
            return Judged::NOTHING;
        }
        let hash = image::finish(path::hash_words(self.seed(), name, len), len);
        self.image().map_or(Judged::NOTHING, |image| image.abstract_name(buffer, hash))
    }
}

/// An image that is in force.
#[derive(Clone, Copy)]
struct InForce {
    image: *const Image,
    owner: u64,
    parent_owner: u64,
    slot: u32,
    profile: u32,
}

impl InForce {
    #[inline(always)]
    fn judged(&self, entry: Entry) -> Judged {
        // SAFETY: the image lies in its map.
        Judged { entry, generation: unsafe { (*self.image).generation } }
    }

    #[inline(always)]
    fn default_of(&self, effect_number: u32) -> Entry {
        // SAFETY: the image lies in its map, the masked index in the array.
        let entry = unsafe {
            (&raw const (*self.image).defaults).cast::<u8>().add((effect_number & 15) as usize * 8)
        };
        // SAFETY: as above.
        Entry(unsafe { shim_word(entry) })
    }

    #[inline(always)]
    fn unresolved(&self) -> Entry {
        // SAFETY: the image lies in its map.
        Entry(unsafe { shim_word((&raw const (*self.image).unresolved).cast()) })
    }

    #[inline(always)]
    fn blind(&self, effects: u16) -> Judged {
        let entry = self.unresolved();
        self.judged(if entry.effects() & u64::from(effects) != 0 { entry } else { Entry::NONE })
    }

    #[inline(always)]
    fn privilege(&self, operation: usize) -> Judged {
        let mut at = 0;
        while at < 2 {
            // SAFETY: the image lies in its map, the constant index in the array.
            let entry =
                Entry(unsafe { shim_word((&raw const (*self.image).privileges[operation & 31][at]).cast()) });
            if entry != Entry::NONE && entry.spares(self.owner, self.parent_owner) == 0 {
                return self.judged(entry);
            }
            at += 1;
        }
        Judged::NOTHING
    }

    #[inline(always)]
    fn abstract_name(&self, buffer: *mut Buffer, hash: u64) -> Judged {
        let mut way = self.way(buffer, 0, 0);
        let state = way.state();
        (state.effect, state.best) = (u64::from(effect::UNIX), self.default_of(7).0);
        if may_have(&way, hash, class::ABSTRACT) {
            look(&mut way, hash, class::ABSTRACT, reach::EXACT);
        }
        self.judged(Entry(way.state().best))
    }

    #[inline(always)]
    fn way(&self, buffer: *mut Buffer, count: u32, leaf: u32) -> Way {
        Way {
            buffer,
            image: self.image,
            slot: self.slot,
            count,
            leaf,
            owner: self.owner,
            parent_owner: self.parent_owner,
        }
    }
}

struct Question {
    effects: u32,
    dev: u64,
    ino: u64,
    /// Answer: generation of the image that was asked.
    generation: u64,
}

/// What a way from the root to the object knows so far. It lies in a map, not on the stack: there the verifier would know its
/// values, and take every combination of them for another way through the program.
#[repr(C)]
pub struct State {
    /// Not 0: some key of the path can have a cell; otherwise the answer for other effects is the default as well.
    hit: u64,
    effect: u64,
    hash: u64,
    previous: u64,
    best: u64,
    /// Effects that were not asked for yet, and the strictest answer of the others.
    left: u64,
    answer: u64,
}

/// A way from the root to the object.
struct Way {
    buffer: *mut Buffer,
    image: *const Image,
    slot: u32,
    count: u32,
    leaf: u32,
    owner: u64,
    parent_owner: u64,
}

impl Way {
    #[inline(always)]
    fn state(&mut self) -> &mut State {
        // SAFETY: the buffer is ours as long as the record, and nobody else holds this reference.
        unsafe { &mut *path::state(self.buffer) }
    }
}

/// Not inlined: it is the same for every hook.
#[inline(never)]
fn judge_path(policy: &Policy, buffer: *mut Buffer, found: &Found, question: &mut Question) -> u64 {
    let Some(policy) = policy.image() else { return 0 };
    // SAFETY: the image lies in its map.
    question.generation = unsafe { (*policy.image).generation };
    let effects = question.effects;
    // A file system that opens its own layers: which file it is says everything, its place there nothing. What the task
    // asked for has been judged by the name that it used.
    let internal = found.flags & path::INTERNAL != 0;
    if found.flags & (path::CUT | path::LOST) != 0 && !internal {
        let entry = policy.unresolved();
        let sensitive =
            if found.flags & path::PSEUDO != 0 { effects & u32::from(effect::EXEC) } else { effects };
        if entry.effects() & u64::from(sensitive) != 0 {
            return entry.0;
        }
    }
    let mut way = policy.way(buffer, found.components, found.leaf);
    let state = way.state();
    (state.hit, state.left, state.answer) = (1, u64::from(effects & 0xff), 0);
    let mut ways = Ways { way, policy, question, by_name: u64::from(!internal) };
    // A loop of the helper, because the verifier would go through everything again for each round of ours.
    // SAFETY: `one_effect` has the signature the helper calls, and `ways` outlives the call.
    unsafe { bpf_loop(8, one_effect as *mut c_void, (&raw mut ways).cast(), 0) };
    ways.way.state().answer
}

/// The ways for all effects of an operation.
struct Ways<'a> {
    way: Way,
    policy: InForce,
    question: &'a Question,
    by_name: u64,
}

unsafe extern "C" fn one_effect(_index: u64, context: *mut c_void) -> i64 {
    // SAFETY: the helper passes the `Ways` that `judge_path` gave it.
    let ways = unsafe { &mut *context.cast::<Ways<'_>>() };
    let way = &mut ways.way;
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
        alias(way, ways.question);
        return stricter_of(way);
    }
    state.best = ways.policy.default_of((fours + (fours >> 4)) as u32 & 15).0;
    // Once a way was seen to hold nothing, it holds nothing for other effects either.
    if state.hit != 0 {
        (state.hit, state.hash) = (0, seed_of(ways.policy.image));
        // SAFETY: `step` has the signature the helper calls, and `way` outlives the call.
        unsafe { bpf_loop(DEPTH_MAX as u32 + 1, step as *mut c_void, core::ptr::from_mut(way).cast(), 0) };
        alias(way, ways.question);
    }
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
            if has & has::EXTENSION != 0 {
                extension(way);
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

#[inline(always)]
fn in_bloom(image: *const Image, hash: u64, class: u32) -> bool {
    let (word, bit) = image::bloom(hash, class);
    // SAFETY: the image lies in its map; `bloom` masks the index.
    let word = unsafe { shim_word((&raw const (*image).bloom).cast::<u8>().add(word * 8)) };
    word >> bit & 1 != 0
}

/// Takes the first entry of a cell that applies.
#[inline(never)]
fn look(way: &mut Way, hash: u64, class: u32, reaches: u8) {
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

/// What follows the last dot of the last component, if it is short enough.
#[inline(always)]
fn extension(way: &mut Way) {
    // SAFETY: eight bytes before the end of a path lie inside the buffer.
    let word = unsafe { shim_word(path::end(way.buffer).wrapping_sub(8)) };
    // A byte of 0x80 for each dot, exactly.
    let x = word ^ 0x2e2e_2e2e_2e2e_2e2e;
    let low = 0x7f7f_7f7f_7f7f_7f7f;
    let mut dots = !((x & low).wrapping_add(low) | x | low);
    if way.leaf < 8 {
        // What stands before the component is not ours.
        dots &= u64::MAX << ((8 * (8 - way.leaf)) & 63);
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
        return;
    }
    // SAFETY: the image lies in its map.
    let seed = unsafe { (*way.image).seed };
    let hash = image::finish(image::mix(seed, word >> ((8 * (8 - len)) & 63)), len);
    if may_have(way, hash, class::EXTENSION) {
        look(way, hash, class::EXTENSION, reach::EXACT);
    }
}

/// Another name of a protected file: the stricter of what path and file say.
#[inline(always)]
fn alias(way: &mut Way, question: &Question) {
    // SAFETY: the image lies in its map.
    let (has, seed) = unsafe { ((*way.image).has, (*way.image).seed) };
    if has & has::INODE == 0 || question.ino == 0 {
        return;
    }
    let hash = image::inode(seed, question.dev, question.ino);
    if !may_have(way, hash, class::INODE) {
        return;
    }
    let by_path = Entry(way.state().best);
    way.state().best = 0;
    look(way, hash, class::INODE, reach::EXACT);
    if Entry(way.state().best).action() < by_path.action() {
        way.state().best = by_path.0;
    }
}

#[inline(always)]
fn seed_of(image: *const Image) -> u64 {
    // SAFETY: the image lies in its map.
    unsafe { (*image).seed }
}

struct Peer {
    effect: u64,
    high: u64,
    low: u64,
    port: u32,
    /// Answer: generation of the image that was asked.
    generation: u64,
}

#[inline(never)]
fn judge_address(policy: &Policy, peer: &mut Peer) -> u64 {
    let Some(policy) = policy.image() else { return 0 };
    let policy = &policy;
    // SAFETY: the image lies in its map.
    peer.generation = unsafe { (*policy.image).generation };
    let peer = &*peer;
    let effect_number = if peer.effect == u64::from(effect::BIND) { 9 } else { 8 };
    let default = policy.default_of(effect_number);
    // SAFETY: the image lies in its map.
    let image = unsafe { &*policy.image };
    let is_v4 = peer.high == 0 && peer.low >> 32 == 0xffff;
    let (lengths, n, base) = if is_v4 {
        ((&raw const image.lengths4).cast::<u8>(), image.n_lengths4, 96)
    } else {
        ((&raw const image.lengths).cast::<u8>(), image.n_lengths, 0)
    };
    let mut search = Search { policy, peer, lengths, n, base, names_asked: 0, answer: 0 };
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
    let mut key = ResolvedKey { address: [0; 16], profile: policy.profile, reserved: 0 };
    // SAFETY: the array is 16 bytes.
    unsafe {
        let words = (&raw mut key.address).cast::<u64>();
        words.write_unaligned(peer.high.to_be());
        words.add(1).write_unaligned(peer.low.to_be());
    }
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
