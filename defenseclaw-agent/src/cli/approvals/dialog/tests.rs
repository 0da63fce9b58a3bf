//! What lines mean, and what they never mean.

use super::*;
use crate::model::{
    Approval, BootTime, PolicyAction, ProcessKey, SessionId, Severity, Subject, Text, Waiter, WallTime,
};

fn pending(id: u64, object: &str) -> Pending {
    let approval = Approval {
        id: ApprovalId(id),
        session: Some(SessionId(7)),
        connector: None,
        agent_session: Some("\u{202e}s".to_owned()),
        uid: 1000,
        subject: Subject { rule: "r".to_owned(), effect: "file.read".to_owned(), object: object.into() },
        severity: Severity::High,
        reason: "keep\u{1b}]0;x\u{7} out".to_owned(),
        waiter: Waiter::Paused { process: ProcessKey { tgid: 5, start_ns: 6 }, tid: 8 },
        command: vec!["cat".into(), Text(b"\x1b[2J\xff".to_vec())],
        ancestry: Vec::new(),
        tool_call: None,
        since: BootTime(id),
        wall: WallTime(2),
        deadline: BootTime(3),
        fallback: PolicyAction::Block,
    };
    Pending { approval, waiters: 2, remaining_ms: 900 }
}

fn answers(steps: &[Step]) -> Vec<(Key, Ruling, Option<String>)> {
    let answer = |step: &Step| match step {
        Step::Answer(key, said) => Some((*key, said.ruling, said.message.clone())),
        Step::Print(_) | Step::Prompt(_) | Step::Preview(_) => None,
    };
    steps.iter().filter_map(answer).collect()
}

fn text(steps: &[Step]) -> String {
    let text = |step: &Step| match step {
        Step::Print(text) | Step::Prompt(text) => text.clone(),
        Step::Answer(..) | Step::Preview(_) => String::new(),
    };
    steps.iter().map(text).collect::<Vec<_>>().join("\n")
}

#[test]
fn one_line_answers_the_question_it_was_typed_behind() {
    let mut dialog = Dialog::new();
    let shown = text(&dialog.open(0, vec![pending(2, "/b"), pending(1, "/a")]));
    assert!(shown.contains("/a") && !shown.contains("/b"), "{shown}");
    // While the first is thought about, it ends elsewhere and the other one is open.
    let shown = text(&dialog.open(0, vec![pending(2, "/b")]));
    assert!(shown.contains("settled already") && !shown.contains("/b"), "{shown}");
    let steps = dialog.line("y");
    assert_eq!(answers(&steps), []);
    assert!(text(&steps).contains("/b"));
    let steps = dialog.line("y");
    assert_eq!(answers(&steps), [((0, ApprovalId(2)), Ruling::Once, None)]);
    assert_eq!(dialog.line("y"), []);
}

#[test]
fn every_choice_is_one_and_nothing_else_is() {
    for (lines, ruling, message) in [
        (vec!["y"], Ruling::Once, None),
        (vec![" s "], Ruling::Session, None),
        (vec!["n"], Ruling::Deny, None),
        (vec!["m", "use the copy"], Ruling::Deny, Some("use the copy")),
        (vec!["m", ""], Ruling::Deny, None),
        (vec!["", "yes please", "Y", "n"], Ruling::Deny, None),
    ] {
        let mut dialog = Dialog::new();
        dialog.open(3, vec![pending(1, "/a")]);
        let (last, first) = lines.split_last().unwrap();
        for line in first {
            assert_eq!(answers(&dialog.line(line)), [], "{lines:?}");
        }
        let want = [((3, ApprovalId(1)), ruling, message.map(str::to_owned))];
        assert_eq!(answers(&dialog.line(last)), want, "{lines:?}");
    }
}

#[test]
fn always_is_shown_before_it_is_agreed_to() {
    let mut dialog = Dialog::new();
    dialog.open(0, vec![pending(1, "/a")]);
    assert_eq!(dialog.line("a"), [Step::Preview((0, ApprovalId(1)))]);
    let lasting = Lasting { path: "/p\u{1b}".to_owned(), diff: "+ - id: x\n".to_owned() };
    let shown = text(&dialog.preview(Ok(lasting.clone())));
    assert!(shown.contains("+ - id: x") && !shown.contains('\u{1b}'), "{shown}");
    assert_eq!(answers(&dialog.line("n")), []);
    dialog.line("a");
    assert!(text(&dialog.preview(Err("not writable".to_owned()))).contains("not writable"));
    dialog.line("a");
    dialog.preview(Ok(lasting));
    assert_eq!(answers(&dialog.line("y")), [((0, ApprovalId(1)), Ruling::Always, None)]);
}

#[test]
fn what_is_skipped_is_not_asked_again_and_nothing_reaches_the_terminal_raw() {
    let mut dialog = Dialog::new();
    let shown = text(&dialog.open(0, vec![pending(1, "/a\n\u{1b}[2Jfake > y")]));
    let raw = |c: char| c.is_control() && c != '\n';
    assert!(!shown.contains(raw) && !shown.contains('\u{202e}'), "{shown:?}");
    assert!(shown.lines().all(|line| !line.starts_with("fake")), "{shown:?}");
    assert_eq!(dialog.line("skip"), []);
    assert_eq!(dialog.open(0, vec![pending(1, "/a")]), []);
    let shown = text(&dialog.open(1, vec![pending(1, "/other")]));
    assert!(shown.contains("/other"));
}
