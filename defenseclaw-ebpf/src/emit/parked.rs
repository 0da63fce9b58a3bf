//! Records that are put aside for a function that the verifier looks at by itself: such a function takes numbers only, so it finds
//! the record by its buffer. Nothing is judged or handed over here.

use defenseclaw_ebpf::{KINDS, Kind};

use super::{COUNTERS, HEAD, Record, SCRATCH, STRING_MASK, processor};
use crate::{path, pause, verdict::Judged};

/// What is known of a record besides what stands in its buffer.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Parked {
    first: u32,
    rest: u32,
    flags: u32,
    tid: u32,
    entry: u64,
    generation: u64,
    kind: u32,
}

/// The verifier wants to know what an LSM program may return.
#[inline(always)]
pub fn allowed_values(answer: i32) -> i32 {
    const EPERM: i32 = 1;
    const ERESTARTNOINTR: i32 = 513;
    match answer {
        0 => 0,
        _ if answer == -ERESTARTNOINTR => -ERESTARTNOINTR,
        _ => -EPERM,
    }
}

impl Record {
    /// Puts aside what is known of it, for a function that the verifier looks at by itself. Says where.
    #[inline(always)]
    pub fn park(&mut self, judged: &Judged) -> u32 {
        let (entry, generation) = judged.words();
        let kind = self.kind as u32;
        let parked = Parked {
            first: self.first,
            rest: self.rest,
            flags: self.flags,
            tid: self.tid,
            kind,
            entry,
            generation,
        };
        // SAFETY: the buffer is ours.
        unsafe {
            (&raw mut (*self.scratch).parked).write_volatile(parked);
            (&raw const (*self.scratch).slot).read_volatile()
        }
    }

    /// Takes it up again.
    #[inline(always)]
    pub fn unpark(slot: u32) -> Option<(Self, Judged)> {
        let scratch = SCRATCH.get_ptr_mut(slot)?;
        // SAFETY: `scratch` points into the scratch map, and nobody else has the buffer.
        let parked = unsafe { (&raw const (*scratch).parked).read_volatile() };
        let row = COUNTERS.get_ptr_mut(processor() * KINDS as u32 + (parked.kind & (KINDS as u32 - 1)))?;
        let path = parked.first.wrapping_sub(HEAD) & STRING_MASK;
        // SAFETY: as above.
        let head = path::head(unsafe { &raw mut (*scratch).first }, path::END - path).cast();
        let record = Self {
            scratch,
            head,
            row,
            kind: Kind::FileOpen,
            number: parked.kind,
            tid: parked.tid,
            first: HEAD + path,
            rest: parked.rest,
            flags: parked.flags,
            string: 0,
            paths: path::Known::default(),
            image: core::ptr::null(),
            components: 0,
            leaf: 0,
            lost: 0,
        };
        Some((record, Judged::from_words(parked.entry, parked.generation)))
    }

    /// Room for a question about it.
    #[inline(always)]
    pub fn asked(&self) -> *mut pause::Asked {
        // SAFETY: `scratch` points into the scratch map and is ours.
        unsafe { &raw mut (*self.scratch).asked }
    }
}
