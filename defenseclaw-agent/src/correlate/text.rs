//! How the arguments of a program speak of an announced call: the announced text in them, the announced words, a value
//! that was passed to the tool. Agents wrap shell text in their own; how each does it is not known here.

use serde_json::Value;

use crate::model::{Evidence, Exec, Intent, Target, Text, ToolCall};

/// Bytes of announced text that are compared.
const TEXT_MAX: usize = 16 << 10;
/// Values of a tool's input that may show up as arguments, and their lengths.
const VALUES_MAX: usize = 16;
const VALUE_LENGTHS: std::ops::RangeInclusive<usize> = 3..=1024;
/// Text of this length is found by chance nowhere.
const TELLING: usize = 8;
/// Likewise at the end of arguments that were cut.
const TELLING_PREFIX: usize = 32;
const SHELLS: [&[u8]; 7] = [b"sh", b"bash", b"dash", b"zsh", b"ksh", b"fish", b"busybox"];

/// How well a program fits a call. Of two, the greater fits better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fit {
    rank: u8,
    /// A wrapper may hold a short command by chance, or as part of a longer one.
    length: usize,
}

impl Fit {
    pub(super) fn evidence(self) -> Evidence {
        match self.rank {
            4 => Evidence::CallId,
            3 => Evidence::Text,
            2 => Evidence::Words,
            _ => Evidence::Argument,
        }
    }
}

/// What is looked for in arguments.
#[derive(Debug, Default)]
pub(super) struct Announced {
    id: Option<String>,
    /// As it was passed, and as it looks between single quotes.
    text: Option<[Vec<u8>; 3]>,
    words: Vec<String>,
    values: Vec<String>,
}

impl Announced {
    pub(super) fn new(call: &ToolCall) -> Self {
        let words = command_words(&call.input);
        let text = command_text(&call.input).or_else(|| words.last().cloned());
        let text = text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let known = call.intents.iter().find_map(|intent| {
            let Intent::Exec(words) = intent else { return None };
            words.iter().map(Target::value).collect::<Option<Vec<_>>>()
        });
        let known = known.map(|words| words.into_iter().map(str::to_owned).collect::<Vec<_>>());
        // Of shell text only a single command is its words.
        let execs = call.intents.iter().filter(|intent| matches!(intent, Intent::Exec(_))).count();
        let words = if words.len() > 1 { words } else { known.filter(|_| execs == 1).unwrap_or_default() };
        let mut values = Vec::new();
        if text.is_none() {
            collect(&call.input, 2, &mut values);
        }
        Self { id: call.id.clone(), text: text.map(|text| quotings(&text)), words, values }
    }

    /// Its text can be looked for in arguments.
    pub(super) fn has_text(&self) -> bool {
        self.text.is_some() || !self.words.is_empty()
    }

    pub(super) fn fit(&self, exec: &Exec) -> Option<Fit> {
        let names_call = |(_, value): &(Text, Text)| {
            self.id.as_ref().is_some_and(|id| !id.is_empty() && value.0 == id.as_bytes())
        };
        if exec.session_env.iter().any(names_call) {
            return Some(Fit { rank: 4, length: 0 });
        }
        if let Some(texts) = &self.text
            && texts
                .iter()
                .any(|text| exec.argv.iter().any(|argument| holds(&argument.0, text)) || begins(exec, text))
        {
            return Some(Fit { rank: 3, length: texts.first().map_or(0, Vec::len) });
        }
        if is_command(&exec.argv, &self.words) {
            return Some(Fit { rank: 2, length: self.words.iter().map(String::len).sum() });
        }
        let passed = self
            .values
            .iter()
            .filter(|value| exec.argv.iter().skip(1).any(|argument| argument.0 == value.as_bytes()));
        passed.map(String::len).max().map(|length| Fit { rank: 1, length })
    }
}

/// Whether arguments tell which command this is: of a shell that reads a file or its input they do not.
pub(super) fn tells(exec: &Exec) -> bool {
    !exec.argv_truncated && (!is_shell(&exec.exe.path.text.0) || shell_text(&exec.argv).is_some())
}

pub(super) fn is_shell(program: &[u8]) -> bool {
    SHELLS.contains(&base(program))
}

/// The text that a shell was told to run.
pub(super) fn shell_text(argv: &[Text]) -> Option<&[u8]> {
    let is_flag =
        |word: &&Text| word.0.starts_with(b"-") && !word.0.starts_with(b"--") && word.0.contains(&b'c');
    let at =
        argv.iter().skip(1).take_while(|word| word.0.starts_with(b"-")).position(|word| is_flag(&word))?;
    // Behind the flag, and behind the flags that follow it.
    argv.get(at + 2..)?.iter().find(|word| !word.0.starts_with(b"-")).map(|word| word.0.as_slice())
}

/// Last component of a path.
pub(super) fn base(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

pub(super) fn contains(text: &[u8], part: &[u8]) -> bool {
    find(text, part).is_some()
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() {
        return None;
    }
    text.windows(part.len()).position(|window| window == part)
}

/// Whether an argument is the text, or holds it where it cannot be a part of something else.
fn holds(argument: &[u8], text: &[u8]) -> bool {
    if argument.trim_ascii() == text {
        return true;
    }
    let mut rest = argument;
    let mut before = None;
    while let Some(at) = find(rest, text) {
        if text.len() >= TELLING {
            return true;
        }
        let left = if at == 0 { before } else { rest.get(at - 1).copied() };
        let right = rest.get(at + text.len()).copied();
        let same = left == right && left.is_none_or(|byte| b"\n'\"".contains(&byte));
        // A line of its own, also the first or the last one.
        let line = [left, right].iter().all(|byte| byte.is_none_or(|byte| byte == b'\n'));
        if same || line {
            return true;
        }
        before = rest.get(at).copied();
        rest = rest.get(at + 1..).unwrap_or_default();
    }
    false
}

/// Whether arguments that were cut end with the beginning of the text.
fn begins(exec: &Exec, text: &[u8]) -> bool {
    let (true, Some(last)) = (exec.argv_truncated, exec.argv.last()) else { return false };
    let Some(start) = text.get(..TELLING_PREFIX) else { return false };
    find(&last.0, start).and_then(|at| last.0.get(at..)).is_some_and(|tail| text.starts_with(tail))
}

fn is_command(argv: &[Text], words: &[String]) -> bool {
    let (Some((program, rest)), Some((name, arguments))) = (argv.split_first(), words.split_first()) else {
        return false;
    };
    base(&program.0) == base(name.as_bytes())
        && rest.len() == arguments.len()
        && rest.iter().zip(arguments).all(|(argument, word)| argument.0 == word.as_bytes())
}

/// What an agent that wraps a command in single quotes makes of the quotes in it.
fn quotings(text: &str) -> [Vec<u8>; 3] {
    let cut = text.get(..text.floor_char_boundary(TEXT_MAX)).unwrap_or(text);
    [cut.to_owned(), cut.replace('\'', r#"'"'"'"#), cut.replace('\'', r"'\''")].map(String::into_bytes)
}

const KEYS: [&str; 3] = ["command", "cmd", "script"];

fn field(input: &Value, wanted: impl Fn(&Value) -> bool) -> Option<&Value> {
    let inputs = [Some(input), input.get("args")];
    let mut fields = inputs.into_iter().flatten().flat_map(|input| KEYS.iter().map(|key| input.get(key)));
    fields.find_map(|value| value.filter(|value| wanted(value)))
}

fn command_text(input: &Value) -> Option<String> {
    field(input, Value::is_string)?.as_str().map(str::to_owned)
}

/// Some agents pass a list of words.
fn command_words(input: &Value) -> Vec<String> {
    let list = field(input, Value::is_array).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn collect(value: &Value, depth: usize, found: &mut Vec<String>) {
    match value {
        Value::String(text) if found.len() < VALUES_MAX => {
            if VALUE_LENGTHS.contains(&text.len()) && !text.starts_with('-') {
                found.push(text.clone());
            }
        }
        Value::Array(items) if depth > 0 => items.iter().for_each(|item| collect(item, depth - 1, found)),
        Value::Object(fields) if depth > 0 => {
            fields.values().for_each(|item| collect(item, depth - 1, found));
        }
        Value::Array(_)
        | Value::Object(_)
        | Value::String(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::correlate::sample::{exec, tool};

    fn shell(text: &str) -> Exec {
        exec("/usr/bin/bash", &["/bin/bash", "-c", text])
    }

    fn rank(input: Value, exec: &Exec) -> Option<u8> {
        Announced::new(&tool("Bash", input)).fit(exec).map(|fit| fit.rank)
    }

    #[test]
    fn wrappers_of_known_agents_hold_the_text() {
        let claude = |text: &str| {
            shell(&format!(
                "source /home/dev/.claude/shell-snapshots/s.sh 2>/dev/null || true && \\builtin shopt -u extglob && eval '{}' < /dev/null && pwd -P >| /tmp/claude-1-cwd",
                text.replace('\'', r#"'"'"'"#)
            ))
        };
        let gemini = |text: &str| {
            shell(&format!(
                "shopt -u promptvars\n_bgpids_file=/tmp/x\n(\n  trap 'a' EXIT\n{text}\n)\n__code=$?\nexit $__code"
            ))
        };
        for text in ["ls", "echo 'it''s' > a", "cat <<'EOF'\nx\nEOF", "make -j2 test && git push"] {
            for (agent, exec) in [("claude", claude(text)), ("gemini", gemini(text)), ("codex", shell(text))]
            {
                assert_eq!(rank(json!({"command": text}), &exec), Some(3), "{agent}: {text}");
            }
        }
        assert_eq!(rank(json!({"command": "ls"}), &claude("ls -la")), None);
        assert_eq!(rank(json!({"command": "ls"}), &claude("cd x; ls")), None);
        assert_eq!(rank(json!({"args": {"command": "ls"}}), &shell("ls")), Some(3));
    }

    #[test]
    fn words_environment_values_and_cut_arguments() {
        let direct = exec("/usr/bin/git", &["git", "status"]);
        let mut call = tool("Bash", json!({"command": "git status"}));
        call.intents = vec![Intent::Exec(vec![Target::known("/usr/bin/git"), Target::known("status")])];
        assert_eq!(Announced::new(&call).fit(&direct).map(Fit::evidence), Some(Evidence::Words));
        assert_eq!(rank(json!({"command": ["bash", "-lc", "ls"]}), &shell("ls")), Some(3));
        let mut by_env = shell("x");
        by_env.session_env = vec![("CODEX_TOOL_CALL_ID".into(), "call_1".into())];
        call.id = Some("call_1".to_owned());
        assert_eq!(Announced::new(&call).fit(&by_env).map(Fit::evidence), Some(Evidence::CallId));
        let search = exec("/usr/bin/rg", &["rg", "--json", "needle", "."]);
        assert_eq!(rank(json!({"pattern": "needle", "path": "."}), &search), Some(1));
        assert_eq!(rank(json!({"pattern": "other"}), &search), None);
        let long = "x".repeat(5000);
        let mut cut = shell(&format!("eval '{}", &long[..3000]));
        assert_eq!(rank(json!({"command": long}), &cut), None);
        cut.argv_truncated = true;
        assert_eq!(rank(json!({"command": long}), &cut), Some(3));
        assert!(!tells(&cut) && tells(&direct) && !tells(&exec("/bin/bash", &["bash", "/tmp/x.sh"])));
    }

    #[test]
    fn the_longer_text_fits_better() {
        let wrapper = shell("eval 'npm test && npm run lint'");
        let fit = |text: &str| Announced::new(&tool("Bash", json!({"command": text}))).fit(&wrapper);
        assert!(fit("npm test && npm run lint") > fit("npm test") && fit("npm test").is_some());
    }
}
