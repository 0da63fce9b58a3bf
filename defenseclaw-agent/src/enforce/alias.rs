//! What policy says of one path, as a list: for the file's inode, which is judged like the path it is protected under.

use std::collections::HashMap;

use super::cells::{self, Said};
use crate::{
    model::{Effects, PolicyAction},
    policy::image::{Entry, Image, PathKey, Reach},
};

/// The path rows of an image, by what is looked up.
#[derive(Debug)]
pub struct PathEntries<'a>(HashMap<&'a PathKey, Said>);

impl<'a> PathEntries<'a> {
    /// Of this image.
    pub fn new(image: &'a Image) -> Self {
        Self(cells::own(image))
    }

    /// Entries that say something of a path, given by its components, the decisive first, without what never comes to bear.
    pub fn of(&self, parts: &[Vec<u8>]) -> Vec<Entry> {
        let mut said = Vec::new();
        // As the kernel asks, from the last answer that counts to the first.
        for depth in (0..=parts.len()).rev() {
            let last = depth == parts.len();
            let here: &[Reach] = if last { &[Reach::Exact, Reach::Subtree] } else { &[Reach::Subtree] };
            let prefix = parts.get(..depth).unwrap_or_default();
            self.take(&mut said, &PathKey::Anchored(prefix.to_vec()), here);
            if let [.., directory, name] = prefix {
                self.take(&mut said, &PathKey::Pair(directory.clone(), name.clone()), here);
            }
            if let [above @ .., name] = prefix {
                self.take(&mut said, &PathKey::Name(name.clone()), here);
                if last {
                    if let Some(dot) = name.iter().rposition(|byte| *byte == b'.') {
                        let extension = name.get(dot + 1..).unwrap_or_default().to_vec();
                        self.take(&mut said, &PathKey::Extension(extension), here);
                    }
                    self.take(&mut said, &PathKey::Anchored(above.to_vec()), &[Reach::Children]);
                }
            }
        }
        without_shadowed(said)
    }

    fn take(&self, said: &mut Vec<Entry>, key: &PathKey, reaches: &[Reach]) {
        let Self(rows) = self;
        let found = rows.get(key).into_iter().flatten();
        said.extend(found.filter(|(reach, _)| reaches.contains(reach)).map(|(_, entry)| *entry));
    }
}

/// Components of a path.
pub fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect()
}

/// Leaves out what an entry before it that spares nobody has already answered, and permissions at the end.
fn without_shadowed(said: Vec<Entry>) -> Vec<Entry> {
    let mut answered = Effects::empty();
    let mut left: Vec<Entry> = Vec::new();
    for mut entry in said {
        entry.effects.remove(answered);
        if entry.effects.is_empty() || left.contains(&entry) {
            continue;
        }
        if entry.unless.is_none() {
            answered |= entry.effects;
        }
        left.push(entry);
    }
    while left.last().is_some_and(|entry| entry.action == PolicyAction::Allow) {
        left.pop();
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        enforce::sample,
        policy::image::{PathPattern, PathRow, Unless},
    };

    fn said(rows: Vec<PathRow>, path: &str) -> Vec<u16> {
        let image = Image { paths: rows, ..Image::default() };
        PathEntries::new(&image).of(&components(path.as_bytes())).iter().map(|entry| entry.rule).collect()
    }

    fn floating(key: PathKey, reach: Reach, rule: u16) -> PathRow {
        PathRow { pattern: PathPattern { key, reach }, entries: vec![spared(rule)] }
    }

    /// Spares somebody, so that it hides nothing.
    fn spared(rule: u16) -> Entry {
        Entry { unless: Some(Unless::Executable(0)), ..sample::entry(rule) }
    }

    #[test]
    fn the_deepest_comes_first() {
        let rows = vec![
            sample::row("/", Reach::Subtree, vec![spared(0)]),
            sample::row("/h/u", Reach::Subtree, vec![spared(1)]),
            sample::row("/h/u/.ssh", Reach::Children, vec![spared(2)]),
            floating(PathKey::Extension(b"pem".to_vec()), Reach::Exact, 3),
            floating(PathKey::Name(b".ssh".to_vec()), Reach::Subtree, 4),
            floating(PathKey::Name(b"k.pem".to_vec()), Reach::Exact, 5),
            floating(PathKey::Pair(b".ssh".to_vec(), b"k.pem".to_vec()), Reach::Exact, 6),
            sample::row("/h/u/.ssh/k.pem", Reach::Subtree, vec![spared(7)]),
            sample::row("/h/u/.ssh/k.pem", Reach::Exact, vec![spared(8)]),
            sample::row("/h/u/.sshx", Reach::Subtree, vec![spared(9)]),
        ];
        assert_eq!(said(rows.clone(), "/h/u/.ssh/k.pem"), [8, 7, 6, 5, 3, 2, 4, 1, 0]);
        assert_eq!(said(rows.clone(), "/h/u/.ssh"), [4, 1, 0]);
        assert_eq!(said(rows, "/"), [0]);
    }

    #[test]
    fn what_never_comes_to_bear_takes_no_room() {
        let write = Entry { effects: Effects::FILE_READ | Effects::FILE_WRITE, ..sample::entry(2) };
        let allow = Entry { action: PolicyAction::Allow, effects: Effects::EXEC, ..sample::entry(3) };
        let rows = vec![
            sample::row("/a/b", Reach::Exact, vec![sample::entry(0)]),
            sample::row("/a", Reach::Subtree, vec![sample::entry(1), write, allow]),
        ];
        let image = Image { paths: rows, ..Image::default() };
        let left = PathEntries::new(&image).of(&components(b"/a/b"));
        let left: Vec<_> = left.iter().map(|entry| (entry.rule, entry.effects)).collect();
        assert_eq!(left, [(0, Effects::FILE_READ), (2, Effects::FILE_WRITE)]);
    }
}
