//! Files that are open when the command starts, because whoever started us left them open or redirected to them. No hook
//! sees them opened, so policy judges them here, before the command exists: a protected file as standard input or output is
//! an error, any other one becomes /dev/null. Directories and sockets are not judged: what is done through them is.

use std::{
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use super::{policy::Compiled, run::RunError};
use crate::{
    enforce,
    launcher::Prepared,
    model::{
        Access, Action, BootTime, Effect, Event, FileRef, KernelPath, KernelVerdict, PolicyAction,
        ProcessKey, SessionId, Text, Vantage,
    },
    policy::{Actor, Object, image::Entry, lookup::Lookup},
};

/// An open file that policy has something to say of.
#[derive(Debug)]
pub(super) struct Handed {
    descriptor: i32,
    file: FileRef,
    access: Access,
    entry: Entry,
    /// Whose it will be.
    uid: u32,
}

/// A protected file where the command would read or write it without a look.
#[derive(Debug, thiserror::Error)]
#[error(
    "standard {} is {path:?}, which rule {rule} does not let the command {}; use another file, or run without this policy",
    stream(*descriptor),
    if *writes { "write" } else { "read" }
)]
pub struct Withheld {
    descriptor: i32,
    path: Text,
    rule: String,
    writes: bool,
}

fn stream(descriptor: i32) -> &'static str {
    match descriptor {
        0 => "input",
        1 => "output",
        _ => "error",
    }
}

/// All that the command, which waits before its exec, would keep over it; what policy blocks is taken away.
pub(super) fn withhold(prepared: &Prepared, compiled: &Compiled) -> Result<Vec<Handed>, RunError> {
    let handed = find(prepared.pid(), compiled);
    for descriptor in Handed::withheld(&handed, compiled)? {
        prepared.withhold(descriptor)?;
    }
    Ok(handed)
}

fn find(pid: i32, compiled: &Compiled) -> Vec<Handed> {
    let directory = PathBuf::from(format!("/proc/{pid}"));
    let lookup = Lookup::new(&compiled.image);
    let status = fs::read_to_string(directory.join("status")).unwrap_or_default();
    let uid =
        status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok());
    let descriptors = fs::read_dir(directory.join("fd")).into_iter().flatten().flatten();
    let descriptors = descriptors.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let found = |descriptor| look(&directory, descriptor, uid.unwrap_or_default(), &lookup, compiled);
    descriptors.filter_map(found).collect()
}

fn look(
    process: &Path,
    descriptor: i32,
    uid: u32,
    lookup: &Lookup<'_>,
    compiled: &Compiled,
) -> Option<Handed> {
    let info = fs::read_to_string(process.join(format!("fdinfo/{descriptor}"))).ok()?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
    let flags = i32::from_str_radix(flags.trim(), 8).ok()?;
    // What only names a file is judged when it is opened.
    if flags & (libc::O_CLOEXEC | libc::O_PATH) != 0 {
        return None;
    }
    let link = process.join(format!("fd/{descriptor}"));
    let found = fs::metadata(&link).ok()?;
    let kind = found.file_type();
    if !(kind.is_file() || kind.is_block_device() || kind.is_char_device()) {
        return None;
    }
    let mut access = Access::empty();
    access.set(Access::READ, flags & libc::O_ACCMODE != libc::O_WRONLY);
    access.set(Access::WRITE, flags & libc::O_ACCMODE != libc::O_RDONLY);
    // The link of a path that is too long cannot be read.
    let text = fs::read_link(&link).unwrap_or_default().into_os_string();
    let deleted = found.nlink() == 0;
    let text = text.as_bytes();
    let text = if deleted { text.strip_suffix(b" (deleted)").unwrap_or(text) } else { text };
    // A file that never had a name.
    if deleted && text.starts_with(b"/memfd:") {
        return None;
    }
    let (dev, ino) = enforce::identity_of(&link).unwrap_or_default();
    let same = compiled.identities.files.iter().find(|known| (known.dev, known.ino) == (dev, ino));
    let entry = [(Access::READ, Effect::FileRead), (Access::WRITE, Effect::FileWrite)]
        .into_iter()
        .filter(|(bit, _)| access.contains(*bit))
        .flat_map(|(_, effect)| {
            let by_file = same.and_then(|known| {
                known
                    .entries
                    .iter()
                    .copied()
                    .find(|entry| entry.unless.is_none() && entry.effects.contains(effect.into()))
            });
            let object =
                if text.is_empty() { Object::Unresolved(effect) } else { Object::Path(effect, text) };
            [lookup.judge(Actor::default(), &object), by_file]
        })
        .flatten()
        .max_by_key(|entry| entry.action)
        .filter(|entry| entry.action > PolicyAction::Allow)?;
    // Where output goes was chosen by whoever started us; a default is not a rule about that file.
    if descriptor <= 2 && compiled.rule_id(entry.rule).starts_with("default:") {
        return None;
    }
    let path = KernelPath { text: text.into(), deleted, ..KernelPath::default() };
    Some(Handed { descriptor, file: FileRef { path, dev, ino }, access, entry, uid })
}

impl Handed {
    fn is_blocked(&self) -> bool {
        self.entry.action >= PolicyAction::Confirm
    }

    /// What the command is not to have: their numbers. Standard streams cannot be taken away without a word.
    fn withheld(all: &[Self], compiled: &Compiled) -> Result<Vec<i32>, Withheld> {
        let blocked = || all.iter().filter(|handed| handed.is_blocked());
        match blocked().find(|handed| handed.descriptor <= 2) {
            Some(handed) => Err(Withheld {
                descriptor: handed.descriptor,
                path: handed.file.path.text.clone(),
                rule: compiled.rule_id(handed.entry.rule),
                writes: handed.access.contains(Access::WRITE),
            }),
            None => Ok(blocked().map(|handed| handed.descriptor).collect()),
        }
    }

    /// For the user.
    pub(super) fn warning(&self, compiled: &Compiled) -> Option<String> {
        let rule = compiled.rule_id(self.entry.rule);
        self.is_blocked().then(|| {
            format!(
                "descriptor {} is {:?}, which the command does not get: {rule}",
                self.descriptor, self.file.path.text
            )
        })
    }

    /// As the audit has it.
    pub(super) fn event(
        self,
        session: SessionId,
        process: ProcessKey,
        time: BootTime,
        generation: u64,
    ) -> Event {
        let verdict = KernelVerdict {
            action: self.entry.action,
            raw_action: self.entry.raw_action,
            would_block: self.entry.would_block,
            rule: self.entry.rule,
            generation: u8::try_from(generation & 0xff).unwrap_or_default(),
            asks: false,
        };
        Event {
            time,
            session,
            process,
            tid: process.tgid,
            uid: self.uid,
            cgroup: 0,
            tool_call: None,
            result: None,
            vantage: Vantage::Handed,
            verdict: Some(verdict),
            decision: None,
            action: Action::FileOpen { file: self.file, access: self.access },
        }
    }
}
