//! The policy image: how rules lie in the maps of the kernel, and the hashes that find them. Used by both sides, so that
//! they cannot disagree. No lookups here: the kernel's are in `verdict.rs`.
//!
//! A path is judged component by component from the root. Each step has up to three keys: the whole path so far
//! ([`anchored`]), its last component alone ([`single`]) and its last two ([`pair`]). A bit of [`Image::bloom`] says
//! whether a key can have a [`Cell`]; only then is it looked up. So the cost of a path does not depend on the number of
//! rules. Before that each component is asked for by itself, while the path is read: if no key ends with any of them, no
//! key can concern the path, and most paths are done. Hashes start from a secret seed: who writes paths cannot aim at one.
#![allow(
    clippy::inline_always,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "also built for the kernel, where a call costs more than the function; words are cut on purpose"
)]

/// Images that can be in force at once; [`super::Label::profile`] chooses.
pub const PROFILES: usize = 64;
/// Two per profile: one in force, one being made.
pub const SLOTS: usize = 2 * PROFILES;
/// Components of a path that are judged. Deeper paths count as unresolved.
pub const DEPTH_MAX: usize = 64;
/// Entries of a cell.
pub const ENTRIES: usize = 8;
/// Bits of [`Image::bloom`].
pub const BLOOM_BITS: usize = 1 << 18;
/// Distinct prefix lengths of an address family in one image.
pub const LENGTHS_MAX: usize = 32;
/// Operations of `priv.*`, at most.
pub const PRIVILEGES: usize = 32;
/// Bytes of the last component's ending that count as extension, at most, without the dot.
pub const EXTENSION_MAX: usize = 7;

/// Effects: bits of [`Entry::effects`]. Numbers as in the agent's model.
pub mod effect {
    pub const READ: u16 = 1;
    pub const WRITE: u16 = 1 << 1;
    pub const CREATE: u16 = 1 << 2;
    pub const DELETE: u16 = 1 << 3;
    pub const LINK: u16 = 1 << 4;
    pub const ATTR: u16 = 1 << 5;
    pub const EXEC: u16 = 1 << 6;
    pub const UNIX: u16 = 1 << 7;
    pub const CONNECT: u16 = 1 << 8;
    pub const BIND: u16 = 1 << 9;
    pub const DNS: u16 = 1 << 10;
}

/// Operations of `priv.*`: indices of [`Image::privileges`]. Numbers as in the agent's model.
pub mod privilege {
    pub const PTRACE: usize = 0;
    pub const INSPECT: usize = 1;
    pub const SIGNAL: usize = 2;
    pub const MOUNT: usize = 3;
    pub const CHROOT: usize = 4;
    pub const USER_NAMESPACE: usize = 5;
    pub const NAMESPACE: usize = 6;
    pub const BPF: usize = 7;
    pub const MODULE: usize = 8;
    pub const IO_URING: usize = 9;
    pub const SET_ID: usize = 10;
    pub const RAW_SOCKET: usize = 11;
    pub const OTHER_SOCKET: usize = 12;
    pub const DEVICE: usize = 13;
    pub const PERF: usize = 14;
}

/// What is done. The order is that of strictness; 0 is no entry.
pub mod action {
    pub const ALLOW: u8 = 1;
    pub const ALERT: u8 = 2;
    pub const CONFIRM: u8 = 3;
    pub const BLOCK: u8 = 4;
}

/// Where an entry of a path cell applies, seen from the path of its key.
pub mod reach {
    /// To the path itself.
    pub const EXACT: u8 = 1;
    /// To what lies directly below.
    pub const CHILDREN: u8 = 1 << 1;
    /// To the path and everything below.
    pub const SUBTREE: u8 = 1 << 2;
    /// To the path itself, because rules protect something below: moving it away would take that along.
    pub const ANCESTOR: u8 = 1 << 3;
}

/// Bits of [`Entry::flags`].
pub mod entry_flags {
    /// SIGKILL besides the refusal.
    pub const KILL: u8 = 1;
    /// Another mode would block it.
    pub const WOULD_BLOCK: u8 = 1 << 1;
    /// Of CONFIRM: it happens if nobody answers.
    pub const FALLBACK_ALLOW: u8 = 1 << 2;
}

/// What one rule says about a key. Eight bytes, so that it is loaded as one word; all zero: no entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Entry {
    /// Bits of [`effect`].
    pub effects: u16,
    /// Number of the rule, for the audit.
    pub rule: u16,
    /// One of [`action`]: what is done, after mode.
    pub action: u8,
    /// Low four bits: [`action`] before mode. High four: [`reach`].
    pub raw_and_reach: u8,
    /// Set of executables the entry does not apply to, plus 1; 0: none. Bit of [`super::Label::owner`]; with the top bit
    /// set, of [`super::Label::parent_owner`].
    pub unless: u8,
    /// Bits of [`entry_flags`].
    pub flags: u8,
}

/// Top bit of [`Entry::unless`]: the parent is meant.
pub const UNLESS_PARENT: u8 = 0x80;

/// Rules of one key. The kernel takes the first entry that has the effect, reaches the object and does not spare the
/// executable, so they stand in the order of precedence: exact before subtree, narrow before wide ports, stricter first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Cell {
    /// Up to the first empty one.
    pub entries: [Entry; ENTRIES],
    /// For addresses, `last << 16 | first` port of each entry; `0xffff_0000`: any.
    pub ports: [u32; ENTRIES],
}

/// Where cells are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Key {
    /// Hash of the object.
    pub hash: u64,
    /// One of [`class`].
    pub class: u32,
    /// Image it belongs to, [`SHARED`] for owners.
    pub slot: u32,
}

/// [`Key::slot`] of what all images share.
pub const SHARED: u32 = u32::MAX;

/// What a [`Key`] is about.
pub mod class {
    /// Path from the root.
    pub const ANCHORED: u32 = 1;
    /// One component, anywhere.
    pub const SINGLE: u32 = 2;
    /// Two components, anywhere.
    pub const PAIR: u32 = 3;
    /// Extension of the last component.
    pub const EXTENSION: u32 = 4;
    /// Device and inode.
    pub const INODE: u32 = 5;
    /// Internet address, cut to a prefix length.
    pub const ADDRESS: u32 = 6;
    /// Abstract name of a unix socket.
    pub const ABSTRACT: u32 = 7;
    /// In [`Image::bloom`] only: last component of a key that can concern the object itself.
    pub const ENDS: u32 = 8;
    /// Likewise, one that can concern what lies below.
    pub const WITHIN: u32 = 9;
    /// Added to ANCHORED, SINGLE or PAIR: executables. The cell holds masks of sets, one word each for EXACT, CHILDREN
    /// and SUBTREE, in place of its first three entries.
    pub const OWNER: u32 = 16;
}

/// The part of an image that is not looked up by key.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Image {
    /// Where hashes start; the same for all images, because they share the cells of owners, and never 0: that is the image
    /// that judges nothing.
    pub seed: u64,
    /// Goes into the audit with each verdict.
    pub generation: u64,
    /// Of effects that no rule speaks of. Empty: allowed.
    pub defaults: [Entry; 16],
    /// By [`privilege`]; the first that does not spare the executable counts.
    pub privileges: [[Entry; 2]; PRIVILEGES],
    /// Of objects that cannot be resolved. Empty: as if nothing matched.
    pub unresolved: Entry,
    /// Which keys are there at all: bits of [`has`].
    pub has: u64,
    /// Distinct prefix lengths of IPv6 cells, longest first, and their number. IPv4 counts as `::ffff:0:0/96`.
    pub lengths: [u8; LENGTHS_MAX],
    /// The same for IPv4, 0 to 32.
    pub lengths4: [u8; LENGTHS_MAX],
    pub n_lengths: u32,
    pub n_lengths4: u32,
    /// See the top of this file.
    pub bloom: [u64; BLOOM_BITS / 64],
}

/// Bits of [`Image::has`].
pub mod has {
    pub const ANCHORED: u64 = 1;
    pub const SINGLE: u64 = 1 << 1;
    pub const PAIR: u64 = 1 << 2;
    pub const EXTENSION: u64 = 1 << 3;
    pub const INODE: u64 = 1 << 4;
    pub const ADDRESS: u64 = 1 << 5;
    pub const ABSTRACT: u64 = 1 << 6;
    /// Rules about host names: addresses may be known by them.
    pub const NAMES: u64 = 1 << 7;
    /// Keys about the root directory: they concern everything.
    pub const ROOT: u64 = 1 << 8;
    /// Something applies where no rule speaks.
    pub const DEFAULTS: u64 = 1 << 9;
    /// Some entry asks a person.
    pub const ASKS: u64 = 1 << 60;
    /// It blocks something: whom it judges must not get out of sight.
    pub const BLOCKS: u64 = 1 << 62;
    /// The image is in force. Without it nothing is judged.
    pub const POLICY: u64 = 1 << 63;
}

/// Which image is in force for a profile: its index in map `IMAGES`, which is its slot plus 1; 0: nothing is judged, and the
/// image there is empty. Map `CURRENT` holds one for each profile.
pub type Current = u32;

/// Rules whose verdicts are counted one by one; numbers above share the last row.
pub const COUNTED_RULES: usize = 8192;

/// Row of map `VERDICTS`, per CPU, by number of the rule: exact even if no record gets through. Indexed by [`action`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct VerdictCounts {
    pub counts: [u64; 8],
}

/// Key of what a resolved name permits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ResolvedKey {
    /// IPv4 as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
    pub profile: u32,
    /// Low bits of [`Image::generation`]: what the next policy says stands beside what this one does, so that the swap of
    /// the image is the swap of both.
    pub generation: u32,
}

/// What a resolved name permits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Resolved {
    pub cell: Cell,
    /// Nanoseconds of `CLOCK_BOOTTIME`; ignored afterwards.
    pub expires_ns: u64,
    /// Generation of the policy it was judged by; ignored under another.
    pub generation: u64,
}

/// Word [`super::Body::verdict`]: what policy said about the recorded operation. 0: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerdictWord(pub u32);

impl VerdictWord {
    /// What the decisive entry says, and the generation it is from.
    #[inline(always)]
    pub const fn pack(action: u8, raw_action: u8, would_block: bool, rule: u16, generation: u64) -> Self {
        Self(
            action as u32
                | (raw_action as u32 & 7) << 3
                | (would_block as u32) << 6
                | (rule as u32) << 8
                | (generation as u32) << 24,
        )
    }

    /// It was refused because it could not wait; somebody may be asked now, so that the next try passes. Written as a block
    /// that another mode would block, which nothing else is.
    pub const fn asks(self) -> bool {
        self.action() == action::BLOCK && self.0 >> 6 & 1 != 0
    }

    /// One of [`action`], or 0.
    pub const fn action(self) -> u8 {
        (self.0 & 7) as u8
    }

    /// One of [`action`] before mode, or 0.
    pub const fn raw_action(self) -> u8 {
        (self.0 >> 3 & 7) as u8
    }

    /// Another mode would block it.
    pub const fn would_block(self) -> bool {
        self.action() != action::BLOCK && self.0 >> 6 & 1 != 0
    }

    /// Number of the rule.
    pub const fn rule(self) -> u16 {
        (self.0 >> 8) as u16
    }

    /// Low byte of the generation.
    pub const fn generation(self) -> u8 {
        (self.0 >> 24) as u8
    }
}

const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
const MIX2: u64 = 0xd6e8_feb8_6659_fd93;

/// One step of every hash: word by word, little-endian, the last one padded with zeroes.
#[inline(always)]
pub const fn mix(hash: u64, word: u64) -> u64 {
    let hash = (hash ^ word).wrapping_mul(MIX);
    hash ^ hash >> 29
}

/// End of the hash of a component that is `len` bytes long.
#[inline(always)]
pub const fn finish(hash: u64, len: u32) -> u64 {
    let hash = (hash ^ len as u64).wrapping_mul(MIX2);
    hash ^ hash >> 32
}

/// Hash of one component, of an abstract name or an extension.
pub fn component(seed: u64, name: &[u8]) -> u64 {
    let mut hash = seed;
    for chunk in name.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = mix(hash, u64::from_le_bytes(word));
    }
    finish(hash, name.len() as u32)
}

/// Hash of a path: starts at the seed with the root, takes in the hash of each component.
#[inline(always)]
pub const fn anchored(parent: u64, component: u64) -> u64 {
    mix(parent, component)
}

/// Hash of one component anywhere.
#[inline(always)]
pub const fn single(component: u64) -> u64 {
    component
}

/// Hash of two components anywhere.
#[inline(always)]
pub const fn pair(parent: u64, component: u64) -> u64 {
    mix(parent.rotate_left(32), component)
}

/// Hash of device and inode.
#[inline(always)]
pub const fn inode(seed: u64, dev: u64, ino: u64) -> u64 {
    finish(mix(mix(seed, dev), ino), 16)
}

/// Hash of an address that is already cut to `len` bits (of 128; IPv4 is mapped, and `len` counts from 96).
#[inline(always)]
pub const fn address(seed: u64, high: u64, low: u64, len: u32) -> u64 {
    finish(mix(mix(seed, high), low), len)
}

/// Word and bit of [`Image::bloom`]. Differs by class, so that the same name in two roles has two bits.
#[inline(always)]
pub const fn bloom(hash: u64, class: u32) -> (usize, u64) {
    let at = (hash >> 20).wrapping_add(class as u64 * 0x9e3b);
    ((at as usize >> 6) & (BLOOM_BITS / 64 - 1), at & 63)
}

const _: () = assert!(size_of::<Entry>() == 8);
const _: () = assert!(size_of::<Cell>() == 96);
const _: () = assert!(size_of::<Key>() == 16);
const _: () = assert!(size_of::<ResolvedKey>() == 24);
const _: () = assert!(size_of::<Resolved>() == 112);
