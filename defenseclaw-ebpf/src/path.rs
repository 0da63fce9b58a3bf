//! The one path resolver: from a dentry and its mount up to the root of the mount tree, across mounts, bounded.
//!
//! It ignores the root of the calling task: inside a chroot the result is still the path from the initial root. It does
//! not judge, and it does not follow what user space wrote.
//!
//! A read through a helper costs some 70 instructions, a load through a pointer that the verifier knows costs a few. So
//! there are two ways up: `climb` for known pointers, within one mount, which is all of most paths; `step` for any
//! pointer, and across mounts, where the kernel's structs must be entered at an address the verifier cannot follow.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_kernel};
use defenseclaw_ebpf::{
    Body, Header, STRING_MAX, flags,
    image::{self, DEPTH_MAX, Image, class},
};

use crate::{
    scope::Actor,
    shim::*,
    verdict::{self, State},
};

/// Bytes before the path, for what a record begins with.
pub const HEAD: usize = size_of::<Header>() + size_of::<Body>();

/// Room for the path, and for one name that is copied past its end before its length is known to the verifier.
#[repr(C)]
pub struct Buffer {
    /// Hashes of the components, the last one first, if they were asked for; see `image.rs` of the library.
    components: [u64; DEPTH_MAX],
    /// How many there are. Here and not in [`Walk`], where the verifier would know its value after each round and take every
    /// round for another one.
    count: u64,
    /// Length of the last one, in bytes.
    leaf: u64,
    /// Not 0: a component is named by some key of the image.
    named: u64,
    /// Flags of the path, and where it starts; here for the same reason.
    flags: u64,
    start: u64,
    state: State,
    head: [u8; HEAD],
    bytes: [u8; 4096 + 256],
}

/// Most steps of a walk: a path of STRING_MAX bytes has at most half as many names, plus the mounts on the way.
const STEPS: u32 = 2048 + 64;
/// `MAX_ERRNO` below the top of the address space: kernel pointers from here on are error numbers.
const ERROR_POINTERS: u64 = -4095i64 as u64;
/// Where every path ends in its buffer.
pub const END: u32 = STRING_MAX as u32;

/// Where in the buffer the path stands.
pub struct Found {
    pub start: u32,
    pub len: u32,
    /// Flags of a record's string, and the three below.
    pub flags: u32,
    /// How many hashes the buffer holds.
    pub components: u32,
    /// Length of the last component, in bytes.
    pub leaf: u32,
}

/// The path is longer or deeper than what was looked at.
pub const CUT: u32 = flags::TRUNCATED;
/// The path did not end at the root of a mounted tree.
pub const LOST: u32 = flags::UNRESOLVED;
/// An object without a place in any tree: a pipe, a socket, memory. [`LOST`] is set as well.
pub const PSEUDO: u32 = 1 << 8;
/// In a tree that only the kernel uses, such as a layer of an overlay: the way there is not one that a task can name.
/// [`LOST`] is set as well.
pub const INTERNAL: u32 = 1 << 9;
/// Flags that belong into a record.
pub const RECORDED: u32 = 15;

struct Walk {
    buffer: *mut Buffer,
    dentry: Ptr,
    mount: Ptr,
    place: Place,
    done: u64,
    /// Who will judge the path.
    image: *const Image,
    /// Where hashes start; 0: nobody asks for them.
    seed: u64,
}

/// Address of the path inside the buffer.
#[inline(always)]
pub fn tail(buffer: *mut Buffer, start: u32) -> *const u8 {
    // SAFETY: the masked offset lies inside the buffer.
    unsafe { (&raw const (*buffer).bytes).cast::<u8>().add((start & 0xfff) as usize) }
}

/// Where the buffer begins, for other uses while it holds no path.
#[inline(always)]
pub fn front(buffer: *mut Buffer) -> *mut u8 {
    // SAFETY: the bytes lie in the buffer.
    unsafe { (&raw mut (*buffer).bytes).cast() }
}

/// Address behind the path.
#[inline(always)]
pub fn end(buffer: *mut Buffer) -> *mut u8 {
    // SAFETY: END lies inside the buffer.
    unsafe { (&raw mut (*buffer).bytes).cast::<u8>().add(END as usize) }
}

/// What the paths of one record have in common: the mount whose root is known to be the root of everything.
#[derive(Clone, Copy)]
pub struct Known {
    top: Ptr,
}

impl Default for Known {
    fn default() -> Self {
        Self { top: core::ptr::null_mut() }
    }
}

/// Address of the [`HEAD`] bytes before the path.
#[inline(always)]
pub fn head(buffer: *mut Buffer, start: u32) -> *mut u8 {
    // SAFETY: the head is followed by the bytes, so the masked offset lies inside the buffer.
    unsafe { (&raw mut (*buffer).head).cast::<u8>().add((start & 0xfff) as usize) }
}

/// Whether some key of the image may concern the path, going by the names in it.
#[inline(always)]
pub fn is_named(buffer: *const Buffer) -> u64 {
    // SAFETY: it lies in the buffer.
    unsafe { (*buffer).named }
}

/// Where what is known about the path is kept while it is judged.
#[inline(always)]
pub fn state(buffer: *mut Buffer) -> *mut State {
    // SAFETY: it lies in the buffer.
    unsafe { &raw mut (*buffer).state }
}

/// Hash of a component, counted from the last one.
#[inline(always)]
pub fn component(buffer: *const Buffer, from_last: u32) -> u64 {
    // SAFETY: the masked index lies inside the array.
    unsafe {
        (&raw const (*buffer).components).cast::<u64>().add(from_last as usize & (DEPTH_MAX - 1)).read()
    }
}

/// Writes the path to the end of `buffer`, and the hashes of its components if `image` judges.
#[inline(always)]
pub fn resolve(buffer: *mut Buffer, dentry: Ptr, mnt: Ptr, image: *const Image) -> Found {
    if dentry.is_null() {
        // No file to ask: nothing is better than the `/` that the walk would end with.
        return Found { start: END, len: 0, flags: flags::UNRESOLVED, components: 0, leaf: 0 };
    }
    let mut walk = Walk::new(buffer, dentry, mnt, image);
    read_place(walk.mount, &mut walk.place);
    let entry = entry(dentry);
    // An entry without an inode is a name that is about to be made. Some file systems do not hash those.
    if entry.parent != dentry && shim_dentry_hashed(dentry).is_null() && !shim_dentry_inode(dentry).is_null()
    {
        walk.flag(flags::DELETED);
    }
    // SAFETY: `step` has the signature the helper calls, and `walk` outlives the call.
    unsafe { bpf_loop(STEPS, step as *mut c_void, (&raw mut walk).cast(), 0) };
    walk.found()
}

/// As [`resolve`]. All pointers must be known to the verifier: arguments of the program, or loaded through them.
#[inline(always)]
pub fn resolve_known(
    buffer: *mut Buffer,
    dentry: Ptr,
    mnt: Ptr,
    actor: &Actor,
    known: &mut Known,
    image: *const Image,
) -> Found {
    let mut walk = Walk::new(buffer, dentry, mnt, image);
    walk.place.root = shim_vfsmount_root_direct(mnt);
    // As in `resolve`: without an inode it is a name that is about to be made.
    if shim_dentry_hashed_direct(dentry).is_null()
        && shim_dentry_parent_direct(dentry) != dentry
        && !shim_dentry_inode_direct(dentry).is_null()
    {
        walk.flag(flags::DELETED);
    }
    if !walk.at_root() {
        // SAFETY: `climb` has the signature the helper calls, and `walk` outlives the call.
        unsafe { bpf_loop(STEPS, climb as *mut c_void, (&raw mut walk).cast(), 0) };
    }
    if walk.done == 0 && !is_top(&mut walk, actor, known) {
        // SAFETY: as above.
        unsafe { bpf_loop(STEPS, step as *mut c_void, (&raw mut walk).cast(), 0) };
    }
    walk.found()
}

#[inline(always)]
fn entry(dentry: Ptr) -> Entry {
    let mut entry = MaybeUninit::uninit();
    // SAFETY: the accessor writes every field, whether it can read the dentry or not.
    unsafe {
        shim_dentry_entry(dentry, entry.as_mut_ptr());
        entry.assume_init()
    }
}

#[inline(always)]
fn read_place(mount: Ptr, place: &mut Place) {
    // SAFETY: the accessor writes to `place` only.
    unsafe { shim_mount_place(mount, place) };
}

/// Whether the rest of the way is known without a walk: the mount is the top of the task's own mount tree, or stands
/// on its root, as the root file system does. Reads the place of the mount if it must.
#[inline(always)]
fn is_top(walk: &mut Walk, actor: &Actor, known: &mut Known) -> bool {
    if !walk.at_root() {
        read_place(walk.mount, &mut walk.place);
        return false;
    }
    if walk.mount == known.top {
        walk.done = 1;
        return true;
    }
    let namespace = shim_nsproxy_mnt_direct(shim_task_struct_nsproxy_direct(actor.task));
    let top = shim_mnt_namespace_root_direct(namespace);
    let state = top_state(namespace, top, walk.mount);
    // SAFETY: the label stays in the map as long as its task, which is the current one, runs this program.
    let was_seen = state != 0 && unsafe { (*actor.label).top } == state;
    let mut is_top = was_seen || walk.mount == top;
    if !is_top {
        read_place(walk.mount, &mut walk.place);
        is_top = walk.place.parent == top && walk.place.mountpoint == shim_mount_root_direct(top);
        if is_top {
            // SAFETY: as above. One word, so that threads in different namespaces cannot mix what they saw.
            unsafe { (&raw mut (*actor.label.cast_mut()).top).write_volatile(state) };
        }
    }
    if is_top {
        known.top = walk.mount;
        walk.done = 1;
    }
    is_top
}

/// Stands for a mount in the present state of a mount namespace: every change of one gives it a number that none has
/// had before. 0: there is no such number, because nothing has changed since the namespace was made, or because this
/// kernel does not say. To be taken before anything is read that it stands for.
#[inline(always)]
fn top_state(namespace: Ptr, top: Ptr, mount: Ptr) -> u64 {
    if !shim_mnt_namespace_event_exists(namespace) {
        return 0;
    }
    let event = shim_mnt_namespace_event_direct(namespace);
    if event == 0 {
        return 0;
    }
    image::mix((mount as u64).wrapping_sub(top as u64), event)
}

impl Walk {
    #[inline(always)]
    fn new(buffer: *mut Buffer, dentry: Ptr, mnt: Ptr, image: *const Image) -> Self {
        let mount = shim_vfsmount_mount(mnt);
        // LLVM would make a call of memset out of three zeroes, a byte loop in BPF.
        let nothing = core::hint::black_box(core::ptr::null_mut());
        // SAFETY: the buffer is ours. Volatile, because two zeroes side by side would become such a call as well.
        unsafe {
            (&raw mut (*buffer).count).write_volatile(0);
            (&raw mut (*buffer).flags).write_volatile(0);
            (&raw mut (*buffer).named).write_volatile(0);
            (*buffer).start = u64::from(END);
        }
        let place = Place { parent: nothing, mountpoint: nothing, root: nothing };
        // SAFETY: the image lies in its map.
        let seed = if verdict::may_judge() { unsafe { (*image).seed } } else { 0 };
        Self { buffer, dentry, mount, place, done: core::hint::black_box(0), image, seed }
    }

    #[inline(always)]
    fn flag(&mut self, flags: u32) {
        // SAFETY: the buffer is ours.
        unsafe { (*self.buffer).flags |= u64::from(flags) };
    }

    #[inline(always)]
    fn flags(&self) -> u32 {
        // SAFETY: the buffer is ours.
        unsafe { (*self.buffer).flags as u32 }
    }

    #[inline(always)]
    fn at_root(&self) -> bool {
        self.dentry == self.place.root
    }

    /// Ends at the top of a file system that is not mounted where we came from: a pseudo file, or a detached tree.
    #[inline(always)]
    fn stray(&mut self) {
        self.flag(LOST);
        self.done = 1;
    }

    /// The same, seen at the first step: it has no place in any tree.
    #[inline(always)]
    fn stray_at(&mut self, index: u64) {
        self.flag(if index == 0 { LOST | PSEUDO } else { LOST });
        self.done = 1;
    }

    #[inline(always)]
    fn found(self) -> Found {
        let mut walk = self;
        if walk.done == 0 {
            walk.flag(flags::TRUNCATED);
        }
        // SAFETY: the buffer is ours.
        let mut start = unsafe { (*walk.buffer).start } as u32;
        if start >= END {
            // The root itself has no name.
            // SAFETY: END - 1 lies inside the buffer.
            unsafe { (*walk.buffer).bytes[END as usize - 1] = b'/' };
            start = END - 1;
        }
        // The compiler knows how large it is at most and would drop the masks that tell the verifier.
        let start = core::hint::black_box(start);
        let (mut components, mut leaf) = (0, 0);
        if walk.seed != 0 {
            // SAFETY: the buffer is ours.
            unsafe {
                components = (*walk.buffer).count as u32;
                leaf = (*walk.buffer).leaf as u32;
            }
            if components > DEPTH_MAX as u32 {
                walk.flag(CUT);
            }
        }
        Found { start, len: END - start, flags: walk.flags(), components, leaf }
    }

    /// Puts a name before what is there. False if there is no room.
    #[inline(always)]
    fn prepend(&mut self, len: u32, name: *const c_void) -> bool {
        let len = len & 0xff;
        let Some(to) = self.slash(len) else { return false };
        self.copy(to, len, name);
        self.note_copied(to, len);
        true
    }

    /// The same, with the name of a dentry that the verifier knows. A short name stands in the dentry: it is loaded as
    /// one word or two, and what these overwrite behind it is put back.
    #[inline(always)]
    fn prepend_known(&mut self, dentry: Ptr) -> bool {
        let len = shim_dentry_name_len_direct(dentry) & 0xff;
        let Some(to) = self.slash(len) else { return false };
        let name = shim_dentry_name_direct(dentry);
        let (mut one, mut two) = (0, 0);
        // SAFETY: both places are ours.
        let short = shim_dentry_short_exists()
            && unsafe { shim_dentry_short_direct(dentry, name, &raw mut one, &raw mut two) };
        if !short || len > 16 {
            self.copy(to, len, name);
            self.note_copied(to, len);
            return true;
        }
        // SAFETY: a name of at most 255 bytes and 16 more lie inside the buffer.
        unsafe {
            let behind = to.add(len as usize);
            if len <= 8 {
                let first = shim_word(behind);
                shim_put_word(to, one);
                shim_put_word(behind, first);
            } else {
                let (first, second) = (shim_word(behind), shim_word(behind.add(8)));
                shim_put_word(to, one);
                shim_put_word(to.add(8), two);
                shim_put_word(behind, first);
                shim_put_word(behind.add(8), second);
            }
        }
        if self.seed != 0 {
            let hash = if len <= 8 {
                image::mix(self.seed, cut(one, len))
            } else {
                image::mix(image::mix(self.seed, one), cut(two, len - 8))
            };
            self.note(hash, len);
        }
        true
    }

    /// Makes room for a name and puts the slash; says where the name goes.
    #[inline(always)]
    fn slash(&mut self, len: u32) -> Option<*mut u8> {
        let len = u64::from(len);
        // SAFETY: the buffer is ours.
        let start = unsafe { (*self.buffer).start };
        // Not compared with one more: Linux 6.12 would forget how long a name can be.
        if start <= len {
            return None;
        }
        let start = start - len - 1;
        // SAFETY: as above.
        unsafe { (*self.buffer).start = start };
        // SAFETY: the masked offset plus a name of at most 255 bytes lies inside the buffer.
        unsafe {
            let to = (&raw mut (*self.buffer).bytes).cast::<u8>().add((start & 0xfff) as usize);
            *to = b'/';
            Some(to.add(1))
        }
    }

    #[inline(always)]
    fn note(&mut self, hash: u64, len: u32) {
        // SAFETY: the buffer is ours, the masked index lies inside the array.
        unsafe {
            let count = (*self.buffer).count;
            let at = count as usize & (DEPTH_MAX - 1);
            let component = image::finish(hash, len);
            (&raw mut (*self.buffer).components).cast::<u64>().add(at).write(component);
            (*self.buffer).count = count + 1;
            let mut class = class::WITHIN;
            if count == 0 {
                (*self.buffer).leaf = u64::from(len);
                class = class::ENDS;
            }
            (*self.buffer).named |= verdict::bloom_bit(self.image, component, class);
        }
    }

    /// The same, of a name that is in the buffer.
    #[inline(always)]
    fn note_copied(&mut self, name: *const u8, len: u32) {
        if self.seed != 0 {
            let hash = hash_words(self.seed, name, len);
            self.note(hash, len);
        }
    }

    #[inline(always)]
    fn copy(&mut self, to: *mut u8, len: u32, name: *const c_void) {
        // SAFETY: `slash` made room for it; the helper checks the source.
        if unsafe { bpf_probe_read_kernel(to.cast(), len, name) } != 0 {
            self.flag(flags::UNRESOLVED);
        }
    }
}

/// The first `len` bytes of a word, of 1 to 8.
#[inline(always)]
fn cut(word: u64, len: u32) -> u64 {
    word & u64::MAX >> ((64 - 8 * len) & 63)
}

/// Hash of a name of at most 255 bytes, without its end. At least 256 bytes can be read at `name`.
#[inline(never)]
pub fn hash_words(seed: u64, name: *const u8, len: u32) -> u64 {
    let mut words = Words { hash: seed, name, len };
    // A loop of the helper, because the verifier would take each round of ours for another way through the program.
    // SAFETY: `word` has the signature the helper calls, and `words` outlives the call.
    unsafe { bpf_loop(32, word as *mut c_void, (&raw mut words).cast(), 0) };
    words.hash
}

struct Words {
    hash: u64,
    name: *const u8,
    len: u32,
}

unsafe extern "C" fn word(index: u64, context: *mut c_void) -> i64 {
    // SAFETY: the helper passes the `Words` that `hash_words` gave it.
    let words = unsafe { &mut *context.cast::<Words>() };
    let done = index as u32 * 8;
    if done >= words.len {
        return 1;
    }
    let left = words.len - done;
    // SAFETY: the promise of `hash_words`, for 32 words.
    let word = unsafe { shim_word(words.name.add(done as usize & 0xf8)) };
    // All bytes, or those that are left.
    let unused = 8u32.wrapping_sub(left) & (left.wrapping_sub(8) as i32 >> 31) as u32;
    words.hash = image::mix(words.hash, word & u64::MAX >> ((8 * unused) & 63));
    0
}

/// Whether a mount namespace holds a tree that has no place yet, or no more: from fsmount or open_tree.
#[inline(always)]
fn is_anonymous(namespace: Ptr) -> bool {
    if shim_mnt_namespace_seq_exists(namespace) {
        shim_mnt_namespace_seq(namespace) == 0
    } else if shim_mnt_namespace_id_exists(namespace) {
        shim_mnt_namespace_id(namespace) == 0
    } else {
        false
    }
}

/// One name below the root of the mount, through known pointers. Returns 1 to stop; what is left to do, `step` does.
unsafe extern "C" fn climb(index: u64, context: *mut c_void) -> i64 {
    // SAFETY: the helper passes the `Walk` that `resolve_known` gave it.
    let walk = unsafe { &mut *context.cast::<Walk>() };
    let dentry = walk.dentry;
    let parent = shim_dentry_parent_direct(dentry);
    if !walk.prepend_known(dentry) {
        return 1;
    }
    if parent == dentry {
        walk.stray_at(index);
        return 1;
    }
    walk.dentry = parent;
    i64::from(walk.at_root())
}

/// One name or one mount. Returns 1 to stop.
unsafe extern "C" fn step(index: u64, context: *mut c_void) -> i64 {
    // SAFETY: the helper passes the `Walk` that `resolve` gave it.
    let walk = unsafe { &mut *context.cast::<Walk>() };
    let dentry = walk.dentry;
    if walk.at_root() {
        let above = walk.place.parent;
        if above.is_null() || above == walk.mount {
            walk.done = 1;
            // The end, if a task's namespace holds this mount; otherwise it is the kernel's own (an error pointer),
            // detached (null) or of an anonymous namespace, and the path says less than it seems to.
            let namespace = shim_mount_ns(walk.mount);
            if namespace as u64 >= ERROR_POINTERS {
                walk.flag(LOST | INTERNAL);
            } else if namespace.is_null() || is_anonymous(namespace) {
                walk.flag(LOST);
            }
            return 1;
        }
        walk.dentry = walk.place.mountpoint;
        walk.mount = above;
        read_place(above, &mut walk.place);
        return 0;
    }
    let entry = entry(dentry);
    if entry.parent.is_null() {
        walk.stray();
        return 1;
    }
    if !walk.prepend(entry.len, entry.name) {
        return 1;
    }
    if entry.parent == dentry {
        walk.stray_at(index);
        return 1;
    }
    walk.dentry = entry.parent;
    0
}
