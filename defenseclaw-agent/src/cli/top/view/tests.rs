//! Whatever comes in whatever order: an answer is about what was on the screen.

use std::{path::Path, sync::Arc};

use proptest::prelude::*;

use super::{super::message::Job, *};
use crate::model::{ApprovalId, ProcessKey, Severity, Subject, Text, Waiter, WallTime};

fn open(id: u64, object: u64) -> Pending {
    let process = ProcessKey { tgid: 1, start_ns: 1 };
    let approval = Approval {
        id: ApprovalId(id),
        session: None,
        connector: None,
        agent_session: None,
        uid: 0,
        subject: Subject {
            rule: "r".to_owned(),
            effect: "file.read".to_owned(),
            object: Text(object.to_string().into_bytes()),
        },
        severity: Severity::High,
        reason: String::new(),
        waiter: Waiter::Held { process },
        command: Vec::new(),
        ancestry: Vec::new(),
        tool_call: None,
        since: crate::model::BootTime(1),
        wall: WallTime(0),
        deadline: crate::model::BootTime(2),
        fallback: PolicyAction::Block,
    };
    Pending { approval, waiters: 1, remaining_ms: 1000 }
}

fn now(millis: u64) -> Now {
    Now { since: Duration::from_millis(millis), boot: crate::model::BootTime(0), wall: WallTime(0) }
}

fn key(code: char) -> KeyEvent {
    let code = match code {
        '\r' => KeyCode::Enter,
        '\x1b' => KeyCode::Esc,
        other => KeyCode::Char(other),
    };
    KeyEvent::new(code, KeyModifiers::NONE)
}

#[derive(Clone, Debug)]
enum Step {
    /// What is open now: ids, and what each is about.
    Open(Vec<(u64, u64)>),
    Key(char),
    /// The screen is drawn, and so many milliseconds pass.
    Draw(u64),
    Lost,
    Disturbed,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => prop::collection::btree_map(1_u64..4, 0_u64..2, 0..4)
            .prop_map(|open| Step::Open(open.into_iter().collect())),
        6 => prop::sample::select(vec!['\r', '\x1b', 'j', 'k', 'y', 's', 'n', 'm', 'A', 'x']).prop_map(Step::Key),
        5 => prop::sample::select(vec![0_u64, 20, 200, 400]).prop_map(Step::Draw),
        1 => Just(Step::Lost),
        1 => Just(Step::Disturbed),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn an_answer_is_about_what_has_been_on_the_screen_unchanged_for_a_moment(steps in steps()) {
        let from: From = Arc::from(Path::new("/d.sock"));
        let mut view = View::new(false);
        let mut time = 1000;
        // What has been on the screen since when.
        let mut shown: Option<(Approval, u64)> = None;
        for step in steps {
            let message = match step {
                Step::Open(open_now) => Message::Approvals {
                    from: from.clone(),
                    open: open_now.into_iter().map(|(id, object)| open(id, object)).collect(),
                },
                Step::Lost => Message::Lost { from: from.clone() },
                Step::Disturbed => Message::Disturbed,
                Step::Key(code) => Message::Key(key(code), Duration::from_millis(time)),
                Step::Draw(passes) => {
                    let detail = view.detail().map(|_| (true, 0));
                    view.drawn(Drawn { detail, row: 0 }, Duration::from_millis(time));
                    let drawn = view.detail().map(|detail| detail.question.approval.clone());
                    shown = match (shown, drawn) {
                        (Some((before, since)), Some(drawn)) if before == drawn => Some((before, since)),
                        (_, drawn) => drawn.map(|drawn| (drawn, time)),
                    };
                    time += passes;
                    continue;
                }
            };
            if let Some(Act::Ask(job)) = view.update(message, now(time))
                && let Job::Answer(answer) = *job
            {
                let (seen, since) = shown.clone().expect("nothing was on the screen");
                prop_assert_eq!(&answer.approval, &seen);
                prop_assert_eq!(answer.key.id, seen.id);
                prop_assert!(time - since >= 300, "{} ms", time - since);
                prop_assert!(view.approvals.iter().any(|one| one.approval == seen), "it was not open any more");
            }
        }
    }
}

#[test]
fn a_key_that_is_held_down_never_answers() {
    let from: From = Arc::from(Path::new("/d.sock"));
    let mut view = View::new(false);
    view.update(Message::Approvals { from, open: vec![open(1, 1)] }, now(0));
    view.update(Message::Key(key('\r'), Duration::ZERO), now(0));
    for millis in (0..5000).step_by(30) {
        view.drawn(Drawn { detail: Some((true, 0)), row: 0 }, Duration::from_millis(millis));
        let act = view.update(Message::Key(key('y'), Duration::from_millis(millis)), now(millis));
        assert!(act.is_none(), "after {millis} ms");
    }
    let act = view.update(Message::Key(key('y'), Duration::from_secs(6)), now(6000));
    assert!(matches!(act, Some(Act::Ask(_))));
}

#[test]
fn a_yes_waits_for_the_end_of_the_object_and_a_no_does_not() {
    let from: From = Arc::from(Path::new("/d.sock"));
    for (answer, taken) in [('y', false), ('s', false), ('A', false), ('n', true)] {
        let mut view = View::new(false);
        view.update(Message::Approvals { from: from.clone(), open: vec![open(1, 1)] }, now(0));
        view.update(Message::Key(key('\r'), Duration::ZERO), now(0));
        view.drawn(Drawn { detail: Some((false, 9)), row: 0 }, Duration::ZERO);
        let act = view.update(Message::Key(key(answer), Duration::from_secs(1)), now(1000));
        assert_eq!(act.is_some(), taken, "{answer}");
    }
}
