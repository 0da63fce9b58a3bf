//! What is shown and what is selected: a state that messages change. No I/O and no clock. What is selected is known by its
//! id, so nothing that comes or goes moves the selection to another question.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::Duration,
};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::Value;

use super::{
    detail::{Detail, SETTLE, Stage, Typed},
    message::{Act, From, Key, Live, Message, Now},
};
use crate::{
    model::{Approval, AuditRecord, PolicyAction, Ruling, SessionId},
    runtime::Pending,
    store::Stored,
};

/// Rows that are kept for the list.
const FOUND_MAX: usize = 500;
/// Rates are over at least this long.
const RATE_OVER: Duration = Duration::from_secs(5);
/// How long a word about something stays.
const NOTICE_FOR: Duration = Duration::from_secs(8);

/// An open question.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) key: Key,
    pub(super) approval: Approval,
    pub(super) waiters: u64,
    /// When the fallback applies, by the view's clock.
    pub(super) ends: Duration,
}

/// Rows of a session, by what was decided.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) blocked: u64,
    pub(super) alerts: u64,
    pub(super) asked: u64,
}

/// A session that goes on.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) from: From,
    pub(super) live: Live,
    /// Events at the beginning of the present interval, and what the one before came to.
    rate: (Duration, u64, Option<f64>),
}

impl Session {
    pub(super) fn per_second(&self) -> Option<f64> {
        self.rate.2
    }

    fn update(&mut self, live: Live, now: Duration) {
        let (since, events, _) = self.rate;
        let passed = now.saturating_sub(since);
        if passed >= RATE_OVER
            && let Some(count) = live.events
        {
            let more = u32::try_from(count.saturating_sub(events)).unwrap_or(u32::MAX);
            self.rate = (now, count, Some(f64::from(more) / passed.as_secs_f64()));
        }
        self.live = live;
    }
}

/// A row of an audit that is worth a look.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) from: From,
    pub(super) stored: Stored,
}

impl Found {
    pub(super) fn is(&self, selected: &(From, u64)) -> bool {
        self.from == selected.0 && self.stored.seq == selected.1
    }
}

/// The three lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pane {
    Sessions,
    Approvals,
    Findings,
}

/// What is drawn over the lists.
#[derive(Debug)]
pub(super) enum Over {
    Help,
    Detail(Box<Detail>),
    /// A row of the audit in full.
    Row {
        row: (From, u64),
        scroll: usize,
    },
}

/// What drawing has come to, for the rules about what was on the screen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Drawn {
    /// A question was drawn in full width: whether the end of its object was, and the last row to scroll to.
    pub(super) detail: Option<(bool, usize)>,
    /// Of a row of the audit, the last row to scroll to.
    pub(super) row: usize,
}

/// The state.
#[derive(Debug)]
pub(super) struct View {
    pub(super) colour: bool,
    pub(super) peers: BTreeMap<From, Value>,
    pub(super) trouble: BTreeMap<From, String>,
    pub(super) sessions: Vec<Session>,
    pub(super) counts: HashMap<(From, SessionId), Counts>,
    pub(super) postures: HashMap<(From, SessionId), String>,
    pub(super) approvals: Vec<Question>,
    pub(super) found: VecDeque<Found>,
    pub(super) settled: VecDeque<(From, Stored)>,
    pub(super) pane: Pane,
    pub(super) session: Option<SessionId>,
    pub(super) approval: Option<Key>,
    pub(super) row: Option<(From, u64)>,
    pub(super) over: Option<Over>,
    notice: Option<(String, Duration)>,
    /// Where was looked, if nobody is there.
    pub(super) absent: Option<Vec<String>>,
}

impl View {
    pub(super) fn new(colour: bool) -> Self {
        Self {
            colour,
            peers: BTreeMap::new(),
            trouble: BTreeMap::new(),
            sessions: Vec::new(),
            counts: HashMap::new(),
            postures: HashMap::new(),
            approvals: Vec::new(),
            found: VecDeque::new(),
            settled: VecDeque::new(),
            pane: Pane::Approvals,
            session: None,
            approval: None,
            row: None,
            over: None,
            notice: None,
            absent: None,
        }
    }

    /// A word about what has just happened.
    pub(super) fn notice(&self, now: Duration) -> Option<&str> {
        self.notice.as_ref().filter(|(_, at)| now.saturating_sub(*at) < NOTICE_FOR).map(|(text, _)| &**text)
    }

    /// The question that is looked at.
    pub(super) fn detail(&self) -> Option<&Detail> {
        match &self.over {
            Some(Over::Detail(detail)) => Some(detail),
            _ => None,
        }
    }

    fn detail_mut(&mut self) -> Option<&mut Detail> {
        match &mut self.over {
            Some(Over::Detail(detail)) => Some(detail),
            _ => None,
        }
    }

    /// How long nothing changes by itself.
    pub(super) fn rest(&self, now: Duration) -> Duration {
        let settles =
            self.detail().and_then(|detail| detail.shown).map(|shown| (shown + SETTLE).saturating_sub(now));
        settles.filter(|left| !left.is_zero()).unwrap_or(Duration::from_secs(1)).min(Duration::from_secs(1))
    }

    /// What was drawn. True if a question came onto the screen: what was typed before is not about it.
    pub(super) fn drawn(&mut self, drawn: Drawn, now: Duration) -> bool {
        if let Some(Over::Row { scroll, .. }) = &mut self.over {
            *scroll = (*scroll).min(drawn.row);
        }
        match (self.detail_mut(), drawn.detail) {
            (Some(detail), Some((object_end, last_scroll))) => {
                // What is typed into a message may be typed ahead.
                let asked = !detail.gone && matches!(detail.stage, Stage::Reading | Stage::Always(_));
                let fresh = detail.shown.is_none() && asked;
                detail.drawn(object_end, last_scroll, now);
                fresh
            }
            (Some(detail), None) => {
                detail.disturbed();
                false
            }
            (None, _) => false,
        }
    }

    pub(super) fn update(&mut self, message: Message, now: Now) -> Option<Act> {
        match message {
            Message::Key(key, at) => return self.key(key, at),
            Message::Paste(text) => {
                if let Some(detail) = self.detail_mut() {
                    detail.paste(&text);
                }
            }
            Message::Disturbed => {
                if let Some(detail) = self.detail_mut() {
                    detail.disturbed();
                }
            }
            Message::End => return Some(Act::Quit),
            Message::Status { from, status } => {
                self.absent = None;
                self.peers.insert(from, status);
            }
            Message::Sessions { from, live } => self.live(&from, live, now.since),
            Message::Begin { from } => {
                self.counts.retain(|(of, _), _| *of != from);
                self.postures.retain(|(of, _), _| *of != from);
                self.found.retain(|one| one.from != from);
                self.settled.retain(|(of, _)| *of != from);
            }
            Message::Rows { from, rows } => {
                for row in rows {
                    self.take(&from, row);
                }
            }
            Message::Approvals { from, open } => {
                self.absent = None;
                self.trouble.remove(&from);
                self.open(&from, open, now.since);
            }
            Message::Trouble { from, why } => {
                self.trouble.insert(from, why);
            }
            Message::Lost { from } => {
                self.peers.remove(&from);
                self.trouble.remove(&from);
                self.open(&from, Vec::new(), now.since);
                self.live(&from, Vec::new(), now.since);
            }
            Message::Absent { looked } => self.absent = Some(looked),
            Message::Unasked { key, why } => {
                if let Some(detail) = self.detail_mut()
                    && *detail.key() == key
                {
                    detail.refused(why);
                }
            }
            Message::Lasting { key, rule } => {
                if let Some(detail) = self.detail_mut()
                    && *detail.key() == key
                {
                    detail.lasting(rule);
                }
            }
            Message::Answered { key, ruling, refused } => self.answered(&key, ruling, refused, now.since),
        }
        None
    }

    fn live(&mut self, from: &From, live: Vec<Live>, now: Duration) {
        let ids: HashSet<_> = live.iter().map(|live| live.session).collect();
        let place = self.session.and_then(|id| self.sessions.iter().position(|one| one.live.session == id));
        self.sessions.retain(|one| one.from != *from || ids.contains(&one.live.session));
        for live in live {
            if let Some(known) = self.sessions.iter_mut().find(|one| one.live.session == live.session) {
                known.update(live, now);
            } else {
                let rate = (now, live.events.unwrap_or(0), None);
                self.sessions.push(Session { from: from.clone(), live, rate });
            }
        }
        let ids: Vec<_> = self.sessions.iter().map(|one| one.live.session).collect();
        keep(&mut self.session, &ids, place);
    }

    fn open(&mut self, from: &From, open: Vec<Pending>, now: Duration) {
        let mut open: Vec<_> = open.into_iter().map(|open| Question::new(from, open, now)).collect();
        let none_before = self.approvals.is_empty();
        self.approvals.retain_mut(|known| {
            if known.key.from != *from {
                return true;
            }
            match open.iter().position(|one| one.key == known.key) {
                Some(at) => {
                    *known = open.swap_remove(at);
                    true
                }
                None => false,
            }
        });
        // New ones come last, so nothing moves under the cursor.
        open.sort_by_key(|one| (one.approval.since, one.approval.id));
        self.approvals.append(&mut open);
        if let Some(selected) = &self.approval {
            // Nothing takes the place of a question that has gone: a key that was meant for it would go there.
            if !self.approvals.iter().any(|one| one.key == *selected) {
                self.approval = None;
            }
        } else if none_before {
            self.approval = self.approvals.first().map(|one| one.key.clone());
        }
        if let Some(Over::Detail(detail)) = &mut self.over {
            match self.approvals.iter().find(|one| one.key == *detail.key()) {
                Some(question) => detail.refresh(question),
                None if detail.key().from == *from && !detail.gone => detail.close(),
                None => {}
            }
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "only what says something about the live is taken")]
    fn take(&mut self, from: &From, stored: Stored) {
        let action = match &stored.record {
            AuditRecord::Event(event) => event.policy_action(),
            AuditRecord::Hook(call) => call.decision.as_ref().map(|decision| decision.action),
            _ => None,
        };
        if let Some(counts) =
            stored.session().map(|session| self.counts.entry((from.clone(), session)).or_default())
        {
            match (&stored.record, action) {
                (AuditRecord::Asked(_), _) => counts.asked += 1,
                (AuditRecord::Finding(_), _) | (_, Some(PolicyAction::Alert | PolicyAction::Confirm)) => {
                    counts.alerts += 1;
                }
                (_, Some(PolicyAction::Block)) => counts.blocked += 1,
                _ => {}
            }
        }
        match &stored.record {
            AuditRecord::Posture(change) => {
                self.postures.insert((from.clone(), change.session), change.posture.as_str().to_owned());
                return;
            }
            AuditRecord::Asked(_) => return,
            AuditRecord::Settled(_) => {
                self.settled.push_back((from.clone(), stored.clone()));
                if self.settled.len() > FOUND_MAX {
                    self.settled.pop_front();
                }
            }
            AuditRecord::SessionEnd(end) => {
                self.counts.remove(&(from.clone(), end.session));
                self.postures.remove(&(from.clone(), end.session));
                return;
            }
            _ => {}
        }
        // Newest first.
        self.found.push_front(Found { from: from.clone(), stored });
        self.found.truncate(FOUND_MAX);
        let last = self.found.back();
        if let (Some(selected), Some(last)) = (&self.row, last)
            && !self.found.iter().any(|one| one.is(selected))
        {
            self.row = Some((last.from.clone(), last.stored.seq));
        }
    }

    /// How a question ended, if a row said so.
    pub(super) fn outcome(&self, key: &Key) -> Option<&AuditRecord> {
        self.settled.iter().rev().map(|(from, stored)| (from, &stored.record)).find_map(|(from, record)| {
            let AuditRecord::Settled(settled) = record else { return None };
            (*from == key.from
                && settled.id == key.id
                && settled.session == key.session
                && settled.boot >= key.since)
                .then_some(record)
        })
    }

    fn answered(&mut self, key: &Key, ruling: Ruling, refused: Option<String>, now: Duration) {
        let looked_at = matches!(self.detail(), Some(detail) if detail.key() == key);
        let text = match &refused {
            None => format!("{}: answered `{ruling}`", key.id),
            Some(why) => format!("{}: not answered: {why}", key.id),
        };
        if looked_at {
            match (refused, self.detail_mut()) {
                (Some(why), Some(detail)) => return detail.refused(why),
                _ => self.over = None,
            }
            // Who has answered goes on with the next one.
            let place = self.approvals.iter().position(|one| one.key == *key).unwrap_or(0);
            let next = self.approvals.iter().cycle().skip(place + 1).take(self.approvals.len());
            self.approval = next.map(|one| &one.key).find(|next| *next != key).cloned();
        }
        self.notice = Some((text, now));
    }

    fn say(&mut self, text: &str, at: Duration) {
        self.notice = Some((text.to_owned(), at));
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "keys without a meaning")]
    fn key(&mut self, key: KeyEvent, at: Duration) -> Option<Act> {
        let control = key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT);
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Some(Act::Quit);
        }
        if control {
            return None;
        }
        let typing = matches!(self.detail(), Some(detail) if matches!(detail.stage, Stage::Message(_)));
        if key.code == KeyCode::Char('q') && !typing {
            return Some(Act::Quit);
        }
        match &mut self.over {
            Some(Over::Detail(detail)) => match detail.typed(key, at) {
                Typed::Nothing => {}
                Typed::Back => self.over = None,
                Typed::Dropped(why) => self.say(why, at),
                Typed::Ask(job) => return Some(Act::Ask(job)),
            },
            Some(Over::Help) => {
                if matches!(key.code, KeyCode::Esc | KeyCode::Enter | KeyCode::Char('?')) {
                    self.over = None;
                }
            }
            Some(Over::Row { scroll, .. }) => match key.code {
                KeyCode::Esc | KeyCode::Enter => self.over = None,
                KeyCode::Down | KeyCode::Char('j') => *scroll = scroll.saturating_add(1),
                KeyCode::Up | KeyCode::Char('k') => *scroll = scroll.saturating_sub(1),
                _ => {}
            },
            None => self.listed(key.code, at),
        }
        None
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "keys without a meaning")]
    fn listed(&mut self, code: KeyCode, at: Duration) {
        match code {
            KeyCode::Char('?') => self.over = Some(Over::Help),
            KeyCode::Tab | KeyCode::Right => {
                self.pane = match self.pane {
                    Pane::Sessions => Pane::Approvals,
                    Pane::Approvals => Pane::Findings,
                    Pane::Findings => Pane::Sessions,
                }
            }
            KeyCode::BackTab | KeyCode::Left => {
                self.pane = match self.pane {
                    Pane::Sessions => Pane::Findings,
                    Pane::Approvals => Pane::Sessions,
                    Pane::Findings => Pane::Approvals,
                }
            }
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::PageDown => self.step(10),
            KeyCode::PageUp => self.step(-10),
            KeyCode::Home => self.step(isize::MIN),
            KeyCode::End => self.step(isize::MAX),
            KeyCode::Enter => self.look(),
            KeyCode::Char('y' | 's' | 'n' | 'm' | 'A') => {
                if self.pane == Pane::Approvals && self.approval.is_some() {
                    self.look();
                    self.say("look at it first, then answer", at);
                } else {
                    self.say("answers are for approvals: Tab goes there", at);
                }
            }
            _ => {}
        }
    }

    fn look(&mut self) {
        match self.pane {
            Pane::Approvals => {
                let Some(key) = self.approval.as_ref() else { return self.step(0) };
                if let Some(question) = self.approvals.iter().find(|one| one.key == *key) {
                    self.over = Some(Over::Detail(Box::new(Detail::new(question.clone()))));
                }
            }
            Pane::Findings => {
                if let Some(row) = self.row.clone() {
                    self.over = Some(Over::Row { row, scroll: 0 });
                }
            }
            Pane::Sessions => {}
        }
    }

    fn step(&mut self, by: isize) {
        match self.pane {
            Pane::Sessions => {
                let ids: Vec<_> = self.sessions.iter().map(|one| one.live.session).collect();
                step(&mut self.session, &ids, by);
            }
            Pane::Approvals => {
                let keys: Vec<_> = self.approvals.iter().map(|one| one.key.clone()).collect();
                step(&mut self.approval, &keys, by);
            }
            Pane::Findings => {
                let rows: Vec<_> = self.found.iter().map(|one| (one.from.clone(), one.stored.seq)).collect();
                step(&mut self.row, &rows, by);
            }
        }
    }
}

/// What is selected stays, as long as it is there; then what stands in its place.
fn keep<T: Clone + PartialEq>(selected: &mut Option<T>, all: &[T], place: Option<usize>) {
    if selected.as_ref().is_none_or(|one| !all.contains(one)) {
        *selected = all.get(place.unwrap_or(0).min(all.len().saturating_sub(1))).cloned();
    }
}

fn step<T: Clone + PartialEq>(selected: &mut Option<T>, all: &[T], by: isize) {
    let place = selected.as_ref().and_then(|one| all.iter().position(|other| other == one));
    let next = place.map_or(0, |place| place.saturating_add_signed(by).min(all.len().saturating_sub(1)));
    *selected = all.get(next).cloned();
}

#[cfg(test)]
mod tests;
