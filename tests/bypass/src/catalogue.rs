//! The catalogue: what is known of each technique and what is expected of it. `cargo xtask tidy` checks it against the
//! cases and against `docs/threat-model.md`; the suite refuses to start if they do not fit.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde::Deserialize;

const TEXT: &str = include_str!("../catalogue.json");

/// What must become of a technique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Expected {
    /// It does not get its goal, and the audit names the rule.
    Blocked,
    /// It gets its goal, and the audit has an alert that names the rule.
    Detected,
    /// It gets its goal; `docs/threat-model.md` says why.
    StatedLimit,
}

/// At which level that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Needs {
    Lsm,
    Any,
}

/// As whom it is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Who {
    Root,
    User,
    Both,
}

/// One technique.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    pub(crate) id: String,
    /// What it does. For readers.
    #[serde(rename = "technique")]
    _technique: String,
    /// Who fell for it, or where it is described. For readers.
    #[serde(rename = "source")]
    _source: String,
    pub(crate) expected: Expected,
    pub(crate) level: Needs,
    pub(crate) who: Who,
    /// One of these must be named in the audit; if there is none, any will do.
    #[serde(default)]
    pub(crate) rules: Vec<String>,
}

impl Who {
    pub(crate) fn includes(self, root: bool) -> bool {
        self == Self::Both || (self == Self::Root) == root
    }
}

/// Every entry; each has a case, and each case has one.
pub(crate) fn load() -> Result<Vec<Entry>> {
    let entries: Vec<Entry> = serde_json::from_str(TEXT)?;
    let known: BTreeSet<&str> = entries.iter().map(|entry| entry.id.as_str()).collect();
    ensure!(known.len() == entries.len(), "an id stands twice in the catalogue");
    for entry in &entries {
        ensure!(crate::cases::find(&entry.id).is_some(), "{} has no case", entry.id);
    }
    for case in crate::cases::all() {
        ensure!(known.contains(case.id), "case {} is not in the catalogue", case.id);
    }
    Ok(entries)
}
