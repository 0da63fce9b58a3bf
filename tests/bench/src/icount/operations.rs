//! The measured operations, done by the worker process: each is timed alone, after a warm-up.

use std::{
    ffi::CStr,
    io::{self, Write as _},
    net::Ipv4Addr,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// A short path, with as many names as configuration files have.
const FILE: &CStr = c"/etc/hosts";
/// A static program, which the guest has for its own needs.
const PROGRAM: &CStr = c"/.vm/busybox";
/// Repetitions that are not counted.
const WARM_UP: usize = 50;
/// Variables of the worker's environment, which its programs inherit: about as many as in a login shell.
const VARIABLES: usize = 24;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Operation {
    /// `open`, `close` of a file.
    OpenClose,
    /// `socket`, `connect`, `close`; UDP, so that nothing is sent.
    Connect,
    /// `vfork`, `execve` of a static program, `wait`.
    Exec,
}

impl Operation {
    pub(crate) const ALL: [Self; 3] = [Self::OpenClose, Self::Connect, Self::Exec];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OpenClose => "open_close",
            Self::Connect => "connect",
            Self::Exec => "exec",
        }
    }

    fn repetitions(self) -> usize {
        match self {
            Self::OpenClose | Self::Connect => 1000,
            Self::Exec => 60,
        }
    }

    /// Records that one round of all operations leaves at least.
    pub(crate) fn expected_records() -> [(&'static str, u64); 5] {
        let times = |operation: Self| (operation.repetitions() + WARM_UP) as u64;
        let execs = times(Self::Exec);
        [
            // Each exec opens its program.
            ("file_open", times(Self::OpenClose) + execs),
            ("net_connect", times(Self::Connect)),
            ("process_fork", execs),
            ("process_exec", execs),
            ("process_exit", execs),
        ]
    }

    fn perform(self) -> io::Result<()> {
        match self {
            Self::OpenClose => open_close(),
            Self::Connect => connect(),
            Self::Exec => exec(),
        }
    }
}

/// The worker: reads names of operations, answers with the instructions of each repetition.
pub(crate) fn work() -> Result<()> {
    for line in io::stdin().lines() {
        let line = line?;
        let operation =
            Operation::ALL.into_iter().find(|operation| operation.name() == line).context("unknown name")?;
        let repetitions = WARM_UP + operation.repetitions();
        // Touched before, so that no page fault of ours is counted.
        let mut found = vec![0; repetitions];
        for cell in &mut found {
            let start = now();
            operation.perform().with_context(|| format!("{line} failed"))?;
            *cell = now() - start;
        }
        let counted = found.get(WARM_UP..).unwrap_or_default();
        println!("{}", serde_json::to_string(counted)?);
        io::stdout().flush()?;
    }
    Ok(())
}

/// A fixed environment: its length is part of the cost of an exec.
pub(crate) fn environment() -> impl Iterator<Item = (String, String)> {
    (0..VARIABLES).map(|index| (format!("VARIABLE_{index:02}"), "a value of a common length".to_owned()))
}

/// Every program from here on at the same addresses: where it lies decides how many page tables an exec makes.
pub(crate) fn fix_layout() -> io::Result<()> {
    // SAFETY: takes a number.
    check(unsafe { libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) }).map(drop)
}

fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to `time` only, and this clock exists everywhere.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn open_close() -> io::Result<()> {
    // SAFETY: FILE is a C string; the descriptor is closed once.
    unsafe {
        let file = check(libc::open(FILE.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC))?;
        check(libc::close(file))?;
    }
    Ok(())
}

fn connect() -> io::Result<()> {
    let address = libc::sockaddr_in {
        sin_family: 2,
        sin_port: 9_u16.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(Ipv4Addr::LOCALHOST).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: the address is as long as is said; the descriptor is closed once.
    unsafe {
        let socket = check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?;
        check(libc::connect(socket, (&raw const address).cast(), 16))?;
        check(libc::close(socket))?;
    }
    Ok(())
}

fn exec() -> io::Result<()> {
    unsafe extern "C" {
        static environ: *const *mut libc::c_char;
    }
    let arguments = [PROGRAM.as_ptr().cast_mut(), c"true".as_ptr().cast_mut(), std::ptr::null_mut()];
    let mut pid = 0;
    // SAFETY: all strings and arrays end with a null and outlive the call; nobody changes the environment.
    let error = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            PROGRAM.as_ptr(),
            std::ptr::null(),
            std::ptr::null(),
            arguments.as_ptr(),
            environ,
        )
    };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let mut status = 0;
    // SAFETY: writes to `status` only.
    check(unsafe { libc::waitpid(pid, &raw mut status, 0) })?;
    if status == 0 { Ok(()) } else { Err(io::Error::other(format!("the program ended with {status}"))) }
}
