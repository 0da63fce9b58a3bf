//! What Landlock is told, made from policy: files, ports, scopes. Says what would be in force; `holds` says of each
//! rule what that means for it.

use std::collections::BTreeSet;

use super::{
    abi::Abi,
    files::{self, FilePlan, Siblings},
    holds,
    path::Path,
    places::Places,
    ports,
    verdict::{Verdicts, blocks},
};
use crate::{
    model::{Effect, Privilege, ProtectionRow, RuleHold},
    policy::image::{Image, PathKey, PathRow},
};

/// Places that are looked at for something to try.
const CLOSED_AT_MOST: usize = 64;

/// How much Landlock may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LandlockLevel {
    /// Files, ports and scopes.
    #[default]
    Full,
    /// No files: a domain that handles them keeps other sandboxes from mounting, and so from working inside it.
    ScopesAndNet,
    /// Nothing.
    Off,
}

impl LandlockLevel {
    /// The word for users.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::ScopesAndNet => "scopes+net",
            Self::Off => "off",
        }
    }
}

/// What a plan depends on besides policy.
#[derive(Clone, Copy)]
pub struct PlanOptions<'a> {
    /// How much of it.
    pub level: LandlockLevel,
    /// The kernel's version.
    pub abi: Abi,
    /// What is where.
    pub places: &'a dyn Places,
    /// Whether rules in directories that change are held.
    pub siblings: Siblings,
    /// The user's own: what is there may be tried, if it is closed.
    pub home: &'a Path,
}

impl std::fmt::Debug for PlanOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlanOptions")
            .field("level", &self.level)
            .field("abi", &self.abi)
            .finish_non_exhaustive()
    }
}

/// Everything Landlock is told, and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LandlockPlan {
    /// For this version.
    pub abi: Abi,
    /// How much of it.
    pub level: LandlockLevel,
    /// Files.
    pub files: FilePlan,
    /// The only TCP ports that may be connected to; none: not handled.
    pub connect: Option<BTreeSet<u16>>,
    /// The only TCP ports that may be bound; none: not handled.
    pub bind: Option<BTreeSet<u16>>,
    /// Abstract unix sockets from outside are out of reach.
    pub scope_abstract: bool,
    /// So are processes outside, for signals.
    pub scope_signal: bool,
    /// Policy asks for these, whether or not this kernel has them: what the self-test tries.
    pub wanted: Wanted,
    /// What is in force, and what is not.
    pub table: Vec<ProtectionRow>,
    /// Each rule that blocks something.
    pub rules: Vec<RuleHold>,
    /// Closed places, to try.
    pub closed: Vec<Path>,
}

/// What policy asks of ports and scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "four independent wishes")]
pub struct Wanted {
    /// Not every port may be connected to.
    pub connect: bool,
    /// Not every port may be bound.
    pub bind: bool,
    /// No abstract socket from outside.
    pub scope_abstract: bool,
    /// No signal to outside.
    pub scope_signal: bool,
}

impl LandlockPlan {
    /// Makes a plan. The same policy, places and version give the same plan.
    pub fn new(image: &Image, options: &PlanOptions<'_>) -> Self {
        let verdicts = Verdicts::new(image, options.places);
        let PlanOptions { level, abi, .. } = *options;
        let files = if level == LandlockLevel::Full && abi.has_files() {
            files::plan(&verdicts, options.places, options.siblings)
        } else {
            FilePlan::default()
        };
        let is_on = level != LandlockLevel::Off;
        let connect = ports::allowed(image, Effect::NetConnect);
        let bind = ports::allowed(image, Effect::NetBind);
        let abstract_names = abstract_scope(image);
        let wanted = Wanted {
            connect: is_on && connect.is_ok(),
            bind: is_on && bind.is_ok(),
            scope_abstract: is_on && abstract_names.is_ok(),
            scope_signal: is_on && privilege_blocked(image, Privilege::Signal),
        };
        let has_tcp = is_on && abi.has_tcp();
        let mut plan = Self {
            abi,
            level,
            files,
            connect: connect.clone().ok().filter(|_| has_tcp),
            bind: bind.clone().ok().filter(|_| has_tcp),
            scope_abstract: wanted.scope_abstract && abi.has_scopes(),
            scope_signal: wanted.scope_signal && abi.has_scopes(),
            wanted,
            table: Vec::new(),
            rules: Vec::new(),
            closed: closed(image, &verdicts, options.home),
        };
        let why_not = holds::WhyNot {
            connect: connect.err().unwrap_or_default(),
            bind: bind.err().unwrap_or_default(),
            scope_abstract: abstract_names.err().unwrap_or_default(),
        };
        plan.rules = holds::rules(image, &verdicts, &plan, options.places, &why_not);
        plan.table = holds::table(image, &verdicts, &plan, &why_not);
        plan
    }

    /// Nothing would be forbidden, so nothing is done at all: the command is not even kept from gaining privileges.
    pub fn is_empty(&self) -> bool {
        self.files.handled.is_empty()
            && self.connect.is_none()
            && self.bind.is_none()
            && !self.scope_abstract
            && !self.scope_signal
    }

    /// Whether files are handled, so that mounting is forbidden, too.
    pub fn handles_files(&self) -> bool {
        !self.files.handled.is_empty()
    }
}

/// Whether a privileged operation is blocked for everybody.
pub(super) fn privilege_blocked(image: &Image, privilege: Privilege) -> bool {
    for (_, entry) in image.privileges.iter().filter(|(of, _)| *of == privilege) {
        if !blocks(entry) {
            return false;
        } else if entry.unless.is_none() {
            return true;
        }
    }
    false
}

/// Whether all abstract sockets from outside may be closed; an error says why not.
fn abstract_scope(image: &Image) -> Result<(), String> {
    if !ports::blocked_by_default(image, Effect::Unix) {
        return Err(
            "policy allows abstract sockets that no rule names, and Landlock closes all or none".to_owned()
        );
    }
    let unix = image.abstract_names.iter().find(|row| {
        row.entries.iter().any(|entry| entry.effects.contains(Effect::Unix.into()) && !blocks(entry))
    });
    match unix {
        None => Ok(()),
        Some(row) => Err(format!(
            "policy allows the abstract socket `{}`, and Landlock closes all or none",
            row.name.escape_ascii()
        )),
    }
}

/// Places that may be closed, to be tried: what rules close, and what is beside what they open.
fn closed(image: &Image, verdicts: &Verdicts<'_>, home: &Path) -> Vec<Path> {
    let anchored = |row: &PathRow| match &row.pattern.key {
        PathKey::Anchored(path) => Some(Path(path.clone())),
        PathKey::Name(_) | PathKey::Pair(..) | PathKey::Extension(_) => None,
    };
    let blocking = image.paths.iter().filter(|row| row.entries.iter().any(blocks)).filter_map(anchored);
    let beside = image.paths.iter().filter_map(anchored).map(|path| path.parent());
    let everywhere = ["/etc", "/usr/bin", "/usr/lib", "/var", "/opt", "/srv"].map(Path::new);
    let by_default = Effect::ALL.iter().any(|effect| verdicts.blocked_by_default(*effect));
    let mut closed: Vec<Path> = Vec::new();
    let own = std::iter::once(home.clone());
    for path in blocking.chain(own.chain(beside).chain(everywhere).filter(|_| by_default)) {
        if closed.len() < CLOSED_AT_MOST && !closed.contains(&path) {
            closed.push(path);
        }
    }
    closed
}
