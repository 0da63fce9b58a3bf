//! What policy says of one path, as a list: for the file's inode, which is judged like the path it is protected under.

use crate::{
    model::{Effects, PolicyAction},
    policy::{
        image::{Entry, Image},
        lookup::Lookup,
    },
};

/// What an image says of paths.
#[derive(Debug)]
pub struct PathEntries<'a>(Lookup<'a>);

impl<'a> PathEntries<'a> {
    /// Of this image.
    pub fn new(image: &'a Image) -> Self {
        Self(Lookup::new(image))
    }

    /// Entries that say something of a path, the decisive first, without what never comes to bear.
    pub fn of(&self, path: &[u8]) -> Vec<Entry> {
        let Self(lookup) = self;
        without_shadowed(lookup.entries(path).unwrap_or_default())
    }
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
    use crate::{enforce::sample, policy::image::Reach};

    #[test]
    fn what_never_comes_to_bear_takes_no_room() {
        let write = Entry { effects: Effects::FILE_READ | Effects::FILE_WRITE, ..sample::entry(2) };
        let allow = Entry { action: PolicyAction::Allow, effects: Effects::EXEC, ..sample::entry(3) };
        let rows = vec![
            sample::row("/a/b", Reach::Exact, vec![sample::entry(0)]),
            sample::row("/a", Reach::Subtree, vec![sample::entry(1), write, allow]),
        ];
        let image = Image { paths: rows, ..Image::default() };
        let left = PathEntries::new(&image).of(b"/a/b");
        let left: Vec<_> = left.iter().map(|entry| (entry.rule, entry.effects)).collect();
        assert_eq!(left, [(0, Effects::FILE_READ), (2, Effects::FILE_WRITE)]);
    }
}
