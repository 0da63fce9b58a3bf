//! What is recognised in texts without being told: tokens and keys by the form that their makers gave them, marks of
//! text that speaks to a model instead of a person, and data on its way out. A detector is a few words that are looked
//! for in one pass, and a regular expression for texts that have one of them. Everything here takes time linear in the
//! text. Meant to be quiet on ordinary work: what looks like an example is none.

use std::{collections::BTreeSet, ops::Range, sync::LazyLock};

use aho_corasick::{AhoCorasick, AhoCorasickBuilder};
use regex::{Captures, Regex, RegexBuilder};

/// What a detector is about. Each is also a name for all of its detectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What opens something; never kept.
    Secrets,
    /// Text that means to instruct a model.
    Injection,
    /// Data on its way out.
    Exfiltration,
}

impl Kind {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Secrets, Self::Injection, Self::Exfiltration];

    /// The word in policies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secrets => "secrets",
            Self::Injection => "injection",
            Self::Exfiltration => "exfiltration",
        }
    }
}

/// A detector: its place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Detector(u8);

/// Where a detector has found something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// Which.
    pub detector: Detector,
    /// Bytes of the text: of what is secret if it is a secret, otherwise of everything that was recognised.
    pub range: Range<usize>,
}

/// Matches of one detector in one text. More are not looked for: such a text is given up.
pub(super) const MATCHES_MAX: usize = 1024;

struct Row {
    name: &'static str,
    kind: Kind,
    /// One of these is in every match, in any case.
    words: &'static [&'static [u8]],
    /// What is secret is its first group, if it has one.
    pattern: &'static str,
    genuine: fn(&Captures<'_>) -> bool,
}

const fn secret(
    name: &'static str,
    words: &'static [&'static [u8]],
    pattern: &'static str,
    genuine: fn(&Captures<'_>) -> bool,
) -> Row {
    Row { name, kind: Kind::Secrets, words, pattern, genuine }
}

const fn injection(
    name: &'static str,
    words: &'static [&'static [u8]],
    pattern: &'static str,
    genuine: fn(&Captures<'_>) -> bool,
) -> Row {
    Row { name, kind: Kind::Injection, words, pattern, genuine }
}

const TABLE: &[Row] = &[
    secret("aws-access-key", &[b"AKIA", b"ASIA"], r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b", |found| {
        is_random(found, 9)
    }),
    secret(
        "aws-secret-key",
        &[b"secret_access_key", b"secretaccesskey", b"secret_key", b"secretkey"],
        r#"(?i)aws_?(?:secret_?)(?:access_?)?key["']?(?:\s|\\?")*(?:=>|[=:\s])(?:\s|\\?["'])*([A-Za-z0-9/+]{40})(?:[^A-Za-z0-9/+=]|$)"#,
        |found| is_random(found, 15),
    ),
    secret("anthropic-key", &[b"sk-ant-"], r"\bsk-ant-[a-z]+[0-9]*-[A-Za-z0-9_-]{32,}", |found| {
        is_random(found, 15)
    }),
    secret(
        "openai-key",
        &[b"sk-"],
        r"\bsk-(?:(?:proj|svcacct|admin)-[A-Za-z0-9_-]{32,}|[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}|[A-Za-z0-9]{48})\b",
        |found| is_random(found, 15) && is_mixed(found),
    ),
    secret("stripe-key", &[b"sk_live_", b"rk_live_"], r"\b[sr]k_live_[A-Za-z0-9]{20,}", |found| {
        is_random(found, 12)
    }),
    secret(
        "github-token",
        &[b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"github_pat_"],
        r"\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59})\b",
        |found| is_random(found, 15),
    ),
    secret(
        "gitlab-token",
        &[b"glpat-", b"gldt-", b"glrt-", b"glptt-", b"glcbt-", b"glsoat-", b"glagent-"],
        r"\bgl(?:pat|dt|rt|ptt|cbt|soat|agent)-[A-Za-z0-9_-]{20,}",
        |found| is_random(found, 11) && has_digit(found),
    ),
    secret("npm-token", &[b"npm_"], r"\bnpm_[A-Za-z0-9]{36}\b", |found| {
        is_random(found, 15) && is_mixed(found)
    }),
    secret("pypi-token", &[b"pypi-AgE"], r"\bpypi-AgE[A-Za-z0-9_-]{50,}", |found| is_random(found, 15)),
    secret("google-api-key", &[b"AIza"], r"\b(AIza[A-Za-z0-9_-]{35})(?:[^A-Za-z0-9_-]|$)", |found| {
        is_random(found, 15) && is_mixed(found)
    }),
    secret(
        "slack-token",
        &[b"xoxa-", b"xoxb-", b"xoxe-", b"xoxo-", b"xoxp-", b"xoxr-", b"xoxs-", b"xapp-"],
        r"\b(?:xox[abeoprs]-[A-Za-z0-9-]{20,}|xapp-[0-9]-[A-Z0-9]+-[0-9]+-[a-z0-9]{20,})",
        |found| is_random(found, 10) && has_digit(found),
    ),
    secret(
        "slack-webhook",
        &[b"hooks.slack.com"],
        r"https://hooks\.slack\.com/(?:services|workflows)/(T[A-Za-z0-9]{6,}/[A-Za-z0-9]{6,}/[A-Za-z0-9]{20,})",
        |found| is_random(found, 12),
    ),
    secret(
        "discord-webhook",
        &[b"/api/webhooks/"],
        r"https://(?:ptb\.|canary\.)?discord(?:app)?\.com/api/webhooks/[0-9]{15,}/([A-Za-z0-9_-]{50,})",
        |found| is_random(found, 15),
    ),
    secret("sendgrid-key", &[b"SG."], r"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}", |found| {
        is_random(found, 15)
    }),
    secret(
        "private-key",
        &[b"PRIVATE KEY"],
        // With its end if that follows on what keys consist of, in files and in strings of source code.
        r#"-----BEGIN (?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)?-----(?:[A-Za-z0-9+/=\s\\:,."'()-]*?-----END (?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)?-----|[A-Za-z0-9+/=\s\\]*)"#,
        is_key,
    ),
    secret(
        "jwt",
        &[b"eyJ"],
        r"\beyJ[A-Za-z0-9_-]{15,}\.eyJ[A-Za-z0-9_-]{15,}\.[A-Za-z0-9_-]{20,}",
        |found| is_random(found, 20),
    ),
    secret(
        "connection-string",
        &[b"://"],
        r#"\b(?:mongodb(?:\+srv)?|postgres(?:ql)?|mysql|mariadb|rediss?|amqps?|mssql|sqlserver)://[^:@\s/"'<>`]{0,64}:([^@\s/"'<>`]{6,128})@([^\s"'<>`/:@,?]+)"#,
        is_password,
    ),
    secret("bearer-token", &[b"bearer"], r"(?i)\bbearer\s+([A-Za-z0-9._~+-]{24,}=*)", |found| {
        is_random(found, 15) && is_mixed(found)
    }),
    injection(
        "ignore-previous",
        &[b"ignore", b"disregard", b"forget", b"override"],
        r"(?i)\b(?:ignore|disregard|forget|override)\s+(?:(?:any|all|of|the|your|my|these|those)\s+){0,4}(?:previous|prior|above|earlier|preceding|original|existing|system|safety)\s+(?:system\s+|safety\s+)?(?:instructions?|prompts?|directions|directives?|guidelines)\b",
        |_| true,
    ),
    injection(
        "new-instructions",
        &[b"your new", b"your real", b"your true", b"your actual", b"system prompt", b"system instruction"],
        r"(?i)\byour\s+(?:new|real|true|actual)\s+(?:instructions?|objective|goal|orders|directive)s?\s+(?:is|are)\b|\b(?:new|updated|revised|real)\s+system\s+(?:prompt|instructions?)\s*:",
        |_| true,
    ),
    injection(
        "fake-system-tag",
        &[b"<|im_start|>", b"<|start_header_id|>", b"<<SYS>>", b"<system-reminder>", b"</function_results>"],
        r"(?i)<\|im_start\|>\s*(?:system|developer)\b|<\|start_header_id\|>\s*system\b|\[INST\]\s*<<SYS>>|<system-reminder>|</function_results>",
        |_| true,
    ),
    injection(
        "hidden-text",
        // The first bytes of Unicode's tags and variation selectors.
        &[b"\xf3\xa0", b"\xef\xb8\x80", b"\xef\xb8\x81"],
        r"\x{1F3F4}?[\x{E0020}-\x{E007E}]{4,}|[\x{FE00}-\x{FE0F}\x{E0100}-\x{E01EF}]{8,}",
        // A flag of a part of a country is written so.
        |found| found.get(0).is_some_and(|text| !text.as_str().starts_with('\u{1F3F4}') || text.len() > 32),
    ),
    injection(
        "zero-width",
        &[b"\xe2\x80\x8b", b"\xe2\x80\x8c", b"\xe2\x80\x8d", b"\xe2\x81\xa0", b"\xef\xbb\xbf"],
        r"(?:[A-Za-z][\x{200B}-\x{200D}\x{2060}\x{FEFF}]{1,8}){3,}[A-Za-z]|[\x{200B}-\x{200D}\x{2060}\x{FEFF}]{8,}",
        |_| true,
    ),
    injection(
        "bidi-override",
        &[
            b"\xe2\x80\xaa",
            b"\xe2\x80\xab",
            b"\xe2\x80\xad",
            b"\xe2\x80\xae",
            b"\xe2\x81\xa6",
            b"\xe2\x81\xa7",
        ],
        r"[\x{202A}\x{202B}\x{202D}\x{202E}\x{2066}\x{2067}]",
        |_| true,
    ),
    Row {
        name: "markdown-image",
        kind: Kind::Exfiltration,
        words: &[b"]("],
        pattern: r"!\[[^\]\n]{0,200}\]\(\s*<?(https?://[^)\s>?]{1,500})\?(?:[^)\s>]{0,500}&)?([A-Za-z0-9_.-]{1,40})=([A-Za-z0-9%+/_=-]{40,})",
        genuine: is_unusual,
    },
];

/// What people write where a secret would be.
const EXAMPLES: &[&str] = &[
    "example",
    "xxxx",
    "placeholder",
    "changeme",
    "redacted",
    "your_",
    "your-",
    "dummy",
    "00000000",
    "12345678",
    "abcdefgh",
    "********",
];

/// What is secret: the first group, or everything.
fn value<'t>(found: &Captures<'t>) -> &'t str {
    found.get(1).or_else(|| found.get(0)).map_or("", |value| value.as_str())
}

/// So many different characters, and none of the words that stand for a secret.
fn is_random(found: &Captures<'_>, distinct: usize) -> bool {
    let text = value(found);
    let lower = text.to_ascii_lowercase();
    let characters: BTreeSet<char> = text.chars().collect();
    characters.len() >= distinct && !EXAMPLES.iter().any(|example| lower.contains(example))
}

fn has_digit(found: &Captures<'_>) -> bool {
    value(found).bytes().any(|byte| byte.is_ascii_digit())
}

/// Digits and letters of both cases: neither a name nor a number.
fn is_mixed(found: &Captures<'_>) -> bool {
    let text = value(found);
    has_digit(found)
        && text.bytes().any(|byte| byte.is_ascii_uppercase())
        && text.bytes().any(|byte| byte.is_ascii_lowercase())
}

/// The marks alone stand in every program that reads keys.
fn is_key(found: &Captures<'_>) -> bool {
    let inner = value(found).split("-----").nth(2).unwrap_or_default();
    let run = |line: &str| line.len() >= 40 && line.bytes().collect::<BTreeSet<u8>>().len() >= 12;
    inner.split(|c: char| !(c.is_ascii_alphanumeric() || "+/=".contains(c))).any(run)
}

/// Not what stands in every example of a connection, and not on this machine.
fn is_password(found: &Captures<'_>) -> bool {
    let password = value(found).to_ascii_lowercase();
    let host = found.get(2).map_or("", |host| host.as_str());
    let usual =
        ["password", "postgres", "secret", "passwd", "example", "test", "guest", "root", "admin", "xxx"];
    let written = |c: char| "${}<>*%[]".contains(c);
    host.contains('.')
        && !host.starts_with("127.")
        && !host.contains("example")
        && !password.contains(written)
        && !usual.iter().any(|word| password.contains(word))
}

/// Pictures that carry long values in their address for reasons of their own.
fn is_unusual(found: &Captures<'_>) -> bool {
    let part = |at: usize| found.get(at).map_or("", |part| part.as_str());
    let host = part(1).split('/').nth(2).unwrap_or_default();
    let usual = ["githubusercontent.com", "shields.io", "github.com", "googleusercontent.com"];
    let signed = part(2).to_ascii_lowercase();
    let known = usual.iter().any(|name| host == *name || host.ends_with(&format!(".{name}")));
    !(known || signed.starts_with("x-amz") || signed.contains("signature"))
}

struct Engine {
    words: AhoCorasick,
    /// Of each word, its detector.
    owners: Vec<usize>,
    patterns: Vec<Regex>,
}

/// Built once. The table is ours and is tested, so it always builds; without it nothing would be found.
static ENGINE: LazyLock<Option<Engine>> = LazyLock::new(|| {
    let mut words: Vec<&[u8]> = Vec::new();
    let mut owners = Vec::new();
    let mut patterns = Vec::new();
    for (at, row) in TABLE.iter().enumerate() {
        words.extend(row.words);
        owners.resize(words.len(), at);
        // Of ASCII alone: a boundary between other letters would cost the fast engine.
        let pattern = row.pattern.replace(r"\b", r"(?-u:\b)");
        patterns.push(RegexBuilder::new(&pattern).size_limit(4 << 20).build().ok()?);
    }
    let words = AhoCorasickBuilder::new().ascii_case_insensitive(true).build(words).ok()?;
    Some(Engine { words, owners, patterns })
});

impl Detector {
    /// Every one.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..TABLE.len()).filter_map(|at| u8::try_from(at).ok()).map(Self)
    }

    fn row(self) -> Option<&'static Row> {
        TABLE.get(usize::from(self.0))
    }

    /// Its name in policies.
    pub fn as_str(self) -> &'static str {
        self.row().map_or("", |row| row.name)
    }

    /// What it is about.
    pub fn kind(self) -> Kind {
        self.row().map_or(Kind::Injection, |row| row.kind)
    }

    /// What a name in a policy means: one detector, or all of a kind.
    pub fn named(name: &str) -> Vec<Self> {
        Self::all().filter(|found| found.as_str() == name || found.kind().as_str() == name).collect()
    }
}

/// Everything that detectors find in a text, by detector, in its order.
pub fn detect(text: &str) -> Vec<Match> {
    let Some(engine) = ENGINE.as_ref() else { return Vec::new() };
    let mut possible = vec![false; TABLE.len()];
    for word in engine.words.find_overlapping_iter(text) {
        let owner = engine.owners.get(word.pattern().as_usize());
        if let Some(possible) = owner.and_then(|owner| possible.get_mut(*owner)) {
            *possible = true;
        }
    }
    let mut found = Vec::new();
    for (detector, _) in Detector::all().zip(possible).filter(|(_, possible)| *possible) {
        let at = usize::from(detector.0);
        let (Some(row), Some(pattern)) = (TABLE.get(at), engine.patterns.get(at)) else { continue };
        let genuine = pattern.captures_iter(text).filter(|captures| (row.genuine)(captures));
        let group = |captures: &Captures<'_>| {
            let whole = captures.get(0);
            let own = if row.kind == Kind::Secrets { captures.get(1).or(whole) } else { whole };
            own.map(|own| own.range())
        };
        let ranges = genuine.filter_map(|captures| group(&captures)).take(MATCHES_MAX);
        found.extend(ranges.map(|range| Match { detector, range }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_builds_and_names_are_unique() {
        assert!(ENGINE.is_some());
        let names: BTreeSet<_> = Detector::all().map(Detector::as_str).collect();
        assert_eq!(names.len(), TABLE.len());
        assert!(Kind::ALL.iter().all(|kind| !names.contains(kind.as_str())));
        assert!(Detector::named("secrets").len() > 10 && Detector::named("jwt").len() == 1);
        assert!(Detector::named("x").is_empty());
    }
}
