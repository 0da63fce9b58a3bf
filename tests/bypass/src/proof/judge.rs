//! What a run showed: for each attempt, whether it got its goal, found out without asking it.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, bail, ensure};

use super::audit::Record;
use crate::{
    arena::{Side, Tree, build::Built, snapshot},
    cases::{self, Case, HAPPENED, MINE, Proof},
    driver::Attempt,
};

/// The outcome of one attempt.
#[derive(Clone, Debug)]
pub(super) enum Got {
    /// What it was after.
    Goal,
    /// Nothing, and what it says about that.
    Refused(String),
    /// It could not be made on this machine.
    Unsupported(String),
}

/// Everything about one run.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) got: BTreeMap<(String, Tree, Side), (Attempt, Got)>,
    pub(super) impossible: BTreeMap<String, String>,
    pub(super) records: Vec<Record>,
    /// What went wrong with the run itself.
    pub(super) trouble: Option<String>,
}

impl Facts {
    fn of(&self, id: &str, tree: Tree, side: Side) -> Result<&(Attempt, Got)> {
        self.got
            .get(&(id.to_owned(), tree, side))
            .with_context(|| format!("no attempt of the tree {} on the object {side:?}", tree.name()))
    }

    pub(super) fn outside(&self, id: &str) -> Result<&Got> {
        Ok(&self.of(id, Tree::Outside, Side::Protected)?.1)
    }

    pub(super) fn twin(&self, id: &str) -> Result<&Got> {
        Ok(&self.of(id, Tree::Inside, Side::Open)?.1)
    }

    pub(super) fn protected(&self, id: &str) -> Result<&Got> {
        Ok(&self.of(id, Tree::Inside, Side::Protected)?.1)
    }

    /// The audit has a decision with this action, by one of these rules, from the time of the attempt.
    /// What was open at the start was judged then.
    pub(super) fn recorded(&self, case: &Case, action: &str, rules: &[String]) -> Result<()> {
        let (attempt, _) = self.of(case.id, Tree::Inside, Side::Protected)?;
        let in_time = |record: &&Record| {
            if case.inherits { record.handed } else { (attempt.began..=attempt.ended).contains(&record.time) }
        };
        let during: Vec<&Record> =
            self.records.iter().filter(in_time).filter(|record| record.action == action).collect();
        ensure!(
            !during.is_empty(),
            "the audit has no `{action}` from this time, but {:?}; {}",
            self.records
                .iter()
                .filter(in_time)
                .map(|record| (&record.action, &record.rules))
                .collect::<Vec<_>>(),
            attempt.complaint.trim()
        );
        let right = during
            .iter()
            .any(|record| rules.is_empty() || record.rules.iter().any(|rule| rules.contains(rule)));
        if !right {
            let named: Vec<&String> = during.iter().flat_map(|record| &record.rules).collect();
            bail!("the audit names {named:?} instead of {rules:?}");
        }
        Ok(())
    }
}

/// Looks at every object again and judges every attempt.
pub(super) fn judge(mut built: Built, attempts: Vec<(Tree, Attempt)>) -> Facts {
    let mut changed: BTreeMap<(String, Tree), bool> = BTreeMap::new();
    for (id, tree, victim) in std::mem::take(&mut built.victims) {
        changed.insert((id, tree), victim.was_changed());
    }
    let mut facts = Facts { impossible: std::mem::take(&mut built.impossible), ..Facts::default() };
    for (tree, attempt) in attempts {
        let Some(case) = cases::find(&attempt.id) else { continue };
        let key = (attempt.id.clone(), tree, attempt.side);
        let goal = match case.proof {
            Proof::Secret | Proof::Service => {
                built.secrets.get(&key).is_some_and(|secret| attempt.evidence.contains(secret))
            }
            Proof::Happened => attempt.evidence.contains(&*String::from_utf8_lossy(HAPPENED)),
            Proof::Changed => {
                let objects = built.arena.objects(case.class, case.id, tree, attempt.side);
                let subject = case.subject(&objects, attempt.side);
                built.before.get(&key).is_some_and(|before| *before != snapshot::take(&subject))
            }
            Proof::Planted => {
                let objects = built.arena.objects(case.class, case.id, tree, attempt.side);
                fs::read(case.subject(&objects, attempt.side)).is_ok_and(|content| content.ends_with(MINE))
            }
            Proof::Victim if attempt.side == Side::Open => attempt.victim_changed,
            Proof::Victim => changed.get(&(attempt.id.clone(), tree)).copied().unwrap_or(false),
        };
        let got = outcome(case, &attempt, goal);
        facts.got.insert(key, (attempt, got));
    }
    facts
}

fn outcome(case: &Case, attempt: &Attempt, goal: bool) -> Got {
    let says = || match (attempt.complaint.trim(), attempt.code) {
        ("", Some(code)) => format!("{}: exit code {code}, without its goal", case.id),
        ("", None) => format!("{}: ended by a signal", case.id),
        (complaint, _) => complaint.to_owned(),
    };
    if goal {
        Got::Goal
    } else if attempt.code == Some(cases::UNSUPPORTED.into()) {
        Got::Unsupported(says())
    } else {
        Got::Refused(says())
    }
}
