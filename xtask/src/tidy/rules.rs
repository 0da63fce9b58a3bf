//! The rules, each as a function of one file's path and text.

use std::fmt;
use std::path::Path;

use super::lexer::{self, Kind, Token};
use super::paths::{self, NamedPath};
use super::rooms::{self, Room};

/// Lines a file may have; tests do not count.
const LINE_CAP: usize = 800;
/// Files that may be longer, with the reason.
const LONG_FILES: [(&str, &str); 0] = [];
/// File names that say nothing about what is in the file.
const EMPTY_NAMES: [&str; 6] = ["utils", "util", "helpers", "helper", "common", "misc"];
/// Macros for output; [`may_print`] says who may use them.
const PRINTS: [&str; 5] = ["println", "eprintln", "print", "eprint", "dbg"];
/// Macros that stand for code that is not there.
const GAPS: [&str; 2] = ["todo", "unimplemented"];
/// Directories of single machines, which mean nothing anywhere else.
const MACHINE_DIRECTORIES: [&str; 2] = ["work", "farm"];

/// A broken rule.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    path: String,
    line: usize,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.path, self.line, self.message)
    }
}

pub(super) fn finding(path: &str, line: usize, message: impl Into<String>) -> Finding {
    Finding { path: path.to_owned(), line, message: message.into() }
}

/// Rules for every text file.
pub(super) fn any_file(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if MACHINE_DIRECTORIES.iter().any(|directory| names_root_directory(line, directory)) {
            findings.push(finding(
                path,
                number,
                "names a directory of some machine; use a path that means something elsewhere",
            ));
        }
    }
    findings
}

/// Whether the line has `/directory/` where a path starts.
fn names_root_directory(line: &str, directory: &str) -> bool {
    let needle = format!("/{directory}/");
    let in_path = |character: char| character.is_alphanumeric() || "._-~}/*".contains(character);
    line.match_indices(&needle).any(|(at, _)| !line.get(..at).unwrap_or_default().ends_with(in_path))
}

/// Rules for C files of the shim.
pub(super) fn shim_file(path: &str, text: &str) -> Vec<Finding> {
    let first = text.lines().next().unwrap_or_default();
    let has_header = first.starts_with("//") || first.starts_with("/*");
    if has_header {
        Vec::new()
    } else {
        vec![finding(path, 1, "has no comment on top that says what the file is for")]
    }
}

/// Rules for Rust files.
pub(super) fn rust_file(path: &str, text: &str) -> Vec<Finding> {
    let tokens = lexer::tokens(text);
    let tests_from = tests_from(path, &tokens);
    let mut findings = Vec::new();
    if !text.trim_start().starts_with("//!") {
        findings.push(finding(path, 1, "has no `//!` on top that says what the file is for"));
    }
    let name = Path::new(path).file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    if EMPTY_NAMES.contains(&name) {
        findings.push(finding(path, 1, "is named after nothing; name it after what is in it"));
    }
    let lines = product_lines(path, text);
    if lines > LINE_CAP && !LONG_FILES.iter().any(|(long, _)| *long == path) {
        findings.push(finding(
            path,
            LINE_CAP,
            format!("has {lines} lines, more than {LINE_CAP}; split it by concept"),
        ));
    }
    findings.extend(macros(path, &tokens, tests_from));
    findings.extend(imports(path, &paths::named_paths(&tokens)));
    findings
}

/// Lines that are not tests.
pub(super) fn product_lines(path: &str, text: &str) -> usize {
    tests_from(path, &lexer::tokens(text)).map_or_else(|| text.lines().count(), |line| line.saturating_sub(1))
}

/// First line of a file's tests: by convention, they come last.
fn tests_from(path: &str, tokens: &[Token<'_>]) -> Option<usize> {
    let is_test_file = path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs");
    if is_test_file {
        return Some(1);
    }
    let attribute = [
        Kind::Mark('#'),
        Kind::Mark('['),
        Kind::Name("cfg"),
        Kind::Mark('('),
        Kind::Name("test"),
        Kind::Mark(')'),
    ];
    let start =
        tokens.windows(attribute.len()).find(|window| window.iter().map(|token| token.kind).eq(attribute))?;
    start.first().map(|token| token.line)
}

fn macros(path: &str, tokens: &[Token<'_>], tests_from: Option<usize>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for pair in tokens.windows(2) {
        let [Token { line, kind: Kind::Name(name) }, Token { kind: Kind::Mark('!'), .. }] = pair else {
            continue;
        };
        let in_tests = tests_from.is_some_and(|from| *line >= from);
        if GAPS.contains(name) {
            findings.push(finding(path, *line, format!("has {name}!; build it or leave it out")));
        } else if PRINTS.contains(name) && !in_tests && !may_print(path) {
            findings.push(finding(path, *line, format!("has {name}!; only cli/output.rs prints")));
        }
    }
    findings
}

/// Build scripts print to talk to cargo, the task runner to a person.
fn may_print(path: &str) -> bool {
    path == "defenseclaw-agent/src/cli/output.rs" || path.starts_with("xtask/") || path.ends_with("/build.rs")
}

fn imports(path: &str, named: &[NamedPath<'_>]) -> Vec<Finding> {
    let Some(name) = rooms::of_file(path) else { return Vec::new() };
    let Some(room) = rooms::find(name) else {
        return vec![finding(
            path,
            1,
            format!("room {name} is not in the import table (xtask/src/tidy/rooms.rs)"),
        )];
    };
    let mut findings = Vec::new();
    for named in named {
        let written = named.parts.join("::");
        if let Some(target) = imported_room(path, named)
            && target != room.name
            && !room.imports.contains(&target)
        {
            let allowed =
                if room.imports.is_empty() { "nothing".to_owned() } else { room.imports.join(", ") };
            findings.push(finding(path, named.line, format!("{written}: room {name} may import {allowed}")));
        }
        if named.is_in("defenseclaw_ebpf") && !rooms::ABI_ROOMS.contains(&name) {
            let message =
                format!("{written}: only rooms {} speak the kernel ABI", rooms::ABI_ROOMS.join(" and "));
            findings.push(finding(path, named.line, message));
        }
        if room.pure && rooms::IMPURE.iter().any(|prefix| named.is_in(prefix)) {
            findings.push(finding(
                path,
                named.line,
                format!("{written}: room {name} is pure: no I/O and no clock"),
            ));
        }
    }
    findings
}

/// The room that a path leads to, from the crate's root or by climbing up to it.
fn imported_room(path: &str, named: &NamedPath<'_>) -> Option<&'static str> {
    let climbs = named.parts.iter().take_while(|part| **part == "super").count();
    let position = if named.is_in("crate") {
        1
    } else if climbs >= depth(path) {
        climbs
    } else {
        return None;
    };
    let target = named.parts.get(position)?;
    let room: &Room = rooms::find(target)?;
    Some(room.name)
}

/// How many `super` lead from a file of the agent to the crate's root.
fn depth(path: &str) -> usize {
    let inner = path.strip_prefix("defenseclaw-agent/src/").unwrap_or(path);
    let inner = inner.strip_suffix("/mod.rs").unwrap_or(inner);
    inner.split('/').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "defenseclaw-agent/src/tree/fork.rs";

    fn messages(path: &str, text: &str) -> Vec<String> {
        let mut findings = rust_file(path, text);
        findings.extend(any_file(path, text));
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn good_files_pass() {
        for (path, text) in [
            (
                TREE,
                "//! Forks.\nuse crate::model::{Event, ProcessKey};\nuse super::node::Node;\nuse std::time::Duration;\n",
            ),
            (TREE, "//! Not `println!` or crate::store.\nconst A: &str = \"println!(crate::store)\";\n"),
            ("defenseclaw-agent/src/sensor/decode.rs", "//! Decodes.\nuse defenseclaw_ebpf::Header;\n"),
            ("defenseclaw-agent/src/runtime/mod.rs", "//! All.\nuse crate::{sensor, launcher::Child};\n"),
            ("defenseclaw-agent/src/cli/output.rs", "//! Prints.\nfn f() { println!(\"x\"); }\n"),
            ("defenseclaw-agent/src/lib.rs", "//! Rooms.\npub mod store;\npub use crate::store::Store;\n"),
            (TREE, "//! Tests may print.\n#[cfg(test)]\nmod tests { fn f() { println!(\"x\"); } }\n"),
            (TREE, "//! A part of this room.\nuse super::report::Lines;\n"),
            ("tests/vm/src/main.rs", "//! Suite.\nfn f() { println!(\"x\"); }\n"),
        ] {
            assert_eq!(messages(path, text), Vec::<String>::new(), "{path}: {text}");
        }
    }

    #[test]
    fn bad_files_are_named_with_their_line() {
        for (path, text, expected) in [
            (TREE, "use crate::model::Event;\n", ":1: has no `//!`"),
            (
                TREE,
                "//! x\nuse crate::{model::Event,\n    store::Row};\n",
                ":3: crate::store::Row: room tree may import model",
            ),
            (TREE, "//! x\nfn f(x: crate::pipeline::Input) {}\n", ":2: crate::pipeline::Input: room tree"),
            (TREE, "//! x\nuse super::super::sensor::Ring;\n", ":2: super::super::sensor::Ring: room tree"),
            (
                "defenseclaw-agent/src/tree/mod.rs",
                "//! x\nuse super::store::Row;\n",
                ":2: super::store::Row: room tree",
            ),
            (TREE, "//! x\nuse std::{fmt, fs::File};\n", ":2: std::fs::File: room tree is pure"),
            (
                TREE,
                "//! x\nfn f() { std::time::Instant::now(); }\n",
                ":2: std::time::Instant::now: room tree is pure",
            ),
            (TREE, "//! x\nuse tokio::sync::mpsc;\n", ":2: tokio::sync::mpsc: room tree is pure"),
            (TREE, "//! x\nuse defenseclaw_ebpf::Kind;\n", ":2: defenseclaw_ebpf::Kind: only rooms sensor"),
            (
                "defenseclaw-agent/src/cli/run.rs",
                "//! x\nuse crate::sensor::Ring;\n",
                ":2: crate::sensor::Ring: room cli",
            ),
            (
                "defenseclaw-agent/src/runtime/mod.rs",
                "//! x\nuse crate::cli::Arguments;\n",
                "room runtime may import",
            ),
            (
                "defenseclaw-agent/src/model/a.rs",
                "//! x\nuse crate::tree::Tree;\n",
                "room model may import nothing",
            ),
            ("defenseclaw-agent/src/oven/mod.rs", "//! x\n", "room oven is not in the import table"),
            (TREE, "//! x\nfn f() { todo!() }\n", ":2: has todo!"),
            (TREE, "//! x\n#[cfg(test)]\nmod t { fn f() { unimplemented!() } }\n", ":3: has unimplemented!"),
            (TREE, "//! x\nfn f() { eprintln!(\"x\"); }\n", ":2: has eprintln!; only cli/output.rs prints"),
            ("defenseclaw-agent/src/tree/utils.rs", "//! x\n", ":1: is named after nothing"),
        ] {
            let messages = messages(path, text);
            assert!(messages.iter().any(|message| message.contains(expected)), "{text}: {messages:?}");
        }
    }

    #[test]
    fn only_product_lines_count_against_the_cap() {
        let product = format!("//! x\n{}", "fn f() {}\n".repeat(LINE_CAP));
        assert!(messages(TREE, &product).concat().contains("has 801 lines"));
        let tested = format!("//! x\n#[cfg(test)]\nmod tests {{\n{}}}\n", "fn f() {}\n".repeat(LINE_CAP));
        assert_eq!(messages(TREE, &tested), Vec::<String>::new());
        assert_eq!(product_lines(TREE, &tested), 1);
        assert_eq!(product_lines("tests/vm/src/main.rs", &product), 0);
    }

    #[test]
    fn machine_directories_are_found_where_a_path_starts() {
        for (line, expected) in [
            ("cd /w0rk/x", true),
            ("\"/w0rk/x\"", true),
            ("tests/w0rk/x", false),
            ("/home/dev/w0rk/x", false),
            ("~/w0rk/x", false),
        ] {
            assert_eq!(names_root_directory(&line.replace('0', "o"), "work"), expected, "{line}");
        }
    }

    #[test]
    fn shims_have_a_header() {
        assert_eq!(shim_file("shim/x.c", "/* Accessors. */\nint x;\n"), Vec::new());
        assert_eq!(shim_file("shim/x.c", "int x;\n").len(), 1);
    }
}
