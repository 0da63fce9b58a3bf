//! A loaded policy: what the file says, checked, before it meets a session.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    content::{Detector, TextPattern, TextPatterns},
    image::Ports,
    network::{HostPattern, Network},
    pattern::Template,
    problem::Position,
};
use crate::model::{Content, Effect, Effects, Mode, PolicyAction, Privilege, Severity};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub at: Position,
}

/// A policy. Everything that could be wrong with it without knowing the session is right.
#[derive(Clone, Debug)]
pub struct Policy {
    /// What it calls itself.
    pub name: String,
    /// See [`Settings`].
    pub settings: Settings,
    /// What happens where no rule speaks. What is not here is allowed.
    pub defaults: Defaults,
    /// In the order of the file.
    pub rules: Vec<Rule>,
    /// In the order of the file.
    pub profiles: Vec<Profile>,
    /// Of all rules, in their order.
    pub patterns: TextPatterns,
}

/// What can be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// An effect on an object.
    Effect(Effect),
    /// A privileged operation.
    Privilege(Privilege),
    /// What is in a text of a conversation.
    Content(Content),
}

impl Subject {
    /// Every one.
    pub fn all() -> impl Iterator<Item = Self> {
        let effects = Effect::ALL.iter().map(|effect| Self::Effect(*effect));
        let privileges = Privilege::ALL.iter().map(|privilege| Self::Privilege(*privilege));
        effects.chain(privileges).chain(Content::ALL.iter().map(|content| Self::Content(*content)))
    }

    /// The word in policies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Effect(effect) => effect.as_str(),
            Self::Privilege(privilege) => privilege.as_str(),
            Self::Content(content) => content.as_str(),
        }
    }

    /// The one with this word.
    pub fn from_name(name: &str) -> Option<Self> {
        let effect = Effect::from_name(name).map(Self::Effect);
        effect
            .or_else(|| Privilege::from_name(name).map(Self::Privilege))
            .or_else(|| Content::from_name(name).map(Self::Content))
    }
}

/// Actions by what they are about.
pub type Defaults = BTreeMap<Subject, PolicyAction>;

/// What is not a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Of objects that cannot be resolved.
    pub unresolved: PolicyAction,
    /// What `confirm` becomes while nobody can be asked: block or allow.
    pub confirm_fallback: PolicyAction,
    /// From severity to action.
    pub thresholds: Thresholds,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            unresolved: PolicyAction::Block,
            confirm_fallback: PolicyAction::Block,
            thresholds: Thresholds::default(),
        }
    }
}

/// The least severity of each action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Mode action: alert from here.
    pub action_alert: Severity,
    /// Mode action: block from here.
    pub action_block: Severity,
    /// Mode hitl: alert from here.
    pub hitl_alert: Severity,
    /// Mode hitl: confirm from here.
    pub hitl_confirm: Severity,
    /// Mode hitl: block from here.
    pub hitl_block: Severity,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            action_alert: Severity::Medium,
            action_block: Severity::High,
            hitl_alert: Severity::Medium,
            hitl_confirm: Severity::High,
            hitl_block: Severity::Critical,
        }
    }
}

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Unique in the policy.
    pub id: String,
    /// About which effects.
    pub effects: Effects,
    /// About which privileged operations.
    pub privileges: BTreeSet<Privilege>,
    /// About which texts. A rule about texts is about nothing else.
    pub contents: BTreeSet<Content>,
    /// On which objects.
    pub matches: Matches,
    /// Whom it spares.
    pub unless: Option<Spared>,
    /// How bad it is.
    pub severity: Severity,
    /// Instead of what follows from severity.
    pub action: Option<PolicyAction>,
    /// End the process, too, where it blocks.
    pub kill: bool,
    /// Why, and what to do instead; for the agent.
    pub reason: String,
    /// Where it stands.
    pub at: Position,
}

/// Objects of a rule. Each kind is about the effects that know it.
#[derive(Clone, Debug, Default)]
pub struct Matches {
    /// Of `file.*` and `exec`.
    pub paths: Vec<At<Template>>,
    /// Programs, of `exec`.
    pub executables: Vec<At<Template>>,
    /// Of `dns` and `net.connect`.
    pub hosts: Vec<HostPattern>,
    /// Of `net.*`.
    pub addresses: Vec<Network>,
    /// Narrow hosts and addresses; alone: of any address.
    pub ports: Vec<Ports>,
    /// Paths of sockets, of `unix`.
    pub unix: Vec<At<Template>>,
    /// Abstract names of sockets, of `unix`.
    pub abstract_names: Vec<Vec<u8>>,
    /// In texts.
    pub patterns: Vec<At<TextPattern>>,
    /// In texts.
    pub detectors: BTreeSet<Detector>,
}

impl Matches {
    /// Every path pattern and the effects it is about, of a rule about these.
    pub(super) fn path_patterns(&self, effects: Effects) -> impl Iterator<Item = (Effects, &At<Template>)> {
        let kinds = [
            (effects & (FILE | Effects::EXEC), &self.paths),
            (effects & Effects::EXEC, &self.executables),
            (effects & Effects::UNIX, &self.unix),
        ];
        kinds
            .into_iter()
            .filter(|(effects, _)| !effects.is_empty())
            .flat_map(|(effects, patterns)| patterns.iter().map(move |pattern| (effects, pattern)))
    }
}

/// All of `file.*`.
pub(super) const FILE: Effects = Effects::from_bits_truncate(0b11_1111);
/// All of `net.*`.
pub(super) const NET: Effects = Effects::NET_CONNECT.union(Effects::NET_BIND);

/// Whom a rule spares.
#[derive(Clone, Debug)]
pub enum Spared {
    /// Processes that run one of these.
    Executables(Vec<At<Template>>),
    /// Processes whose parent does.
    Parents(Vec<At<Template>>),
}

/// Which rules apply to whom.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Unique in the policy.
    pub name: String,
    /// Agents it is for.
    pub connectors: Vec<String>,
    /// Patterns of rule ids; empty: all.
    pub include: Vec<At<String>>,
    /// Patterns of rule ids.
    pub exclude: Vec<At<String>>,
    /// Unless the session says otherwise.
    pub mode: Option<Mode>,
    /// Before those of the policy.
    pub defaults: Defaults,
}

impl Policy {
    /// The profile of an agent: the first that names it, else the one called `default`.
    pub fn profile_of(&self, connector: &str) -> Option<&Profile> {
        self.profiles
            .iter()
            .find(|profile| profile.connectors.iter().any(|name| name == connector))
            .or_else(|| self.profile("default"))
    }

    /// The profile with this name.
    pub fn profile(&self, name: &str) -> Option<&Profile> {
        self.profiles.iter().find(|profile| profile.name == name)
    }
}

impl Profile {
    /// Whether the rule applies.
    pub fn has(&self, rule: &Rule) -> bool {
        let fits = |globs: &[At<String>]| {
            globs.iter().any(|glob| super::pattern::glob(glob.value.as_bytes(), rule.id.as_bytes()))
        };
        (self.include.is_empty() || fits(&self.include)) && !fits(&self.exclude)
    }
}

impl Thresholds {
    /// What policy says in a mode. Mode observe asks what mode action would.
    pub(super) fn action(self, severity: Severity, mode: Mode) -> PolicyAction {
        let (alert, confirm, block) = match mode {
            Mode::Observe | Mode::Action => (self.action_alert, self.action_block, self.action_block),
            Mode::Hitl => (self.hitl_alert, self.hitl_confirm, self.hitl_block),
        };
        if severity >= block {
            PolicyAction::Block
        } else if severity >= confirm {
            PolicyAction::Confirm
        } else if severity >= alert {
            PolicyAction::Alert
        } else {
            PolicyAction::Allow
        }
    }
}

impl Rule {
    /// What it says in a mode, before the mode is applied.
    pub fn raw_action(&self, thresholds: Thresholds, mode: Mode) -> PolicyAction {
        self.action.unwrap_or_else(|| thresholds.action(self.severity, mode))
    }

    /// Whether it asks for block or confirm in any mode.
    pub(super) fn can_block(&self, thresholds: Thresholds) -> bool {
        Mode::ALL.iter().any(|mode| self.raw_action(thresholds, *mode) >= PolicyAction::Confirm)
    }
}

impl Settings {
    /// What is done about a raw action in a mode, and whether another mode would block. `asks`: somebody can be asked.
    pub fn applied(&self, raw: PolicyAction, mode: Mode, asks: bool) -> (PolicyAction, bool) {
        match (raw, mode) {
            (PolicyAction::Allow | PolicyAction::Alert, _) => (raw, false),
            (PolicyAction::Confirm | PolicyAction::Block, Mode::Observe) => (PolicyAction::Alert, true),
            (PolicyAction::Confirm, Mode::Hitl) if asks => (PolicyAction::Confirm, false),
            (PolicyAction::Confirm, Mode::Action | Mode::Hitl) => (self.confirm_fallback, false),
            (PolicyAction::Block, Mode::Action | Mode::Hitl) => (PolicyAction::Block, false),
        }
    }
}
