//! Small programs that provocations and runs start: what is executed, what waits, what floods. They assert nothing.

use std::{
    fs,
    io::Read,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::Path,
    process::{Command, ExitCode},
};

use crate::{
    provoke,
    sys::{self, c, sys},
};

const PROGRAMS: &[&str] = &[
    "exit",
    "kill-self",
    "script",
    "wait-for-input",
    "bystander",
    "flood",
    "background",
    "obey",
    "touch",
    "work",
    "network-client",
    "attempt",
    "network-stage",
    "network-asker",
    "network-outsider",
    "pause",
    "policy",
    "policy-read",
];

pub(crate) fn is_program(name: &[u8]) -> bool {
    PROGRAMS.iter().any(|program| program.as_bytes() == name)
}

pub(crate) fn main(program: &[u8], arguments: &[&[u8]]) -> ExitCode {
    let number = |at: usize| -> Option<u64> { std::str::from_utf8(arguments.get(at)?).ok()?.parse().ok() };
    let path = |at: usize| Path::new(std::ffi::OsStr::from_bytes(arguments[at]));
    match program {
        b"exit" => ExitCode::from(number(0).unwrap_or(0) as u8),
        b"kill-self" => {
            let signal = nix::sys::signal::Signal::try_from(number(0).unwrap_or(9) as i32).unwrap();
            nix::sys::signal::raise(signal).unwrap();
            ExitCode::from(99)
        }
        b"script" => ExitCode::SUCCESS,
        b"wait-for-input" => wait_for_input(),
        b"bystander" => bystander(path(0)),
        b"flood" => flood(path(0), number(1).unwrap_or(0)),
        b"background" => background(path(0)),
        b"touch" => {
            fs::write(path(0), b"").unwrap();
            ExitCode::SUCCESS
        }
        b"obey" => obey(path(0)),
        b"network-client" => crate::network::client_main(arguments),
        b"attempt" => crate::runs::attempt::main(arguments),
        b"network-stage" => crate::network::run::stage_main(arguments),
        b"network-asker" => crate::network::run::asker_main(arguments),
        b"network-outsider" => crate::network::run::outsider_main(arguments),
        b"pause" => crate::pause::program_main(arguments),
        b"policy" => crate::policy::program_main(arguments),
        b"policy-read" => crate::policy::read_main(arguments),
        b"work" => crate::oracle::work::main(path(0), path(1)),
        _ => ExitCode::from(98),
    }
}

/// Lives until its input ends; the target of signals from inside a session.
fn wait_for_input() -> ExitCode {
    // The signals it is sent must not end it.
    // SAFETY: ignoring a signal is always sound.
    unsafe {
        libc::signal(libc::SIGUSR1, libc::SIG_IGN);
        libc::signal(libc::SIGUSR2, libc::SIG_IGN);
    }
    let ended = std::io::stdin().read_to_end(&mut Vec::new());
    ExitCode::from(u8::from(ended.is_err()))
}

/// Does what the watched tree does, outside of it: begins when the tree opens `go`, and says in `done` that it has ended.
fn bystander(dir: &Path) -> ExitCode {
    // A reader of a fifo waits here for its writer.
    let _ = fs::read(dir.join("go"));
    let cases: Vec<String> = provoke::BYSTANDER_CASES.iter().map(ToString::to_string).collect();
    let code = provoke::main(&dir.join("bystander"), &cases);
    if fs::write(dir.join("done"), b"done").is_err() {
        return ExitCode::from(97);
    }
    code
}

/// Opens `DIR/file` so many times. Says in `DIR/started` which process it is, in `DIR/half` and `DIR/done` how far it got.
fn flood(dir: &Path, times: u64) -> ExitCode {
    let file = c(dir.join("file").as_os_str().as_bytes());
    fs::write(dir.join("started"), sys::pid().to_string()).unwrap();
    for turn in 0..times {
        if turn == times / 2 {
            fs::write(dir.join("half"), b"").unwrap();
        }
        let fd = sys!(libc::SYS_openat, libc::AT_FDCWD, file.as_ptr(), libc::O_RDONLY, 0).unwrap();
        sys!(libc::SYS_close, fd).unwrap();
    }
    fs::write(dir.join("done"), b"").unwrap();
    ExitCode::SUCCESS
}

/// Leaves a child behind that outlives it, and names it in `DIR/background`.
#[expect(clippy::zombie_processes, reason = "this process ends before its child")]
fn background(dir: &Path) -> ExitCode {
    let child = Command::new("/proc/self/exe")
        .arg0("suite-vm")
        .arg("wait-for-input")
        .stdin(fs::File::open(dir.join("hold")).unwrap())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    fs::write(dir.join("background"), child.id().to_string()).unwrap();
    ExitCode::SUCCESS
}

/// Does what `DIR/ask` says, a word and a number in each line: tries to `open` `DIR/protected`, to `connect` to an address on
/// loopback, to `fork` a child that makes `DIR/forked.NUMBER`; until `end`. What it came to, an errno or a pid, is in
/// `DIR/answer.NUMBER`. Its own pid is in `DIR/started`.
fn obey(dir: &Path) -> ExitCode {
    use std::io::{BufRead, BufReader};
    let asked = BufReader::new(fs::File::open(dir.join("ask")).unwrap());
    fs::write(dir.join("started"), sys::pid().to_string()).unwrap();
    for line in asked.lines() {
        let line = line.unwrap();
        let Some((word, number)) = line.split_once(' ') else { break };
        let answer = match word {
            "open" => errno_of(&fs::File::open(dir.join("protected"))),
            "connect" => {
                let address = (std::net::Ipv4Addr::new(127, 203, 113, 9), 9).into();
                let patience = std::time::Duration::from_secs(1);
                errno_of(&std::net::TcpStream::connect_timeout(&address, patience))
            }
            "fork" => {
                let child = Command::new("/proc/self/exe")
                    .arg0("suite-vm")
                    .args(["touch"])
                    .arg(dir.join(format!("forked.{number}")))
                    .spawn();
                let mut child = child.unwrap();
                let pid = child.id() as i32;
                assert!(child.wait().unwrap().success());
                pid
            }
            _ => break,
        };
        let next = dir.join("answer.next");
        fs::write(&next, answer.to_string()).unwrap();
        fs::rename(next, dir.join(format!("answer.{number}"))).unwrap();
    }
    ExitCode::SUCCESS
}

fn errno_of<T>(result: &std::io::Result<T>) -> i32 {
    result.as_ref().err().and_then(std::io::Error::raw_os_error).unwrap_or(0)
}
