//! The command gets what it would get without us, and gives what it would give.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, process::CommandExt, process::ExitStatusExt},
    process::{Command, Output, Stdio},
};

use libtest_mimic::Trial;
use nix::sys::signal::{SigHandler, SigSet, Signal, kill, signal};

use crate::harness::{
    Talking, end, eventually, is_root, program, state, trial, trial_if, watched, watched_with,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("exit_codes", exit_codes),
        trial("deaths_by_signal", deaths_by_signal),
        trial("commands_that_do_not_start", commands_that_do_not_start),
        trial("path_search", path_search),
        trial("ten_megabytes_through_the_streams", ten_megabytes_through_the_streams),
        trial("descriptors", descriptors),
        trial("signal_state", signal_state),
        trial("environment_and_directory", environment_and_directory),
        trial("not_started_if_the_watcher_is_killed", not_started_if_the_watcher_is_killed),
        trial("stopped_before_it_starts", stopped_before_it_starts),
        trial("nothing_is_left_of_200_runs", nothing_is_left_of_200_runs),
        trial_if(is_root(), "another_user", another_user),
        trial_if(is_root(), "the_caller_of_sudo", the_caller_of_sudo),
    ]
}

fn exit_codes() {
    for code in 0..=255 {
        let status = watched(["sh", "-c", &format!("exit {code}")]).status().unwrap();
        assert_eq!(status.code(), Some(code));
    }
}

fn deaths_by_signal() {
    // The last is a real-time signal.
    for number in [1, 2, 3, 6, 9, 11, 13, 14, 15, 24, 35] {
        let mut watcher = watched(["sh", "-c", &format!("ulimit -c 0; kill -{number} $$")]);
        let status = watcher.status().unwrap();
        assert_eq!((status.signal(), status.core_dumped()), (Some(number), false), "{status:?}");
    }
}

fn commands_that_do_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8], mode| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.into_os_string()
    };
    let cases = [
        ("no-such-command".into(), 127, "not found in PATH"),
        ("/no/such/command".into(), 127, "no such file"),
        ("".into(), 127, "not found in PATH"),
        (file("bad-interpreter", b"#!/no/such/interpreter\n", 0o755), 127, "interpreter"),
        (file("not-executable", b"#!/bin/sh\n", 0o644), 126, "permission denied"),
        (file("not-a-program", b"text\n", 0o755), 126, "not a program"),
        (dir.path().into(), 126, "permission denied"),
        ("/dev/null/x".into(), 126, "Not a directory"),
        ("nul-is-impossible/".repeat(4096).into(), 126, "name too long"),
    ];
    for (command, code, message) in cases {
        let output = watched([&command]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.to_lowercase().contains(&message.to_lowercase()), "{text}");
    }
}

fn path_search() {
    let dir = tempfile::tempdir().unwrap();
    for (folder, mode) in [("denied", 0o644), ("found", 0o755), ("here", 0o755)] {
        let path = dir.path().join(folder);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("tool"), format!("#!/bin/sh\necho {folder} $0\n")).unwrap();
        fs::set_permissions(path.join("tool"), fs::Permissions::from_mode(mode)).unwrap();
    }
    let root = dir.path().display();
    let cases = [
        (format!("{root}/none:{root}/denied:{root}/found"), format!("found {root}/found/tool\n")),
        (format!(":{root}/found"), "here ./tool\n".into()),
        (format!("{root}/none::{root}/found"), "here ./tool\n".into()),
        (format!("{root}/none:"), "here ./tool\n".into()),
        (String::new(), "here ./tool\n".into()),
        (format!("{root}/none:{root}/denied"), String::new()),
    ];
    for (path, expected) in cases {
        let mut watcher = watched(["tool"]);
        let output = watcher.env("PATH", &path).current_dir(dir.path().join("here")).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "PATH={path}");
        assert_eq!(output.status.code(), Some(if expected.is_empty() { 126 } else { 0 }), "PATH={path}");
    }
    let output = watched(["sh", "-c", "echo default"]).env_remove("PATH").output().unwrap();
    assert_eq!(output.stdout, b"default\n");
}

fn ten_megabytes_through_the_streams() {
    let sent: Vec<u8> = (0..10u32 << 20).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let mut watcher = watched(["sh", "-c", "tee /dev/stderr"]);
    let mut child =
        watcher.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut errors = child.stderr.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            input.write_all(&sent).unwrap();
            drop(input);
        });
        let from_stderr = scope.spawn(move || {
            let mut read = Vec::new();
            errors.read_to_end(&mut read).unwrap();
            read
        });
        let mut read = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut read).unwrap();
        assert!(read == sent, "stdout differs: {} of {} bytes", read.len(), sent.len());
        let read = from_stderr.join().unwrap();
        assert!(read == sent, "stderr differs: {} of {} bytes", read.len(), sent.len());
    });
    assert!(end(child).success());
}

/// What the shell opened arrives, what we opened does not.
fn descriptors() {
    let watcher = std::env::current_exe().unwrap();
    let script = "exec 3<<x 9</dev/null\nfrom the shell\nx\n\"$@\"";
    let run = |prefix: &[&str]| {
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh"]).args(prefix);
        let output = shell.args(["sh", "-c", "cat <&3; ls /proc/self/fd"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let without = run(&[]);
    assert!(without.starts_with("from the shell\n") && without.contains("\n9\n"), "{without}");
    assert_eq!(run(&[watcher.to_str().unwrap(), "watch", "--"]), without);
}

/// Mask and dispositions are those the watcher was started with, whatever they were.
fn signal_state() {
    type Setup = fn();
    let setups: [Setup; 4] = [
        || {},
        // SAFETY: no handler runs.
        || unsafe {
            signal(Signal::SIGPIPE, SigHandler::SigIgn).unwrap();
        },
        // SAFETY: no handler runs.
        || unsafe {
            for each in [Signal::SIGHUP, Signal::SIGCHLD, Signal::SIGINT] {
                signal(each, SigHandler::SigIgn).unwrap();
            }
        },
        || {
            let set = SigSet::from_iter([Signal::SIGUSR1, Signal::SIGTERM, Signal::SIGCHLD]);
            set.thread_block().unwrap();
        },
    ];
    for (number, setup) in setups.into_iter().enumerate() {
        let see = |mut command: Command| -> Output {
            // SAFETY: sigaction and sigprocmask are async-signal-safe.
            unsafe {
                command.pre_exec(move || {
                    setup();
                    Ok(())
                });
            }
            let output = command.output().unwrap();
            assert!(output.status.success(), "{output:?}");
            output
        };
        let look = ["grep", "-E", "^(Sig|Shd)(Pnd|Blk|Ign|Cgt):", "/proc/self/status"];
        let mut plain = Command::new(look[0]);
        plain.args(&look[1..]);
        assert_eq!(see(watched(look)).stdout, see(plain).stdout, "setup {number}");
    }
}

fn environment_and_directory() {
    let dir = tempfile::tempdir().unwrap();
    let see = |mut command: Command| {
        let command = command.current_dir(dir.path()).env("ODD", "a=b\n\t'\"\u{1f600}").env("EMPTY", "");
        command.output().unwrap().stdout
    };
    let look = ["sh", "-c", "env -0; pwd -P; ulimit -a; umask; cat /proc/self/oom_score_adj; ps -o nice= $$"];
    let mut plain = Command::new(look[0]);
    plain.args(&look[1..]).env_remove("SUDO_UID");
    let plain = see(plain);
    assert!(plain.len() > 200);
    assert_eq!(String::from_utf8_lossy(&see(watched(look))), String::from_utf8_lossy(&plain));
}

fn not_started_if_the_watcher_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let marker = dir.path().join("started");
    let command = ["touch".as_ref(), marker.as_os_str()];
    let mut watcher = Talking::start(&mut watched_with(["--hold"], command));
    let pid = nix::unistd::Pid::from_raw(watcher.line().parse().unwrap());
    eventually("it waits", || state(pid) == 'S');
    watcher.signal(Signal::SIGKILL);
    // The command holds stdout as well: its end is that of both.
    assert_eq!(watcher.line(), "");
    assert_eq!(end(watcher.child).signal(), Some(9));
    assert!(!marker.exists());
}

/// Ctrl-Z before the first exec: the watcher must not wait for what cannot come.
fn stopped_before_it_starts() {
    for (command, code) in [("true", 0), ("no-such-command", 127)] {
        let mut watcher = Talking::start(&mut watched_with(["--hold"], [command]));
        let pid = nix::unistd::Pid::from_raw(watcher.line().parse().unwrap());
        kill(pid, Signal::SIGSTOP).unwrap();
        eventually("it is stopped", || state(pid) == 'T');
        watcher.child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        // The watcher says so when it has been released: stopped, and neither started nor failed.
        assert_eq!(watcher.line(), "released");
        assert_eq!(state(pid), 'T');
        kill(pid, Signal::SIGCONT).unwrap();
        assert_eq!(end(watcher.child).code(), Some(code));
    }
}

fn nothing_is_left_of_200_runs() {
    let output = program("many").arg("200").output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Ids, all groups, and what the environment says of the user.
fn another_user() {
    let look = "id; id -G; echo $HOME $USER $LOGNAME; touch /root/no 2>/dev/null || echo no root";
    let output = watched_with(["--user", "daemon"], ["sh", "-c", look]).output().unwrap();
    let seen = String::from_utf8(output.stdout).unwrap();
    let id =
        |args: &[&str]| String::from_utf8(Command::new("id").args(args).output().unwrap().stdout).unwrap();
    let expected = format!("{}{}", id(&["daemon"]), id(&["-G", "daemon"]));
    assert!(seen.starts_with(&expected), "{seen} is not {expected}");
    assert!(seen.ends_with(" daemon daemon\nno root\n"), "{seen}");

    let output = watched_with(["--user", "no such user"], ["true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
}

fn the_caller_of_sudo() {
    let mut watcher = watched(["sh", "-c", "id -u; echo ${SUDO_UID-none} $USER"]);
    let output =
        watcher.env("SUDO_UID", "1").env("SUDO_USER", "daemon").env("USER", "root").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\nnone daemon\n", "{output:?}");

    let output = watched(["no-such-command"]).env("SUDO_UID", "1").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("command -v"), "{output:?}");
}
