//! Entries about paths, by what is looked up, in the order in which the kernel takes the first that fits.

use std::{cmp::Reverse, collections::BTreeMap};

use super::alias::PathEntries;
use crate::{
    model::Effects,
    policy::{
        self,
        image::{Entry, Image, PathKey, Reach},
    },
};

/// Entries of one key.
pub(super) type Said = Vec<(Reach, Entry)>;

/// Entries by key, as they stand in cells. A directory that holds protected files is judged for its own sake and for
/// theirs, and the stricter holds; the kernel takes the first entry of the cell, so that is settled here.
pub(super) fn all(image: &Image) -> BTreeMap<&PathKey, Said> {
    let paths = PathEntries::new(image);
    let mut cells: BTreeMap<&PathKey, Said> = policy::lookup::cells(image);
    for said in cells.values_mut() {
        said.retain(|(reach, _)| *reach != Reach::Ancestor);
    }
    for row in image.paths.iter().filter(|row| row.pattern.reach == Reach::Ancestor) {
        let PathKey::Anchored(key) = &row.pattern.key else { continue };
        let Some(weakest) = row.entries.iter().map(|entry| entry.raw_action).min() else { continue };
        let default = image.defaults.iter().filter(|entry| entry.effects.contains(Effects::FILE_DELETE));
        let for_itself = paths.of(&path(key)).into_iter().chain(default.copied());
        let stricter = for_itself
            .filter(|entry| entry.effects.contains(Effects::FILE_DELETE) && entry.raw_action > weakest)
            .map(|entry| Entry { effects: Effects::FILE_DELETE, ..entry });
        let mut first: Vec<Entry> = row.entries.iter().copied().chain(stricter).collect();
        first.sort_by_key(|entry| Reverse(entry.raw_action));
        // What follows an entry that spares nobody is never reached.
        let end = first.iter().position(|entry| entry.unless.is_none()).map_or(first.len(), |at| at + 1);
        first.truncate(end);
        let cell = cells.entry(&row.pattern.key).or_default();
        cell.splice(0..0, first.into_iter().map(|entry| (Reach::Ancestor, entry)));
    }
    cells
}

fn path(components: &[Vec<u8>]) -> Vec<u8> {
    components.iter().fold(Vec::new(), |mut path, component| {
        path.push(b'/');
        path.extend_from_slice(component);
        path
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        enforce::sample,
        model::PolicyAction::{self, Alert, Allow, Block},
        policy::image::Unless,
    };

    fn entry(action: PolicyAction) -> Entry {
        Entry { action, raw_action: action, effects: Effects::FILE_DELETE, ..sample::entry(0) }
    }

    #[test]
    fn a_directory_that_holds_protected_files_is_judged_for_their_sake_too() {
        use Reach::{Ancestor, Children, Exact, Subtree};
        type Row = (&'static str, Reach, PolicyAction);
        let cases: [(&[Row], PolicyAction); 9] = [
            (&[("/d", Subtree, Allow), ("/d", Ancestor, Block)], Block),
            (&[("/d", Subtree, Block), ("/d", Ancestor, Alert)], Block),
            (&[("/d", Exact, Allow), ("/d", Subtree, Block), ("/d", Ancestor, Alert)], Alert),
            (&[("/d", Exact, Block), ("/d", Ancestor, Alert)], Block),
            (&[("/d", Exact, Allow), ("/d", Subtree, Block)], Allow),
            (&[("/d", Subtree, Block), ("/d", Children, Allow)], Block),
            (&[("/", Subtree, Block), ("/d", Ancestor, Alert)], Block),
            (&[("/", Children, Block), ("/d", Ancestor, Alert)], Block),
            (&[("/", Subtree, Block), ("/d", Subtree, Allow), ("/d", Ancestor, Alert)], Alert),
        ];
        for (said, expected) in cases {
            let rows =
                said.iter().map(|(path, reach, action)| sample::row(path, *reach, vec![entry(*action)]));
            let image = Image { paths: rows.collect(), ..Image::default() };
            let cells = all(&image);
            let cell = &cells[&sample::anchored("/d")];
            let first = cell.iter().find(|(reach, _)| *reach != Children).unwrap();
            assert_eq!(first.1.action, expected, "{said:?}");
        }
    }

    #[test]
    fn a_default_counts_as_well() {
        let image = Image {
            paths: vec![sample::row("/d", Reach::Ancestor, vec![entry(Alert)])],
            defaults: vec![entry(Block)],
            ..Image::default()
        };
        assert_eq!(all(&image)[&sample::anchored("/d")][0].1.action, Block);
    }

    #[test]
    fn what_floats_has_one_rank_and_what_is_anchored_two() {
        let spared = |action, rule| Entry { unless: Some(Unless::Executable(0)), rule, ..entry(action) };
        for (key, expected) in [(PathKey::Name(b"n".to_vec()), [1, 0]), (sample::anchored("/n"), [0, 1])] {
            let mut rows = [
                sample::row("/", Reach::Exact, vec![spared(Alert, 0)]),
                sample::row("/", Reach::Subtree, vec![spared(Block, 1)]),
            ];
            for row in &mut rows {
                row.pattern.key = key.clone();
            }
            let image = Image { paths: rows.to_vec(), ..Image::default() };
            let rules: Vec<_> = all(&image)[&key].iter().map(|(_, entry)| entry.rule).collect();
            assert_eq!(rules, expected);
        }
    }
}
