//! What held a command back: the table of protections, and each rule that blocks something.

use super::{Line, RenderOptions, Role, escape, paragraph};
use crate::model::{Held, Protection, ProtectionRow, ProtectionState, best_holds};

/// Nothing where there was no policy.
pub(super) fn lines(protection: &Protection, options: &RenderOptions) -> Vec<Line> {
    let mut lines = Vec::new();
    for row in &protection.table {
        lines.extend(paragraph(&row_words(row), role(row.state), options));
    }
    // What one mechanism does not hold, another one may.
    let best = best_holds(&protection.rules);
    let of = |held| best.iter().filter(move |hold| hold.held == held);
    let whole: Vec<_> = of(Held::Whole).map(|hold| escape(hold.rule.as_bytes())).collect();
    if !whole.is_empty() {
        lines.extend(paragraph(&format!("Rules held: {}.", whole.join(", ")), Role::Plain, options));
    }
    for (held, words) in [(Held::Part, "held in part"), (Held::Nothing, "not held")] {
        for hold in of(held) {
            let reasons = escape(hold.reasons.join("; ").as_bytes());
            let text = format!("Rule {words}: {}: {reasons}.", escape(hold.rule.as_bytes()));
            lines.extend(paragraph(&text, Role::Warning, options));
        }
    }
    lines
}

fn row_words(row: &ProtectionRow) -> String {
    let mut words = format!("{}: {}", escape(row.name.as_bytes()), row.state.as_str());
    if row.verified {
        words.push_str(", tried");
    }
    if !row.reason.is_empty() {
        words.extend([" (", &escape(row.reason.as_bytes()), ")"]);
    }
    words
}

fn role(state: ProtectionState) -> Role {
    match state {
        ProtectionState::Enforced => Role::Plain,
        ProtectionState::Degraded => Role::Warning,
        ProtectionState::Off => Role::Dim,
    }
}
