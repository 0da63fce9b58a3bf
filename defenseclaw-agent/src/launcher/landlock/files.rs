//! Which directories are granted for what: everything that policy does not block, and as little else as possible.
//!
//! A directory inside an allowed one can only be kept closed by granting what stands beside it, one by one. What comes
//! later beside it is then closed, too. So this is done only in directories where the command cannot make or replace
//! anything ([`Places::stable`]); elsewhere the rule is left to other layers, and listed as a leak.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    path::Path,
    places::{Kind, Places},
    verdict::{Object, Verdicts},
};
use crate::model::{Effect, Effects};

/// Grants of a plan. More are not worth their price at the start.
const GRANTS_AT_MOST: usize = 1024;

/// Kinds of access that Landlock tells apart and policy has words for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Read what is in a file.
    ReadFile,
    /// List a directory.
    ReadDirectory,
    /// Change what is in a file.
    Write,
    /// Start a program.
    Execute,
    /// Make a name. Asked of the directory it is in.
    Create,
    /// Remove a name. Likewise.
    Delete,
}

impl Class {
    pub(super) const ALL: [Class; 6] =
        [Self::ReadFile, Self::ReadDirectory, Self::Write, Self::Execute, Self::Create, Self::Delete];

    /// Rules about which effects shape it.
    fn effects(self) -> Effects {
        match self {
            Self::ReadFile | Self::ReadDirectory => Effects::FILE_READ,
            Self::Write => Effects::FILE_WRITE,
            Self::Execute => Effects::EXEC,
            Self::Create => Effects::FILE_CREATE | Effects::FILE_WRITE,
            Self::Delete => Effects::FILE_DELETE | Effects::FILE_WRITE,
        }
    }

    /// Whether the kernel asks the directory that holds an object, not the object.
    pub(super) fn asks_parent(self) -> bool {
        matches!(self, Self::Create | Self::Delete)
    }

    /// Whether Landlock may forbid it there. Replacing a file by renaming is writing for policy, and making and
    /// removing for Landlock: so these are forbidden only where writing is, too.
    pub(super) fn is_blocked(self, verdicts: &Verdicts<'_>, object: Object<'_>) -> bool {
        let blocked = |effect| verdicts.blocked(object, effect);
        match self {
            Self::ReadFile | Self::ReadDirectory => blocked(Effect::FileRead),
            Self::Write => blocked(Effect::FileWrite),
            Self::Execute => blocked(Effect::Exec),
            Self::Create => blocked(Effect::FileCreate) && blocked(Effect::FileWrite),
            Self::Delete => blocked(Effect::FileDelete) && blocked(Effect::FileWrite),
        }
    }

    /// Whether an object of this kind is accessed so at all.
    fn applies_to(self, kind: Kind) -> bool {
        match self {
            Self::ReadFile | Self::Write | Self::Execute => kind != Kind::Directory,
            Self::ReadDirectory => kind == Kind::Directory,
            Self::Create | Self::Delete => false,
        }
    }
}

/// More is granted than policy allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    /// Of what.
    pub class: Class,
    /// There and below.
    pub path: Path,
    /// Why less would break what policy allows.
    pub reason: String,
    /// It allows what policy blocks where no deeper rule speaks; otherwise, only what deeper rules block.
    pub spills: bool,
}

/// Something policy allows that could not be granted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Skipped {
    /// Where.
    pub path: Path,
    /// Why.
    pub reason: String,
}

/// The files' part of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilePlan {
    /// Classes that are forbidden where they are not granted.
    pub handled: BTreeSet<Class>,
    /// What is granted, there and below.
    pub grants: BTreeMap<Path, BTreeSet<Class>>,
    /// Where more had to be granted.
    pub leaks: Vec<Leak>,
    /// Where less could be.
    pub skipped: BTreeSet<Skipped>,
}

impl FilePlan {
    /// Whether this class of access to the object at `path` is granted.
    pub fn grants(&self, class: Class, path: &Path) -> bool {
        !self.handled.contains(&class) || self.grant_over(class, path).is_some()
    }

    /// The directory or file whose grant covers the object.
    pub(super) fn grant_over(&self, class: Class, path: &Path) -> Option<Path> {
        let asked = if class.asks_parent() { path.parent() } else { path.clone() };
        (0..=asked.0.len())
            .filter_map(|length| asked.0.get(..length).map(|head| Path(head.to_vec())))
            .find(|head| self.grants.get(head).is_some_and(|classes| classes.contains(&class)))
    }
}

/// Whether rules are held by granting siblings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Siblings {
    /// Where the command cannot make or replace anything beside them.
    #[default]
    Stable,
    /// Also where it can: what it makes there later cannot be used.
    Any,
}

/// Makes the files' part.
pub(super) fn plan(verdicts: &Verdicts<'_>, places: &dyn Places, siblings: Siblings) -> FilePlan {
    let places = Known::new(places);
    let mut plan = FilePlan::default();
    for class in Class::ALL.into_iter().filter(|class| verdicts.blocks_any(class.effects())) {
        let mut names = Names::default();
        for path in verdicts.paths(class.effects()) {
            names.insert(&path.0);
        }
        let mut planner = Planner::new(class, verdicts, &places, siblings);
        let root = Path::root();
        planner.below(&root, &names);
        let n_grants = planner.grants.len();
        if n_grants > GRANTS_AT_MOST {
            planner.grant_all(
                &root,
                &format!("it would take {n_grants} grants, more than {GRANTS_AT_MOST}"),
                true,
            );
        }
        plan.leaks.append(&mut planner.leaks);
        if planner.grants.contains(&root) {
            continue;
        }
        plan.handled.insert(class);
        plan.skipped.extend(planner.skipped);
        for path in planner.grants {
            plan.grants.entry(path).or_default().insert(class);
        }
    }
    plan
}

/// Names that patterns have, as a tree.
#[derive(Debug, Default)]
struct Names {
    below: BTreeMap<Vec<u8>, Names>,
}

impl Names {
    fn insert(&mut self, path: &[Vec<u8>]) {
        if let Some((first, rest)) = path.split_first() {
            self.below.entry(first.clone()).or_default().insert(rest);
        }
    }
}

/// What policy says of a directory tree.
#[derive(Clone, Copy, Debug, Default)]
struct Summary {
    allowed: bool,
    blocked: bool,
}

impl Summary {
    fn add(&mut self, blocked: bool) {
        self.allowed |= !blocked;
        self.blocked |= blocked;
    }
}

struct Planner<'a> {
    class: Class,
    verdicts: &'a Verdicts<'a>,
    places: &'a Known<'a>,
    siblings: Siblings,
    grants: BTreeSet<Path>,
    leaks: Vec<Leak>,
    skipped: Vec<Skipped>,
    /// Things that are there, blocked, and not granted.
    closed: usize,
}

impl<'a> Planner<'a> {
    fn new(class: Class, verdicts: &'a Verdicts<'a>, places: &'a Known<'a>, siblings: Siblings) -> Self {
        let (grants, leaks, skipped) = (BTreeSet::new(), Vec::new(), Vec::new());
        Self { class, verdicts, places, siblings, grants, leaks, skipped, closed: 0 }
    }

    fn blocked(&self, object: Object<'_>) -> bool {
        self.class.is_blocked(self.verdicts, object)
    }

    /// Everything that is asked of `path` or of something below it.
    fn summary(&self, path: &Path, names: &Names) -> Summary {
        let mut summary = Summary::default();
        let kind = self.places.kind(path);
        if self.class.applies_to(kind) {
            summary.add(self.blocked(Object::At(path)));
        }
        if kind == Kind::Directory {
            summary.add(self.blocked(Object::Child(path)));
            summary.add(self.blocked(Object::Deep(path)));
            for (name, names) in &names.below {
                let child = path.join(name);
                if self.class.asks_parent() {
                    summary.add(self.blocked(Object::At(&child)));
                }
                let inner = self.summary(&child, names);
                summary.allowed |= inner.allowed;
                summary.blocked |= inner.blocked;
            }
        }
        summary
    }

    /// Grants a tree although something in it is blocked.
    fn grant_all(&mut self, path: &Path, reason: &str, spills: bool) {
        self.grants.retain(|grant| !grant.is_at_or_below(path));
        self.grants.insert(path.clone());
        self.leaks.push(Leak { class: self.class, path: path.clone(), reason: reason.to_owned(), spills });
    }

    fn skip(&mut self, path: &Path, reason: &str) {
        self.skipped.push(Skipped { path: path.clone(), reason: reason.to_owned() });
    }

    /// Grants what is allowed at `path` and below. Returns why the directory it is in has to be granted instead.
    fn below(&mut self, path: &Path, names: &Names) -> Option<String> {
        match self.places.kind(path) {
            Kind::Directory => {
                self.directory(path, names);
                None
            }
            kind @ (Kind::File | Kind::Link | Kind::Missing) => {
                let spill = self.single(path, kind);
                // Nothing is below, but what policy allows there is to be named as missing.
                for (name, names) in &names.below {
                    self.below(&path.join(name), names);
                }
                spill
            }
        }
    }

    /// Something that is no directory, or not there.
    fn single(&mut self, path: &Path, kind: Kind) -> Option<String> {
        if self.class == Class::ReadDirectory {
            return None;
        }
        if self.blocked(Object::At(path)) {
            self.closed += usize::from(kind == Kind::File);
            return None;
        }
        let parent = path.parent();
        let is_free = self.siblings == Siblings::Stable
            && self.places.kind(&parent) == Kind::Directory
            && !self.places.stable(&parent);
        // A rule for one file wants it to be made, replaced by renaming, and removed.
        let is_single = kind == Kind::File || (kind == Kind::Missing && self.verdicts.is_named(path));
        let comes_and_goes =
            self.class.asks_parent() || !self.verdicts.blocked(Object::At(path), Effect::FileCreate);
        if is_free && is_single && comes_and_goes {
            return Some(format!("{path} may be made or replaced there, and a grant would not follow it"));
        }
        match kind {
            Kind::File if !self.class.asks_parent() => {
                self.grants.insert(path.clone());
            }
            Kind::Missing => self.skip(path, "does not exist, so Landlock cannot allow it; make it before"),
            Kind::Link => self.skip(path, "is or lies behind a symbolic link; name what it leads to"),
            Kind::File | Kind::Directory => {}
        }
        None
    }

    fn directory(&mut self, path: &Path, names: &Names) {
        let summary = self.summary(path, names);
        if !summary.blocked {
            self.grants.insert(path.clone());
            return;
        }
        if !summary.allowed {
            self.closed += 1;
            return;
        }
        let (child, deep) = (self.blocked(Object::Child(path)), self.blocked(Object::Deep(path)));
        if self.class.applies_to(Kind::Directory) && !self.blocked(Object::At(path)) {
            let reason = "listing it is allowed, and Landlock extends that to all below";
            self.grant_all(path, reason, child || deep);
        } else if child && deep {
            self.allowed_inside(path, names);
        } else {
            self.blocked_inside(path, names);
        }
    }

    /// A closed directory with something open in it: what is open is granted.
    fn allowed_inside(&mut self, path: &Path, names: &Names) {
        let mut spill = None;
        for (name, names) in &names.below {
            spill = self.below(&path.join(name), names).or(spill);
        }
        self.closed += 1;
        if let Some(reason) = spill {
            self.grant_all(path, &reason, true);
        }
    }

    /// An open directory with something closed in it: what stands beside that is granted, if it can be.
    fn blocked_inside(&mut self, path: &Path, names: &Names) {
        let own_blocked = self.class.applies_to(Kind::Directory) && self.blocked(Object::At(path));
        let inside_blocked = self.blocked(Object::Child(path)) || self.blocked(Object::Deep(path));
        let spills = own_blocked || inside_blocked;
        if !self.places.stable(path) && (self.class.asks_parent() || self.siblings == Siblings::Stable) {
            let reason = "the command can make and replace things there, and could not use them any more";
            return self.grant_all(path, reason, spills);
        }
        let left = GRANTS_AT_MOST.saturating_sub(self.grants.len());
        let Some(entries) = self.places.entries(path, left) else {
            return self.grant_all(path, "it cannot be listed, or holds too many entries", spills);
        };
        let (closed, leaks) = (self.closed, self.leaks.len());
        let mut spill = None;
        for (name, kind) in &entries {
            let child = path.join(name);
            match names.below.get(name) {
                Some(names) => spill = self.below(&child, names).or(spill),
                None => self.unnamed(path, &child, *kind),
            }
        }
        if let Some(reason) = spill {
            self.grant_all(path, &reason, spills);
        } else if self.closed == closed && !own_blocked {
            // Closing nothing is not worth what it costs.
            if self.leaks.len() == leaks {
                self.leaks.push(Leak {
                    class: self.class,
                    path: path.clone(),
                    reason: "nothing of what is blocked exists now".to_owned(),
                    spills,
                });
            }
            self.grants.retain(|grant| !grant.is_at_or_below(path));
            self.grants.insert(path.clone());
        }
    }

    /// Something in an open directory that no pattern names.
    fn unnamed(&mut self, directory: &Path, path: &Path, kind: Kind) {
        let is_directory = match kind {
            Kind::Directory => true,
            Kind::File => false,
            // What a link leads to has its own place.
            Kind::Link | Kind::Missing => return,
        };
        let own = self.class.applies_to(kind).then(|| self.blocked(Object::Child(directory)));
        let inner = is_directory.then(|| self.blocked(Object::Deep(directory)));
        match (own, inner) {
            (None, None) => {}
            (None | Some(true), None | Some(true)) => self.closed += 1,
            (None | Some(false), None | Some(false)) => {
                self.grants.insert(path.clone());
            }
            (_, inner) => {
                let reason =
                    "rules for what is directly in a directory cannot be told from those for what is below";
                self.grant_all(path, reason, inner == Some(true));
            }
        }
    }
}

/// Answers of the file system, each asked for once.
struct Known<'a> {
    places: &'a dyn Places,
    kinds: RefCell<BTreeMap<Path, Kind>>,
}

impl<'a> Known<'a> {
    fn new(places: &'a dyn Places) -> Self {
        Self { places, kinds: RefCell::default() }
    }

    fn kind(&self, path: &Path) -> Kind {
        if let Some(kind) = self.kinds.borrow().get(path) {
            return *kind;
        }
        // Nothing is below what is no directory.
        let kind = match path.0.len() {
            0 => Kind::Directory,
            _ => match self.kind(&path.parent()) {
                Kind::Directory => self.places.kind(path),
                Kind::Link => Kind::Link,
                Kind::File | Kind::Missing => Kind::Missing,
            },
        };
        self.kinds.borrow_mut().insert(path.clone(), kind);
        kind
    }

    fn stable(&self, path: &Path) -> bool {
        self.places.stable(path)
    }

    fn entries(&self, path: &Path, at_most: usize) -> Option<BTreeMap<Vec<u8>, Kind>> {
        self.places.entries(path, at_most)
    }
}
