//! Against real maps of the kernel: what is in force is what was installed last, as a whole, whatever fails.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Array, HashMap, PerCpuArray};
use defenseclaw_ebpf::{Label, image::SLOTS};

use super::*;
use crate::{
    enforce::{maps::LabelPod, sample},
    policy::image::{Entry, PathPattern, PathRow, Reach, Unless},
};

/// Maps as the programs have them, with room for `rules` rows. To make them takes root.
fn maps(rules: u32) -> Maps {
    let slots = u32::try_from(SLOTS).unwrap();
    Maps {
        current: Array::create(slots / 2, 0).unwrap(),
        images: Array::create(slots + 1, 0).unwrap(),
        rules: HashMap::create(rules, 0).unwrap(),
        verdicts: PerCpuArray::create(16, 0).unwrap(),
        scope: HashMap::create(16, 0).unwrap(),
    }
}

fn enforcer(rules: u32) -> Enforcer {
    Enforcer::new(maps(rules), 0x5eed)
}

fn all_rows(enforcer: &Enforcer) -> BTreeMap<(u32, u32, u64), Cell> {
    let rows = enforcer.maps.rules.iter().map(Result::unwrap);
    rows.map(|(KeyPod(key), CellPod(cell))| ((key.slot, key.class, key.hash), cell)).collect()
}

fn slots(enforcer: &Enforcer) -> BTreeSet<u32> {
    all_rows(enforcer).into_keys().map(|(slot, ..)| slot).collect()
}

fn current(enforcer: &Enforcer, profile: u32) -> u32 {
    enforcer.maps.current.get(&profile, 0).unwrap()
}

#[test]
#[ignore = "makes BPF maps: `cargo xtask test unit` runs it as root"]
fn each_policy_replaces_the_one_before_and_leaves_nothing_of_it() {
    let mut enforcer = enforcer(64);
    let profile = 5;
    assert_eq!(current(&enforcer, profile), 0);
    for (nth, paths) in [vec!["/a", "/b"], vec!["/c"], vec!["/a", "/d", "/e"]].into_iter().enumerate() {
        let swapped = enforcer.install(profile, &sample::blocking(&paths), &[]).unwrap();
        assert_eq!(swapped.generation, nth as u64 + 1);
        assert_eq!(swapped.rows, paths.len());
        let slot = 10 + u32::try_from(nth % 2).unwrap();
        assert_eq!(current(&enforcer, profile), slot + 1);
        assert_eq!(slots(&enforcer), [slot].into(), "the rows of the other image are gone");
        assert_eq!(all_rows(&enforcer).len(), paths.len());
        let ImagePod(image) = enforcer.maps.images.get(&(slot + 1), 0).unwrap();
        assert_eq!(image.generation, swapped.generation);
    }
    enforcer.withdraw(profile).unwrap();
    assert_eq!((current(&enforcer, profile), all_rows(&enforcer).len()), (0, 0));
    assert_eq!(enforcer.install(profile, &sample::blocking(&["/a"]), &[]).unwrap().generation, 4);
}

#[test]
#[ignore = "makes BPF maps: `cargo xtask test unit` runs it as root"]
fn profiles_do_not_touch_each_other() {
    let mut enforcer = enforcer(64);
    enforcer.install(0, &sample::blocking(&["/a"]), &[]).unwrap();
    enforcer.install(63, &sample::blocking(&["/a", "/b"]), &[]).unwrap();
    enforcer.install(0, &sample::blocking(&["/c"]), &[]).unwrap();
    assert_eq!((current(&enforcer, 0), current(&enforcer, 63)), (2, 127));
    assert_eq!(all_rows(&enforcer).len(), 3);
    assert!(matches!(
        enforcer.install(64, &Image::default(), &[]),
        Err(EnforceError::Profile { profile: 64 })
    ));
}

#[test]
#[ignore = "makes BPF maps: `cargo xtask test unit` runs it as root"]
fn a_policy_that_does_not_fit_changes_nothing() {
    let mut enforcer = enforcer(8);
    enforcer.install(0, &sample::blocking(&["/a", "/b"]), &[]).unwrap();
    let before = all_rows(&enforcer);
    let paths: Vec<String> = (0..40).map(|n| format!("/{n}")).collect();
    let mut large = sample::blocking(&paths.iter().map(String::as_str).collect::<Vec<_>>());
    large.owners = vec![vec![PathPattern { key: sample::anchored("/bin/x"), reach: Reach::Exact }]];
    let error = enforcer.install(0, &large, &[]).unwrap_err();
    assert!(
        matches!(&error, EnforceError::Full { map: "RULES", rule } if rule.starts_with("rule-/")),
        "{error}"
    );
    assert_eq!(all_rows(&enforcer), before);
    assert_eq!(current(&enforcer, 0), 1);
    assert_eq!(enforcer.generation(0), Some(1));
    // Nothing was used up: the next one fits, and counts on.
    assert_eq!(enforcer.install(0, &sample::blocking(&["/c"]), &[]).unwrap().generation, 2);
}

fn spares(mut image: Image, exe: &str) -> Image {
    image.owners.push(vec![PathPattern { key: sample::anchored(exe), reach: Reach::Exact }]);
    let set = u8::try_from(image.owners.len() - 1).unwrap();
    let entry = Entry { unless: Some(Unless::Executable(set)), ..sample::entry(0) };
    image.paths.push(PathRow {
        pattern: PathPattern { key: sample::anchored("/s"), reach: Reach::Exact },
        entries: vec![entry],
    });
    image
}

#[test]
#[ignore = "makes BPF maps: `cargo xtask test unit` runs it as root"]
fn running_processes_are_spared_from_the_first_moment() {
    let mut enforcer = enforcer(64);
    let own = u64::from(std::process::id());
    let label = Label { session: 7, start_ns: 9, profile: 1, ..Label::default() };
    enforcer.maps.scope.insert(own, LabelPod(label), 0).unwrap();
    let ended = u64::from(u32::MAX);
    enforcer.maps.scope.insert(ended, LabelPod(label), 0).unwrap();
    let exe = std::env::current_exe().unwrap();

    enforcer.install(1, &spares(sample::blocking(&["/a"]), "/usr/bin/other"), &[]).unwrap();
    assert_eq!(enforcer.maps.scope.get(&own, 0).unwrap().0, label);
    enforcer.install(1, &spares(sample::blocking(&["/a"]), exe.to_str().unwrap()), &[]).unwrap();
    assert_eq!(enforcer.maps.scope.get(&own, 0).unwrap().0, Label { owner: 2, ..label });
    assert_eq!(enforcer.maps.scope.get(&ended, 0).unwrap().0, label);
    let shared =
        all_rows(&enforcer).into_keys().filter(|(slot, ..)| *slot == defenseclaw_ebpf::image::SHARED);
    assert_eq!(shared.count(), 2, "a set once named keeps its number");

    // A policy that cannot be had takes its sets along.
    let mut nine = spares(sample::blocking(&["/a"]), "/usr/bin/third");
    nine.paths.push(sample::row("/n", Reach::Exact, vec![sample::entry(0); 9]));
    enforcer.install(1, &nine, &[]).unwrap_err();
    let rows = all_rows(&enforcer);
    assert_eq!(rows.keys().filter(|(slot, ..)| *slot == defenseclaw_ebpf::image::SHARED).count(), 2);
}

#[test]
#[ignore = "makes BPF maps: `cargo xtask test unit` runs it as root"]
fn protected_files_are_followed() {
    let mut enforcer = enforcer(64);
    let file = |ino| Identity { dev: 1, ino, entries: vec![sample::entry(0)] };
    let image = sample::blocking(&["/a"]);
    enforcer.install(2, &image, &[file(1), file(2)]).unwrap();
    let inodes = |enforcer: &Enforcer| -> BTreeSet<u64> {
        let keys = all_rows(enforcer).into_keys();
        keys.filter(|(_, class, _)| *class == class::INODE).map(|(_, _, hash)| hash).collect()
    };
    let hash = |enforcer: &Enforcer, ino| abi::inode(enforcer.seed, 1, ino);
    assert_eq!(inodes(&enforcer), [hash(&enforcer, 1), hash(&enforcer, 2)].into());
    assert_eq!(enforcer.refresh_identities(2, &image, &[file(2), file(3)]).unwrap(), 2);
    assert_eq!(inodes(&enforcer), [hash(&enforcer, 2), hash(&enforcer, 3)].into());
    let ImagePod(written) = enforcer.maps.images.get(&5, 0).unwrap();
    let (word, bit) = abi::bloom(hash(&enforcer, 3), class::INODE);
    assert_eq!(written.bloom[word] >> bit & 1, 1);
    assert_eq!(enforcer.refresh_identities(9, &image, &[file(2)]).unwrap(), 0, "nothing in force there");
    // The next swap takes all of them along.
    enforcer.install(2, &image, &[]).unwrap();
    assert!(inodes(&enforcer).is_empty());
}

#[test]
#[ignore = "makes BPF maps: `cargo xtask test unit` runs it as root"]
fn verdicts_are_summed_over_processors() {
    use defenseclaw_ebpf::image::{VerdictCounts, action};
    let mut enforcer = enforcer(8);
    let cpus = aya::util::nr_cpus().unwrap();
    let mut counts = [0; 8];
    (counts[usize::from(action::BLOCK)], counts[usize::from(action::ALERT)]) = (3, 1);
    let row = crate::enforce::maps::CountsPod(VerdictCounts { counts });
    let rows = aya::maps::PerCpuValues::try_from(vec![row; cpus]).unwrap();
    enforcer.maps.verdicts.set(1, rows, 0).unwrap();
    let totals = enforcer.verdicts(2).unwrap();
    let cpus = cpus as u64;
    assert_eq!((totals[0].block, totals[1].block, totals[1].alert), (0, 3 * cpus, cpus));
}
