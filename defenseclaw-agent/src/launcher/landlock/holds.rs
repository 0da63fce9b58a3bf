//! What a plan means: for each rule that blocks something, how much of that Landlock holds and why not the rest; for
//! each protection, whether it is in force.

use super::{
    files::{Class, Leak},
    path::Path,
    places::{Kind, Places},
    plan::{LandlockLevel, LandlockPlan, privilege_blocked},
    verdict::{Object, Verdicts, blocks},
};
use crate::{
    model::{Effect, Effects, Held, Mechanism, Privilege, ProtectionRow, ProtectionState, RuleHold},
    policy::image::{Entry, Image, PathKey, Ports, Reach},
};

/// Reasons that are listed for one rule.
const REASONS_AT_MOST: usize = 8;

/// Why ports and abstract sockets cannot be closed; empty if they can.
#[derive(Debug, Default)]
pub(super) struct WhyNot {
    pub(super) connect: String,
    pub(super) bind: String,
    pub(super) scope_abstract: String,
}

/// A part of what a rule blocks.
type Piece = (Held, Option<String>);

fn nothing(reason: impl Into<String>) -> Piece {
    (Held::Nothing, Some(reason.into()))
}

fn part(reason: impl Into<String>) -> Piece {
    (Held::Part, Some(reason.into()))
}

const WHOLE: Piece = (Held::Whole, None);

/// Every rule that blocks something, in the order of the policy.
pub(super) fn rules(
    image: &Image,
    verdicts: &Verdicts<'_>,
    plan: &LandlockPlan,
    places: &dyn Places,
    why_not: &WhyNot,
) -> Vec<RuleHold> {
    let judge = Judge { verdicts, plan, places, why_not };
    let mut pieces: Vec<Vec<Piece>> = vec![Vec::new(); image.rules.len()];
    let mut add = |entry: &Entry, piece: Piece| {
        if let Some(of_rule) = pieces.get_mut(usize::from(entry.rule)) {
            of_rule.push(piece);
        }
    };
    for row in &image.paths {
        for entry in row.entries.iter().filter(|entry| is_block(entry)) {
            for effect in effects(entry.effects) {
                add(entry, judge.path(&row.pattern.key, row.pattern.reach, entry, effect));
            }
        }
    }
    for row in &image.addresses {
        for (ports, entry) in row.entries.iter().filter(|(_, entry)| is_block(entry)) {
            effects(entry.effects).for_each(|effect| add(entry, judge.ports(*ports, entry, effect)));
        }
    }
    for row in &image.hosts {
        for (ports, entry) in row.entries.iter().filter(|(_, entry)| is_block(entry)) {
            effects(entry.effects).for_each(|effect| add(entry, judge.ports(*ports, entry, effect)));
        }
    }
    for row in &image.abstract_names {
        for entry in row.entries.iter().filter(|entry| is_block(entry)) {
            add(entry, judge.unix_abstract());
        }
    }
    for (privilege, entry) in image.privileges.iter().filter(|(_, entry)| is_block(entry)) {
        let piece =
            if privilege_blocked(image, *privilege) { judge.privilege(*privilege) } else { spared(entry) };
        add(entry, piece);
    }
    for entry in image.defaults.iter().filter(|entry| is_block(entry)) {
        for effect in effects(entry.effects) {
            let piece = match effect {
                Effect::NetConnect | Effect::NetBind | Effect::Dns => judge.ports(Ports::ANY, entry, effect),
                Effect::Unix => match judge.unix_abstract() {
                    (Held::Whole, _) => part(UNIX_PATHS),
                    other => other,
                },
                Effect::FileRead
                | Effect::FileWrite
                | Effect::FileCreate
                | Effect::FileDelete
                | Effect::FileLink
                | Effect::FileAttr
                | Effect::Exec => judge.path(&PathKey::Anchored(Vec::new()), Reach::Subtree, entry, effect),
            };
            add(entry, piece);
        }
    }
    let named = image.rules.iter().zip(pieces).filter(|(_, pieces)| !pieces.is_empty());
    named.map(|(rule, pieces)| sum(&rule.id, pieces)).collect()
}

/// Also what a person could allow: it is blocked as long as nobody is asked.
fn is_block(entry: &Entry) -> bool {
    entry.action == crate::model::PolicyAction::Block
}

fn effects(set: Effects) -> impl Iterator<Item = Effect> {
    Effect::ALL.iter().copied().filter(move |effect| set.contains((*effect).into()))
}

fn sum(rule: &str, pieces: Vec<Piece>) -> RuleHold {
    let held = if pieces.iter().all(|(held, _)| *held == Held::Whole) {
        Held::Whole
    } else if pieces.iter().all(|(held, _)| *held == Held::Nothing) {
        Held::Nothing
    } else {
        Held::Part
    };
    let mut reasons: Vec<String> = Vec::new();
    for reason in pieces.into_iter().filter_map(|(_, reason)| reason) {
        if !reasons.contains(&reason) && reasons.len() < REASONS_AT_MOST {
            reasons.push(reason);
        }
    }
    let mechanism = if held == Held::Nothing { Mechanism::None } else { Mechanism::Landlock };
    RuleHold { rule: rule.to_owned(), mechanism, held, reasons }
}

fn spared(entry: &Entry) -> Piece {
    if !blocks(entry) {
        nothing("a person may allow it later, and what Landlock has closed stays closed")
    } else if entry.unless.is_some() {
        nothing("it spares some executables, which Landlock cannot tell apart")
    } else {
        nothing("another rule decides first, or spares some executables, which Landlock cannot tell apart")
    }
}

const NO_UDP: &str = "Landlock covers TCP only: not UDP, Multipath TCP or TCP Fast Open";
const UNIX_PATHS: &str = "Landlock does not cover unix sockets with a path before ABI 9, and is not asked to";

struct Judge<'a> {
    verdicts: &'a Verdicts<'a>,
    plan: &'a LandlockPlan,
    places: &'a dyn Places,
    why_not: &'a WhyNot,
}

impl Judge<'_> {
    fn path(&self, key: &PathKey, reach: Reach, entry: &Entry, effect: Effect) -> Piece {
        let PathKey::Anchored(path) = key else {
            return nothing("Landlock cannot say a name that may be in any directory");
        };
        let path = Path(path.clone());
        let object = match reach {
            Reach::Exact | Reach::Ancestor => Object::At(&path),
            Reach::Subtree => Object::Deep(&path),
            Reach::Children => Object::Child(&path),
        };
        if !self.verdicts.blocked(object, effect) {
            return if self.verdicts.is_porous(&path, effect)
                || (path.0.is_empty() && self.verdicts.has_holes(effect))
            {
                nothing("names that may be in any directory are allowed there, which Landlock cannot say")
            } else {
                spared(entry)
            };
        }
        if let Some(reason) = self.no_files() {
            return nothing(reason);
        }
        match effect {
            Effect::FileAttr => nothing("Landlock has no right for mode, owner and times"),
            Effect::Unix => nothing(UNIX_PATHS),
            Effect::Dns | Effect::NetConnect | Effect::NetBind => nothing("no rule about files"),
            Effect::FileLink => self.link(&path, reach),
            Effect::Exec => match self.class(Class::Execute, &path, reach) {
                (Held::Whole, _) => part(
                    "Landlock stops execve only: not scripts given to an interpreter, programs given to ld.so, or memory",
                ),
                other => other,
            },
            Effect::FileWrite => match self.class(Class::Write, &path, reach) {
                (Held::Whole, _) if !self.plan.abi.has_truncate() => {
                    part(format!("files can be cut: that {}", self.plan.abi.lacks(3, "6.2")))
                }
                other => other,
            },
            Effect::FileRead => self.read(&path, reach),
            Effect::FileCreate | Effect::FileDelete
                if reach != Reach::Ancestor && !self.verdicts.blocked(object, Effect::FileWrite) =>
            {
                nothing(
                    "making and removing names can be closed only where writing is: renaming over a file is both",
                )
            }
            Effect::FileCreate => self.class(Class::Create, &path, reach),
            Effect::FileDelete if reach == Reach::Ancestor && self.places.stable(&path.parent()) => WHOLE,
            Effect::FileDelete => match self.class(Class::Delete, &path, reach) {
                (Held::Nothing, _) if reach == Reach::Ancestor => {
                    part(format!("{path}, which leads there, can be renamed"))
                }
                other => other,
            },
        }
    }

    fn no_files(&self) -> Option<String> {
        let plan = self.plan;
        match plan.level {
            LandlockLevel::Off => Some("Landlock is switched off".to_owned()),
            LandlockLevel::ScopesAndNet => {
                Some("files are left out, so that the command's own sandbox works".to_owned())
            }
            LandlockLevel::Full if !plan.abi.has_files() => Some(plan.abi.lacks(2, "5.19")),
            LandlockLevel::Full => None,
        }
    }

    fn read(&self, path: &Path, reach: Reach) -> Piece {
        let is_directory = self.places.kind(path) == Kind::Directory;
        let content = self.class(Class::ReadFile, path, reach);
        let names = self.class(Class::ReadDirectory, path, reach);
        if reach == Reach::Exact {
            return if is_directory { names } else { content };
        }
        match (content.0, names.0) {
            (Held::Whole, Held::Nothing | Held::Part) => {
                part("names there can be listed, contents cannot be read")
            }
            (Held::Whole | Held::Nothing | Held::Part, _) => content,
        }
    }

    /// A link to elsewhere would give rights the file did not have, which the kernel refuses; one beside it is made
    /// like any name.
    fn link(&self, path: &Path, reach: Reach) -> Piece {
        let classes = [Class::ReadFile, Class::Write, Class::Create];
        if classes.iter().all(|class| self.class(*class, path, reach).0 == Held::Whole) {
            WHOLE
        } else {
            nothing("Landlock has no right for hard links where reading, writing or making names is allowed")
        }
    }

    /// Whether a class of access is closed there.
    fn class(&self, class: Class, path: &Path, reach: Reach) -> Piece {
        let files = &self.plan.files;
        let object = if matches!(reach, Reach::Exact | Reach::Ancestor) || !class.asks_parent() {
            path.clone()
        } else {
            // Everything in it is asked of itself.
            path.join(b"*")
        };
        let grant = if files.handled.contains(&class) {
            files.grant_over(class, &object)
        } else {
            Some(Path::root())
        };
        if let Some(grant) = grant {
            let why = |leak: &&Leak| leak.class == class && path.is_at_or_below(&leak.path);
            let leak = files.leaks.iter().filter(why).max_by_key(|leak| leak.path.0.len());
            return nothing(match leak {
                Some(leak) => format!("{} is open: {}", leak.path, leak.reason),
                None => format!("{grant} is open for what policy allows there"),
            });
        }
        let effect = match class {
            Class::Create => Some(Effect::FileCreate),
            Class::Delete => Some(Effect::FileDelete),
            Class::ReadFile | Class::ReadDirectory | Class::Write | Class::Execute => None,
        };
        let below = files
            .grants
            .iter()
            .filter(|(grant, classes)| classes.contains(&class) && grant.is_at_or_below(path));
        let is_blocked = |grant| {
            let blocked = |effect, object| self.verdicts.blocked(object, effect);
            effect.is_some_and(|effect| {
                blocked(effect, Object::Child(grant)) || blocked(effect, Object::Deep(grant))
            })
        };
        if let Some((grant, _)) = below.into_iter().find(|(grant, _)| is_blocked(grant)) {
            return part(format!(
                "names in {grant} can be made and removed, because writing there is allowed"
            ));
        }
        let spills = files.leaks.iter().filter(|leak| leak.class == class && leak.spills);
        match spills.into_iter().find(|leak| leak.path.is_at_or_below(path)) {
            Some(leak) if reach != Reach::Exact => part(format!("{} is open: {}", leak.path, leak.reason)),
            _ => WHOLE,
        }
    }

    fn ports(&self, ports: Ports, entry: &Entry, effect: Effect) -> Piece {
        if !blocks(entry) || entry.unless.is_some() {
            return spared(entry);
        }
        if self.plan.level == LandlockLevel::Off {
            return nothing("Landlock is switched off");
        }
        let (allowed, why_not) = match effect {
            Effect::NetConnect => (&self.plan.connect, &self.why_not.connect),
            Effect::NetBind => (&self.plan.bind, &self.why_not.bind),
            Effect::Dns => return nothing("Landlock knows no host names"),
            Effect::FileRead
            | Effect::FileWrite
            | Effect::FileCreate
            | Effect::FileDelete
            | Effect::FileLink
            | Effect::FileAttr
            | Effect::Exec
            | Effect::Unix => return nothing("no rule about addresses"),
        };
        match allowed {
            Some(allowed) => match allowed.range(ports.first..=ports.last).next() {
                Some(port) => part(format!(
                    "port {port}, and any other port that a rule allows, is open to every address; {NO_UDP}"
                )),
                None => part(NO_UDP),
            },
            None if why_not.is_empty() => nothing(self.plan.abi.lacks(4, "6.7")),
            None => nothing(why_not.clone()),
        }
    }

    fn unix_abstract(&self) -> Piece {
        if self.plan.level == LandlockLevel::Off {
            nothing("Landlock is switched off")
        } else if self.plan.scope_abstract {
            WHOLE
        } else if self.why_not.scope_abstract.is_empty() {
            nothing(self.plan.abi.lacks(6, "6.12"))
        } else {
            nothing(self.why_not.scope_abstract.clone())
        }
    }

    fn privilege(&self, privilege: Privilege) -> Piece {
        let plan = self.plan;
        if plan.level == LandlockLevel::Off {
            return nothing("Landlock is switched off");
        }
        match privilege {
            Privilege::Signal if plan.scope_signal => WHOLE,
            Privilege::Signal => nothing(plan.abi.lacks(6, "6.12")),
            Privilege::Ptrace | Privilege::Inspect if plan.is_empty() => {
                nothing("only a Landlock domain does that, and no rule makes one here")
            }
            Privilege::Ptrace | Privilege::Inspect => WHOLE,
            Privilege::Mount if plan.handles_files() => WHOLE,
            Privilege::Mount => nothing("Landlock does that only together with rules about files"),
            Privilege::SetId if !plan.is_empty() => part(
                "programs give no privileges (no_new_privs), but a process that has them can change its ids",
            ),
            Privilege::Chroot
            | Privilege::UserNamespace
            | Privilege::Namespace
            | Privilege::Bpf
            | Privilege::Module
            | Privilege::IoUring
            | Privilege::SetId
            | Privilege::RawSocket
            | Privilege::OtherSocket
            | Privilege::Device
            | Privilege::Perf => nothing("Landlock has no right for it"),
        }
    }
}

/// The table of protections.
pub(super) fn table(
    image: &Image,
    verdicts: &Verdicts<'_>,
    plan: &LandlockPlan,
    why_not: &WhyNot,
) -> Vec<ProtectionRow> {
    let mut table = Vec::new();
    for (name, classes, effects) in [
        ("file_read", &[Class::ReadFile, Class::ReadDirectory][..], Effects::FILE_READ),
        ("file_write", &[Class::Write], Effects::FILE_WRITE),
        ("file_create", &[Class::Create], Effects::FILE_CREATE),
        ("file_delete", &[Class::Delete], Effects::FILE_DELETE),
        ("exec", &[Class::Execute], Effects::EXEC),
    ] {
        let handled: Vec<_> = classes.iter().filter(|class| plan.files.handled.contains(class)).collect();
        let leak = plan.files.leaks.iter().find(|leak| classes.contains(&leak.class));
        let leak = leak.map(|leak| format!("{} is open: {}", leak.path, leak.reason));
        let (state, reason) = if !verdicts.blocks_any(effects) {
            (ProtectionState::Off, NOT_ASKED.to_owned())
        } else if plan.level == LandlockLevel::ScopesAndNet {
            (ProtectionState::Off, "level scopes+net: files are left to others".to_owned())
        } else if plan.level == LandlockLevel::Off {
            (ProtectionState::Off, "switched off".to_owned())
        } else if !plan.abi.has_files() {
            (ProtectionState::Off, plan.abi.lacks(2, "5.19"))
        } else if handled.is_empty() {
            let else_reason = "only what Landlock cannot say is blocked".to_owned();
            (ProtectionState::Off, leak.unwrap_or(else_reason))
        } else if let Some(reason) = leak {
            (ProtectionState::Degraded, reason)
        } else if name == "file_write" && !plan.abi.has_truncate() {
            (ProtectionState::Degraded, format!("files can be cut: that {}", plan.abi.lacks(3, "6.2")))
        } else {
            (ProtectionState::Enforced, String::new())
        };
        table.push(row(name, state, reason));
    }
    let net = |name, wanted, handled: bool, why_not: &str| match (wanted, handled) {
        (_, true) => row(name, ProtectionState::Degraded, NO_UDP.to_owned()),
        (true, false) => row(name, ProtectionState::Off, plan.abi.lacks(4, "6.7")),
        (false, false) => row(name, ProtectionState::Off, off(plan, why_not)),
    };
    table.push(net("connect_tcp", plan.wanted.connect, plan.connect.is_some(), &why_not.connect));
    table.push(net("bind_tcp", plan.wanted.bind, plan.bind.is_some(), &why_not.bind));
    let scope = |name, wanted, handled: bool, why_not: &str| match (wanted, handled) {
        (_, true) => row(name, ProtectionState::Enforced, String::new()),
        (true, false) => row(name, ProtectionState::Off, plan.abi.lacks(6, "6.12")),
        (false, false) => row(name, ProtectionState::Off, off(plan, why_not)),
    };
    table.push(scope(
        "abstract_unix",
        plan.wanted.scope_abstract,
        plan.scope_abstract,
        &why_not.scope_abstract,
    ));
    table.push(scope("signal", plan.wanted.scope_signal, plan.scope_signal, NOT_ASKED));
    let domain = |name: &str, why: &str| {
        if plan.is_empty() {
            row(name, ProtectionState::Off, "nothing to enforce".to_owned())
        } else {
            row(name, ProtectionState::Enforced, why.to_owned())
        }
    };
    // What every domain brings with it, asked for or not.
    table.push(domain("ptrace", ""));
    table.push(if plan.is_empty() || plan.abi.has_audit() {
        domain("audit", "")
    } else {
        row("audit", ProtectionState::Off, plan.abi.lacks(7, "6.15"))
    });
    table.push(domain("no_new_privs", "programs such as sudo do not work"));
    if privilege_blocked(image, Privilege::Mount) || plan.handles_files() {
        let state = if plan.handles_files() { ProtectionState::Enforced } else { ProtectionState::Off };
        let reason = if plan.handles_files() { "" } else { "comes with rules about files only" };
        table.push(row("mount", state, reason.to_owned()));
    }
    table
}

const NOT_ASKED: &str = "policy blocks nothing of the kind";

fn off(plan: &LandlockPlan, why_not: &str) -> String {
    if plan.level == LandlockLevel::Off { "switched off".to_owned() } else { why_not.to_owned() }
}

fn row(name: &str, state: ProtectionState, reason: String) -> ProtectionRow {
    ProtectionRow { name: format!("landlock/{name}"), state, reason, verified: false }
}
