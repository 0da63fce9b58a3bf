//! For random policies and file systems: a plan never closes what policy leaves open, and closes what it claims to
//! hold. The verdict is worked out here once more, the slow way.

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 3] = ["a", "b", "c"];

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&NAMES[..]), 1..4)
        .prop_map(|names| format!("/{}", names.join("/")))
}

fn pattern() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => path(),
        6 => path().prop_map(|path| format!("{path}/**")),
        2 => path().prop_map(|path| format!("{path}/*")),
        1 => prop::sample::select(&["**/a", "**/b/**", "**/a/c"][..]).prop_map(str::to_owned),
    ]
}

fn effects() -> impl Strategy<Value = Effects> {
    prop_oneof![
        Just(Effects::FILE_READ),
        Just(CHANGE),
        Just(CHANGE | Effects::FILE_READ),
        Just(Effects::FILE_WRITE),
        Just(Effects::FILE_CREATE | Effects::FILE_DELETE),
    ]
}

fn places() -> impl Strategy<Value = Fake> {
    (
        prop::collection::vec((path(), any::<bool>()), 0..12),
        prop::collection::vec(path(), 0..6),
        any::<bool>(),
    )
        .prop_map(|(things, writable, root_writable)| {
            let mut fake = Fake::default();
            for (text, is_directory) in things {
                let mut above = Path::new(&text);
                let kind = if is_directory { Kind::Directory } else { Kind::File };
                fake.kinds.entry(above.clone()).or_insert(kind);
                while !above.parent().0.is_empty() {
                    above = above.parent();
                    fake.kinds.insert(above.clone(), Kind::Directory);
                }
            }
            fake.writable = writable.into_iter().map(Path::new).collect();
            if root_writable {
                fake.writable.insert(Path::root());
            }
            fake
        })
}

fn policy() -> impl Strategy<Value = Written> {
    let rules = prop::collection::vec((pattern(), effects(), any::<bool>(), 0..6_u8), 0..8);
    (rules, any::<bool>(), effects()).prop_map(|(rules, default_blocks, of_default)| {
        let mut written = Written::default();
        for (number, (pattern, effects, block, spare)) in rules.into_iter().enumerate() {
            // The compiler merges rules with one pattern into a row.
            if written.0.paths.iter().any(|row| row.pattern == parse(&pattern)) {
                continue;
            }
            let action = if block { BLOCK } else { ALLOW };
            written = written.path(&format!("r{number}"), &pattern, effects, action);
            if spare == 0 {
                written = written.spared();
            }
        }
        written.by_default(of_default, if default_blocks { BLOCK } else { ALLOW })
    })
}

/// Depth and rank of a pattern that speaks of this path.
fn speaks(pattern: &PathPattern, path: &Path) -> Option<(usize, u8)> {
    let n = path.0.len();
    let ends: Vec<usize> = (0..=n)
        .filter(|end| match &pattern.key {
            PathKey::Anchored(key) => path.0[..*end] == key[..],
            PathKey::Name(name) => *end > 0 && path.0[end - 1] == *name,
            PathKey::Pair(directory, name) => {
                *end > 1 && path.0[end - 1] == *name && path.0[end - 2] == *directory
            }
            PathKey::Extension(_) => unreachable!("not generated"),
        })
        .filter(|end| match pattern.reach {
            Reach::Exact | Reach::Ancestor => *end == n,
            Reach::Children => end + 1 == n,
            Reach::Subtree => true,
        })
        .collect();
    let end = *ends.last()?;
    let depth = if pattern.reach == Reach::Children { end + 1 } else { end };
    let rank = match (&pattern.key, pattern.reach) {
        (_, Reach::Children) => 5,
        (PathKey::Anchored(_), Reach::Subtree) => 1,
        (PathKey::Anchored(_), _) => 0,
        (PathKey::Pair(..), _) => 2,
        _ => 3,
    };
    Some((depth, rank))
}

/// Rules that speak, the decisive first: whether it blocks, whether it spares, its number.
fn order(image: &Image, path: &Path, effect: Effect) -> Vec<(bool, bool, u16)> {
    let mut found: Vec<_> = image
        .paths
        .iter()
        .flat_map(|row| row.entries.iter().map(move |entry| (row, entry)))
        .filter(|(_, entry)| entry.effects.contains(effect.into()))
        .filter_map(|(row, entry)| speaks(&row.pattern, path).map(|rank| (rank, entry)))
        .collect();
    found.sort_by_key(|((depth, rank), entry)| (usize::MAX - depth, *rank, std::cmp::Reverse(entry.action)));
    let entries = found.into_iter().map(|(_, entry)| entry);
    let defaults = image.defaults.iter().filter(|entry| entry.effects.contains(effect.into()));
    entries.chain(defaults).map(|entry| (entry.action == BLOCK, entry.unless.is_some(), entry.rule)).collect()
}

/// Whether any executable at all may do it.
fn somebody_may(image: &Image, path: &Path, effect: Effect) -> bool {
    let order = order(image, path, effect);
    let spares = order.iter().filter(|(_, spares, _)| *spares).count();
    (0..1_u32 << spares).any(|spared| {
        let mut number = 0;
        let first = order.iter().find(|(_, spares, _)| {
            number += u32::from(*spares);
            !*spares || spared & (1 << (number - 1)) == 0
        });
        first.is_none_or(|(blocks, ..)| !blocks)
    })
}

/// Whether a pattern about names in any directory speaks of it. What has such a name and is made later in a closed
/// directory cannot be used: stated.
fn is_hole(image: &Image, path: &Path) -> bool {
    let floating = image.paths.iter().filter(|row| !matches!(row.pattern.key, PathKey::Anchored(_)));
    floating.into_iter().any(|row| speaks(&row.pattern, path).is_some())
}

/// Everything that is there, and one new name in each directory.
fn objects(places: &Fake) -> Vec<(Path, Kind)> {
    let mut objects: Vec<_> = places.kinds.iter().map(|(path, kind)| (path.clone(), *kind)).collect();
    let directories: Vec<Path> = std::iter::once(Path::root())
        .chain(
            places.kinds.iter().filter(|(_, kind)| **kind == Kind::Directory).map(|(path, _)| path.clone()),
        )
        .collect();
    for directory in directories {
        objects.extend(
            ["a", "new"]
                .map(|name| directory.join(name.as_bytes()))
                .into_iter()
                .filter_map(|path| (places.kind(&path) == Kind::Missing).then_some((path, Kind::Missing))),
        );
    }
    objects
}

fn skipped(plan: &LandlockPlan, path: &Path) -> bool {
    plan.files.skipped.iter().any(|skipped| path.is_at_or_below(&skipped.path))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn what_policy_allows_stays_possible(policy in policy(), places in places()) {
        let plan = policy.plan(&places);
        let image = &policy.0;
        for (path, kind) in objects(&places) {
            if kind == Kind::Missing && is_hole(image, &path) {
                continue;
            }
            let is_free = !places.stable(&path.parent());
            let of_file = [(Class::ReadFile, Effect::FileRead), (Class::Write, Effect::FileWrite)];
            // What is there, and what the command can make.
            let can_be = kind == Kind::File
                || (kind == Kind::Missing && is_free && somebody_may(image, &path, Effect::FileCreate));
            for (class, effect) in of_file.into_iter().filter(|_| can_be && !skipped(&plan, &path)) {
                let may = somebody_may(image, &path, effect);
                prop_assert!(plan.files.grants(class, &path) || !may, "{class:?} {path} {plan:#?}");
                // A grant for the file itself would be lost with the file.
                let is_replaced = is_free && somebody_may(image, &path, Effect::FileCreate);
                let grant = plan.files.handled.contains(&class).then(|| plan.files.grant_over(class, &path)).flatten();
                prop_assert!(!(may && is_replaced) || grant != Some(path.clone()), "{class:?} {path} {plan:#?}");
            }
            if kind == Kind::Directory && somebody_may(image, &path, Effect::FileRead) {
                prop_assert!(plan.files.grants(Class::ReadDirectory, &path), "{path} {plan:#?}");
            }
            if !is_free || skipped(&plan, &path) {
                continue;
            }
            // Renaming over a file is writing it. Directories that are granted cannot be removed themselves: stated.
            let overwrite = kind == Kind::File && somebody_may(image, &path, Effect::FileWrite);
            if kind == Kind::File && (somebody_may(image, &path, Effect::FileCreate) || overwrite) {
                prop_assert!(plan.files.grants(Class::Create, &path), "{path} {plan:#?}");
            }
            if kind == Kind::Missing && somebody_may(image, &path, Effect::FileCreate) {
                prop_assert!(plan.files.grants(Class::Create, &path), "{path} {plan:#?}");
            }
            if kind == Kind::File && (somebody_may(image, &path, Effect::FileDelete) || overwrite) {
                prop_assert!(plan.files.grants(Class::Delete, &path), "{path} {plan:#?}");
            }
        }
    }

    #[test]
    fn what_is_held_wholly_is_closed(policy in policy(), places in places()) {
        let plan = policy.plan(&places);
        for hold in plan.rules.iter().filter(|hold| hold.held == Held::Whole) {
            let rule = policy.0.rules.iter().position(|rule| rule.id == hold.rule).unwrap();
            for (path, kind) in objects(&places) {
                for (effect, class) in [
                    (Effect::FileRead, if kind == Kind::Directory { Class::ReadDirectory } else { Class::ReadFile }),
                    (Effect::FileWrite, Class::Write),
                    (Effect::FileCreate, Class::Create),
                    (Effect::FileDelete, Class::Delete),
                ] {
                    // A directory that is there is neither written nor made.
                    let applies = if effect == Effect::FileWrite {
                        kind == Kind::File
                    } else if effect == Effect::FileCreate {
                        kind == Kind::Missing
                    } else {
                        kind != Kind::Missing
                    };
                    let first = order(&policy.0, &path, effect).first().copied();
                    if applies && first.is_some_and(|(blocks, _, number)| blocks && usize::from(number) == rule) {
                        prop_assert!(!plan.files.grants(class, &path), "{hold:?} {class:?} {path} {plan:#?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_plan_is_the_same_each_time(policy in policy(), places in places()) {
        prop_assert_eq!(policy.plan(&places), policy.plan(&places));
    }
}
