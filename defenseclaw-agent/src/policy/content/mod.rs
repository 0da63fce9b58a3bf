//! Texts of a conversation: what policy says of what is in them, and what of it may be kept. What is secret is taken out
//! of everything that is stored, whatever the policy says; what stays is enough to recognise it by.

mod detectors;
mod patterns;
mod redact;

use std::ops::Range;

use detectors::MATCHES_MAX;
pub use detectors::{Detector, Kind, Match, detect};
pub use patterns::{TextPattern, TextPatterns};
pub use redact::inspect;

use super::{
    image::Entry,
    session::{BoundRule, Session},
};
use crate::model::Content;

/// What a policy's own pattern has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnMatch {
    /// Number of the rule.
    pub(super) rule: usize,
    pub(super) ranges: Vec<Range<usize>>,
}

impl Session {
    /// Rules that speak of a text, the decisive one first. There is no order among them but strictness.
    pub fn content(&self, content: Content, text: &str) -> Vec<Entry> {
        self.texts(content, &detect(text), &self.own_matches(text))
    }

    pub(super) fn texts(&self, content: Content, found: &[Match], own: &[OwnMatch]) -> Vec<Entry> {
        let mut said: Vec<&BoundRule> = self
            .about(content)
            .filter(|(number, rule)| {
                found.iter().any(|found| rule.detectors.contains(&found.detector))
                    || own.iter().any(|own| own.rule == *number)
            })
            .map(|(_, rule)| rule)
            .collect();
        said.sort_by_key(|rule| std::cmp::Reverse(rule.weight()));
        said.into_iter().map(|rule| rule.entry).collect()
    }

    /// What patterns are in a text, also those of rules about other texts: what one must not hold, none should keep.
    pub(super) fn own_matches(&self, text: &str) -> Vec<OwnMatch> {
        let here = self.patterns.matching(text);
        let mut found = Vec::new();
        for (number, rule) in self.rules.iter().enumerate().filter(|_| !here.is_empty()) {
            let own = rule.patterns.clone().filter(|pattern| here.contains(pattern));
            let own = own.filter_map(|pattern| self.patterns.get(pattern));
            let ranges: Vec<_> = own.flat_map(|pattern| pattern.ranges(text)).collect();
            if !ranges.is_empty() {
                found.push(OwnMatch { rule: number, ranges });
            }
        }
        found
    }

    fn about(&self, content: Content) -> impl Iterator<Item = (usize, &BoundRule)> {
        self.rules.iter().enumerate().filter(move |(_, rule)| rule.contents.contains(&content))
    }
}

#[cfg(test)]
mod tests;
