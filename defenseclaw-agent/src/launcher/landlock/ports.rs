//! TCP ports that policy leaves open: Landlock knows ports, but neither addresses nor names, and no UDP.

use std::collections::BTreeSet;

use super::verdict::blocks;
use crate::{
    model::Effect,
    policy::image::{Entry, Image, Ports},
};

/// Allowed ports of a plan. More are not worth their price at the start.
const PORTS_AT_MOST: usize = 1024;
/// Where names are asked for. What redirects these questions acts after Landlock.
const DNS: u16 = 53;

/// Ports that some address may be reached or taken at; an error says why not all others can be closed.
pub(super) fn allowed(image: &Image, effect: Effect) -> Result<BTreeSet<u16>, String> {
    if !blocked_by_default(image, effect) {
        return Err("policy allows every port that no rule names, and Landlock can only allow".to_owned());
    }
    let of_addresses = image.addresses.iter().flat_map(|row| row.entries.iter());
    let of_hosts = image.hosts.iter().flat_map(|row| row.entries.iter());
    let mut ports = BTreeSet::new();
    for (range, entry) in of_addresses.chain(of_hosts) {
        if !entry.effects.contains(effect.into()) || blocks(entry) {
            continue;
        }
        if usize::from(range.last.saturating_sub(range.first)) >= PORTS_AT_MOST {
            let id = rule_id(image, entry);
            return Err(format!(
                "`{id}` allows {} ports of some address, and Landlock knows no addresses",
                count(*range)
            ));
        }
        ports.extend(range.first..=range.last);
    }
    if effect == Effect::NetConnect && !blocked_by_default(image, Effect::Dns) {
        ports.insert(DNS);
    }
    if ports.len() > PORTS_AT_MOST {
        return Err(format!("policy allows {} ports, more than {PORTS_AT_MOST}", ports.len()));
    }
    Ok(ports)
}

/// Whether everybody is blocked where no rule speaks.
pub(super) fn blocked_by_default(image: &Image, effect: Effect) -> bool {
    let default = image.defaults.iter().find(|entry| entry.effects.contains(effect.into()));
    default.is_some_and(|entry| blocks(entry) && entry.unless.is_none())
}

fn count(range: Ports) -> String {
    if range == Ports::ANY {
        "all".to_owned()
    } else {
        (u32::from(range.last) - u32::from(range.first) + 1).to_string()
    }
}

fn rule_id<'a>(image: &'a Image, entry: &Entry) -> &'a str {
    image.rules.get(usize::from(entry.rule)).map_or("?", |rule| rule.id.as_str())
}
