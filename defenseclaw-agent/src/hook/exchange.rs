//! One request and its reply over the daemon's socket, within a deadline.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        socket::{
            AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, setsockopt, socket,
            sockopt::{PeerCredentials, SendTimeout},
        },
        time::{TimeVal, TimeValLike},
    },
    unistd::geteuid,
};

use crate::model::{
    Connector, EXIT_HEADER, HELD_HEADER, HOLD_HEADER, HookOutput, PAYLOAD_MAX, STDOUT_HEADER,
};

/// Longest reply that is read: as much as any agent takes, and more than we say.
const REPLY_MAX: u64 = 1 << 20;
const HEADERS_MAX: usize = 32;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The hook was installed by another version, or edited.
    #[error("the hook command has an argument that is not understood: {wrong}")]
    Arguments {
        /// Which.
        wrong: String,
    },
    /// The agent did not say everything.
    #[error("the agent's input did not end in time or could not be read")]
    Input(#[source] io::Error),
    /// There is no daemon.
    #[error("no daemon answers at {}", path.display())]
    Unreachable {
        /// Its socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else listens there.
    #[error("what answers at {} is no daemon of root or of this user", path.display())]
    Impostor {
        /// The socket.
        path: PathBuf,
    },
    /// It broke off or took too long.
    #[error("the daemon did not answer in time")]
    Late(#[source] io::Error),
    /// Not what a daemon of this version says.
    #[error("the daemon's answer cannot be used: {0}")]
    Reply(String),
    /// A defect of ours.
    #[error("the hook failed")]
    Panicked,
}

impl Failure {
    /// In one word.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Arguments { .. } => "arguments",
            Self::Input(_) => "input",
            Self::Unreachable { .. } => "unreachable",
            Self::Impostor { .. } => "impostor",
            Self::Late(_) => "late",
            Self::Reply(_) => "reply",
            Self::Panicked => "panicked",
        }
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Reads standard input to its end, or one byte more than a payload may have: what is cut ends in the middle, and
/// whoever parses it says so.
pub fn read_input(input: &mut Vec<u8>, deadline: Instant) -> Result<(), Failure> {
    let stdin = io::stdin();
    let mut chunk = vec![0; 64 << 10];
    while input.len() < PAYLOAD_MAX {
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        // Not through `Stdin`, whose buffer poll knows nothing of.
        let read = left(deadline).and_then(|left| {
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut fds, timeout) {
                Ok(0) => Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => nix::unistd::read(stdin.as_fd(), &mut chunk).map_err(io::Error::from),
                Err(err) => Err(err.into()),
            }
        });
        match read {
            Ok(0) => break,
            Ok(length) => input.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(Failure::Input(err)),
        }
    }
    input.truncate(PAYLOAD_MAX);
    Ok(())
}

/// Asks the daemon. It answers until `deadline`, or says until then that a person is asked and answers until `held_until`.
pub fn ask(
    path: &Path,
    connector: Connector,
    payload: &[u8],
    deadline: Instant,
    held_until: Instant,
) -> Result<HookOutput, Failure> {
    let hold = held_until.saturating_duration_since(Instant::now()).as_millis();
    let head = format!("/v1/hooks/{connector} HTTP/1.1\r\n{HOLD_HEADER}: {hold}");
    let reply = post(path, &head, payload, deadline, held_until)?;
    output(&reply)
}

/// Tells the daemon of hooks that it was not asked about.
pub(super) fn report(path: &Path, lines: &[u8], deadline: Instant) -> Result<(), Failure> {
    let reply = post(path, "/v1/missed HTTP/1.1", lines, deadline, deadline)?;
    let taken = reply.starts_with(b"HTTP/1.1 200 ");
    if taken { Ok(()) } else { Err(Failure::Reply("the report was not taken".to_owned())) }
}

fn post(
    path: &Path,
    route: &str,
    payload: &[u8],
    deadline: Instant,
    held_until: Instant,
) -> Result<Vec<u8>, Failure> {
    let mut stream =
        reach(path, deadline).map_err(|source| Failure::Unreachable { path: path.to_owned(), source })?;
    let peer = getsockopt(&stream, PeerCredentials).map_err(|err| Failure::Late(err.into()))?;
    if ![0, geteuid().as_raw()].contains(&peer.uid()) {
        return Err(Failure::Impostor { path: path.to_owned() });
    }
    let head = format!("POST {route}\r\nhost: defenseclaw\r\ncontent-length: {}\r\n\r\n", payload.len());
    send(&mut stream, head.as_bytes(), deadline)
        .and_then(|()| send(&mut stream, payload, deadline))
        .and_then(|()| receive(&mut stream, deadline, held_until))
        .map_err(Failure::Late)
}

/// `UnixStream::connect` would wait for ever if nobody accepts.
fn reach(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let address = UnixAddr::new(path)?;
    let descriptor = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let wait = TimeVal::microseconds(i64::try_from(left(deadline)?.as_micros()).unwrap_or(i64::MAX));
    setsockopt(&descriptor, SendTimeout, &wait)?;
    connect(descriptor.as_raw_fd(), &address)?;
    Ok(descriptor.into())
}

fn send(stream: &mut UnixStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            // The daemon may refuse before it has read everything: what it says is worth reading.
            Err(err) if err.raw_os_error() == Some(Errno::EPIPE as i32) => return Ok(()),
            Err(err) => return Err(err),
        }
    }
    Ok(())
}

fn receive(stream: &mut UnixStream, deadline: Instant, held_until: Instant) -> io::Result<Vec<u8>> {
    let mut reply = Vec::new();
    let mut chunk = [0; 8 << 10];
    let mut until = deadline;
    loop {
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(reply),
            Ok(length) => reply.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
        if reply.len() as u64 > REPLY_MAX {
            return Err(io::Error::other("the reply is too long"));
        }
        if until < held_until && is_held(&reply) {
            until = held_until;
        }
    }
}

/// Whether the head of a reply is there, and says that the rest comes when a person has answered.
fn is_held(reply: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    matches!(head.parse(reply), Ok(httparse::Status::Complete(_))) && number(&head, HELD_HEADER).is_some()
}

fn number(head: &httparse::Response<'_, '_>, name: &str) -> Option<usize> {
    let header = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(header.value).ok()?.parse::<usize>().ok()
}

/// What a whole reply says. The daemon closes the connection behind it, so a shorter one was cut.
fn output(reply: &[u8]) -> Result<HookOutput, Failure> {
    let broken = |why: &str| Failure::Reply(why.to_owned());
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let length = match head.parse(reply) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Err(broken("it broke off")),
        Err(err) => return Err(Failure::Reply(err.to_string())),
    };
    let body = reply.get(length..).unwrap_or_default();
    if head.code != Some(200) {
        let said = String::from_utf8_lossy(body.get(..200).unwrap_or(body));
        return Err(Failure::Reply(said.trim().to_owned()));
    }
    let said = if number(&head, HELD_HEADER).is_some() {
        let body = chunks(body).ok_or_else(|| broken("it broke off while a person was asked"))?;
        held(&body)
    } else {
        if number(&head, "content-length") != Some(body.len()) {
            return Err(broken("it broke off"));
        }
        let parts = number(&head, STDOUT_HEADER).and_then(|length| body.split_at_checked(length));
        number(&head, EXIT_HEADER).zip(parts).and_then(|(exit, parts)| said(exit, parts))
    };
    said.ok_or_else(|| broken("it is not that of a hook"))
}

fn said(exit: usize, (stdout, stderr): (&[u8], &[u8])) -> Option<HookOutput> {
    let exit_code = u8::try_from(exit).ok()?;
    Some(HookOutput { stdout: stdout.to_vec(), stderr: stderr.to_vec(), exit_code })
}

/// The body of an answer that was held: what else stands in the head is its first line.
fn held(body: &[u8]) -> Option<HookOutput> {
    let end = body.iter().position(|byte| *byte == b'\n')?;
    let (line, rest) = body.split_at_checked(end)?;
    let (exit, length) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    said(exit.parse().ok()?, rest.get(1..)?.split_at_checked(length.parse().ok()?)?)
}

/// A body whose length nobody knew when it began; none if its end is missing.
fn chunks(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let Ok(httparse::Status::Complete((at, length))) = httparse::parse_chunk_size(body) else {
            return None;
        };
        let length = usize::try_from(length).ok()?;
        let (chunk, rest) = body.get(at..)?.split_at_checked(length)?;
        whole.extend_from_slice(chunk);
        body = rest.strip_prefix(b"\r\n")?;
        if length == 0 {
            return Some(whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_a_whole_reply_to_a_hook_is_one() {
        let reply = |head: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{head}\r\n{body}");
        let good = "defenseclaw-exit: 2\r\ndefenseclaw-stdout: 3\r\ncontent-length: 5\r\n";
        let read = output(reply(good, "outer").as_bytes()).unwrap();
        assert_eq!(read, HookOutput { stdout: b"out".to_vec(), stderr: b"er".to_vec(), exit_code: 2 });
        for text in [
            reply(good, "oute"),
            reply(good, "outerr"),
            reply("content-length: 5\r\n", "outer"),
            reply("defenseclaw-exit: 256\r\ndefenseclaw-stdout: 0\r\ncontent-length: 0\r\n", ""),
            reply("defenseclaw-exit: 0\r\ndefenseclaw-stdout: 9\r\ncontent-length: 0\r\n", ""),
            good.to_owned(),
            String::new(),
            "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\n\r\n".to_owned(),
        ] {
            output(text.as_bytes()).unwrap_err();
        }
    }

    #[test]
    fn a_held_answer_is_one_when_all_of_it_is_there() {
        let head = "HTTP/1.1 200 OK\r\ndefenseclaw-held-ms: 90000\r\ntransfer-encoding: chunked\r\n\r\n";
        assert!(is_held(head.as_bytes()) && !is_held(head.trim_end().as_bytes()));
        let whole = format!("{head}8\r\n2 3\noute\r\n1\r\nr\r\n0\r\n\r\n");
        let read = output(whole.as_bytes()).unwrap();
        assert_eq!(read, HookOutput { stdout: b"out".to_vec(), stderr: b"er".to_vec(), exit_code: 2 });
        for end in 0..whole.len() {
            output(&whole.as_bytes()[..end]).unwrap_err();
        }
        for body in [
            "1\r\n2\r\n0\r\n\r\n",
            "4\r\n2 9\n\r\n0\r\n\r\n",
            "6\r\n256 0\n\r\n0\r\n\r\n",
            "zz\r\n",
            "fffffffffffffffff\r\n",
        ] {
            output(format!("{head}{body}").as_bytes()).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn no_reply_is_too_much(bytes: Vec<u8>) {
            drop((output(&bytes), chunks(&bytes), held(&bytes)));
        }
    }
}
