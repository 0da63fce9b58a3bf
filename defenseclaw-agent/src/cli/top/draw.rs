//! The lists on the screen. Draws a state, changes nothing.

use std::time::Duration;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph},
};
use serde_json::Value;

use super::{
    super::{describe, output},
    message::Now,
    rows,
    text::{cell, harden, plain, right, wrap},
    view::{Drawn, Found, Over, Pane, Question, Session, View},
};
use crate::model::{Severity, Waiter};

mod detail;

/// Smallest screen that shows enough to answer by.
const LEAST: (u16, u16) = (60, 15);
const KEYS: &str = "Enter open  Tab pane  ↑↓ move  ? help  q quit";

impl View {
    /// Draws everything, and says what of it matters for answers.
    pub(super) fn draw(&self, frame: &mut Frame<'_>, now: Now) -> Drawn {
        let area = frame.area();
        if area.width < LEAST.0 || area.height < LEAST.1 {
            let (width, height) = LEAST;
            let said =
                format!("too small: {}x{}, needs {width}x{height}\n(q quits)", area.width, area.height);
            frame.render_widget(Paragraph::new(said), area);
            return Drawn::default();
        }
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)]).areas(area);
        frame.render_widget(Paragraph::new(self.head(head.width)), head);
        let mut drawn = Drawn::default();
        match &self.over {
            None => self.lists(frame, body, now),
            Some(Over::Help) => Self::help(frame, body),
            Some(Over::Detail(detail)) => drawn.detail = Some(self.question(frame, body, detail, now)),
            Some(Over::Row { row, scroll }) => drawn.row = self.row(frame, body, row, *scroll, now),
        }
        let width = usize::from(foot.width);
        let line = match self.notice(now.since) {
            Some(notice) => Line::styled(cell(&plain(notice.as_bytes()), width), strong()),
            None if self.over.is_none() => Line::styled(cell(KEYS, width), dim()),
            None => Line::styled(cell("Esc back  ↑↓ scroll  q quit", width), dim()),
        };
        frame.render_widget(Paragraph::new(line), foot);
        drawn
    }

    fn coloured(&self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    fn severity(&self, severity: Severity) -> Style {
        match severity {
            Severity::Critical => self.coloured(Color::Red).add_modifier(Modifier::BOLD),
            Severity::High => self.coloured(Color::Red),
            Severity::Medium => self.coloured(Color::Yellow),
            Severity::Low | Severity::Info => Style::new(),
        }
    }

    fn head(&self, width: u16) -> Line<'static> {
        let width = usize::from(width);
        let Some((from, status)) = self.peers.iter().find(|(_, status)| !status.is_null()) else {
            let said = match self.peers.len() {
                0 => "nobody to ask".to_owned(),
                count => format!("{count} asked, no daemon among them"),
            };
            return Line::styled(cell(&format!("top   {said}"), width), strong());
        };
        let at = |path: &str| {
            let value = status.pointer(path).unwrap_or(&Value::Null);
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            output::shorten(&plain(text.as_bytes()), 40)
        };
        let watches = match status.pointer("/watch/unwatched").and_then(Value::as_str) {
            Some(why) => format!("watches nothing: {}", plain(why.as_bytes())),
            None => format!("level {}", at("/watch/level")),
        };
        let lost =
            status.pointer("/watch/losses").and_then(Value::as_object).is_some_and(|lost| !lost.is_empty());
        let mode = if at("/mode") == "null" { "its own".to_owned() } else { at("/mode") };
        let mut said = format!(
            "top   daemon {}   {watches}   policy {}   mode {mode}   {} events/s",
            at("/version"),
            at("/policy"),
            at("/watch/events_per_second"),
        );
        if lost {
            said.push_str("   LOSSES, see status");
        }
        if let Some(why) = self.trouble.get(from).or_else(|| self.trouble.values().next()) {
            said = format!("top   {}", plain(why.as_bytes()));
        }
        Line::styled(cell(&said, width), strong())
    }

    fn lists(&self, frame: &mut Frame<'_>, area: Rect, now: Now) {
        let heights = [Constraint::Fill(3), Constraint::Fill(4), Constraint::Fill(4)];
        let [top, middle, bottom] = Layout::vertical(heights).areas(area);
        self.sessions(frame, top, now);
        if let Some(looked) = &self.absent {
            Self::nobody(frame, middle, looked);
        } else {
            self.approvals(frame, middle, now);
        }
        self.findings(frame, bottom, now);
    }

    fn block(title: &str, focused: bool) -> Block<'static> {
        let style = if focused { strong() } else { dim() };
        Block::bordered().border_style(style).title(Span::styled(format!(" {title} "), style))
    }

    fn list(
        frame: &mut Frame<'_>,
        area: Rect,
        block: Block<'_>,
        head: String,
        rows: impl ExactSizeIterator<Item = (String, Style)>,
        selected: Option<usize>,
    ) {
        let inner = block.inner(area);
        let height = usize::from(inner.height).saturating_sub(1);
        let skip = selected.map_or(0, |at| (at + 1).saturating_sub(height));
        let mut lines = vec![Line::styled(head, dim())];
        for (at, (text, style)) in rows.enumerate().skip(skip).take(height) {
            let style = if selected == Some(at) { style.add_modifier(Modifier::REVERSED) } else { style };
            lines.push(Line::styled(text, style));
        }
        frame.render_widget(Paragraph::new(lines).block(block), area);
    }

    fn sessions(&self, frame: &mut Frame<'_>, area: Rect, now: Now) {
        let width = usize::from(area.width.saturating_sub(2));
        let focused = self.pane == Pane::Sessions;
        let block = Self::block(&format!("sessions {}", self.sessions.len()), focused);
        let selected =
            self.session.and_then(|id| self.sessions.iter().position(|one| one.live.session == id));
        let head = session_row(
            ["SESSION", "AGENT", "USER", "PID", "SINCE", "RATE", "BLOCK", "ALERT", "ASK", "POSTURE"],
            width,
        );
        let rows = self.sessions.iter().map(|one| (self.session(one, now, width), Style::new()));
        Self::list(frame, area, block, head, rows, selected.filter(|_| focused));
    }

    fn session(&self, one: &Session, now: Now, width: usize) -> String {
        let live = &one.live;
        let key = (one.from.clone(), live.session);
        let counts = self.counts.get(&key).copied().unwrap_or_default();
        let posture = self.postures.get(&key).map_or(if live.adopted { "detects" } else { "-" }, |text| text);
        let since = live.since.and_then(|since| u64::try_from(now.wall.0.saturating_sub(since.0)).ok());
        let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        let texts = [
            live.session.to_string(),
            dash(plain(live.agent.as_bytes())),
            dash(plain(live.user.as_bytes())),
            live.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            since.map_or_else(|| "-".to_owned(), output::duration),
            one.per_second().map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}/s")),
            counts.blocked.to_string(),
            counts.alerts.to_string(),
            counts.asked.to_string(),
            posture.to_owned(),
        ];
        session_row(texts.each_ref().map(String::as_str), width)
    }

    fn approvals(&self, frame: &mut Frame<'_>, area: Rect, now: Now) {
        let width = usize::from(area.width.saturating_sub(2));
        let focused = self.pane == Pane::Approvals;
        let block = Self::block(&format!("approvals {}", self.approvals.len()), focused);
        let selected =
            self.approval.as_ref().and_then(|key| self.approvals.iter().position(|one| one.key == *key));
        let head = approval_row(["SEVERITY", "LEFT", "RULE", "EFFECT", "OBJECT", "WAITS"], width);
        let rows = self.approvals.iter().map(|one| {
            let subject = &one.approval.subject;
            let texts = [
                one.approval.severity.to_string(),
                left(one, now.since),
                plain(subject.rule.as_bytes()),
                plain(subject.effect.as_bytes()),
                plain(&subject.object.0),
                waits(one),
            ];
            (approval_row(texts.each_ref().map(String::as_str), width), self.severity(one.approval.severity))
        });
        Self::list(frame, area, block, head, rows, selected.filter(|_| focused));
    }

    fn findings(&self, frame: &mut Frame<'_>, area: Rect, now: Now) {
        let width = usize::from(area.width.saturating_sub(2));
        let focused = self.pane == Pane::Findings;
        let block = Self::block("findings, blocks, answers", focused);
        let selected = self.row.as_ref().and_then(|row| self.found.iter().position(|one| one.is(row)));
        let head = found_row(["AGO", "SESSION", "", "WHAT"], width);
        let rows = self.found.iter().map(|one| {
            let record = &one.stored.record;
            let session = one.stored.session().map_or_else(|| "-".to_owned(), |session| session.to_string());
            let what = harden(&describe::record(record));
            let word = rows::word(record);
            let style = match word {
                "block" | "denied" => self.coloured(Color::Red),
                "found" => self.coloured(Color::Yellow),
                _ => Style::new(),
            };
            (found_row([&ago(one, now), &session, word, &what], width), style)
        });
        Self::list(frame, area, block, head, rows, selected.filter(|_| focused));
    }

    fn nobody(frame: &mut Frame<'_>, area: Rect, looked: &[String]) {
        let block = Self::block("nobody to ask: trying again every second", true);
        let width = usize::from(block.inner(area).width);
        let mut lines = vec![
            "Start a daemon:   defenseclaw daemon   (as a service: systemctl start defenseclaw)".to_owned(),
            "or as root a run: defenseclaw run --policy POLICY --mode hitl -- COMMAND".to_owned(),
        ];
        lines.extend(looked.iter().map(|text| plain(text.as_bytes())));
        let lines: Vec<_> = lines.iter().flat_map(|line| wrap(line, width)).map(Line::raw).collect();
        frame.render_widget(Paragraph::new(lines).block(block), area);
    }

    fn help(frame: &mut Frame<'_>, area: Rect) {
        let lines: Vec<_> = include_str!("draw/help.txt").lines().map(Line::raw).collect();
        frame.render_widget(Clear, area);
        frame.render_widget(Paragraph::new(lines).block(Self::block("help", true)), area);
    }

    /// A row of the audit in full; the last row to scroll to.
    fn row(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        row: &(super::message::From, u64),
        scroll: usize,
        now: Now,
    ) -> usize {
        let block = Self::block(&format!("row {} of the audit", row.1), true);
        let inner = block.inner(area);
        let mut lines = Vec::new();
        if let Some(one) = self.found.iter().find(|one| one.is(row)) {
            let session =
                one.stored.session().map_or_else(|| "none".to_owned(), |session| session.to_string());
            lines.push(format!(
                "session {session}, {} ago, at {}",
                ago(one, now),
                plain(row.0.as_os_str().as_encoded_bytes())
            ));
            lines.push(String::new());
            lines.push(harden(&describe::record(&one.stored.record)));
        } else {
            lines.push("it is not kept here any more: `defenseclaw events` has it".to_owned());
        }
        let lines: Vec<_> = lines.iter().flat_map(|line| wrap(line, usize::from(inner.width))).collect();
        let last = lines.len().saturating_sub(usize::from(inner.height));
        let shown: Vec<_> = lines.into_iter().skip(scroll.min(last)).map(Line::raw).collect();
        frame.render_widget(Paragraph::new(shown).block(block), area);
        last
    }
}

fn strong() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn ago(one: &Found, now: Now) -> String {
    rows::time(&one.stored.record)
        .map_or_else(|| "-".to_owned(), |at| output::duration(now.boot.0.saturating_sub(at.0)))
}

/// Time until the fallback applies.
fn left(one: &Question, now: Duration) -> String {
    format!("{} s", one.ends.saturating_sub(now).as_secs())
}

fn waits(one: &Question) -> String {
    let who = match &one.approval.waiter {
        Waiter::Paused { process, .. } => format!("pid {}", process.tgid),
        Waiter::Held { process } => format!("exec {}", process.tgid),
        Waiter::Hook { process, .. } => format!("hook {}", process.tgid),
        Waiter::Agent { .. } => "agent".to_owned(),
        Waiter::Retry { process, .. } => format!("retry {}", process.tgid),
    };
    match one.waiters {
        0 | 1 => who,
        more => format!("{who} +{}", more - 1),
    }
}

/// Cells with a blank between them, the widths given; what is left goes to the cell without one.
fn columns(cells: &[(&str, Option<usize>, bool)], width: usize) -> String {
    let fixed: usize = cells.iter().filter_map(|cell| cell.1).sum::<usize>() + cells.len().saturating_sub(1);
    let mut out = String::new();
    for (at, (text, wide, to_right)) in cells.iter().enumerate() {
        if at > 0 {
            out.push(' ');
        }
        let wide = wide.unwrap_or_else(|| width.saturating_sub(fixed));
        out.push_str(&if *to_right { right(text, wide) } else { cell(text, wide) });
    }
    out
}

fn session_row(texts: [&str; 10], width: usize) -> String {
    let wide = width >= 110;
    let [id, agent, user, pid, since, rate, blocked, alerts, asked, posture] = texts;
    // The beginning of an id is enough to name it elsewhere.
    let id = if wide { id } else { id.get(..8).unwrap_or(id) };
    let cells = [
        (id, Some(if wide { 16 } else { 8 }), false),
        (agent, Some(if wide { 20 } else { 11 }), false),
        (user, Some(if wide { 16 } else { 7 }), false),
        (pid, Some(7), true),
        (since, Some(9), true),
        (rate, Some(if wide { 8 } else { 6 }), true),
        (blocked, Some(5), true),
        (alerts, Some(5), true),
        (asked, Some(3), true),
        (posture, None, false),
    ];
    columns(&cells, width)
}

fn approval_row(texts: [&str; 6], width: usize) -> String {
    let wide = width >= 110;
    let [severity, left, rule, effect, object, waits] = texts;
    let cells = [
        (severity, Some(8), false),
        (left, Some(6), true),
        (rule, Some(if wide { 28 } else { 13 }), false),
        (effect, Some(if wide { 20 } else { 11 }), false),
        (object, None, false),
        (waits, Some(if wide { 22 } else { 11 }), false),
    ];
    columns(&cells, width)
}

fn found_row(texts: [&str; 4], width: usize) -> String {
    let wide = width >= 110;
    let [ago, session, word, what] = texts;
    let session = if wide { session } else { session.get(..8).unwrap_or(session) };
    let cells = [
        (ago, Some(9), true),
        (session, Some(if wide { 16 } else { 8 }), false),
        (word, Some(7), false),
        (what, None, false),
    ];
    columns(&cells, width)
}
