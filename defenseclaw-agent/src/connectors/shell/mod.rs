//! Shell text to intents: commands with their words, redirections, and the few programs whose operands are paths or
//! addresses beyond doubt. A real parser reads it; what it refuses, and what is too wild to hand to it, is `Unparsed`.
//! Nothing is expanded: a word with a variable or a pattern is an unknown target.

mod admit;
pub(super) mod programs;
mod value;
mod walk;

use shuck_parser::parser::Parser;

use crate::model::Intent;

/// How many times shell text in shell text (`bash -c`, `eval`) is followed.
const LAYERS: u8 = 3;
/// Intents of one tool call; what is beyond is said to be missing.
const INTENTS: usize = 400;

/// What a shell would do with this text.
pub(super) fn intents(source: &str) -> Vec<Intent> {
    let mut found = Vec::new();
    read(source, LAYERS, false, &mut found);
    if found.len() > INTENTS {
        found.truncate(INTENTS);
        found.push(Intent::Unparsed(format!("more than {INTENTS} effects")));
    }
    found
}

fn read(source: &str, layers: u8, moved: bool, found: &mut Vec<Intent>) {
    if let Err(why) = admit::check(source) {
        found.push(Intent::Unparsed(why));
        return;
    }
    let parsed = Parser::new(source).parse();
    if parsed.is_err() {
        let why = parsed.diagnostics.first().map_or("syntax", |diagnostic| diagnostic.message.as_str());
        found.push(Intent::Unparsed(format!("not valid shell text: {why}")));
        return;
    }
    walk::file(source, &parsed.file, layers, moved, found);
}

#[cfg(test)]
mod tests;
