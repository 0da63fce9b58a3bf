//! What a command is known to do beyond being run: programs that run their arguments, and programs whose operands
//! are files or addresses whatever their options. The list is short on purpose: a wrong guess would be a wrong block.

use super::{read, walk::Walk};
use crate::model::{Intent, Target};

/// Programs that run what follows, with the options that take no value.
const RUNNERS: [(&str, &[&str]); 9] = [
    ("builtin", &[]),
    ("command", &["-p"]),
    ("env", &["-i", "-"]),
    ("exec", &["-c", "-l"]),
    ("nohup", &[]),
    ("setsid", &["-f", "-w", "-c"]),
    ("stdbuf", &["-o0", "-oL", "-e0", "-eL", "-i0"]),
    ("sudo", &["-n", "-E", "-H", "-S", "-b", "-i", "-s"]),
    ("time", &["-p", "-v"]),
];
const SHELLS: [&str; 5] = ["bash", "sh", "dash", "zsh", "ksh"];

#[derive(Clone, Copy)]
enum Operands {
    Read,
    Write,
    Delete,
    /// The last is written, the others are read, and with `true` removed.
    To(bool),
}

/// Programs whose operands are files, with the options that take a value.
const FILES: [(&str, Operands, &[&str]); 20] = [
    ("base64", Operands::Read, &["-w", "--wrap"]),
    ("cat", Operands::Read, &[]),
    ("cp", Operands::To(false), &["-t", "-S", "--suffix"]),
    ("head", Operands::Read, &["-n", "-c", "--lines", "--bytes"]),
    ("less", Operands::Read, &["-b", "-h", "-j", "-k", "-o", "-O", "-p", "-P", "-t", "-T", "-x", "-y", "-z"]),
    ("ls", Operands::Read, &["-I", "-T", "-w"]),
    ("md5sum", Operands::Read, &[]),
    ("mkdir", Operands::Write, &["-m", "--mode"]),
    ("mv", Operands::To(true), &["-t", "-S", "--suffix"]),
    ("od", Operands::Read, &["-A", "-j", "-N", "-S", "-t", "-w"]),
    ("rm", Operands::Delete, &[]),
    ("rmdir", Operands::Delete, &[]),
    ("sha256sum", Operands::Read, &[]),
    ("shred", Operands::Delete, &["-n", "-s"]),
    ("tac", Operands::Read, &["-s"]),
    ("tail", Operands::Read, &["-n", "-c", "-s", "--lines", "--bytes", "--pid"]),
    ("tee", Operands::Write, &[]),
    ("touch", Operands::Write, &["-d", "-r", "-t"]),
    ("truncate", Operands::Write, &["-s", "-r"]),
    ("unlink", Operands::Delete, &[]),
];
/// Programs that connect to every URL among their operands.
const FETCHERS: [&str; 4] = ["curl", "wget", "aria2c", "git"];

/// Records one command and what it implies.
pub(super) fn command(walk: &mut Walk<'_>, words: &[Target]) {
    let mut rest = words;
    walk.found.push(Intent::Exec(words.to_vec()));
    // A runner is peeled off; the command in it is recorded as well, because it is what a rule speaks of.
    while let Some((first, after)) = rest.split_first() {
        let Some(name) = first.value().map(base) else { return };
        let Some((_, flags)) = RUNNERS.iter().find(|(runner, _)| *runner == name) else { break };
        let skipped = after.iter().take_while(|word| {
            word.value().is_some_and(|word| flags.contains(&word) || (name == "env" && is_assignment(word)))
        });
        rest = after.get(skipped.count()..).unwrap_or_default();
        if rest.first().is_none_or(|word| word.text.starts_with('-')) {
            return;
        }
        walk.found.push(Intent::Exec(rest.to_vec()));
    }
    let Some((first, operands)) = rest.split_first() else { return };
    let Some(name) = first.value().map(base) else { return };
    if ["cd", "pushd", "popd"].contains(&name) {
        walk.moved = true;
    } else if let Some(text) = shell_text(name, operands) {
        nested(walk, &text);
    } else if let Some((_, kind, valued)) = FILES.iter().find(|(program, _, _)| *program == name) {
        files(walk, *kind, &paths(operands, valued));
    } else if FETCHERS.contains(&name) {
        let urls = operands.iter().filter(|word| is_url(&word.text)).cloned();
        walk.found.extend(urls.map(Intent::Connect));
    }
}

/// The text that a shell is told to run; unknown if it is not in the text we have.
fn shell_text(name: &str, operands: &[Target]) -> Option<Target> {
    if name == "eval" {
        let known = operands.iter().map(Target::value).collect::<Option<Vec<_>>>();
        return Some(known.map_or_else(|| Target::unknown("eval"), |words| Target::known(words.join(" "))));
    }
    if !SHELLS.contains(&name) {
        return None;
    }
    let is_command = |word: &Target| {
        word.text.strip_prefix('-').is_some_and(|flags| !flags.starts_with('-') && flags.contains('c'))
    };
    let at = operands.iter().position(is_command)?;
    operands.get(at + 1).cloned()
}

fn nested(walk: &mut Walk<'_>, text: &Target) {
    match (text.value(), walk.layers.checked_sub(1)) {
        (Some(text), Some(layers)) => read(text, layers, walk.moved, walk.found),
        (None, _) => walk.found.push(Intent::Unparsed("shell text made while it runs".to_owned())),
        (_, None) => walk.found.push(Intent::Unparsed("shell text in shell text, too deep".to_owned())),
    }
}

/// Operands without options and their values.
fn paths(operands: &[Target], valued: &[&str]) -> Vec<Target> {
    let mut paths = Vec::new();
    let mut words = operands.iter();
    let mut only_paths = false;
    while let Some(word) = words.next() {
        if only_paths || !word.text.starts_with('-') || word.text == "-" {
            if word.text != "-" {
                paths.push(word.clone());
            }
        } else if word.text == "--" {
            only_paths = true;
        } else if valued.contains(&word.text.as_str()) {
            words.next();
        }
    }
    paths
}

fn files(walk: &mut Walk<'_>, kind: Operands, paths: &[Target]) {
    let settled: Vec<Target> = paths.iter().map(|path| walk.settle(path.clone())).collect();
    match kind {
        Operands::Read => walk.found.extend(settled.into_iter().map(Intent::Read)),
        Operands::Write => walk.found.extend(settled.into_iter().map(Intent::Write)),
        Operands::Delete => walk.found.extend(settled.into_iter().map(Intent::Delete)),
        Operands::To(removes) => {
            let Some((last, sources)) = settled.split_last().filter(|(_, sources)| !sources.is_empty())
            else {
                return;
            };
            walk.found.extend(sources.iter().cloned().map(Intent::Read));
            if removes {
                walk.found.extend(sources.iter().cloned().map(Intent::Delete));
            }
            walk.found.push(Intent::Write(last.clone()));
        }
    }
}

fn base(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    })
}

/// Whether a word says by itself that it is an address on the network.
pub(in crate::connectors) fn is_url(word: &str) -> bool {
    word.split_once("://").is_some_and(|(scheme, rest)| {
        ["http", "https", "ftp", "ftps", "ssh", "git", "sftp", "ws", "wss"].contains(&scheme)
            && !rest.is_empty()
    })
}
