//! Rows of the audit, as `audit verify` and the readers get them from a file that anybody may have changed.
#![no_main]

use defenseclaw::model::AuditRecord;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    if let Ok(row) = serde_json::from_slice::<AuditRecord>(json) {
        let again = serde_json::to_vec(&row).unwrap();
        assert_eq!(serde_json::from_slice::<AuditRecord>(&again).unwrap(), row);
    }
});
