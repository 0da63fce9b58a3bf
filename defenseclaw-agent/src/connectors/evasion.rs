//! Ways in which the start of an agent passes our hook by: flags and variables that were seen to switch hooks off. A
//! function of what was started, for whoever sees programs start. That something was meant to pass us by it does not
//! say: people have their reasons for `--pure`.

use std::borrow::Cow;

use crate::model::Connector;

/// One way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evasion {
    /// The flag, variable or command.
    pub way: &'static str,
    /// Hooks in the user's or project's configuration do not run.
    pub user: bool,
    /// Hooks in the machine's configuration do not run, at least with some versions of the agent.
    pub managed: bool,
}

const fn evasion(way: &'static str, user: bool, managed: bool) -> Evasion {
    Evasion { way, user, managed }
}

/// How an agent is told.
enum Told {
    /// This flag, alone.
    Flag(&'static str),
    /// This flag with a value that says so, in the next word or behind `=`.
    Value(&'static [&'static str], fn(&str) -> bool),
    /// These words, in this order, with flags between them.
    Command(&'static [&'static str]),
    /// This variable, set to something.
    Variable(&'static str),
    /// This variable, set to another place than this one, which may begin with `~`.
    Elsewhere(&'static str, &'static str),
}

/// What was seen; docs/hooks has the facts of each agent, with versions.
fn table(connector: Connector) -> &'static [(Told, Evasion)] {
    match connector {
        Connector::ClaudeCode => {
            const {
                &[
                    // Of managed hooks before 2.1.330.
                    (Told::Flag("--bare"), evasion("--bare", true, true)),
                    (Told::Variable("CLAUDE_CODE_SIMPLE"), evasion("CLAUDE_CODE_SIMPLE", true, true)),
                    (
                        Told::Value(&["--setting-sources"], |value| {
                            !value.split(',').any(|part| part == "user")
                        }),
                        evasion("--setting-sources without user", true, false),
                    ),
                    (
                        Told::Value(&["--settings"], |value| value.contains("disableAllHooks")),
                        evasion("--settings with disableAllHooks", true, false),
                    ),
                    (
                        Told::Elsewhere("CLAUDE_CONFIG_DIR", "~/.claude"),
                        evasion("CLAUDE_CONFIG_DIR", true, false),
                    ),
                ]
            }
        }
        // What is installed for the machine pins the feature.
        Connector::Codex => {
            const {
                &[
                    (
                        Told::Value(&["--disable"], |value| value == "hooks"),
                        evasion("--disable hooks", true, false),
                    ),
                    (
                        Told::Value(&["-c", "--config"], |value| {
                            value.replace(' ', "") == "features.hooks=false"
                        }),
                        evasion("-c features.hooks=false", true, false),
                    ),
                    (Told::Flag("--ignore-user-config"), evasion("--ignore-user-config", true, false)),
                    (Told::Elsewhere("CODEX_HOME", "~/.codex"), evasion("CODEX_HOME", true, false)),
                ]
            }
        }
        Connector::GeminiCli => {
            const {
                &[(
                    Told::Elsewhere("GEMINI_CLI_SYSTEM_SETTINGS_PATH", "/etc/gemini-cli/settings.json"),
                    evasion("GEMINI_CLI_SYSTEM_SETTINGS_PATH", false, true),
                )]
            }
        }
        Connector::OpenCode => {
            const {
                &[
                    (Told::Flag("--pure"), evasion("--pure", true, true)),
                    (Told::Variable("OPENCODE_PURE"), evasion("OPENCODE_PURE", true, true)),
                    (
                        Told::Elsewhere("XDG_CONFIG_HOME", "~/.config"),
                        evasion("XDG_CONFIG_HOME", true, false),
                    ),
                ]
            }
        }
        Connector::OpenClaw => {
            const { &[(Told::Command(&["agent", "exec"]), evasion("openclaw agent exec", true, true))] }
        }
        // Nothing is known of them.
        Connector::Cursor | Connector::CopilotCli | Connector::Windsurf => &[],
    }
}

/// The agent that a command line starts, by the name of its program or of the script that an interpreter runs.
pub fn started(argv: &[impl AsRef<[u8]>]) -> Option<(Connector, usize)> {
    let mut words = argv.iter().map(|word| String::from_utf8_lossy(word.as_ref())).enumerate();
    let (_, first) = words.next()?;
    if let Some(connector) = agent(&first) {
        return Some((connector, 1));
    }
    let interpreter = matches!(name(&first), "node" | "nodejs" | "bun" | "MainThread");
    let (at, script) = words.find(|(_, word)| !word.starts_with('-')).filter(|_| interpreter)?;
    agent(&script).map(|connector| (connector, at + 1))
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn agent(path: &str) -> Option<Connector> {
    let plain = name(path);
    let plain =
        [".exe", ".js", ".mjs", ".cjs"].iter().find_map(|end| plain.strip_suffix(end)).unwrap_or(plain);
    Some(match plain {
        "claude" => Connector::ClaudeCode,
        "codex" => Connector::Codex,
        "gemini" => Connector::GeminiCli,
        "opencode" => Connector::OpenCode,
        "openclaw" => Connector::OpenClaw,
        // As npm names what it starts.
        "cli" if path.contains("/@anthropic-ai/claude-code/") => Connector::ClaudeCode,
        "index" if path.contains("/@google/gemini-cli/") => Connector::GeminiCli,
        _ => return None,
    })
}

/// How the start of this agent passes our hook by. `arguments` are the words behind its program, `environment` is as the
/// kernel has it: `NAME=value`.
pub fn evasions(
    connector: Connector,
    arguments: &[impl AsRef<[u8]>],
    environment: &[impl AsRef<[u8]>],
) -> Vec<Evasion> {
    let words: Vec<Cow<'_, str>> = arguments
        .iter()
        .map(|word| String::from_utf8_lossy(word.as_ref()))
        .take_while(|word| word != "--")
        .collect();
    let variable = |name: &str| {
        environment.iter().find_map(|entry| {
            let entry = String::from_utf8_lossy(entry.as_ref()).into_owned();
            entry.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        })
    };
    let is_told = |told: &Told| match told {
        Told::Flag(flag) => words.iter().any(|word| word == flag),
        Told::Value(flags, says) => words.iter().enumerate().any(|(at, word)| {
            let behind =
                word.split_once('=').filter(|(flag, _)| flags.contains(flag)).map(|(_, value)| value);
            let next = flags.contains(&word.as_ref()).then(|| words.get(at + 1)).flatten();
            behind.or(next.map(Cow::as_ref)).is_some_and(says)
        }),
        Told::Command(commands) => {
            let mut plain = words.iter().filter(|word| !word.starts_with('-'));
            commands.iter().all(|command| plain.next().is_some_and(|word| word == command))
        }
        Told::Variable(name) => {
            variable(name).is_some_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
        }
        Told::Elsewhere(name, usual) => {
            let home = variable("HOME").unwrap_or_default();
            let usual = usual.strip_prefix('~').map_or_else(|| (*usual).to_owned(), |rest| home + rest);
            variable(name).is_some_and(|value| !value.is_empty() && value.trim_end_matches('/') != usual)
        }
    };
    table(connector).iter().filter(|(told, _)| is_told(told)).map(|(_, evasion)| *evasion).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(command: &str, environment: &[&str]) -> Vec<&'static str> {
        let argv: Vec<&str> = command.split(' ').collect();
        let Some((connector, at)) = started(&argv) else { return vec!["no agent"] };
        evasions(connector, &argv[at..], environment).into_iter().map(|evasion| evasion.way).collect()
    }

    #[test]
    fn known_ways_are_seen() {
        for (command, environment, want) in [
            ("claude --bare -p x", &[][..], &["--bare"][..]),
            ("/usr/bin/claude -p x", &["CLAUDE_CODE_SIMPLE=1"], &["CLAUDE_CODE_SIMPLE"]),
            ("claude --setting-sources project", &[], &["--setting-sources without user"]),
            ("claude --setting-sources=", &[], &["--setting-sources without user"]),
            ("claude --settings {\"disableAllHooks\":true}", &[], &["--settings with disableAllHooks"]),
            (
                "node --no-warnings /usr/lib/node_modules/@anthropic-ai/claude-code/cli.js --bare",
                &["HOME=/h", "CLAUDE_CONFIG_DIR=/tmp/x"],
                &["--bare", "CLAUDE_CONFIG_DIR"],
            ),
            ("codex exec --disable hooks x", &[], &["--disable hooks"]),
            ("codex -c features.hooks=false exec x", &[], &["-c features.hooks=false"]),
            (
                "codex --config=features.hooks=false",
                &["CODEX_HOME=/x"],
                &["-c features.hooks=false", "CODEX_HOME"],
            ),
            ("codex exec --ignore-user-config x", &[], &["--ignore-user-config"]),
            (
                "node /usr/bin/gemini -p x",
                &["GEMINI_CLI_SYSTEM_SETTINGS_PATH=/x"],
                &["GEMINI_CLI_SYSTEM_SETTINGS_PATH"],
            ),
            ("opencode --pure run x", &["OPENCODE_PURE=1"], &["--pure", "OPENCODE_PURE"]),
            ("opencode run x", &["HOME=/h", "XDG_CONFIG_HOME=/x"], &["XDG_CONFIG_HOME"]),
            ("node /usr/bin/openclaw --verbose agent exec x", &[], &["openclaw agent exec"]),
        ] {
            assert_eq!(of(command, environment), want, "{command} {environment:?}");
        }
    }

    #[test]
    fn ordinary_starts_are_left_alone() {
        let usual = [
            "HOME=/h",
            "CLAUDE_CONFIG_DIR=/h/.claude/",
            "CODEX_HOME=/h/.codex",
            "XDG_CONFIG_HOME=/h/.config",
            "OPENCODE_PURE=0",
            "CLAUDE_CODE_SIMPLE=",
            "GEMINI_CLI_SYSTEM_SETTINGS_PATH=/etc/gemini-cli/settings.json",
        ];
        for command in [
            "claude -p make --settings {}",
            "claude --setting-sources user,project -- --bare",
            "codex exec --disable apps -c model=x --enable hooks",
            "gemini --yolo -p x",
            "opencode run --model x",
            "openclaw agent --local exec-tests",
            "openclaw gateway exec",
        ] {
            assert_eq!(of(command, &usual), [""; 0], "{command}");
        }
        for command in ["git commit --bare", "node server.js --pure", "bash -c claude", "cat /usr/bin/claude"]
        {
            assert_eq!(of(command, &[]), ["no agent"], "{command}");
        }
    }

    #[test]
    fn no_bytes_are_too_odd() {
        let words: [&[u8]; 4] = [b"codex", b"\xff=\xff", b"-c", b""];
        assert_eq!(started(&words), Some((Connector::Codex, 1)));
        assert!(evasions(Connector::Codex, &words, &words).is_empty());
        assert_eq!(started(&words[..0]), None);
    }
}
