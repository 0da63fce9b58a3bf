//! A process of ours in the agents' cgroup that tries what is forbidden to it, whenever it is asked to: the proof that
//! blocking works. It reads nothing, executes nothing and reaches nobody if it succeeds. What its attempts mean is for
//! others to say.

use std::{
    ffi::CString,
    mem,
    net::SocketAddrV4,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr,
    time::Duration,
};

use libc::{c_char, c_int, pid_t};
use nix::{
    errno::Errno,
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::{pipe2, read, write},
};

use super::{Cgroup, LaunchError, prepare, process::Child};

/// Time for all attempts together; they take less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(2);
/// Attempts of one round.
const ATTEMPTS: usize = 3;

/// What it tries.
#[derive(Clone, Copy, Debug)]
pub struct Forbidden<'a> {
    /// To be opened for reading.
    pub file: &'a Path,
    /// To be executed; must not be a program.
    pub program: &'a Path,
    /// To be connected to over TCP.
    pub address: SocketAddrV4,
}

/// The waiting process. Dropping it ends it; so does the end of this process.
#[derive(Debug)]
pub struct Canary {
    child: Child,
    ask: OwnedFd,
    answers: OwnedFd,
}

impl Canary {
    /// Starts it, in the agents' cgroup if there is one.
    pub fn start(cgroup: Option<&Cgroup>, forbidden: &Forbidden<'_>) -> Result<Self, LaunchError> {
        let path = |path: &Path| {
            let bytes = path.as_os_str().as_bytes();
            CString::new(bytes).ok().ok_or(LaunchError::NulByte { what: "a path of the enforcement check" })
        };
        let (file, program) = (path(forbidden.file)?, path(forbidden.program)?);
        let (asked, ask) = pipe2(OFlag::O_CLOEXEC).map_err(LaunchError::system("make a pipe"))?;
        let (answers, answer) = pipe2(OFlag::O_CLOEXEC).map_err(LaunchError::system("make a pipe"))?;
        let plan = Plan {
            asked: asked.as_raw_fd(),
            answer: answer.as_raw_fd(),
            file: file.as_ptr(),
            program: program.as_ptr(),
            address: socket_address(forbidden.address),
        };
        let (child, is_inside) = prepare::start(cgroup, &plan)?;
        if let (false, Some(cgroup)) = (is_inside, cgroup) {
            let members = cgroup.path().join("cgroup.procs");
            std::fs::write(&members, child.pid.to_string())
                .map_err(|source| LaunchError::Proc { path: members.display().to_string(), source })?;
        }
        Ok(Self { child, ask, answers })
    }

    /// Its process id, in our pid namespace.
    pub fn pid(&self) -> pid_t {
        self.child.pid
    }

    /// Has it try the file, the program and the address, and says what each came to: 0, or the errno.
    pub fn attempt(&mut self) -> Result<[i32; ATTEMPTS], LaunchError> {
        let failed = LaunchError::system("ask the process that checks enforcement");
        write(&self.ask, &[1]).map_err(&failed)?;
        let mut fds = [PollFd::new(self.answers.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::NONE);
        match poll(&mut fds, patience) {
            Ok(0) => return Err(failed(Errno::ETIMEDOUT)),
            Ok(_) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let mut bytes = [0u8; 4 * ATTEMPTS];
        // Pipes do not split so few bytes.
        if read(&self.answers, &mut bytes).map_err(&failed)? != bytes.len() {
            return Err(failed(Errno::ESRCH));
        }
        let mut answers = [0; ATTEMPTS];
        for (answer, bytes) in answers.iter_mut().zip(bytes.chunks_exact(4)) {
            *answer = bytes.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
        }
        Ok(answers)
    }
}

/// What the child needs; filled before the fork.
struct Plan {
    asked: RawFd,
    answer: RawFd,
    file: *const c_char,
    program: *const c_char,
    address: libc::sockaddr_in,
}

impl prepare::ChildSide for Plan {
    fn run(&self) -> ! {
        run(self)
    }
}

fn socket_address(address: SocketAddrV4) -> libc::sockaddr_in {
    // SAFETY: all zero is a valid address.
    let mut raw: libc::sockaddr_in = unsafe { mem::zeroed() };
    raw.sin_family = libc::sa_family_t::try_from(libc::AF_INET).unwrap_or(0);
    raw.sin_port = address.port().to_be();
    raw.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
    raw
}

/// The child's side. It keeps to async-signal-safe calls, as everything after a fork of a threaded process must.
fn run(plan: &Plan) -> ! {
    // Nothing of ours stays open in it: not the audit, not the terminal, not its own end of the pipe.
    // SAFETY: takes numbers; nothing of this process uses the descriptors that are closed.
    unsafe {
        if libc::dup2(plan.asked, 0) < 0 || libc::dup2(plan.answer, 1) < 0 {
            libc::_exit(125);
        }
        libc::syscall(libc::SYS_close_range, 2, libc::c_uint::MAX, 0);
    }
    loop {
        let mut byte = 0u8;
        // SAFETY: reads at most one byte into `byte`.
        match unsafe { libc::read(0, (&raw mut byte).cast(), 1) } {
            1 => {}
            -1 if Errno::last() == Errno::EINTR => continue,
            // Who asks has gone.
            // SAFETY: ends this process without running anything of the parent's.
            _ => unsafe { libc::_exit(0) },
        }
        let answers: [c_int; ATTEMPTS] = [open(plan), execute(plan), connect(plan)];
        // SAFETY: writes the bytes of `answers`.
        unsafe { libc::write(1, answers.as_ptr().cast(), size_of_val(&answers)) };
    }
}

fn open(plan: &Plan) -> c_int {
    // SAFETY: the path ends with a NUL.
    let fd = unsafe { libc::open(plan.file, libc::O_RDONLY | libc::O_CLOEXEC) };
    outcome(fd)
}

fn execute(plan: &Plan) -> c_int {
    let argv: [*const c_char; 2] = [plan.program, ptr::null()];
    let envp: [*const c_char; 1] = [ptr::null()];
    // SAFETY: the path ends with a NUL, both arrays with a null pointer. Where it is not refused, the file is no program.
    unsafe { libc::execve(plan.program, argv.as_ptr(), envp.as_ptr()) };
    Errno::last_raw()
}

fn connect(plan: &Plan) -> c_int {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes numbers.
    let socket = unsafe { libc::socket(libc::AF_INET, kind, 0) };
    if socket < 0 {
        return Errno::last_raw();
    }
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_in>()).unwrap_or(0);
    // SAFETY: the address is a `sockaddr_in` of this length.
    let result = unsafe { libc::connect(socket, (&raw const plan.address).cast(), length) };
    let errno = if result == 0 { 0 } else { Errno::last_raw() };
    // SAFETY: closes the socket that was just opened.
    unsafe { libc::close(socket) };
    errno
}

/// The errno, or 0 for a descriptor, which is closed.
fn outcome(fd: c_int) -> c_int {
    if fd < 0 {
        return Errno::last_raw();
    }
    // SAFETY: the caller has just opened it.
    unsafe { libc::close(fd) };
    0
}

#[cfg(test)]
mod tests {
    use std::{fs, net::Ipv4Addr, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn what_is_not_forbidden_goes_through_and_leaves_the_process_alive() {
        let place = tempfile::TempDir::new().unwrap();
        let (file, program) = (place.path().join("file"), place.path().join("program"));
        fs::write(&file, "x").unwrap();
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
        let mut canary = Canary::start(None, &Forbidden { file: &file, program: &program, address }).unwrap();
        let [open, exec, connect] = canary.attempt().unwrap();
        assert_eq!((open, exec), (0, Errno::ENOEXEC as i32));
        assert!([Errno::ECONNREFUSED as i32, Errno::EINPROGRESS as i32, 0].contains(&connect), "{connect}");
        fs::remove_file(&file).unwrap();
        assert_eq!(canary.attempt().unwrap()[0], Errno::ENOENT as i32);
        let open_files = fs::read_dir(format!("/proc/{}/fd", canary.pid())).unwrap().count();
        assert_eq!(open_files, 2, "it holds nothing of ours");
    }

    #[test]
    fn one_that_was_killed_is_an_error() {
        let place = tempfile::TempDir::new().unwrap();
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
        let forbidden = Forbidden { file: place.path(), program: place.path(), address };
        let mut canary = Canary::start(None, &forbidden).unwrap();
        canary.child.signal(libc::SIGKILL).unwrap();
        canary.child.wait_for_end().unwrap();
        canary.attempt().unwrap_err();
    }
}
