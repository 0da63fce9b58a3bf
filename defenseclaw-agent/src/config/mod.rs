//! Where things are, and what the daemon does: flags, environment and one file become plain settings. Does nothing with
//! them.

mod approvals;
mod file;
mod place;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

pub use approvals::ApprovalsConfig;
pub use file::{Config, ConnectorConfig, SCHEMA};
pub use place::{RUNS, config_path, default_socket, load, run_sockets, sockets};

use crate::policy::Problem;

/// Settings every command needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The audit database.
    pub database: PathBuf,
    /// Nobody named it: it is our own place, whose directory we may make.
    pub default_place: bool,
}

/// The settings cannot be worked out.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No place for state.
    #[error("no place for the audit database: neither XDG_STATE_HOME nor HOME is an absolute path")]
    NoHome,
    /// The configuration cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Somebody else could have written what root is about to do.
    #[error("the configuration {} can be changed by others than its owner or is not root's", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Mistakes in the configuration.
    #[error("the configuration has {} mistakes: {}", .0.len(), said(.0))]
    Wrong(Vec<Problem>),
}

fn said(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl ConfigError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoHome => Some("name the database with --db PATH or DEFENSECLAW_DB"),
            Self::Read { .. } => Some("name another file with --config PATH"),
            Self::Foreign { .. } => Some("`chown root PATH` and `chmod go-w PATH`"),
            Self::Wrong(_) => Some("`defenseclaw config check` shows where"),
        }
    }
}

impl Settings {
    /// From the `--db` flag, then the environment, then the default for this user.
    pub fn new(db: Option<PathBuf>) -> Result<Self, ConfigError> {
        Self::from_parts(db, nix::unistd::geteuid().is_root(), |name| std::env::var_os(name))
    }

    fn from_parts(
        db: Option<PathBuf>,
        root: bool,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        // An empty variable is an unset one, as for every XDG variable.
        let variable = |name| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(database) = db.or_else(|| variable("DEFENSECLAW_DB")) {
            return Ok(Self { database, default_place: false });
        }
        let absolute = |name| variable(name).filter(|path| path.is_absolute());
        let state = if root {
            Path::new("/var/lib").to_owned()
        } else {
            absolute("XDG_STATE_HOME")
                .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
                .ok_or(ConfigError::NoHome)?
        };
        Ok(Self { database: state.join("defenseclaw/audit.db"), default_place: true })
    }
}

/// Where the audit of this user is, if nobody says otherwise.
pub fn default_database() -> Result<PathBuf, ConfigError> {
    let state = |name: &str| if name == "DEFENSECLAW_DB" { None } else { std::env::var_os(name) };
    Settings::from_parts(None, nix::unistd::geteuid().is_root(), state).map(|settings| settings.database)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_wins_then_the_environment_then_the_user() {
        const ROOT: &str = "/var/lib/defenseclaw/audit.db";
        type Case<'a> = (Option<&'a str>, bool, &'a [(&'a str, &'a str)], Result<(&'a str, bool), ()>);
        let cases: [Case<'_>; 9] = [
            (Some("x.db"), true, &[("DEFENSECLAW_DB", "/e.db")], Ok(("x.db", false))),
            (None, true, &[("DEFENSECLAW_DB", "/e.db")], Ok(("/e.db", false))),
            (None, true, &[("DEFENSECLAW_DB", "")], Ok((ROOT, true))),
            (None, true, &[("XDG_STATE_HOME", "/s"), ("HOME", "/root")], Ok((ROOT, true))),
            (None, false, &[("XDG_STATE_HOME", "/s"), ("HOME", "/h")], Ok(("/s/defenseclaw/audit.db", true))),
            (
                None,
                false,
                &[("XDG_STATE_HOME", "s"), ("HOME", "/h")],
                Ok(("/h/.local/state/defenseclaw/audit.db", true)),
            ),
            (None, false, &[("HOME", "/h")], Ok(("/h/.local/state/defenseclaw/audit.db", true))),
            (None, false, &[("HOME", "")], Err(())),
            (None, false, &[], Err(())),
        ];
        for (flag, root, variables, want) in cases {
            let find = |name: &str| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
            };
            let got = Settings::from_parts(flag.map(PathBuf::from), root, find).map_err(drop);
            let want = want.map(|(path, default_place)| Settings { database: path.into(), default_place });
            assert_eq!(got, want, "{flag:?} {root} {variables:?}");
        }
    }
}
