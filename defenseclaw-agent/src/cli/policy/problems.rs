//! Mistakes in a policy, with the line they are in.

use std::{error::Error, fmt, io};

use super::super::output::{self, Out, columns, escape};
use crate::policy::Problem;

/// A policy that cannot be used.
#[derive(Debug)]
pub(super) struct Broken(pub(super) Vec<Problem>);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the policy has {} mistakes", self.0.len())
    }
}

impl Error for Broken {}

pub(in crate::cli) fn print(problems: &[Problem], out: &mut Out) -> io::Result<()> {
    for problem in problems {
        out.line(&format!("{}: {}", output::bad("error"), escape(problem.message.as_bytes())))?;
        if problem.line > 0 {
            let number = problem.line.to_string();
            let margin = " ".repeat(number.len());
            let place = format!("{}:{}:{}", problem.source, problem.line, problem.column);
            // The mark stands below what was meant, so what stands before it is measured as it is shown.
            let before: String = problem.snippet.chars().take(problem.indent).collect();
            let indent = " ".repeat(columns(&escape(before.as_bytes())));
            out.line(&format!("{margin}{} {}", output::dim("-->"), escape(place.as_bytes())))?;
            let bar = output::dim("|");
            out.line(&format!("{} {bar} {}", output::dim(&number), escape(problem.snippet.as_bytes())))?;
            out.line(&format!("{margin} {bar} {indent}{}", output::bad("^")))?;
        }
        if !problem.hint.is_empty() {
            out.line(&format!("  {}: {}", output::strong("hint"), escape(problem.hint.as_bytes())))?;
        }
    }
    Ok(())
}
