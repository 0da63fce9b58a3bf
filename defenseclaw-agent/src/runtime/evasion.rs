//! Starts of agents that pass our hooks by, found in the programs that the kernel sees. What each agent can be told is in
//! `connectors`.

use std::{
    fs::File,
    io::{self, Read},
};

use crate::{
    connectors,
    model::{Action, Connector, Event, EventKind, EvidenceRef, Exec, Finding, ProcessKey, Severity, Text},
    sensor,
};

/// Bytes of an environment that are looked at.
const ENVIRONMENT_MAX: u64 = 1 << 20;

/// One finding for a start, whatever number of ways it takes.
pub(super) fn of(event: &Event) -> Option<Finding> {
    let Action::ProcessExec(exec) = &event.action else { return None };
    let (connector, at) = agent(exec)?;
    // Names alone matter, and none is kept: the kernel's record leaves variables in the process. One that has ended has
    // shown its arguments only.
    let environment = environment(event.process).unwrap_or_default();
    let variables: Vec<&[u8]> = environment.split(|byte| *byte == 0).collect();
    found(event, exec, connector, at, &variables)
}

fn agent(exec: &Exec) -> Option<(Connector, usize)> {
    connectors::started(&words(exec))
}

fn words(exec: &Exec) -> Vec<&[u8]> {
    exec.argv.iter().map(|word| word.0.as_slice()).collect()
}

fn environment(process: ProcessKey) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{}/environ", process.tgid))?.take(ENVIRONMENT_MAX).read_to_end(&mut bytes)?;
    if sensor::is_alive(process) { Ok(bytes) } else { Ok(Vec::new()) }
}

fn found(
    event: &Event,
    exec: &Exec,
    connector: Connector,
    at: usize,
    variables: &[&[u8]],
) -> Option<Finding> {
    let words = words(exec);
    let ways = connectors::evasions(connector, words.get(at..)?, variables);
    if ways.is_empty() {
        return None;
    }
    let managed = ways.iter().any(|way| way.managed);
    let names = ways.iter().map(|way| way.way).collect::<Vec<_>>().join(", ");
    let which =
        if managed { "hooks do not run, managed ones included" } else { "hooks of the user do not run" };
    Some(Finding {
        session: event.session,
        boot: event.time,
        rule: "correlate.hooks_evaded".to_owned(),
        severity: if managed { Severity::High } else { Severity::Medium },
        summary: format!("{connector} was started with {names}: its {which}"),
        tool_call: event.tool_call,
        process: Some(event.process),
        evidence: vec![EvidenceRef {
            time: event.time,
            process: event.process,
            kind: EventKind::ProcessExec,
            what: Text(exec.exe.path.text.0.clone()),
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BootTime, FileRef, KernelPath, SessionId, Vantage};

    fn start(line: &[&str], variables: &[&[u8]]) -> Option<Finding> {
        let process = ProcessKey { tgid: 5, start_ns: 6 };
        let exec = Exec {
            exe: FileRef::default(),
            filename: Text::default(),
            interpreter: None,
            cwd: KernelPath::default(),
            argv: line.iter().map(|word| Text(word.as_bytes().to_vec())).collect(),
            argv_truncated: false,
            session_env: Vec::new(),
            euid: 0,
            gid: 0,
            egid: 0,
            parent: process,
        };
        let event = Event {
            time: BootTime(7),
            session: SessionId(1),
            process,
            tid: 5,
            uid: 0,
            cgroup: 0,
            tool_call: None,
            result: None,
            vantage: Vantage::Kernel,
            verdict: None,
            decision: None,
            action: Action::ProcessExec(Box::new(exec.clone())),
        };
        let (connector, at) = agent(&exec)?;
        found(&event, &exec, connector, at, variables)
    }

    #[test]
    fn only_starts_of_agents_that_pass_hooks_by_are_found() {
        let settings: &[&[u8]] = &[b"HOME=/h", b"GEMINI_CLI_SYSTEM_SETTINGS_PATH=/x"];
        for (line, variables, way) in [
            (&["claude", "--bare", "-p", "x"][..], &[][..], Some("--bare")),
            (&["node", "/usr/lib/node_modules/.bin/claude", "--bare"], &[], Some("--bare")),
            (&["gemini", "-p", "x"], settings, Some("GEMINI_CLI_SYSTEM_SETTINGS_PATH")),
            (&["claude", "-p", "x"], settings, None),
            (&["git", "clone", "--bare", "x"], settings, None),
            (&[], settings, None),
        ] {
            let found = start(line, variables);
            assert_eq!(found.is_some(), way.is_some(), "{line:?}: {found:?}");
            assert!(found.is_none_or(|found| found.summary.contains(way.unwrap_or_default())), "{line:?}");
        }
    }
}
