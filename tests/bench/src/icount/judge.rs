//! Results against the committed table and the budgets.

use std::{collections::BTreeMap, fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{Cost, Measured, operations::Operation};

/// Compare measured instructions with the table.
#[derive(Debug, clap::Args)]
pub(crate) struct Judge {
    /// The committed table
    #[arg(long)]
    table: PathBuf,
    /// Fail where a cost has grown or a budget is missed
    #[arg(long)]
    check: bool,
    /// Write the results to the table
    #[arg(long)]
    update: bool,
    /// Kernel and the file with its result
    #[arg(value_name = "KERNEL=FILE", required = true)]
    results: Vec<String>,
}

/// By kernel.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Table(BTreeMap<String, Measured>);

/// Growth of what watching adds that fails the check, in percent.
const GROWTH: u64 = 3;

/// What a key costs that the filter of an image wrongly takes for a known one. Which those are depends on a secret that is
/// drawn at each start; the more rules, the likelier.
const FALSE_HIT: u64 = 600;

/// Instructions that watching may add.
struct Budget {
    attached: Option<u64>,
    enrolled: u64,
    /// Under a policy that does not speak of it.
    judged: Option<u64>,
}

impl Budget {
    fn of(operation: Operation, cost: &Cost) -> Self {
        match operation {
            Operation::OpenClose => Self { attached: Some(320), enrolled: 1_500, judged: Some(1_500) },
            Operation::Connect => Self { attached: None, enrolled: 700, judged: None },
            // 1.5 % of the operation.
            Operation::Exec => Self { attached: None, enrolled: cost.detached * 15 / 1000, judged: None },
        }
    }
}

/// What watching adds to an operation may grow by this much: a share of itself, but at least what differs between
/// builds of one kernel, or for exec, whose page faults depend on the layout of memory, a part of the operation.
fn tolerance(operation: Operation, cost: &Cost, added: u64) -> u64 {
    let floor = match operation {
        Operation::OpenClose | Operation::Connect => 5,
        Operation::Exec => cost.detached / 1000,
    };
    (added * GROWTH / 100).max(floor)
}

/// How often a policy is asked.
fn lookups(operation: Operation) -> u64 {
    match operation {
        Operation::OpenClose | Operation::Connect => 1,
        // May it start, is it an owner, and what it maps.
        Operation::Exec => 3,
    }
}

/// Prints the comparison.
pub(crate) fn judge(arguments: &Judge) -> Result<ExitCode> {
    let mut table: Table = match fs::read(&arguments.table) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is no table", arguments.table.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Table::default(),
        Err(error) => return Err(error).context(format!("cannot read {}", arguments.table.display())),
    };
    let mut complaints = Vec::new();
    for result in &arguments.results {
        let (kernel, file) = result.split_once('=').context("expected KERNEL=FILE")?;
        let bytes = fs::read(file).with_context(|| format!("cannot read {file}"))?;
        let measured: Measured =
            serde_json::from_slice(&bytes).with_context(|| format!("{file} is no result"))?;
        show(kernel, &measured);
        complaints.extend(compare(kernel, &measured, table.0.get(kernel)));
        if arguments.update {
            table.0.insert(kernel.to_owned(), measured);
        }
    }
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    if arguments.update {
        let text = serde_json::to_string_pretty(&table)? + "\n";
        fs::write(&arguments.table, text)
            .with_context(|| format!("cannot write {}", arguments.table.display()))?;
        eprintln!("wrote {}", arguments.table.display());
    }
    Ok(if arguments.check && !complaints.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn show(kernel: &str, measured: &Measured) {
    println!("Linux {kernel} ({}), instructions per operation", measured.release);
    println!("{:12}{:>10}{:>20}{:>20}", "", "detached", "not enrolled", "enrolled");
    for (operation, cost) in &measured.operations {
        let added = |with: u64| format!("{with} ({:+})", with.cast_signed() - cost.detached.cast_signed());
        println!(
            "{:12}{:>10}{:>20}{:>20}",
            operation.name(),
            cost.detached,
            added(cost.attached),
            added(cost.enrolled)
        );
        for (rules, with) in &cost.judged {
            println!("{:12}{:>50}", "", format!("{rules} rules {}", added(*with)));
        }
    }
}

fn compare(kernel: &str, measured: &Measured, known: Option<&Measured>) -> Vec<String> {
    let mut complaints = Vec::new();
    for (&operation, cost) in &measured.operations {
        let name = operation.name();
        let budget = Budget::of(operation, cost);
        let before = known.and_then(|known| known.operations.get(&operation));
        if before.is_none() {
            complaints.push(format!("{kernel} {name}: not in the table"));
        }
        for (state, of, budget) in [
            ("not enrolled", (|cost: &Cost| cost.attached) as fn(&Cost) -> u64, budget.attached),
            ("enrolled", |cost| cost.enrolled, Some(budget.enrolled)),
        ] {
            let added = of(cost).saturating_sub(cost.detached);
            if let Some(budget) = budget.filter(|budget| added > *budget) {
                complaints
                    .push(format!("{kernel} {name}, {state}: adds {added}, over the budget of {budget}"));
            }
            let Some(before) = before else { continue };
            let then = of(before).saturating_sub(before.detached);
            if added > then + tolerance(operation, cost, then) {
                complaints.push(format!("{kernel} {name}, {state}: adds {added}, the table says {then}"));
            }
        }
        // Without false hits.
        let least = |cost: &Cost| Some(cost.judged.values().min()?.saturating_sub(cost.detached));
        let Some(judged) = least(cost) else { continue };
        if let Some(budget) = budget.judged.filter(|budget| judged > *budget) {
            complaints.push(format!("{kernel} {name}, policy: adds {judged}, over the budget of {budget}"));
        }
        if let Some(then) = before.and_then(least)
            && judged > then + tolerance(operation, cost, then)
        {
            complaints.push(format!("{kernel} {name}, policy: adds {judged}, the table says {then}"));
        }
        let most = cost.judged.values().max().copied().unwrap_or(0).saturating_sub(cost.detached);
        if most > judged + FALSE_HIT * lookups(operation) {
            complaints.push(format!(
                "{kernel} {name}: the number of rules changes what it costs, {judged} to {most}"
            ));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(detached: u64, attached: u64, enrolled: u64) -> Measured {
        let cost = Cost { detached, attached, enrolled, judged: BTreeMap::new() };
        Measured { release: "x".to_owned(), operations: [(Operation::OpenClose, cost)].into() }
    }

    #[test]
    fn growth_and_budgets_are_told_apart() {
        let table = measured(6000, 6200, 7000);
        for (now, complaints) in [
            (measured(6000, 6200, 7000), 0),
            // The kernel itself may change.
            (measured(6600, 6800, 7600), 0),
            (measured(6000, 6206, 7030), 0),
            (measured(6000, 6207, 7030), 1),
            (measured(6000, 6207, 7031), 2),
            // Less than nothing.
            (measured(6000, 5990, 7000), 0),
            (measured(6000, 6321, 7501), 4),
        ] {
            assert_eq!(compare("k", &now, Some(&table)).len(), complaints, "{now:?}");
        }
        assert_eq!(compare("k", &table, None), ["k open_close: not in the table"]);
    }

    #[test]
    fn a_policy_costs_the_same_with_more_rules_but_for_false_hits() {
        let judged = |operation, costs: [u64; 3]| {
            let mut measured = measured(6000, 6200, 7000);
            let mut cost = measured.operations.remove(&Operation::OpenClose).unwrap();
            cost.judged = [10, 100, 5_000].into_iter().zip(costs).collect();
            measured.operations.insert(operation, cost);
            measured
        };
        for (operation, costs, complaints) in [
            (Operation::OpenClose, [7400, 7400, 7400], 0),
            (Operation::OpenClose, [7400, 7400, 8000], 0),
            (Operation::OpenClose, [8000, 7400, 7400], 0),
            (Operation::OpenClose, [7400, 7400, 8001], 1),
            // Grown, and over the budget.
            (Operation::OpenClose, [7443, 7443, 7443], 1),
            (Operation::OpenClose, [7501, 7501, 7501], 2),
            // Without a budget of its own.
            (Operation::Connect, [7400, 7400, 7400], 1),
        ] {
            let table = judged(operation, [7400; 3]);
            let found = compare("k", &judged(operation, costs), Some(&table));
            assert_eq!(found.len(), complaints, "{operation:?} {costs:?}: {found:?}");
        }
    }
}
