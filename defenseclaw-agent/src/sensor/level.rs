//! Which vantage level this kernel offers. `CONFIG_BPF_LSM` is not enough: unless `bpf` is in the active list, LSM
//! programs load, attach, and never run.

use std::fs;

use crate::model::Level;

const ACTIVE: &str = "/sys/kernel/security/lsm";

/// The best level, and why not a better one.
pub fn detect() -> (Level, String) {
    match fs::read_to_string(ACTIVE) {
        Ok(list) => from_list(list.trim()),
        Err(error) => (
            Level::Tracepoint,
            format!(
                "cannot read {ACTIVE} ({error}), so nothing says that BPF LSM is active; mount securityfs there"
            ),
        ),
    }
}

fn from_list(list: &str) -> (Level, String) {
    if list.split(',').any(|name| name == "bpf") {
        (Level::Lsm, String::new())
    } else {
        (
            Level::Tracepoint,
            format!(
                "`bpf` is not in the active LSM list ({list}); boot with `lsm={list},bpf` to change that"
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_word_counts() {
        for (list, level) in [
            ("lockdown,capability,yama,apparmor,bpf", Level::Lsm),
            ("bpf", Level::Lsm),
            ("lockdown,yama,apparmor", Level::Tracepoint),
            ("notbpf,bpf2", Level::Tracepoint),
            ("", Level::Tracepoint),
        ] {
            assert_eq!(from_list(list).0, level, "{list}");
        }
    }
}
