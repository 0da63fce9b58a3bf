//! What was answered by the fail mode, kept until a daemon answers: one short line for each hook in a file of the user.
//! No payload is kept. The file is bounded; of what has no room any more only the connector's name is kept, and so it is still counted.
//!
//! Two locks of one byte each: whoever writes holds the first for as long as a write takes, whoever tells the daemon the
//! second for as long as that takes, so that nothing is told twice and no hook waits for another one's daemon.

use std::{
    env,
    ffi::OsStr,
    fs::{DirBuilder, File, OpenOptions, metadata},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    time::{ClockId, clock_gettime},
    unistd::geteuid,
};

use super::{Arguments, exchange};
use crate::{
    connectors,
    model::{Connector, Missed, REPORT_MAX, WallTime},
};

/// Bytes of lines that say something.
const SPOOL_MAX: u64 = 48 << 10;
/// Bytes with those that only count.
const FULL: u64 = 64 << 10;
/// Longer payloads are not read again for the sake of a name.
const PAYLOAD_MAX: usize = 256 << 10;
/// Bytes kept of a name.
const NAME_MAX: usize = 128;
/// How long telling may keep an agent waiting, which has its answer by then.
const PATIENCE: Duration = Duration::from_millis(200);
/// Tries to be alone for a write, a millisecond each.
const TRIES: usize = 20;
const FILE: &str = "missed";

/// Keeps that a hook was not judged. What cannot be kept is not: the agent waits.
pub(super) fn keep(arguments: &Arguments, reason: &str, payload: &[u8]) {
    let event = Some(payload)
        .filter(|payload| payload.len() <= PAYLOAD_MAX)
        .and_then(|payload| connectors::parse(arguments.connector, payload).ok());
    let short = |text: String| text.chars().take(NAME_MAX).collect::<String>();
    let missed = Missed {
        wall: now(),
        connector: arguments.connector,
        fail: arguments.fail,
        reason: reason.to_owned(),
        session: event.as_ref().and_then(|event| event.session.clone()).map(short),
        event: event.map(|event| short(event.name)),
    };
    let Ok(mut line) = serde_json::to_vec(&missed) else { return };
    line.push(b'\n');
    // The first place that takes it.
    for place in places(&arguments.socket) {
        if place.make && place.path.parent().is_none_or(|directory| make(directory).is_err()) {
            continue;
        }
        if append(&place.path, &line, arguments.connector).is_ok() {
            return;
        }
    }
}

/// Tells the daemon that has just answered what it has missed, if anything.
pub(super) fn tell(socket: &Path, deadline: Instant) {
    let deadline = deadline.min(Instant::now() + PATIENCE);
    for place in places(socket) {
        // Nothing there, or nobody there to tell: it stays for the next time.
        drop(tell_of(&place.path, socket, deadline));
    }
}

fn tell_of(path: &Path, socket: &Path, deadline: Instant) -> io::Result<()> {
    let mut file = open(path, OpenOptions::new().read(true).write(true))?;
    if file.metadata()?.len() == 0 {
        return Ok(());
    }
    lock(&file, TELLING)?;
    let mut lines = vec![0; REPORT_MAX];
    let length = file.read(&mut lines)?;
    let end = lines.get(..length).and_then(|lines| lines.iter().rposition(|byte| *byte == b'\n'));
    let lines = lines.get(..end.map_or(0, |end| end + 1)).unwrap_or_default();
    if !lines.is_empty() {
        exchange::report(socket, lines, deadline).map_err(io::Error::other)?;
    }
    // What was told goes; what came meanwhile stays. A line that never ends is nothing that was written here.
    patiently(&file, WRITING)?;
    let mut rest = Vec::new();
    file.seek(SeekFrom::Start(lines.len() as u64))?;
    (&file).take(FULL).read_to_end(&mut rest)?;
    if lines.is_empty() {
        rest.clear();
    }
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&rest)
}

fn append(path: &Path, line: &[u8], connector: Connector) -> io::Result<()> {
    let mut file = open(path, OpenOptions::new().append(true).create(true).mode(0o600))?;
    // A lock that cannot be had is no reason to forget: at worst a line is told twice or lost.
    patiently(&file, WRITING).ok();
    match file.metadata()?.len() {
        length if length < SPOOL_MAX => file.write_all(line),
        length if length < FULL => file.write_all(format!("{connector}\n").as_bytes()),
        _ => Ok(()),
    }
}

/// A file of this user's own, never what a link leads to, and never a pipe that would hold us up.
fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)?;
    let found = file.metadata()?;
    if found.is_file() && found.uid() == geteuid().as_raw() && found.nlink() == 1 {
        Ok(file)
    } else {
        Err(io::Error::other("not a file of ours"))
    }
}

/// Which byte.
const WRITING: i64 = 0;
const TELLING: i64 = 1;

/// Held until the file is closed.
fn lock(file: &File, byte: i64) -> io::Result<()> {
    let wanted = libc::flock {
        l_type: narrow(libc::F_WRLCK)?,
        l_whence: narrow(libc::SEEK_SET)?,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&wanted)).map(drop).map_err(io::Error::from)
}

/// The kernel's constants are wider than its structure.
fn narrow(constant: libc::c_int) -> io::Result<libc::c_short> {
    constant.try_into().map_err(io::Error::other)
}

fn patiently(file: &File, byte: i64) -> io::Result<()> {
    let mut last = Ok(());
    for _ in 0..TRIES {
        last = lock(file, byte);
        if last.is_ok() {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    last
}

struct Place {
    path: PathBuf,
    /// Its directory may be made.
    make: bool,
}

/// Beside the daemon's socket if that directory is ours alone; else in the user's state.
fn places(socket: &Path) -> impl Iterator<Item = Place> {
    let own = |found: &std::fs::Metadata| found.uid() == geteuid().as_raw() && found.mode() & 0o022 == 0;
    let beside = socket.parent().filter(|directory| metadata(directory).is_ok_and(|found| own(&found)));
    let beside = beside.map(|directory| Place { path: directory.join(FILE), make: false });
    let state = if geteuid().is_root() {
        // Root's HOME may be another user's, who could put a link there.
        Some(Place { path: Path::new("/var/lib/defenseclaw").join(FILE), make: false })
    } else {
        state(|name| env::var_os(name).filter(|value| Path::new(value).is_absolute()))
            .map(|directory| Place { path: directory.join("defenseclaw").join(FILE), make: true })
    };
    beside.into_iter().chain(state)
}

fn state(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    let home = || variable("HOME").map(|home| Path::new(&home).join(OsStr::new(".local/state")));
    variable("XDG_STATE_HOME").map(PathBuf::from).or_else(home)
}

fn make(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

fn now() -> WallTime {
    // There is always this clock.
    let now = clock_gettime(ClockId::CLOCK_REALTIME).map(Duration::from).unwrap_or_default();
    WallTime(i64::try_from(now.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, sync::Barrier};

    use super::*;

    #[test]
    fn what_has_no_room_is_still_counted_and_the_file_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        for _ in 0..48 + 5000 {
            append(&path, &line, Connector::Codex).unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!((FULL..FULL + 10).contains(&(text.len() as u64)));
        assert!(text.lines().filter(|line| *line == "codex").count() > 2000);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn links_pipes_and_second_names_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let [target, link, second, pipe] =
            ["target", "link", "second", "pipe"].map(|name| directory.path().join(name));
        fs::write(&target, "").unwrap();
        symlink(&target, &link).unwrap();
        fs::hard_link(&target, &second).unwrap();
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [&link, &second, &pipe] {
            append(path, b"x\n", Connector::Codex).unwrap_err();
        }
        assert_eq!(fs::read(&target).unwrap(), b"");
    }

    #[test]
    fn lines_of_many_writers_stay_whole() {
        const WRITERS: usize = 8;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let start = Barrier::new(WRITERS);
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (path, start) = (&path, &start);
                scope.spawn(move || {
                    start.wait();
                    for _ in 0..50 {
                        append(
                            path,
                            format!("{}\n", writer.to_string().repeat(20)).as_bytes(),
                            Connector::Codex,
                        )
                        .unwrap();
                    }
                });
            }
        });
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), WRITERS * 50);
        assert!(
            text.lines().all(|line| line.len() == 20 && line.bytes().all(|byte| byte == line.as_bytes()[0]))
        );
    }

    #[test]
    fn state_is_the_users() {
        let find = |set: &'static [(&str, &str)]| {
            state(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
        };
        assert_eq!(find(&[("XDG_STATE_HOME", "/s"), ("HOME", "/h")]), Some("/s".into()));
        assert_eq!(find(&[("HOME", "/h")]), Some("/h/.local/state".into()));
        assert_eq!(find(&[]), None);
    }
}
