//! Whether an event is what a claim describes. What a level may leave out is written down here and nowhere else.

use defenseclaw::model::{Action, Event, FileRef, KernelPath, Level, ProcessKey, Text, UnixName, Vantage};

use crate::truth::{Claim, PathRule, TICK_NS, Truth};

/// Everything in which `event` differs from `claim`; empty: it is the event.
pub(crate) fn differences(claim: &Claim, truth: &Truth, level: Level, event: &Event) -> Vec<String> {
    let mut found = Vec::new();
    let mut differs = |what: &str, expected: &dyn std::fmt::Debug, actual: &dyn std::fmt::Debug| {
        found.push(format!("{what}: expected {expected:?}, recorded {actual:?}"));
    };
    if event.process.tgid != claim.tgid {
        differs("tgid", &claim.tgid, &event.process.tgid);
    }
    if let Some(tid) = claim.tid.filter(|tid| *tid != event.tid) {
        differs("tid", &tid, &event.tid);
    }
    if let Some(uid) = claim.uid.filter(|uid| *uid != event.uid) {
        differs("uid", &uid, &event.uid);
    }
    if let Some(cgroup) = claim.cgroup.filter(|cgroup| *cgroup != event.cgroup) {
        differs("cgroup", &cgroup, &event.cgroup);
    }
    if event.time.0 < truth.began || claim.by.is_some_and(|by| event.time.0 > by) {
        differs("time", &(truth.began, claim.by), &event.time.0);
    }
    match (event.vantage, event.result, claim.result) {
        (_, Some(actual), Some(expected)) if actual != expected => differs("result", &expected, &actual),
        (Vantage::SyscallExit, None, Some(expected)) => differs("result", &expected, &event.result),
        _ => {}
    }
    if event.vantage == Vantage::SyscallExit && level == Level::Lsm {
        differs("vantage", &Vantage::Kernel, &event.vantage);
    }
    let matches = claim.actions.iter().any(|expected| adopt(expected, event, claim, level) == *expected);
    if !matches {
        differs("action", &json(&claim.actions[0]), &json(&event.action));
    }
    found
}

pub(crate) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|err| format!("not JSON: {err}"))
}

/// The recorded action, in which everything that may differ from `expected` is replaced by what was expected.
fn adopt(expected: &Action, event: &Event, claim: &Claim, level: Level) -> Action {
    let mut actual = event.action.clone();
    let given = (claim.given.as_ref(), claim.given_to.as_ref());
    let (rule, exact) = (claim.path, PathRule::Exact);
    let file = |expected: &FileRef, actual: &mut FileRef| {
        // Without a file to ask there is no identity either.
        let blind = level == Level::Tracepoint && actual.path.as_given;
        if expected.ino == 0 || (blind && (actual.dev, actual.ino) == (0, 0)) {
            (actual.dev, actual.ino) = (expected.dev, expected.ino);
        }
        path(&expected.path, &mut actual.path, rule, given.0, level);
    };
    match (expected, &mut actual) {
        (Action::ProcessFork { child: expected, .. }, Action::ProcessFork { child, .. }) => {
            key(*expected, child);
        }
        (Action::ProcessExec(expected), Action::ProcessExec(actual)) => {
            file(&expected.exe, &mut actual.exe);
            path(&expected.cwd, &mut actual.cwd, exact, None, level);
            key(expected.parent, &mut actual.parent);
            if expected.argv_truncated && cut(&expected.argv, &actual.argv) {
                actual.argv.clone_from(&expected.argv);
            }
            let sorted = |list: &[(Text, Text)]| {
                let mut list = list.to_vec();
                list.sort();
                list
            };
            if sorted(&expected.session_env) == sorted(&actual.session_env) {
                actual.session_env.clone_from(&expected.session_env);
            }
        }
        (Action::FileOpen { file: expected, .. }, Action::FileOpen { file: actual, .. })
        | (Action::FileCreate { file: expected, .. }, Action::FileCreate { file: actual, .. })
        | (Action::FileUnlink { file: expected }, Action::FileUnlink { file: actual })
        | (Action::FileChown { file: expected, .. }, Action::FileChown { file: actual, .. })
        | (Action::DirRemove { file: expected }, Action::DirRemove { file: actual }) => {
            file(expected, actual);
        }
        (
            Action::FileRename { file: expected, to, .. },
            Action::FileRename { file: actual, to: actual_to, .. },
        )
        | (Action::FileLink { file: expected, to }, Action::FileLink { file: actual, to: actual_to }) => {
            file(expected, actual);
            path(to, actual_to, exact, given.1, level);
        }
        (Action::FileSymlink { path: expected, .. }, Action::FileSymlink { path: actual, .. }) => {
            path(expected, actual, rule, given.0, level);
        }
        (Action::FileChmod { file: expected, .. }, Action::FileChmod { file: actual, mode }) => {
            file(expected, actual);
            *mode &= 0o7777;
        }
        (
            Action::FileTruncate { file: expected, length: expected_length },
            Action::FileTruncate { file: actual, length },
        ) => {
            file(expected, actual);
            // The LSM hook is not told how long the file will be.
            if event.vantage == Vantage::Kernel && length.is_none() {
                *length = *expected_length;
            }
        }
        (Action::DirMake { path: expected, .. }, Action::DirMake { path: actual, mode }) => {
            path(expected, actual, rule, given.0, level);
            *mode &= 0o7777;
        }
        (Action::DnsAnswer { name: expected, .. }, Action::DnsAnswer { name, aliases, .. }) => {
            // With or without the dot of the root.
            let trim = |text: &mut Text| {
                if text.0.ends_with(b".") && text.0.len() > 1 {
                    text.0.pop();
                }
            };
            if !expected.0.ends_with(b".") {
                trim(name);
                aliases.iter_mut().for_each(trim);
            }
        }
        (
            Action::UnixConnect { name: UnixName::Path(expected), .. },
            Action::UnixConnect { name: UnixName::Path(actual), .. },
        ) => path(expected, actual, rule, given.0, level),
        (
            Action::Ptrace { target: expected, mode: expected_mode, .. },
            Action::Ptrace { target, mode, .. },
        ) => {
            key(*expected, target);
            // The hook's mode and the call's request are different numbers, both for the curious.
            *mode = *expected_mode;
        }
        (Action::Signal { target: Some(expected), .. }, Action::Signal { target: Some(actual), .. }) => {
            key(*expected, actual);
        }
        (
            Action::Mount { target: expected, source: expected_source, .. },
            Action::Mount { target, source, .. },
        ) => {
            path(expected, target, rule, given.0, level);
            // Where the call was given none, the kernel may still know one.
            if expected_source.is_empty() {
                source.0.clear();
            }
        }
        (Action::ModuleLoad { module: expected, .. }, Action::ModuleLoad { module, .. }) => {
            path(expected, module, rule, given.0, level);
        }
        _ => {}
    }
    actual
}

/// A process is known by its pid, and its start to a clock tick.
fn key(expected: ProcessKey, actual: &mut ProcessKey) {
    let same_start = expected.start_ns == 0 || expected.start_ns / TICK_NS == actual.start_ns / TICK_NS;
    if expected.tgid == actual.tgid && same_start {
        *actual = expected;
    }
}

fn path(expected: &KernelPath, actual: &mut KernelPath, rule: PathRule, given: Option<&Text>, level: Level) {
    if actual.as_given {
        // Where there is no file to ask, level `tracepoint` reports what the call was given, behind the directory that
        // it was relative to.
        let same = |given: &Text| {
            let joined = actual.text.0.ends_with(&given.0) && normal(&actual.text.0) == expected.text.0;
            *given == actual.text || joined
        };
        if level == Level::Tracepoint && given.is_some_and(same) {
            actual.clone_from(expected);
        }
        return;
    }
    let tail = actual.truncated && actual.text.0.len() >= 1000 && expected.text.0.ends_with(&actual.text.0);
    let part =
        |needle: &[u8]| needle.is_empty() || actual.text.0.windows(needle.len()).any(|part| part == needle);
    let accepted = match rule {
        PathRule::Exact => false,
        PathRule::Tail | PathRule::ExactOrTail => tail,
        PathRule::Pseudo => actual.unresolved && part(&expected.text.0),
        PathRule::Below => {
            actual.text.0.strip_prefix(&expected.text.0[..]).is_some_and(|rest| rest.starts_with(b"/"))
        }
    };
    if accepted {
        actual.clone_from(expected);
    }
}

/// A path without `.`, `..` and empty components, by its text alone.
fn normal(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            name => kept.push(name),
        }
    }
    kept.iter().flat_map(|name| [&b"/"[..], name]).collect::<Vec<_>>().concat()
}

/// Whether `actual` is the beginning of `expected`, as far as four kilobytes go.
fn cut(expected: &[Text], actual: &[Text]) -> bool {
    let joined = |list: &[Text]| list.iter().map(|text| &text.0[..]).collect::<Vec<_>>().join(&0);
    let (expected, actual) = (joined(expected), joined(actual));
    expected.starts_with(&actual) && (4090..=4096).contains(&actual.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(expected: &KernelPath, actual: KernelPath, rule: PathRule, level: Level) -> bool {
        let mut actual = actual;
        path(expected, &mut actual, rule, Some(&"given".into()), level);
        actual == *expected
    }

    #[test]
    fn a_path_as_given_excuses_level_tracepoint_only() {
        let real = KernelPath::from("/real/given");
        let given = KernelPath { as_given: true, ..KernelPath::from("given") };
        let other = KernelPath { as_given: true, ..KernelPath::from("other") };
        assert!(after(&real, given.clone(), PathRule::Exact, Level::Tracepoint));
        let joined = KernelPath { as_given: true, ..KernelPath::from("/else/../real/./given") };
        assert!(after(&real, joined, PathRule::Exact, Level::Tracepoint));
        let elsewhere = KernelPath { as_given: true, ..KernelPath::from("/else/given") };
        assert!(!after(&real, elsewhere, PathRule::Exact, Level::Tracepoint));
        assert!(!after(&real, given, PathRule::Exact, Level::Lsm));
        assert!(!after(&real, other, PathRule::Exact, Level::Tracepoint));
        assert!(!after(&real, KernelPath::from("given"), PathRule::Exact, Level::Tracepoint));
    }

    #[test]
    fn a_tail_has_to_be_flagged_and_long() {
        let long = format!("/{}", "a".repeat(5000));
        let expected = KernelPath { truncated: true, ..KernelPath::from(&long[..]) };
        let tail =
            |length: usize, truncated| KernelPath { truncated, ..KernelPath::from(&long[5001 - length..]) };
        assert!(after(&expected, tail(4000, true), PathRule::Tail, Level::Lsm));
        assert!(!after(&expected, tail(4000, false), PathRule::Tail, Level::Lsm));
        assert!(!after(&expected, tail(100, true), PathRule::Tail, Level::Lsm));
        assert!(!after(&expected, tail(4000, true), PathRule::Exact, Level::Lsm));
    }

    #[test]
    fn a_start_is_known_to_the_tick() {
        let expected = ProcessKey { tgid: 7, start_ns: 3 * TICK_NS };
        for (start_ns, same) in [(3 * TICK_NS + 1, true), (4 * TICK_NS, false), (3 * TICK_NS - 1, false)] {
            let mut actual = ProcessKey { tgid: 7, start_ns };
            key(expected, &mut actual);
            assert_eq!(actual == expected, same, "{start_ns}");
        }
    }
}
