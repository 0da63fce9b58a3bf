//! Bytes that are no record, and records that were damaged: always an error or an event, never a panic.

use proptest::prelude::*;

use super::{kinds::cases, *};

fn why(bytes: &[u8]) -> (Option<Kind>, &'static str) {
    let error = decode_record(bytes).unwrap_err();
    assert_eq!(error.to_string(), format!("undecodable record: {}", error.what));
    (error.kind, error.what)
}

#[test]
fn every_cut_of_every_record_is_an_error() {
    for (name, raw, _) in cases() {
        let bytes = raw.bytes();
        for end in 0..bytes.len() {
            let (kind, what) = why(&bytes[..end]);
            assert_eq!(kind, None);
            let expected = match end {
                0..64 => "shorter than its header",
                64..136 => "shorter than its body",
                _ => "length differs from its header",
            };
            assert_eq!(what, expected, "{name} cut to {end}");
        }
    }
}

#[test]
fn bytes_behind_the_record_are_an_error() {
    let mut bytes = Raw::of(Kind::Bpf).bytes();
    bytes.push(0);
    assert_eq!(why(&bytes), (None, "length differs from its header"));
}

#[test]
fn bytes_behind_the_strings_are_ignored() {
    // A later minor version may append; the header's length says where the record ends.
    let mut bytes = Raw::of(Kind::Bpf).args([5]).bytes();
    bytes.extend([0xee; 9]);
    let len = u32::try_from(bytes.len()).unwrap();
    bytes[8..12].copy_from_slice(&len.to_ne_bytes());
    assert_eq!(decode_record(&bytes).unwrap().action, Action::Bpf { command: 5 });
}

#[test]
fn strings_longer_than_the_record_are_an_error() {
    for slot in 0..STRINGS {
        let mut bytes = Raw::of(Kind::FileUnlink).string(0, "/a").bytes();
        let at = size_of::<Header>() + core::mem::offset_of!(Body, string_len) + 2 * slot;
        bytes[at..at + 2].copy_from_slice(&u16::MAX.to_ne_bytes());
        assert_eq!(why(&bytes), (None, "shorter than its strings"), "slot {slot}");
    }
}

#[test]
fn another_abi_is_an_error_whatever_follows() {
    for abi in [0, ABI_VERSION + 1, u16::MAX] {
        let mut raw = Raw::of(Kind::Bpf);
        raw.header.abi = abi;
        assert_eq!(why(&raw.bytes()), (None, "another ABI version"));
    }
}

#[test]
fn unknown_kinds_are_an_error() {
    for kind in 0..=u16::MAX {
        if Kind::from_u16(kind).is_none() {
            assert_eq!(why(&Raw::numbered(kind).bytes()), (None, "unknown kind"), "{kind}");
        }
    }
}

#[test]
fn a_kind_without_records_is_an_error_of_that_kind() {
    let found = why(&Raw::of(Kind::CompatSyscall).bytes());
    assert_eq!(found, (Some(Kind::CompatSyscall), "invalid fields"));
}

#[test]
fn unknown_operations_are_an_error_of_their_kind() {
    for (kind, first) in [
        (Kind::Ptrace, ptrace::VM_WRITE + 1),
        (Kind::Mount, mount::CHROOT + 1),
        (Kind::Namespace, namespace::CLONE + 1),
        (Kind::ModuleLoad, module::MEMORY + 1),
        (Kind::CredChange, cred::GID + 1),
    ] {
        for operation in [first, u64::MAX] {
            assert_eq!(why(&Raw::of(kind).args([operation]).bytes()), (Some(kind), "invalid fields"));
        }
    }
}

#[test]
fn unknown_bits_of_sets_are_left_out() {
    let raw = Raw::of(Kind::FileOpen).args([u64::MAX]);
    let Action::FileCreate { access, .. } = raw.action() else { panic!() };
    assert_eq!(access, Access::all());
    let raw = Raw::of(Kind::Namespace).args([0, u64::MAX]);
    let expected = Action::Namespace { operation: NamespaceOp::Switch, namespaces: Namespaces::all() };
    assert_eq!(raw.action(), expected);
}

/// A header and body of arbitrary content that are consistent with the strings behind them.
fn consistent() -> impl Strategy<Value = Raw> {
    let strings = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), STRINGS);
    (proptest::sample::select(Kind::ALL.as_slice()), any::<[u64; 6]>(), any::<u32>(), any::<i64>(), strings)
        .prop_map(|(kind, args, flags, result, strings)| {
            let mut raw = Raw::of(kind).args(args);
            raw.header.flags = flags;
            raw.body.result = result;
            raw.strings = strings.try_into().unwrap();
            raw
        })
}

proptest! {
    #[test]
    fn any_bytes_are_an_event_or_an_error(bytes: Vec<u8>) {
        prop_assert!(decode_record(&bytes).is_err() || bytes.len() >= 136);
    }

    #[test]
    fn any_fields_are_an_event_of_their_kind_or_an_error(raw in consistent()) {
        let kind = Kind::from_u16(raw.header.kind).unwrap();
        match decode(&raw.bytes()) {
            Ok((found, event)) => {
                prop_assert_eq!(found, kind);
                prop_assert_eq!(event.result.is_some(), raw.header.flags & flags::HAS_RESULT != 0);
                let json = serde_json::to_string(&event).unwrap();
                prop_assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
            }
            Err(error) => prop_assert_eq!(error.kind, Some(kind)),
        }
    }

    #[test]
    fn any_damage_is_an_event_or_an_error(
        index in any::<proptest::sample::Index>(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<proptest::sample::Index>(),
        length_fits: bool,
    ) {
        let cases = cases();
        let mut bytes = index.get(&cases).1.bytes();
        for (at, byte) in damage {
            *at.get_mut(&mut bytes) = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        if length_fits && bytes.len() >= 12 {
            let len = u32::try_from(bytes.len()).unwrap();
            bytes[8..12].copy_from_slice(&len.to_ne_bytes());
        }
        drop(decode_record(&bytes));
    }
}
