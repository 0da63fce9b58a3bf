//! Where a process sits: its terminal, and who else sits there. From `/proc`, so always racy: who asks about a process should
//! hold on to it meanwhile.

use std::fs;

use super::proc::TICK_NS;
use crate::model::ProcessKey;

/// Session and terminal of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its process group.
    pub group: u32,
    /// Pid of the leader of its session.
    pub leader: u32,
    /// Its controlling terminal and the process group in its foreground; none without a terminal.
    pub terminal: Option<(u64, u32)>,
}

/// The seat of a pid.
pub fn seat_of(pid: u32) -> Option<Seat> {
    parse(&fs::read(format!("/proc/{pid}/stat")).ok()?).map(|(seat, _)| seat)
}

/// Processes of a group at a terminal. Also those that have ended and were not reaped: their group is what it was.
pub fn seated(terminal: u64, group: u32) -> Vec<ProcessKey> {
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let found = pids.filter_map(|tgid| {
        let (seat, start_ns) = parse(&fs::read(format!("/proc/{tgid}/stat")).ok()?)?;
        let sits = seat.group == group && seat.terminal.is_some_and(|(at, _)| at == terminal);
        sits.then_some(ProcessKey { tgid, start_ns })
    });
    found.collect()
}

/// The seat, and the start. The name may contain anything, so fields are counted from its last parenthesis.
fn parse(stat: &[u8]) -> Option<(Seat, u64)> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Fields 5 to 8 and 22, counted from 1; the name is field 2.
    let field = |number: usize| fields.get(number - 3).copied();
    let group = field(5)?.parse().ok()?;
    let leader = field(6)?.parse().ok()?;
    let terminal = field(7)?.parse::<i64>().ok()?.cast_unsigned();
    let foreground = field(8)?.parse::<i64>().ok()?;
    let start_ns = field(22)?.parse::<u64>().ok()?.checked_mul(TICK_NS)?;
    // A terminal whose foreground belongs to nobody has -1 there.
    let foreground = u32::try_from(foreground).unwrap_or(0);
    let terminal = (terminal != 0).then_some((terminal, foreground));
    Some((Seat { group, leader, terminal }, start_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_does_not_move_anybody() {
        let seat = |group, leader, terminal| Seat { group, leader, terminal };
        for (stat, want) in [
            (
                &b"77 (a) R 1 2 3 4) S 42 70 60 34816 75 4194304 1 0 0 0 1 2 0 0 20 0 1 0 98 1 1"[..],
                Some((seat(70, 60, Some((34816, 75))), 98 * TICK_NS)),
            ),
            (
                b"7 (daemon) S 1 7 7 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 1 0 5 1 1",
                Some((seat(7, 7, None), 5 * TICK_NS)),
            ),
            (
                b"7 (x) S 1 7 7 1025 -1 4194304 1 0 0 0 1 2 0 0 20 0 1 0 5 1 1",
                Some((seat(7, 7, Some((1025, 0))), 5 * TICK_NS)),
            ),
            (b"7 (x) S 1 7", None),
            (b"7 (x S", None),
            (b"", None),
        ] {
            assert_eq!(parse(stat), want);
        }
    }

    #[test]
    fn we_sit_where_the_kernel_says() {
        let seat = seat_of(std::process::id()).unwrap();
        assert_eq!(seat.group, nix::unistd::getpgrp().as_raw().cast_unsigned());
        assert_eq!(seat.leader, nix::unistd::getsid(None).unwrap().as_raw().cast_unsigned());
        if let Some((terminal, _)) = seat.terminal {
            let found = seated(terminal, seat.group);
            assert!(found.iter().any(|found| found.tgid == std::process::id()));
        }
    }
}
