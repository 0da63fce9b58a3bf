//! The file section: one entry per path, grouped by class; noise folded by directory.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::{
    Outcomes, PathClass,
    classes::{Place, Places},
};
use crate::model::{Access, Action, Event, KernelPath, ProcessKey, Text};

/// Paths that are listed.
const PATHS_MAX: usize = 200_000;
/// Other names of one file that are listed.
const NAMES_MAX: usize = 8;

/// Files and directories.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Files {
    /// Events of this section: those of all groups and folders, and the unlisted ones.
    pub events: u64,
    /// In the order of [`PathClass`], without empty ones.
    pub groups: Vec<FileGroup>,
    /// Libraries, devices, dependencies and the like, by directory.
    pub noise: Vec<NoiseFolder>,
    /// Events on paths beyond the bound of the list.
    pub unlisted: u64,
}

/// The files of one class.
#[derive(Clone, Debug, Serialize)]
pub struct FileGroup {
    /// Which.
    pub class: PathClass,
    /// Events on them.
    pub events: u64,
    /// Changed ones first, then by path.
    pub files: Vec<FileEntry>,
}

/// Files below one directory that nobody wants to read about one by one.
#[derive(Clone, Debug, Serialize)]
pub struct NoiseFolder {
    /// The directory, or a description in parentheses.
    pub folder: Text,
    /// Events on them.
    pub events: u64,
    /// How many of the files were changed.
    pub changed: u64,
    /// Changed ones first, then by path.
    pub files: Vec<FileEntry>,
}

/// One path.
#[derive(Clone, Debug, Serialize)]
pub struct FileEntry {
    /// The path.
    pub path: KernelPath,
    /// Events on it. A rename or link is counted at the old name.
    pub events: u64,
    /// What was done, and how often; one event can do several things.
    pub operations: BTreeMap<FileOperation, u64>,
    /// It was changed, or this was tried.
    pub changed: bool,
    /// With what results.
    pub outcomes: Outcomes,
    /// When first.
    pub first_ns: u64,
    /// By whom first.
    pub first_process: ProcessKey,
    /// Names that were renamed or linked to this one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<KernelPath>,
    /// Names it was renamed or linked to; of a symbolic link its text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<KernelPath>,
}

/// What was done to a file, the most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileOperation {
    /// The name was removed.
    Delete,
    /// The directory was removed.
    RemoveDirectory,
    /// The name was given up for another one.
    RenameAway,
    /// Another file took this name.
    RenameHere,
    /// It was made.
    Create,
    /// The directory was made.
    MakeDirectory,
    /// The symbolic link was made.
    Symlink,
    /// It was opened for writing.
    Write,
    /// Its length was set.
    Truncate,
    /// It got a second name.
    Link,
    /// It was made as second name of another file.
    LinkHere,
    /// Its mode was changed.
    ChangeMode,
    /// Its owner was changed.
    ChangeOwner,
    /// It was executed or mapped as code.
    Execute,
    /// It was opened for reading.
    Read,
    /// It was opened, but not for its content.
    Reference,
    /// A failed attempt.
    Failed,
}

impl FileOperation {
    /// It leaves something different behind.
    pub fn changes(self) -> bool {
        !matches!(self, Self::Execute | Self::Read | Self::Reference | Self::Failed)
    }
}

#[derive(Debug, Default)]
pub(super) struct Builder {
    events: u64,
    entries: HashMap<KernelPath, FileEntry>,
    unlisted: u64,
}

impl Builder {
    pub(super) fn push(&mut self, event: &Event, at_ns: u64) {
        self.events += 1;
        let Some((path, operations)) = operations(&event.action) else {
            self.unlisted += 1;
            return;
        };
        let failed = event.result.is_some_and(|result| result < 0);
        let Some(entry) = self.entry(path, event.process, at_ns) else {
            self.unlisted += 1;
            return;
        };
        entry.events += 1;
        entry.outcomes.add(event.result);
        entry.add(&operations, failed);
        if failed {
            return;
        }
        if let Action::FileSymlink { target, .. } = &event.action {
            let target = KernelPath { text: target.clone(), as_given: true, ..KernelPath::default() };
            add_name(&mut entry.to, &target);
        }
        if let Some(other) = event.action.other_path() {
            add_name(&mut entry.to, other);
            let here = if matches!(event.action, Action::FileRename { .. }) {
                FileOperation::RenameHere
            } else {
                FileOperation::LinkHere
            };
            if let Some(entry) = self.entry(other, event.process, at_ns) {
                entry.add(&[here], false);
                add_name(&mut entry.from, path);
            }
        }
    }

    /// The entry of a path; none beyond the bound.
    fn entry(&mut self, path: &KernelPath, process: ProcessKey, at_ns: u64) -> Option<&mut FileEntry> {
        if !self.entries.contains_key(path) {
            if self.entries.len() >= PATHS_MAX {
                return None;
            }
            let entry = FileEntry {
                path: path.clone(),
                events: 0,
                operations: BTreeMap::new(),
                changed: false,
                outcomes: Outcomes::default(),
                first_ns: at_ns,
                first_process: process,
                from: Vec::new(),
                to: Vec::new(),
            };
            self.entries.insert(path.clone(), entry);
        }
        let entry = self.entries.get_mut(path)?;
        if at_ns < entry.first_ns {
            (entry.first_ns, entry.first_process) = (at_ns, process);
        }
        Some(entry)
    }

    pub(super) fn finish(self, places: &Places) -> Files {
        let mut groups: BTreeMap<PathClass, Vec<FileEntry>> = BTreeMap::new();
        let mut noise: BTreeMap<Text, Vec<FileEntry>> = BTreeMap::new();
        for entry in self.entries.into_values() {
            match places.place(&entry.path, entry.changed) {
                Place::Class(class) => groups.entry(class).or_default().push(entry),
                Place::Noise(folder) => noise.entry(folder).or_default().push(entry),
            }
        }
        let groups = groups.into_iter().map(|(class, files)| FileGroup {
            class,
            events: count_events(&files),
            files: sorted(files),
        });
        let noise = noise.into_iter().map(|(folder, files)| NoiseFolder {
            folder,
            events: count_events(&files),
            changed: files.iter().map(|file| u64::from(file.changed)).sum(),
            files: sorted(files),
        });
        Files {
            events: self.events,
            groups: groups.collect(),
            noise: noise.collect(),
            unlisted: self.unlisted,
        }
    }
}

impl FileEntry {
    fn add(&mut self, operations: &[FileOperation], failed: bool) {
        self.changed |= operations.iter().any(|operation| operation.changes());
        let operations = if failed { &[FileOperation::Failed] } else { operations };
        for operation in operations {
            *self.operations.entry(*operation).or_insert(0) += 1;
        }
    }
}

fn count_events(files: &[FileEntry]) -> u64 {
    files.iter().map(|file| file.events).sum()
}

fn sorted(mut files: Vec<FileEntry>) -> Vec<FileEntry> {
    files.sort_by(|a, b| (!a.changed, &a.path).cmp(&(!b.changed, &b.path)));
    files
}

fn add_name(names: &mut Vec<KernelPath>, name: &KernelPath) {
    if names.len() < NAMES_MAX && !names.contains(name) {
        names.push(name.clone());
    }
}

/// Path and operations of a file event; none for every other event.
fn operations(action: &Action) -> Option<(&KernelPath, Vec<FileOperation>)> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "only file events get here")]
    let operation = match action {
        Action::FileOpen { access, .. } => return Some((action.path()?, of_access(*access))),
        Action::FileCreate { access, .. } => {
            let mut operations = of_access(*access);
            operations.push(FileOperation::Create);
            operations.sort_unstable();
            operations.dedup();
            return Some((action.path()?, operations));
        }
        Action::FileUnlink { .. } => FileOperation::Delete,
        Action::FileRename { .. } => FileOperation::RenameAway,
        Action::FileLink { .. } => FileOperation::Link,
        Action::FileSymlink { .. } => FileOperation::Symlink,
        Action::FileChmod { .. } => FileOperation::ChangeMode,
        Action::FileChown { .. } => FileOperation::ChangeOwner,
        Action::FileTruncate { .. } => FileOperation::Truncate,
        Action::DirMake { .. } => FileOperation::MakeDirectory,
        Action::DirRemove { .. } => FileOperation::RemoveDirectory,
        _ => return None,
    };
    Some((action.path()?, vec![operation]))
}

fn of_access(access: Access) -> Vec<FileOperation> {
    let table = [
        (Access::CREATE, FileOperation::Create),
        (Access::WRITE | Access::APPEND, FileOperation::Write),
        (Access::TRUNCATE, FileOperation::Truncate),
        (Access::EXECUTE | Access::MAP_EXECUTE, FileOperation::Execute),
        (Access::READ, FileOperation::Read),
    ];
    let mut operations: Vec<_> =
        table.iter().filter(|(bits, _)| access.intersects(*bits)).map(|(_, operation)| *operation).collect();
    if operations.is_empty() {
        operations.push(FileOperation::Reference);
    }
    operations
}
