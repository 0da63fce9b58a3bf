//! Which vantage level this kernel offers. `CONFIG_BPF_LSM` is not enough: unless `bpf` is in the active list, LSM
//! programs load, attach, and never run.

use std::{fs, io};

use crate::model::Level;

const ACTIVE: &str = "/sys/kernel/security/lsm";

/// The best level, and why not a better one.
pub fn detect() -> (Level, String) {
    of(&fs::read_to_string(ACTIVE))
}

/// The level that the active list allows, if it could be read.
fn of(list: &io::Result<String>) -> (Level, String) {
    let list = match list {
        Ok(list) => list.trim(),
        Err(error) => {
            let reason = format!(
                "cannot read {ACTIVE} ({error}), so nothing says that BPF LSM is active; mount securityfs there"
            );
            return (Level::Tracepoint, reason);
        }
    };
    if list.split(',').any(|name| name == "bpf") {
        return (Level::Lsm, String::new());
    }
    let wanted = if list.is_empty() { "bpf".to_owned() } else { format!("{list},bpf") };
    let reason =
        format!("`bpf` is not in the active LSM list ({list}); boot with `lsm={wanted}` to change that");
    (Level::Tracepoint, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_word_counts() {
        for (list, level, hint) in [
            ("lockdown,capability,yama,apparmor,bpf\n", Level::Lsm, ""),
            ("bpf", Level::Lsm, ""),
            ("lockdown,yama,apparmor\n", Level::Tracepoint, "`lsm=lockdown,yama,apparmor,bpf`"),
            ("notbpf,bpf2", Level::Tracepoint, "`lsm=notbpf,bpf2,bpf`"),
            ("", Level::Tracepoint, "`lsm=bpf`"),
        ] {
            let (found, reason) = of(&Ok(list.to_owned()));
            assert_eq!(found, level, "{list}");
            assert!(reason.contains(hint), "{list}: {reason}");
            assert_eq!(reason.is_empty(), level == Level::Lsm, "{list}: {reason}");
        }
    }

    #[test]
    fn a_list_that_cannot_be_read_is_never_taken_for_an_active_lsm() {
        for kind in [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied, io::ErrorKind::InvalidData] {
            let (level, reason) = of(&Err(kind.into()));
            assert_eq!(level, Level::Tracepoint);
            assert!(reason.contains(ACTIVE) && reason.contains("mount securityfs"), "{reason}");
        }
    }
}
