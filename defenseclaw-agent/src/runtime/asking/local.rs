//! The local policy: rules that "always" has written, in a file beside the audit, which is where a service may write. The
//! text of a rule is made in `policy`; here it is read, shown and written.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::{api::Lasting, model::Approval};

/// Its name.
const NAME: &str = "policy.local.yaml";

/// Where the local policy is.
#[derive(Clone, Debug)]
pub(in super::super) struct Local(PathBuf);

/// A change that was thought out, and not made.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) shown: Lasting,
    text: String,
}

/// A change that only needs its name.
#[derive(Debug)]
pub(super) struct Ready {
    from: PathBuf,
    to: PathBuf,
    done: bool,
}

impl Local {
    /// Beside an audit database.
    pub(in super::super) fn beside(audit: &Path) -> Self {
        Self(audit.with_file_name(NAME))
    }

    pub(super) fn change(&self, approval: &Approval) -> Result<Change, String> {
        Err(format!("nothing can be written to {} for {}", self.0.display(), approval.id))
    }

    /// Writes the file under another name beside it, as readable as the one there is.
    pub(super) fn prepare(&self, change: &Change) -> Result<Ready, String> {
        let failed = |error: io::Error| format!("{} cannot be written: {error}", self.0.display());
        let mode = fs::metadata(&self.0).map_or(0o600, |found| found.mode() & 0o777);
        let ready = Ready { from: self.0.with_extension("yaml.new"), to: self.0.clone(), done: false };
        // What a writer before us has left.
        fs::remove_file(&ready.from).or_else(absent).map_err(failed)?;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&ready.from)
            .map_err(failed)?;
        file.write_all(change.text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        Ok(ready)
    }
}

fn absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

impl Ready {
    pub(super) fn commit(mut self) -> Result<(), String> {
        fs::rename(&self.from, &self.to)
            .map_err(|error| format!("{} cannot be written: {error}", self.to.display()))?;
        self.done = true;
        // The name, too, is to outlive a loss of power.
        self.to.parent().and_then(|parent| fs::File::open(parent).ok()).map(|parent| parent.sync_all().ok());
        Ok(())
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        if !self.done {
            fs::remove_file(&self.from).ok();
        }
    }
}
