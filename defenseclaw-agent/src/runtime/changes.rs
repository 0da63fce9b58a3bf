//! Says when a policy's file has changed. Watches its directory: editors replace files instead of writing into them.

use std::{
    ffi::OsString,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    path::Path,
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};

/// A watched file.
#[derive(Debug)]
pub(super) struct Changes {
    inotify: Inotify,
    name: OsString,
}

impl Changes {
    /// Watches a file, which need not exist.
    pub(super) fn of(file: &Path) -> io::Result<Self> {
        let directory = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let name = file.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(directory, AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO)?;
        Ok(Self { inotify, name })
    }

    /// Takes in what has happened; whether the file may have changed.
    pub(super) fn take(&self) -> io::Result<bool> {
        let mut changed = false;
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    // Events that did not fit are lost: then anything may have happened.
                    changed |= events.iter().any(|event| {
                        event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW)
                            || event.name.as_ref() == Some(&self.name)
                    });
                }
                Err(Errno::EAGAIN) => return Ok(changed),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// The same descriptor, and open, as long as `self` lives: what tokio's `AsyncFd` has to be promised.
impl AsRawFd for Changes {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn writing_and_replacing_is_a_change_and_what_lies_beside_is_none() {
        let place = tempfile::TempDir::new().unwrap();
        let file = place.path().join("policy.yaml");
        let changes = Changes::of(&file).unwrap();
        assert!(!changes.take().unwrap());
        fs::write(&file, "a").unwrap();
        assert!(changes.take().unwrap());
        fs::write(place.path().join("other"), "a").unwrap();
        assert!(!changes.take().unwrap());
        fs::rename(place.path().join("other"), &file).unwrap();
        assert!(changes.take().unwrap());
        assert!(Changes::of(&place.path().join("no/such")).is_err());
    }
}
