//! One question on the whole screen: the object first and in full, then everything else that is known; the keys below.

use std::fmt::Write as _;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::Modifier,
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{
    super::{
        detail::{Detail, Stage},
        message::Now,
        text::{self, cell, exact, harden, plain, wrap},
        view::View,
    },
    dim, left, strong,
};
use crate::{
    cli::{describe, output},
    model::Waiter,
};

/// Columns of the names of what is said.
const LABEL: usize = 11;

impl View {
    /// Whether the end of the object is on the screen, and the last row to scroll to.
    pub(super) fn question(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        detail: &Detail,
        now: Now,
    ) -> (bool, usize) {
        let approval = &detail.question.approval;
        let block = Self::block(&format!("approval {}", approval.id), true);
        let inner = block.inner(area);
        frame.render_widget(block, area);
        let [top, body, bottom] =
            Layout::vertical([Constraint::Length(2), Constraint::Fill(1), Constraint::Length(4)])
                .areas(inner);
        let time = if detail.gone {
            "not open any more".to_owned()
        } else {
            format!("{} left, then {}", left(&detail.question, now.since), approval.fallback)
        };
        let head = vec![
            Span::styled(format!("{}  ", approval.severity), self.severity(approval.severity)),
            Span::styled(plain(approval.subject.effect.as_bytes()), strong()),
            Span::raw(format!("   {time}")),
        ];
        frame.render_widget(Paragraph::new(Line::from(head)), top);

        let width = usize::from(body.width).saturating_sub(LABEL);
        let mut lines = Vec::new();
        let mut say = |label: &str, text: &str| {
            for (at, row) in wrap(text, width).into_iter().enumerate() {
                let label = if at == 0 { label } else { "" };
                lines.push(vec![Span::styled(cell(label, LABEL), dim()), Span::raw(row)]);
            }
            lines.len()
        };
        // What must have been seen before a yes: the object, then the rule that would be written.
        let vital = if let Stage::Always(rule) = &detail.stage {
            let (path, diff) = rule.as_ref().map_or(("…", ""), |rule| (&*rule.path, &*rule.diff));
            let mut rows = say("writes", &plain(path.as_bytes()));
            for line in diff.lines() {
                rows = say("", &text::line(line));
            }
            rows
        } else {
            let object = &approval.subject.object.0;
            let mut rows = say("object", &plain(object));
            if let Some(exact) = exact(object) {
                rows = say("exactly", &exact);
            }
            for (label, text) in said(detail, now) {
                say(label, &text);
            }
            rows
        };
        let height = usize::from(body.height);
        let last = lines.len().saturating_sub(height);
        let scroll = detail.scroll.min(last);
        let end = scroll + height >= vital;
        let more = lines.len().saturating_sub(scroll + height);
        for (at, line) in lines.iter_mut().enumerate() {
            if at < vital
                && let Some(text) = line.get_mut(1)
            {
                text.style = strong();
            }
        }
        let shown: Vec<_> = lines.into_iter().skip(scroll).take(height).map(Line::from).collect();
        frame.render_widget(Paragraph::new(shown), body);
        self.answers(frame, bottom, detail, more, end || detail.seen, now);
        (end, last)
    }

    fn answers(&self, frame: &mut Frame<'_>, area: Rect, detail: &Detail, more: usize, seen: bool, now: Now) {
        let width = usize::from(area.width);
        let rule = match more {
            0 => "─".repeat(width),
            more => cell(&format!("── {more} more rows below (↓ PgDn End) {}", "─".repeat(width)), width),
        };
        let mut lines = vec![Line::styled(rule, dim())];
        let armed = detail.is_armed(now.since);
        match &detail.stage {
            _ if detail.gone => {
                let how = self.outcome(detail.key()).map(|record| harden(&describe::record(record)));
                lines.push(Line::styled("It is not open any more. Esc goes back.", strong()));
                lines.extend(how.map(Line::raw));
            }
            Stage::Sending => lines.push(Line::styled("sending the answer…", strong())),
            Stage::Message(text) => {
                let keys = if armed { "Enter sends, Esc goes back" } else { "…" };
                lines.push(Line::raw(format!("deny, and tell the agent ({keys}):")));
                let text = format!("{}▏", plain(text.as_bytes()));
                let rows = wrap(&text, width);
                // The end is where it is being written.
                lines
                    .extend(rows.iter().skip(rows.len().saturating_sub(2)).map(|row| Line::raw(row.clone())));
            }
            Stage::Always(None) => {
                lines.push(Line::styled("asking which rule would be written…", strong()));
            }
            Stage::Always(Some(_)) => {
                lines.push(Line::styled(
                    "`always` writes this to the local policy, and it holds for later sessions too",
                    strong(),
                ));
                lines.push(if armed && detail.rule_seen {
                    Line::raw("y write the rule and allow   Esc back")
                } else {
                    Line::styled("…", dim())
                });
            }
            Stage::Reading => {
                if let Some(problem) = &detail.problem {
                    let text = format!("not answered: {}", plain(problem.as_bytes()));
                    lines.push(Line::styled(cell(&text, width), strong()));
                }
                let style = if armed { strong() } else { dim() };
                let style = if seen { style } else { style.remove_modifier(Modifier::BOLD) };
                lines.push(match (armed, seen) {
                    (false, _) => Line::styled("…", style),
                    (true, true) => {
                        Line::styled("y once  s this session  n deny  m deny and say why  A always", style)
                    }
                    (true, false) => Line::styled(
                        "the object goes on below: see its end to allow it   n deny  m deny and say why",
                        style,
                    ),
                });
            }
        }
        frame.render_widget(Paragraph::new(lines), area);
    }
}

fn said(detail: &Detail, now: Now) -> Vec<(&'static str, String)> {
    let question = &detail.question;
    let approval = &question.approval;
    let mut said = vec![
        ("rule", plain(approval.subject.rule.as_bytes())),
        ("reason", plain(approval.reason.as_bytes())),
        ("command", harden(&describe::command(&approval.command))),
    ];
    for (at, above) in approval.ancestry.iter().enumerate() {
        let text = format!("{} (pid {})", plain(&above.exe.0), above.process.tgid);
        said.push((if at == 0 { "run by" } else { "" }, text));
    }
    let mut waits = match &approval.waiter {
        Waiter::Paused { process, tid } => {
            format!("thread {tid} of process {}, paused before it happens", process.tgid)
        }
        Waiter::Held { process } => {
            format!("process {}, held before its first instruction", process.tgid)
        }
        Waiter::Hook { process, .. } => format!("the agent, for its hook (process {})", process.tgid),
        Waiter::Agent { process } => {
            format!("the agent asks in its own dialogue as well (process {})", process.tgid)
        }
        Waiter::Retry { process, .. } => {
            format!("nobody: process {} was refused, a yes lets the next try pass", process.tgid)
        }
    };
    if question.waiters > 1 {
        // Writing to a String cannot fail.
        write!(waits, "; {} more", question.waiters - 1).ok();
    }
    said.push(("waits", waits));
    if let Some(call) = approval.tool_call {
        said.push(("tool call", call.to_string()));
    }
    let agent = approval.connector.map(|connector| connector.to_string());
    let named = approval.agent_session.as_ref().map(|name| format!("session {}", plain(name.as_bytes())));
    let agent: Vec<_> = agent.into_iter().chain(named).collect();
    if !agent.is_empty() {
        said.push(("agent", agent.join(", ")));
    }
    let session = approval.session.map_or_else(|| "none is watched".to_owned(), |id| id.to_string());
    said.push(("session", session));
    said.push(("user", format!("uid {}", approval.uid)));
    let ago = output::duration(now.boot.0.saturating_sub(approval.since.0));
    said.push(("asked", format!("{ago} ago")));
    let ends = approval.deadline.0.saturating_sub(approval.since.0);
    said.push((
        "deadline",
        format!("{} after it was asked, then: {}", output::duration(ends), approval.fallback),
    ));
    said.push(("kept by", plain(question.key.from.as_os_str().as_encoded_bytes())));
    said
}
