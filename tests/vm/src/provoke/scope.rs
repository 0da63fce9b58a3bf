//! Lets the process outside the session act while the session runs, and waits for it.

use std::{fs, io::Read};

use anyhow::{Context, Result};

use super::Stage;

pub(crate) fn outside(stage: &mut Stage) -> Result<()> {
    let (go, done) = (stage.run.join("go"), stage.run.join("done"));
    if !go.exists() {
        stage.skip("outside the session", "outside", "nobody waits at the fifo `go`");
        return Ok(());
    }
    // Each open waits for the other side; the deadline of the case ends it if there is none.
    drop(fs::OpenOptions::new().write(true).open(&go).context("go")?);
    let mut word = String::new();
    fs::File::open(&done).context("done")?.read_to_string(&mut word)?;
    anyhow::ensure!(word == "done", "the process outside said {word:?}");
    Ok(())
}
