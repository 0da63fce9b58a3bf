//! Why something was given to a tool call, as lines.

use super::{
    RenderOptions,
    calls::{finding, first_line, wrapped},
    line::{Line, Role, shorten},
};
use crate::{
    cli::{describe, output::escape},
    model::{Attributed, BootTime, Correlated, Evidence, Seen},
    report::{CallFacts, Explanation},
};

pub(super) fn lines(explanation: &Explanation, options: &RenderOptions) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut line = |line: Line| lines.push(line);
    if let Some(event) = &explanation.event {
        let what = describe::event(event);
        let head = format!("{} by process {}: {what}", event.kind().as_str(), event.process.tgid);
        line(Line::new().with(Role::Heading, shorten(&head, options.width)));
        line(match (&explanation.call, event.tool_call) {
            (Some(call), Some(_)) => Line::new().plain(format!("  done for {}", named(call))),
            (Some(call), None) => {
                Line::new().plain(format!("  done for {}; that was known only later", named(call)))
            }
            (None, Some(call)) => {
                Line::new().plain(format!("  done for {call}, which was announced before this was recorded"))
            }
            (None, None) => Line::new().with(Role::Warning, "  no tool call explains it"),
        });
        for (place, link) in explanation.chain.iter().enumerate() {
            let from = if place == 0 { "process" } else { "made by" };
            let command = escape(link.command.as_bytes());
            let text = format!("  {from} {} {command}", link.process.tgid);
            line(Line::new().plain(shorten(&text, options.width)));
            if let Some(one) = &link.attributed {
                line(Line::new().with(Role::Good, format!("    {}", because(one))));
            }
        }
    } else if let Some(call) = &explanation.call {
        line(Line::new().with(Role::Heading, shorten(&named(call), options.width)));
        line(Line::new().plain(format!("  announced in row {}, answered with {}", call.seq, call.answer)));
    }
    if let Some(row) = &explanation.row {
        lines.extend(wrapped(&conclusion(row), 2, Role::Plain, options));
        if explanation.event.is_none() {
            for one in &row.attributed {
                let text = format!("  {} {}", one.process.tgid, escape(&one.what.0));
                lines.push(Line::new().plain(shorten(&text, options.width)));
                lines.push(Line::new().with(Role::Good, format!("    {}", because(one))));
            }
            if row.unlisted > 0 {
                lines.push(Line::new().dim(format!("  and {} more", row.unlisted)));
            }
        }
    }
    let own = explanation.call.as_ref().map(|call| call.tool_call);
    let others: Vec<&CallFacts> =
        explanation.open_then.iter().filter(|call| Some(call.tool_call) != own).collect();
    if others.is_empty() {
        lines.push(Line::new().dim("  no other call was open then"));
    } else {
        lines.push(Line::new().dim("  open at the same time:"));
        for call in others {
            lines.push(Line::new().dim(shorten(&format!("    {}", named(call)), options.width)));
        }
    }
    lines.extend(explanation.findings.iter().flat_map(|found| finding(found, 2, options)));
    lines
}

fn named(call: &CallFacts) -> String {
    let CallFacts { tool_call, own_id, tool, what, opened: BootTime(opened), closed, .. } = call;
    let own =
        own_id.as_ref().map(|own| format!(", the agent's {}", escape(own.as_bytes()))).unwrap_or_default();
    let open = closed.map_or_else(
        || "not ended".to_owned(),
        |BootTime(closed)| super::words::duration(closed.saturating_sub(*opened)),
    );
    format!("{tool_call} {} {} ({open}{own})", escape(tool.as_bytes()), escape(first_line(what).as_bytes()))
}

fn conclusion(row: &Correlated) -> String {
    let Seen { processes, files, connects, .. } = row.seen;
    let reason = escape(row.reason.as_bytes());
    format!(
        "{}: {reason}; {processes} processes, {files} file events, {connects} connections",
        row.correlation
    )
}

fn because(one: &Attributed) -> String {
    let why = match one.by {
        Evidence::CallId => "its environment names the call",
        Evidence::Text => "its arguments hold the announced text",
        Evidence::Words => "its arguments are the announced command",
        Evidence::Argument => "its arguments hold a value that was passed to the tool",
        Evidence::Target => "the agent itself touched what the call names, while it was open",
        Evidence::ProcessGroup => "the result of the call names its process group",
        Evidence::Label => {
            "the kernel gave it the label of the call when it was born: no other call was open"
        }
        Evidence::OnlyOpen => "no other call was open that can have started it",
        Evidence::Agent => "an agent that works for the call started it",
    };
    if one.alternatives.is_empty() {
        return why.to_owned();
    }
    let others: Vec<_> = one.alternatives.iter().map(ToString::to_string).collect();
    format!("{why}; {} fit as well, and the oldest was taken", others.join(", "))
}
