//! The environment of a new program: only the variables that may name an agent's session or call leave the process.
//!
//! It is read in large pieces and searched eight bytes at a time. A helper call for each string would be simpler and
//! was, at two dozen variables, half of what watching adds to an exec.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_kernel, bpf_probe_read_user};
use defenseclaw_ebpf::{ENV_MAX, flags};

use crate::{emit::Record, path::Buffer, shim::shim_word};

/// First eight bytes of the names that are kept. User space keeps exact names only; this is to leave everything else,
/// secrets first of all, in the process.
const PREFIXES: [[u8; 8]; 6] =
    [*b"CLAUDE_C", *b"CODEX_TH", *b"CODEX_TO", *b"CODEX_SE", *b"GEMINI_S", *b"DEFENSEC"];

/// Longest string that is kept.
const VARIABLE_MAX: u64 = 256;
/// Bytes read at once. The buffer has room for a group behind them.
const CHUNK: u64 = 4096;
const CHUNK_MASK: u64 = CHUNK - 1;
/// Bytes that are looked at together.
const GROUP: u64 = 32;
/// Groups that one call looks at, and calls: at least 4096 variables, or 512 KiB of long ones.
const GROUPS: u64 = 4;
const CALLS: u32 = 2048;

const _: () =
    assert!(size_of::<Buffer>() >= (CHUNK + GROUP) as usize && ENV_MAX + 512 <= defenseclaw_ebpf::STRING_MAX);

/// How far the search is. It lies in a map, of whose content the verifier assumes nothing: on the stack it would follow
/// each number through every call and give up.
#[repr(C)]
pub struct Progress {
    /// User address behind the piece, and behind the environment.
    next: u64,
    end: u64,
    /// Bytes of the piece.
    filled: u64,
    /// Next byte to look at.
    at: u64,
    /// Where the variable that `at` is in begins.
    start: u64,
    wanted: u64,
    /// Bytes kept.
    used: u64,
    truncated: u64,
}

#[derive(Clone, Copy)]
struct Search {
    /// A piece of the environment.
    chunk: *mut u8,
    /// What is kept.
    to: *mut u8,
    progress: *mut Progress,
}

/// A field of the progress. Volatile, so that the compiler takes it from the map, where it is any number to the verifier.
macro_rules! get {
    ($search:expr, $field:ident) => {
        // SAFETY: the progress lies in the buffer of the record that is being made.
        unsafe { (&raw const (*$search.progress).$field).read_volatile() }
    };
}
macro_rules! set {
    ($search:expr, $field:ident, $value:expr) => {{
        let value = $value;
        // SAFETY: as above.
        #[allow(unused_unsafe, reason = "some callers are unsafe already")]
        unsafe {
            (&raw mut (*$search.progress).$field).write_volatile(value);
        }
    }};
}

/// Puts the variables that are kept into a record, as one string: each with its NUL.
#[inline(always)]
pub fn put(record: &mut Record, from: u64, end: u64) {
    let (buffer, progress) = record.spare();
    let mut truncated = 0;
    record.filled(
        |to| {
            let mut search = Search { chunk: buffer.cast(), to, progress };
            set!(search, next, from);
            set!(search, end, end);
            set!(search, filled, 0);
            set!(search, at, 0);
            set!(search, start, 0);
            set!(search, wanted, 0);
            set!(search, used, 0);
            set!(search, truncated, 0);
            // SAFETY: `look` has the signature the helper calls, and `search` outlives the call.
            unsafe {
                bpf_loop(CALLS, look as *mut c_void, (&raw mut search).cast(), 0);
                if (*progress).truncated != 0 || (*progress).next < end {
                    truncated = flags::TRUNCATED;
                }
                (*progress).used as i64
            }
        },
        0,
    );
    record.flag_last(truncated);
}

/// Looks for the ends of two variables. Returns 1 to stop.
unsafe extern "C" fn look(_index: u64, context: *mut c_void) -> i64 {
    // SAFETY: the helper passes the `Search` that `put` gave it.
    let search = unsafe { *context.cast::<Search>() };
    if look_once(search) != 0 { 1 } else { look_once(search) }
}

#[inline(always)]
fn look_once(search: Search) -> i64 {
    let (mut at, filled) = (get!(search, at), get!(search, filled));
    if at >= filled {
        return search.refill();
    }
    // Text is below 0x80, so this first look misses no end; the second one is exact.
    let mut groups = GROUPS;
    while search.group_may_end(at) == 0 {
        at += GROUP;
        groups -= 1;
        if groups == 0 {
            set!(search, at, at);
            return 0;
        }
    }
    let mut ends = zero_bytes(search.word(at));
    let mut words = GROUP / 8 - 1;
    while ends == 0 && words > 0 {
        at += 8;
        ends = zero_bytes(search.word(at));
        words -= 1;
    }
    if ends == 0 {
        set!(search, at, at + 8);
        return 0;
    }
    let end = at + lowest(ends);
    if end >= filled {
        return search.refill();
    }
    if get!(search, wanted) != 0 {
        search.keep(end + 1);
    }
    set!(search, at, end + 1);
    set!(search, start, end + 1);
    set!(search, wanted, u64::from(is_wanted(search.word(end + 1))));
    0
}

const ONES: u64 = 0x0101_0101_0101_0101;
const TOPS: u64 = 0x8080_8080_8080_8080;

/// 0x80 in the lowest byte of the word that is zero; what is above it means nothing.
#[inline(always)]
fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & TOPS
}

/// Index of the lowest byte that is 0x80, without a branch: its bit, as a factor, shifts the index to the top.
#[inline(always)]
fn lowest(bytes: u64) -> u64 {
    let bit = bytes & bytes.wrapping_neg();
    (bit >> 7).wrapping_mul(0x0001_0203_0405_0607) >> 56
}

#[inline(always)]
fn is_wanted(start: u64) -> bool {
    // Most names begin with another letter.
    if !matches!(start as u8, b'C' | b'D' | b'G') {
        return false;
    }
    let mut wanted = false;
    for prefix in PREFIXES {
        wanted |= start == u64::from_ne_bytes(prefix);
    }
    wanted
}

impl Search {
    /// Eight bytes of the piece. Behind its end stands what was there before, but a variable that goes on there is
    /// looked at again, whole.
    #[inline(always)]
    fn word(&self, at: u64) -> u64 {
        // SAFETY: the masked offset and a word lie inside the buffer.
        unsafe { shim_word(self.chunk.add((at & CHUNK_MASK) as usize)) }
    }

    /// Not 0 if a byte of a group is 0, or above 0x80.
    #[inline(always)]
    fn group_may_end(&self, at: u64) -> u64 {
        // SAFETY: the masked offset and a group lie inside the buffer.
        unsafe {
            let group = self.chunk.add((at & CHUNK_MASK) as usize);
            let (one, two) = (shim_word(group), shim_word(group.add(8)));
            let (three, four) = (shim_word(group.add(16)), shim_word(group.add(24)));
            (one.wrapping_sub(ONES)
                | two.wrapping_sub(ONES)
                | three.wrapping_sub(ONES)
                | four.wrapping_sub(ONES))
                & TOPS
        }
    }

    /// Reads the next piece. It begins with the variable that goes on behind this one.
    #[inline(always)]
    fn refill(&self) -> i64 {
        let (start, filled, end) = (get!(self, start), get!(self, filled), get!(self, end));
        let mut next = get!(self, next);
        let mut inside = false;
        if start < filled {
            if start == 0 {
                // It fills the piece, so it is too long to be kept.
                inside = true;
                set!(self, truncated, get!(self, truncated) | get!(self, wanted));
            } else {
                next -= filled - start;
                set!(self, next, next);
            }
        }
        if next >= end || filled != 0 && filled < CHUNK {
            return 1;
        }
        let mut size = end - next;
        if size > CHUNK {
            size = CHUNK;
        }
        // SAFETY: the size is at most that of the buffer; the helper checks the source.
        if unsafe { bpf_probe_read_user(self.chunk.cast(), size as u32, next as *const c_void) } != 0 {
            set!(self, truncated, 1);
            return 1;
        }
        set!(self, next, next + size);
        set!(self, filled, size);
        set!(self, at, 0);
        set!(self, start, 0);
        set!(self, wanted, u64::from(!inside && is_wanted(self.word(0))));
        0
    }

    /// Keeps the variable that ends before `end`.
    #[inline(always)]
    fn keep(&self, end: u64) {
        let (start, used) = (get!(self, start), get!(self, used));
        let size = end.wrapping_sub(start);
        if size > VARIABLE_MAX || used + size > ENV_MAX as u64 {
            set!(self, truncated, 1);
            return;
        }
        // SAFETY: ENV_MAX and twice VARIABLE_MAX bytes fit behind `to`, and as many lie in the buffer.
        unsafe {
            let from = self.chunk.add((start & CHUNK_MASK) as usize);
            let to = self.to.add((used & (ENV_MAX as u64 - 1)) as usize);
            // The compiler knows that the mask changes nothing; the verifier needs it.
            let length = core::hint::black_box(size) & (2 * VARIABLE_MAX - 1);
            if bpf_probe_read_kernel(to.cast(), length as u32, from.cast()) == 0 {
                set!(self, used, used + size);
            }
        }
    }
}
