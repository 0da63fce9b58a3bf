//! Processes that begin and end: fork, exit codes, signals, and thread groups that end in unusual ways.

use anyhow::{Result, ensure};
use defenseclaw::model::ExitStatus;

use super::Stage;
use crate::sys::{self, sys};

pub(crate) fn fork(stage: &mut Stage) -> Result<()> {
    let pid = stage.spawn("child", || 0)?;
    stage.reap("child", pid)?;
    // Three generations that all know their own keys.
    stage.in_child("generation 2", |stage| {
        stage.in_child("generation 3", |stage| {
            let path = stage.make("from generation 3")?;
            std::fs::read(path)?;
            Ok(())
        })?;
        Ok(())
    })?;
    Ok(())
}

pub(crate) fn codes(stage: &mut Stage) -> Result<()> {
    for code in [0, 1, 2, 42, 126, 127, 128, 137, 255] {
        let step = format!("code {code}");
        let pid = stage.spawn(&step, move || code)?;
        ensure!(stage.reap(&step, pid)? == ExitStatus::Code(code as u8), "{step}");
    }
    Ok(())
}

pub(crate) fn signals(stage: &mut Stage) -> Result<()> {
    for signal in [libc::SIGKILL, libc::SIGSEGV, libc::SIGTERM, libc::SIGABRT] {
        let step = format!("signal {signal}");
        let pid = stage.spawn(&step, move || {
            // SAFETY: the process ends itself, with the default action of the signal and without a core file.
            unsafe {
                libc::setrlimit(libc::RLIMIT_CORE, &libc::rlimit { rlim_cur: 0, rlim_max: 0 });
                libc::signal(signal, libc::SIG_DFL);
                libc::kill(libc::getpid(), signal);
            }
            99
        })?;
        ensure!(stage.reap(&step, pid)? == ExitStatus::Signal(signal as u8), "{step}");
    }
    Ok(())
}

pub(crate) fn threads(stage: &mut Stage) -> Result<()> {
    let step = "exit_group from a thread";
    let pid = stage.spawn(step, || {
        std::thread::spawn(|| sys::exit_now(5));
        wait_for_ever()
    })?;
    ensure!(stage.reap(step, pid)? == ExitStatus::Code(5), "{step}");

    // The leader ends as a thread; the process lives until its last thread ends.
    for (step, last) in [
        ("leader first, then a thread", libc::SYS_exit),
        ("leader first, then exit_group", libc::SYS_exit_group),
    ] {
        let pid = stage.spawn(step, move || {
            let leader = sys::pid();
            std::thread::spawn(move || {
                sys::wait_until(30, || !leader_runs(leader));
                let _ = sys!(last, 9);
            });
            let _ = sys!(libc::SYS_exit, 7);
            98
        })?;
        // Which of both codes wait(2) tells is the kernel's choice; the audit has to say the same.
        stage.reap(step, pid)?;
    }

    let step = "threads are not processes";
    let pid = stage.spawn(step, || {
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(sys::tid)).collect();
        i32::from(threads.into_iter().any(|thread| thread.join().is_err()))
    })?;
    ensure!(stage.reap(step, pid)? == ExitStatus::Code(0), "{step}");
    Ok(())
}

fn leader_runs(leader: u32) -> bool {
    std::fs::read_to_string(format!("/proc/self/task/{leader}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
}

fn wait_for_ever() -> i32 {
    loop {
        // SAFETY: always sound.
        unsafe { libc::pause() };
    }
}
