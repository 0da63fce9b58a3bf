//! Which rules of a policy block where nothing here can hold them.

use std::collections::BTreeSet;

use super::words;
use crate::{
    model::{Effects, PolicyAction},
    policy::image::{Entry, Image},
};

/// What the kernel's half can refuse here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holds {
    /// Programs at the LSM hooks: everything.
    pub lsm: bool,
    /// Programs at the agents' cgroup: internet addresses.
    pub cgroup: bool,
}

/// Ids of the rules that would block here, and cannot; in the policy's order.
pub fn unheld(image: &Image, holds: Holds) -> Vec<String> {
    if holds.lsm {
        return Vec::new();
    }
    let held = if holds.cgroup { Effects::NET_CONNECT | Effects::NET_BIND } else { Effects::empty() };
    let mut rules = BTreeSet::new();
    let mut note = |entry: &Entry, effects: Effects| {
        // Privileged operations have no effects of their own, and nothing but LSM refuses them.
        let is_held = !effects.is_empty() && held.contains(effects);
        if entry.action == PolicyAction::Block && !is_held {
            rules.insert(entry.rule);
        }
    };
    image.paths.iter().flat_map(|row| &row.entries).for_each(|entry| note(entry, entry.effects));
    image.abstract_names.iter().flat_map(|row| &row.entries).for_each(|entry| note(entry, entry.effects));
    image.addresses.iter().flat_map(|row| &row.entries).for_each(|(_, entry)| note(entry, entry.effects));
    image.privileges.iter().for_each(|(_, entry)| note(entry, Effects::empty()));
    image.defaults.iter().for_each(|entry| note(entry, entry.effects));
    image.unresolved.iter().for_each(|entry| note(entry, entry.effects));
    rules.into_iter().map(|rule| words::rule_id(image, rule)).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::{
        enforce::sample,
        model::Privilege,
        policy::image::{AddressRow, Ports},
    };

    #[test]
    fn each_layer_holds_its_own_rules() {
        let mut image = sample::blocking(&["/a", "/b", "/c"]);
        let net = Entry { effects: Effects::NET_CONNECT, ..sample::entry(3) };
        image.addresses.push(AddressRow {
            network: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            length: 0,
            entries: vec![(Ports::ANY, net)],
        });
        image.privileges.push((Privilege::Bpf, Entry { effects: Effects::empty(), ..sample::entry(4) }));
        if let Some(entry) = image.paths.get_mut(1).and_then(|row| row.entries.first_mut()) {
            entry.action = PolicyAction::Alert;
        }
        let unheld = |lsm, cgroup| super::unheld(&image, Holds { lsm, cgroup });
        assert_eq!(unheld(true, false), [""; 0]);
        assert_eq!(unheld(false, true), ["rule-/a", "rule-/c", "number 4"]);
        assert_eq!(unheld(false, false), ["rule-/a", "rule-/c", "number 3", "number 4"]);
    }
}
