//! Name server answers, in the record that carries them: any message is an answer or an error.
#![no_main]

use defenseclaw::sensor::decode_record;
use defenseclaw_ebpf::{ABI_VERSION, Body, Header, Kind, STRING_MAX, STRINGS};
use libfuzzer_sys::fuzz_target;
use zerocopy::IntoBytes as _;

fuzz_target!(|message: &[u8]| {
    let message = &message[..message.len().min(STRING_MAX)];
    let mut string_len = [0; STRINGS];
    string_len[0] = u16::try_from(message.len()).unwrap();
    let body = Body { args: [(17 << 16 | 2) << 32 | 2, 53, 0, 0, 0, 0], result: 0, string_len, reserved: 0 };
    let header = Header {
        abi: ABI_VERSION,
        kind: Kind::DnsAnswer as u16,
        flags: 0,
        len: u32::try_from(size_of::<Header>() + size_of::<Body>() + message.len()).unwrap(),
        tid: 0,
        time_ns: 1,
        start_ns: 0,
        tgid: 0,
        uid: 0,
        cgroup: 1,
        session: 1,
        tool_call: 0,
    };
    let _ = decode_record(&[header.as_bytes(), body.as_bytes(), message].concat());
});
