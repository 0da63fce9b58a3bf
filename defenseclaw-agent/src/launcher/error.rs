//! What can go wrong while a command is started, in words its user can act on.

use std::{ffi::OsString, io};

use nix::errno::Errno;

use super::landlock::LandlockError;

/// The command could not be started or attended to.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Nothing to start.
    #[error("no command given; write it after `--`")]
    EmptyCommand,
    /// Cannot be passed to execve.
    #[error("{what} contains a NUL byte, which no program can be given")]
    NulByte {
        /// Which part.
        what: &'static str,
    },
    /// The program did not start.
    #[error("cannot run {command:?}: {}{}", reason(*errno, command), hint(*errno, *as_invoker, command))]
    Exec {
        /// As it was given.
        command: OsString,
        /// What execve said.
        errno: Errno,
        /// It ran as the user who called sudo.
        as_invoker: bool,
    },
    /// The kernel did not let us take on the user's ids.
    #[error("cannot become user `{user}`: {errno}; run as root, or without choosing a user")]
    BecomeUser {
        /// Name in the user database.
        user: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// The process could not take on its Landlock domain.
    #[error("cannot confine the command with Landlock: {0}; run with --landlock off to do without it")]
    Restrict(Errno),
    /// The Landlock domain could not be made.
    #[error(transparent)]
    Landlock(#[from] LandlockError),
    /// No such account.
    #[error("no user `{0}` in the user database; use --as-root to stay root")]
    UnknownUser(String),
    /// The user database could not be read, or a `SUDO_UID` is not a number.
    #[error("cannot look up user `{user}`: {reason}")]
    UserLookup {
        /// Name or id.
        user: String,
        /// Why.
        reason: String,
    },
    /// A user was chosen by someone who cannot become another one.
    #[error("cannot run as `{0}` without root; start it with sudo")]
    NotRoot(String),
    /// A system call that starting a process needs.
    #[error("cannot {step}: {errno}")]
    System {
        /// What we were about to do.
        step: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
    /// A file of `/proc` that starting a process needs.
    #[error("cannot read {path}: {source}")]
    Proc {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl LaunchError {
    /// What the system said when the command was to start; 0 where it was not asked.
    pub fn errno(&self) -> i32 {
        if let Self::Exec { errno, .. } | Self::BecomeUser { errno, .. } = self { *errno as i32 } else { 0 }
    }

    /// For `map_err`: names what we were about to do.
    pub(super) fn system(step: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::System { step, errno }
    }

    /// What a shell, `env` or `nohup` exit with: 127 not found, 126 found but not started, 125 trouble of our own.
    pub fn exit_code(&self) -> u8 {
        if let Self::Exec { errno, .. } = self {
            if *errno == Errno::ENOENT { 127 } else { 126 }
        } else {
            125
        }
    }
}

fn has_slash(command: &OsString) -> bool {
    command.as_encoded_bytes().contains(&b'/')
}

fn reason(errno: Errno, command: &OsString) -> &'static str {
    if errno == Errno::ENOENT && has_slash(command) {
        "no such file, or the interpreter its first line names is missing"
    } else if errno == Errno::ENOENT {
        "not found in PATH"
    } else if errno == Errno::EACCES {
        "permission denied: not an executable file, or not for this user"
    } else if errno == Errno::ENOEXEC {
        "not a program for this machine, and no `#!` line says what runs it"
    } else {
        errno.desc()
    }
}

fn hint(errno: Errno, as_invoker: bool, command: &OsString) -> &'static str {
    if errno == Errno::ENOENT && as_invoker && !has_slash(command) {
        "; sudo sets a PATH of its own, so give the whole path, such as \"$(command -v NAME)\""
    } else {
        ""
    }
}
