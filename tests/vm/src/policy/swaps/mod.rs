//! Policies that replace each other while a tree works: no operation meets a mixture of two, and none meets nothing.

pub(super) mod load;
mod reload;
mod storm;

use std::{fmt::Write as _, fs, path::Path};

use anyhow::Result;
use defenseclaw::model::Level;
use libtest_mimic::Trial;
use load::Outcomes;

use super::of;
use crate::check::Setting;

pub(super) fn trials(setting: &Setting) -> Vec<Trial> {
    vec![
        of(setting, "policy/reloads of a run, some of them invalid", reload::reloads),
        of(setting, "policy/swaps under load", storm::swaps),
    ]
}

/// One of the two policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    A,
    B,
}

impl Which {
    fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// Port of an address that both block, that A blocks, that B blocks, and that none does.
const PORTS: [u16; 4] = [9101, 9102, 9103, 9104];

const ALL: &str = "file.read, file.write, file.create, file.delete, file.link, file.attr";

/// The two policies. Where each of them refuses an operation for another reason than the other, only a mixture could let
/// it pass; where each of them lets it pass for another reason, only a mixture could refuse it.
fn policy(which: Which, dir: &Path, level: Level) -> String {
    let d = dir.display();
    let [z, a, b, _] = PORTS;
    let own = if which == Which::A { a } else { b };
    let mut text = format!(
        "version: 1\nname: {which:?}\nsettings: {{unresolved: {}}}\nprofiles: [{{name: default, mode: action}}]\nrules:\n\
         \x20 - {{id: port, effect: net.connect, severity: high, reason: no, \
             match: {{addresses: [127.66.0.0/16, \"::1/128\"], ports: [{z}, {own}]}}}}\n",
        if level == Level::Lsm { "block" } else { "allow" },
    );
    if level != Level::Lsm {
        return text;
    }
    let mut rule = |id: &str, effects: &str, paths: &[&str], rest: &str| {
        let paths: Vec<String> = paths.iter().map(|path| format!("\"{d}/{path}\"")).collect();
        let paths = paths.join(", ");
        let _ = write!(text, "  - {{id: {id}, effect: [{effects}], severity: high, reason: no, ");
        let _ = writeln!(text, "match: {{paths: [{paths}]}}{rest}}}");
    };
    rule("both", ALL, &["z/**"], "");
    // Another list in each, so that the swap changes what the workers are members of.
    let owners = |first: &str| format!(", unless: {{executables: [\"{d}/bin/{first}\", \"{d}/bin/load\"]}}");
    match which {
        Which::A => {
            rule("first", ALL, &["x/**"], "");
            rule("reads", "file.read", &["rw"], "");
            rule("deep", ALL, &["deep/**"], "");
            rule("deep-exception", ALL, &["deep/er/f"], ", action: allow");
            rule("exact", ALL, &["exact/f"], "");
            rule("exact-around", ALL, &["exact/**"], ", action: allow");
            rule("spared", ALL, &["spared"], &owners("absent"));
            rule(
                "not-spared",
                ALL,
                &["not-spared"],
                &format!(", unless: {{executables: [\"{d}/bin/absent\"]}}"),
            );
        }
        Which::B => {
            rule("second", ALL, &["y/**"], "");
            rule("writes", "file.write", &["rw"], "");
            rule("exact-around", ALL, &["exact/**"], "");
            rule("spared", ALL, &["spared"], &owners("nobody"));
            rule(
                "not-spared",
                ALL,
                &["not-spared"],
                &format!(", unless: {{executables: [\"{d}/bin/nobody\"]}}"),
            );
        }
    }
    text
}

/// What the operations need.
fn prepare(dir: &Path) -> Result<()> {
    for name in ["bin", "x", "y", "z", "deep", "deep/er", "exact"] {
        fs::create_dir(dir.join(name))?;
    }
    for name in ["x/f", "y/f", "z/f", "rw", "deep/er/f", "exact/f", "spared", "not-spared"] {
        fs::write(dir.join(name), b"content\n")?;
    }
    super::kernel::place_program(&dir.join("bin/load"))
}

/// Nothing was judged by a mixture or not at all, and both policies were met.
fn check(outcomes: &Outcomes, level: Level) -> Result<()> {
    let wrong = outcomes.wrong(level);
    anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
