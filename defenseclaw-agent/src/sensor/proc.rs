//! Late facts from /proc, for processes whose records were lost or never made. Always racy; the caller marks what it
//! takes from here as reconstructed.

use std::fs;

use crate::model::{ProcessKey, Text};

/// Nanoseconds of a clock tick of /proc, which is 100 Hz on every Linux architecture.
const TICK_NS: u64 = 10_000_000;

/// What /proc says of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcFacts {
    /// Parent pid.
    pub ppid: u32,
    /// Start in clock ticks since boot.
    pub start_ticks: u64,
    /// Executable, if it can be read.
    pub exe: Option<Text>,
    /// Arguments.
    pub argv: Vec<Text>,
    /// Waiting to be reaped: it has ended.
    pub ended: bool,
}

/// Facts of a pid, or none if there is no such process.
pub fn process_facts(pid: u32) -> Option<ProcFacts> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let (state, ppid, start_ticks) = parse_stat(&stat)?;
    let exe = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let argv = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    Some(ProcFacts {
        ppid,
        start_ticks,
        exe: exe.map(|path| Text(std::os::unix::ffi::OsStringExt::into_vec(path.into_os_string()))),
        argv: argv.split(|byte| *byte == 0).filter(|part| !part.is_empty()).map(Text::from).collect(),
        ended: matches!(state, b'Z' | b'X'),
    })
}

/// Whether this very process, not another one with its pid, is alive.
pub fn is_alive(process: ProcessKey) -> bool {
    process_facts(process.tgid)
        .is_some_and(|facts| !facts.ended && facts.start_ticks == process.start_ns / TICK_NS)
}

/// State, parent and start. The name may contain anything, so fields are counted from its last parenthesis.
fn parse_stat(stat: &[u8]) -> Option<(u8, u32, u64)> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let ppid = fields.next()?.parse().ok()?;
    // Field 22, counted from 1; two are consumed after the name, which is field 2.
    let start = fields.nth(17)?.parse().ok()?;
    Some((state, ppid, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_does_not_shift_the_fields() {
        let stat = b"77 (a) R 1 2) S 42 77 77 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 1 0 987654 1 1";
        assert_eq!(parse_stat(stat), Some((b'S', 42, 987_654)));
        assert_eq!(parse_stat(b"77 (x S"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn we_are_alive_and_our_successor_is_not() {
        let pid = std::process::id();
        let start_ns = process_facts(pid).unwrap().start_ticks * TICK_NS;
        assert!(is_alive(ProcessKey { tgid: pid, start_ns }));
        assert!(!is_alive(ProcessKey { tgid: pid, start_ns: start_ns + 10 * TICK_NS }));
    }
}
