//! Patterns of a policy's own for texts: all of them are looked for in one pass, and those that are there in another.
//! Sizes are limited, so that the time is linear in the text whatever is written.

use std::ops::Range;

use regex::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

use super::MATCHES_MAX;
use crate::policy::{
    problem::Problems,
    rule::{At, Policy},
};

/// Bytes of one compiled pattern.
const SIZE_MAX: usize = 256 << 10;
/// Bytes of all of them together.
const SET_SIZE_MAX: usize = 4 << 20;

/// A pattern as it was written, and compiled.
#[derive(Clone, Debug)]
pub struct TextPattern {
    /// As it was written.
    pub text: String,
    regex: Regex,
}

impl TextPattern {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Self, (String, &'static str)> {
        let built = RegexBuilder::new(text).size_limit(SIZE_MAX).dfa_size_limit(SIZE_MAX).build();
        let regex = built.map_err(|err| match err {
            regex::Error::CompiledTooBig(_) => {
                (format!("pattern {text:?} is too large"), "use fewer or smaller repetitions")
            }
            regex::Error::Syntax(said) => {
                let why = said.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                (
                    format!("{text:?} is no pattern: {why}"),
                    "the syntax is that of Rust's regex crate, without look-around",
                )
            }
            other => (format!("{text:?} is no pattern: {other}"), ""),
        })?;
        if regex.is_match("") {
            return Err((format!("pattern {text:?} matches where nothing is"), "use + instead of *"));
        }
        Ok(Self { text: text.to_owned(), regex })
    }

    /// Where it is in a text.
    pub(super) fn ranges(&self, text: &str) -> impl Iterator<Item = Range<usize>> {
        self.regex.find_iter(text).map(|found| found.range()).take(MATCHES_MAX)
    }
}

/// All patterns of a policy, in the order of its rules.
#[derive(Clone, Debug, Default)]
pub struct TextPatterns {
    set: RegexSet,
    patterns: Vec<TextPattern>,
}

impl TextPatterns {
    /// Of the rules of a policy.
    pub(in crate::policy) fn new(policy: &Policy, problems: &mut Problems) -> Self {
        let all: Vec<&At<TextPattern>> =
            policy.rules.iter().flat_map(|rule| &rule.matches.patterns).collect();
        let texts = all.iter().map(|pattern| pattern.value.text.as_str());
        let built = RegexSetBuilder::new(texts).size_limit(SET_SIZE_MAX).dfa_size_limit(SET_SIZE_MAX).build();
        match (built, all.last()) {
            (Ok(set), _) => {
                Self { set, patterns: all.into_iter().map(|pattern| pattern.value.clone()).collect() }
            }
            (Err(_), Some(last)) => {
                problems.at(&last.at, "all patterns together are too large", "use fewer or smaller ones");
                Self::default()
            }
            (Err(_), None) => Self::default(),
        }
    }

    /// Numbers of those that are in a text.
    pub(super) fn matching(&self, text: &str) -> Vec<usize> {
        self.set.matches(text).into_iter().collect()
    }

    pub(super) fn get(&self, number: usize) -> Option<&TextPattern> {
        self.patterns.get(number)
    }
}
