//! Questions and answers, one case after the other.

use super::*;
use crate::model::{
    Answer, AskingHook, Caller, Connector, HookCall, HookEvent, HookOutput, Phase, ProcessKey, Remembered,
    Ruled, SessionId, Severity, Subject, ToolCall, WallTime,
};

pub(super) const SESSION: SessionId = SessionId(1);
pub(super) const SECOND: u64 = 1_000_000_000;

pub(super) fn process(number: u32) -> ProcessKey {
    ProcessKey { tgid: number, start_ns: u64::from(number) }
}

fn paused(number: u32) -> Waiter {
    Waiter::Paused { process: process(number), tid: number }
}

pub(super) fn question(session: Option<SessionId>, object: &str, waiter: Waiter) -> Approval {
    Approval {
        id: ApprovalId(0),
        session,
        connector: None,
        agent_session: None,
        uid: 1000,
        subject: Subject { rule: "r".into(), effect: "file.read".into(), object: object.into() },
        severity: Severity::High,
        reason: "because".into(),
        waiter,
        command: vec!["cat".into()],
        ancestry: Vec::new(),
        tool_call: None,
        since: BootTime(0),
        wall: WallTime(0),
        deadline: BootTime(u64::MAX),
        fallback: PolicyAction::Block,
    }
}

fn by(uid: u32) -> Answerer {
    Answerer { uid, pid: 1, via: Via::Command }
}

/// A machine and its clock, in seconds.
#[derive(Default)]
struct Desk {
    all: Approvals,
    now: u64,
    said: Vec<Said>,
}

impl Desk {
    fn time(&self) -> BootTime {
        BootTime(self.now * SECOND)
    }

    fn ask(&mut self, object: &str, waiter: Waiter) {
        self.all.ask(question(Some(SESSION), object, waiter), true, None, self.time(), &mut self.said);
    }

    fn answer(&mut self, id: u64, ruling: Ruling) -> Result<(), String> {
        let expires = (ruling == Ruling::Session).then(|| BootTime((self.now + 100) * SECOND));
        let approval = ApprovalId(id);
        let ruled = Ruled { approval, ruling, message: Some("no, ask Bob".into()), expires, by: by(0) };
        let mut said = Vec::new();
        self.all.rule(ruled, 7, self.time(), &mut said);
        let Some(Said::Answered { ticket: 7, result }) = said.pop() else { panic!("{said:?}") };
        self.said.extend(said);
        result
    }

    fn at(&mut self, now: u64) {
        self.now = now;
        self.all.tick(self.time(), &mut self.said);
    }

    /// What was said since the last call, in short.
    fn heard(&mut self) -> Vec<String> {
        let waiters = |waiters: &[Waiter]| waiters.len();
        let word = |said: Said| match said {
            Said::Row(AuditRecord::Asked(row)) => format!("asked {}", row.id),
            Said::Row(AuditRecord::Settled(row)) => {
                let outcome = match row.outcome {
                    Outcome::Ruled { ruling, by, .. } => format!("{ruling} {}", by.via),
                    Outcome::Expired => "expired".into(),
                    Outcome::NotAsked { .. } => "not asked".into(),
                    Outcome::Withdrawn { .. } => "withdrawn".into(),
                    Outcome::Orphaned => "orphaned".into(),
                };
                format!("settled {} {outcome} {}", row.id, if row.allowed { "yes" } else { "no" })
            }
            Said::Row(AuditRecord::Granted(row)) => format!("granted {}", row.id),
            Said::Row(AuditRecord::GrantEnded(row)) => format!("ended {}", row.id),
            Said::Row(row) => panic!("{row:?}"),
            Said::Settle { approval, waiters: all, verdict, grant, .. } => {
                let with = if grant.is_some() { " with grant" } else { "" };
                format!("let {} {verdict:?} {}{with}", approval.id, waiters(&all))
            }
            Said::Ungrant(grant) => format!("ungrant {}", grant.id),
            Said::Notify(approval, end) => {
                format!("tell {}{}", approval.id, if end.is_some() { " over" } else { "" })
            }
            Said::Answered { result, .. } => format!("answered {result:?}"),
        };
        std::mem::take(&mut self.said).into_iter().map(word).collect()
    }
}

#[test]
fn equal_questions_are_one_and_the_first_answer_counts() {
    let mut desk = Desk::default();
    for number in [1, 2, 2, 3] {
        desk.ask("/secret", paused(number));
    }
    desk.ask("/other", paused(4));
    assert_eq!(desk.heard(), ["asked a1", "tell a1", "asked a2", "tell a2"]);
    assert_eq!(desk.all.get(ApprovalId(1)).map(|(_, waiters)| waiters), Some(3));
    let version = desk.all.version();
    assert_eq!(desk.answer(1, Ruling::Once), Ok(()));
    assert_eq!(desk.heard(), ["settled a1 once command yes", "let a1 Allow 3", "tell a1 over"]);
    assert_ne!(desk.all.version(), version);
    let late = desk.answer(1, Ruling::Deny).unwrap_err();
    assert!(late.contains("settled already") && late.contains("once"), "{late}");
    assert!(desk.answer(9, Ruling::Deny).unwrap_err().contains("there is no question a9"));
    assert_eq!(desk.answer(2, Ruling::Deny), Ok(()));
    assert_eq!(desk.heard(), ["settled a2 deny command no", "let a2 Block 1", "tell a2 over"]);
    assert_eq!(desk.all.open().count(), 0);
}

#[test]
fn a_grant_answers_until_it_ends_and_is_for_nothing_else() {
    let mut desk = Desk::default();
    desk.ask("/a", paused(1));
    desk.answer(1, Ruling::Session).unwrap();
    assert_eq!(
        desk.heard(),
        [
            "asked a1",
            "tell a1",
            "settled a1 session command yes",
            "granted g1",
            "let a1 Allow 1 with grant",
            "tell a1 over"
        ]
    );
    desk.ask("/a", paused(2));
    assert_eq!(desk.heard(), ["asked a2", "settled a2 session grant yes", "let a2 Allow 1 with grant"]);
    let elsewhere = question(Some(SessionId(2)), "/a", paused(3));
    desk.all.ask(elsewhere, true, None, desk.time(), &mut desk.said);
    desk.ask("/a/b", paused(4));
    assert_eq!(desk.heard(), ["asked a3", "tell a3", "asked a4", "tell a4"]);
    assert_eq!(desk.all.grants().count(), 1);
    desk.at(89);
    assert_eq!(desk.all.next_deadline(), Some(BootTime(90 * SECOND)));
    desk.at(100);
    let heard = desk.heard();
    assert_eq!(heard.iter().filter(|said| said.contains("expired no")).count(), 2, "{heard:?}");
    assert_eq!(heard[heard.len() - 2..], ["ended g1", "ungrant g1"]);
    desk.ask("/a", paused(5));
    assert_eq!(desk.heard(), ["asked a5", "tell a5"]);
}

#[test]
fn grants_are_taken_back_once() {
    let mut desk = Desk::default();
    desk.ask("/a", paused(1));
    desk.answer(1, Ruling::Always).unwrap();
    desk.heard();
    for (id, want) in [(1, "Ok(())"), (1, "has ended already"), (2, "there is no grant")] {
        desk.all.revoke(GrantId(id), by(0), 1, desk.time(), &mut desk.said);
        let heard = desk.heard();
        assert!(heard.last().unwrap().contains(want), "{heard:?}");
        assert_eq!(heard.len(), if want == "Ok(())" { 3 } else { 1 });
    }
    desk.ask("/a", paused(2));
    assert_eq!(desk.heard(), ["asked a2", "tell a2"]);
}

#[test]
fn the_fallback_applies_where_nobody_can_answer() {
    let mut desk = Desk::default();
    desk.all.limit(Limits { open_max: 1, wait: Duration::from_secs(5) });
    desk.ask("/a", paused(1));
    desk.ask("/b", paused(2));
    assert_eq!(
        desk.heard(),
        ["asked a1", "tell a1", "asked a2", "settled a2 not asked no", "let a2 Block 1"]
    );
    let mut lenient = question(Some(SESSION), "?", paused(3));
    lenient.fallback = PolicyAction::Allow;
    desk.all.ask(lenient, false, None, desk.time(), &mut desk.said);
    assert_eq!(desk.heard(), ["asked a3", "settled a3 not asked yes", "let a3 Allow 1"]);
    // An answer at the very deadline is too late.
    desk.now = 5;
    assert!(desk.answer(1, Ruling::Once).unwrap_err().contains("nobody answered in time"));
    assert_eq!(desk.heard(), ["settled a1 expired no", "let a1 Block 1", "tell a1 over"]);
    desk.at(5 + 600);
    assert!(desk.answer(1, Ruling::Once).unwrap_err().contains("long ago"));
}

#[test]
fn who_is_gone_does_not_wait() {
    let mut desk = Desk::default();
    desk.ask("/a", paused(1));
    desk.ask("/a", paused(2));
    desk.ask("/b", Waiter::Retry { process: process(1), tid: 1 });
    desk.heard();
    let time = desk.time();
    desk.all.exited(SESSION, process(1), time, &mut desk.said);
    assert!(desk.heard().is_empty());
    // It does something else: what it had asked is not to let it do that.
    desk.ask("/c", paused(2));
    assert_eq!(desk.heard(), ["settled a1 withdrawn no", "tell a1 over", "asked a3", "tell a3"]);
    desk.all.replaced(SESSION, process(2), time, &mut desk.said);
    assert_eq!(desk.heard(), ["settled a3 withdrawn no", "tell a3 over"]);
    assert_eq!(desk.all.open().map(|(asked, _)| asked.id).collect::<Vec<_>>(), [ApprovalId(2)]);
}

#[test]
fn what_was_refused_passes_at_its_next_try() {
    let mut desk = Desk::default();
    desk.ask("1.2.3.4:80", Waiter::Retry { process: process(1), tid: 1 });
    desk.answer(1, Ruling::Once).unwrap();
    let heard = desk.heard();
    assert_eq!(heard[2..5], ["settled a1 once command yes", "granted g1", "let a1 Allow 1 with grant"]);
    desk.at(59);
    assert_eq!(desk.all.grants().count(), 1);
    desk.at(60);
    assert_eq!(desk.heard(), ["ended g1", "ungrant g1"]);
}

#[test]
fn another_policy_is_asked_again_by_who_can() {
    let mut desk = Desk::default();
    desk.ask("/a", paused(1));
    desk.ask("/x", Waiter::Held { process: process(2) });
    desk.ask("/y", Waiter::Retry { process: process(3), tid: 3 });
    desk.heard();
    desk.all.reask(SESSION, desk.time(), &mut desk.said);
    assert_eq!(
        desk.heard(),
        [
            "settled a1 withdrawn no",
            "tell a1 over",
            "let a1 AskAgain 1",
            "settled a3 withdrawn no",
            "tell a3 over"
        ]
    );
    desk.ask("/a", paused(1));
    assert_eq!(desk.heard(), ["asked a4", "tell a4"]);
}

#[test]
fn nobody_is_left_stopped_when_watching_ends() {
    let mut desk = Desk::default();
    desk.ask("/g", paused(9));
    desk.answer(1, Ruling::Always).unwrap();
    desk.ask("/a", paused(1));
    desk.heard();
    desk.all.end(SESSION, desk.time(), &mut desk.said);
    assert_eq!(desk.heard(), ["settled a2 not asked no", "let a2 Block 1", "tell a2 over", "ungrant g1"]);
    desk.ask("/a", paused(1));
    desk.heard();
    desk.all.forget(SESSION);
    assert_eq!((desk.all.open().count(), desk.heard().len()), (0, 0));
}

#[test]
fn what_a_watcher_left_is_gone_on_with() {
    let mut desk = Desk::default();
    let stands = |id, object, waiter| {
        let asked = question(Some(SESSION), object, waiter);
        Approval { id: ApprovalId(id), deadline: BootTime(50 * SECOND), ..asked }
    };
    let grant = Grant {
        id: GrantId(3),
        approval: ApprovalId(1),
        session: Some(SESSION),
        subject: question(None, "/granted", paused(0)).subject,
        since: BootTime(0),
        expires: None,
        by: by(5),
    };
    let remembered = Remembered {
        asked: vec![
            stands(2, "/a", paused(1)),
            stands(4, "/b", paused(2)),
            stands(5, "/c", Waiter::Hook { process: process(3), ticket: 1 }),
        ],
        grants: vec![grant],
        last_approval: 6,
        last_grant: 3,
    };
    let time = desk.time();
    desk.all.restore(remembered, time, &mut desk.said);
    assert_eq!(desk.heard(), ["settled a5 withdrawn no", "tell a5 over"]);
    desk.all.orphaned(SESSION, &paused(1), false, time, &mut desk.said);
    assert_eq!(desk.heard(), ["settled a2 orphaned no", "tell a2 over"]);
    desk.ask("/granted", paused(4));
    assert_eq!(desk.heard(), ["asked a7", "settled a7 session grant yes", "let a7 Allow 1 with grant"]);
    desk.at(50);
    assert_eq!(desk.heard(), ["settled a4 expired no", "let a4 Block 1", "tell a4 over"]);
}

fn hook(phase: Phase, name: &str, session: &str, tool: Option<(&str, &str)>) -> HookCall {
    let mut event = HookEvent::new(Connector::ClaudeCode, phase, name);
    event.session = Some(session.to_owned());
    event.tools = tool
        .into_iter()
        .map(|(id, tool)| ToolCall {
            id: (!id.is_empty()).then(|| id.to_owned()),
            tool: tool.to_owned(),
            input: serde_json::json!({"command": "rm -r x"}),
            intents: Vec::new(),
            output: None,
            failed: false,
            background: false,
            process_group: None,
            mcp: None,
        })
        .collect();
    HookCall {
        session: Some(SESSION),
        wall: WallTime(0),
        boot: BootTime(0),
        caller: Caller { pid: 8, start_ticks: 0, uid: 1000, gid: 1000 },
        connector: Connector::ClaudeCode,
        event: Some(event),
        calls: Vec::new(),
        cut: false,
        problem: None,
        policy: None,
        decision: None,
        answer: Answer::new(PolicyAction::Confirm, None, &HookOutput::default()),
        latency_ns: 0,
    }
}

fn asking(call: HookCall, ticket: u64, native: bool) -> AskingHook {
    let subject = Subject { rule: "r".into(), effect: "exec".into(), object: "/bin/rm".into() };
    AskingHook { call, subject, fallback: PolicyAction::Block, deadline: None, ticket, native }
}

#[test]
fn what_follows_shows_what_was_said_in_an_agents_dialogue() {
    use Phase::{Other, PromptSubmit, SessionEnd, Stop, ToolPost, ToolPre};
    let cases = [
        (hook(ToolPost, "PostToolUse", "s", Some(("t1", "Bash"))), Some("once agent yes")),
        (hook(ToolPost, "PostToolUse", "s", Some(("", "Bash"))), Some("once agent yes")),
        (hook(ToolPost, "PostToolUse", "s", Some(("t2", "Bash"))), None),
        (hook(ToolPost, "PostToolUse", "other", Some(("t1", "Bash"))), None),
        (hook(ToolPre, "PreToolUse", "s", Some(("t1", "Bash"))), None),
        (hook(Other, "PermissionDenied", "s", Some(("t1", "Bash"))), Some("deny agent no")),
        (hook(Other, "Notification", "s", None), None),
        (hook(PromptSubmit, "UserPromptSubmit", "s", None), Some("deny agent no")),
        (hook(Stop, "Stop", "s", None), Some("deny agent no")),
        (hook(SessionEnd, "SessionEnd", "s", None), Some("withdrawn no")),
    ];
    for (follows, want) in cases {
        let mut desk = Desk::default();
        let time = desk.time();
        let asks = hook(ToolPre, "PreToolUse", "s", Some(("t1", "Bash")));
        desk.all.hook_asks(asking(asks, 0, true), process(8), time, &mut desk.said);
        assert_eq!(desk.heard(), ["asked a1", "tell a1"]);
        assert!(desk.answer(1, Ruling::Once).unwrap_err().contains("own dialogue"));
        desk.all.heard(&follows, time, &mut desk.said);
        let want = want.map(|want| vec![format!("settled a1 {want}"), "tell a1 over".to_owned()]);
        assert_eq!(desk.heard(), want.unwrap_or_default(), "{follows:?}");
        desk.at(3600);
        assert_eq!(desk.all.open().count(), 0);
    }
}

#[test]
fn one_call_that_ran_answers_one_dialogue() {
    let mut desk = Desk::default();
    let time = desk.time();
    for _ in 0..2 {
        let asks = hook(Phase::ToolPre, "PreToolUse", "s", Some(("", "Bash")));
        desk.all.hook_asks(asking(asks, 0, true), process(8), time, &mut desk.said);
    }
    let ran = hook(Phase::ToolPost, "PostToolUse", "s", Some(("", "Bash")));
    desk.all.heard(&ran, time, &mut desk.said);
    assert_eq!(desk.all.open().map(|(asked, _)| asked.id).collect::<Vec<_>>(), [ApprovalId(2)]);
}

#[test]
fn a_held_reply_waits_no_longer_than_its_agent() {
    let mut desk = Desk::default();
    let time = desk.time();
    let held = |ticket| asking(hook(Phase::ToolPre, "PreToolUse", "s", Some(("t1", "Bash"))), ticket, false);
    let first = AskingHook { deadline: Some(BootTime(20 * SECOND)), ..held(1) };
    desk.all.hook_asks(first, process(8), time, &mut desk.said);
    desk.all.hook_asks(held(2), process(9), time, &mut desk.said);
    assert_eq!(desk.heard(), ["asked a1", "tell a1"]);
    desk.all.hung_up(2, time, &mut desk.said);
    assert_eq!(desk.all.get(ApprovalId(1)).map(|(_, waiters)| waiters), Some(1));
    desk.at(20);
    assert_eq!(desk.heard(), ["settled a1 expired no", "let a1 Block 1", "tell a1 over"]);
    // Nothing tells one run of an unwatched agent from another, so nothing is granted to it.
    let mut unwatched = held(3);
    unwatched.call.session = None;
    desk.all.hook_asks(unwatched, process(8), desk.time(), &mut desk.said);
    assert!(desk.answer(2, Ruling::Session).unwrap_err().contains("no watched session"));
    assert_eq!(desk.answer(2, Ruling::Always), Ok(()));
    assert_eq!(desk.all.grants().count(), 0);
}
