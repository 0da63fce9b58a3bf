//! One question, in full, and when an answer to it counts: only after it has been on the screen for a moment in which no
//! answer was typed, and a yes only if the end of the object has been on the screen too.

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent};

use super::{
    message::{Answer, Job, Key},
    view::Question,
};
use crate::{
    model::Ruling,
    runtime::{Lasting, MESSAGE_MAX, Pending},
};

/// How long a question must be on the screen, undisturbed, before an answer counts.
pub(super) const SETTLE: Duration = Duration::from_millis(300);

/// What the person is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Reading,
    /// A rule will be written, this one once it is known: are you sure?
    Always(Option<Lasting>),
    /// A message to the agent is being typed.
    Message(String),
    /// An answer is under way.
    Sending,
}

/// A question that is looked at.
#[derive(Debug)]
pub(super) struct Detail {
    pub(super) question: Question,
    pub(super) stage: Stage,
    pub(super) scroll: usize,
    /// Since when it has been on the screen as it is now.
    pub(super) shown: Option<Duration>,
    /// The end of the object was on the screen.
    pub(super) seen: bool,
    /// So was the end of the rule that would be written.
    pub(super) rule_seen: bool,
    /// It is not open any more.
    pub(super) gone: bool,
    pub(super) problem: Option<String>,
}

/// What a key came to.
#[derive(Debug)]
pub(super) enum Typed {
    Nothing,
    Back,
    /// Not taken, and why.
    Dropped(&'static str),
    Ask(Box<Job>),
}

impl Detail {
    pub(super) fn new(question: Question) -> Self {
        Self {
            question,
            stage: Stage::Reading,
            scroll: 0,
            shown: None,
            seen: false,
            rule_seen: false,
            gone: false,
            problem: None,
        }
    }

    pub(super) fn key(&self) -> &Key {
        &self.question.key
    }

    /// Whether an answer that is typed now counts.
    pub(super) fn is_armed(&self, at: Duration) -> bool {
        !self.gone && self.shown.is_some_and(|shown| at.saturating_sub(shown) >= SETTLE)
    }

    /// It has just been drawn.
    pub(super) fn drawn(&mut self, end: bool, last_scroll: usize, now: Duration) {
        self.shown.get_or_insert(now);
        match self.stage {
            Stage::Always(None) => {}
            Stage::Always(Some(_)) => self.rule_seen |= end,
            Stage::Reading | Stage::Message(_) | Stage::Sending => self.seen |= end,
        }
        self.scroll = self.scroll.min(last_scroll);
    }

    /// It must be read again.
    pub(super) fn disturbed(&mut self) {
        self.shown = None;
    }

    /// The same question as it is listed now.
    pub(super) fn refresh(&mut self, question: &Question) {
        if self.question.approval != question.approval || self.gone {
            self.disturbed();
            self.seen = false;
            if matches!(self.stage, Stage::Always(_)) {
                self.stage = Stage::Reading;
            }
        }
        self.gone = false;
        self.question = question.clone();
    }

    pub(super) fn close(&mut self) {
        self.gone = true;
        self.disturbed();
    }

    /// What was said against an answer.
    pub(super) fn refused(&mut self, why: String) {
        self.enter(Stage::Reading);
        self.problem = Some(why);
    }

    /// The rule that would be written.
    pub(super) fn lasting(&mut self, rule: Result<Lasting, String>) {
        if self.stage == Stage::Always(None) {
            match rule {
                Ok(rule) => self.enter(Stage::Always(Some(rule))),
                Err(why) => self.refused(why),
            }
        }
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.scroll = 0;
        self.rule_seen = false;
        self.disturbed();
    }

    pub(super) fn paste(&mut self, pasted: &str) {
        if let Stage::Message(text) = &mut self.stage {
            for c in pasted.chars().map(|c| if c.is_control() { ' ' } else { c }) {
                if text.len() + c.len_utf8() > MESSAGE_MAX {
                    break;
                }
                text.push(c);
            }
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "keys without a meaning")]
    pub(super) fn typed(&mut self, key: KeyEvent, at: Duration) -> Typed {
        match &mut self.stage {
            Stage::Sending => match key.code {
                KeyCode::Esc => Typed::Back,
                _ => Typed::Nothing,
            },
            Stage::Message(text) => match key.code {
                KeyCode::Esc => {
                    self.enter(Stage::Reading);
                    Typed::Nothing
                }
                KeyCode::Backspace => {
                    text.pop();
                    Typed::Nothing
                }
                KeyCode::Enter if text.trim().is_empty() => {
                    Typed::Dropped("type what the agent is told, or Esc")
                }
                KeyCode::Enter => {
                    let message = text.trim().to_owned();
                    // What it is about may have changed while it was typed.
                    match self.may_answer(at, false) {
                        Ok(()) => self.answer(Ruling::Deny, Some(message)),
                        Err(why) => Typed::Dropped(why),
                    }
                }
                KeyCode::Char(c) if !c.is_control() && text.len() + c.len_utf8() <= MESSAGE_MAX => {
                    text.push(c);
                    Typed::Nothing
                }
                _ => Typed::Nothing,
            },
            Stage::Always(rule) => match key.code {
                KeyCode::Esc => {
                    self.enter(Stage::Reading);
                    Typed::Nothing
                }
                KeyCode::Char('y') if rule.is_none() => Typed::Dropped("the rule is still being asked for"),
                KeyCode::Char('y') => match self.may_answer(at, true) {
                    Ok(()) => self.answer(Ruling::Always, None),
                    Err(why) => Typed::Dropped(why),
                },
                _ => self.scrolled(key.code),
            },
            Stage::Reading => match key.code {
                KeyCode::Esc => Typed::Back,
                KeyCode::Char(c @ ('y' | 's' | 'n' | 'm' | 'A')) => self.answered(c, at),
                code => self.scrolled(code),
            },
        }
    }

    fn answered(&mut self, c: char, at: Duration) -> Typed {
        if let Err(why) = self.may_answer(at, matches!(c, 'y' | 's' | 'A')) {
            return Typed::Dropped(why);
        }
        match c {
            'y' => self.answer(Ruling::Once, None),
            's' => self.answer(Ruling::Session, None),
            'n' => self.answer(Ruling::Deny, None),
            'm' => {
                self.enter(Stage::Message(String::new()));
                Typed::Nothing
            }
            _ => {
                self.enter(Stage::Always(None));
                self.problem = None;
                let Question { key, approval, .. } = self.question.clone();
                Typed::Ask(Box::new(Job::Lasting { key, approval }))
            }
        }
    }

    /// An answer that comes too early begins the moment anew, so a key that is held down never answers.
    fn may_answer(&mut self, at: Duration, yes: bool) -> Result<(), &'static str> {
        if self.gone {
            return Err("it is not open any more");
        }
        if !self.is_armed(at) {
            self.shown = self.shown.map(|shown| shown.max(at));
            return Err("too fast to have been read: not taken, press again");
        }
        if yes && !self.seen {
            return Err("the object goes on below: see its end before you allow it");
        }
        if matches!(self.stage, Stage::Always(_)) && !self.rule_seen {
            return Err("the rule goes on below: see its end before you write it");
        }
        Ok(())
    }

    fn answer(&mut self, ruling: Ruling, message: Option<String>) -> Typed {
        self.enter(Stage::Sending);
        self.problem = None;
        let Question { key, approval, .. } = self.question.clone();
        Typed::Ask(Box::new(Job::Answer(Answer { key, approval, ruling, message })))
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "keys without a meaning")]
    fn scrolled(&mut self, code: KeyCode) -> Typed {
        // Drawing brings it back to the last row.
        self.scroll = match code {
            KeyCode::Down | KeyCode::Char('j') => self.scroll.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => self.scroll.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.scroll.saturating_add(10),
            KeyCode::PageUp => self.scroll.saturating_sub(10),
            KeyCode::Home => 0,
            KeyCode::End => usize::MAX,
            _ => self.scroll,
        };
        Typed::Nothing
    }
}

impl Question {
    pub(super) fn new(from: &super::message::From, open: Pending, now: Duration) -> Self {
        let Pending { approval, waiters, remaining_ms } = open;
        let key =
            Key { from: from.clone(), id: approval.id, session: approval.session, since: approval.since };
        Self { key, approval, waiters, ends: now + Duration::from_millis(remaining_ms) }
    }
}
