//! Late facts from /proc, for processes whose records were lost or never made. Always racy; the caller marks what it
//! takes from here as reconstructed.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
};

use crate::model::{ProcessKey, Text};

/// Nanoseconds of a clock tick of /proc, which is 100 Hz on every Linux architecture.
pub const TICK_NS: u64 = 10_000_000;

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
        ended: is_over(state),
    })
}

/// Whether this very process, not another one with its pid, is alive.
pub fn is_alive(process: ProcessKey) -> bool {
    process_facts(process.tgid)
        .is_some_and(|facts| !facts.ended && facts.start_ticks == process.start_ns / TICK_NS)
}

/// The real user of a pid.
pub fn user_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_ascii_whitespace().next()?.parse().ok()
}

/// Whether a process has the foreground of its terminal, and reads from and writes to that terminal.
pub fn is_at_terminal(pid: u32) -> bool {
    let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some(terminal) = parse_foreground(&stat) else { return false };
    let is_terminal = |fd: u32| {
        fs::metadata(format!("/proc/{pid}/fd/{fd}"))
            .is_ok_and(|found| found.file_type().is_char_device() && found.rdev() == terminal)
    };
    is_terminal(0) && is_terminal(1)
}

/// A process, and the pid of its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its start is in whole clock ticks.
    pub process: ProcessKey,
    /// Of its parent.
    pub ppid: u32,
}

/// Every process that has not ended. Whoever runs from the beginning of the call to its end is among them; the lists of
/// children that `/proc` has can miss those whose siblings end meanwhile.
pub fn processes() -> Vec<Parent> {
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(parent_of).collect()
}

/// One process that has not ended.
pub fn parent_of(tgid: u32) -> Option<Parent> {
    let (state, ppid, ticks) = parse_stat(&fs::read(format!("/proc/{tgid}/stat")).ok()?)?;
    let process = ProcessKey { tgid, start_ns: ticks * TICK_NS };
    (!is_over(state)).then_some(Parent { process, ppid })
}

fn is_over(state: u8) -> bool {
    matches!(state, b'Z' | b'X')
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

/// Device of the controlling terminal, if the process's group has its foreground.
fn parse_foreground(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    // State and parent come first, then: group, session, terminal, group in the foreground.
    let mut numbers = rest.split_ascii_whitespace().skip(2).map(str::parse::<i64>);
    let (group, _, terminal, foreground) =
        (numbers.next()?.ok()?, numbers.next()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
    // As the kernel packs it: twelve bits of the major number in the middle of those of the minor one.
    let packed = u64::try_from(terminal).ok().filter(|packed| *packed != 0)?;
    let (major, minor) = (packed >> 8 & 0xfff, packed & 0xff | packed >> 12 & 0xf_ff00);
    (group == foreground).then(|| nix::sys::stat::makedev(major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_the_foreground_is_at_its_terminal() {
        let stat = |group: i32, terminal: i32, foreground: i32| {
            format!("9 (a) b) S 1 {group} 7 {terminal} {foreground} 0 0").into_bytes()
        };
        assert_eq!(parse_foreground(&stat(9, 0x8803, 9)), Some(nix::sys::stat::makedev(0x88, 3)));
        assert_eq!(parse_foreground(&stat(9, 0x0010_8803, 9)), Some(nix::sys::stat::makedev(0x88, 0x103)));
        for other in [stat(9, 0x8803, 8), stat(9, 0, -1), stat(-1, 0, -1), b"9 (a".to_vec(), Vec::new()] {
            assert_eq!(parse_foreground(&other), None);
        }
    }

    #[test]
    fn a_hostile_name_does_not_shift_the_fields() {
        let stat = b"77 (a) R 1 2) S 42 77 77 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 1 0 987654 1 1";
        assert_eq!(parse_stat(stat), Some((b'S', 42, 987_654)));
        assert_eq!(parse_stat(b"77 (x S"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "tests may start processes")]
    fn a_child_is_among_all_processes() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let us = std::process::id();
        let found = processes().into_iter().find(|found| found.process.tgid == child.id()).unwrap();
        assert!(found.ppid == us && is_alive(found.process));
        assert_eq!(user_of(child.id()), user_of(us));
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn we_are_alive_and_our_successor_is_not() {
        let pid = std::process::id();
        let start_ns = process_facts(pid).unwrap().start_ticks * TICK_NS;
        assert!(is_alive(ProcessKey { tgid: pid, start_ns }));
        assert!(!is_alive(ProcessKey { tgid: pid, start_ns: start_ns + 10 * TICK_NS }));
    }
}
