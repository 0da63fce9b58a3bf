//! The word of whoever refused, on the standard error of the process that was refused: its tool hands that to the agent, which
//! so learns why. A refusal without words stays an error number.
//!
//! It goes through the process's own descriptor, so nothing is written that the process could not write, and by a thread with
//! the rights of the process's user, because what stands behind a descriptor may ask who writes. Nobody waits for it for longer
//! than [`PATIENCE`]: a pipe that nobody reads is not our trouble.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use nix::{
    sys::{
        signal::{SigSet, Signal},
        socket::{AddressFamily, MsgFlags, SockaddrLike as _, SockaddrStorage, getsockname, send},
        stat::{SFlag, fstat},
        termios::tcgetsid,
    },
    unistd::write,
};
use tracing::debug;

use crate::{
    model::{ProcessKey, Subject},
    sensor,
};

/// How long a refused process stays stopped for it.
const PATIENCE: Duration = Duration::from_millis(50);
/// Words that are being written. Behind a descriptor that takes nothing, a thread waits until the process closes it.
const WRITERS: usize = 4;
/// Bytes of a message that are passed on.
const LONGEST: usize = 1024;

static WRITING: AtomicUsize = AtomicUsize::new(0);

/// Tells a process, which is stopped, why it will be refused. Best effort: without standard error it is not told.
pub(super) fn tell(process: &ProcessKey, subject: &Subject, message: &str) {
    if let Err(error) = try_tell(process, &sentence(subject, message)) {
        debug!(pid = process.tgid, %error, "not told why it was refused");
    }
}

/// One line, whatever the message holds.
fn sentence(subject: &Subject, message: &str) -> Vec<u8> {
    let mut said: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    said.truncate(said.floor_char_boundary(LONGEST));
    format!("defenseclaw: {} refused by a person: {said} (rule {})\n", subject.effect, subject.rule)
        .into_bytes()
}

fn try_tell(process: &ProcessKey, sentence: &[u8]) -> io::Result<()> {
    let to = standard_error(process)?;
    let how = How::of(to.as_fd())?;
    let uid = sensor::user_of(process.tgid).ok_or_else(|| io::Error::other("its user is not known"))?;
    if WRITING.fetch_add(1, Ordering::Relaxed) >= WRITERS {
        WRITING.fetch_sub(1, Ordering::Relaxed);
        return Err(io::Error::other("too many words wait to be read"));
    }
    let (sender, done) = mpsc::sync_channel(1);
    let sentence = sentence.to_vec();
    let writer = move || {
        let written = become_user(uid).and_then(|()| how.put(to.as_fd(), &sentence));
        WRITING.fetch_sub(1, Ordering::Relaxed);
        // Gone if it took too long.
        sender.send(written).ok();
    };
    thread::Builder::new().name("word".to_owned()).spawn(writer).inspect_err(|_| {
        WRITING.fetch_sub(1, Ordering::Relaxed);
    })?;
    done.recv_timeout(PATIENCE).map_err(io::Error::other)?
}

/// Its open file itself, not another one of the same name.
fn standard_error(process: &ProcessKey) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let handle = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, process.tgid, 0) })?;
    if !sensor::is_alive(*process) {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: takes numbers only.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, handle.as_raw_fd(), libc::STDERR_FILENO, 0) })
}

fn owned(answer: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(answer).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just given us this descriptor, close-on-exec, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// How something is put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Write,
    Send,
}

impl How {
    /// Refuses what is no place for words.
    fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let kind = SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT;
        let unfit = |why| Err(io::Error::other(why));
        if kind == SFlag::S_IFSOCK {
            // What goes to the net is said to others.
            let own: SockaddrStorage = getsockname(fd.as_raw_fd())?;
            return if own.family() == Some(AddressFamily::Unix) {
                Ok(Self::Send)
            } else {
                unfit("a socket")
            };
        }
        if kind == SFlag::S_IFCHR {
            // SAFETY: takes a descriptor that is open.
            let is_terminal = unsafe { libc::isatty(fd.as_raw_fd()) } == 1;
            // On our own a program draws its picture, and writing could stop us.
            return if is_terminal && tcgetsid(fd).is_err() { Ok(Self::Write) } else { unfit("a device") };
        }
        if kind == SFlag::S_IFIFO || kind == SFlag::S_IFREG { Ok(Self::Write) } else { unfit("no file") }
    }

    fn put(self, fd: BorrowedFd<'_>, text: &[u8]) -> io::Result<()> {
        match self {
            Self::Send => send(fd.as_raw_fd(), text, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?,
            Self::Write => write(fd, text)?,
        };
        Ok(())
    }
}

/// With no rights by any group. This thread only, and for good: the C library's functions would change all of them.
fn become_user(uid: u32) -> io::Result<()> {
    const NOBODYS: libc::gid_t = 65_534;
    let mut broken_pipe = SigSet::empty();
    broken_pipe.add(Signal::SIGPIPE);
    broken_pipe.thread_block()?;
    if uid == 0 {
        return Ok(());
    }
    let none: *const libc::gid_t = std::ptr::null();
    // SAFETY: take numbers, and no groups.
    let failed = unsafe {
        libc::syscall(libc::SYS_setgroups, 0, none) != 0
            || libc::syscall(libc::SYS_setresgid, NOBODYS, NOBODYS, NOBODYS) != 0
            || libc::syscall(libc::SYS_setresuid, uid, uid, uid) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::Read as _,
        net::UdpSocket,
        os::{fd::AsFd as _, unix::net::UnixStream},
    };

    use super::*;
    use crate::model::Text;

    #[test]
    fn only_what_a_tool_reads_is_written_to() {
        let (_, pipe) = std::io::pipe().unwrap();
        assert_eq!(How::of(pipe.as_fd()).unwrap(), How::Write);
        let file = tempfile::tempfile().unwrap();
        assert_eq!(How::of(file.as_fd()).unwrap(), How::Write);
        let (pair, _other) = UnixStream::pair().unwrap();
        assert_eq!(How::of(pair.as_fd()).unwrap(), How::Send);
        assert!(How::of(UdpSocket::bind("127.0.0.1:0").unwrap().as_fd()).is_err());
        assert!(How::of(File::open("/dev/null").unwrap().as_fd()).is_err());
    }

    #[test]
    fn a_socket_that_nobody_reads_is_not_waited_for() {
        let (pair, mut other) = UnixStream::pair().unwrap();
        let all = vec![b'x'; 4096];
        let mut sent = 0;
        while How::Send.put(pair.as_fd(), &all).is_ok() {
            sent += all.len();
        }
        drop(pair);
        let mut read = Vec::new();
        other.read_to_end(&mut read).unwrap();
        assert!(read.len() >= sent && sent > 0);
    }

    #[test]
    fn a_message_is_one_line_of_limited_length() {
        let subject =
            Subject { rule: "r".to_owned(), effect: "file.read".to_owned(), object: Text::from(&b"/x"[..]) };
        assert_eq!(
            String::from_utf8(sentence(&subject, "a\nb\x1b[2J")).unwrap(),
            "defenseclaw: file.read refused by a person: a b [2J (rule r)\n"
        );
        let long = sentence(&subject, &"ü".repeat(LONGEST));
        assert!(long.len() < LONGEST + 100 && String::from_utf8(long).is_ok());
    }
}
