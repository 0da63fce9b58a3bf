//! `cargo xtask tidy`: the rules of the source tree that no compiler checks.
//!
//! This file finds the files and reports; `lexer` and `paths` read Rust, `rules` judges one file, `rooms` is the
//! import table, `bypass` holds the catalogue of bypass techniques against its cases and the threat model.

mod bypass;
mod lexer;
mod paths;
mod rooms;
mod rules;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::{process, workspace};

pub(crate) fn perform() -> Result<ExitCode> {
    let mut findings = Vec::new();
    let mut lengths: Vec<(usize, String)> = Vec::new();
    let mut cases = String::new();
    for path in source_files()? {
        let full = workspace::root().join(&path);
        // A tracked file may be deleted in the working tree; what is no text has no lines to check.
        let Ok(bytes) = fs::read(&full) else { continue };
        let Ok(text) = String::from_utf8(bytes) else { continue };
        findings.extend(rules::any_file(&path, &text));
        if path.starts_with(bypass::CASES) {
            cases.push_str(&text);
        }
        if Path::new(&path).extension().is_some_and(|extension| extension == "rs") {
            findings.extend(rules::rust_file(&path, &text));
            lengths.push((rules::product_lines(&path, &text), path));
        } else if path.starts_with("defenseclaw-ebpf/shim/") {
            findings.extend(rules::shim_file(&path, &text));
        }
    }
    let read = |path: &str| fs::read_to_string(workspace::root().join(path)).unwrap_or_default();
    findings.extend(bypass::check(&read(bypass::CATALOGUE), &cases, &read(bypass::THREAT_MODEL)));
    if lengths.is_empty() {
        bail!("found no Rust file in {}", workspace::root().display());
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    lengths.sort();
    let median = lengths.get(lengths.len() / 2).map_or(0, |(length, _)| *length);
    let longest = lengths.last().map_or(String::new(), |(length, path)| format!("{length} in {path}"));
    eprintln!(
        "tidy: {} findings; {} Rust files, median {median} lines, longest {longest}",
        findings.len(),
        lengths.len()
    );
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Tracked files, and new ones that are not ignored.
fn source_files() -> Result<Vec<String>> {
    let root = workspace::root().to_string_lossy();
    let arguments =
        ["-C", &*root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"];
    let listing = process::read("git", &arguments).context("tidy asks git for the files")?;
    Ok(listing.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect())
}
