//! The file section as lines: what is outside of the project first, changed files before those that were read.

use std::cmp::Reverse;

use super::{
    RenderOptions,
    command::{self, Commands},
    line::{Line, Role, cut, shorten, width, wrap},
    words,
};
use crate::{
    model::{KernelPath, Text},
    report::{FileEntry, FileGroup, FileOperation, Files, NoiseFolder, PathClass, Report},
};

/// Files listed per class.
const CHANGED_MAX: usize = 20;
const READ_MAX: usize = 10;
/// Folders of noise named.
const FOLDERS_MAX: usize = 12;
const VERB_WIDTH: usize = 10;
const NAME_WIDTH: usize = 10;
/// Below this there is no room for who did it.
const NAMES_FROM: usize = 60;

/// Directories that are written shorter.
pub(super) struct Signs<'a> {
    pub(super) home: Vec<(&'a Text, &'static str)>,
    pub(super) project: Vec<(&'a Text, &'static str)>,
}

impl<'a> Signs<'a> {
    pub(super) fn new(report: &'a Report) -> Self {
        let (mut home, mut project) = (Vec::new(), Vec::new());
        if let Some(session) = &report.session {
            home.push((&session.home, "~/"));
            project.push((&session.project, ""));
        }
        Self { home, project }
    }
}

/// Lines of the section, without its heading.
pub(super) fn lines(
    files: &Files,
    signs: &Signs<'_>,
    commands: &Commands,
    options: &RenderOptions,
) -> Vec<Line> {
    let mut lines = Vec::new();
    for group in &files.groups {
        lines.push(Line::new().plain(format!("  {}", title(group.class))));
        let directories = if group.class == PathClass::Project { &signs.project } else { &signs.home };
        let shown: Vec<&FileEntry> =
            group.files.iter().filter(|file| options.full || !is_step(group, file)).collect();
        let (changed, read): (Vec<&FileEntry>, Vec<&FileEntry>) = shown.iter().partition(|file| file.changed);
        for (files, limit, what) in [(changed, CHANGED_MAX, "changed"), (read, READ_MAX, "read")] {
            // One more line says as much as the line about one more.
            let few = options.full || files.len() <= limit + 1;
            let rows = if few { files.chunks(1).collect() } else { by_directory(&files) };
            let limit = if few { usize::MAX } else { limit };
            for row in rows.iter().take(limit) {
                lines.push(match row {
                    [file] => line(file, directories, commands, options),
                    files => directory_line(files, directories, commands, options),
                });
            }
            let n_more: usize = rows.get(limit..).unwrap_or_default().iter().map(|files| files.len()).sum();
            if n_more > 0 {
                let more = words::number(u64::try_from(n_more).unwrap_or(u64::MAX));
                lines.push(Line::new().dim(format!("    … {more} more {what}")));
            }
        }
    }
    lines.extend(noise(files, &signs.home, commands, options));
    if files.unlisted > 0 {
        let words = format!("  {} on more paths than a report lists", words::count(files.unlisted, "event"));
        lines.push(Line::new().with(Role::Warning, words));
    }
    lines
}

fn title(class: PathClass) -> &'static str {
    match class {
        PathClass::Home => "home directory",
        PathClass::SystemConfig => "system configuration",
        PathClass::Elsewhere => "elsewhere",
        PathClass::Temporary => "temporary",
        PathClass::Project => "project",
    }
}

/// A name that only existed until it took the place of a file that is listed itself.
fn is_step(group: &FileGroup, file: &FileEntry) -> bool {
    let made_and_renamed = [FileOperation::Create, FileOperation::RenameAway]
        .iter()
        .all(|operation| file.operations.contains_key(operation));
    // The order of `FileGroup::files`.
    let listed =
        |to| group.files.binary_search_by(|other| (!other.changed, &other.path).cmp(&(false, to))).is_ok();
    made_and_renamed && !file.operations.contains_key(&FileOperation::Execute) && file.to.iter().all(listed)
}

/// Neighbours in one directory with the same verb together; less than three are not worth it.
fn by_directory<'a, 'b>(files: &'b [&'a FileEntry]) -> Vec<&'b [&'a FileEntry]> {
    let neighbours = files.chunk_by(|a, b| (verb(a), directory(a)) == (verb(b), directory(b)));
    neighbours.flat_map(|files| files.chunks(if files.len() < 3 { 1 } else { files.len() })).collect()
}

fn directory(file: &FileEntry) -> &[u8] {
    let path = file.path.text.0.as_slice();
    let end = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    path.get(..end).unwrap_or_default()
}

fn directory_line(
    files: &[&FileEntry],
    directories: &[(&Text, &'static str)],
    commands: &Commands,
    options: &RenderOptions,
) -> Line {
    let Some(first) = files.first() else { return Line::new() };
    let right = right(u64::try_from(files.len()).unwrap_or(u64::MAX), "files", first, commands, options);
    let left = Line::new().plain(format!("    {:VERB_WIDTH$}", verb(first).0));
    let path = KernelPath { text: directory(first).into(), ..KernelPath::default() };
    let room = options.width.saturating_sub(left.width() + right.width() + 1);
    let path = shorten(&command::path(&path, directories), room);
    left.plain(path).flush_right(right, options.width).fit(options.width)
}

/// How often, or how many, and by whom first.
fn right(n: u64, unit: &str, file: &FileEntry, commands: &Commands, options: &RenderOptions) -> Line {
    let count = if unit.is_empty() { words::times(n) } else { format!("{} {unit}", words::number(n)) };
    let line = Line::new().dim(count);
    if options.width < NAMES_FROM {
        return line;
    }
    let name = cut(commands.name(file.first_process), NAME_WIDTH);
    let pad = " ".repeat(NAME_WIDTH - width(&name));
    line.dim(format!("  {name}{pad}"))
}

fn line(
    file: &FileEntry,
    directories: &[(&Text, &'static str)],
    commands: &Commands,
    options: &RenderOptions,
) -> Line {
    let right = right(file.events, "", file, commands, options);
    let (verb, role) = verb(file);
    let left = Line::new().with(role, format!("    {verb:VERB_WIDTH$}"));
    let mut path = command::path(&file.path, directories);
    if let Some(to) = file.to.first().filter(|_| verb == "renamed" || verb == "symlinked") {
        path = format!("{path} → {}", command::path(to, directories));
    }
    let mut remarks = String::new();
    if file.changed && file.operations.contains_key(&FileOperation::Execute) {
        remarks.push_str("  [executed]");
    }
    if let Some(failures) = words::failures(&file.outcomes) {
        remarks.extend(["  [", &failures, "]"]);
    }
    let room = options.width.saturating_sub(left.width() + right.width() + 1);
    let remarks = cut(&remarks, room / 2);
    let path = shorten(&path, room.saturating_sub(width(&remarks)));
    left.plain(path).with(Role::Warning, remarks).flush_right(right, options.width).fit(options.width)
}

/// The most important thing that was done.
fn verb(file: &FileEntry) -> (&'static str, Role) {
    let done = |operation| file.operations.contains_key(&operation);
    if done(FileOperation::Create) && (done(FileOperation::Delete) || done(FileOperation::RenameAway)) {
        return ("transient", Role::Warning);
    }
    let Some((operation, _)) = file.operations.first_key_value() else { return ("", Role::Plain) };
    let verb = match operation {
        FileOperation::Delete => "deleted",
        FileOperation::RemoveDirectory => "rmdir",
        FileOperation::RenameAway => "renamed",
        FileOperation::RenameHere => "replaced",
        FileOperation::Create => "created",
        FileOperation::MakeDirectory => "mkdir",
        FileOperation::Symlink => "symlinked",
        FileOperation::Write => "wrote",
        FileOperation::Truncate => "truncated",
        FileOperation::Link | FileOperation::LinkHere => "linked",
        FileOperation::ChangeMode => "chmod",
        FileOperation::ChangeOwner => "chown",
        FileOperation::Execute => "executed",
        FileOperation::Read => "read",
        FileOperation::Reference => "looked up",
        FileOperation::Failed => "failed",
    };
    (verb, if operation.changes() { Role::Warning } else { Role::Plain })
}

/// One line for all folders, or every file of them.
fn noise(
    files: &Files,
    home: &[(&Text, &'static str)],
    commands: &Commands,
    options: &RenderOptions,
) -> Vec<Line> {
    if files.noise.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![Line::new().plain("  folded (files per directory)")];
    let mut described = Vec::new();
    let mut folders: Vec<&NoiseFolder> = files.noise.iter().collect();
    if !options.full {
        folders.sort_by_key(|folder| Reverse(folder.events));
        folders.truncate(FOLDERS_MAX);
        folders.sort_by_key(|folder| &folder.folder);
    }
    let n_more = files.noise.len() - folders.len();
    for folder in folders {
        let name = command::path(&KernelPath { text: folder.folder.clone(), ..Default::default() }, home);
        let n_files = words::number(u64::try_from(folder.files.len()).unwrap_or(u64::MAX));
        // Writing to `/dev/null` changes nothing.
        let changed = if folder.changed > 0 && folder.folder.0 != b"/dev" {
            format!(" ({} changed)", words::number(folder.changed))
        } else {
            String::new()
        };
        if options.full {
            let title = shorten(&format!("  {name}: {n_files}{changed}"), options.width);
            lines.push(Line::new().plain(title));
            lines.extend(folder.files.iter().map(|file| line(file, &[], commands, options)));
        } else {
            described.push(format!("{name}: {n_files}{changed}"));
        }
    }
    if !options.full {
        let mut text = described.join(", ");
        if n_more > 0 {
            text.extend([" … ", &words::number(u64::try_from(n_more).unwrap_or(u64::MAX)), " more folders"]);
        }
        let wrapped = wrap(&text, options.width - 4, 0);
        lines.extend(wrapped.into_iter().map(|text| Line::new().dim(format!("    {text}"))));
    }
    lines
}
