//! Ring records: any bytes are an event or an error, and what becomes an event survives the audit's JSON.
#![no_main]

use defenseclaw::{model::Event, sensor::decode_record};
use libfuzzer_sys::fuzz_target;

/// `Header::len`.
const LENGTH: std::ops::Range<usize> = 8..12;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // A wrong length is rejected first: with the right one the rest is reached.
    let mut bytes = bytes.to_vec();
    let len = u32::try_from(bytes.len()).unwrap();
    if let Some(field) = bytes.get_mut(LENGTH) {
        field.copy_from_slice(&len.to_ne_bytes());
        check(&bytes);
    }
});

fn check(bytes: &[u8]) {
    if let Ok(event) = decode_record(bytes) {
        let json = serde_json::to_vec(&event).unwrap();
        assert_eq!(serde_json::from_slice::<Event>(&json).unwrap(), event);
    }
}
