//! Enrolling what runs already, and the tool call that children are born with. The subject is a shell that is told line by
//! line what to start.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use defenseclaw::{
    model::{Action, Event, ProcessKey, SessionId, ToolCallId},
    sensor::{self, Sensor, SensorOptions, TICK_NS},
};
use libtest_mimic::Failed;

use super::observe::{Deadline, SESSION};

struct Shell {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Shell {
    fn new() -> Result<Self, Failed> {
        let script = "while read -r line; do eval \"$line\"; echo done; done";
        let mut command = Command::new("bash");
        let mut child = command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().ok_or("no pipe")?;
        let output = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        Ok(Self { child, input, output })
    }

    fn run(&mut self, line: &str) -> Result<(), Failed> {
        writeln!(self.input, "{line}")?;
        let mut reply = String::new();
        self.output.read_line(&mut reply)?;
        if reply == "done\n" { Ok(()) } else { Err(format!("{line}: {reply:?}").into()) }
    }

    fn key(&self) -> Result<ProcessKey, Failed> {
        let facts = sensor::process_facts(self.child.id()).ok_or("the shell is gone")?;
        Ok(ProcessKey { tgid: self.child.id(), start_ns: facts.start_ticks * TICK_NS })
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Reads until a program with this argument has ended.
fn until_end_of(sensor: &mut Sensor, argument: &str, events: &mut Vec<Event>) -> Result<(), Failed> {
    let deadline = Deadline::new();
    loop {
        sensor.read(events, 4096);
        let ran = programs(events);
        let over = |event: &Event| {
            matches!(event.action, Action::ProcessExit { .. })
                && ran.get(argument).is_some_and(|(process, _)| *process == event.process)
        };
        if events.iter().any(over) {
            return Ok(());
        }
        deadline.wait(|| format!("no end of {argument}: {events:#?}"))?;
    }
}

/// Process and label of each started program, by its last argument.
fn programs(events: &[Event]) -> HashMap<String, (ProcessKey, Option<ToolCallId>)> {
    let mut found = HashMap::new();
    for event in events {
        if let Action::ProcessExec(exec) = &event.action {
            let last = exec.argv.last().map(|text| text.lossy().into_owned()).unwrap_or_default();
            found.insert(last, (event.process, event.tool_call));
        }
    }
    found
}

pub(crate) fn labels() -> Result<(), Failed> {
    let mut sensor = Sensor::load(&SensorOptions::default())?;
    let mut shell = Shell::new()?;
    let process = shell.key()?;
    assert!(sensor.enrol_running(process, SESSION)?);
    let calls = [ToolCallId(1), ToolCallId(u64::MAX)];
    shell.run("/bin/true none")?;
    assert!(sensor.label(process, Some(calls[0]))?);
    shell.run("/bin/true first")?;
    // Goes on when its call is over, and so do those that it makes then.
    let directory = tempfile::tempdir()?;
    let gate = directory.path().join("gate");
    let gate = gate.display();
    shell.run(&format!("mkfifo {gate}; (read x < {gate}; /bin/true late) & late=$!"))?;
    assert!(sensor.label(process, Some(calls[1]))?);
    shell.run("/bin/true second")?;
    shell.run(&format!("echo x > {gate}; wait $late"))?;
    assert!(sensor.label(process, None)?);
    shell.run("/bin/sh -c '/bin/true; exit' after")?;
    let mut events = Vec::new();
    until_end_of(&mut sensor, "after", &mut events)?;
    let ran: HashMap<_, _> = programs(&events).into_iter().map(|(name, (_, call))| (name, call)).collect();
    let want = [
        ("none", None),
        ("first", Some(calls[0])),
        ("second", Some(calls[1])),
        ("late", Some(calls[0])),
        ("after", None),
    ];
    for (name, call) in want {
        assert_eq!(ran.get(name), Some(&call), "{name}: {ran:?}");
    }
    // It does not take back the start that the kernel's programs have filled in, nor the session.
    assert!(events.iter().all(|event| event.session == SESSION && event.process.start_ns != 0));
    let own: Vec<_> = events.iter().filter(|event| event.process.tgid == process.tgid).collect();
    assert!(!own.is_empty() && own.iter().all(|event| event.process == process), "{own:#?}");
    // Somebody else with that pid, and somebody who has ended.
    let other = ProcessKey { start_ns: process.start_ns + 100 * TICK_NS, ..process };
    assert!(!sensor.label(other, Some(calls[0]))?);
    drop(shell);
    let deadline = Deadline::new();
    while sensor.label(process, Some(calls[0]))? {
        deadline.wait(|| "the label outlives its process".to_owned())?;
    }
    assert!(sensor.enrolled().is_empty());
    Ok(())
}

pub(crate) fn running() -> Result<(), Failed> {
    let mut sensor = Sensor::load(&SensorOptions::default())?;
    let shell = Shell::new()?;
    let process = shell.key()?;
    let other = SessionId(9);
    assert_eq!(sensor.session_of(process)?, None);
    assert!(sensor.enrol_running(process, SESSION)?);
    assert!(!sensor.enrol_running(process, other)?, "taken from its session");
    assert_eq!(sensor.session_of(process)?, Some(SESSION));
    // It is looked at before it has done anything, so another start is not refused yet: a pid means one process.
    let gone = ProcessKey { tgid: process.tgid, start_ns: process.start_ns + 500 * TICK_NS };
    drop(shell);
    let deadline = Deadline::new();
    while sensor.session_of(process)?.is_some() {
        deadline.wait(|| "it stays enrolled after its end".to_owned())?;
    }
    assert!(!sensor.enrol_running(gone, SESSION)?, "enrolled although it is not there");
    assert!(sensor.enrolled().is_empty());
    Ok(())
}
