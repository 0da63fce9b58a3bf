//! Which rows of the audit a request asks for, as its query says it. Both ends use the same words.

use std::time::Duration;

use form_urlencoded::{Serializer, parse};

use crate::model::{EventKind, SessionId};

/// Rows of one answer, at most.
const LIMIT_MAX: u64 = 4096;
/// The longest that a request waits for rows; the request itself may take a little longer.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Types of rows that can be asked for.
const RECORDS: [&str; 15] = [
    "session_start",
    "event",
    "policy_loaded",
    "policy_refused",
    "posture",
    "handover",
    "hook",
    "correlated",
    "finding",
    "asked",
    "settled",
    "granted",
    "grant_ended",
    "loss",
    "session_end",
];

/// Rows behind `after`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Of this session.
    pub session: Option<SessionId>,
    /// With greater numbers than this.
    pub after: u64,
    /// At most so many.
    pub limit: u64,
    /// Wait so long if there are none.
    pub wait: Duration,
    /// Events of these kinds only.
    pub kinds: Vec<EventKind>,
    /// Of these types only, as rows name them: a type that there is.
    pub records: Vec<&'static str>,
    /// About paths that match.
    pub path: Option<String>,
    /// Only what was blocked.
    pub blocked: bool,
    /// Only what went through although policy has something to say of it; with `blocked`, both.
    pub alerts: bool,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            session: None,
            after: 0,
            limit: LIMIT_MAX,
            wait: Duration::ZERO,
            kinds: Vec::new(),
            records: Vec::new(),
            path: None,
            blocked: false,
            alerts: false,
        }
    }
}

impl Wanted {
    /// From a query; what is wrong with it otherwise.
    pub fn parse(query: &str) -> Result<Self, String> {
        let mut wanted = Self::default();
        for (name, value) in parse(query.as_bytes()) {
            let wrong = || format!("{name} cannot be {value:?}");
            let number = || value.parse::<u64>().ok().ok_or_else(wrong);
            let flag = || match &*value {
                "1" | "true" => Ok(true),
                "0" | "false" => Ok(false),
                _ => Err(wrong()),
            };
            match &*name {
                "session" => wanted.session = Some(value.parse().ok().ok_or_else(wrong)?),
                "after" => wanted.after = number()?,
                "limit" => wanted.limit = number()?.clamp(1, LIMIT_MAX),
                "wait_ms" => wanted.wait = Duration::from_millis(number()?).min(WAIT_MAX),
                "kind" => wanted.kinds.push(EventKind::from_name(&value).ok_or_else(wrong)?),
                "record" => {
                    wanted.records.push(RECORDS.into_iter().find(|name| *name == value).ok_or_else(wrong)?);
                }
                "path" => wanted.path = Some(value.into_owned()),
                "blocked" => wanted.blocked = flag()?,
                "alerts" => wanted.alerts = flag()?,
                _ => return Err(format!("there is no {name:?} to ask for")),
            }
        }
        Ok(wanted)
    }

    /// The query that says it.
    pub fn query(&self) -> String {
        let mut query = Serializer::new(String::new());
        query.append_pair("after", &self.after.to_string()).append_pair("limit", &self.limit.to_string());
        if let Some(session) = self.session {
            query.append_pair("session", &session.to_string());
        }
        if !self.wait.is_zero() {
            query.append_pair("wait_ms", &self.wait.as_millis().to_string());
        }
        for kind in &self.kinds {
            query.append_pair("kind", kind.as_str());
        }
        for name in &self.records {
            query.append_pair("record", name);
        }
        if let Some(path) = &self.path {
            query.append_pair("path", path);
        }
        for (name, _) in [("blocked", self.blocked), ("alerts", self.alerts)].iter().filter(|flag| flag.1) {
            query.append_pair(name, "1");
        }
        query.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_what_is_heard() {
        let all = Wanted {
            session: Some(SessionId(0xabc)),
            after: 7,
            limit: 9,
            wait: Duration::from_secs(2),
            kinds: vec![EventKind::FileOpen, EventKind::ProcessExec],
            records: vec!["finding", "posture"],
            path: Some("/a b/&=%/**".to_owned()),
            blocked: true,
            alerts: true,
        };
        assert_eq!(Wanted::parse(&all.query()), Ok(all));
        assert_eq!(Wanted::parse(""), Ok(Wanted::default()));
        assert_eq!(Wanted::parse(&Wanted::default().query()), Ok(Wanted::default()));
        let bounded = Wanted::parse("limit=0&wait_ms=999999999").unwrap();
        assert_eq!((bounded.limit, bounded.wait), (1, WAIT_MAX));
        for wrong in [
            "after=-1",
            "session=1",
            "kind=nothing",
            "record=nothing",
            "blocked=yes",
            "offset=1",
            "limit=%ff",
        ] {
            Wanted::parse(wrong).unwrap_err();
        }
    }
}
