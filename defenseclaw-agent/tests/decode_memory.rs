//! What decoding costs in memory: a small multiple of the record, whatever it claims about itself. A program of its own,
//! because it counts every allocation.
#![expect(clippy::unwrap_used, reason = "a test says where it failed by panicking there")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    fs,
    path::Path,
};

use defenseclaw::sensor::decode_record;
use defenseclaw_ebpf::{ABI_VERSION, Body, Header, Kind, STRINGS, flags};
use proptest::prelude::*;
use zerocopy::IntoBytes as _;

/// Bytes of memory for a byte of the record. The dearest are empty arguments, of 24 bytes each in a list that doubles,
/// and alias after alias that points at one long name.
const TIMES: usize = 64;
/// For what does not depend on the length.
const BASE: usize = 4096;

struct Counting;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

fn change(grown: usize, shrunk: usize) {
    // The allocator also runs while the thread ends.
    let now = NOW.try_with(|now| {
        now.set((now.get() + grown).saturating_sub(shrunk));
        now.get()
    });
    if let Ok(now) = now {
        PEAK.try_with(|peak| peak.set(peak.get().max(now))).ok();
    }
}

// SAFETY: every call is passed on unchanged; the counters allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        change(layout.size(), 0);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        change(0, layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new may exist side by side.
        change(size, 0);
        // SAFETY: as above.
        let moved = unsafe { System.realloc(pointer, layout, size) };
        change(0, layout.size());
        moved
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most memory in use at once while decoding.
fn cost(record: &[u8]) -> usize {
    let before = NOW.get();
    PEAK.set(before);
    drop(decode_record(record));
    PEAK.get() - before
}

fn affordable(name: &str, record: &[u8]) {
    let (cost, limit) = (cost(record), BASE + TIMES * record.len());
    assert!(cost <= limit, "{name}: {cost} bytes for a record of {}", record.len());
}

fn record(kind: Kind, strings: [&[u8]; STRINGS]) -> Vec<u8> {
    let strings_len = strings.concat().len();
    let body = Body {
        args: [u64::MAX; 6],
        result: 0,
        string_len: strings.map(|string| u16::try_from(string.len()).unwrap()),
        verdict: 0,
    };
    let header = Header {
        abi: ABI_VERSION,
        kind: kind as u16,
        flags: flags::AS_GIVEN,
        len: u32::try_from(size_of::<Header>() + size_of::<Body>() + strings_len).unwrap(),
        tid: 1,
        time_ns: 1,
        start_ns: 1,
        tgid: 1,
        uid: 1,
        cgroup: 1,
        session: 1,
        tool_call: 1,
    };
    [header.as_bytes(), body.as_bytes(), &strings.concat()].concat()
}

/// A header that claims this many entries of each section, and this behind it.
fn message(claims: u16, rest: &[u8]) -> Vec<u8> {
    let [high, low] = claims.to_be_bytes();
    [&[0, 1, 0x81, 0x80][..], &[0, 1], &[high, low].repeat(3), rest].concat()
}

#[test]
fn hostile_records_are_not_dear() {
    let long = [b'a'; 4095];
    let none: [&[u8]; STRINGS] = [b""; STRINGS];
    let exec = |argv: &'static [u8], environment: &'static [u8]| {
        record(Kind::ProcessExec, [b"", b"", b"", b"", argv, environment])
    };
    affordable("empty arguments", &exec(&[0; 4095], b""));
    affordable("empty variables", &exec(b"", &[0; 4095]));
    affordable("equal signs", &exec(b"", &[b'='; 4095]));
    for kind in Kind::ALL {
        affordable("nothing", &record(kind, none));
        affordable("long strings", &record(kind, [&long, &long, &long, &long, b"", b""]));
    }

    let dns = |message: &[u8]| record(Kind::DnsAnswer, [message, b"", b"", b"", b"", b""]);
    affordable("claims without answers", &dns(&message(u16::MAX, &[0, 0, 1, 0, 1])));
    let mut questions = message(u16::MAX, &[0, 0, 1, 0, 1]);
    questions[4..6].copy_from_slice(&[0xff; 2]);
    affordable("claims of questions", &dns(&questions));
    // One name of 255 bytes that print as four each, and aliases that point at it.
    let label = [&[63][..], &[0xff; 63]].concat();
    let name = [&label.repeat(3)[..], &[61], &[0xff; 61], &[0]].concat();
    let alias = [0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 0, 0, 2, 0xc0, 12];
    let aliases = [&name[..], &[0, 1, 0, 1], &alias.repeat(300)].concat();
    affordable("aliases of one long name", &dns(&message(300, &aliases)));
}

proptest! {
    #[test]
    fn damaged_records_are_not_dear(
        index in any::<proptest::sample::Index>(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/decode");
        let mut seeds: Vec<_> = fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
        seeds.sort();
        let mut bytes = fs::read(index.get(&seeds)).unwrap();
        for (at, byte) in damage {
            *at.get_mut(&mut bytes) = byte;
        }
        affordable("damaged", &bytes);
    }
}
