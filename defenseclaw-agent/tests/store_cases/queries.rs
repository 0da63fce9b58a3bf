//! What the reader answers, also while somebody writes.

use std::ops::ControlFlow;

use defenseclaw::{
    model::{Action, AuditRecord, EventKind, SessionId, ToolCallId},
    store::{CallName, Filter, Reader, SessionState, StoreError, Stored, Writer},
};
use proptest::prelude::*;

use super::{Place, read};
use crate::records::{self, CALL, OTHER, SESSION, joined};

#[test]
fn every_kind_of_record_comes_back_as_it_was() {
    let place = Place::new();
    let wrote = records::session_of_everything(SESSION);
    let kinds: std::collections::BTreeSet<_> = records::every_action().iter().map(Action::kind).collect();
    assert_eq!(kinds.len(), EventKind::ALL.len(), "the records have every kind");
    let writer = Writer::open(&place.db(), &records::options()).unwrap();
    writer.append(wrote.clone()).unwrap();
    writer.close().unwrap();
    let found = read(&place.db(), &Filter::default());
    assert_eq!(
        found.iter().map(|stored| stored.seq).collect::<Vec<_>>(),
        (1..=wrote.len() as u64).collect::<Vec<_>>()
    );
    assert_eq!(found.iter().map(|stored| stored.record.clone()).collect::<Vec<_>>(), wrote);
    // And once more through the JSON of the command line.
    for stored in &found {
        let line = serde_json::to_string(stored).unwrap();
        assert_eq!(&serde_json::from_str::<Stored>(&line).unwrap(), stored);
    }
}

#[test]
fn calls_are_found_by_label_and_by_the_agents_own_id() {
    let place = Place::new();
    let writer = Writer::open(&place.db(), &records::options()).unwrap();
    let (own, other) = (joined(CALL, "toolu_1"), joined(ToolCallId(CALL.0 + 1), "toolu_2"));
    writer.append([vec![records::start(SESSION)], other, own.clone()].concat()).unwrap();
    writer.close().unwrap();
    let found = read(&place.db(), &Filter { tool_call: Some(CALL), ..Filter::default() });
    assert_eq!(found.iter().map(|stored| stored.record.clone()).collect::<Vec<_>>(), own);
    let findings = read(&place.db(), &Filter { records: vec!["finding"], ..Filter::default() });
    assert_eq!(findings.len(), 2);

    let reader = Reader::open(&place.db()).unwrap();
    let by_label = reader.announced(&CallName::Label(CALL)).unwrap().unwrap();
    let by_own = reader.announced(&CallName::Own("toolu_1".to_owned())).unwrap().unwrap();
    assert_eq!((by_label.0.seq, by_label.1, &by_label), (6, CALL, &by_own));
    assert_eq!(reader.announced(&CallName::Own("toolu_3".to_owned())).unwrap(), None);
    assert_eq!(reader.record(7).unwrap().map(|stored| stored.record), Some(own[1].clone()));
    assert_eq!((reader.record(0).unwrap(), reader.record(10).unwrap()), (None, None));
    assert_eq!(defenseclaw::store::verify(&place.db(), None).unwrap().first_break, None);
}

#[test]
fn filters_let_through_what_they_say() {
    let place = Place::new();
    let writer = Writer::open(&place.db(), &records::options()).unwrap();
    writer.append(records::session_of_everything(SESSION)).unwrap();
    writer
        .append(vec![
            records::start(OTHER),
            records::opened(OTHER, 1),
            records::loss(None),
            records::end(OTHER),
        ])
        .unwrap();
    writer.close().unwrap();
    let kinds = |kinds: &[EventKind]| Filter { kinds: kinds.to_vec(), ..Filter::default() };
    let path = |pattern: &str| Filter::default().with_path(pattern).unwrap();
    let cases: [(Filter, usize); 13] = [
        (Filter::default(), 40),
        (Filter { session: Some(OTHER), ..Filter::default() }, 3),
        (Filter { session: Some(SessionId(u64::MAX)), ..Filter::default() }, 0),
        (kinds(&[EventKind::FileRename]), 1),
        // Three events, two losses.
        (kinds(&[EventKind::FileOpen]), 5),
        (kinds(&[EventKind::FileOpen, EventKind::Bpf]), 6),
        (Filter { records: vec!["session_start", "session_end"], ..Filter::default() }, 4),
        (Filter { session: Some(SESSION), ..kinds(&[EventKind::FileOpen]) }, 3),
        (path("/etc/*"), 2),
        // The second path of a rename.
        (path("/home/dev/project/b"), 1),
        (path("**/*.rs"), 1),
        (path("/home/dev/*.rs"), 0),
        // Bytes that are not UTF-8.
        (path("/tmp/*bad*"), 1),
    ];
    for (filter, want) in cases {
        assert_eq!(read(&place.db(), &filter).len(), want, "{filter:?}");
    }
    assert!(matches!(Filter::default().with_path("/a/{b"), Err(StoreError::Pattern { .. })));
}

#[test]
fn reading_goes_on_where_it_stopped() {
    let place = Place::with_events(10);
    let reader = Reader::open(&place.db()).unwrap();
    let mut after = 0;
    let mut seen = Vec::new();
    loop {
        let before = seen.len();
        after = reader
            .records(&Filter::default(), after, Some(5), |stored| {
                seen.push(stored.seq);
                Ok::<_, StoreError>(ControlFlow::Continue(()))
            })
            .unwrap();
        if seen.len() == before {
            break;
        }
    }
    assert_eq!(seen, (1..=12).collect::<Vec<_>>());
    let mut count = 0;
    let last = reader.records(&Filter::default(), 3, None, |_| {
        count += 1;
        Ok::<_, StoreError>(ControlFlow::Break(()))
    });
    assert_eq!((count, last.unwrap()), (1, 4));
}

#[test]
fn sessions_say_what_became_of_them() {
    let place = Place::with_events(3);
    let writer = Writer::open(&place.db(), &records::options()).unwrap();
    writer
        .append(vec![records::start(OTHER), records::loss(Some(OTHER)), records::opened(OTHER, 1)])
        .unwrap();
    writer.flush().unwrap();
    let reader = Reader::open(&place.db()).unwrap();
    let glance = |reader: &Reader| {
        reader
            .sessions()
            .unwrap()
            .iter()
            .map(|s| (s.session, s.state, s.events, s.losses, s.end.is_some()))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        glance(&reader),
        [(SESSION, SessionState::Ended, 3, 0, true), (OTHER, SessionState::Running, 1, 1, false)]
    );
    // The same connection sees what changed: the writer went away without ending the session.
    writer.close().unwrap();
    assert_eq!(glance(&reader)[1], (OTHER, SessionState::Interrupted, 1, 1, false));
    let AuditRecord::SessionStart(start) = records::start(OTHER) else { unreachable!() };
    assert_eq!(reader.session_start(OTHER).unwrap(), Some(*start));
    assert_eq!(reader.session_start(SessionId(1)).unwrap(), None);
}

#[test]
fn a_session_is_found_by_the_beginning_of_its_id() {
    let place = Place::new();
    let empty = Writer::open(&place.db(), &records::options()).unwrap();
    let reader = Reader::open(&place.db()).unwrap();
    assert!(matches!(reader.resolve_session("last"), Err(StoreError::NoSession { .. })));
    empty.append(vec![records::start(SESSION), records::start(OTHER)]).unwrap();
    empty.close().unwrap();
    for (name, want) in [
        ("last", Some(OTHER)),
        ("19abcdef01200001", Some(SESSION)),
        ("19ABCDEF012", Some(SESSION)),
        ("19abcdef013", Some(OTHER)),
        ("19abcdef01", None),
        ("", None),
        ("nothing", None),
        ("19abcdef01200009", None),
        ("19abcdef0120000100", None),
        ("%", None),
    ] {
        assert_eq!(reader.resolve_session(name).ok(), want, "{name}");
    }
    assert!(matches!(
        reader.resolve_session("19abcdef01"),
        Err(StoreError::AmbiguousSession { matches: 2, .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Untrusted bytes in a path neither break the row nor the chain, and its pattern finds it.
    #[test]
    fn any_path_is_kept(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let place = Place::new();
        let file = defenseclaw::model::FileRef {
            path: defenseclaw::model::KernelPath { text: bytes.as_slice().into(), ..Default::default() },
            dev: u64::MAX,
            ino: u64::MAX,
        };
        let record = records::event(SessionId(u64::MAX), u64::MAX / 2_000_000, Action::FileUnlink { file });
        let writer = Writer::open(&place.db(), &records::options()).unwrap();
        writer.append(vec![record.clone()]).unwrap();
        writer.close().unwrap();
        let filter = Filter { session: Some(SessionId(u64::MAX)), ..Filter::default().with_path("**").unwrap() };
        let found = read(&place.db(), &filter);
        prop_assert_eq!(found.len(), 1);
        prop_assert_eq!(&found[0].record, &record);
        prop_assert_eq!(defenseclaw::store::verify(&place.db(), None).unwrap().first_break, None);
    }
}
