//! What the kernel and the resolver do with an [`Image`], over its rows: the same lookups in the same order. Not used to
//! decide anything; tests hold [`evaluate`](super::evaluate) and the kernel to it, and `enforce` takes cells from here.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use super::{
    evaluate::{spares, stricter},
    image::{Entry, HostRow, Image, PathKey, Ports, Reach},
    network::{canonical, cut, labels},
    object::{Actor, Object},
    pattern,
};
use crate::model::{Effect, Effects, PolicyAction};

/// Entries by key of path, in the order in which the kernel tries them: exact before subtree of an absolute path,
/// stricter first otherwise.
pub fn cells(image: &Image) -> BTreeMap<&PathKey, Vec<(Reach, Entry)>> {
    let mut cells: BTreeMap<&PathKey, Vec<(Reach, Entry)>> = BTreeMap::new();
    for row in &image.paths {
        let cell = cells.entry(&row.pattern.key).or_default();
        cell.extend(row.entries.iter().map(|entry| (row.pattern.reach, *entry)));
    }
    for (key, cell) in &mut cells {
        let anchored = matches!(key, PathKey::Anchored(_));
        cell.sort_by_key(|(reach, entry)| {
            let severity = image.rules.get(usize::from(entry.rule)).map(|rule| rule.severity);
            (
                // Entries of floating keys have one rank, whatever they reach.
                (anchored || *reach == Reach::Children).then_some(*reach),
                std::cmp::Reverse((entry.raw_action, severity)),
                entry.rule,
            )
        });
    }
    cells
}

/// What a resolved name permits or forbids, in the order of precedence: the name itself, then the names above, the
/// nearest first.
pub fn host_entries(image: &Image, name: &str) -> Vec<(Ports, Entry)> {
    let Some(labels) = labels(name) else { return Vec::new() };
    let fits =
        |row: &&HostRow| labels.ends_with(&row.labels) && (labels.len() > row.labels.len()) == row.below;
    let mut rows: Vec<_> = image.hosts.iter().filter(fits).collect();
    rows.sort_by_key(|row| std::cmp::Reverse((!row.below, row.labels.len())));
    rows.into_iter().flat_map(|row| row.entries.iter().copied()).collect()
}

/// An image, ready to be asked.
#[derive(Debug)]
pub struct Lookup<'a> {
    image: &'a Image,
    cells: HashMap<&'a PathKey, Vec<(Reach, Entry)>>,
    networks: HashMap<(IpAddr, u8), &'a [(Ports, Entry)]>,
}

impl<'a> Lookup<'a> {
    /// Prepares an image.
    pub fn new(image: &'a Image) -> Self {
        let networks =
            image.addresses.iter().map(|row| ((row.network, row.length), row.entries.as_slice())).collect();
        Self { image, cells: cells(image).into_iter().collect(), networks }
    }

    /// The decisive entry; none if nothing was said, which allows.
    pub fn judge(&self, actor: Actor<'_>, object: &Object<'_>) -> Option<Entry> {
        match *object {
            Object::Path(effect, path) => match pattern::components(path) {
                Some(path) => self.path(actor, effect, &path),
                None => self.image.unresolved,
            },
            Object::Unresolved(_) => self.image.unresolved,
            Object::Abstract(name) => {
                let row = self.image.abstract_names.iter().find(|row| row.name == name);
                let entries = row.map(|row| row.entries.as_slice()).unwrap_or_default();
                let found = entries.iter().copied().find(|entry| self.speaks(entry, Effects::UNIX, actor));
                found.or_else(|| self.default(Effects::UNIX))
            }
            Object::Address { effect, address, port, name } => {
                let name = name.filter(|_| effect == Effect::NetConnect);
                self.address(actor, effect.into(), canonical(address), port, name)
            }
            Object::Name(name) => {
                if labels(name).is_none() {
                    return self.image.unresolved;
                }
                let entries = host_entries(self.image, name);
                let found = entries.into_iter().find(|(_, entry)| self.speaks(entry, Effects::DNS, actor));
                found.map(|(_, entry)| entry).or_else(|| self.default(Effects::DNS))
            }
            // No layer below the hooks knows texts.
            Object::Content(..) => None,
            Object::Privilege(privilege) => self
                .image
                .privileges
                .iter()
                .filter(|(about, _)| *about == privilege)
                .map(|(_, entry)| *entry)
                .find(|entry| !spares(&self.image.owners, entry.unless, actor)),
        }
    }

    fn speaks(&self, entry: &Entry, effects: Effects, actor: Actor<'_>) -> bool {
        entry.effects.contains(effects) && !spares(&self.image.owners, entry.unless, actor)
    }

    fn default(&self, effects: Effects) -> Option<Entry> {
        self.image.defaults.iter().copied().find(|entry| entry.effects.contains(effects))
    }

    fn path(&self, actor: Actor<'_>, effect: Effect, path: &[&[u8]]) -> Option<Entry> {
        let effects = Effects::from(effect);
        let found = self.said_of(path).into_iter().find(|entry| self.speaks(entry, effects, actor));
        let found = found.or_else(|| self.default(effects));
        if effect != Effect::FileDelete {
            return found;
        }
        // The directory itself, because of what is below it.
        let above = self.cells.get(&anchored(path)).into_iter().flatten();
        let above = above.filter(|(reach, _)| *reach == Reach::Ancestor).map(|(_, entry)| *entry);
        stricter(found, above.into_iter().find(|entry| self.speaks(entry, effects, actor)))
    }

    /// All that is said of a path, the decisive first: what a file is known by when its path is not. None if the path
    /// cannot be judged.
    pub fn entries(&self, path: &[u8]) -> Option<Vec<Entry>> {
        pattern::components(path).map(|path| self.said_of(&path))
    }

    fn said_of(&self, path: &[&[u8]]) -> Vec<Entry> {
        let mut found = Vec::new();
        let mut add = |key: Option<PathKey>, reaches: &dyn Fn(Reach) -> bool| {
            let cell = key.and_then(|key| self.cells.get(&key)).into_iter().flatten();
            found.extend(cell.filter(|(reach, _)| reaches(*reach)).map(|(_, entry)| *entry));
        };
        for depth in (0..=path.len()).rev() {
            let here = path.get(..depth).unwrap_or_default();
            let last = depth == path.len();
            let own = |reach| reach == Reach::Subtree || last && reach == Reach::Exact;
            add(Some(anchored(here)), &own);
            add(pair(here), &own);
            add(name(here), &own);
            if let Some((_, parent)) = here.split_last().filter(|_| last) {
                add(pattern::extension(here).map(|name| PathKey::Extension(name.to_vec())), &own);
                add(Some(anchored(parent)), &|reach| reach == Reach::Children);
            }
        }
        found
    }

    fn address(
        &self,
        actor: Actor<'_>,
        effects: Effects,
        address: IpAddr,
        port: u16,
        name: Option<&str>,
    ) -> Option<Entry> {
        let fits =
            |(ports, entry): &&(Ports, Entry)| ports.contains(port) && self.speaks(entry, effects, actor);
        let prefix = |length: u8| {
            let row = self.networks.get(&(cut(address, length), length))?;
            row.iter().find(fits).map(|(_, entry)| *entry)
        };
        let full = if address.is_ipv4() { 32 } else { 128 };
        prefix(full)
            .or_else(|| {
                let entries = host_entries(self.image, name?);
                entries.iter().find(fits).map(|(_, entry)| *entry)
            })
            .or_else(|| (0..full).rev().find_map(prefix))
            .or_else(|| self.default(effects))
    }
}

fn anchored(path: &[&[u8]]) -> PathKey {
    PathKey::Anchored(path.iter().map(|part| part.to_vec()).collect())
}

fn name(path: &[&[u8]]) -> Option<PathKey> {
    path.last().map(|name| PathKey::Name(name.to_vec()))
}

fn pair(path: &[&[u8]]) -> Option<PathKey> {
    match path {
        [.., directory, name] => Some(PathKey::Pair(directory.to_vec(), name.to_vec())),
        _ => None,
    }
}

/// Whether an answer lets the operation happen.
pub fn lets_through(answer: Option<Entry>) -> bool {
    answer.is_none_or(|entry| entry.action < PolicyAction::Confirm)
}

#[cfg(test)]
mod tests;
