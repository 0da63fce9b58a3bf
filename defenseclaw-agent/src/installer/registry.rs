//! What was installed, written down beside the audit, so that who watches it knows what should be there.

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

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
        // As private as the audit that will be here.
        if let Some(directory) = self.path.parent() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
            made.map_err(|source| InstallError::Io { what: "make", path: directory.to_owned(), source })?;
        }
        files::replace(&self.path, &text, Scope::User)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::{super::Roots, *};
    use crate::model::{Connector, FailMode};

    fn request(connector: Connector, scope: Scope, project: &str, fail: FailMode) -> Request {
        let roots = Roots { home: Some("/h".into()), project: Some(project.into()), etc: "/etc".into() };
        Request {
            connector,
            scope,
            program: "/x".into(),
            arguments: vec!["--a".to_owned()],
            fail,
            holds: false,
            roots,
        }
    }

    #[test]
    fn each_place_is_there_once() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::beside(&directory.path().join("state/audit.db"));
        let one = request(Connector::Codex, Scope::User, "/p", FailMode::Open);
        let elsewhere = request(Connector::Codex, Scope::User, "/q", FailMode::Closed);
        let project = request(Connector::Codex, Scope::Project, "/p", FailMode::Open);
        let another = request(Connector::Codex, Scope::Project, "/q", FailMode::Open);
        assert!(registry.read().unwrap().is_empty());
        for request in [&one, &project, &another, &elsewhere] {
            registry.add(request).unwrap();
        }
        // A user's hook is the same whatever the directory it was installed from.
        assert_eq!(registry.read().unwrap(), [project.clone(), another.clone(), elsewhere.clone()]);
        registry.forget(&project).unwrap();
        registry.forget(&project).unwrap();
        assert_eq!(registry.read().unwrap(), [another, elsewhere]);
        assert_eq!(fs::metadata(registry.path()).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_others_may_have_written_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::beside(&directory.path().join("audit.db"));
        fs::write(registry.path(), "[]").unwrap();
        fs::set_permissions(registry.path(), fs::Permissions::from_mode(0o622)).unwrap();
        registry.read().unwrap_err();
        fs::remove_file(registry.path()).unwrap();
        std::os::unix::fs::symlink("/dev/null", registry.path()).unwrap();
        registry.read().unwrap_err();
        registry.add(&request(Connector::Codex, Scope::User, "/p", FailMode::Open)).unwrap_err();
    }
}
