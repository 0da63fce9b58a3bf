//! Prompts, tool calls, and what was done for them, as lines.

use super::{
    RenderOptions,
    line::{Line, Role, shorten, wrap},
    words,
};
use crate::{
    cli::{describe, output::escape},
    model::{Correlation, ExitStatus, Finding, PolicyAction, Severity},
    report::{CallNode, CallProcess, Calls, Report, TouchedFile, Unexplained},
};

/// Files, endpoints and processes of one call that are shown.
const SHOWN: usize = 8;

pub(super) fn lines(report: &Report, calls: &Calls, options: &RenderOptions) -> Vec<Line> {
    let mut lines = Vec::new();
    for prompt in &calls.prompts {
        lines.push(Line::new());
        let at = Line::new().dim(words::offset(prompt.at_ns));
        let text = prompt.text.as_deref().map(|text| escape(first_line(text).as_bytes()));
        let text = text.map_or_else(|| "before any prompt".to_owned(), |text| format!("prompt: {text}"));
        let room = options.width.saturating_sub(at.width() + 2);
        lines.push(Line::new().with(Role::Heading, shorten(&text, room)).flush_right(at, options.width));
        for call in &prompt.calls {
            lines.extend(self::call(report, call, options));
        }
        if prompt.calls.is_empty() {
            lines.push(Line::new().dim("  no tool call"));
        }
    }
    if calls.unlisted > 0 {
        lines
            .push(Line::new().with(Role::Warning, format!("  {} more calls are not listed", calls.unlisted)));
    }
    if !calls.unexplained.is_empty() {
        lines.push(Line::new());
        lines.push(Line::new().with(Role::Heading, "No tool call"));
        lines.extend(calls.unexplained.iter().flat_map(|row| unexplained(report, row, options)));
    }
    if !calls.findings.is_empty() {
        lines.push(Line::new());
        lines.push(Line::new().with(Role::Heading, "Findings"));
        lines.extend(calls.findings.iter().flat_map(|found| finding(found, 2, options)));
    }
    lines
}

fn call(report: &Report, call: &CallNode, options: &RenderOptions) -> Vec<Line> {
    let (word, role) = match call.correlation {
        Some(Correlation::Matched) => ("matched", Role::Good),
        Some(Correlation::HookOnly) => ("hook only", Role::Dim),
        Some(Correlation::Conflict) => ("CONFLICT", Role::Bad),
        Some(Correlation::KernelOnly) => ("kernel only", Role::Warning),
        None => ("open", Role::Dim),
    };
    let mut right = Line::new();
    if call.answer == PolicyAction::Block {
        right = right.with(Role::Bad, "blocked ");
    }
    right = right.with(role, word);
    let took = call.took_ns.map(words::duration).unwrap_or_default();
    right = right.dim(format!(" {took:>7}"));
    let left = Line::new().dim(format!("  {} ", call.tool_call)).plain(escape(call.tool.as_bytes()));
    let room = options.width.saturating_sub(left.width() + right.width() + 3);
    let what = shorten(&escape(first_line(&call.what).as_bytes()), room);
    let mut lines = vec![left.dim(format!(" {what}")).flush_right(right, options.width)];
    if let (Some(reason), Some(Correlation::Conflict)) = (&call.reason, call.correlation) {
        lines.extend(wrapped(&escape(reason.as_bytes()), 6, Role::Bad, options));
    }
    let shown = |length: usize| if options.full { length } else { length.min(SHOWN) };
    for process in call.processes.iter().take(shown(call.processes.len())) {
        lines.push(self::process(process, options));
    }
    lines.extend(more(call.processes.len(), shown(call.processes.len()), "process"));
    lines.extend(touched(report, &call.files, options));
    for endpoint in call.endpoints.iter().take(shown(call.endpoints.len())) {
        lines.push(Line::new().plain(format!("      connect {}", describe::endpoint(endpoint))));
    }
    lines.extend(more(call.endpoints.len(), shown(call.endpoints.len()), "endpoint"));
    lines.extend(call.findings.iter().flat_map(|found| finding(found, 6, options)));
    lines
}

fn process(process: &CallProcess, options: &RenderOptions) -> Line {
    let indent = " ".repeat(usize::try_from(process.depth).unwrap_or(0).min(options.width / 6) * 2);
    let exit = match process.exit {
        None => Line::new().dim("running"),
        Some(ExitStatus::Code(0)) => Line::new(),
        Some(exit) => Line::new().with(Role::Bad, describe::exit_status(exit)),
    };
    let command = match process.command.as_slice() {
        [] => "(fork)".to_owned(),
        words => describe::command(words),
    };
    let left = Line::new().plain(format!("      {indent}")).dim(format!("{} ", process.process.tgid));
    let room = options.width.saturating_sub(left.width() + exit.width() + 2);
    left.plain(shorten(&command, room)).flush_right(exit, options.width)
}

/// Changed files by name; of read ones those outside of the places that every program reads.
fn touched(report: &Report, files: &[TouchedFile], options: &RenderOptions) -> Vec<Line> {
    let home = report.session.as_ref().map(|session| session.home.0.clone()).unwrap_or_default();
    let project = report.session.as_ref().map(|session| session.project.0.clone()).unwrap_or_default();
    let is_near = |file: &&TouchedFile| {
        let path = file.path.text.0.as_slice();
        let below = |directory: &[u8]| directory.len() > 1 && path.starts_with(directory);
        options.full || file.written || file.removed || below(&home) || below(&project)
    };
    let is_device = |file: &&TouchedFile| file.path.text.0.starts_with(b"/dev/");
    let mut near: Vec<_> =
        files.iter().filter(is_near).filter(|file| options.full || !is_device(file)).collect();
    near.sort_by_key(|file| (!file.removed && !file.written, &file.path.text));
    let shown = if options.full { near.len() } else { near.len().min(SHOWN) };
    let mut lines: Vec<Line> = Vec::new();
    for file in near.iter().take(shown) {
        let (verb, role) = match (file.removed, file.written) {
            (true, _) => ("remove", Role::Warning),
            (false, true) => ("write", Role::Plain),
            (false, false) => ("read", Role::Dim),
        };
        let path = describe::path(&file.path);
        let room = options.width.saturating_sub(6 + verb.len() + 1);
        lines.push(Line::new().plain("      ").with(role, format!("{verb} {}", shorten(&path, room))));
    }
    let rest = files.len() - shown;
    if rest > 0 {
        let rest = words::count(u64::try_from(rest).unwrap_or(u64::MAX), "more file");
        lines.push(Line::new().dim(format!("      … {rest}")));
    }
    lines
}

fn more(all: usize, shown: usize, what: &str) -> Option<Line> {
    let rest = u64::try_from(all.saturating_sub(shown)).unwrap_or(u64::MAX);
    (rest > 0).then(|| Line::new().dim(format!("      … {}", words::count(rest, &format!("more {what}")))))
}

fn unexplained(report: &Report, row: &Unexplained, options: &RenderOptions) -> Vec<Line> {
    let seen = &row.row.seen;
    let what = if row.row.program.is_empty() {
        escape(row.row.reason.as_bytes())
    } else {
        escape(&row.row.program.0)
    };
    let right = Line::new().dim(format!(
        "{}, {}, {}",
        words::count(seen.processes, "process"),
        words::count(seen.files, "file event"),
        words::count(seen.connects, "connection")
    ));
    let pid = row.row.process.map(|process| format!("{} ", process.tgid)).unwrap_or_default();
    let left = Line::new().plain("  ").dim(pid);
    let room = options.width.saturating_sub(left.width() + right.width() + 2);
    let mut lines = vec![left.plain(shorten(&what, room)).flush_right(right, options.width)];
    if !row.row.program.is_empty() {
        lines.extend(wrapped(&escape(row.row.reason.as_bytes()), 6, Role::Dim, options));
    }
    lines.extend(touched(report, &row.files, options));
    for endpoint in row.endpoints.iter().take(SHOWN) {
        lines.push(Line::new().plain(format!("      connect {}", describe::endpoint(endpoint))));
    }
    lines
}

/// A finding, and what it rests on.
pub(super) fn finding(finding: &Finding, indent: usize, options: &RenderOptions) -> Vec<Line> {
    let role = if finding.severity >= Severity::High { Role::Bad } else { Role::Warning };
    let call = finding.tool_call.map(|call| format!(" ({call})")).unwrap_or_default();
    let words = format!(
        "{} {}: {}{call}",
        finding.severity,
        escape(finding.rule.as_bytes()),
        escape(finding.summary.as_bytes())
    );
    let mut lines = wrapped(&words, indent, role, options);
    for one in &finding.evidence {
        let text = format!("{} {} {}", one.kind.as_str(), one.process.tgid, escape(&one.what.0));
        let room = options.width.saturating_sub(indent + 4);
        lines.push(Line::new().dim(format!("{}{}", " ".repeat(indent + 4), shorten(&text, room))));
    }
    lines
}

pub(super) fn wrapped(words: &str, indent: usize, role: Role, options: &RenderOptions) -> Vec<Line> {
    let lines = wrap(words, options.width.saturating_sub(indent), 2);
    lines.into_iter().map(|text| Line::new().plain(" ".repeat(indent)).with(role, text)).collect()
}

pub(super) fn first_line(text: &str) -> &str {
    text.trim().lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{
        cli::render::{Line, RenderOptions, render, render_calls, render_explanation},
        model::{
            Action, Answer, AuditRecord, BootTime, Caller, Connector, ExitStatus, HookCall, HookEvent,
            HookOutput, Intent, MainExit, Phase, PolicyAction, Target, ToolCall, WallTime,
        },
        pipeline::{self, Effect, Input, State},
        report::{
            CallsBuilder, ExplanationBuilder, ReportBuilder, Subject,
            sample::{SESSION, Sample},
        },
    };

    fn tool(id: &str, name: &str, input: serde_json::Value, intents: Vec<Intent>) -> ToolCall {
        ToolCall {
            id: Some(id.to_owned()),
            tool: name.to_owned(),
            input,
            intents,
            output: None,
            failed: false,
            background: false,
            process_group: None,
            mcp: None,
        }
    }

    fn hook(sample: &mut Sample, phase: Phase, tools: Vec<ToolCall>, text: Option<&str>) {
        sample.pass(5);
        let mut event = HookEvent::new(Connector::ClaudeCode, phase, phase.as_str());
        (event.tools, event.text) = (tools, text.map(str::to_owned));
        event.cwd = Some("/home/dev/app".to_owned());
        sample.rows.push(AuditRecord::Hook(Box::new(HookCall {
            session: Some(SESSION),
            wall: WallTime(0),
            boot: BootTime(sample.now),
            caller: Caller { pid: sample.root.tgid, ..Caller::default() },
            connector: Connector::ClaudeCode,
            event: Some(event),
            calls: Vec::new(),
            cut: false,
            problem: None,
            policy: None,
            decision: None,
            answer: Answer::new(PolicyAction::Allow, None, &HookOutput::default()),
            latency_ns: 0,
        })));
        sample.pass(5);
    }

    fn session() -> Sample {
        let mut sample = Sample::start(&["claude"], Sample::lsm());
        let root = sample.root;
        sample.exec(root, "/usr/bin/claude", &["claude"]);
        hook(&mut sample, Phase::PromptSubmit, vec![], Some("fix\u{1b}[31m the test\nplease"));
        let shell = tool(
            "toolu_1",
            "Bash",
            json!({"command": "npm test > out.log"}),
            vec![Intent::Exec(vec![Target::known("npm"), Target::known("test")])],
        );
        let write = tool(
            "toolu_2",
            "Write",
            json!({"file_path": "/home/dev/app/a.rs"}),
            vec![Intent::Write(Target::known("/home/dev/app/a.rs"))],
        );
        hook(&mut sample, Phase::ToolPre, vec![shell.clone()], None);
        let bash = sample.fork(root, 4800);
        sample.exec(bash, "/usr/bin/bash", &["/bin/bash", "-c", "eval 'npm test > out.log' < /dev/null"]);
        sample.create(bash, "/home/dev/app/out.log");
        let npm = sample.fork(bash, 4801);
        sample.exec(npm, "/usr/bin/npm", &["npm", "test"]).read(npm, "/usr/lib/x.so");
        sample.connect(npm, "104.16.0.35", 443, 0).exit(npm, 1).exit(bash, 1);
        hook(&mut sample, Phase::ToolPost, vec![shell], None);
        hook(&mut sample, Phase::ToolPre, vec![write.clone()], None);
        sample.create(root, "/home/dev/app/a.rs");
        hook(&mut sample, Phase::ToolPost, vec![write], None);
        sample.pass(3000).run(root, 4900, &["curl", "-s", "evil"], 5, 0);
        sample.pass(5000).exit(root, 0);
        sample
    }

    /// The rows that the pipeline makes of it.
    fn recorded(sample: &Sample) -> Vec<AuditRecord> {
        let (mut state, mut effects) = (State::new(), Vec::new());
        let mut now = BootTime(0);
        for row in sample.rows.clone() {
            let (time, input) = if let AuditRecord::Event(event) = row {
                (event.time, Input::Event(event))
            } else if let AuditRecord::Hook(call) = row {
                (call.boot, Input::Hook(call))
            } else if let AuditRecord::SessionStart(start) = row {
                (start.boot, Input::Started(start))
            } else {
                panic!("{row:?}")
            };
            now = time;
            pipeline::step(&mut state, input, now, &mut effects);
            pipeline::step(&mut state, Input::Tick, now, &mut effects);
        }
        let status = ExitStatus::Code(0);
        pipeline::step(&mut state, Input::MainExited { session: SESSION, status }, now, &mut effects);
        pipeline::step(&mut state, Input::Stop, BootTime(now.0 + 1), &mut effects);
        let stored = |effect| if let Effect::Store(record) = effect { Some(record) } else { None };
        effects.into_iter().filter_map(stored).collect()
    }

    fn text(lines: &[Line]) -> String {
        lines.iter().flat_map(|line| [line.to_string(), "\n".to_owned()]).collect()
    }

    #[test]
    fn one_view_from_prompt_to_network() {
        let rows = recorded(&session());
        let (mut report, mut calls) = (ReportBuilder::new(), CallsBuilder::new());
        for (seq, row) in (1..).zip(&rows) {
            report.push(seq, row);
            calls.push(seq, row);
        }
        let report = report.finish();
        assert!(
            report.complete && report.end.as_ref().is_some_and(|end| matches!(end.main, MainExit::Ended(_)))
        );
        let calls = calls.finish(&report);
        let (first, second) = (&calls.prompts[0].calls[0], &calls.prompts[0].calls[1]);
        for width in [40, 100, 200] {
            let options = RenderOptions { width, ..RenderOptions::default() };
            let lines = render_calls(&report, &calls, &options);
            assert!(lines.iter().all(|line| line.width() <= width));
        }
        let options = RenderOptions { width: 100, ..RenderOptions::default() };
        let shown = text(&render_calls(&report, &calls, &options));
        for expected in [
            "prompt: fix\\x1b[31m the test ",
            &format!("  {} Bash npm test > out.log ", first.tool_call),
            "      4800 /bin/bash -c 'eval '\\''npm test > out.log'\\'' < /dev/null'",
            "        4801 npm test ",
            "      write /home/dev/app/out.log\n",
            "      … 1 more file\n",
            "      connect tcp 104.16.0.35:443\n",
            &format!("  {} Write /home/dev/app/a.rs ", second.tool_call),
            "      write /home/dev/app/a.rs\n",
            "  4900 curl -s evil ",
            "      no tool call explains it\n",
            "  low correlate.unannounced_exec: the agent started curl -s evil, and no tool call says so\n",
        ] {
            assert!(shown.contains(expected), "no {expected:?} in\n{shown}");
        }
        assert_eq!(shown.matches(" matched ").count(), 2, "{shown}");
        assert!(text(&render(&report, &options)).contains("correlate.unannounced_exec"));
        let json = serde_json::to_value(&calls).unwrap();
        assert_eq!(json["prompts"][0]["calls"][0]["processes"][1]["depth"], 1);
    }

    #[test]
    fn every_row_can_be_explained() {
        let rows = recorded(&session());
        let explain = |subject| {
            let mut builder = ExplanationBuilder::new(subject);
            (1..).zip(&rows).for_each(|(seq, row)| builder.push(seq, row));
            builder.finish().map(|found| text(&render_explanation(&found, &RenderOptions::default())))
        };
        let of = |pid: u32, wanted: &dyn Fn(&Action) -> bool| {
            let is = |row: &AuditRecord| matches!(row, AuditRecord::Event(event) if event.process.tgid == pid && wanted(&event.action));
            let seq = rows.iter().position(is).unwrap() as u64 + 1;
            explain(Subject::Event(seq)).unwrap()
        };
        let connected = of(4801, &|action| matches!(action, Action::NetConnect { .. }));
        assert!(connected.contains("done for t") && connected.contains("made by 4800"), "{connected}");
        assert!(connected.contains("its arguments hold the announced text"), "{connected}");
        let written = of(4711, &|action| matches!(action, Action::FileCreate { .. }));
        assert!(written.contains("the agent itself touched what the call names"), "{written}");
        let stray = of(4900, &|action| matches!(action, Action::ProcessExec(_)));
        assert!(stray.contains("no tool call explains it") && stray.contains("unannounced_exec"), "{stray}");
        let hooks =
            rows.iter().filter_map(|row| if let AuditRecord::Hook(hook) = row { Some(hook) } else { None });
        let call = hooks.flat_map(|hook| hook.calls.clone()).next().unwrap();
        let explained = explain(Subject::Call(call)).unwrap();
        assert!(explained.contains("the agent's toolu_1") && explained.contains("matched: "), "{explained}");
        assert_eq!(explain(Subject::Event(10_000)), None);
    }
}
