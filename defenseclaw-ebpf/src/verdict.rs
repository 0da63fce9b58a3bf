//! What policy says about an operation: lookups in the image that is in force. Verdicts come from maps alone; whether a
//! record gets through never changes them. How the image lies in the maps is in `image.rs` of the library.
//!
//! LSM programs that ran before ours and refused have ended the chain: ours never turns a refusal into anything else.

mod address;
mod owner;
mod path;

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    helpers::generated::bpf_send_signal,
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
};
use defenseclaw_ebpf::{
    Label,
    image::{
        self, COUNTED_RULES, Cell, Current, Image, Key, PROFILES, Resolved, ResolvedKey, SLOTS,
        UNLESS_PARENT, VerdictCounts, VerdictWord, action, class, effect, entry_flags, has, reach,
    },
};

pub use owner::{forget_owner, learn_owner};
pub use path::State;
use {
    address::{Peer, judge_address},
    path::{Question, Way, judge_path, look},
};

use crate::{
    path::{self as walk, Buffer, Found},
    pause,
    scope::Actor,
    shim::shim_word,
};

/// Which image is in force for a profile; behind them, for programs that are held.
#[map]
pub static CURRENT: Array<Current> = Array::with_max_entries(PROFILES as u32 + 1, 0);
/// The first one stays empty: it is that of profiles without a policy. The last one asks about everything: it is that of
/// programs that are held.
#[map]
pub static IMAGES: Array<Image> = Array::with_max_entries(SLOTS as u32 + 2, 0);
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

    /// A person decides.
    #[inline(always)]
    pub fn asks(&self) -> bool {
        self.entry.action() == action::CONFIRM
    }

    /// It happens if no person decides.
    #[inline(always)]
    pub fn falls_back_to_allow(&self) -> bool {
        self.entry.flags() & entry_flags::FALLBACK_ALLOW != 0
    }

    #[inline(always)]
    pub fn rule(&self) -> u32 {
        self.entry.rule()
    }

    #[inline(always)]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The same rule, and what came of its question.
    #[inline(always)]
    pub fn with_action(&self, action: u8) -> Self {
        Self { entry: Entry(self.entry.0 & !(0xff << 32) | u64::from(action) << 32), ..*self }
    }

    /// A refusal after which somebody may be asked; see [`VerdictWord::asks`].
    #[inline(always)]
    pub fn asking(&self, asks: bool) -> Self {
        let refused = asks & self.blocks();
        Self { entry: Entry(self.entry.0 | u64::from(refused) << 57), ..*self }
    }

    /// All of it, as numbers.
    #[inline(always)]
    pub fn words(&self) -> (u64, u64) {
        (self.entry.0, self.generation)
    }

    #[inline(always)]
    pub fn from_words(entry: u64, generation: u64) -> Self {
        Self { entry: Entry(entry), generation }
    }

    /// What a rule by its number asks.
    #[inline(always)]
    pub fn of_rule(rule: u32, generation: u64, action: u8) -> Self {
        let raw = u64::from(action::CONFIRM) << 40;
        Self { entry: Entry(u64::from(rule & 0xffff) << 16 | u64::from(action) << 32 | raw), generation }
    }

    /// Worth a record even where the operation itself is not recorded.
    #[inline(always)]
    pub fn is_notable(&self) -> bool {
        self.entry.action() > action::ALLOW
    }

    #[inline(always)]
    pub fn stricter(self, other: Self) -> Self {
        // Without branches: each would double what the verifier goes through. Both are of one image, if of any.
        let less = ((i64::from(self.entry.action()) - i64::from(other.entry.action())) >> 63) as u64;
        let entry = Entry(self.entry.0 ^ (self.entry.0 ^ other.entry.0) & less);
        Self { entry, generation: self.generation | other.generation }
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
            // What cannot be written down cannot be asked.
            return if self.asks() && !self.falls_back_to_allow() { -EPERM } else { 0 };
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

const _: () =
    assert!(core::mem::offset_of!(Label, held) == core::mem::offset_of!(Label, profile) + size_of::<u32>());

/// Where hashes start, for all images.
#[inline(always)]
pub fn seed() -> u64 {
    // SAFETY: it is there. Volatile, because it gets its value after it was compiled.
    unsafe { (&raw const SEED).read_volatile() }
}

/// Where hashes start, for all images: they share the cells of owners. The loader puts a secret here.
#[unsafe(no_mangle)]
static SEED: u64 = 0;

/// Whether a policy can ever come into force. The loader says 0 where none will: the verifier, which knows, then leaves out
/// all that judges, so that the programs load in a fraction of the time.
#[unsafe(no_mangle)]
static JUDGES: u64 = 1;

/// Known to the verifier.
#[inline(always)]
pub fn may_judge() -> bool {
    // SAFETY: as for the seed.
    unsafe { (&raw const JUDGES).read_volatile() != 0 }
}

/// None only if the maps are not what they should be.
#[inline(always)]
pub fn policy(actor: &Actor) -> Option<Policy> {
    if !may_judge() {
        return Some(Policy { label: actor.label, current: 0, profile: 0 });
    }
    // Both words at once.
    // SAFETY: the label stays in the map as long as its task, which is the current one, runs this program; the two fields are
    // neighbours (asserted below).
    let word = unsafe { (&raw const (*actor.label).profile).cast::<u64>().read_volatile() };
    let mut row = word as u32;
    if word >> 32 != 0 && pause::pause_is_held() != 0 {
        // Looked up like all others, so that the verifier need not tell the two ways apart.
        row = PROFILES as u32;
    }
    let current = *CURRENT.get(row)?;
    Some(Policy { label: actor.label, current, profile: word as u32 })
}

/// The image that judges nothing.
#[inline(always)]
pub fn nobody() -> Option<*const Image> {
    IMAGES.get_ptr(0)
}

impl Policy {
    /// Whether anything is judged.
    #[inline(always)]
    pub fn judges(&self) -> bool {
        self.current != 0
    }

    /// What judges; the empty image where nothing does.
    #[inline(always)]
    pub fn judge(&self) -> Option<*const Image> {
        IMAGES.get_ptr(self.current)
    }

    /// Whether some rule asks a person.
    #[inline(always)]
    pub fn asks(&self) -> bool {
        // SAFETY: the image lies in its map.
        self.current != 0
            && self.image().is_some_and(|policy| unsafe { (*policy.image).has } & has::ASKS != 0)
    }

    /// The image, and the executables of the task.
    #[inline(always)]
    fn image(&self) -> Option<InForce> {
        Some(self.in_force(IMAGES.get_ptr(self.current)?))
    }

    /// The same, of an image that was looked up.
    #[inline(always)]
    fn in_force(&self, image: *const Image) -> InForce {
        // SAFETY: as for `policy`.
        let (owner, parent_owner) = unsafe { ((*self.label).owner, (*self.label).parent_owner) };
        InForce { image, owner, parent_owner, slot: self.current.wrapping_sub(1), profile: self.profile }
    }

    /// Whether anything is blocked: then nobody may get out of sight.
    #[inline(always)]
    pub fn blocks_anything(&self) -> bool {
        // SAFETY: the image lies in its map.
        self.current != 0
            && self.image().is_some_and(|policy| unsafe { (*policy.image).has } & has::BLOCKS != 0)
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

    /// An operation on a path that `buffer` holds, with hashes for `image`, which is [`Policy::judge`]; `dev` and `ino` are 0
    /// where there is no file yet.
    #[inline(always)]
    pub fn path(
        &self,
        image: *const Image,
        effects: u16,
        buffer: *mut Buffer,
        found: &Found,
        dev: u64,
        ino: u64,
    ) -> Judged {
        if self.current == 0 || effects == 0 || image.is_null() {
            return Judged::NOTHING;
        }
        // Two zeroes side by side would become a call of memset, a byte loop in BPF; likewise below.
        let generation = core::hint::black_box(0);
        let mut question =
            Question { image, effects: u32::from(effects), dev: core::hint::black_box(dev), ino, generation };
        let entry = judge_path(self, buffer, found, &mut question);
        Judged { entry: Entry(entry), generation: question.generation }
    }

    /// A unix socket by its abstract name, of which `name` holds `len` bytes and `walk::hash_words` may read 256.
    #[inline(always)]
    pub fn abstract_name(&self, buffer: *mut Buffer, name: *const u8, len: u32) -> Judged {
        if self.current == 0 {
            return Judged::NOTHING;
        }
        let Some(policy) = self.image() else { return Judged::NOTHING };
        let hash = image::finish(walk::hash_words(seed_of(policy.image), name, len), len);
        policy.abstract_name(buffer, hash)
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
        let mut way = self.way(buffer, 0);
        let state = way.state();
        (state.effect, state.best) = (u64::from(effect::UNIX), default_of(self.image, 7).0);
        if in_bloom(way.image, hash, class::ABSTRACT) {
            look(&mut way, hash, class::ABSTRACT, reach::EXACT);
        }
        self.judged(Entry(way.state().best))
    }

    #[inline(always)]
    fn way(&self, buffer: *mut Buffer, count: u32) -> Way {
        Way {
            buffer,
            image: self.image,
            slot: self.slot,
            count,
            owner: self.owner,
            parent_owner: self.parent_owner,
        }
    }
}

/// What policy says where no rule speaks.
#[inline(always)]
fn default_of(image: *const Image, effect_number: u32) -> Entry {
    // SAFETY: the image lies in its map, the masked index in the array.
    let entry = unsafe { (&raw const (*image).defaults).cast::<u8>().add((effect_number & 15) as usize * 8) };
    // SAFETY: as above.
    Entry(unsafe { shim_word(entry) })
}

#[inline(always)]
fn seed_of(image: *const Image) -> u64 {
    // SAFETY: the image lies in its map.
    unsafe { (*image).seed }
}

#[inline(always)]
fn in_bloom(image: *const Image, hash: u64, class: u32) -> bool {
    bloom_bit(image, hash, class) != 0
}

/// 1 if the image may have such a key, otherwise 0.
#[inline(always)]
pub fn bloom_bit(image: *const Image, hash: u64, class: u32) -> u64 {
    let (word, bit) = image::bloom(hash, class);
    // SAFETY: the image lies in its map; `bloom` masks the index.
    let word = unsafe { shim_word((&raw const (*image).bloom).cast::<u8>().add(word * 8)) };
    word >> bit & 1
}
