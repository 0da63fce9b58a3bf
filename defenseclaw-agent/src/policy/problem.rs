//! What is wrong with a policy, where, and what to do about it. Knows positions in texts, not what policies mean.

use std::{error::Error, fmt, sync::Arc};

use serde::Serialize;

/// Longest part of a line that is shown.
const SNIPPET_MAX: usize = 120;
/// Problems that are kept; more do not help anybody.
const PROBLEMS_MAX: usize = 100;

/// A text that policy was read from.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// File or preset.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// A place in a [`Source`].
#[derive(Clone, Debug)]
pub struct Position {
    /// Which one.
    pub source: Arc<Source>,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

impl Position {
    /// The line it is in, cut around it, and how many characters stand before it there.
    fn snippet(&self) -> (String, usize) {
        let line = self.source.text.lines().nth(self.line.saturating_sub(1)).unwrap_or_default();
        let at = self.column.saturating_sub(1);
        let cut = at.saturating_sub(SNIPPET_MAX / 2);
        (line.chars().skip(cut).take(SNIPPET_MAX).collect(), at - cut)
    }
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// File or preset; empty if it is in no file.
    pub source: String,
    /// From 1; 0 if it is in no file.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The line, or what is left of it.
    pub snippet: String,
    /// Characters of the snippet before the mistake.
    pub indent: usize,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl Problem {
    /// A mistake at a place.
    pub fn at(at: &Position, message: impl Into<String>, hint: impl Into<String>) -> Self {
        let (snippet, indent) = at.snippet();
        Self {
            source: at.source.name.clone(),
            line: at.line,
            column: at.column,
            snippet,
            indent,
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// A mistake in what policy is applied to.
    pub fn nowhere(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            source: String::new(),
            line: 0,
            column: 0,
            snippet: String::new(),
            indent: 0,
            message: message.into(),
            hint: hint.into(),
        }
    }
}

/// One line, for logs. `cli` shows the snippet as well.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}:{}: ", self.source, self.line, self.column)?;
        }
        f.write_str(&self.message)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "; {}", self.hint) }
    }
}

impl Error for Problem {}

/// Where mistakes are gathered, so that all are said at once.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    found: Vec<Problem>,
    more: usize,
}

impl Problems {
    pub(crate) fn add(&mut self, problem: Problem) {
        if self.has_room() {
            self.found.push(problem);
        }
    }

    pub(crate) fn at(&mut self, at: &Position, message: impl Into<String>, hint: impl Into<String>) {
        // Finding the snippet reads the text up to there: not for what nobody will see.
        if self.has_room() {
            self.found.push(Problem::at(at, message, hint));
        }
    }

    fn has_room(&mut self) -> bool {
        let room = self.found.len() < PROBLEMS_MAX;
        self.more += usize::from(!room);
        room
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// `good` if nothing was found.
    pub(crate) fn or<T>(mut self, good: T) -> Result<T, Vec<Problem>> {
        if self.is_empty() {
            return Ok(good);
        }
        self.found.sort_by(|a, b| (&a.source, a.line, a.column).cmp(&(&b.source, b.line, b.column)));
        if self.more > 0 {
            self.found.push(Problem::nowhere(format!("and {} more", self.more), ""));
        }
        Err(self.found)
    }
}
