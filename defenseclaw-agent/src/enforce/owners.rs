//! Sets of executables that rules spare, numbered across all profiles. The list only grows: a process carries its sets
//! as bits of its label, and a number that changed its meaning would spare the wrong ones.

use std::collections::BTreeMap;

use defenseclaw_ebpf::image::{self as abi, Cell, Key, SHARED, class};

use super::{EnforceError, hashes, words};
use crate::policy::image::{Entry, Image, PathKey, PathPattern, Reach};

/// Sets at most: [`abi::Entry::unless`] has seven bits, and a label one bit for each set.
pub(super) const SETS_MAX: usize = 63;

/// Hash and class of an owner cell.
pub(super) type OwnerKey = (u64, u32);
/// One word each for exact, children and subtree, with a bit for each set.
pub(super) type Masks = [u64; 3];

/// Every set that any policy has named so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Registry {
    sets: Vec<Vec<PathPattern>>,
    /// What another process has numbered before: its masks stay, and its numbers are not used again, because processes
    /// carry them.
    before: BTreeMap<OwnerKey, Masks>,
}

/// Numbers of the sets of one image, by their index there, or why a set has none.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers(Vec<Result<u8, Unnumbered>>);

/// Why a set has no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unnumbered {
    TooMany,
    NotHeld,
}

impl Numbers {
    /// Those that were numbered.
    pub(super) fn of_sets(&self) -> Vec<Option<u8>> {
        self.0.iter().map(|number| number.ok()).collect()
    }

    /// As they were when the image was installed.
    pub(super) fn known(sets: &[Option<u8>]) -> Self {
        Self(sets.iter().map(|number| number.ok_or(Unnumbered::NotHeld)).collect())
    }

    /// The number of a set.
    pub(super) fn number(&self, image: &Image, entry: &Entry, set: u8) -> Result<u8, EnforceError> {
        let Self(numbers) = self;
        match numbers.get(usize::from(set)) {
            Some(Ok(number)) => Ok(*number),
            Some(Err(Unnumbered::NotHeld)) => Err(words::refuse(
                image,
                entry,
                "executables in `unless` are named by path, by name, or by directory and name; extensions and directories \
                 anywhere cannot be held",
            )),
            Some(Err(Unnumbered::TooMany)) => Err(words::refuse(
                image,
                entry,
                format!(
                    "more than {SETS_MAX} different lists of executables in `unless` since the start; use the same list \
                     in several rules, or start again"
                ),
            )),
            None => Err(words::refuse(
                image,
                entry,
                format!("it spares executables of list {set}, which is missing"),
            )),
        }
    }
}

impl Registry {
    /// Goes on from the rows in the map.
    pub(super) fn resume(before: BTreeMap<OwnerKey, Masks>) -> Self {
        Self { sets: Vec::new(), before }
    }

    /// Bits whose meaning is known to the kernel alone.
    pub(super) fn inherited(&self) -> u64 {
        self.before.values().flatten().fold(0, |all, mask| all | mask)
    }

    /// If the sets of this image, numbered from 0, are what stands in the map, their numbers mean what they meant before.
    pub(super) fn recognise(&mut self, image: &Image, seed: u64) {
        if self.sets.is_empty() && !self.before.is_empty() {
            let mut same = Self::default();
            same.register(image);
            if same.rows(seed) == self.before {
                *self = same;
            }
        }
    }

    /// Numbers the sets of an image; equal sets share a number.
    pub(super) fn register(&mut self, image: &Image) -> Numbers {
        let first = SETS_MAX.min(usize::try_from(u64::BITS - self.inherited().leading_zeros()).unwrap_or(0));
        let numbers = image.owners.iter().map(|patterns| {
            if !patterns.iter().all(is_held) {
                return Err(Unnumbered::NotHeld);
            }
            let mut set = patterns.clone();
            set.sort_unstable();
            set.dedup();
            let known = self.sets.iter().position(|known| *known == set);
            let number = known.or_else(|| {
                (first + self.sets.len() < SETS_MAX).then(|| {
                    self.sets.push(set);
                    self.sets.len() - 1
                })
            });
            number.and_then(|number| u8::try_from(first + number).ok()).ok_or(Unnumbered::TooMany)
        });
        Numbers(numbers.collect())
    }

    fn numbered(&self) -> impl Iterator<Item = (u32, &Vec<PathPattern>)> {
        (u64::BITS - self.inherited().leading_zeros()..).zip(&self.sets)
    }

    /// Masks of sets by key, one word each for exact, children and subtree.
    pub(super) fn rows(&self, seed: u64) -> BTreeMap<OwnerKey, Masks> {
        let mut rows = self.before.clone();
        for (number, patterns) in self.numbered() {
            for pattern in patterns {
                let (hash, class) = hashes::path(seed, &pattern.key);
                let words = rows.entry((hash, class | class::OWNER)).or_default();
                let [exact, children, subtree] = words;
                *match pattern.reach {
                    Reach::Exact | Reach::Ancestor => exact,
                    Reach::Children => children,
                    Reach::Subtree => subtree,
                } |= 1 << number;
            }
        }
        rows
    }

    /// Sets that an executable belongs to.
    pub(super) fn mask(&self, exe: &[u8]) -> u64 {
        let components: Vec<&[u8]> =
            exe.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
        let mut mask = 0;
        for (number, patterns) in self.numbered() {
            if patterns.iter().any(|pattern| matches(pattern, &components)) {
                mask |= 1 << number;
            }
        }
        mask
    }
}

/// Whether the kernel looks for it when a program starts.
fn is_held(pattern: &PathPattern) -> bool {
    match (&pattern.key, pattern.reach) {
        (PathKey::Anchored(_), Reach::Exact | Reach::Children | Reach::Subtree) => true,
        (PathKey::Name(_) | PathKey::Pair(..), reach) => reach == Reach::Exact,
        (PathKey::Anchored(_), Reach::Ancestor) | (PathKey::Extension(_), _) => false,
    }
}

/// Whether a path has a prefix that is the pattern's key, with what its reach allows behind it.
fn matches(pattern: &PathPattern, path: &[&[u8]]) -> bool {
    let reaches = |end: usize| match pattern.reach {
        Reach::Exact | Reach::Ancestor => end == path.len(),
        Reach::Children => end + 1 == path.len(),
        Reach::Subtree => end <= path.len(),
    };
    match &pattern.key {
        PathKey::Anchored(key) => {
            key.len() <= path.len()
                && key.iter().zip(path).all(|(key, part)| key.as_slice() == *part)
                && reaches(key.len())
        }
        PathKey::Name(name) => {
            path.iter().enumerate().any(|(at, part)| name.as_slice() == *part && reaches(at + 1))
        }
        PathKey::Pair(directory, name) => path.windows(2).enumerate().any(|(at, pair)| {
            matches!(pair, [first, second] if directory.as_slice() == *first && name.as_slice() == *second)
                && reaches(at + 2)
        }),
        PathKey::Extension(_) => false,
    }
}

/// A row of the map.
pub(super) fn row((hash, class): OwnerKey, masks: Masks) -> (Key, Cell) {
    let mut cell = Cell::default();
    for (entry, mask) in cell.entries.iter_mut().zip(masks) {
        *entry = from_word(mask);
    }
    (Key { hash, class, slot: SHARED }, cell)
}

/// Likewise, the other way round.
pub(super) fn masks(cell: &Cell) -> Masks {
    let [exact, children, subtree, ..] = cell.entries;
    [exact, children, subtree].map(to_word)
}

fn to_word(entry: abi::Entry) -> u64 {
    let [e0, e1] = entry.effects.to_ne_bytes();
    let [r0, r1] = entry.rule.to_ne_bytes();
    u64::from_ne_bytes([e0, e1, r0, r1, entry.action, entry.raw_and_reach, entry.unless, entry.flags])
}

/// The kernel loads an entry of an owner cell as one word.
fn from_word(word: u64) -> abi::Entry {
    let [e0, e1, r0, r1, action, raw_and_reach, unless, flags] = word.to_ne_bytes();
    abi::Entry {
        effects: u16::from_ne_bytes([e0, e1]),
        rule: u16::from_ne_bytes([r0, r1]),
        action,
        raw_and_reach,
        unless,
        flags,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(key: PathKey, reach: Reach) -> PathPattern {
        PathPattern { key, reach }
    }

    fn anchored(path: &str) -> PathKey {
        PathKey::Anchored(
            path.split('/').filter(|part| !part.is_empty()).map(|part| part.as_bytes().to_vec()).collect(),
        )
    }

    fn image(sets: Vec<Vec<PathPattern>>) -> Image {
        Image { owners: sets, ..Image::default() }
    }

    #[test]
    fn numbers_stay_whatever_comes_later() {
        let [git, ssh, npm] = ["/usr/bin/git", "/usr/bin/ssh", "/usr/bin/npm"]
            .map(|path| pattern(anchored(path), Reach::Exact));
        let mut registry = Registry::default();
        let first = registry.register(&image(vec![vec![git.clone()], vec![ssh.clone(), git.clone()]]));
        let second =
            registry.register(&image(vec![vec![npm], vec![git.clone(), ssh, git.clone()], vec![git]]));
        assert_eq!(first.0, [Ok(0), Ok(1)]);
        assert_eq!(second.0, [Ok(2), Ok(1), Ok(0)]);
        assert_eq!(registry.mask(b"/usr/bin/git"), 0b011);
        assert_eq!(registry.mask(b"/usr/bin/ssh"), 0b010);
        assert_eq!(registry.mask(b"/usr/bin/git2"), 0);
    }

    #[test]
    fn a_path_belongs_to_the_sets_that_its_prefixes_name() {
        let cases = [
            (anchored("/opt/x"), Reach::Subtree, "/opt/x/bin/tool", true),
            (anchored("/opt/x"), Reach::Subtree, "/opt/x", true),
            (anchored("/opt/x"), Reach::Subtree, "/opt/xy", false),
            (anchored("/opt/x"), Reach::Children, "/opt/x/tool", true),
            (anchored("/opt/x"), Reach::Children, "/opt/x/bin/tool", false),
            (anchored("/"), Reach::Subtree, "/any", true),
            (PathKey::Name(b"node".to_vec()), Reach::Exact, "/usr/local/bin/node", true),
            (PathKey::Name(b"node".to_vec()), Reach::Exact, "/node/bin/x", false),
            (PathKey::Name(b"node".to_vec()), Reach::Subtree, "/node/bin/x", false),
            (PathKey::Pair(b"bin".to_vec(), b"pip".to_vec()), Reach::Exact, "/v/bin/pip", true),
            (PathKey::Pair(b"bin".to_vec(), b"pip".to_vec()), Reach::Exact, "/v/sbin/pip", false),
            (PathKey::Extension(b"sh".to_vec()), Reach::Exact, "/a/b.sh", false),
        ];
        for (key, reach, path, expected) in cases {
            let name = format!("{key:?} {reach:?} {path}");
            let mut registry = Registry::default();
            registry.register(&image(vec![vec![pattern(key, reach)]]));
            assert_eq!(registry.mask(path.as_bytes()) == 1, expected, "{name}");
        }
    }

    #[test]
    fn the_set_too_many_is_refused_by_the_rule_that_needs_it() {
        let sets = (0..=SETS_MAX).map(|n| vec![pattern(anchored(&format!("/bin/{n}")), Reach::Exact)]);
        let image = image(sets.collect());
        let numbers = Registry::default().register(&image);
        let entry = crate::enforce::sample::entry(7);
        assert_eq!(numbers.number(&image, &entry, 62).unwrap(), 62);
        let error = numbers.number(&image, &entry, 63).unwrap_err();
        assert!(matches!(error, EnforceError::Rule { rule, .. } if rule == "number 7"));
    }

    #[test]
    fn whoever_goes_on_gives_no_number_a_second_meaning() {
        let [git, ssh, npm] = ["/usr/bin/git", "/usr/bin/ssh", "/usr/bin/npm"]
            .map(|path| pattern(anchored(path), Reach::Exact));
        let mut before = Registry::default();
        let first = image(vec![vec![git.clone()], vec![ssh.clone()]]);
        before.register(&first);
        let rows = before.rows(7);

        let mut same = Registry::resume(rows.clone());
        same.recognise(&first, 7);
        assert_eq!(same.register(&first).0, [Ok(0), Ok(1)]);
        assert_eq!((same.inherited(), same.rows(7)), (0, rows.clone()));

        for other in [image(vec![vec![ssh.clone()], vec![git.clone()]]), image(vec![vec![git.clone(), npm]])]
        {
            let mut registry = Registry::resume(rows.clone());
            registry.recognise(&other, 7);
            let Numbers(numbers) = registry.register(&other);
            assert!(numbers.iter().all(|number| matches!(number, Ok(2..))), "{numbers:?}");
            assert_eq!(registry.inherited(), 0b11);
            // Whoever was spared before still is, by the rows that were there.
            let key = (hashes::path(7, &git.key).0, hashes::path(7, &git.key).1 | class::OWNER);
            assert_eq!(registry.rows(7)[&key][0] & 0b11, rows[&key][0]);
            assert_eq!(registry.mask(b"/usr/bin/git") & 0b11, 0);
            assert_ne!(registry.mask(b"/usr/bin/git"), 0);
        }
    }

    #[test]
    fn a_cell_reads_back() {
        let given = [1, 1 << 62 | 2, u64::MAX >> 1];
        let (_, cell) = row((5, class::SINGLE | class::OWNER), given);
        assert_eq!(masks(&cell), given);
    }

    #[test]
    fn masks_are_words_of_the_cell() {
        let (key, cell) = row((5, class::SINGLE | class::OWNER), [1, 1 << 62 | 2, u64::MAX >> 1]);
        assert_eq!(key.slot, SHARED);
        // SAFETY: a cell is 96 bytes without padding.
        let words: [u64; 12] = unsafe { std::mem::transmute(cell) };
        assert_eq!(words[..4], [1, 1 << 62 | 2, u64::MAX >> 1, 0]);
    }
}
