//! The program that runs of a policy watch: tries one operation after the other, and says of each how it went, as
//! `NAME=ERRNO` on a line.

use std::{
    fs, io,
    net::TcpStream,
    os::unix::{ffi::OsStrExt, net::UnixStream},
    path::Path,
    process::{Command, ExitCode},
};

use crate::{
    provoke::compat::call_32,
    sys::{self, c, sys},
};

const CLONE_NEWUTS: u32 = 0x0400_0000;
/// `PERF_TYPE_SOFTWARE`, `PERF_COUNT_SW_CPU_CLOCK`.
const SOFTWARE: u32 = 1;

/// `NAME` or `NAME:OBJECT`, in their order.
pub(crate) fn main(attempts: &[&[u8]]) -> ExitCode {
    sys::deadline(300);
    for attempt in attempts {
        let text = std::str::from_utf8(attempt).unwrap();
        let (name, object) = text.split_once(':').unwrap_or((text, ""));
        println!("{text}={}", self::attempt(name, object));
    }
    ExitCode::SUCCESS
}

fn errno<T>(result: &io::Result<T>) -> i32 {
    result.as_ref().err().map_or(0, |error| error.raw_os_error().unwrap_or(-1))
}

fn attempt(name: &str, object: &str) -> i32 {
    match name {
        "read" => errno(&fs::File::open(object)),
        "write" => errno(&fs::OpenOptions::new().write(true).open(object)),
        "unlink" => errno(&fs::remove_file(object)),
        "start" => errno(&Command::new(object).args(["exit", "0"]).status()),
        "unix" => errno(&UnixStream::connect(object)),
        "connect" => errno(&TcpStream::connect(("127.0.0.1", object.parse().unwrap()))),
        "unshare" => errno(&sys!(libc::SYS_unshare, CLONE_NEWUTS)),
        "unshare-32" => -call_32(310, CLONE_NEWUTS, 0, 0).min(0),
        "setns" => {
            let own = c(Path::new("/proc/self/ns/uts").as_os_str().as_bytes());
            let fd = sys!(libc::SYS_openat, libc::AT_FDCWD, own.as_ptr(), libc::O_RDONLY, 0).unwrap();
            errno(&sys!(libc::SYS_setns, fd, CLONE_NEWUTS))
        }
        "clone" => errno(&child(u64::from(CLONE_NEWUTS))),
        "fork" => errno(&child(0)),
        "thread" => errno(&std::thread::Builder::new().spawn(|| ()).map(|thread| thread.join().unwrap())),
        "uring" => {
            let mut parameters = [0_u32; 30];
            let fd = sys!(libc::SYS_io_uring_setup, 4, parameters.as_mut_ptr());
            let said = errno(&fd);
            drop(fd.map(sys::owned));
            said
        }
        "perf" => {
            // Type, size of version 0, configuration.
            let mut attributes = [0_u64; 16];
            attributes[0] = u64::from(SOFTWARE) | 64 << 32;
            let fd = sys!(libc::SYS_perf_event_open, attributes.as_ptr(), 0, -1, -1, 0);
            let said = errno(&fd);
            drop(fd.map(sys::owned));
            said
        }
        "forks" => forks(object.parse().unwrap()),
        // Until somebody ends this process.
        "wait" => {
            sys::wait_until(240, || false);
            0
        }
        other => panic!("no attempt is called {other}"),
    }
}

/// A child that ends at once, in new namespaces perhaps.
fn child(namespaces: u64) -> io::Result<i64> {
    let flags = namespaces | libc::SIGCHLD as u64;
    let pid = sys!(libc::SYS_clone, flags, 0, 0, 0, 0)?;
    if pid == 0 {
        sys::exit_now(0);
    }
    // SAFETY: the status is not asked for.
    unsafe { libc::waitpid(pid as i32, std::ptr::null_mut(), 0) };
    Ok(pid)
}

/// Makes children that live all at once; errno of the first that could not be made. Says how many there were.
fn forks(wanted: usize) -> i32 {
    let mut children = Vec::new();
    let mut said = 0;
    while children.len() < wanted {
        // SAFETY: this program has one thread, and the child only waits.
        match unsafe { libc::fork() } {
            0 => {
                sys::deadline(300);
                loop {
                    // SAFETY: always sound.
                    unsafe { libc::pause() };
                }
            }
            -1 => {
                said = io::Error::last_os_error().raw_os_error().unwrap_or(-1);
                break;
            }
            pid => children.push(pid),
        }
    }
    println!("made={}", children.len());
    for pid in children {
        // SAFETY: these are children of ours that nobody has waited for.
        unsafe {
            libc::kill(pid, libc::SIGKILL);
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        }
    }
    said
}
