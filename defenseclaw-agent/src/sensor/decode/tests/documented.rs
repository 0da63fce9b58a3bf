//! docs/events.md against the code: nothing that can appear in the audit is without its words.

use std::{collections::BTreeSet, path::Path};

use crate::{
    model::{EventKind, LossReason},
    sensor::hooks,
};

fn page() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/events.md")).unwrap()
}

#[test]
fn every_event_kind_has_its_section() {
    let page = page();
    let sections: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let kinds: Vec<&str> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
    for kind in &kinds {
        assert!(sections.contains(kind), "docs/events.md has no section `### {kind}`");
    }
    assert_eq!(sections.len(), kinds.len(), "a section is there twice, or its kind is gone");
}

#[test]
fn every_blind_spot_is_explained_and_none_is_made_up() {
    let page = page();
    let named: BTreeSet<&str> =
        page.split('`').filter(|word| word.starts_with("blind/") && !word.ends_with('…')).collect();
    let stated: BTreeSet<&str> = [hooks::BLIND_EVERYWHERE, hooks::BLIND_LSM, hooks::BLIND_TRACEPOINT]
        .concat()
        .iter()
        .map(|(name, _)| *name)
        .collect();
    assert_eq!(named, stated);
}

#[test]
fn every_reason_of_a_loss_is_explained() {
    for reason in [
        LossReason::RingFull,
        LossReason::Folded,
        LossReason::Oversized,
        LossReason::Unreadable,
        LossReason::MapFull,
        LossReason::DecodeError,
        LossReason::StoreError,
        LossReason::Unclean,
    ] {
        let name = serde_json::to_value(reason).unwrap();
        let name = name.as_str().unwrap();
        assert!(page().contains(&format!("`{name}`")), "docs/events.md does not explain {name}");
    }
}
