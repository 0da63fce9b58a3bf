//! Ring records of a real run, as the kernel wrote them, each behind its length.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use defenseclaw::{
    launcher::{self, LaunchOptions},
    model::SessionId,
    sensor::{Sensor, SensorOptions},
};

use crate::host::{Workload, lay_out};

pub(super) const SESSION: SessionId = SessionId(1);

/// Runs work of every kind under watch and writes its records to `file`. Returns how many.
pub(super) fn capture(tree: &Path, file: &Path) -> Result<u64> {
    lay_out(tree)?;
    let mut output = BufWriter::new(File::create(file)?);
    let mut count = 0;
    for workload in [Workload::Build, Workload::Git, Workload::Files] {
        let mut sensor = Sensor::load(&SensorOptions::default())?;
        let mut command = vec![std::env::current_exe()?.into_os_string()];
        command.extend(workload.command(tree));
        let prepared = launcher::prepare(&LaunchOptions { command, session: SESSION, user: None })?;
        sensor.enrol(prepared.pid().cast_unsigned(), SESSION)?;
        let mut running = prepared.release()?;
        let mut failure = None;
        loop {
            // Asked before the rings are read: what is in them then is all there will be.
            let ended = running.try_wait()?.is_some();
            let taken = sensor.read_raw(4096, |record| {
                let length = u32::try_from(record.len()).unwrap_or(u32::MAX).to_ne_bytes();
                let written = output.write_all(&length).and_then(|()| output.write_all(record));
                failure = written.err().or(failure.take());
                count += 1;
            });
            if taken == 0 {
                if ended {
                    break;
                }
                thread::sleep(Duration::from_millis(2));
            }
        }
        if let Some(error) = failure {
            return Err(error).with_context(|| format!("cannot write {}", file.display()));
        }
        let stats = sensor.stats()?;
        for (kind, counts) in &stats.kernel {
            if counts.get("seen") != counts.get("submitted") {
                bail!("{kind}: the capture is not complete ({counts:?})");
            }
        }
        running.finish();
    }
    output.flush()?;
    Ok(count)
}
