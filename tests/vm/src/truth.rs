//! What a provocation knows it did: the file that passes from the provoker to the checks. No judgement.

use defenseclaw::model::{
    Action, EventKind, KernelPath, Level, LossReason, NamespaceOp, Namespaces, ProcessKey, Text,
};
use serde::{Deserialize, Serialize};

/// Nanoseconds in a clock tick of `/proc/PID/stat`: the resolution in which a program knows its own start.
pub(crate) const TICK_NS: u64 = 10_000_000;

/// Everything one case did.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Truth {
    pub(crate) case: String,
    /// Process of the case, and the provoker that forked it.
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) cgroup: u64,
    /// `CLOCK_BOOTTIME` at both ends.
    pub(crate) began: u64,
    pub(crate) ended: u64,
    /// Every process the case knows of, with its start in clock ticks.
    pub(crate) started: Vec<(u32, u64)>,
    /// Below this directory every file event must be claimed, but for the kinds in `tolerated`.
    pub(crate) closed: Option<Text>,
    pub(crate) tolerated: Vec<EventKind>,
    pub(crate) claims: Vec<Claim>,
    pub(crate) nevers: Vec<Never>,
    pub(crate) losses: Vec<ExpectedLoss>,
    pub(crate) storms: Vec<Storm>,
    pub(crate) skips: Vec<Skip>,
    /// Why the provocation itself did not work.
    pub(crate) failure: Option<String>,
}

/// One thing that was done and must be in the audit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) step: String,
    /// System call that did it; at level `tracepoint` the capability it depends on.
    pub(crate) call: String,
    /// Any one of these describes it.
    pub(crate) actions: Vec<Action>,
    pub(crate) tgid: u32,
    pub(crate) tid: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) cgroup: Option<u64>,
    /// What the call returned: 0 or more, or a negative errno.
    pub(crate) result: Option<i64>,
    /// It had happened by then.
    pub(crate) by: Option<u64>,
    /// Only this level sees it.
    pub(crate) only: Option<Level>,
    /// Text the call was given as first and second path, which level `tracepoint` may report instead of the path.
    pub(crate) given: Option<Text>,
    pub(crate) given_to: Option<Text>,
    pub(crate) path: PathRule,
    pub(crate) times: Times,
    /// Blind spot that excuses its absence, on a level that states it.
    pub(crate) blind: Option<String>,
}

/// How the path of the action has to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PathRule {
    /// Every byte and every flag.
    #[default]
    Exact,
    /// Longer than any resolver holds: flagged, and the tail of the claimed text.
    Tail,
    /// Deeper than a resolver may walk: exact, or flagged and the tail of the claimed text.
    ExactOrTail,
    /// Not below a root: flagged as unresolved, and the claimed text is part of it.
    Pseudo,
    /// A name the program cannot know: below the claimed text.
    Below,
}

/// How often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Times {
    #[default]
    Once,
    AtLeastOnce,
    /// May be reported, need not be.
    Optional,
}

/// Something that must not be in the audit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Never {
    pub(crate) step: String,
    pub(crate) tgid: u32,
    pub(crate) kind: EventKind,
    /// Bytes that the JSON of such an event would contain.
    pub(crate) containing: String,
    pub(crate) only: Option<Level>,
}

/// A loss the case causes on purpose.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ExpectedLoss {
    pub(crate) step: String,
    pub(crate) kind: String,
    pub(crate) reason: Option<LossReason>,
    pub(crate) at_least: u64,
    pub(crate) only: Option<Level>,
}

/// Many short processes of one parent: pid and exit code of each.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Storm {
    pub(crate) parent: u32,
    pub(crate) children: Vec<(u32, u8)>,
    pub(crate) execs: usize,
}

/// A step this machine cannot do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Skip {
    pub(crate) step: String,
    /// Name that `DEFENSECLAW_EXPECT` uses to forbid this skip.
    pub(crate) needs: String,
    pub(crate) reason: String,
}

impl Claim {
    pub(crate) fn or(&mut self, action: Action) -> &mut Self {
        self.actions.push(action);
        self
    }

    pub(crate) fn result(&mut self, result: i64) -> &mut Self {
        self.result = Some(result);
        self
    }

    pub(crate) fn given(&mut self, text: impl AsRef<[u8]>) -> &mut Self {
        self.given = Some(text.as_ref().into());
        self
    }

    pub(crate) fn given_to(&mut self, text: impl AsRef<[u8]>) -> &mut Self {
        self.given_to = Some(text.as_ref().into());
        self
    }

    pub(crate) fn only(&mut self, level: Level) -> &mut Self {
        self.only = Some(level);
        self
    }

    pub(crate) fn path(&mut self, rule: PathRule) -> &mut Self {
        self.path = rule;
        self
    }

    pub(crate) fn times(&mut self, times: Times) -> &mut Self {
        self.times = times;
        self
    }

    pub(crate) fn blind(&mut self, name: &str) -> &mut Self {
        self.blind = Some(name.to_owned());
        self
    }

    pub(crate) fn tgid(&mut self, tgid: u32) -> &mut Self {
        self.tgid = tgid;
        self.tid = None;
        self
    }

    pub(crate) fn tid(&mut self, tid: u32) -> &mut Self {
        self.tid = Some(tid);
        self
    }

    pub(crate) fn uid(&mut self, uid: u32) -> &mut Self {
        self.uid = Some(uid);
        self
    }

    pub(crate) fn cgroup(&mut self, id: u64) -> &mut Self {
        self.cgroup = Some(id);
        self
    }
}

/// A process by pid and start in ticks; 0 ticks where the start is not known.
pub(crate) fn key(pid: u32, ticks: u64) -> ProcessKey {
    ProcessKey { tgid: pid, start_ns: ticks * TICK_NS }
}

pub(crate) fn kernel_path(text: impl AsRef<[u8]>) -> KernelPath {
    KernelPath { text: text.as_ref().into(), ..KernelPath::default() }
}

/// A change of namespaces, in the words of either level.
pub(crate) fn switched(namespaces: Namespaces, by: NamespaceOp) -> [Action; 2] {
    [
        Action::Namespace { operation: NamespaceOp::Switch, namespaces },
        Action::Namespace { operation: by, namespaces },
    ]
}
