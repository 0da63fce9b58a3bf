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

/// Instructions that watching may add.
struct Budget {
    attached: Option<u64>,
    enrolled: u64,
}

impl Budget {
    fn of(operation: Operation, cost: &Cost) -> Self {
        match operation {
            Operation::OpenClose => Self { attached: Some(320), enrolled: 1_500 },
            Operation::Connect => Self { attached: None, enrolled: 700 },
            // 1.5 % of the operation.
            Operation::Exec => Self { attached: None, enrolled: cost.detached * 15 / 1000 },
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
        for (rules, with) in &cost.judged {
            let added = with.saturating_sub(cost.detached);
            if added > budget.enrolled {
                let budget = budget.enrolled;
                complaints.push(format!(
                    "{kernel} {name}, {rules} rules: adds {added}, over the budget of {budget}"
                ));
            }
            if let Some(then) = before.and_then(|before| Some(before.judged.get(rules)? - before.detached))
                && added > then + tolerance(operation, cost, then)
            {
                complaints
                    .push(format!("{kernel} {name}, {rules} rules: adds {added}, the table says {then}"));
            }
        }
        let by_rules = || cost.judged.values().map(|with| with.saturating_sub(cost.detached));
        if let (Some(least), Some(most)) = (by_rules().min(), by_rules().max())
            && most > least + (least / 20).max(tolerance(operation, cost, least))
        {
            complaints.push(format!(
                "{kernel} {name}: the number of rules changes what it costs, {least} to {most}"
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
}
