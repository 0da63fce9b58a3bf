//! The process that is judged: does what it is told, and says what became of it.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, Result};
use nix::unistd::{ForkResult, fork};

use super::operation::Operation;
use crate::{policy::effects::exec, sys};

/// Seconds a worker lives at most.
const SECONDS: u32 = 900;

/// `DIR NAME [NEXT]`: connects to the suite, works, and starts `DIR/bin/NEXT` as a worker before that.
pub(in crate::policy) fn main(words: &[&str]) -> ExitCode {
    match work(words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: worker: {err:#}");
            ExitCode::from(3)
        }
    }
}

fn work(words: &[&str]) -> Result<()> {
    let [dir, name, next @ ..] = words else { anyhow::bail!("DIR NAME [NEXT]") };
    let dir = Path::new(dir);
    env::set_current_dir(dir.join("p"))?;
    sys::deadline(SECONDS);
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    let mut stream = UnixStream::connect(dir.join("control"))?;
    writeln!(stream, "{name}")?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    // The first word comes when this process is judged.
    lines.next().context("no word")??;
    if let Some(next) = next.first() {
        // SAFETY: this process has one thread.
        if let ForkResult::Child = unsafe { fork() }? {
            let text = dir.to_string_lossy();
            exec(&dir.join("bin").join(next), &["policy", "worker", &text, next]).ok();
            sys::exit_now(4);
        }
    }
    for line in lines {
        let operation: Operation = serde_json::from_str(&line?)?;
        writeln!(stream, "{}", operation.act())?;
    }
    Ok(())
}
