//! Which rows of a process tree are shown: equal short-lived siblings become one row with a count, and what is too
//! wide, too deep or too long becomes a row that says how many processes it stands for.
//!
//! Nothing here recurses: a hostile tree is as deep as it likes.

use std::{
    cmp::Reverse,
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use crate::{model::ExitStatus, report::ProcessNode};

/// Siblings that live longer than this are never one row.
const SHORT_NS: u64 = 10_000_000_000;
/// Children shown per process, if there are more than [`CHILDREN_MAX`].
const CHILDREN_SHOWN: usize = 12;
const CHILDREN_MAX: usize = 16;
/// Deepest level shown.
const DEPTH_MAX: usize = 16;
/// Rows shown.
const ROWS_MAX: usize = 150;

/// A row, with its depth and whether it is the last one below its parent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Row {
    /// A process, or several equal ones: then the time is the sum. Without the end of one there is no time.
    Process { node: usize, times: u64, total_ns: Option<u64>, depth: usize, last: bool },
    /// Processes that are not shown.
    More { processes: u64, depth: usize, last: bool },
}

impl Row {
    pub(super) fn place(&self) -> (usize, bool) {
        match self {
            Self::Process { depth, last, .. } | Self::More { depth, last, .. } => (*depth, *last),
        }
    }
}

/// Rows for nodes in depth-first order with these commands; `full` shows every process.
pub(super) fn rows(nodes: &[ProcessNode], commands: &[String], full: bool) -> Vec<Row> {
    let forest = Forest::new(nodes, commands);
    let mut rows = Vec::new();
    let mut open = forest.siblings(0, nodes.len(), 0, full);
    // Processes that the rows stand for so far.
    let mut shown = 0;
    while let Some(row) = open.pop() {
        if !full && rows.len() >= ROWS_MAX {
            let total = u64::try_from(nodes.len()).unwrap_or(u64::MAX);
            rows.push(Row::More { processes: total.saturating_sub(shown), depth: 0, last: true });
            break;
        }
        match row {
            Row::More { processes, .. } => shown += processes,
            Row::Process { node, times, depth, .. } => {
                let size = forest.size(node);
                // The repetitions are never looked into; the first one is, below.
                shown += 1 + (times - 1) * size;
                let below = size - 1;
                if !full && depth >= DEPTH_MAX && below > 0 {
                    open.push(Row::More { processes: below, depth: depth + 1, last: true });
                } else {
                    open.extend(forest.siblings(node + 1, forest.end(node), depth + 1, full));
                }
            }
        }
        rows.push(row);
    }
    rows
}

/// Ends and equality of subtrees.
struct Forest<'a> {
    nodes: &'a [ProcessNode],
    /// Position after the last descendant.
    ends: Vec<usize>,
    /// Equal for subtrees that look the same. Keyed at random, so that nobody can make different ones collide.
    signatures: Vec<u64>,
}

impl<'a> Forest<'a> {
    fn new(nodes: &'a [ProcessNode], commands: &[String]) -> Self {
        let mut forest =
            Self { nodes, ends: vec![nodes.len(); nodes.len()], signatures: vec![0; nodes.len()] };
        let hasher = RandomState::new();
        // From the last to the first: children are known before their parent.
        let mut open: Vec<usize> = Vec::new();
        for (index, node) in nodes.iter().enumerate().rev() {
            let mut children = Vec::new();
            while let Some(child) =
                open.pop_if(|child| nodes.get(*child).is_some_and(|c| c.depth > node.depth))
            {
                children.push(forest.signatures.get(child).copied());
            }
            let end = open.last().copied().unwrap_or(nodes.len());
            open.push(index);
            let foldable = node.duration_ns.is_some_and(|ns| ns < SHORT_NS);
            let unique = if foldable { None } else { Some(index) };
            let flags = (node.uid, node.fork_lost, node.reconstructed);
            let signature = hasher.hash_one((commands.get(index), node.exit, unique, flags, children));
            if let (Some(e), Some(s)) = (forest.ends.get_mut(index), forest.signatures.get_mut(index)) {
                (*e, *s) = (end, signature);
            }
        }
        forest
    }

    fn end(&self, node: usize) -> usize {
        self.ends.get(node).copied().unwrap_or(self.nodes.len())
    }

    fn size(&self, node: usize) -> u64 {
        u64::try_from(self.end(node) - node).unwrap_or(u64::MAX)
    }

    /// Rows of the siblings from `first` on, the last one first.
    fn siblings(&self, first: usize, end: usize, depth: usize, full: bool) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        let mut equal: HashMap<u64, usize> = HashMap::new();
        let mut next = first;
        while next < end {
            let (node, signature) = (next, self.signatures.get(next).copied().unwrap_or_default());
            next = self.end(node);
            let duration = self.nodes.get(node).and_then(|node| node.duration_ns);
            let known = if full { None } else { equal.get(&signature).and_then(|row| rows.get_mut(*row)) };
            if let Some(Row::Process { times, total_ns, .. }) = known {
                *times += 1;
                *total_ns = total_ns.zip(duration).map(|(total, ns)| total.saturating_add(ns));
            } else {
                equal.insert(signature, rows.len());
                rows.push(Row::Process { node, times: 1, total_ns: duration, depth, last: false });
            }
        }
        if !full && rows.len() > CHILDREN_MAX {
            let processes = self.hide_dull(&mut rows);
            rows.push(Row::More { processes, depth, last: false });
        }
        if let Some(Row::Process { last, .. } | Row::More { last, .. }) = rows.last_mut() {
            *last = true;
        }
        rows.reverse();
        rows
    }

    /// Keeps those that failed or still run, then those with the most descendants. Returns how many processes the
    /// others stand for.
    fn hide_dull(&self, rows: &mut Vec<Row>) -> u64 {
        let dullness = |row: &Row| match row {
            Row::Process { node, .. } => {
                let exit = self.nodes.get(*node).and_then(|node| node.exit);
                (exit == Some(ExitStatus::Code(0)), Reverse(self.size(*node)), *node)
            }
            Row::More { .. } => (true, Reverse(0), 0),
        };
        let mut ranks: Vec<_> = rows.iter().map(dullness).collect();
        ranks.sort_unstable();
        let limit = ranks.get(CHILDREN_SHOWN).copied();
        let mut hidden = 0;
        rows.retain(|row| {
            let stays = limit.is_none_or(|limit| dullness(row) < limit);
            if let (false, Row::Process { node, times, .. }) = (stays, row) {
                hidden += times * self.size(*node);
            }
            stays
        });
        hidden
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::report::sample::{any_rows, report};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn rows_stand_for_every_process(records in any_rows(), full: bool, equal: bool) {
            let nodes = report(&records).processes.nodes;
            let commands: Vec<String> = (0..nodes.len()).map(|n| if equal { 0 } else { n }.to_string()).collect();
            let forest = Forest::new(&nodes, &commands);
            let rows = rows(&nodes, &commands, full);
            if full {
                prop_assert_eq!(rows.len(), nodes.len());
            }
            let mut total = 0;
            for row in &rows {
                total += match row {
                    Row::Process { node, times, .. } => 1 + (times - 1) * forest.size(*node),
                    Row::More { processes, .. } => *processes,
                };
            }
            prop_assert_eq!(total, nodes.len() as u64);
        }
    }
}
