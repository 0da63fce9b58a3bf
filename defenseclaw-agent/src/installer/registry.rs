//! What was installed, written down beside the audit, so that who watches it knows what should be there.

use std::path::{Path, PathBuf};

use super::{InstallError, Request, Scope, files};

/// Name of the file.
const FILE: &str = "hooks.json";

/// The file.
#[derive(Clone, Debug)]
pub struct Registry {
    path: PathBuf,
}

/// Whether two installations are in the same files.
pub fn same_place(a: &Request, b: &Request) -> bool {
    let of = |request: &Request| match request.scope {
        Scope::User => request.roots.home.clone(),
        Scope::Project => request.roots.project.clone(),
        Scope::Managed => Some(request.roots.etc.clone()),
    };
    a.connector == b.connector && a.scope == b.scope && of(a) == of(b)
}

impl Registry {
    /// Beside an audit.
    pub fn beside(audit: &Path) -> Self {
        Self { path: audit.with_file_name(FILE) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything that should be there.
    pub fn read(&self) -> Result<Vec<Request>, InstallError> {
        let Some(text) = files::read_own(&self.path)? else { return Ok(Vec::new()) };
        let unreadable = |err: serde_json::Error| InstallError::Unreadable {
            path: self.path.clone(),
            why: err.to_string(),
        };
        serde_json::from_str(&text).map_err(unreadable)
    }

    /// Adds one, in the place of what was there of it. Before its files are written: who watches should know them.
    pub fn add(&self, request: &Request) -> Result<(), InstallError> {
        self.change(request, Some(request))
    }

    /// Forgets one. Before its files are changed: it is no tampering.
    pub fn forget(&self, request: &Request) -> Result<(), InstallError> {
        self.change(request, None)
    }

    fn change(&self, place: &Request, new: Option<&Request>) -> Result<(), InstallError> {
        let before = self.read()?;
        let mut after: Vec<Request> =
            before.iter().filter(|known| !same_place(known, place)).cloned().collect();
        after.extend(new.cloned());
        if after == before {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(&after)
            .map_err(|err| InstallError::Unreadable { path: self.path.clone(), why: err.to_string() })?;
        files::replace(&self.path, &text, Scope::User)
    }
}
