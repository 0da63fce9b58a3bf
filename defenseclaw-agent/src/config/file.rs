//! The daemon's configuration file: YAML, with every mistake said at once and where it is. What a key means and what
//! it is without the file is in docs/configuration.md; [`SCHEMA`] and the reader are tested against each other.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;

use super::ApprovalsConfig;
use crate::{
    model::{Connector, FailMode, Mode, Way},
    policy::{
        PRESETS, Position, Problem, Source,
        document::{Fields, Node, Problems, Reader, parse},
    },
};

/// JSON Schema of the file, for editors.
pub const SCHEMA: &str = include_str!("schema.json");

const KEYS: &[&str] = &[
    "version",
    "socket",
    "audit",
    "policy",
    "mode",
    "profile",
    "control_group",
    "watch",
    "repair",
    "approvals",
    "connectors",
];
const CONNECTOR_KEYS: &[&str] = &["enabled", "mode", "fail_mode", "block_message", "timeout", "ask"];
/// What an agent waits at most for any hook is more than this.
const TIMEOUT_MAX: Duration = Duration::from_secs(14);
const TIMEOUT_MIN: Duration = Duration::from_millis(10);
/// Longest path that a unix socket can have, without its final NUL.
const SOCKET_MAX: usize = 107;

/// What the daemon does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Config {
    /// Where it listens.
    pub socket: PathBuf,
    /// Where it writes the audit.
    pub audit: PathBuf,
    /// Preset or file.
    pub policy: PathBuf,
    /// Before that of the policy's profile.
    pub mode: Option<Mode>,
    /// Profile of the policy; without it, the first that names the connector.
    pub profile: Option<String>,
    /// Group whose members may control the daemon, beside root.
    pub control_group: Option<String>,
    /// Watch the processes of agents that ask, where this user and kernel may.
    pub watch: bool,
    /// A hook that was installed and is taken out, changed or switched off is written back.
    pub repair: bool,
    /// Questions to a person.
    pub approvals: ApprovalsConfig,
    /// Every connector.
    pub connectors: BTreeMap<Connector, ConnectorConfig>,
}

/// What it does for one agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConnectorConfig {
    /// Off: it records, and everything is allowed.
    pub enabled: bool,
    /// Before [`Config::mode`].
    pub mode: Option<Mode>,
    /// What the agent hears when nobody could judge.
    pub fail_mode: FailMode,
    /// What the agent hears instead of a rule's reason.
    pub block_message: Option<String>,
    /// How long a hook may take from start to exit.
    #[serde(rename = "timeout", serialize_with = "as_text")]
    pub timeout: Duration,
    /// How a person is asked in mode hitl; none: as is safe for the agent.
    pub ask: Option<Way>,
}

impl Default for ConnectorConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            mode: None,
            fail_mode: FailMode::Open,
            block_message: None,
            timeout: Duration::from_secs(2),
            ask: None,
        }
    }
}

pub(super) fn as_text<S: serde::Serializer>(timeout: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{}ms", timeout.as_millis()))
}

impl Config {
    /// What holds without a file.
    pub fn new(socket: PathBuf, audit: PathBuf) -> Self {
        Self {
            socket,
            audit,
            policy: "default".into(),
            mode: None,
            profile: None,
            control_group: None,
            watch: true,
            repair: false,
            approvals: ApprovalsConfig::default(),
            connectors: Connector::ALL.iter().map(|name| (*name, ConnectorConfig::default())).collect(),
        }
    }

    /// With what a text says in place of what it does not leave out.
    pub fn read(mut self, name: &str, text: &str) -> Result<Self, Vec<Problem>> {
        let source = Arc::new(Source { name: name.to_owned(), text: text.to_owned() });
        let start = Position { source: Arc::clone(&source), line: 1, column: 1 };
        let mut problems = Problems::default();
        match parse(&source) {
            Ok(Some(node)) => {
                let mut reader = Reader { source: &source, problems: &mut problems };
                self.top(&mut reader, &node, &start);
            }
            Ok(None) => problems.at(&start, "the file is empty", "a configuration starts with version: 1"),
            Err(problem) => problems.add(problem),
        }
        problems.or(self)
    }

    /// The connector's part. Every connector has one.
    pub fn connector(&self, connector: Connector) -> ConnectorConfig {
        self.connectors.get(&connector).cloned().unwrap_or_default()
    }

    fn top(&mut self, reader: &mut Reader<'_>, node: &Node, start: &Position) {
        let Some(fields) = reader.map(node, "a configuration", KEYS) else { return };
        match fields.get("version") {
            Some(version) => {
                if reader.text(version, "version").is_some_and(|text| text != "1") {
                    reader.wrong(version, "this version of the format is unknown", "write version: 1");
                }
            }
            None => reader.problems.at(start, "version is missing", "write version: 1"),
        }
        if let Some(path) = path(reader, &fields, "socket") {
            if path.as_os_str().len() > SOCKET_MAX
                && let Some(node) = fields.get("socket")
            {
                reader.wrong(node, format!("socket has more than {SOCKET_MAX} bytes"), "use a shorter path");
            }
            self.socket = path;
        }
        self.audit = path(reader, &fields, "audit").unwrap_or_else(|| std::mem::take(&mut self.audit));
        if let Some(text) = fields.get("policy").and_then(|node| Some((node, reader.text(node, "policy")?))) {
            let (node, text) = text;
            if !PRESETS.contains(&text) && !text.starts_with('/') {
                let hint = format!("presets are {}; a file needs an absolute path", PRESETS.join(", "));
                reader.wrong(node, format!("there is no preset {text:?}"), hint);
            }
            self.policy = text.into();
        }
        self.mode = mode(reader, &fields).or(self.mode);
        if let Some(node) = fields.get("profile") {
            self.profile = reader.id(node, "profile");
        }
        if let Some(node) = fields.get("control_group") {
            self.control_group = reader.id(node, "control_group");
        }
        if let Some(node) = fields.get("watch") {
            self.watch = reader.flag(node, "watch");
        }
        if let Some(node) = fields.get("repair") {
            self.repair = reader.flag(node, "repair");
        }
        if let Some(node) = fields.get("approvals") {
            self.approvals.read(reader, node);
        }
        let Some(connectors) = fields.get("connectors") else { return };
        for (key, name, value) in reader.pairs(connectors, "connectors").unwrap_or_default() {
            let Some(connector) = Connector::from_name(name) else {
                let names: Vec<_> = Connector::ALL.iter().map(|connector| connector.as_str()).collect();
                reader.wrong(
                    key,
                    format!("there is no connector {name:?}"),
                    format!("connectors are {}", names.join(", ")),
                );
                continue;
            };
            self.connectors.entry(connector).or_default().read(reader, value);
        }
    }
}

impl ConnectorConfig {
    fn read(&mut self, reader: &mut Reader<'_>, node: &Node) {
        let Some(fields) = reader.map(node, "a connector", CONNECTOR_KEYS) else { return };
        if let Some(node) = fields.get("enabled") {
            self.enabled = reader.flag(node, "enabled");
        }
        self.mode = mode(reader, &fields).or(self.mode);
        if let Some(node) = fields.get("fail_mode")
            && let Some(mode) = reader.word(node, "fail_mode", FailMode::ALL, FailMode::as_str)
        {
            self.fail_mode = mode;
        }
        if let Some(node) = fields.get("block_message") {
            self.block_message = reader.text(node, "block_message").map(str::to_owned);
        }
        if let Some(node) = fields.get("ask") {
            self.ask = reader.word(node, "ask", Way::ALL, Way::as_str);
        }
        if let Some(node) = fields.get("timeout")
            && let Some(text) = reader.text(node, "timeout")
        {
            match duration(text) {
                Some(timeout) if (TIMEOUT_MIN..=TIMEOUT_MAX).contains(&timeout) => self.timeout = timeout,
                _ => reader.wrong(
                    node,
                    format!("timeout cannot be {text:?}"),
                    "write seconds or milliseconds from 10ms to 14s, such as 2s or 500ms",
                ),
            }
        }
    }
}

fn mode(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<Mode> {
    fields.get("mode").and_then(|node| reader.word(node, "mode", Mode::ALL, Mode::as_str))
}

fn path(reader: &mut Reader<'_>, fields: &Fields<'_>, key: &str) -> Option<PathBuf> {
    let node = fields.get(key)?;
    let text = reader.text(node, key)?;
    if !Path::new(text).is_absolute() {
        reader.wrong(node, format!("{key} must be an absolute path, not {text:?}"), "begin it with /");
        return None;
    }
    Some(text.into())
}

pub(super) fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u32 = digits.parse().ok()?;
    match text.get(digits.len()..)? {
        "s" => Some(Duration::from_secs(number.into())),
        "ms" => Some(Duration::from_millis(number.into())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, Vec<String>> {
        Config::new("/run/d.sock".into(), "/a.db".into())
            .read("c.yaml", text)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_is_not_said_keeps_its_default() {
        assert_eq!(read("version: 1\n").unwrap(), Config::new("/run/d.sock".into(), "/a.db".into()));
        let config = read(
            "version: 1\nsocket: /s\naudit: /b.db\npolicy: strict\nmode: hitl\nprofile: p\ncontrol_group: g\n\
             approvals: {owner: false, timeout: 5s, open_max: 3}\n\
             connectors:\n  codex: {enabled: false, mode: action, fail_mode: closed, block_message: no, timeout: 500ms, ask: hold}\n",
        )
        .unwrap();
        assert_eq!((config.socket.to_str(), config.mode), (Some("/s"), Some(Mode::Hitl)));
        let approvals = ApprovalsConfig { owner: false, timeout: Duration::from_secs(5), open_max: 3 };
        assert_eq!(config.approvals, approvals);
        let codex = config.connector(Connector::Codex);
        let want = ConnectorConfig {
            enabled: false,
            mode: Some(Mode::Action),
            fail_mode: FailMode::Closed,
            block_message: Some("no".to_owned()),
            timeout: Duration::from_millis(500),
            ask: Some(Way::Hold),
        };
        assert_eq!((codex, config.connector(Connector::Cursor)), (want, ConnectorConfig::default()));
    }

    #[test]
    fn every_mistake_is_said_at_once_with_its_place() {
        let long = "/".repeat(200);
        let text = format!(
            "version: 2\nsocket: {long}\naudit: rel.db\npolicy: nope\nmode: loud\nextra: 1\nconnectors:\n  claude:\n    \
             enabled: true\n  codex:\n    enabled: maybe\n    timeout: 1h\n    fail_mode: ajar\n  cursor:\n    timeout: 99s\n"
        );
        let said = read(&text).unwrap_err();
        for (want, line) in [
            ("version of the format", 1),
            ("socket has more than", 2),
            ("audit must be an absolute path", 3),
            ("no preset \"nope\"", 4),
            ("mode cannot be \"loud\"", 5),
            ("no key \"extra\"", 6),
            ("no connector \"claude\"", 8),
            ("enabled cannot be \"maybe\"", 11),
            ("timeout cannot be \"1h\"", 12),
            ("fail_mode cannot be \"ajar\"", 13),
            ("timeout cannot be \"99s\"", 15),
        ] {
            let place = format!("c.yaml:{line}:");
            assert!(
                said.iter().any(|said| said.starts_with(&place) && said.contains(want)),
                "{want}: {said:#?}"
            );
        }
        assert_eq!(said.len(), 11);
        let said = read("version: 1\napprovals:\n  owner: 2\n  timeout: 0s\n  open_max: none\n  ask: x\n");
        assert_eq!(said.unwrap_err().len(), 4);
        for text in ["", "- a\n", "version: 1\nmode: [\n", "version: 1\nconnectors: 7\n"] {
            assert_eq!(read(text).unwrap_err().len(), 1, "{text}");
        }
    }

    #[test]
    fn the_schema_names_what_the_reader_takes() {
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
        let keys = |value: &serde_json::Value| {
            let mut keys: Vec<String> = value["properties"].as_object().unwrap().keys().cloned().collect();
            keys.sort();
            keys
        };
        let sorted = |names: Vec<&str>| {
            let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
            names.sort();
            names
        };
        assert_eq!(keys(&schema), sorted(KEYS.to_vec()));
        assert_eq!(keys(&schema["$defs"]["connector"]), sorted(CONNECTOR_KEYS.to_vec()));
        assert_eq!(keys(&schema["properties"]["approvals"]), sorted(crate::config::approvals::KEYS.to_vec()));
        let connectors = Connector::ALL.iter().map(|connector| connector.as_str()).collect();
        assert_eq!(keys(&schema["properties"]["connectors"]), sorted(connectors));
    }
}
