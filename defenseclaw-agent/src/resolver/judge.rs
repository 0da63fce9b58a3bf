//! What is said of one question and of one answer. Pure.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    answer::Answer,
    name::HostName,
    names::{self, Names, Owners},
    private,
};
use crate::{
    model::{Asker, Decision, Effect, Enforced, Mechanism, PolicyAction, Severity, Verdict},
    policy::image::{Entry, Image},
};

/// Id under which a private answer to a public name stands in the audit.
pub const REBINDING: &str = "dns:rebinding";

/// One policy, as far as names go.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The compiled policy.
    pub image: Arc<Image>,
    /// Its generation.
    pub generation: u64,
    /// The kernel's number of each list of executables of the image, by its index there.
    pub sets: Vec<Option<u8>>,
    /// What a private answer to a public name amounts to: `block`, or in mode observe `alert`.
    pub rebinding: PolicyAction,
}

/// Name servers of the system, and names that are its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct System {
    /// Servers whose word makes an address belong to a name, and which may be asked whatever is said of their address.
    pub servers: Vec<IpAddr>,
    /// Domains that are searched: names in them may have private addresses.
    pub searched: Vec<String>,
}

impl System {
    /// From `resolv.conf`. A line that cannot be understood is left out, as the C library does.
    pub fn from_resolv_conf(text: &[u8]) -> Self {
        let mut system = Self::default();
        let lines = text.split(|byte| *byte == b'\n');
        for config in lines.filter_map(|line| resolv_conf::Config::parse(line).ok()) {
            let servers = config.nameservers.iter().map(|server| IpAddr::from(server).to_canonical());
            system.servers.extend(servers);
            let searched: Vec<_> = config.get_last_search_or_domain().cloned().collect();
            if !searched.is_empty() {
                system.searched = searched;
            }
        }
        system
    }

    /// Whether this server's word makes an address belong to a name.
    pub(super) fn trusts(&self, server: SocketAddr) -> bool {
        self.servers.contains(&server.ip().to_canonical())
    }
}

/// Whether it goes on, and what is said of it, if anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ruling {
    /// It ends here.
    pub(super) refuse: bool,
    /// For the audit.
    pub(super) decision: Option<Decision>,
}

/// Rules and system, ready to be asked.
#[derive(Clone, Debug)]
pub(super) struct Judge {
    names: Names,
    rules: Rules,
}

impl Judge {
    /// Of these rules.
    pub(super) fn new(rules: &Rules) -> Self {
        Self { names: Names::new(Arc::clone(&rules.image)), rules: rules.clone() }
    }

    /// Rules about names.
    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// The policy.
    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Whom the rules of this policy take the asking task for.
    pub(super) fn owners(&self, asker: &Asker) -> Owners {
        let known = |kernel: u64| {
            let bit = |number: &Option<u8>| number.is_some_and(|number| kernel >> (number & 63) & 1 != 0);
            let sets = self.rules.sets.iter().take(64).enumerate();
            sets.filter(|(_, number)| bit(number)).fold(0, |sets, (index, _)| sets | 1 << index)
        };
        Owners { own: known(asker.owner), parent: known(asker.parent_owner) }
    }

    /// Whether `name` may be asked of `server`.
    pub(super) fn question(
        &self,
        system: &System,
        server: SocketAddr,
        name: &HostName,
        owners: Owners,
    ) -> Ruling {
        let said = self.names.question(name, owners);
        if said.as_ref().is_some_and(names::blocks) || system.trusts(server) {
            return self.ruling(said);
        }
        // Any other server is an address like any other.
        let address = server.ip().to_canonical();
        let reached = self
            .names
            .address(address, server.port(), owners)
            .or_else(|| self.names.default_of(Effect::NetConnect, owners));
        self.ruling(reached.filter(names::blocks).or(said))
    }

    /// Whether an answer may be passed on.
    pub(super) fn answer(&self, system: &System, name: &HostName, answer: &Answer, owners: Owners) -> Ruling {
        // Who blocks a name means it under every other name, too.
        if let Some(entry) = answer.aliases.iter().find_map(|alias| self.blocked_by_rule(alias, owners)) {
            return self.ruling(Some(entry));
        }
        let addresses = answer.addresses.iter().map(|(address, _)| address).chain(&answer.others);
        let searched: Vec<_> = system.searched.iter().map(|domain| HostName::from_text(domain)).collect();
        if private::is_local(name, &searched) || self.names.is_welcome(name, owners) {
            return Ruling { refuse: false, decision: None };
        }
        let rebound = addresses.copied().find(|address| {
            private::is_private(*address) && !self.names.is_address_welcome(*address, owners)
        });
        match rebound {
            Some(address) => Ruling {
                refuse: self.rules.rebinding >= PolicyAction::Confirm,
                decision: Some(self.rebound(name, address)),
            },
            None => Ruling { refuse: false, decision: None },
        }
    }

    fn blocked_by_rule(&self, name: &HostName, owners: Owners) -> Option<Entry> {
        let asked = self.names.rule(Effect::Dns, name, 0, owners).filter(names::blocks);
        asked.or_else(|| self.names.closed(name, owners))
    }

    fn ruling(&self, entry: Option<Entry>) -> Ruling {
        let Some(entry) = entry else { return Ruling { refuse: false, decision: None } };
        Ruling { refuse: names::blocks(&entry), decision: self.decision(&entry) }
    }

    /// None if there is nothing to be told.
    fn decision(&self, entry: &Entry) -> Option<Decision> {
        if entry.action == PolicyAction::Allow && entry.raw_action == PolicyAction::Allow {
            return None;
        }
        let rule = self.names.image().rules.get(usize::from(entry.rule));
        Some(Decision {
            verdict: Verdict {
                raw_action: entry.raw_action,
                severity: rule.map(|rule| rule.severity),
                rule_ids: rule.map(|rule| rule.id.clone()).into_iter().collect(),
                reason: rule.map(|rule| rule.reason.clone()).unwrap_or_default(),
            },
            action: entry.action,
            would_block: entry.would_block,
            mechanism: mechanism(entry.action),
            enforced: (entry.action == PolicyAction::Block).then_some(Enforced::Applied),
            generation: self.rules.generation,
        })
    }

    fn rebound(&self, name: &HostName, address: IpAddr) -> Decision {
        let name = name.text().escape_ascii().to_string();
        Decision {
            verdict: Verdict {
                raw_action: PolicyAction::Block,
                severity: Some(Severity::High),
                rule_ids: vec![REBINDING.to_owned()],
                reason: format!(
                    "the public name {name} leads to the private address {address}; if that is meant, allow \
                     net.connect to exactly this host, or to this address"
                ),
            },
            action: self.rules.rebinding,
            would_block: self.rules.rebinding < PolicyAction::Block,
            mechanism: mechanism(self.rules.rebinding),
            enforced: (self.rules.rebinding == PolicyAction::Block).then_some(Enforced::Applied),
            generation: self.rules.generation,
        }
    }
}

/// What holds a decision: nothing where nothing is withheld.
fn mechanism(action: PolicyAction) -> Mechanism {
    if action >= PolicyAction::Confirm { Mechanism::Resolver } else { Mechanism::None }
}

#[cfg(test)]
mod tests;
