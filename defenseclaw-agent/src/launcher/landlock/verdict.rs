//! What a policy blocks for everybody: the only thing Landlock may forbid. It cannot tell executables apart, and what
//! it has closed no person can open later, so a rule with `unless` or `confirm` decides nothing here.
//!
//! Patterns about names in any directory cannot be said to Landlock either. Where they block, they are other layers'
//! work; where they allow, they make holes in what a directory blocks, and a directory with a hole stays open.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    path::Path,
    places::{Kind, Places},
};
use crate::{
    model::{Effect, Effects, PolicyAction},
    policy::image::{Entry, Image, PathKey, PathPattern, Reach},
};

/// Objects looked at in one directory tree before it counts as too large to be searched for holes.
const SEARCH_AT_MOST: usize = 256;

/// An object, or all those no pattern names.
#[derive(Clone, Copy, Debug)]
pub(super) enum Object<'a> {
    /// This one.
    At(&'a Path),
    /// Any without a pattern of its own, directly below.
    Child(&'a Path),
    /// Any without a pattern of its own, further below.
    Deep(&'a Path),
}

/// Whether an entry blocks, and will go on to.
pub(super) fn blocks(entry: &Entry) -> bool {
    entry.action == PolicyAction::Block && entry.raw_action != PolicyAction::Confirm
}

/// What rules say of one path.
type Rows<'a> = Vec<(Reach, &'a [Entry])>;

/// Rules about absolute paths, by path.
#[derive(Debug)]
pub(super) struct Verdicts<'a> {
    rows: BTreeMap<&'a [Vec<u8>], Rows<'a>>,
    holes: Vec<(&'a PathPattern, Effects)>,
    defaults: &'a [Entry],
    /// Directories that an effect is blocked in, but for holes; and the search was in vain or found one.
    porous: BTreeSet<(Path, Effect)>,
}

impl<'a> Verdicts<'a> {
    pub(super) fn new(image: &'a Image, places: &dyn Places) -> Self {
        let mut rows: BTreeMap<&[Vec<u8>], Rows<'_>> = BTreeMap::new();
        let mut holes = Vec::new();
        for row in &image.paths {
            if let PathKey::Anchored(path) = &row.pattern.key {
                rows.entry(path).or_default().push((row.pattern.reach, &row.entries));
            } else {
                let allowed = row.entries.iter().filter(|entry| !blocks(entry));
                let effects = allowed.fold(Effects::empty(), |effects, entry| effects | entry.effects);
                if !effects.is_empty() {
                    holes.push((&row.pattern, effects));
                }
            }
        }
        let mut this = Self { rows, holes, defaults: &image.defaults, porous: BTreeSet::new() };
        this.porous = this.search(places);
        this
    }

    /// Paths that rules about one of these effects name.
    pub(super) fn paths(&self, effects: Effects) -> impl Iterator<Item = Path> {
        let speaks = move |rows: &Vec<(Reach, &[Entry])>| {
            rows.iter().any(|(_, entries)| entries.iter().any(|entry| entry.effects.intersects(effects)))
        };
        self.rows.iter().filter(move |(_, rows)| speaks(rows)).map(|(path, _)| Path(path.to_vec()))
    }

    /// Whether anything blocks one of these effects somewhere.
    pub(super) fn blocks_any(&self, effects: Effects) -> bool {
        let rows = self.rows.values().flatten().flat_map(|(_, entries)| entries.iter());
        rows.chain(self.defaults).any(|entry| blocks(entry) && entry.effects.intersects(effects))
    }

    /// Whether the effect is blocked whatever executable asks.
    pub(super) fn blocked(&self, object: Object<'_>, effect: Effect) -> bool {
        for entry in self.matching(object) {
            if !entry.effects.contains(effect.into()) {
                continue;
            }
            if !blocks(entry) {
                return false;
            } else if entry.unless.is_none() {
                return true;
            }
        }
        self.blocked_by_default(effect)
    }

    /// Whether the effect is blocked where no rule speaks of it.
    pub(super) fn blocked_by_default(&self, effect: Effect) -> bool {
        let default = self.defaults.iter().find(|entry| entry.effects.contains(effect.into()));
        default.is_some_and(|entry| blocks(entry) && entry.unless.is_none())
            && !self.holes.iter().any(|(_, effects)| effects.contains(effect.into()))
    }

    /// Whether the effect is blocked at this path, or below it, but for names that are allowed in any directory.
    pub(super) fn is_porous(&self, path: &Path, effect: Effect) -> bool {
        self.porous.contains(&(path.clone(), effect))
    }

    /// Whether a pattern about names in any directory allows the effect.
    pub(super) fn has_holes(&self, effect: Effect) -> bool {
        self.holes.iter().any(|(_, effects)| effects.contains(effect.into()))
    }

    /// Whether a file may come into being at this very path because a rule names it.
    pub(super) fn is_named(&self, path: &Path) -> bool {
        self.rows
            .get(path.0.as_slice())
            .is_some_and(|rows| rows.iter().any(|(reach, _)| *reach == Reach::Exact))
    }

    /// Entries that speak of an object, the decisive first.
    fn matching(&self, object: Object<'_>) -> Vec<&'a Entry> {
        let (Object::At(path) | Object::Child(path) | Object::Deep(path)) = object;
        let mut found: Vec<(usize, u8, PolicyAction, usize, &'a Entry)> = Vec::new();
        for length in 0..=path.0.len() {
            let Some(head) = path.0.get(..length) else { continue };
            for (reach, entries) in self.rows.get(head).into_iter().flatten() {
                let rank = match reach {
                    Reach::Exact | Reach::Ancestor
                        if length == path.0.len() && matches!(object, Object::At(_)) =>
                    {
                        (length, 0)
                    }
                    Reach::Subtree => (length, 1),
                    Reach::Children if is_child(object, length) => (length + 1, 2),
                    Reach::Exact | Reach::Ancestor | Reach::Children => continue,
                };
                for (index, entry) in entries.iter().enumerate() {
                    // A directory with holes counts as open.
                    if *reach != Reach::Exact
                        && *reach != Reach::Ancestor
                        && blocks(entry)
                        && Effect::ALL.iter().any(|effect| {
                            entry.effects.contains((*effect).into())
                                && self.is_porous(&Path(head.to_vec()), *effect)
                        })
                    {
                        continue;
                    }
                    found.push((rank.0, rank.1, entry.action, index, entry));
                }
            }
        }
        found.sort_by(|one, other| {
            let depth = other.0.cmp(&one.0).then(one.1.cmp(&other.1));
            depth.then(other.2.cmp(&one.2)).then(one.3.cmp(&other.3))
        });
        found.into_iter().map(|(.., entry)| entry).collect()
    }

    fn search(&self, places: &dyn Places) -> BTreeSet<(Path, Effect)> {
        let mut porous = BTreeSet::new();
        for (path, rows) in &self.rows {
            let path = Path(path.to_vec());
            let regions = rows.iter().filter(|(reach, _)| matches!(reach, Reach::Subtree | Reach::Children));
            let entries = regions.flat_map(|(_, entries)| entries.iter()).filter(|entry| blocks(entry));
            let effects = entries.fold(Effects::empty(), |effects, entry| effects | entry.effects);
            for effect in Effect::ALL.iter().filter(|effect| effects.contains((**effect).into())) {
                let holes = self.holes.iter().filter(|(_, effects)| effects.contains((*effect).into()));
                let holes: Vec<&PathPattern> = holes.map(|(pattern, _)| *pattern).collect();
                let mut left = SEARCH_AT_MOST;
                if !holes.is_empty() && !search_in(&path, &holes, places, &mut left) {
                    porous.insert((path.clone(), *effect));
                }
            }
        }
        porous
    }
}

fn is_child(object: Object<'_>, length: usize) -> bool {
    match object {
        Object::At(path) => length + 1 == path.0.len(),
        Object::Child(path) => length == path.0.len(),
        Object::Deep(_) => false,
    }
}

/// Whether nothing at or below `path` has one of these names. False, too, if there is too much to look at.
fn search_in(path: &Path, holes: &[&PathPattern], places: &dyn Places, left: &mut usize) -> bool {
    if holes.iter().any(|hole| matches(hole, path)) {
        return false;
    }
    if places.kind(path) != Kind::Directory {
        return true;
    }
    let Some(entries) = places.entries(path, *left) else { return false };
    *left = left.saturating_sub(entries.len());
    entries.keys().all(|name| *left > 0 && search_in(&path.join(name), holes, places, left))
}

/// Whether a pattern about names in any directory speaks of this path.
fn matches(pattern: &PathPattern, path: &Path) -> bool {
    let n = path.0.len();
    let ends_at = |last: usize| match &pattern.key {
        PathKey::Name(name) => path.0.get(last) == Some(name),
        PathKey::Pair(directory, name) => {
            last > 0 && path.0.get(last) == Some(name) && path.0.get(last - 1) == Some(directory)
        }
        PathKey::Extension(extension) => path.0.get(last).is_some_and(|name| {
            name.iter()
                .rposition(|byte| *byte == b'.')
                .is_some_and(|dot| name.get(dot + 1..) == Some(extension.as_slice()))
        }),
        PathKey::Anchored(_) => false,
    };
    match (&pattern.key, pattern.reach) {
        (PathKey::Extension(_), _) | (_, Reach::Exact | Reach::Ancestor) => n > 0 && ends_at(n - 1),
        (_, Reach::Children) => n > 1 && ends_at(n - 2),
        (_, Reach::Subtree) => (0..n).any(ends_at),
    }
}
