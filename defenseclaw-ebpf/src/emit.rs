//! Records: built in a per-CPU scratch buffer, then copied into a ring. Counts what became of each.
//!
//! For every observation exactly one of `Submitted`, `RingFull`, `Oversized`, `Unreadable`, `MapFull` is counted besides
//! `Seen`; this is the only place in the kernel that drops anything.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    helpers::{
        bpf_get_current_cgroup_id,
        generated::{
            bpf_ktime_get_boot_ns, bpf_probe_read_kernel, bpf_probe_read_kernel_str,
            bpf_probe_read_user, bpf_probe_read_user_str, bpf_ringbuf_reserve, bpf_ringbuf_submit,
        },
    },
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use defenseclaw_ebpf::{
    ABI_VERSION, Body, Count, Counters, Header, KINDS, Kind, RECORD_MAX, STRING_MAX, flags,
};

use crate::{
    path,
    probes::environment::Progress,
    scope::{self, Actor, SCOPE},
    shim::{
        Ptr, shim_atomic_exchange, shim_atomic_increment, shim_cred_uid_direct, shim_task_struct_cred_direct,
        shim_task_struct_pid_direct,
    },
};

/// fork, exec, exit: never crowded out by file events.
#[map]
pub static PRIORITY: RingBuf = RingBuf::with_byte_size(4 << 20, 0);
/// Everything else.
#[map]
pub static BULK: RingBuf = RingBuf::with_byte_size(8 << 20, 0);
#[map]
pub static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(KINDS as u32, 0);
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(SLOTS, 0);

/// Buffers per CPU. BPF programs can be preempted by others on the same CPU, so one would be overwritten; a task, the
/// one that preempts it and a network interrupt make three.
const SLOTS: u32 = 4;
const HEAD: u32 = (size_of::<Header>() + size_of::<Body>()) as u32;
/// Offsets are masked with this, lengths with [`STRING_MASK`]: their sum stays inside the buffer.
const OFFSET_MASK: u32 = 0x3fff;
const STRING_MASK: u32 = 0xfff;

#[repr(C)]
pub struct Scratch {
    busy: u64,
    progress: Progress,
    walk: path::Buffer,
    header: Header,
    body: Body,
    rest: [u8; RECORD_MAX + 8],
}

const _: () = assert!(OFFSET_MASK as usize + STRING_MAX <= RECORD_MAX);

/// Which ring a record goes to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ring {
    Priority,
    Bulk,
}

/// Counts without a record.
#[inline(always)]
pub fn count(kind: Kind, what: Count) {
    if let Some(row) = COUNTERS.get_ptr_mut(kind as u32) {
        add(row, what);
    }
}

#[inline(always)]
fn add(row: *mut Counters, what: Count) {
    // SAFETY: `row` points into the counter map, `what` is below its length. Atomic, because a program on this CPU can
    // be preempted by another one between load and store.
    unsafe { shim_atomic_increment(&raw mut (*row).counts[what as usize]) };
}

/// Fills in what the header says about the current task.
#[inline(always)]
unsafe fn name_actor(header: *mut Header, actor: &Actor) {
    let task = actor.task;
    let mut start = actor.label.start_ns;
    if start == 0 {
        // Enrolled from user space, which knows the start in clock ticks only.
        start = scope::start_ns_direct(task);
        if let Some(label) = SCOPE.get_ptr_mut(u64::from(actor.tgid)) {
            // SAFETY: `label` points into the map; every writer stores the same value.
            unsafe { (*label).start_ns = start };
        }
    }
    // SAFETY: the caller owns the header; the helper has no preconditions.
    unsafe {
        (*header).tid = shim_task_struct_pid_direct(task);
        (*header).start_ns = start;
        (*header).tgid = actor.tgid;
        // Numbers as in the initial user namespace, like those of the helper, at a fifth of its cost.
        (*header).uid = shim_cred_uid_direct(shim_task_struct_cred_direct(task));
        (*header).cgroup = bpf_get_current_cgroup_id();
        (*header).session = actor.label.session;
        (*header).tool_call = actor.label.tool_call;
    }
}

#[repr(C)]
struct Short {
    header: Header,
    body: Body,
}

/// A record without strings, made in its place in the ring: no buffer, no copy. `fill` gives the arguments; it runs last,
/// so that nothing has to be kept across the calls before it.
#[inline(always)]
pub fn short(kind: Kind, ring: Ring, actor: &Actor, result: Option<i64>, fill: impl FnOnce() -> [u64; 6]) {
    let Some(row) = COUNTERS.get_ptr_mut(kind as u32) else { return };
    add(row, Count::Seen);
    let ring = match ring {
        Ring::Priority => &PRIORITY,
        Ring::Bulk => &BULK,
    };
    // SAFETY: the ring is a map. The reserved record is as long as `Short` and ours until it is submitted.
    unsafe {
        let ring = core::ptr::from_ref(ring).cast_mut().cast();
        let record: *mut Short = bpf_ringbuf_reserve(ring, size_of::<Short>() as u64, 0).cast();
        if record.is_null() {
            add(row, Count::RingFull);
            return;
        }
        let header = &raw mut (*record).header;
        begin(header, kind);
        name_actor(header, actor);
        (*header).flags = match result {
            Some(_) => flags::HAS_RESULT | flags::AT_SYSCALL_EXIT,
            None => 0,
        };
        (*header).len = HEAD;
        let words = (&raw mut (*record).body).cast::<u64>();
        let args = fill();
        let mut word = 0;
        while word < args.len() {
            // Volatile as in `zero`: many of them are 0.
            words.add(word).write_volatile(args[word]);
            word += 1;
        }
        words.add(word).write_volatile(result.unwrap_or(0) as u64);
        zero(words.add(word + 1), size_of::<Body>() / 8 - word - 1);
        bpf_ringbuf_submit(record.cast(), u64::from(BPF_RB_NO_WAKEUP));
    }
    add(row, Count::Submitted);
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

/// What every record begins with.
#[inline(always)]
unsafe fn begin(header: *mut Header, kind: Kind) {
    // SAFETY: the caller owns the header; the helper has no preconditions.
    unsafe {
        (*header).abi = ABI_VERSION;
        (*header).kind = kind as u16;
        (*header).time_ns = bpf_ktime_get_boot_ns();
    }
}

/// A record being built. Ends in [`Record::submit`] or [`Record::give_up`]; a forgotten one leaks its buffer.
#[must_use]
pub struct Record {
    scratch: *mut Scratch,
    row: *mut Counters,
    at: u32,
    flags: u32,
    string: u32,
}

impl Record {
    /// A record about the current task.
    #[inline(always)]
    pub fn begin(kind: Kind, actor: &Actor) -> Option<Self> {
        let record = Self::blank(kind)?;
        // SAFETY: `header` points into the scratch buffer, which this record owns.
        unsafe { name_actor(record.header(), actor) };
        Some(record)
    }

    /// A record without a task; header fields about it are zero.
    #[inline(always)]
    pub fn nobody(kind: Kind) -> Option<Self> {
        let record = Self::blank(kind)?;
        let header = record.header();
        // SAFETY: the buffer is ours. `begin` and `submit` write the other fields of the first three words.
        unsafe {
            (*header).tid = 0;
            zero(header.cast::<u64>().add(3), size_of::<Header>() / 8 - 3);
        }
        Some(record)
    }

    /// A record whose header says nothing about the task yet.
    #[inline(always)]
    fn blank(kind: Kind) -> Option<Self> {
        let row = COUNTERS.get_ptr_mut(kind as u32)?;
        add(row, Count::Seen);
        let mut slot = 0;
        while slot < SLOTS {
            let scratch = SCRATCH.get_ptr_mut(slot)?;
            // SAFETY: `scratch` points into the scratch map.
            if unsafe { shim_atomic_exchange(&raw mut (*scratch).busy, 1) } == 0 {
                let record = Self { scratch, row, at: HEAD, flags: 0, string: 0 };
                // SAFETY: the buffer is ours until `busy` is cleared; the helper has no preconditions.
                unsafe {
                    zero((&raw mut (*scratch).body).cast(), size_of::<Body>() / 8);
                    begin(&raw mut (*scratch).header, kind);
                }
                return Some(record);
            }
            slot += 1;
        }
        add(row, Count::MapFull);
        None
    }

    #[inline(always)]
    fn header(&self) -> *mut Header {
        // SAFETY: `scratch` points into the scratch map.
        unsafe { &raw mut (*self.scratch).header }
    }

    #[inline(always)]
    fn body(&self) -> *mut Body {
        // SAFETY: as above.
        unsafe { &raw mut (*self.scratch).body }
    }

    /// Session of a record that has no task.
    #[inline(always)]
    pub fn session(&mut self, session: u64, cgroup: u64) {
        // SAFETY: the buffer is ours.
        unsafe {
            (*self.header()).session = session;
            (*self.header()).cgroup = cgroup;
        }
    }

    /// Sets argument `N`.
    #[inline(always)]
    pub fn arg<const N: usize>(&mut self, value: u64) -> &mut Self {
        const { assert!(N < 6) };
        // SAFETY: the buffer is ours and `N` is in bounds.
        unsafe { (*self.body()).args[N] = value };
        self
    }

    /// Result of the system call.
    #[inline(always)]
    pub fn result(&mut self, value: i64) -> &mut Self {
        // SAFETY: the buffer is ours.
        unsafe { (*self.body()).result = value };
        self.flags |= flags::HAS_RESULT | flags::AT_SYSCALL_EXIT;
        self
    }

    /// Where the next string goes, if there is room.
    #[inline(always)]
    fn room(&mut self) -> Option<*mut u8> {
        if self.at > OFFSET_MASK {
            return None;
        }
        let offset = self.at & OFFSET_MASK;
        // SAFETY: OFFSET_MASK + STRING_MAX lies inside header, body and rest together, which are contiguous.
        Some(unsafe { self.scratch.cast::<u8>().add(offset_of!(Scratch, header)).add(offset as usize) })
    }

    /// Ends string `self.string`, which is `len` bytes, and goes on to the next.
    #[inline(always)]
    fn close(&mut self, len: u32, string_flags: u32) {
        let string = self.string & 7;
        if string < 6 {
            // SAFETY: the buffer is ours and `string` is in bounds.
            unsafe { *(&raw mut (*self.body()).string_len).cast::<u16>().add(string as usize) = len as u16 };
        }
        self.flags |= string_flags << (flags::PER_STRING * string);
        self.at += len;
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
        // SAFETY: `scratch` points into the scratch map and is ours.
        let buffer = unsafe { &raw mut (*self.scratch).walk };
        self.resolved(buffer, path::resolve(buffer, dentry, mnt))
    }

    /// The same, of pointers that the verifier knows: see [`path::resolve_known`].
    #[inline(always)]
    pub fn path_known(&mut self, dentry: Ptr, mnt: Ptr) -> &mut Self {
        // SAFETY: `scratch` points into the scratch map and is ours.
        let buffer = unsafe { &raw mut (*self.scratch).walk };
        self.resolved(buffer, path::resolve_known(buffer, dentry, mnt))
    }

    #[inline(always)]
    fn resolved(&mut self, buffer: *mut path::Buffer, found: path::Found) -> &mut Self {
        let len = found.len & STRING_MASK;
        let Some(to) = self.room() else {
            self.close(0, flags::TRUNCATED);
            return self;
        };
        // SAFETY: both ends lie inside the scratch buffer for every masked length; the helper checks the rest.
        let copied = unsafe { bpf_probe_read_kernel(to.cast(), len, path::tail(buffer, found.start).cast()) };
        if copied == 0 {
            self.close(len, found.flags)
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

    /// The buffer that paths are built in, which is free between two paths, and room for the state of a search.
    #[inline(always)]
    pub fn spare(&mut self) -> (*mut path::Buffer, *mut Progress) {
        // SAFETY: `scratch` points into the scratch map and is ours.
        unsafe { (&raw mut (*self.scratch).walk, &raw mut (*self.scratch).progress) }
    }

    /// Adds flags to the string that was put last.
    #[inline(always)]
    pub fn flag_last(&mut self, found: u32) {
        self.flags |= found << (flags::PER_STRING * ((self.string - 1) & 7));
    }

    /// Hands the record over.
    #[inline(always)]
    pub fn submit(self, ring: Ring) {
        // The compiler can prove the bound below and would drop the check; the verifier cannot and needs it.
        let len = core::hint::black_box(self.at);
        // SAFETY: the buffer is ours; the helper checks the length against the map value.
        unsafe {
            (*self.header()).len = len;
            (*self.header()).flags = self.flags;
            if len as usize > RECORD_MAX {
                add(self.row, Count::Oversized);
                shim_atomic_exchange(&raw mut (*self.scratch).busy, 0);
            } else {
                self.hand_over(ring, self.header().cast(), len);
            }
        }
    }

    /// Adds the path of a dentry as the only string, and hands the record over. The path stays where it was built: the
    /// head is put before it, which is cheaper than a copy of the path behind the head.
    #[inline(always)]
    pub fn submit_path(self, dentry: Ptr, mnt: Ptr, ring: Ring) {
        // SAFETY: `scratch` points into the scratch map and is ours.
        let found = path::resolve(unsafe { &raw mut (*self.scratch).walk }, dentry, mnt);
        self.submit_found(found, ring);
    }

    /// The same, of pointers that the verifier knows: see [`path::resolve_known`].
    #[inline(always)]
    pub fn submit_path_known(self, dentry: Ptr, mnt: Ptr, ring: Ring) {
        // SAFETY: `scratch` points into the scratch map and is ours.
        let found = path::resolve_known(unsafe { &raw mut (*self.scratch).walk }, dentry, mnt);
        self.submit_found(found, ring);
    }

    #[inline(always)]
    fn submit_found(self, found: path::Found, ring: Ring) {
        let len = found.len & STRING_MASK;
        // SAFETY: the buffer is ours, and there is room for a head before every path; the helper checks the length
        // against the map value.
        unsafe {
            let body = self.body();
            (*body).string_len[0] = len as u16;
            (*self.header()).len = HEAD + len;
            (*self.header()).flags = self.flags | found.flags;
            let from = self.header().cast::<u64>();
            let to = path::head(&raw mut (*self.scratch).walk, found.start).cast::<u64>();
            let mut word = 0;
            while word < HEAD as usize / 8 {
                to.add(word).write_volatile(from.add(word).read_volatile());
                word += 1;
            }
            self.hand_over(ring, to.cast(), HEAD + len);
        }
    }

    /// Copies `len` bytes at `data`, which lie in the buffer, to the ring, and lets go of the buffer.
    #[inline(always)]
    unsafe fn hand_over(&self, ring: Ring, data: *mut core::ffi::c_void, len: u32) {
        // SAFETY: the caller's promise, and the buffer is ours until `busy` is cleared.
        unsafe {
            let failed = match ring {
                Ring::Priority => output(&PRIORITY, data, len),
                Ring::Bulk => output(&BULK, data, len),
            };
            add(self.row, if failed { Count::RingFull } else { Count::Submitted });
            shim_atomic_exchange(&raw mut (*self.scratch).busy, 0);
        }
    }

    /// Drops the record because a field it cannot do without was unreadable.
    #[inline(always)]
    pub fn give_up(self) {
        add(self.row, Count::Unreadable);
        // SAFETY: the buffer is ours until here.
        unsafe { shim_atomic_exchange(&raw mut (*self.scratch).busy, 0) };
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
