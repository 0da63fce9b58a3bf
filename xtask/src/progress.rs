//! A long step: a spinner with the child's last line, the whole output in a log, the end of the log on failure.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{process, workspace};

/// Lines of the log that a failure shows.
const TAIL: usize = 30;

/// A spinner on a terminal; silent elsewhere.
pub(crate) fn spinner(title: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg:.dim}") {
        bar.set_style(style);
    }
    bar.set_prefix(title.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// Runs one step to its end. Its output goes to `.xtask/logs/<name>.log`.
pub(crate) fn step(name: &str, title: &str, command: &mut Command) -> Result<()> {
    let logs = workspace::private().join("logs");
    fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
    let path = logs.join(format!("{name}.log"));
    let mut log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(log, "$ {}", process::describe(command))?;

    if !io::stderr().is_terminal() {
        eprintln!("{title} …");
    }
    let started = Instant::now();
    let bar = spinner(title);
    let (reader, writer) = io::pipe()?;
    let child = command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).spawn();
    // The command keeps its copies of the pipe's write end; without closing them the reader never ends.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = child.with_context(|| format!("cannot start {}", process::describe(command)))?;

    let mut tail = VecDeque::with_capacity(TAIL);
    let mut reader = BufReader::new(reader);
    let mut raw = Vec::new();
    while reader.read_until(b'\n', &mut raw)? != 0 {
        log.write_all(&raw)?;
        let line = String::from_utf8_lossy(&raw);
        // A carriage return overwrites what stood before it.
        let line = line.trim_end().rsplit('\r').next().unwrap_or_default().to_owned();
        raw.clear();
        if !line.is_empty() {
            bar.set_message(line.clone());
            if tail.len() == TAIL {
                tail.pop_front();
            }
            tail.push_back(line);
        }
    }
    let status = child.wait()?;
    bar.finish_and_clear();
    if !status.success() {
        for line in tail {
            eprintln!("  {line}");
        }
        bail!("{title}: {status}; the whole output is in {}", path.display());
    }
    eprintln!("{title}: done in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}
