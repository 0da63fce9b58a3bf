//! The local policy: rules that "always" has written, in a file beside the audit, which is where a service may write. The
//! text of a rule is made in `policy`; here it is read, shown and written.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::{
    api::Lasting,
    model::Approval,
    policy::{self, Session},
};

/// Its name.
const NAME: &str = "policy.local.yaml";

/// Where the local policy is.
#[derive(Clone, Debug, PartialEq, Eq)]
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

    /// The rule that would answer this question for good.
    pub(super) fn change(&self, approval: &Approval) -> Result<Change, String> {
        let (name, present) = (self.0.display().to_string(), self.text()?.map(|(text, _)| text));
        let added = policy::add(&name, present.as_deref(), &approval.subject)?;
        Ok(Change { shown: Lasting { path: name, diff: added.diff }, text: added.text })
    }

    /// A session with what was allowed for good. What cannot be used is said, and answers nothing.
    pub(in super::super) fn bind(&self, session: Session, home: &[u8], project: &[u8]) -> Session {
        let name = self.0.display().to_string();
        let found = self.text().map_err(|error| vec![error]).and_then(|found| {
            let Some((text, owner)) = found else { return Ok(None) };
            let loaded = policy::Local::load(&name, &text, home, project, owner);
            loaded.map(Some).map_err(|problems| problems.iter().map(ToString::to_string).collect())
        });
        match found {
            Ok(Some(local)) => session.with_local(local),
            Ok(None) => session,
            Err(problems) => {
                tracing::warn!(file = name, ?problems, "the local policy answers nothing");
                session
            }
        }
    }

    /// Its text and its owner, if there is one and nobody else could have written it.
    fn text(&self) -> Result<Option<(String, u32)>, String> {
        let failed = |error: io::Error| format!("{} cannot be read: {error}", self.0.display());
        // A pipe or a link in its place must not lead anywhere.
        let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
        let file = match fs::OpenOptions::new().read(true).custom_flags(flags).open(&self.0) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let found = file.metadata().map_err(failed)?;
        let ours = [0, nix::unistd::geteuid().as_raw()].contains(&found.uid());
        if !found.is_file() || !ours || found.mode() & 0o022 != 0 {
            return Err(format!("{} can be written by others", self.0.display()));
        }
        let mut text = String::new();
        file.take(policy::SIZE_MAX as u64 + 1).read_to_string(&mut text).map_err(failed)?;
        Ok(Some((text, found.uid())))
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::{
        model::{ApprovalId, BootTime, Mode, PolicyAction, ProcessKey, Severity, Subject, Waiter, WallTime},
        policy::Bindings,
    };

    fn approval(object: &str) -> Approval {
        Approval {
            id: ApprovalId(1),
            session: None,
            connector: None,
            agent_session: None,
            uid: 0,
            subject: Subject {
                rule: "secret".to_owned(),
                effect: "file.read".to_owned(),
                object: object.into(),
            },
            severity: Severity::High,
            reason: String::new(),
            waiter: Waiter::Held { process: ProcessKey { tgid: 1, start_ns: 0 } },
            command: Vec::new(),
            ancestry: Vec::new(),
            tool_call: None,
            since: BootTime(0),
            wall: WallTime(0),
            deadline: BootTime(0),
            fallback: PolicyAction::Block,
        }
    }

    fn bound(local: &Local) -> Session {
        let text = "version: 1\nrules:\n  - {id: secret, effect: file.read, match: {paths: ['/s/**']}, severity: high, reason: r}\n";
        let policy = policy::load("p", text, &|_| None).unwrap();
        let bindings = Bindings {
            home: b"/h".to_vec(),
            project: b"/h/p".to_vec(),
            profile: "default".to_owned(),
            mode: Some(Mode::Hitl),
        };
        local.bind(Session::asking(&policy, &bindings).unwrap(), b"/h", b"/h/p")
    }

    #[test]
    fn what_is_allowed_for_good_is_written_whole_or_not_at_all() {
        let place = tempfile::tempdir().unwrap();
        let local = Local::beside(&place.path().join("audit.db"));
        let file = place.path().join(NAME);
        let (one, two) = (approval("/s/one"), approval("/s/two"));
        assert!(bound(&local).local().is_none());
        let change = local.change(&one).unwrap();
        assert!(change.shown.diff.contains('+') && change.shown.diff.contains("/s/one"), "{change:?}");
        // Not agreed to: nothing stays.
        drop(local.prepare(&change).unwrap());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        local.prepare(&change).unwrap().commit().unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        local.prepare(&local.change(&two).unwrap()).unwrap().commit().unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o644);
        let session = bound(&local);
        let answers = |approval: &Approval| session.local().unwrap().answers(&approval.subject);
        assert!(answers(&one) && answers(&two) && !answers(&approval("/s/three")));
        // Who else can write it could allow everything.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(bound(&local).local().is_none());
        local.change(&approval("/s/three")).unwrap_err();
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &file).unwrap();
        assert!(bound(&local).local().is_none());
    }
}
