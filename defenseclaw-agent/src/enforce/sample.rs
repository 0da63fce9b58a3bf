//! Policies for tests.

use crate::{
    model::{Effects, PolicyAction, Severity},
    policy::image::{Entry, Image, PathKey, PathPattern, PathRow, Reach, RuleInfo},
};

/// Blocks reading, as rule `rule`.
pub(crate) fn entry(rule: u16) -> Entry {
    Entry {
        effects: Effects::FILE_READ,
        rule,
        action: PolicyAction::Block,
        raw_action: PolicyAction::Block,
        would_block: false,
        kill: false,
        unless: None,
    }
}

pub(crate) fn anchored(path: &str) -> PathKey {
    PathKey::Anchored(
        path.split('/').filter(|part| !part.is_empty()).map(|part| part.as_bytes().to_vec()).collect(),
    )
}

pub(crate) fn row(path: &str, reach: Reach, entries: Vec<Entry>) -> PathRow {
    PathRow { pattern: PathPattern { key: anchored(path), reach }, entries }
}

/// One rule for each path, which blocks reading it.
pub(crate) fn blocking(paths: &[&str]) -> Image {
    let mut image = Image::default();
    for path in paths {
        let rule = u16::try_from(image.rules.len()).unwrap();
        image.rules.push(RuleInfo {
            id: format!("rule-{path}"),
            severity: Severity::High,
            reason: String::new(),
        });
        image.paths.push(row(path, Reach::Subtree, vec![entry(rule)]));
    }
    image
}
