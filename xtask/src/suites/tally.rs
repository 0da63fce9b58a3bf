//! Counts tests from what a suite prints: the `test result:` lines of libtest and libtest-mimic.

use std::fmt;

/// Results of some tests. Shown as the last line of every run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) skipped: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// No test ran or was skipped.
    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Sums up as output comes in.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) counts: Counts,
    line: Vec<u8>,
}

impl Tally {
    /// Takes the next bytes, however they are cut.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.finish();
            } else {
                self.line.push(byte);
            }
        }
    }

    /// Takes a last line that had no end.
    pub(super) fn finish(&mut self) {
        if let Some(counts) = parse(&String::from_utf8_lossy(&self.line)) {
            self.counts.add(counts);
        }
        self.line.clear();
    }
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; ...`
fn parse(line: &str) -> Option<Counts> {
    let (_, results) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |word: &str| {
        let part = results.split(';').find_map(|part| part.trim().strip_suffix(word))?;
        part.trim().parse().ok()
    };
    Some(Counts { passed: number("passed")?, failed: number("failed")?, skipped: number("ignored")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_several_binaries_add_up_however_they_are_cut() {
        let output = b"running 4 tests\ntest a ... ok\n\ntest result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; \
            0 filtered out; finished in 0.01s\n\ntest result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 \
            filtered out; finished in 0.01s";
        for cut in 0..output.len() {
            let mut tally = Tally::default();
            tally.read(&output[..cut]);
            tally.read(&output[cut..]);
            tally.finish();
            assert_eq!(tally.counts.to_string(), "5 passed, 1 failed, 1 skipped");
        }
    }

    #[test]
    fn other_lines_do_not_count() {
        for line in [
            "test result",
            "5 passed; 0 failed; 0 ignored",
            "test result: ok. many passed; 0 failed; 0 ignored",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
