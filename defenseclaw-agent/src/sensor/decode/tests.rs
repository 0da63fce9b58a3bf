//! Records, made as the kernel makes them, against the events they must become.

mod abi;
mod documented;
mod kinds;
mod malformed;
mod seeds;
mod strings;

use zerocopy::IntoBytes;

use super::*;

const NOW: u64 = 5_000_000_000;
const START: u64 = 4_000_000_000;

/// A record to be: a header and a body that no test needs to repeat, and its strings.
#[derive(Clone, Debug)]
struct Raw {
    header: Header,
    body: Body,
    strings: [Vec<u8>; STRINGS],
}

impl Raw {
    fn of(kind: Kind) -> Self {
        Self::numbered(kind as u16)
    }

    fn numbered(kind: u16) -> Self {
        let header = Header {
            abi: ABI_VERSION,
            kind,
            flags: 0,
            len: 0,
            tid: 701,
            time_ns: NOW,
            start_ns: START,
            tgid: 700,
            uid: 1000,
            cgroup: 77,
            session: 0x0197_0000_0000_0001,
            tool_call: 0,
        };
        let body = Body { args: [0; 6], result: 0, string_len: [0; STRINGS], verdict: 0 };
        Self { header, body, strings: Default::default() }
    }

    fn args<const N: usize>(mut self, args: [u64; N]) -> Self {
        self.body.args[..N].copy_from_slice(&args);
        self
    }

    fn string(mut self, slot: usize, text: impl AsRef<[u8]>) -> Self {
        self.strings[slot] = text.as_ref().to_vec();
        self
    }

    fn flag(mut self, slot: u32, flag: u32) -> Self {
        self.header.flags |= flag << (flags::PER_STRING * slot);
        self
    }

    /// A path as the process passed it, and the directory it starts from.
    fn given(self, slot: u32, text: &str, base_slot: usize, base: &str) -> Self {
        self.string(slot as usize, text).flag(slot, flags::AS_GIVEN).string(base_slot, base)
    }

    fn at_exit(mut self, result: i64) -> Self {
        self.header.flags |= flags::HAS_RESULT | flags::AT_SYSCALL_EXIT;
        self.body.result = result;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut raw = self.clone();
        for (len, string) in raw.body.string_len.iter_mut().zip(&raw.strings) {
            *len = u16::try_from(string.len()).unwrap();
        }
        let mut bytes = [raw.header.as_bytes(), raw.body.as_bytes()].concat();
        bytes.extend(raw.strings.concat());
        let len = u32::try_from(bytes.len()).unwrap();
        bytes[8..12].copy_from_slice(&len.to_ne_bytes());
        bytes
    }

    fn action(&self) -> Action {
        decode_record(&self.bytes()).unwrap().action
    }
}

/// The event that a [`Raw`] which sets nothing but its action becomes.
fn event(action: Action) -> Event {
    Event {
        time: BootTime(NOW),
        session: SessionId(0x0197_0000_0000_0001),
        process: ProcessKey { tgid: 700, start_ns: START },
        tid: 701,
        uid: 1000,
        cgroup: 77,
        tool_call: None,
        result: None,
        vantage: Vantage::Kernel,
        verdict: None,
        decision: None,
        action,
    }
}

fn pair(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn file(path: impl Into<KernelPath>) -> FileRef {
    FileRef { path: path.into(), dev: 0x0010_0003, ino: 42 }
}

fn given(path: &str) -> KernelPath {
    KernelPath { as_given: true, ..path.into() }
}
