//! From a session to the [`Image`] that the kernel and the others hold: rows by key, in the order of precedence. What
//! does not fit is a load error, never a rule that is silently left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    image::{AbstractRow, AddressRow, Entry, HostRow, Image, PathKey, PathPattern, PathRow, Ports, Reach},
    problem::{Problem, Problems},
    rule::{Policy, Subject},
    session::{Bindings, BoundPath, BoundRule, Session},
};
use crate::model::{Effects, PolicyAction, Privilege};

/// Entries of one key.
const ENTRIES_MAX: usize = 8;
/// Entries of one privileged operation.
const PRIVILEGE_ENTRIES_MAX: usize = 2;
/// Distinct prefix lengths of an address family.
const LENGTHS_MAX: usize = 32;
/// Paths shorter than this are too much to protect file by file.
const IDENTITY_DEPTH_MIN: usize = 2;

type PortEntries = Vec<(Ports, Entry)>;

/// Binds a policy and compiles it.
pub fn compile(policy: &Policy, bindings: &Bindings) -> Result<Image, Vec<Problem>> {
    Session::new(policy, bindings)?.image()
}

impl Session {
    /// What the kernel has to know of it.
    pub fn image(&self) -> Result<Image, Vec<Problem>> {
        let mut problems = Problems::default();
        let image = Image {
            rules: self.info.clone(),
            paths: self.path_rows(&mut problems),
            addresses: self.address_rows(&mut problems),
            abstract_names: self.abstract_rows(&mut problems),
            hosts: self.host_rows(&mut problems),
            privileges: self.privilege_rows(&mut problems),
            defaults: self
                .defaults
                .iter()
                .filter(|(subject, _)| matches!(subject, Subject::Effect(_)))
                .map(|(_, entry)| *entry)
                .collect(),
            unresolved: Some(self.unresolved),
            asks: self.asks,
            owners: self.owners.clone(),
            identities: self.identities(),
        };
        problems.or(image)
    }

    fn path_rows(&self, problems: &mut Problems) -> Vec<PathRow> {
        let mut rows: BTreeMap<PathPattern, Vec<Entry>> = BTreeMap::new();
        // Of what lies below a directory only the strictest rule counts, and it spares nobody: one entry each.
        let mut above: BTreeMap<&[Vec<u8>], &BoundRule> = BTreeMap::new();
        for (path, rule) in self.paths.iter().filter_map(|path| Some((path, self.rules.get(path.rule)?))) {
            let entry = Entry { effects: path.effects, ..rule.entry };
            rows.entry(path.pattern.clone()).or_default().push(entry);
            let Some((key, last)) = path.below().filter(|_| rule.entry.raw_action > PolicyAction::Allow)
            else {
                continue;
            };
            for key in (1..=last).filter_map(|length| key.get(..length)) {
                let known = above.entry(key).or_insert(rule);
                if rule.weight() > known.weight() {
                    *known = rule;
                }
            }
        }
        for (key, rule) in above {
            let pattern = PathPattern { key: PathKey::Anchored(key.to_vec()), reach: Reach::Ancestor };
            let entry = Entry { effects: Effects::FILE_DELETE, unless: None, ..rule.entry };
            rows.insert(pattern, vec![entry]);
        }
        let mut rows: Vec<_> = rows
            .into_iter()
            .map(|(pattern, entries)| PathRow { pattern, entries: self.ordered(entries) })
            .collect();
        // Rows of one key share a cell.
        let mut sizes: BTreeMap<&PathKey, usize> = BTreeMap::new();
        for row in &rows {
            let size = sizes.entry(&row.pattern.key).or_default();
            let before = *size;
            *size += row.entries.len();
            if before <= ENTRIES_MAX && *size > ENTRIES_MAX {
                self.too_many(row.entries.last(), ENTRIES_MAX, "the same path", problems);
            }
        }
        rows.sort_by(|a, b| a.pattern.cmp(&b.pattern));
        rows
    }

    /// In the order of precedence, without what an earlier entry always hides.
    fn ordered(&self, entries: Vec<Entry>) -> Vec<Entry> {
        let entries = entries.into_iter().map(|entry| (Ports::ANY, entry)).collect();
        self.ordered_ports(entries).into_iter().map(|(_, entry)| entry).collect()
    }

    fn ordered_ports(&self, mut entries: Vec<(Ports, Entry)>) -> Vec<(Ports, Entry)> {
        let weight = |entry: &Entry| self.rules.get(usize::from(entry.rule)).map(BoundRule::weight);
        entries.sort_by(|(a_ports, a), (b_ports, b)| {
            a_ports.width().cmp(&b_ports.width()).then_with(|| weight(b).cmp(&weight(a)))
        });
        let mut kept: Vec<(Ports, Entry)> = Vec::new();
        for (ports, mut entry) in entries {
            if let Some((_, same)) =
                kept.iter_mut().find(|(known, other)| *known == ports && other.rule == entry.rule)
            {
                same.effects |= entry.effects;
                continue;
            }
            for (known, earlier) in &kept {
                let hides = known.first <= ports.first && known.last >= ports.last;
                if hides && (earlier.unless.is_none() || earlier.unless == entry.unless) {
                    entry.effects -= earlier.effects;
                }
            }
            if !entry.effects.is_empty() {
                kept.push((ports, entry));
            }
        }
        kept
    }

    fn too_many(&self, entry: Option<&Entry>, limit: usize, what: &str, problems: &mut Problems) {
        let rule = entry.and_then(|entry| self.rules.get(usize::from(entry.rule)));
        let id = entry.and_then(|entry| self.rule(entry.rule)).map_or("", |info| info.id.as_str());
        let message = format!("with rule {id:?} more than {limit} rules speak of {what}");
        let hint = "merge rules that say the same, or give them the same unless";
        match rule {
            Some(rule) => problems.at(&rule.at, message, hint),
            None => problems.add(Problem::nowhere(message, hint)),
        }
    }

    fn address_rows(&self, problems: &mut Problems) -> Vec<AddressRow> {
        let mut rows: BTreeMap<(IpAddr, u8), Vec<(Ports, Entry)>> = BTreeMap::new();
        for rule in &self.rules {
            let effects = rule.entry.effects & super::rule::NET;
            if effects.is_empty() {
                continue;
            }
            for network in &rule.addresses {
                let row = rows.entry((network.address, network.length)).or_default();
                row.extend(rule.ports.iter().map(|ports| (*ports, Entry { effects, ..rule.entry })));
            }
        }
        let mut lengths: [BTreeSet<u8>; 2] = [BTreeSet::new(), BTreeSet::new()];
        let mut done = Vec::with_capacity(rows.len());
        for ((network, length), entries) in rows {
            let entries = self.ordered_ports(entries);
            let last = entries.last().map(|(_, entry)| entry);
            if entries.len() > ENTRIES_MAX {
                self.too_many(last, ENTRIES_MAX, &format!("{network}/{length}"), problems);
            }
            let [four, six] = &mut lengths;
            let family = if network.is_ipv4() { four } else { six };
            if family.insert(length) && family.len() == LENGTHS_MAX + 1 {
                let message =
                    format!("there are more than {LENGTHS_MAX} different prefix lengths of one family");
                problems.add(Problem::nowhere(message, "write networks with fewer different lengths"));
            }
            done.push(AddressRow { network, length, entries });
        }
        done
    }

    fn abstract_rows(&self, problems: &mut Problems) -> Vec<AbstractRow> {
        let mut rows: BTreeMap<&[u8], Vec<Entry>> = BTreeMap::new();
        for rule in &self.rules {
            for name in &rule.abstract_names {
                rows.entry(name).or_default().push(Entry { effects: Effects::UNIX, ..rule.entry });
            }
        }
        rows.into_iter()
            .map(|(name, entries)| {
                let entries = self.ordered(entries);
                if entries.len() > ENTRIES_MAX {
                    self.too_many(entries.last(), ENTRIES_MAX, "the same abstract name", problems);
                }
                AbstractRow { name: name.to_vec(), entries }
            })
            .collect()
    }

    fn host_rows(&self, problems: &mut Problems) -> Vec<HostRow> {
        let mut rows: BTreeMap<(Vec<String>, bool), PortEntries> = BTreeMap::new();
        for rule in &self.rules {
            for host in &rule.hosts {
                let row = rows.entry((host.labels.clone(), host.below)).or_default();
                let connect = rule.entry.effects & Effects::NET_CONNECT;
                let dns = rule.entry.effects & Effects::DNS;
                row.extend(rule.ports.iter().map(|ports| (*ports, Entry { effects: connect, ..rule.entry })));
                row.push((Ports::ANY, Entry { effects: dns, ..rule.entry }));
            }
        }
        for entries in rows.values_mut() {
            let filled = std::mem::take(entries).into_iter().filter(|(_, entry)| !entry.effects.is_empty());
            *entries = self.ordered_ports(filled.collect());
        }
        // A resolved name gets what its own row and those of all names above say, in one cell.
        for ((labels, below), entries) in &rows {
            let above = (0..labels.len() + usize::from(*below))
                .filter_map(|skip| rows.get(&(labels.get(skip..)?.to_vec(), true)))
                .filter(|row| !std::ptr::eq(*row, entries));
            let all: usize = entries.len() + above.map(Vec::len).sum::<usize>();
            if all > ENTRIES_MAX {
                let name = labels.join(".");
                let last = entries.last().map(|(_, entry)| entry);
                self.too_many(last, ENTRIES_MAX, &format!("host {name} and the names above it"), problems);
            }
        }
        rows.into_iter().map(|((labels, below), entries)| HostRow { labels, below, entries }).collect()
    }

    fn privilege_rows(&self, problems: &mut Problems) -> Vec<(Privilege, Entry)> {
        let mut done = Vec::new();
        for privilege in Privilege::ALL {
            let rules = self.rules.iter().filter(|rule| rule.privileges.contains(privilege));
            let mut rules: Vec<_> = rules.collect();
            rules.sort_by_key(|rule| std::cmp::Reverse(rule.weight()));
            let default = self.defaults.get(&Subject::Privilege(*privilege)).copied();
            let mut kept: Vec<Entry> = Vec::new();
            for mut entry in rules.into_iter().map(|rule| rule.entry).chain(default) {
                entry.effects = Effects::empty();
                let hidden =
                    kept.iter().any(|earlier| earlier.unless.is_none() || earlier.unless == entry.unless);
                if !hidden {
                    kept.push(entry);
                }
            }
            if kept.len() > PRIVILEGE_ENTRIES_MAX {
                self.too_many(kept.last(), PRIVILEGE_ENTRIES_MAX, privilege.as_str(), problems);
            }
            done.extend(kept.into_iter().map(|entry| (*privilege, entry)));
        }
        done
    }

    /// Files whose identity is protected besides their path: those of rules that block or tell. Whole file systems and
    /// top-level directories are not: nobody can look at each of their files.
    fn identities(&self) -> Vec<Vec<u8>> {
        let speaks = |path: &&BoundPath| {
            self.rules.get(path.rule).is_some_and(|rule| rule.entry.raw_action > PolicyAction::Allow)
        };
        let mut found = BTreeSet::new();
        for path in self.paths.iter().filter(speaks) {
            if let PathKey::Anchored(key) = &path.pattern.key
                && key.len() >= IDENTITY_DEPTH_MIN
            {
                found.insert([&b"/"[..], &key.join(&b'/')].concat());
            }
        }
        found.into_iter().collect()
    }
}

#[cfg(test)]
mod tests;
