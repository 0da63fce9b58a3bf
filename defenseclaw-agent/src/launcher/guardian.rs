//! A second process of ours that is there when this one is killed while it has stopped others. What it does then is not
//! decided here; it learns of the end by a pipe that nobody holds open any more.

use std::{
    io::Write,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

use super::LaunchError;
use crate::model::SessionId;

/// Tells it that nothing is left to do.
pub const DONE: u8 = b'q';

/// The waiting process. Dropping it sends it away.
#[derive(Debug)]
pub struct Guardian(Child);

impl Guardian {
    /// Starts it. With `release` it also takes the programs of the session off.
    #[expect(clippy::disallowed_methods, reason = "this room starts processes")]
    pub fn start(session: SessionId, release: bool) -> Result<Self, LaunchError> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("guardian").arg(session.to_string());
        if release {
            command.arg("--release");
        }
        // Signals of a terminal are not for it.
        command
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        let failed = |source| LaunchError::Proc { path: "/proc/self/exe".to_owned(), source };
        command.spawn().map(Self).map_err(failed)
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.0.stdin.take() {
            pipe.write_all(&[DONE]).ok();
        }
        self.0.wait().ok();
    }
}
