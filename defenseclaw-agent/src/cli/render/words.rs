//! Numbers, times, results and signals in words.

use nix::{errno::Errno, sys::signal::Signal};

use crate::report::Outcomes;

/// A duration in at most seven columns.
pub(super) fn duration(ns: u64) -> String {
    let ms = ns / 1_000_000;
    let (seconds, minutes, hours) = (ms / 1000, ms / 60_000, ms / 3_600_000);
    match ms {
        0 => "<1ms".to_owned(),
        1..1000 => format!("{ms}ms"),
        1000..10_000 => format!("{seconds}.{:02}s", ms % 1000 / 10),
        10_000..60_000 => format!("{seconds}.{}s", ms % 1000 / 100),
        60_000..3_600_000 => format!("{minutes}m {:02}s", seconds % 60),
        3_600_000..86_400_000 => format!("{hours}h {:02}m", minutes % 60),
        _ if hours / 24 < 1000 => format!("{}d {:02}h", hours / 24, hours % 24),
        _ => format!("{}d", hours / 24),
    }
}

/// A time since the start.
pub(super) fn offset(ns: u64) -> String {
    if ns < 1_000_000 { "+0ms".to_owned() } else { format!("+{}", duration(ns)) }
}

/// A number with separators: `12,345`.
pub(super) fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 file`, `2 files`.
pub(super) fn count(n: u64, what: &str) -> String {
    let plural = match what.strip_suffix('s') {
        Some(_) => "es",
        None => "s",
    };
    format!("{} {what}{}", number(n), if n == 1 { "" } else { plural })
}

/// `× 3`; nothing for one.
pub(super) fn times(n: u64) -> String {
    if n > 1 { format!("× {}", number(n)) } else { String::new() }
}

/// What an errno means.
pub(super) fn errno(number: i64) -> String {
    let known = i32::try_from(number).map_or(Errno::UnknownErrno, Errno::from_raw);
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others have good words of their own")]
    match known {
        Errno::UnknownErrno => format!("error {number}"),
        Errno::ECONNREFUSED => "refused".to_owned(),
        Errno::ETIMEDOUT => "timed out".to_owned(),
        Errno::ENETUNREACH => "network unreachable".to_owned(),
        Errno::EHOSTUNREACH => "host unreachable".to_owned(),
        _ => known.desc().to_ascii_lowercase(),
    }
}

/// Name of a signal.
pub(super) fn signal(number: u32) -> String {
    match i32::try_from(number).map(Signal::try_from) {
        Ok(Ok(signal)) => signal.as_str().to_owned(),
        _ => format!("signal {number}"),
    }
}

/// What failed, and how often if not always. A connect that goes on in the background has not failed.
pub(super) fn failures(outcomes: &Outcomes) -> Option<String> {
    let under_way =
        [Errno::EINPROGRESS, Errno::EALREADY, Errno::EINTR, Errno::EAGAIN].map(|errno| errno as i64);
    let failed: Vec<_> = outcomes.failed.iter().filter(|(errno, _)| !under_way.contains(errno)).collect();
    let all = matches!(failed[..], [(_, count)] if *count == outcomes.total());
    let words = failed.iter().map(|(number, n)| {
        if all { errno(**number) } else { format!("{} {}", self::number(**n), errno(**number)) }
    });
    let words: Vec<_> = words.collect();
    (!words.is_empty()).then(|| words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_seven_columns() {
        let cases = [
            (0, "<1ms"),
            (999_999_999, "999ms"),
            (1_000_000_000, "1.00s"),
            (9_999_999_999, "9.99s"),
            (12_340_000_000, "12.3s"),
            (72_000_000_000, "1m 12s"),
            (7_500_000_000_000, "2h 05m"),
            (400 * 86_400_000_000_000, "400d 00h"),
            (u64::MAX, "213503d"),
        ];
        for (ns, expected) in cases {
            assert_eq!(duration(ns), expected);
            assert!(expected.len() <= 8);
        }
    }

    #[test]
    fn numbers_and_plurals() {
        assert_eq!([0, 999, 1000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [(1, "process"), (2, "process"), (2, "file")].map(|(n, what)| count(n, what)),
            ["1 process", "2 processes", "2 files"]
        );
    }

    #[test]
    fn results() {
        assert_eq!([errno(111), errno(13), errno(-7)], ["refused", "permission denied", "error -7"]);
        assert_eq!([signal(9), signal(99)], ["SIGKILL", "signal 99"]);
        let mut outcomes = Outcomes { succeeded: 0, not_known: 0, failed: [(111, 2)].into() };
        assert_eq!(failures(&outcomes).unwrap(), "refused");
        outcomes.failed.insert(115, 1);
        assert_eq!(failures(&outcomes).unwrap(), "2 refused");
        outcomes.failed.remove(&111);
        assert_eq!(failures(&outcomes), None);
    }
}
