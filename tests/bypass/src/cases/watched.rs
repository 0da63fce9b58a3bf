//! What policy lets happen and wants to know of: the act succeeds by whatever trick, and must have left an alert.

use std::{fs, os::unix::fs::symlink};

use super::{Case, Proof, case, steps::read};
use crate::{arena::Class::Watched, sys};

pub(super) const CASES: &[Case] = &[
    case("watched-open", Watched, Proof::Secret, |target| read(target.secret())),
    case("watched-symlink", Watched, Proof::Secret, |target| {
        symlink(target.secret(), "link")?;
        read("link")
    }),
    case("watched-hard-link-earlier", Watched, Proof::Secret, |target| read(target.work.join("older")))
        .set_up(|target| Ok(fs::hard_link(target.secret(), target.work.join("older"))?)),
    case("watched-o-path-reopen", Watched, Proof::Secret, |target| {
        let fd = sys::open(target.secret(), libc::O_PATH)?;
        read(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd)))
    }),
    case("watched-flood", Watched, Proof::Secret, |target| {
        // An alert among so many harmless records that most of them are dropped.
        for turn in 0..20_000 {
            sys::open("/dev/null", libc::O_RDONLY)?;
            if turn == 10_000 {
                drop(sys::open(target.secret(), libc::O_RDONLY)?);
            }
        }
        read(target.secret())
    })
    .floods(),
    case("watched-rename", Watched, Proof::Changed, |target| {
        fs::rename(target.secret(), target.work.join("moved"))?;
        Ok(b"done".to_vec())
    }),
];
