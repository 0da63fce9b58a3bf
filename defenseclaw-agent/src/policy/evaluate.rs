//! The meaning of a policy: what it says about one operation. Cannot fail and cannot block. What the kernel, Landlock
//! and the resolver do is measured against this; [`lookup`](super::lookup) is the same answer from an image.
//!
//! Paths: the pattern that pins the path deepest decides; among equally deep ones the [`Rank`](super::pattern::Rank);
//! among those the stricter. Only rules count that speak of the effect and do not spare who acts. If none does, the
//! default. Taking away a directory takes away what is below: the stricter of both counts, and nobody is spared.

use std::{cmp::Reverse, collections::BTreeSet, net::IpAddr};

use super::{
    image::{Entry, PathPattern, Unless},
    network::{self, HostPattern, canonical},
    object::{Actor, Object},
    pattern::{self, Pin},
    rule::Subject,
    session::{BoundRule, Session},
};
use crate::model::{Effect, Effects, PolicyAction, Privilege, Verdict};

/// How specific a rule is about an address, and its weight. The greatest decides.
type AddressRank = (Specific, Reverse<u16>);

/// A resolved name stands between a single address and every shorter prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Specific {
    Prefix(u8),
    Name(bool, usize),
    Single,
}

/// What a session's policy says, as the audit has it.
pub fn evaluate(session: &Session, actor: Actor<'_>, object: &Object<'_>) -> Verdict {
    match session.judge(actor, object) {
        Some(entry) => session.verdict(&entry),
        None => Verdict {
            raw_action: PolicyAction::Allow,
            severity: None,
            rule_ids: Vec::new(),
            reason: String::new(),
        },
    }
}

/// The stricter of two answers about one operation; the first if they are alike.
pub fn stricter(a: Option<Entry>, b: Option<Entry>) -> Option<Entry> {
    let strictness = |said: &Option<Entry>| said.map_or(PolicyAction::Allow, |entry| entry.raw_action);
    if strictness(&b) > strictness(&a) { b } else { a }
}

impl Session {
    /// What the audit has of an entry.
    pub fn verdict(&self, entry: &Entry) -> Verdict {
        let info = self.rule(entry.rule);
        Verdict {
            raw_action: entry.raw_action,
            severity: info.map(|info| info.severity),
            rule_ids: info.map(|info| info.id.clone()).into_iter().collect(),
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
        }
    }

    /// The decisive entry; none if nothing was said, which allows.
    pub fn judge(&self, actor: Actor<'_>, object: &Object<'_>) -> Option<Entry> {
        match *object {
            Object::Path(effect, path) => match pattern::components(path) {
                Some(path) => self.path(actor, effect, &path),
                None => Some(self.unresolved),
            },
            Object::Unresolved(_) => Some(self.unresolved),
            Object::Abstract(name) => self.abstract_name(actor, name),
            Object::Address { effect, address, port, name } => {
                self.address(actor, effect, address, port, name)
            }
            Object::Name(name) => self.name(actor, name),
            Object::Privilege(privilege) => self.privilege(actor, privilege),
            Object::Content(content, text) => self.content(content, text).into_iter().next(),
        }
    }

    fn path(&self, actor: Actor<'_>, effect: Effect, path: &[&[u8]]) -> Option<Entry> {
        let effects = Effects::from(effect);
        let mut best: Option<(Pin, &BoundRule)> = None;
        for at in self.candidates(path) {
            let Some(candidate) = self.paths.get(at) else { continue };
            let Some(rule) = self.speaking(candidate.rule, candidate.effects, effects, actor) else {
                continue;
            };
            let Some(pin) = pattern::pin(&candidate.pattern, path) else { continue };
            better(&mut best, pin, rule);
        }
        let held = best.map(|(_, rule)| rule.entry).or_else(|| self.default(Subject::Effect(effect)));
        // Wild patterns never change what is blocked: the kernel does not know them.
        let own = if held.is_none_or(|held| held.raw_action <= PolicyAction::Alert) {
            for wild in &self.wild {
                let Some(rule) = self.speaking(wild.rule, wild.effects, effects, actor) else { continue };
                let Some(pin) = wild.pattern.pin(path) else { continue };
                better(&mut best, pin, rule);
            }
            best.map(|(_, rule)| rule.entry).or(held)
        } else {
            held
        };
        if effect == Effect::FileDelete { stricter(own, self.below(path)) } else { own }
    }

    /// Patterns that can match: those whose last name is in the path.
    fn candidates(&self, path: &[&[u8]]) -> impl Iterator<Item = usize> {
        let names: BTreeSet<&[u8]> = path.iter().copied().collect();
        let named = names.into_iter().filter_map(|name| self.by_name.get(name)).flatten();
        let extension = pattern::extension(path).and_then(|found| self.by_extension.get(found));
        named.chain(extension.into_iter().flatten()).chain(&self.of_root).copied()
    }

    /// The strictest rule that protects something below this directory from being deleted. It spares nobody: whoever
    /// takes away the directory takes more than what is theirs.
    fn below(&self, path: &[&[u8]]) -> Option<Entry> {
        let directory: Vec<u8> = path.iter().flat_map(|part| [b"/", *part].concat()).collect();
        let rule = self.rules.get(*self.above.get(&directory)?)?;
        Some(Entry { unless: None, ..rule.entry })
    }

    /// The rule, if it speaks of the effect and does not spare who acts.
    fn speaking(
        &self,
        rule: usize,
        about: Effects,
        effects: Effects,
        actor: Actor<'_>,
    ) -> Option<&BoundRule> {
        let rule = self.rules.get(rule)?;
        (about.contains(effects) && !self.spares(&rule.entry, actor)).then_some(rule)
    }

    fn spares(&self, entry: &Entry, actor: Actor<'_>) -> bool {
        spares(&self.owners, entry.unless, actor)
    }

    fn default(&self, subject: Subject) -> Option<Entry> {
        self.defaults.get(&subject).copied()
    }

    fn abstract_name(&self, actor: Actor<'_>, name: &[u8]) -> Option<Entry> {
        self.strictest(actor, Effect::Unix, |rule| rule.abstract_names.iter().any(|own| own == name))
            .or_else(|| self.default(Subject::Effect(Effect::Unix)))
    }

    fn privilege(&self, actor: Actor<'_>, privilege: Privilege) -> Option<Entry> {
        let rules = self.rules.iter().filter(|rule| rule.privileges.contains(&privilege));
        rules
            .filter(|rule| !self.spares(&rule.entry, actor))
            .max_by_key(|rule| rule.weight())
            .map(|rule| rule.entry)
            .or_else(|| self.default(Subject::Privilege(privilege)))
    }

    fn strictest(
        &self,
        actor: Actor<'_>,
        effect: Effect,
        fits: impl Fn(&BoundRule) -> bool,
    ) -> Option<Entry> {
        let effects = Effects::from(effect);
        let rules = self.rules.iter().filter(|rule| rule.entry.effects.contains(effects) && fits(rule));
        let heard = rules.filter(|rule| !self.spares(&rule.entry, actor));
        heard.max_by_key(|rule| rule.weight()).map(|rule| rule.entry)
    }

    fn name(&self, actor: Actor<'_>, name: &str) -> Option<Entry> {
        let default = || self.default(Subject::Effect(Effect::Dns));
        let Some(labels) = network::labels(name) else { return Some(self.unresolved) };
        let rules = self.rules.iter().filter(|rule| rule.entry.effects.contains(Effects::DNS));
        let heard = rules.filter(|rule| !self.spares(&rule.entry, actor));
        let named = heard.filter_map(|rule| Some((host(rule, &labels)?, rule)));
        named
            .max_by_key(|(specific, rule)| (*specific, rule.weight()))
            .map(|(_, rule)| rule.entry)
            .or_else(default)
    }

    fn address(
        &self,
        actor: Actor<'_>,
        effect: Effect,
        address: IpAddr,
        port: u16,
        name: Option<&str>,
    ) -> Option<Entry> {
        let effects = Effects::from(effect);
        let address = canonical(address);
        // Names are known of what is connected to; nothing is bound to a name.
        let labels = name.filter(|_| effect == Effect::NetConnect).and_then(network::labels);
        let mut best: Option<(AddressRank, &BoundRule)> = None;
        for rule in &self.rules {
            if !rule.entry.effects.contains(effects) || self.spares(&rule.entry, actor) {
                continue;
            }
            let ports = rule.ports.iter().filter(|ports| ports.contains(port));
            let Some(width) = ports.map(|ports| ports.width()).min() else { continue };
            let prefix = rule
                .addresses
                .iter()
                .filter(|network| network.contains(address))
                .max_by_key(|network| network.length);
            let prefix = prefix.map(|network| {
                if network.is_single() { Specific::Single } else { Specific::Prefix(network.length) }
            });
            let named = labels.as_deref().and_then(|labels| host(rule, labels));
            let Some(specific) = prefix.max(named.map(|(whole, labels)| Specific::Name(whole, labels)))
            else {
                continue;
            };
            let rank = (specific, Reverse(width));
            if best.is_none_or(|(known, other)| (rank, rule.weight()) > (known, other.weight())) {
                best = Some((rank, rule));
            }
        }
        best.map(|(_, rule)| rule.entry).or_else(|| self.default(Subject::Effect(effect)))
    }
}

/// The most specific host pattern of a rule that means the name.
fn host(rule: &BoundRule, labels: &[String]) -> Option<(bool, usize)> {
    rule.hosts.iter().filter(|host| host.matches(labels)).map(HostPattern::specificity).max()
}

fn better<'a>(best: &mut Option<(Pin, &'a BoundRule)>, pin: Pin, rule: &'a BoundRule) {
    if best.is_none_or(|(known, other)| (pin, rule.weight()) > (known, other.weight())) {
        *best = Some((pin, rule));
    }
}

/// Whether who acts is one of those that an entry spares.
pub(super) fn spares(owners: &[Vec<PathPattern>], unless: Option<Unless>, actor: Actor<'_>) -> bool {
    let (set, path) = match unless {
        Some(Unless::Executable(set)) => (set, actor.executable),
        Some(Unless::Parent(set)) => (set, actor.parent),
        None => return false,
    };
    let Some(path) = path.and_then(pattern::components) else { return false };
    let patterns = owners.get(usize::from(set)).map(Vec::as_slice).unwrap_or_default();
    patterns.iter().any(|pattern| pattern::pin(pattern, &path).is_some())
}

#[cfg(test)]
mod tests;
