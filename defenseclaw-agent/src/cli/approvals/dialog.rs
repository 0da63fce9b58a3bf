//! The conversation of `approvals watch` at a terminal: one question at a time, one line as its answer. Looks at no terminal
//! and no socket, so that what a line means can be tested: a line never answers another question than the one it was typed
//! behind.

use super::words;
use crate::{
    cli::output::escape,
    model::{ApprovalId, Ruling, Via},
    runtime::{Lasting, MESSAGE_MAX, Pending, Question, Said},
};

/// A question of a watcher, which has a number here.
pub(super) type Key = (usize, ApprovalId);

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Print(String),
    Prompt(String),
    Answer(Key, Said),
    /// Ask what "always" would write; see [`Dialog::preview`].
    Preview(Key),
}

/// What the next line is about.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    /// Nothing is asked.
    Idle,
    Choice(Key),
    Message(Key),
    Agree(Key),
    /// Its question has ended: the next line is an answer to nothing.
    Over,
}

/// The conversation.
#[derive(Debug)]
pub(super) struct Dialog {
    open: Vec<(Key, Pending)>,
    skipped: Vec<Key>,
    turn: Turn,
}

const CHOICES: &str = "y once / s session / a always / n deny / m deny with a message / skip > ";

impl Dialog {
    pub(super) fn new() -> Self {
        Self { open: Vec::new(), skipped: Vec::new(), turn: Turn::Idle }
    }

    /// What is open at one watcher now. Those that are not any more were settled, by whomever.
    pub(super) fn open(&mut self, watcher: usize, open: Vec<Pending>) -> Vec<Step> {
        let mut steps = Vec::new();
        let is_open = |id| open.iter().any(|pending| pending.approval.id == id);
        self.skipped.retain(|(at, id)| *at != watcher || is_open(*id));
        self.open.retain(|((at, id), _)| *at != watcher || is_open(*id));
        for pending in open {
            let key = (watcher, pending.approval.id);
            match self.open.iter_mut().find(|(known, _)| *known == key) {
                Some((_, known)) => *known = pending,
                None => self.open.push((key, pending)),
            }
        }
        if let Turn::Choice(key) | Turn::Message(key) | Turn::Agree(key) = self.turn
            && !self.open.iter().any(|(known, _)| *known == key)
        {
            self.turn = Turn::Over;
            steps.push(Step::Prompt(format!("\n{} is settled already; press Enter to go on > ", key.1)));
        }
        if self.turn == Turn::Idle {
            self.next(&mut steps);
        }
        steps
    }

    /// The question that was asked first, of those that were not skipped.
    fn next(&mut self, steps: &mut Vec<Step>) {
        let waiting = self.open.iter().filter(|(key, _)| !self.skipped.contains(key));
        let Some((key, pending)) = waiting.min_by_key(|(_, pending)| pending.approval.since) else {
            self.turn = Turn::Idle;
            return;
        };
        self.turn = Turn::Choice(*key);
        steps.push(Step::Print(String::new()));
        let question = Question { pending: pending.clone(), settled: None };
        steps.extend(words::whole(&question).into_iter().map(Step::Print));
        steps.push(Step::Prompt(CHOICES.to_owned()));
    }

    /// A line was typed.
    pub(super) fn line(&mut self, line: &str) -> Vec<Step> {
        let mut steps = Vec::new();
        let said = |ruling, message| Said { ruling, message, expires_s: None, via: Via::Command };
        match (std::mem::replace(&mut self.turn, Turn::Idle), line.trim()) {
            (Turn::Idle, _) => return steps,
            (Turn::Over, _) => {}
            (Turn::Choice(key), "y") => steps.push(Step::Answer(key, said(Ruling::Once, None))),
            (Turn::Choice(key), "s") => steps.push(Step::Answer(key, said(Ruling::Session, None))),
            (Turn::Choice(key), "n") => steps.push(Step::Answer(key, said(Ruling::Deny, None))),
            (Turn::Choice(key), "m") => {
                self.turn = Turn::Message(key);
                steps.push(Step::Prompt("what the agent is told > ".to_owned()));
                return steps;
            }
            (Turn::Choice(key), "a") => {
                self.turn = Turn::Agree(key);
                return vec![Step::Preview(key)];
            }
            (Turn::Choice(key), "skip") => self.skipped.push(key),
            (Turn::Message(key), text) => {
                let text = text.get(..text.floor_char_boundary(MESSAGE_MAX)).unwrap_or_default();
                let message = Some(text.to_owned()).filter(|text| !text.is_empty());
                steps.push(Step::Answer(key, said(Ruling::Deny, message)));
            }
            (Turn::Agree(key), "y" | "yes") => steps.push(Step::Answer(key, said(Ruling::Always, None))),
            // Nothing else is an answer.
            (Turn::Choice(key) | Turn::Agree(key), _) => {
                self.turn = Turn::Choice(key);
                return vec![Step::Prompt(CHOICES.to_owned())];
            }
        }
        // What was answered is not asked again, whether or not it was taken: what is open will say.
        if let Some(Step::Answer(key, _)) = steps.last() {
            self.open.retain(|(known, _)| known != key);
        }
        self.next(&mut steps);
        steps
    }

    /// What "always" would write, or why it cannot.
    pub(super) fn preview(&mut self, preview: Result<Lasting, String>) -> Vec<Step> {
        let Turn::Agree(key) = self.turn else { return Vec::new() };
        match preview {
            Ok(lasting) => {
                let mut steps: Vec<_> = words::lasting(&lasting).into_iter().map(Step::Print).collect();
                steps.push(Step::Prompt("write this, and answer yes? [y/N] > ".to_owned()));
                steps
            }
            Err(why) => {
                self.turn = Turn::Choice(key);
                vec![Step::Print(escape(why.as_bytes())), Step::Prompt(CHOICES.to_owned())]
            }
        }
    }
}

#[cfg(test)]
mod tests;
