//! Puts our hook into the configuration of agents, takes it out again, and says whether it is still there. Touches
//! nothing that is not ours: files are edited as text with their comments and order, and replaced as a whole.
//! It does not run agents, and does not know what hooks are answered.

mod entries;
mod files;
mod findings;
mod json;
mod part;
mod place;
mod registry;
mod toml;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::{Connector, FailMode};
pub use findings::Finding;
use part::Part;
pub use place::{Roots, Scope};
pub use registry::{Registry, same_place};

/// What to install, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// For which agent.
    pub connector: Connector,
    /// For whom.
    pub scope: Scope,
    /// The `defenseclaw` program, absolute.
    pub program: PathBuf,
    /// What the hook is told behind the connector's name.
    pub arguments: Vec<String>,
    /// What the agent itself should do when the hook fails, where it can be told.
    pub fail: FailMode,
    /// An answer may be held until a person has answered, and the agent should wait for it.
    #[serde(default)]
    pub holds: bool,
    /// Where the directories are.
    pub roots: Roots,
}

/// What is in one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Everything of ours, as we would write it now.
    Installed,
    /// Something of ours, but not all or not as we would write it.
    Changed,
    /// Nothing of ours.
    Absent,
}

/// One file of an installation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileState {
    /// The file.
    pub path: PathBuf,
    /// What is in it.
    pub state: State,
}

/// Something could not be done. No file was left half written.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// No such place for this agent.
    #[error("{connector} has no {scope} configuration that can hold our hook")]
    NoPlace {
        /// The agent.
        connector: Connector,
        /// The scope that was asked for.
        scope: Scope,
    },
    /// A directory that is needed is not known.
    #[error("no {what} directory is known; name it or run as the user whose agent it is")]
    NoDirectory {
        /// Which.
        what: &'static str,
    },
    /// The hook command must find our program whatever the agent's PATH is.
    #[error("{} is not an absolute path of a program", program.display())]
    Program {
        /// What was given.
        program: PathBuf,
    },
    /// The file is not what the agent would read.
    #[error("{} is left as it is: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The system said no.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Root would write where a user can put links.
    #[error("{} belongs to another user; run this as that user, or install with --managed", path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
    },
}

/// Adds our hook. Doing it again changes nothing.
pub fn install(request: &Request) -> Result<Vec<FileState>, InstallError> {
    check_program(&request.program)?;
    let mut before = String::new();
    for part in place::parts(request)? {
        let current = files::read(&part.path)?;
        let text = current.clone().unwrap_or_default();
        let wanted = part.add(&text, &before)?;
        if current.as_deref() != Some(wanted.as_str()) {
            if let Some(original) = current.filter(|text| part.cut(text).is_ok_and(|cut| cut == *text)) {
                files::back_up(&part.path, &original)?;
            }
            files::replace(&part.path, &wanted, request.scope)?;
        }
        before = wanted;
    }
    inspect(request)
}

/// Takes our hook out. A file that nobody changed since becomes what it was, byte for byte; of another one only what
/// is ours goes.
pub fn remove(request: &Request) -> Result<Vec<FileState>, InstallError> {
    let mut before = String::new();
    for part in place::parts(request)? {
        let Some(current) = files::read(&part.path)? else { continue };
        let original = files::backup(&part.path)?;
        let was = original.as_deref().unwrap_or_default();
        let untouched = part.add(was, &before).is_ok_and(|wanted| wanted == current);
        let cut = part.cut(&current)?;
        match original {
            Some(original) if untouched => files::replace(&part.path, &original, request.scope)?,
            None if untouched || part.is_empty(&cut) => files::delete(&part.path)?,
            _ if cut != current => files::replace(&part.path, &cut, request.scope)?,
            _ => {}
        }
        files::forget_backup(&part.path)?;
        before = current;
    }
    inspect(request)
}

/// What is installed now.
pub fn inspect(request: &Request) -> Result<Vec<FileState>, InstallError> {
    let mut before = String::new();
    let mut states = Vec::new();
    for part in place::parts(request)? {
        let current = files::read(&part.path)?;
        states.push(FileState { state: state(&part, current.as_deref(), &before), path: part.path.clone() });
        before = current.unwrap_or_default();
    }
    Ok(states)
}

fn state(part: &Part, current: Option<&str>, before: &str) -> State {
    let Some(text) = current else { return State::Absent };
    if part.cut(text).is_ok_and(|cut| cut == text) {
        State::Absent
    } else if part.add(text, before).is_ok_and(|wanted| wanted == text) {
        State::Installed
    } else {
        State::Changed
    }
}

/// How an installation is, as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// In one word.
    pub state: Whole,
    /// Files that are not as they were written, and what switches the hook off.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub what: Vec<String>,
}

/// The word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Whole {
    /// Everything is as it was written, and nothing switches it off.
    Installed,
    /// A switch in a configuration file passes it by.
    Disabled,
    /// Some of it is not as it was written, or cannot be read any more.
    Changed,
    /// Nothing of it is there.
    Removed,
}

impl Whole {
    /// The word in rows and texts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Installed => "installed",
            Self::Disabled => "disabled",
            Self::Changed => "changed",
            Self::Removed => "removed",
        }
    }
}

/// How an installation is now. What cannot be read is changed: the agent cannot read it, either.
pub fn condition(request: &Request) -> Condition {
    let files = match inspect(request) {
        Ok(files) => files,
        Err(err) => return Condition { state: Whole::Changed, what: vec![err.to_string()] },
    };
    let broken = files.iter().filter(|file| file.state != State::Installed);
    let what: Vec<String> = broken.map(|file| file.path.display().to_string()).collect();
    if files.iter().all(|file| file.state == State::Absent) {
        return Condition { state: Whole::Removed, what };
    }
    if !what.is_empty() {
        return Condition { state: Whole::Changed, what };
    }
    let active = findings(request).unwrap_or_default().into_iter().filter(|finding| finding.active);
    let what: Vec<String> = active.map(|finding| finding.way).collect();
    let state = if what.is_empty() { Whole::Installed } else { Whole::Disabled };
    Condition { state, what }
}

/// Files that decide whether the hook runs.
pub fn places(request: &Request) -> Result<Vec<PathBuf>, InstallError> {
    let parts = place::parts(request)?.into_iter().map(|part| part.path);
    Ok(parts.chain(place::switches(request).into_iter().map(|(path, _)| path)).collect())
}

/// Ways in which the hook can be passed by, known of this agent or seen in this configuration.
pub fn findings(request: &Request) -> Result<Vec<Finding>, InstallError> {
    let mut found = findings::known(request.connector, request.scope);
    for (path, what) in place::switches(request) {
        if let Some(text) = files::read(&path)? {
            found.extend(findings::seen(request.connector, &path, &text, what));
        }
    }
    Ok(found)
}

fn check_program(program: &Path) -> Result<(), InstallError> {
    if program.is_absolute() && program.is_file() {
        Ok(())
    } else {
        Err(InstallError::Program { program: program.to_owned() })
    }
}

#[cfg(test)]
mod tests;
