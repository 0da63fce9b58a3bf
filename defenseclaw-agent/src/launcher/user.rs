//! As whom the command runs. A watcher needs root, an agent does not: under sudo the command runs as the user who
//! called it, unless told otherwise.

use std::{
    ffi::{CString, OsStr, OsString},
    path::PathBuf,
};

use nix::unistd::{Gid, Uid, User, getgrouplist};

use super::LaunchError;

/// What the user asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UserChoice {
    /// Nothing: under sudo its caller, otherwise ourselves.
    #[default]
    Invoker,
    /// `--as-root`: ourselves, also under sudo.
    Unchanged,
    /// `--user NAME`.
    Named(String),
}

/// An account the command runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAs {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
    /// Name.
    pub name: String,
    /// Home directory.
    pub home: PathBuf,
    /// Login shell.
    pub shell: PathBuf,
    /// It was taken from `SUDO_UID`, not asked for by name: worth a note on stderr.
    pub is_invoker: bool,
}

/// As whom to run: none means unchanged. `is_root` and `variable` (the environment) are parameters for the tests' sake.
pub fn choose_user(
    choice: &UserChoice,
    is_root: bool,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<RunAs>, LaunchError> {
    match choice {
        UserChoice::Unchanged => Ok(None),
        UserChoice::Named(name) if !is_root => Err(LaunchError::NotRoot(name.clone())),
        UserChoice::Named(name) => {
            let found = User::from_name(name).map_err(|errno| lookup(name, errno.desc()))?;
            let user = found.ok_or_else(|| LaunchError::UnknownUser(name.clone()))?;
            account(user, false).map(Some)
        }
        UserChoice::Invoker => match variable("SUDO_UID") {
            Some(uid) if is_root => invoker(&uid),
            _ => Ok(None),
        },
    }
}

fn invoker(uid: &OsStr) -> Result<Option<RunAs>, LaunchError> {
    let text = uid.to_string_lossy();
    let uid: u32 =
        text.parse().map_err(|err: std::num::ParseIntError| lookup(&text, &format!("SUDO_UID: {err}")))?;
    if uid == 0 {
        return Ok(None);
    }
    let found = User::from_uid(Uid::from_raw(uid)).map_err(|errno| lookup(&text, errno.desc()))?;
    account(found.ok_or_else(|| LaunchError::UnknownUser(text.into_owned()))?, true).map(Some)
}

fn account(user: User, is_invoker: bool) -> Result<RunAs, LaunchError> {
    let name = CString::new(user.name.clone()).map_err(|err| lookup(&user.name, &err.to_string()))?;
    let groups = getgrouplist(&name, user.gid).map_err(|errno| lookup(&user.name, errno.desc()))?;
    Ok(RunAs {
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
        groups: groups.into_iter().map(Gid::as_raw).collect(),
        name: user.name,
        home: user.dir,
        shell: user.shell,
        is_invoker,
    })
}

fn lookup(user: &str, reason: &str) -> LaunchError {
    LaunchError::UserLookup { user: user.to_owned(), reason: reason.to_owned() }
}

impl RunAs {
    /// Gives the environment back to its user: what sudo set to root's, and what it added.
    pub(super) fn adapt(&self, environment: &mut Vec<(OsString, OsString)>) {
        const OF_SUDO: [&str; 5] = ["SUDO_COMMAND", "SUDO_GID", "SUDO_HOME", "SUDO_UID", "SUDO_USER"];
        environment.retain(|(name, _)| !OF_SUDO.iter().any(|other| name == other));
        let user = OsStr::new(&self.name);
        let mail = OsString::from(format!("/var/mail/{}", self.name));
        for (name, value) in [
            ("HOME", self.home.as_os_str()),
            ("USER", user),
            ("LOGNAME", user),
            ("SHELL", self.shell.as_os_str()),
        ] {
            environment.retain(|(other, _)| other != name);
            environment.push((name.into(), value.to_owned()));
        }
        // Only where there was one: not every login sets it.
        for (_, value) in environment.iter_mut().filter(|(name, _)| name == "MAIL") {
            value.clone_from(&mail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(
        choice: &UserChoice,
        is_root: bool,
        sudo_uid: Option<&str>,
    ) -> Result<Option<RunAs>, LaunchError> {
        choose_user(choice, is_root, |name| sudo_uid.filter(|_| name == "SUDO_UID").map(Into::into))
    }

    #[test]
    fn sudo_runs_the_command_as_its_caller() {
        // uid 1 is `daemon` on every system with a user database.
        let user = chosen(&UserChoice::Invoker, true, Some("1")).unwrap().unwrap();
        assert!(user.is_invoker && user.uid == 1 && user.groups.contains(&user.gid), "{user:?}");
        let named = chosen(&UserChoice::Named(user.name.clone()), true, None).unwrap().unwrap();
        assert_eq!(named, RunAs { is_invoker: false, ..user });
    }

    #[test]
    fn otherwise_nothing_changes() {
        for (choice, is_root, sudo_uid) in [
            (UserChoice::Invoker, true, None),
            (UserChoice::Invoker, false, Some("1")),
            (UserChoice::Invoker, true, Some("0")),
            (UserChoice::Unchanged, true, Some("1")),
        ] {
            assert_eq!(
                chosen(&choice, is_root, sudo_uid).unwrap(),
                None,
                "{choice:?} {is_root} {sudo_uid:?}"
            );
        }
    }

    #[test]
    fn an_account_that_is_not_there_is_an_error() {
        for uid in ["4294967294", "-1", "x", ""] {
            assert!(chosen(&UserChoice::Invoker, true, Some(uid)).is_err(), "{uid}");
        }
        assert!(chosen(&UserChoice::Named("no such user".into()), true, None).is_err());
        assert!(chosen(&UserChoice::Named("daemon".into()), false, None).is_err());
    }

    #[test]
    fn the_environment_is_the_users() {
        let user = chosen(&UserChoice::Invoker, true, Some("1")).unwrap().unwrap();
        let pairs = [("HOME", "/root"), ("A", "1"), ("SUDO_UID", "1"), ("USER", "root"), ("SUDOKU", "2")];
        let mut environment = pairs.map(|(name, value)| (name.into(), value.into())).to_vec();
        user.adapt(&mut environment);
        let value = |wanted: &str| {
            environment.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.to_str().unwrap())
        };
        assert_eq!(
            (value("A"), value("SUDOKU"), value("SUDO_UID"), value("MAIL")),
            (Some("1"), Some("2"), None, None)
        );
        assert_eq!((value("HOME"), value("LOGNAME")), (user.home.to_str(), Some(user.name.as_str())));
        assert_eq!(environment.iter().filter(|(name, _)| name == "USER").count(), 1);
    }
}
