//! A job-control shell around the watcher, and one inside: nobody can tell that the watcher is there.

use std::{fs, process::Command};

use libtest_mimic::Trial;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    harness::{child_of, eventually, in_new_session, state, trial},
    terminal::Terminal,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("stop_key_and_fg", stop_key_and_fg),
        trial("a_command_that_stops_itself", a_command_that_stops_itself),
        trial("a_background_read", a_background_read),
        trial("an_interactive_shell", an_interactive_shell),
        trial("a_pager", a_pager),
        trial("an_interrupted_script", an_interrupted_script),
    ]
}

/// An interactive shell in a terminal. `W`, a word of [`ask`], is the watcher.
fn shell() -> Terminal {
    let mut shell = Command::new("bash");
    // Without line editing the terminal keeps its mode, and each line comes back as one line.
    shell.args(["--norc", "--noprofile", "--noediting", "-i"]);
    shell.env("PS1", "outer$ ").env_remove("SUDO_UID").env("HISTFILE", "/dev/null");
    in_new_session(&mut shell);
    let mut terminal = Terminal::start(&mut shell);
    let program = std::env::current_exe().unwrap();
    ask(&mut terminal, &format!("watcher=('{}' watch --)", program.display()));
    terminal
}

/// At its prompt, gives the outer shell a command line.
fn ask(terminal: &mut Terminal, line: &str) {
    terminal.expect("outer$ ");
    let line = line.strip_prefix("W ").map_or(line.to_owned(), |rest| format!("\"${{watcher[@]}}\" {rest}"));
    say(terminal, &line);
}

/// Types a line and takes in its echo, so that what is expected next is output.
fn say(terminal: &mut Terminal, line: &str) {
    terminal.send(&format!("{line}\n"));
    terminal.expect("\r\n");
}

/// Asks the shell for the code of the last command, then lets it go.
fn leave(mut terminal: Terminal, code: u8) {
    ask(&mut terminal, "echo code=$?");
    terminal.expect(&format!("code={code}\r\n"));
    ask(&mut terminal, "exit");
    assert!(terminal.end().success());
}

/// The watcher that the shell has started, and its command.
fn watcher_and_command(terminal: &Terminal) -> (Pid, Pid) {
    let watcher = child_of(terminal.pid());
    (watcher, child_of(watcher))
}

fn stop_key_and_fg() {
    let mut terminal = shell();
    ask(&mut terminal, r#"W sh -c 'echo ready; read line; echo "got $line"; exit 9'"#);
    terminal.expect("ready\r\n");
    let (watcher, command) = watcher_and_command(&terminal);
    for _ in 0..3 {
        terminal.send("\x1a");
        terminal.expect("Stopped");
        assert_eq!((state(watcher), state(command)), ('T', 'T'));
        ask(&mut terminal, "fg");
        eventually("both go on", || state(watcher) != 'T' && state(command) != 'T');
    }
    terminal.send("line\n");
    terminal.expect("got line\r\n");
    leave(terminal, 9);
}

/// Many full-screen programs clean up at Ctrl-Z and then stop themselves with SIGSTOP.
fn a_command_that_stops_itself() {
    for signal in ["STOP", "TSTP"] {
        let mut terminal = shell();
        ask(&mut terminal, &format!("W sh -c 'kill -{signal} $$; echo continued; exit 4'"));
        terminal.expect("Stopped");
        ask(&mut terminal, "fg");
        terminal.expect("continued\r\n");
        leave(terminal, 4);
    }
}

fn a_background_read() {
    let mut terminal = shell();
    ask(&mut terminal, "W cat &");
    terminal.expect("[1] ");
    let watcher = child_of(terminal.pid());
    eventually("it is stopped", || state(watcher) == 'T');
    let cat = child_of(watcher);
    assert_eq!(state(cat), 'T');
    // The shell hears of it a moment later.
    ask(&mut terminal, "while [ -z \"$(jobs -s)\" ]; do :; done; fg");
    eventually("both go on", || state(watcher) != 'T' && state(cat) != 'T');
    terminal.send("typed\n");
    terminal.expect("typed\r\ntyped\r\n");
    terminal.send("\x04");
    leave(terminal, 0);
}

/// It takes the terminal, has jobs of its own, can be suspended as a whole, and gives the terminal back.
fn an_interactive_shell() {
    let mut terminal = shell();
    ask(&mut terminal, "W env PS1='inner''$ ' bash --norc --noprofile --noediting -i");
    // What cat says back proves that it, not the shell, gets the next key.
    for (key, answer) in [("\x03", "^C"), ("\x1a", "Stopped")] {
        terminal.expect("inner$ ");
        say(&mut terminal, "cat");
        say(&mut terminal, "echoed");
        terminal.expect("echoed\r\n");
        terminal.send(key);
        terminal.expect(answer);
    }
    terminal.expect("inner$ ");
    say(&mut terminal, "kill %1; wait; tty; suspend");
    terminal.expect("/dev/pts/");
    terminal.expect("Stopped");
    ask(&mut terminal, "fg");
    // Stopped from outside while it holds the terminal: the watcher must give it back.
    let (_, inner) = watcher_and_command(&terminal);
    terminal.expect("inner$ ");
    kill(inner, Signal::SIGSTOP).unwrap();
    terminal.expect("Stopped");
    ask(&mut terminal, "fg");
    eventually("it goes on", || state(inner) != 'T');
    say(&mut terminal, "echo in''side");
    terminal.expect("inside\r\n");
    terminal.expect("inner$ ");
    terminal.send("exit 6\n");
    leave(terminal, 6);
}

fn a_pager() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("text");
    let lines: Vec<_> = (0..500).map(|n| format!("line number {n}\n")).collect();
    fs::write(&file, lines.concat()).unwrap();
    let mut terminal = shell();
    terminal.resize(24, 80);
    ask(&mut terminal, &format!("W less {}", file.display()));
    terminal.expect("line number 10");
    terminal.send("G");
    terminal.expect("line number 499");
    // Not earlier: a signal between its prompt and its read stays unnoticed by less until the next key.
    terminal.expect("(END)");
    let (_, less) = watcher_and_command(&terminal);
    eventually("it waits for a key", || state(less) == 'S');
    terminal.send("\x1a");
    terminal.expect("Stopped");
    ask(&mut terminal, "fg");
    terminal.expect("line number 499");
    terminal.send("g");
    terminal.expect("line number 10");
    terminal.send("q");
    leave(terminal, 0);
}

/// A shell goes on with a script only if the command did not die of Ctrl-C: so we have to die of it as well.
fn an_interrupted_script() {
    let mut terminal = shell();
    let script = r#""$0" watch -- sh -c "echo re\$((1))ady; exec cat"; echo went on"#;
    ask(&mut terminal, &format!("bash -c '{script}' '{}'", std::env::current_exe().unwrap().display()));
    terminal.expect("re1ady\r\n");
    terminal.send("\x03");
    let between = terminal.expect("outer$ ");
    assert!(!between.contains("went on"), "{between:?}");
    say(&mut terminal, "echo code=$?");
    terminal.expect("code=130\r\n");
    ask(&mut terminal, "exit");
    assert!(terminal.end().success());
}
