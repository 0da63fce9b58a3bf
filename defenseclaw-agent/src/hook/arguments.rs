//! The arguments of a hook. What is not understood is remembered, not refused: an agent would take the refusal for an
//! answer.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use crate::model::{Connector, FailMode};

/// How long a hook takes at most, unless it is told otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(2);
/// Exit code when not even the connector is known.
pub const EXIT_USAGE: u8 = 1;

/// What a hook was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arguments {
    /// In whose words it answers.
    pub connector: Connector,
    /// Where the daemon is.
    pub socket: PathBuf,
    /// What is said when the daemon says nothing.
    pub fail: FailMode,
    /// From start to exit, unless the answer is held.
    pub timeout: Duration,
    /// From start to exit if it is: a person is asked. Not more than `timeout` means that nothing is held.
    pub hold: Duration,
    /// What could not be understood.
    pub wrong: Option<String>,
}

impl Arguments {
    /// Reads `CONNECTOR [--socket PATH] [--fail open|closed] [--timeout-ms N] [--hold-ms N]`; the
    /// socket may be in the environment.
    pub fn read(
        arguments: &[OsString],
        environment: impl Fn(&str) -> Option<OsString>,
        root: bool,
    ) -> Result<Self, String> {
        let mut words = arguments.iter();
        let name = words.next().map(|word| word.to_string_lossy()).unwrap_or_default();
        let connector = Connector::from_name(&name).ok_or_else(|| {
            let names: Vec<_> = Connector::ALL.iter().map(|connector| connector.as_str()).collect();
            format!("{name:?} is none of {}", names.join(", "))
        })?;
        let mut read = Self {
            connector,
            socket: PathBuf::new(),
            fail: FailMode::Open,
            timeout: TIMEOUT,
            hold: Duration::ZERO,
            wrong: None,
        };
        while let Some(flag) = words.next() {
            let value = words.next();
            let text = value.map(|value| value.to_string_lossy()).unwrap_or_default();
            let understood = match (flag.to_str().unwrap_or_default(), value) {
                ("--socket", Some(path)) => {
                    read.socket = path.into();
                    true
                }
                ("--fail", _) => match FailMode::from_name(&text) {
                    Some(mode) => {
                        read.fail = mode;
                        true
                    }
                    None => false,
                },
                ("--timeout-ms", _) => millis(&text, 60_000, &mut read.timeout),
                ("--hold-ms", _) => millis(&text, 600_000, &mut read.hold),
                _ => false,
            };
            if !understood {
                read.wrong = Some(format!("{} {text}", flag.to_string_lossy()));
            }
        }
        if read.socket.as_os_str().is_empty() {
            let absolute = |name| environment(name).map(PathBuf::from).filter(|path| path.is_absolute());
            // As in `config`, which is not read here.
            let own = || {
                absolute("XDG_RUNTIME_DIR")
                    .or_else(|| absolute("HOME").map(|home| home.join(".defenseclaw/run")))
            };
            let place = if root { Some("/run".into()) } else { own() };
            read.socket = absolute("DEFENSECLAW_SOCKET")
                .or_else(|| place.map(|place: PathBuf| place.join("defenseclaw/daemon.sock")))
                .unwrap_or_default();
        }
        Ok(read)
    }
}

fn millis(text: &str, max: u64, into: &mut Duration) -> bool {
    let read = text.parse().ok().filter(|millis| (1..=max).contains(millis)).map(Duration::from_millis);
    *into = read.unwrap_or(*into);
    read.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str], environment: &[(&str, &str)]) -> Result<Arguments, String> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let find =
            |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        Arguments::read(&words, find, false)
    }

    #[test]
    fn what_is_told_counts_then_the_environment_then_the_user() {
        let told = read(&["codex", "--fail", "closed", "--socket", "/s", "--timeout-ms", "9"], &[]).unwrap();
        assert_eq!((told.socket.to_str(), told.fail), (Some("/s"), FailMode::Closed));
        assert_eq!((told.timeout, told.wrong), (Duration::from_millis(9), None));
        assert_eq!(told.hold, Duration::ZERO, "nobody said that it may be held");
        let held = read(&["codex", "--hold-ms", "90000"], &[]).unwrap();
        assert_eq!((held.hold, held.timeout), (Duration::from_secs(90), TIMEOUT));
        let user = [("XDG_RUNTIME_DIR", "/run/user/7"), ("HOME", "/h")];
        let all = [("DEFENSECLAW_SOCKET", "/e"), ("HOME", "/h")];
        for (environment, want) in [
            (&all[..], "/e"),
            (&user[..], "/run/user/7/defenseclaw/daemon.sock"),
            (&user[1..], "/h/.defenseclaw/run/defenseclaw/daemon.sock"),
            (&[], ""),
        ] {
            assert_eq!(read(&["codex"], environment).unwrap().socket.to_str(), Some(want));
        }
    }

    #[test]
    fn what_is_not_understood_does_not_lose_the_fail_mode() {
        for words in [
            &["codex", "--new", "x", "--fail", "closed"][..],
            &["codex", "--fail", "closed", "--timeout-ms", "soon"],
            &["codex", "--fail", "closed", "--hold-ms", "600001"],
            &["codex", "--fail", "closed", "--fail", "ajar"],
            &["codex", "--fail", "closed", "--socket"],
        ] {
            let read = read(words, &[]).unwrap();
            assert!(read.fail == FailMode::Closed && read.wrong.is_some(), "{read:?}");
        }
        assert!(read(&[], &[]).is_err() && read(&["--fail", "closed"], &[]).is_err());
    }
}
