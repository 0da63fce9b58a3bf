//! What an operation should meet: which objects it is about, as the file system is now, and what `policy` says of each.
//! The kernel's answer is not known here.

use std::{
    collections::HashMap,
    fs::{self, Metadata},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use anyhow::{Result, anyhow};
use defenseclaw::{
    model::{Effect, Mode, PolicyAction, Privilege},
    policy::{
        self, Actor, Bindings, Object, Session,
        image::{Entry, Image},
    },
};

use super::{operation::Operation, tree::real_entry};
use crate::{policy::kernel::PROGRAM, sys::kernel_dev};

/// What the kernel makes of an operation that nobody judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Natural {
    Succeeds,
    Fails,
    /// Either, but never with EPERM.
    Either,
}

/// What should become of an operation.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) natural: Natural,
    /// Each question, and its answer.
    pub(super) asked: Vec<(String, Option<Entry>)>,
}

impl Expected {
    pub(super) fn is_blocked(&self) -> bool {
        self.asked.iter().any(|(_, answer)| blocks(*answer))
    }
}

fn blocks(answer: Option<Entry>) -> bool {
    answer.is_some_and(|entry| entry.action == PolicyAction::Block)
}

/// Who acts.
#[derive(Clone, Debug)]
pub(super) struct Who {
    pub(super) executable: PathBuf,
    pub(super) parent: PathBuf,
}

impl Who {
    fn actor(&self) -> Actor<'_> {
        Actor {
            executable: Some(self.executable.as_os_str().as_bytes()),
            parent: Some(self.parent.as_os_str().as_bytes()),
        }
    }
}

/// A name that policy knows a file by.
struct Name {
    path: PathBuf,
    /// A link to a program of many names is not all of them.
    spares_exec: bool,
}

/// A policy in force, and the files it named when it came into force.
pub(super) struct Judge {
    root: PathBuf,
    session: Session,
    /// Rules alone: what a file is by its inode, no default is about.
    rules: Session,
    pub(super) image: Image,
    names: HashMap<(u64, u64), Vec<Name>>,
}

impl Judge {
    /// Compiles a policy. None: it has too many rules for one object, which is its author's mistake.
    pub(super) fn new(text: &str, root: &Path, mode: Mode) -> Result<Option<Self>> {
        let bindings = Bindings {
            home: root.as_os_str().as_bytes().into(),
            project: root.as_os_str().as_bytes().into(),
            profile: "default".to_owned(),
            mode: Some(mode),
        };
        let said = |problems: Vec<policy::Problem>| {
            let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
            anyhow!("{}", all.join("\n"))
        };
        let mut loaded = policy::load("random", text, &|_| None).map_err(said)?;
        let session = Session::new(&loaded, &bindings).map_err(said)?;
        let Ok(image) = session.image() else { return Ok(None) };
        loaded.defaults.clear();
        let rules = Session::new(&loaded, &bindings).map_err(said)?;
        let mut judge = Self { root: root.to_owned(), session, rules, image, names: HashMap::new() };
        for pattern in judge.image.identities.clone() {
            judge.note_root(Path::new(std::ffi::OsStr::from_bytes(&pattern)))?;
        }
        Ok(Some(judge))
    }

    fn note_root(&mut self, root: &Path) -> Result<()> {
        let Ok(metadata) = fs::symlink_metadata(root) else { return Ok(()) };
        self.note(&metadata, root, false);
        if !metadata.is_symlink() {
            return self.note_below(root, root, false);
        }
        let Ok(target) = fs::canonicalize(root) else { return Ok(()) };
        self.note(&fs::symlink_metadata(&target)?, root, true);
        self.note_below(&target, root, true)
    }

    fn note_below(&mut self, directory: &Path, named: &Path, spares_exec: bool) -> Result<()> {
        if !directory.is_dir() {
            return Ok(());
        }
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let (path, name) = (entry.path(), named.join(entry.file_name()));
            let metadata = fs::symlink_metadata(&path)?;
            self.note(&metadata, &name, spares_exec);
            if metadata.is_dir() {
                self.note_below(&path, &name, spares_exec)?;
            }
        }
        Ok(())
    }

    fn note(&mut self, metadata: &Metadata, named: &Path, spares_exec: bool) {
        let names = self.names.entry(identity(metadata)).or_default();
        names.push(Name { path: named.to_owned(), spares_exec });
    }

    /// What an operation should meet; none if that depends on too much.
    pub(super) fn expect(&self, who: &Who, operation: &Operation) -> Option<Expected> {
        let mut asking = Asking { judge: self, who, asked: Vec::new() };
        let natural = asking.about(operation)?;
        Some(Expected { natural, asked: asking.asked })
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (kernel_dev(metadata.dev()), metadata.ino())
}

/// What is at a path.
struct There {
    path: PathBuf,
    metadata: Option<Metadata>,
}

impl There {
    fn is_file(&self) -> bool {
        self.metadata.as_ref().is_some_and(Metadata::is_file)
    }

    fn is_directory(&self) -> bool {
        self.metadata.as_ref().is_some_and(Metadata::is_dir)
    }

    /// A fifo, socket or device.
    fn is_special(&self) -> bool {
        !self.is_nothing() && !self.is_file() && !self.is_directory()
    }

    fn is_nothing(&self) -> bool {
        self.metadata.is_none()
    }

    fn is_empty_directory(&self) -> bool {
        self.is_directory() && fs::read_dir(&self.path).is_ok_and(|mut entries| entries.next().is_none())
    }
}

/// What a path leads to.
enum Found {
    There(There),
    /// The way there fails for everybody.
    NoWay,
    /// A link that leads to nothing, or is written like a directory.
    Unclear,
}

struct Asking<'a> {
    judge: &'a Judge,
    who: &'a Who,
    asked: Vec<(String, Option<Entry>)>,
}

macro_rules! there {
    ($found:expr) => {
        match $found {
            Found::There(there) => there,
            Found::NoWay => return Some(Natural::Fails),
            Found::Unclear => return None,
        }
    };
}

impl Asking<'_> {
    fn find(&self, path: &Path, follows: bool) -> Found {
        let path = self.judge.root.join(path);
        let slash = path.as_os_str().as_bytes().ends_with(b"/");
        let Some(real) = real_entry(&path) else { return Found::NoWay };
        let Ok(metadata) = fs::symlink_metadata(&real) else {
            return Found::There(There { path: real, metadata: None });
        };
        if metadata.is_symlink() && slash {
            return Found::Unclear;
        }
        if metadata.is_symlink() && follows {
            let Ok(target) = fs::canonicalize(&real) else { return Found::Unclear };
            let metadata = fs::symlink_metadata(&target).ok();
            return Found::There(There { path: target, metadata });
        }
        if slash && !metadata.is_dir() {
            return Found::NoWay;
        }
        Found::There(There { path: real, metadata: Some(metadata) })
    }

    fn ask(&mut self, object: &Object<'_>) {
        let answer = self.judge.session.judge(self.who.actor(), object);
        let shown = match object {
            Object::Path(effect, path) => format!("{effect} {}", path.escape_ascii()),
            other => format!("{other:?}"),
        };
        self.asked.push((shown, answer));
    }

    /// A path, and the file that is there.
    fn path(&mut self, effect: Effect, there: &There) {
        self.ask(&Object::Path(effect, there.path.as_os_str().as_bytes()));
        if let Some(metadata) = &there.metadata {
            self.inode(effect, metadata);
        }
    }

    fn inode(&mut self, effect: Effect, metadata: &Metadata) {
        for name in self.judge.names.get(&identity(metadata)).into_iter().flatten() {
            if effect == Effect::Exec && name.spares_exec {
                continue;
            }
            let path = name.path.as_os_str().as_bytes();
            let answer = self.judge.rules.judge(self.who.actor(), &Object::Path(effect, path));
            self.asked.push((format!("{effect} of the file known as {}", path.escape_ascii()), answer));
        }
    }

    fn about(&mut self, operation: &Operation) -> Option<Natural> {
        let succeeds = |can: bool| Some(if can { Natural::Succeeds } else { Natural::Fails });
        match operation {
            Operation::Open { path, flags } => {
                let there = there!(self.find(path, true));
                self.open(&there, *flags)
            }
            Operation::Truncate { path } => {
                let there = there!(self.find(path, true));
                self.path(Effect::FileWrite, &there);
                succeeds(there.is_file())
            }
            Operation::MakeDirectory { path }
            | Operation::MakeLink { path }
            | Operation::MakeFifo { path } => {
                let there = there!(self.find(path, false));
                self.path(Effect::FileCreate, &There { metadata: None, path: there.path.clone() });
                succeeds(there.is_nothing())
            }
            Operation::MakeDevice { path } => {
                let there = there!(self.find(path, false));
                self.path(Effect::FileCreate, &There { metadata: None, path: there.path.clone() });
                self.ask(&Object::Privilege(Privilege::Device));
                succeeds(there.is_nothing())
            }
            Operation::Unlink { path } => {
                let there = there!(self.find(path, false));
                self.path(Effect::FileDelete, &there);
                succeeds(!there.is_nothing() && !there.is_directory())
            }
            Operation::RemoveDirectory { path } => {
                let there = there!(self.find(path, false));
                self.path(Effect::FileDelete, &there);
                succeeds(there.is_empty_directory())
            }
            Operation::Rename { from, to, flags } => {
                // Only a directory can be what a name with a slash at its end will be.
                let slash = to.as_os_str().as_bytes().ends_with(b"/");
                let (from, to) = (there!(self.find(from, false)), there!(self.find(to, false)));
                let natural = self.rename(&from, &to, *flags);
                Some(if slash && !from.is_directory() { Natural::Fails } else { natural })
            }
            Operation::Link { from, to } => {
                let (from, to) = (there!(self.find(from, false)), there!(self.find(to, false)));
                if from.is_directory() {
                    // EPERM for everybody.
                    return None;
                }
                self.path(Effect::FileLink, &from);
                self.path(Effect::FileRead, &from);
                let can = !from.is_nothing() && to.is_nothing();
                self.path(Effect::FileCreate, &There { metadata: None, ..to });
                succeeds(can)
            }
            Operation::Mode { path } | Operation::Owner { path } => {
                let there = there!(self.find(path, true));
                self.path(Effect::FileAttr, &there);
                succeeds(!there.is_nothing())
            }
            Operation::Execute { path } => {
                let there = there!(self.find(path, true));
                // Who starts it is a child of the worker.
                let child = Who { parent: self.who.executable.clone(), ..self.who.clone() };
                let mut asking = Asking { judge: self.judge, who: &child, asked: Vec::new() };
                asking.path(Effect::Exec, &there);
                self.asked.append(&mut asking.asked);
                let is_program = |metadata: &Metadata| {
                    metadata.is_file()
                        && metadata.len() == PROGRAM.len() as u64
                        && metadata.permissions().mode() & 0o111 != 0
                        && fs::read(&there.path).is_ok_and(|content| content == PROGRAM)
                };
                succeeds(there.metadata.as_ref().is_some_and(is_program))
            }
            Operation::Map { path } => {
                let there = there!(self.find(path, true));
                if there.is_special() {
                    return None;
                }
                self.path(Effect::FileRead, &there);
                self.path(Effect::Exec, &there);
                succeeds(there.is_file())
            }
            Operation::UnixConnect { path } => {
                let there = there!(self.find(path, true));
                let Some(metadata) = &there.metadata else { return Some(Natural::Fails) };
                if !metadata.file_type().is_socket() {
                    return Some(Natural::Fails);
                }
                // A second name of it leads to the first one.
                if metadata.nlink() > 1 {
                    return None;
                }
                self.path(Effect::Unix, &there);
                Some(Natural::Succeeds)
            }
            Operation::Abstract { name } => {
                self.ask(&Object::Abstract(name.as_bytes()));
                Some(Natural::Succeeds)
            }
            Operation::Connect { address, .. } | Operation::Bind { address, .. } => {
                let effect = if matches!(operation, Operation::Bind { .. }) {
                    Effect::NetBind
                } else {
                    Effect::NetConnect
                };
                let (ip, port) = (address.ip(), address.port());
                self.ask(&Object::Address { effect, address: ip, port, name: None });
                Some(Natural::Either)
            }
            Operation::Bpf => self.privilege(Privilege::Bpf),
            Operation::RawSocket => self.privilege(Privilege::RawSocket),
            Operation::Signal { .. } => self.privilege(Privilege::Signal),
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "an arm of `about`")]
    fn privilege(&mut self, privilege: Privilege) -> Option<Natural> {
        self.ask(&Object::Privilege(privilege));
        Some(Natural::Succeeds)
    }

    fn open(&mut self, there: &There, flags: i32) -> Option<Natural> {
        if there.is_special() {
            return None;
        }
        let creates = flags & libc::O_CREAT != 0;
        if there.is_nothing() && creates {
            self.path(Effect::FileCreate, there);
        }
        let access = flags & libc::O_ACCMODE;
        if access != libc::O_WRONLY {
            self.path(Effect::FileRead, there);
        }
        if access != libc::O_RDONLY || flags & libc::O_TRUNC != 0 {
            self.path(Effect::FileWrite, there);
        }
        let reads_only = access == libc::O_RDONLY && flags & (libc::O_TRUNC | libc::O_CREAT) == 0;
        let only_directory = flags & libc::O_DIRECTORY != 0;
        let can = there.is_nothing() && creates
            || there.is_file() && !only_directory
            || there.is_directory() && reads_only;
        Some(if can { Natural::Succeeds } else { Natural::Fails })
    }

    fn rename(&mut self, from: &There, to: &There, flags: u32) -> Natural {
        let exchange = flags & libc::RENAME_EXCHANGE != 0;
        self.path(Effect::FileDelete, from);
        if exchange {
            self.path(Effect::FileWrite, from);
            self.path(Effect::FileDelete, to);
        }
        self.path(if to.is_nothing() { Effect::FileCreate } else { Effect::FileWrite }, to);
        let inside =
            from.path != to.path && (to.path.starts_with(&from.path) || from.path.starts_with(&to.path));
        let fits = if exchange {
            !to.is_nothing()
        } else if from.is_directory() {
            to.is_nothing() || to.is_empty_directory()
        } else {
            !to.is_directory()
        };
        let kept = flags & libc::RENAME_NOREPLACE != 0 && !to.is_nothing();
        // Two names of one file: nothing is done, successfully.
        let same = from.metadata.as_ref().map(identity) == to.metadata.as_ref().map(identity);
        let can = !from.is_nothing() && (same || fits && !inside) && !kept;
        if can { Natural::Succeeds } else { Natural::Fails }
    }
}
