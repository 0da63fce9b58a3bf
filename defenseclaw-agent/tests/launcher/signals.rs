//! Signals to the watcher reach the command, and reach it once.

use std::os::unix::process::ExitStatusExt;

use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};

use crate::{
    harness::{Talking, child_of, end, eventually, state, trial, watched, watched_with},
    terminal::Terminal,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("sent_signals_are_forwarded", sent_signals_are_forwarded),
        trial("forwarded_signals_end_both", forwarded_signals_end_both),
        trial("signals_of_the_tree_itself_are_not", signals_of_the_tree_itself_are_not),
        trial("signals_after_the_end_are_ours", signals_after_the_end_are_ours),
        trial("keys_arrive_once", keys_arrive_once),
        trial("a_resized_window_arrives_once", a_resized_window_arrives_once),
        trial("a_closed_terminal_ends_both", a_closed_terminal_ends_both),
        trial("without_a_shell_a_stop_is_the_commands_alone", without_a_shell_a_stop_is_the_commands_alone),
    ]
}

fn reporter() -> [String; 2] {
    [std::env::current_exe().unwrap().to_str().unwrap().to_owned(), "report".to_owned()]
}

fn sent_signals_are_forwarded() {
    let mut watcher = Talking::start(&mut watched(reporter()));
    assert_eq!(watcher.line(), "ready");
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGWINCH,
        Signal::SIGALRM,
    ] {
        watcher.signal(signal);
        assert_eq!(watcher.line(), format!("got {signal}"));
    }
    watcher.signal(Signal::SIGUSR2);
    assert_eq!(watcher.line(), "");
    assert_eq!(end(watcher.child).code(), Some(0));
}

fn forwarded_signals_end_both() {
    let mut watcher = Talking::start(&mut watched(["sh", "-c", "echo ready; exec cat"]));
    assert_eq!(watcher.line(), "ready");
    watcher.signal(Signal::SIGTERM);
    assert_eq!(end(watcher.child).signal(), Some(15));
}

/// `kill 0` in a script: the watcher is in the group, too.
fn signals_of_the_tree_itself_are_not() {
    let [program, report] = reporter();
    let mut watcher = Talking::start(&mut watched([&program, &report, "--to-group"]));
    assert_eq!(watcher.line(), "ready");
    assert_eq!(watcher.line(), "got SIGTERM");
    // Numbered higher, so the watcher reads it after anything it had to do about SIGTERM.
    watcher.signal(Signal::SIGALRM);
    watcher.signal(Signal::SIGWINCH);
    assert_eq!([watcher.line(), watcher.line()], ["got SIGALRM", "got SIGWINCH"]);
    watcher.signal(Signal::SIGUSR2);
    assert!(end(watcher.child).success());
}

fn signals_after_the_end_are_ours() {
    let mut command = watched_with(["--linger"], ["sh", "-c", "exit 3"]);
    command.stderr(std::process::Stdio::piped());
    let mut watcher = Talking::start(&mut command);
    // Nothing says on stdout that it lingers; stderr does.
    let mut said = [0; 9];
    std::io::Read::read_exact(watcher.child.stderr.as_mut().unwrap(), &mut said).unwrap();
    assert_eq!(&said, b"lingering");
    watcher.signal(Signal::SIGUSR1);
    assert_ne!(state(watcher.pid()), 'Z');
    watcher.signal(Signal::SIGTERM);
    assert_eq!(end(watcher.child).code(), Some(3));
}

fn keys_arrive_once() {
    let mut terminal = Terminal::start(&mut watched(reporter()));
    terminal.expect("ready");
    for (key, signal) in [("\x03", Signal::SIGINT), ("\x1c", Signal::SIGQUIT)] {
        terminal.send(key);
        terminal.expect(&format!("got {signal}\r\n"));
    }
    terminal.signal(Signal::SIGALRM);
    let between = terminal.expect("got SIGALRM");
    assert!(!between.contains("got"), "{between:?}");
    terminal.signal(Signal::SIGUSR2);
    assert!(terminal.end().success());
}

fn a_resized_window_arrives_once() {
    let mut terminal = Terminal::start(&mut watched(reporter()));
    terminal.expect("ready");
    terminal.resize(33, 99);
    terminal.expect("got SIGWINCH\r\n");
    // Handed on last, and only after the watcher has seen the resize.
    terminal.signal(Signal::SIGALRM);
    let between = terminal.expect("got SIGALRM");
    assert!(!between.contains("got"), "{between:?}");
    terminal.signal(Signal::SIGUSR2);
    assert!(terminal.end().success());
}

fn a_closed_terminal_ends_both() {
    // Not a command that reads: the end of its input may end it before the signal does.
    let mut terminal = Terminal::start(&mut watched(["sh", "-c", "echo ready; exec sleep 600"]));
    terminal.expect("ready");
    let command = child_of(terminal.pid());
    assert_eq!(terminal.hang_up().signal(), Some(1));
    assert_eq!(state(command), '-');
}

/// A limiter or debugger that stops and continues the command must not leave the watcher stopped.
fn without_a_shell_a_stop_is_the_commands_alone() {
    let mut watcher = Talking::start(&mut watched(reporter()));
    assert_eq!(watcher.line(), "ready");
    let command = child_of(watcher.pid());
    kill(command, Signal::SIGSTOP).unwrap();
    eventually("the command stops", || state(command) == 'T');
    // A stopped watcher could not hand this on; a watcher asked to continue continues the command.
    watcher.signal(Signal::SIGALRM);
    watcher.signal(Signal::SIGCONT);
    assert_eq!(watcher.line(), "got SIGALRM");
    kill(command, Signal::SIGUSR2).unwrap();
    assert_eq!(end(watcher.child).code(), Some(0));
}
