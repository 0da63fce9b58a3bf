//! The programs that wait: `pause GATE DIR WHAT …`. They begin when the gate is there, do what may be paused, and compare what
//! comes back with what the object's name says: `yes` works as always, `no` is EPERM. What is wrong goes into a report.

use std::{
    fs, io,
    mem::size_of,
    os::unix::{
        ffi::OsStrExt,
        process::{CommandExt, ExitStatusExt},
    },
    path::Path,
    process::{Command, ExitCode},
    thread,
};

use super::operations::{self, OPERATIONS};
use crate::{
    policy::Random,
    sys::{self, c, sys},
};

pub(super) fn main(words: &[String]) -> ExitCode {
    let (gate, dir, what) = (Path::new(&words[0]), Path::new(&words[1]), words[2].as_str());
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    // As many calls as somebody asks for take their time.
    sys::deadline(600 + if what == "random" { number(4) as u32 / 10 } else { 0 });
    for signal in [libc::SIGINT, libc::SIGHUP, libc::SIGTERM] {
        // Who started the suite may ignore them.
        // SAFETY: takes numbers.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    if !sys::wait_until(60, || gate.exists()) {
        return ExitCode::from(97);
    }
    let done = match what {
        "exit" => return ExitCode::from(number(3) as u8),
        "each" => each(dir),
        "random" => random(dir, number(3), number(4)),
        "late" => late(dir),
        "threads" => threads(dir),
        "starts" => starts(dir, gate),
        "vfork" => vfork(dir, gate),
        "start-late" => start_late(dir, gate),
        "touch" => fs::write(dir.join("started"), b"").map_err(|err| err.to_string()),
        "timer" => timer(dir, libc::SA_RESTART),
        "timer-interrupting" => timer(dir, 0),
        "traced" => traced(dir),
        "vfork-open" => vfork_open(dir),
        "many-messages" => retry(),
        _ => Err(format!("{what}?")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) if report == "refused" => ExitCode::from(1),
        Err(report) => {
            fs::write(dir.join(format!("report-{}", sys::pid())), report).ok();
            ExitCode::from(2)
        }
    }
}

fn each(dir: &Path) -> Result<(), String> {
    for operation in OPERATIONS {
        for who in ["yes", "no", "yes"] {
            operations::check(operation, dir, who)?;
        }
    }
    Ok(())
}

fn random(dir: &Path, seed: u64, calls: u64) -> Result<(), String> {
    let mut random = Random(seed);
    for call in 0..calls {
        let operation = &OPERATIONS[random.below(OPERATIONS.len())];
        let who = if random.percent(50) { "yes" } else { "no" };
        operations::check(operation, dir, who)
            .map_err(|wrong| format!("call {call} of seed {seed}: {wrong}"))?;
    }
    Ok(())
}

fn open(path: &Path, flags: i32) -> io::Result<i64> {
    let path = c(path.as_os_str().as_bytes());
    sys!(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags | libc::O_CLOEXEC, 0o644)
}

/// One read that waits: says how it ended by how it ends.
fn late(dir: &Path) -> Result<(), String> {
    match open(&dir.join("ask/late-file"), libc::O_RDONLY) {
        Ok(_) => Ok(()),
        Err(err) if err.raw_os_error() == Some(libc::EPERM) => Err("refused".to_owned()),
        Err(err) => Err(format!("open: {err}")),
    }
}

fn threads(dir: &Path) -> Result<(), String> {
    thread::scope(|scope| {
        let mut all = Vec::new();
        for seed in 1..=4_u64 {
            all.push(scope.spawn(move || {
                let mut random = Random(seed);
                for call in 0..25 {
                    // Only calls that leave nothing behind: they share their files.
                    let operation = &OPERATIONS[random.below(operations::SHARED)];
                    let who = if random.percent(50) { "yes" } else { "no" };
                    operations::check(operation, dir, who)
                        .map_err(|wrong| format!("thread {seed} call {call}: {wrong}"))?;
                }
                Ok(())
            }));
        }
        all.into_iter().try_for_each(|one| one.join().unwrap())
    })
}

fn command(dir: &Path, name: &str, gate: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(dir.join("bin").join(name));
    command.arg("pause").arg(gate).arg(dir).args(words);
    command
}

fn starts(dir: &Path, gate: &Path) -> Result<(), String> {
    for round in 0..6 {
        for (name, allowed) in [("yes", true), ("no", false)] {
            let mut command = command(dir, name, gate, &["exit", "7"]);
            if round % 2 == 1 {
                // Fork and exec instead of vfork.
                // SAFETY: does nothing.
                unsafe { command.pre_exec(|| Ok(())) };
            }
            let status = command.status().map_err(|err| format!("{name}: {err}"))?;
            let right =
                if allowed { status.code() == Some(7) } else { status.signal() == Some(libc::SIGKILL) };
            if !right {
                return Err(format!("{name} in round {round}: {status:?}"));
            }
        }
    }
    Ok(())
}

fn vfork(dir: &Path, gate: &Path) -> Result<(), String> {
    let mut child = command(dir, "late", gate, &["exit", "7"]).spawn().map_err(|err| err.to_string())?;
    for beat in 1_u64.. {
        fs::write(dir.join("beat.next"), beat.to_string()).map_err(|err| err.to_string())?;
        fs::rename(dir.join("beat.next"), dir.join("beat")).map_err(|err| err.to_string())?;
        // As an event loop does it: the stop of a child is no end.
        match child.try_wait().map_err(|err| err.to_string())? {
            Some(status) if status.code() == Some(7) => return Ok(()),
            Some(status) => return Err(format!("{status:?}")),
            None => thread::park_timeout(std::time::Duration::from_millis(5)),
        }
    }
    Ok(())
}

fn start_late(dir: &Path, gate: &Path) -> Result<(), String> {
    let status = command(dir, "late", gate, &["touch"]).status().map_err(|err| err.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("{status:?}")) }
}

static HANDLED: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(-1);

extern "C" fn handle(_signal: i32) {
    // SAFETY: write is safe in a handler.
    unsafe { libc::write(HANDLED.load(std::sync::atomic::Ordering::Relaxed), c"x".as_ptr().cast(), 1) };
}

fn timer(dir: &Path, flags: i32) -> Result<(), String> {
    let beat =
        open(&dir.join(format!("handled-{}", sys::pid())), libc::O_CREAT | libc::O_WRONLY | libc::O_APPEND)
            .map_err(|err| err.to_string())?;
    HANDLED.store(beat as i32, std::sync::atomic::Ordering::Relaxed);
    // SAFETY: zeroes are a valid action and timer; both outlive the calls.
    unsafe {
        libc::alarm(0);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as extern "C" fn(i32) as libc::sighandler_t;
        action.sa_flags = flags;
        libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut());
        let every = libc::timeval { tv_sec: 0, tv_usec: 30_000 };
        let timer = libc::itimerval { it_interval: every, it_value: every };
        libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut());
    }
    let opened = open(&dir.join("ask/late-file"), libc::O_RDONLY);
    // SAFETY: as above.
    unsafe {
        let timer: libc::itimerval = std::mem::zeroed();
        libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut());
    }
    opened.map(drop).map_err(|err| format!("open: {err}"))
}

fn traced(dir: &Path) -> Result<(), String> {
    // SAFETY: the child only makes system calls and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: takes numbers.
        unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
        let code = match late(dir) {
            Err(report) if report == "refused" => 0,
            _ => 3,
        };
        sys::exit_now(code);
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 {
        return Ok(());
    }
    // SAFETY: the child is ours.
    unsafe { libc::kill(child, libc::SIGKILL) };
    Err(format!("status {status:x}"))
}

/// What a child in vfork opens: refused at once, because its parent waits for it.
fn vfork_open(dir: &Path) -> Result<(), String> {
    let path = c(dir.join("ask/late-file").as_os_str().as_bytes());
    let program = c(dir.join("bin/free").as_os_str().as_bytes());
    let mut child = 0;
    // SAFETY: everything that is pointed to outlives the calls.
    let failed = unsafe {
        let mut actions: libc::posix_spawn_file_actions_t = std::mem::zeroed();
        libc::posix_spawn_file_actions_init(&raw mut actions);
        libc::posix_spawn_file_actions_addopen(&raw mut actions, 9, path.as_ptr(), libc::O_RDONLY, 0);
        let arguments = [program.as_ptr().cast_mut(), std::ptr::null_mut()];
        let nothing = [std::ptr::null_mut()];
        let failed = libc::posix_spawn(
            &raw mut child,
            program.as_ptr(),
            &raw const actions,
            std::ptr::null(),
            arguments.as_ptr(),
            nothing.as_ptr(),
        );
        libc::posix_spawn_file_actions_destroy(&raw mut actions);
        failed
    };
    if failed == libc::EPERM { Ok(()) } else { Err(format!("posix_spawn: {failed}")) }
}

/// A call that cannot wait, again and again until it is let through.
fn retry() -> Result<(), String> {
    let socket = sys!(libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
        .map_err(|err| err.to_string())?;
    let address = operations::address([127, 77, 3, 1], 9);
    let mut text = *b"x";
    let mut part = libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: zeroes are a valid header.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_name = (&raw const address).cast_mut().cast();
    message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
    message.msg_hdr.msg_iov = &raw mut part;
    message.msg_hdr.msg_iovlen = 1;
    let mut first = true;
    let mut wrong = None;
    let there = sys::wait_until(60, || match sys!(libc::SYS_sendmmsg, socket, &raw mut message, 1, 0) {
        Ok(1) => {
            if first {
                wrong = Some("it was not refused at first".to_owned());
            }
            true
        }
        Err(err) if err.raw_os_error() == Some(libc::EPERM) => {
            first = false;
            false
        }
        other => {
            wrong = Some(format!("{other:?}"));
            true
        }
    });
    match wrong {
        Some(wrong) => Err(wrong),
        None if there => Ok(()),
        None => Err("no retry passed".to_owned()),
    }
}
