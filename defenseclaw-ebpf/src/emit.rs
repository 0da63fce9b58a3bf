//! Records: built in a per-CPU scratch buffer, then copied into a ring. Counts what became of each.
//!
//! For every observation exactly one of `Submitted`, `RingFull`, `Oversized`, `Unreadable`, `MapFull` is counted besides
//! `Seen`; this is the only place in the kernel that drops anything.

mod parked;

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    helpers::generated::{
        bpf_get_smp_processor_id, bpf_ktime_get_boot_ns, bpf_probe_read_kernel, bpf_probe_read_kernel_str,
        bpf_probe_read_user, bpf_probe_read_user_str, bpf_ringbuf_query, bpf_ringbuf_reserve,
        bpf_ringbuf_submit,
    },
    macros::map,
    maps::{Array, RingBuf},
};
use defenseclaw_ebpf::{
    ABI_VERSION, Body, Count, Counters, Header, KINDS, Kind, RECORD_MAX, SCRATCH_SLOTS, STRING_MAX, flags,
    image::{Image, effect},
};

use parked::Parked;
pub use parked::allowed_values;

use crate::{
    path, pause,
    probes::environment::Progress,
    scope::{self, Actor},
    shim::{
        Ptr, shim_atomic_exchange, shim_atomic_increment, shim_cred_uid_direct,
        shim_task_struct_cgroup_direct, shim_task_struct_cred_direct, shim_task_struct_pid_direct,
    },
    verdict::{self, Judged, Policy},
};

/// fork, exec, exit: never crowded out by file events.
#[map]
pub static PRIORITY: RingBuf = RingBuf::with_byte_size(4 << 20, 0);
/// Everything else.
#[map]
pub static BULK: RingBuf = RingBuf::with_byte_size(8 << 20, 0);
/// A row for each kind and processor. Per-CPU maps would say the same, but their look-up is a call on most kernels and that
/// of arrays is not. The loader makes room for the processors of this machine.
#[map]
pub static COUNTERS: Array<Counters> = Array::with_max_entries(KINDS as u32, 0);
/// [`SLOTS`] for each processor, likewise.
#[map]
pub static SCRATCH: Array<Scratch> = Array::with_max_entries(SLOTS, 0);

const SLOTS: u32 = SCRATCH_SLOTS as u32;
const HEAD: u32 = (size_of::<Header>() + size_of::<Body>()) as u32;
/// Offsets are masked with this, lengths with [`STRING_MASK`]: their sum stays inside the buffer.
const OFFSET_MASK: u32 = 0x3fff;
const STRING_MASK: u32 = 0xfff;

/// Where a record is made. Its head stands before the first string if that is a path, which is built backwards from its
/// end, and the other strings behind that end: so neither is copied.
#[repr(C)]
pub struct Scratch {
    busy: u64,
    /// Its own index. Kept here because the verifier would tell four ways apart by it.
    slot: u32,
    parked: Parked,
    asked: pause::Asked,
    progress: Progress,
    spare: path::Buffer,
    first: path::Buffer,
    rest: [u8; RECORD_MAX + 8],
}

const _: () = assert!(OFFSET_MASK as usize + STRING_MAX <= RECORD_MAX);

/// Which ring a record goes to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ring {
    Priority,
    Bulk,
}

impl Ring {
    /// Refusals come first, but whoever makes many must not crowd out what is said of processes.
    #[inline(always)]
    pub fn of(judged: &Judged) -> Self {
        const AVAILABLE: u64 = 0;
        const SIZE: u64 = 1;
        if !judged.blocks() {
            return Self::Bulk;
        }
        let ring: *mut core::ffi::c_void = (&raw const PRIORITY).cast_mut().cast();
        // SAFETY: the ring is a map; the helper only tells numbers.
        let (waiting, size) = unsafe { (bpf_ringbuf_query(ring, AVAILABLE), bpf_ringbuf_query(ring, SIZE)) };
        if waiting > size / 2 { Self::Bulk } else { Self::Priority }
    }
}

/// Counts without a record.
#[inline(always)]
pub fn count(kind: Kind, what: Count) {
    if let Some(row) = row(kind) {
        add(row, what);
    }
}

#[inline(always)]
fn processor() -> u32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_smp_processor_id() }
}

#[inline(always)]
fn row(kind: Kind) -> Option<*mut Counters> {
    row_of(processor(), kind)
}

#[inline(always)]
fn row_of(processor: u32, kind: Kind) -> Option<*mut Counters> {
    COUNTERS.get_ptr_mut(processor * KINDS as u32 + kind as u32)
}

#[inline(always)]
fn add(row: *mut Counters, what: Count) {
    // SAFETY: `row` points into the counter map, `what` is below its length. Atomic, because a program on this CPU can
    // be preempted by another one between load and store.
    unsafe { shim_atomic_increment(&raw mut (*row).counts[what as usize]) };
}

#[repr(C)]
struct Short {
    header: Header,
    body: Body,
}

/// A record without strings, made in its place in the ring: no buffer, no copy. `fill` gives the arguments; it runs last,
/// so that nothing has to be kept across the calls before it. Whether there was room.
#[inline(always)]
pub fn short(
    kind: Kind,
    ring: Ring,
    actor: &Actor,
    result: Option<i64>,
    judged: &Judged,
    fill: impl FnOnce() -> [u64; 6],
) -> bool {
    let Some(row) = row(kind) else { return false };
    let ring = match ring {
        Ring::Priority => &PRIORITY,
        Ring::Bulk => &BULK,
    };
    // SAFETY: the ring is a map. The reserved record is as long as `Short` and ours until it is submitted.
    unsafe {
        let ring = core::ptr::from_ref(ring).cast_mut().cast();
        let record: *mut Short = bpf_ringbuf_reserve(ring, size_of::<Short>() as u64, 0).cast();
        if record.is_null() {
            add(row, Count::Seen);
            add(row, Count::RingFull);
            return false;
        }
        let header = &raw mut (*record).header;
        let flags = match result {
            Some(_) => flags::HAS_RESULT | flags::AT_SYSCALL_EXIT,
            None => 0,
        };
        begin(header, kind as u32, flags, HEAD, shim_task_struct_pid_direct(actor.task));
        name_actor(header, actor);
        let words = (&raw mut (*record).body).cast::<u64>();
        let args = fill();
        let mut word = 0;
        while word < args.len() {
            // Volatile as in `zero`: many of them are 0.
            words.add(word).write_volatile(args[word]);
            word += 1;
        }
        words.add(word).write_volatile(result.unwrap_or(0) as u64);
        words.add(word + 1).write_volatile(0);
        // The last two lengths of strings, and the verdict.
        words.add(word + 2).write_volatile(u64::from(judged.word()) << 32);
        bpf_ringbuf_submit(record.cast(), u64::from(BPF_RB_NO_WAKEUP));
    }
    add(row, Count::Seen);
    add(row, Count::Submitted);
    true
}

/// Word by word and volatile: LLVM would make a call of memset out of it, a byte loop in BPF.
#[inline(always)]
unsafe fn zero(words: *mut u64, count: usize) {
    let mut word = 0;
    while word < count {
        // SAFETY: the caller owns that many words.
        unsafe { words.add(word).write_volatile(0) };
        word += 1;
    }
}

/// First words of a header: [`ABI_VERSION`], kind and flags; length and thread.
#[inline(always)]
unsafe fn begin(header: *mut Header, kind: u32, flags: u32, len: u32, tid: u32) {
    let words = header.cast::<u64>();
    // SAFETY: the caller owns the header, which begins with two words of smaller fields; the ABI is little-endian.
    unsafe {
        words.write(u64::from(flags) << 32 | u64::from(kind as u16) << 16 | u64::from(ABI_VERSION));
        words.add(1).write(u64::from(tid) << 32 | u64::from(len));
    }
}

/// What the header says about the current task, and when.
#[inline(always)]
unsafe fn name_actor(header: *mut Header, actor: &Actor) {
    // SAFETY: the label stays in the map as long as its task, which is the current one, runs this program.
    let label = unsafe { &*actor.label };
    let mut start = label.start_ns;
    if start == 0 {
        // Enrolled from user space, which knows the start in clock ticks only.
        start = scope::start_ns_direct(actor.task);
        // SAFETY: as above; every writer stores the same value.
        unsafe { (*actor.label.cast_mut()).start_ns = start };
    }
    // SAFETY: the caller owns the header; the helpers have no preconditions.
    unsafe {
        (*header).time_ns = bpf_ktime_get_boot_ns();
        (*header).cgroup = shim_task_struct_cgroup_direct(actor.task);
        (*header).start_ns = start;
        (*header).tgid = actor.tgid;
        // Numbers as in the initial user namespace, like those of the helper, at a fifth of its cost.
        (*header).uid = shim_cred_uid_direct(shim_task_struct_cred_direct(actor.task));
        (*header).session = label.session;
        (*header).tool_call = label.tool_call;
    }
}

/// A record being built. Ends in [`Record::submit`]; a forgotten one leaks its buffer.
#[must_use]
pub struct Record {
    scratch: *mut Scratch,
    /// In the scratch buffer.
    head: *mut Short,
    row: *mut Counters,
    kind: Kind,
    /// The same, of one that was parked.
    number: u32,
    tid: u32,
    /// Bytes of head and first path, and of the strings behind them.
    first: u32,
    rest: u32,
    flags: u32,
    string: u32,
    paths: path::Known,
    /// What judges the first path; null without one.
    image: *const Image,
    /// Of the first path.
    components: u32,
    leaf: u32,
    lost: u32,
}

impl Record {
    /// A record about the current task.
    #[inline(always)]
    pub fn begin(kind: Kind, actor: &Actor) -> Option<Self> {
        let mut record = Self::blank(kind)?;
        record.name(actor);
        Some(record)
    }

    /// A record about the current task whose first string is the path of a dentry, which `image` will judge.
    #[inline(always)]
    pub fn about(kind: Kind, actor: &Actor, dentry: Ptr, mnt: Ptr, image: *const Image) -> Option<Self> {
        let mut record = Self::blank(kind)?;
        record.image = image;
        let found = path::resolve(record.first(), dentry, mnt, image);
        record.put_before(&found, actor);
        Some(record)
    }

    /// The same, of pointers that the verifier knows: see [`path::resolve_known`].
    #[inline(always)]
    pub fn about_known(kind: Kind, actor: &Actor, dentry: Ptr, mnt: Ptr, policy: &Policy) -> Option<Self> {
        let mut record = Self::blank(kind)?;
        let image = policy.judge()?;
        record.image = image;
        let found = path::resolve_known(record.first(), dentry, mnt, actor, &mut record.paths, image);
        record.put_before(&found, actor);
        Some(record)
    }

    #[inline(always)]
    fn put_before(&mut self, found: &path::Found, actor: &Actor) {
        self.head = path::head(self.first(), found.start).cast();
        self.name(actor);
        self.close_first(found);
    }

    #[inline(always)]
    fn close_first(&mut self, found: &path::Found) {
        let len = found.len & STRING_MASK;
        // SAFETY: the head lies in the scratch buffer, which this record owns.
        unsafe { (*self.head).body.string_len[0] = len as u16 };
        self.first += len;
        self.flags |= found.flags & path::RECORDED;
        (self.components, self.leaf, self.lost) = (found.components, found.leaf, found.flags);
        self.string = 1;
    }

    /// Whether the first path is in a tree that only the kernel uses.
    #[inline(always)]
    pub fn is_internal(&self) -> bool {
        self.lost & path::INTERNAL != 0
    }

    /// What policy says about the first path.
    #[inline(always)]
    pub fn judge(&self, policy: &Policy, effects: u16, dev: u64, ino: u64) -> Judged {
        let found =
            path::Found { start: 0, len: 0, flags: self.lost, components: self.components, leaf: self.leaf };
        policy.path(self.image, effects, self.first(), &found, dev, ino)
    }

    /// What policy says about an abstract name of `len` bytes of the kernel, the first of which is NUL.
    #[inline(always)]
    pub fn judge_abstract(&self, policy: &Policy, name: *const u8, len: u32) -> Judged {
        let to = path::front(self.spare().0);
        let len = len & 0x7f;
        // SAFETY: the length is below that of the buffer, which is ours; the helper checks the source.
        if unsafe { bpf_probe_read_kernel(to.cast(), len, name.cast()) } != 0 || len == 0 {
            return policy.blind(effect::UNIX);
        }
        // SAFETY: the buffer is longer than a name and the 256 bytes that may be looked at.
        policy.abstract_name(self.spare().0, unsafe { to.add(1) }, len - 1)
    }

    /// Notes the sets of executables that the first path belongs to, which is the program that just started.
    #[inline(always)]
    pub fn learn_owner(&self, actor: &Actor) {
        let found =
            path::Found { start: 0, len: 0, flags: self.lost, components: self.components, leaf: self.leaf };
        if !self.image.is_null() {
            // SAFETY: the image lies in its map.
            verdict::learn_owner(actor, self.first(), &found, unsafe { (*self.image).seed });
        }
    }

    /// What policy said.
    #[inline(always)]
    pub fn verdict(&mut self, judged: &Judged) {
        // SAFETY: the head lies in the scratch buffer, which this record owns.
        unsafe { (*self.head).body.verdict = judged.word() };
    }

    #[inline(always)]
    fn name(&mut self, actor: &Actor) {
        self.tid = shim_task_struct_pid_direct(actor.task);
        // SAFETY: the head lies in the scratch buffer, which this record owns.
        unsafe {
            zero((&raw mut (*self.head).body).cast(), size_of::<Body>() / 8);
            name_actor(&raw mut (*self.head).header, actor);
        }
    }

    /// A record without a task; header fields about it are zero.
    #[inline(always)]
    pub fn nobody(kind: Kind) -> Option<Self> {
        let record = Self::blank(kind)?;
        // SAFETY: the buffer is ours. `submit` writes the first two words.
        unsafe {
            zero(record.head.cast::<u64>().add(2), HEAD as usize / 8 - 2);
            (*record.head).header.time_ns = bpf_ktime_get_boot_ns();
        }
        Some(record)
    }

    /// A record that says nothing yet.
    #[inline(always)]
    fn blank(kind: Kind) -> Option<Self> {
        let processor = processor();
        let row = row_of(processor, kind)?;
        let first = processor * SLOTS;
        let mut slot = 0;
        while slot < SLOTS {
            let scratch = SCRATCH.get_ptr_mut(first + slot)?;
            // SAFETY: `scratch` points into the scratch map.
            if unsafe { shim_atomic_exchange(&raw mut (*scratch).busy, 1) } == 0 {
                // SAFETY: as above; ours until `busy` is cleared.
                unsafe { (&raw mut (*scratch).slot).write_volatile(first + slot) };
                // SAFETY: as above.
                let head = path::head(unsafe { &raw mut (*scratch).first }, path::END).cast();
                let paths = path::Known::default();
                return Some(Self {
                    scratch,
                    head,
                    row,
                    kind,
                    number: kind as u32,
                    tid: 0,
                    first: HEAD,
                    rest: 0,
                    flags: 0,
                    string: 0,
                    paths,
                    image: core::ptr::null(),
                    components: 0,
                    leaf: 0,
                    lost: 0,
                });
            }
            slot += 1;
        }
        add(row, Count::Seen);
        add(row, Count::MapFull);
        None
    }

    #[inline(always)]
    fn first(&self) -> *mut path::Buffer {
        // SAFETY: `scratch` points into the scratch map and is ours.
        unsafe { &raw mut (*self.scratch).first }
    }

    /// Session of a record that has no task.
    #[inline(always)]
    pub fn session(&mut self, session: u64, cgroup: u64) {
        // SAFETY: the buffer is ours.
        unsafe {
            (*self.head).header.session = session;
            (*self.head).header.cgroup = cgroup;
        }
    }

    /// Sets argument `N`.
    #[inline(always)]
    pub fn arg<const N: usize>(&mut self, value: u64) -> &mut Self {
        const { assert!(N < 6) };
        // SAFETY: the buffer is ours and `N` is in bounds.
        unsafe { (*self.head).body.args[N] = value };
        self
    }

    /// Result of the system call.
    #[inline(always)]
    pub fn result(&mut self, value: i64) -> &mut Self {
        // SAFETY: the buffer is ours.
        unsafe { (*self.head).body.result = value };
        self.flags |= flags::HAS_RESULT | flags::AT_SYSCALL_EXIT;
        self
    }

    /// Where the next string goes, if there is room.
    #[inline(always)]
    fn room(&mut self) -> Option<*mut u8> {
        if self.rest > OFFSET_MASK {
            return None;
        }
        let offset = self.rest & OFFSET_MASK;
        // SAFETY: OFFSET_MASK + STRING_MAX bytes lie behind the end of the first path.
        Some(unsafe { path::end(self.first()).add(offset as usize) })
    }

    /// Ends string `self.string`, which is `len` bytes, and goes on to the next.
    #[inline(always)]
    fn close(&mut self, len: u32, string_flags: u32) {
        let string = self.string & 7;
        if string < 6 {
            // SAFETY: the buffer is ours and `string` is in bounds.
            unsafe {
                *(&raw mut (*self.head).body.string_len).cast::<u16>().add(string as usize) = len as u16
            };
        }
        self.flags |= string_flags << (flags::PER_STRING * string);
        self.rest += len;
        self.string += 1;
    }

    /// An empty string, for a slot that does not apply.
    #[inline(always)]
    pub fn none(&mut self) -> &mut Self {
        self.close(0, 0);
        self
    }

    /// The path of a dentry below a mount.
    #[inline(always)]
    pub fn path(&mut self, dentry: Ptr, mnt: Ptr) -> &mut Self {
        match verdict::nobody() {
            Some(image) => self.resolved(&path::resolve(self.spare().0, dentry, mnt, image)),
            None => self.none(),
        }
    }

    /// The same, of pointers that the verifier knows: see [`path::resolve_known`].
    #[inline(always)]
    pub fn path_known(&mut self, actor: &Actor, dentry: Ptr, mnt: Ptr) -> &mut Self {
        let Some(image) = verdict::nobody() else { return self.none() };
        let found = path::resolve_known(self.spare().0, dentry, mnt, actor, &mut self.paths, image);
        self.resolved(&found)
    }

    /// The same, and what policy says about it.
    #[inline(always)]
    pub fn path_judged(
        &mut self,
        actor: &Actor,
        dentry: Ptr,
        mnt: Ptr,
        policy: &Policy,
        effects: u16,
        (dev, ino): (u64, u64),
    ) -> Judged {
        let buffer = self.spare().0;
        let Some(image) = policy.judge() else { return policy.blind(effects) };
        let found = path::resolve_known(buffer, dentry, mnt, actor, &mut self.paths, image);
        let judged = policy.path(image, effects, buffer, &found, dev, ino);
        self.resolved(&found);
        judged
    }

    #[inline(always)]
    fn resolved(&mut self, found: &path::Found) -> &mut Self {
        let len = found.len & STRING_MASK;
        let Some(to) = self.room() else {
            self.close(0, flags::TRUNCATED);
            return self;
        };
        // SAFETY: both ends lie inside the scratch buffer for every masked length; the helper checks the rest.
        let copied =
            unsafe { bpf_probe_read_kernel(to.cast(), len, path::tail(self.spare().0, found.start).cast()) };
        if copied == 0 {
            self.close(len, found.flags & path::RECORDED)
        } else {
            self.close(0, flags::UNRESOLVED)
        }
        self
    }

    /// A NUL-terminated string of the kernel.
    #[inline(always)]
    pub fn kernel_str(&mut self, from: *const u8) -> &mut Self {
        self.c_string(from, false)
    }

    /// A NUL-terminated string of the process: what it passed, not what the kernel used.
    #[inline(always)]
    pub fn user_str(&mut self, from: *const u8) -> &mut Self {
        self.c_string(from, true)
    }

    #[inline(always)]
    fn c_string(&mut self, from: *const u8, user: bool) -> &mut Self {
        let given = if user { flags::AS_GIVEN } else { 0 };
        let Some(to) = self.room() else {
            self.close(0, given | flags::TRUNCATED);
            return self;
        };
        // SAFETY: `room` leaves STRING_MAX bytes behind `to`; the helpers check the source.
        let size = unsafe {
            if user {
                bpf_probe_read_user_str(to.cast(), STRING_MAX as u32, from.cast())
            } else {
                bpf_probe_read_kernel_str(to.cast(), STRING_MAX as u32, from.cast())
            }
        };
        if size <= 0 {
            // Unreadable or a null pointer.
            self.close(0, given | flags::UNRESOLVED);
        } else if size as u32 >= STRING_MAX as u32 {
            self.close(STRING_MAX as u32 - 1, given | flags::TRUNCATED);
        } else {
            // Without the NUL.
            self.close((size as u32 - 1) & STRING_MASK, given);
        }
        self
    }

    /// `len` bytes of the kernel, at most [`STRING_MAX`].
    #[inline(always)]
    pub fn kernel_bytes(&mut self, from: *const u8, len: u64) -> &mut Self {
        self.bytes(from, len, false)
    }

    /// `len` bytes of the process, at most [`STRING_MAX`].
    #[inline(always)]
    pub fn user_bytes(&mut self, from: *const u8, len: u64) -> &mut Self {
        self.bytes(from, len, true)
    }

    #[inline(always)]
    fn bytes(&mut self, from: *const u8, len: u64, user: bool) -> &mut Self {
        let mut size = STRING_MAX as u32;
        let mut found = 0;
        if len > STRING_MAX as u64 {
            found = flags::TRUNCATED;
        } else {
            size = len as u32 & STRING_MASK;
        }
        let Some(to) = self.room() else {
            self.close(0, flags::TRUNCATED);
            return self;
        };
        // SAFETY: `room` leaves STRING_MAX bytes behind `to`; the helpers check the source.
        let read = unsafe {
            if user {
                bpf_probe_read_user(to.cast(), size, from.cast())
            } else {
                bpf_probe_read_kernel(to.cast(), size, from.cast())
            }
        };
        if read == 0 {
            self.close(size, found)
        } else {
            self.close(0, flags::UNRESOLVED)
        }
        self
    }

    /// Bytes that `fill` puts at the given place, at most [`STRING_MAX`]; it returns how many, or a negative errno.
    #[inline(always)]
    pub fn filled(&mut self, fill: impl FnOnce(*mut u8) -> i64, found: u32) -> &mut Self {
        let Some(to) = self.room() else {
            self.close(0, flags::TRUNCATED);
            return self;
        };
        let size = fill(to);
        if size < 0 {
            self.close(0, found | flags::UNRESOLVED)
        } else {
            self.close(size as u32 & STRING_MASK, found)
        }
        self
    }

    /// The buffer that all paths but the first are built in, free between two of them, and room for the state of a search.
    #[inline(always)]
    pub fn spare(&self) -> (*mut path::Buffer, *mut Progress) {
        // SAFETY: `scratch` points into the scratch map and is ours.
        unsafe { (&raw mut (*self.scratch).spare, &raw mut (*self.scratch).progress) }
    }

    /// Adds flags to the string that was put last.
    #[inline(always)]
    pub fn flag_last(&mut self, found: u32) {
        self.flags |= found << (flags::PER_STRING * ((self.string - 1) & 7));
    }

    /// Lets go of a record that was made only to judge what it is about.
    #[inline(always)]
    pub fn drop_unseen(mut self) {
        self.let_go();
    }

    /// The same, in the hands of somebody else.
    #[inline(always)]
    pub fn let_go(&mut self) {
        // SAFETY: the buffer is ours until here.
        unsafe { shim_atomic_exchange(&raw mut (*self.scratch).busy, 0) };
    }

    /// Writes down what policy said, hands the record over, and is what the LSM program returns.
    #[inline(always)]
    pub fn submit_judged(mut self, judged: &Judged) -> i32 {
        if judged.asks() {
            return allowed_values(pause::pause_operation(self.park(judged)));
        }
        self.verdict(judged);
        self.submit(Ring::of(judged));
        judged.carry_out()
    }

    /// What it is about.
    #[inline(always)]
    pub fn kind(&self) -> u32 {
        self.number
    }

    /// Its arguments.
    #[inline(always)]
    pub fn arguments(&self) -> [u64; 4] {
        // SAFETY: the head lies in the scratch buffer, which this record owns.
        unsafe { core::ptr::read_volatile((&raw const (*self.head).body.args).cast()) }
    }

    /// Its strings, or only the first one.
    #[inline(always)]
    pub fn strings(&self, first_only: bool) -> (*const u8, u32) {
        let first = self.first.wrapping_sub(HEAD);
        // SAFETY: the first string follows the head in the buffer.
        let at = unsafe { self.head.cast::<u8>().add(HEAD as usize) };
        (at, if first_only { first } else { first + self.rest })
    }

    /// Hands the record over.
    #[inline(always)]
    pub fn submit(mut self, ring: Ring) {
        self.hand_over(ring);
    }

    /// The same, and whether there was room for it.
    #[inline(always)]
    pub fn hand_over(&mut self, ring: Ring) -> bool {
        // The compiler can prove the bound below and would drop the check; the verifier cannot and needs it.
        let len = core::hint::black_box(self.first + self.rest);
        let mut submitted = false;
        add(self.row, Count::Seen);
        // SAFETY: the buffer is ours; the helper checks the length against the map value.
        unsafe {
            if len as usize > RECORD_MAX {
                add(self.row, Count::Oversized);
            } else {
                begin(&raw mut (*self.head).header, self.number, self.flags, len, self.tid);
                let failed = match ring {
                    Ring::Priority => output(&PRIORITY, self.head.cast(), len),
                    Ring::Bulk => output(&BULK, self.head.cast(), len),
                };
                add(self.row, if failed { Count::RingFull } else { Count::Submitted });
                submitted = !failed;
            }
            shim_atomic_exchange(&raw mut (*self.scratch).busy, 0);
        }
        submitted
    }
}

#[inline(always)]
unsafe fn output(ring: &'static RingBuf, data: *mut core::ffi::c_void, len: u32) -> bool {
    // SAFETY: the caller passes a buffer of at least `len` bytes; the ring is a map.
    unsafe {
        aya_ebpf::helpers::generated::bpf_ringbuf_output(
            core::ptr::from_ref(ring).cast_mut().cast(),
            data,
            u64::from(len),
            u64::from(BPF_RB_NO_WAKEUP),
        ) != 0
    }
}
