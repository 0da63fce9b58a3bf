//! The techniques. A case acts on the target it is given, protected or not, and returns what it got; it neither knows
//! what is expected of it nor looks at the audit. Each attempt is a process of its own.

pub(crate) mod brokers;
mod changes;
mod compat;
mod descriptors;
mod escapes;
mod exec;
mod families;
pub(crate) mod kernel;
mod mounts;
mod names;
mod namespaces;
mod net;
mod owner;
mod persistence;
mod privileges;
mod processes;
mod races;
mod resolver;
mod steps;
mod uring;
mod watched;

use std::{
    ffi::OsStr,
    fmt,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::{
    arena::{Arena, Class, Endpoints, Side, Tree, victim::Victim},
    sys,
};

/// How the suite finds out whether an attempt obtained its goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// It shows the secret of its own object.
    Secret,
    /// It shows the nonce of a service.
    Service,
    /// Its object, or what of it counts, is not what it was.
    Changed,
    /// What counts of its object is its own work: [`MINE`].
    Planted,
    /// Its victim is dead or was written to.
    Victim,
    /// It shows the effect itself, read back from the kernel: [`HAPPENED`].
    Happened,
}

/// What an attempt writes.
pub(crate) const MINE: &[u8] = b"mine";

/// What an attempt with [`Proof::Happened`] shows.
pub(crate) const HAPPENED: &[u8] = b"it happened";

/// One technique.
#[expect(clippy::struct_excessive_bools, reason = "each is a property of its own")]
pub(crate) struct Case {
    pub(crate) id: &'static str,
    pub(crate) class: Class,
    pub(crate) proof: Proof,
    act: fn(&Target) -> Result<Vec<u8>>,
    /// Prepares the objects, with all rights and outside of every tree.
    pub(crate) set_up: Option<fn(&Target) -> Result<()>>,
    /// Runs under the policy that blocks privileged operations; the twin is the spared executable.
    pub(crate) privileged: bool,
    /// Needs a process to attack.
    pub(crate) victim: bool,
    /// Acts on the descriptor that it was started with.
    pub(crate) inherits: bool,
    /// What of its objects counts: the protected part, and that of the twin. Otherwise everything.
    counts: Option<(&'static str, &'static str)>,
    /// Makes more records than the watcher takes at once.
    pub(crate) floods: bool,
    /// Policy judges by name, and here the twin has none either: it meets the same refusal.
    pub(crate) nameless: bool,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id)
    }
}

const fn case(id: &'static str, class: Class, proof: Proof, act: fn(&Target) -> Result<Vec<u8>>) -> Case {
    Case {
        id,
        class,
        proof,
        act,
        set_up: None,
        privileged: false,
        victim: false,
        inherits: false,
        counts: None,
        nameless: false,
        floods: false,
    }
}

impl Case {
    const fn set_up(mut self, set_up: fn(&Target) -> Result<()>) -> Self {
        self.set_up = Some(set_up);
        self
    }

    const fn privileged(mut self) -> Self {
        self.privileged = true;
        self
    }

    const fn victim(mut self) -> Self {
        self.victim = true;
        self
    }

    const fn inherits(mut self) -> Self {
        self.inherits = true;
        self
    }

    const fn counts(mut self, protected: &'static str, twin: &'static str) -> Self {
        self.counts = Some((protected, twin));
        self
    }

    const fn floods(mut self) -> Self {
        self.floods = true;
        self
    }

    const fn nameless(mut self) -> Self {
        self.nameless = true;
        self
    }

    /// What must not change.
    pub(crate) fn subject(&self, objects: &Path, side: Side) -> PathBuf {
        match self.counts {
            Some((protected, _)) if side == Side::Protected => objects.join(protected),
            Some((_, twin)) => objects.join(twin),
            None => objects.to_owned(),
        }
    }
}

/// Every technique.
pub(crate) fn all() -> impl Iterator<Item = &'static Case> {
    let rooms: [&'static [Case]; 22] = [
        names::CASES,
        changes::CASES,
        descriptors::CASES,
        compat::CASES,
        races::CASES,
        uring::CASES,
        mounts::CASES,
        namespaces::CASES,
        exec::CASES,
        owner::CASES,
        escapes::CASES,
        processes::CASES,
        brokers::CASES,
        brokers::ON_SOCKETS,
        net::CASES,
        families::CASES,
        resolver::CASES,
        persistence::CASES,
        persistence::NAMED,
        watched::CASES,
        kernel::CASES,
        privileges::CASES,
    ];
    rooms.into_iter().flatten()
}

pub(crate) fn find(id: &str) -> Option<&'static Case> {
    all().find(|case| case.id == id)
}

/// What one attempt is made on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) id: String,
    pub(crate) tree: Tree,
    pub(crate) side: Side,
    pub(crate) arena: Arena,
    /// Directory of the objects; `secret` is one of them.
    pub(crate) dir: PathBuf,
    /// Directory without any rule.
    pub(crate) work: PathBuf,
    pub(crate) victim: Option<Victim>,
    /// The watcher of this tree, or what stands for it.
    pub(crate) daemon: u32,
}

impl Target {
    pub(crate) fn new(arena: &Arena, case: &Case, tree: Tree, side: Side, victim: Option<Victim>) -> Self {
        Self {
            id: case.id.to_owned(),
            tree,
            side,
            dir: arena.objects(case.class, case.id, tree, side),
            work: arena.work(case.id, tree, side),
            victim,
            daemon: 0,
            // Cases need the places of the arena only.
            arena: Arena { cases: Vec::new(), ..arena.clone() },
        }
    }

    pub(crate) fn secret(&self) -> PathBuf {
        self.dir.join("secret")
    }

    pub(crate) fn is_open(&self) -> bool {
        self.side == Side::Open
    }

    fn endpoints(&self) -> &Endpoints {
        if self.is_open() { &self.arena.open } else { &self.arena.protected }
    }

    fn sockets(&self) -> PathBuf {
        self.arena.root.join(format!("sockets{}", self.side.suffix()))
    }

    fn victim(&self) -> Result<&Victim> {
        self.victim.as_ref().ok_or_else(|| anyhow::anyhow!("there is no victim"))
    }
}

/// The machine cannot do this, whatever policy says.
#[derive(Debug)]
pub(crate) struct Unsupported(pub(crate) String);

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unsupported {}

/// Exit codes of an attempt: it got something, it did not, it cannot be made here.
pub(crate) const GOT: u8 = 0;
pub(crate) const REFUSED: u8 = 1;
pub(crate) const UNSUPPORTED: u8 = 77;
/// Seconds an attempt may take under emulation.
const SECONDS: u32 = 90;

/// `case TARGET`: one attempt. What it got is on standard output, why it got nothing on standard error.
pub(crate) fn main(target: &OsStr) -> ExitCode {
    sys::deadline(SECONDS);
    let attempt = || -> Result<Vec<u8>> {
        let target: Target = serde_json::from_slice(target.as_encoded_bytes())?;
        let case = find(&target.id).ok_or_else(|| anyhow::anyhow!("there is no case {}", target.id))?;
        std::env::set_current_dir(&target.work)?;
        (case.act)(&target)
    };
    match attempt() {
        Ok(bytes) if std::io::stdout().write_all(&bytes).is_ok() => ExitCode::from(GOT),
        Ok(_) => ExitCode::from(REFUSED),
        Err(error) => {
            eprintln!("{error:#}");
            let unsupported = error.downcast_ref::<Unsupported>().is_some();
            ExitCode::from(if unsupported { UNSUPPORTED } else { REFUSED })
        }
    }
}

/// `read PATH`: prints a file.
pub(crate) fn print(path: &std::path::Path) -> ExitCode {
    match std::fs::read(path).and_then(|bytes| std::io::stdout().write_all(&bytes)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}

/// `start PROGRAM PATH`: lets another program print a file.
pub(crate) fn start(program: &OsStr, path: &OsStr) -> ExitCode {
    match std::process::Command::new(program).arg("read").arg(path).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
