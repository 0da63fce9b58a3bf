//! Which process is the agent whose hook has asked. A rule over what is known of the ancestors of the hook; looks at no
//! process itself.
//!
//! From the hook's parent upwards, as far as processes belong to the user who asked:
//! 1. what only runs the hook is passed over: a shell with a command (`-c`) that is the hook's own and nothing else, and
//!    programs that start others (`env`, `timeout`, ...);
//! 2. the first other process is the agent, unless it is a service or a shell that somebody types into: then nobody
//!    is;
//! 3. whoever is above it and bears the agent's name is the agent instead, also behind shells and such programs: agents
//!    start themselves through wrappers, and parts of them ask, too.

use crate::{
    connectors,
    model::{Connector, Text},
};

/// Ancestors that are looked at.
pub(super) const ANCESTORS_MAX: usize = 64;

const SHELLS: &[&str] = &["sh", "bash", "dash", "zsh", "ksh", "fish", "ash", "busybox"];
/// Programs that do nothing themselves but start another one and wait.
const STARTERS: &[&str] =
    &["env", "timeout", "nice", "ionice", "setsid", "stdbuf", "chrt", "taskset", "nohup"];
/// Programs that run a script, which is what they are then called after.
const INTERPRETERS: &[&str] = &["node", "nodejs", "bun", "deno", "python", "python3", "ruby", "perl"];
/// What people and machines have their sessions from. Everything of a user would be in its tree.
const SERVICES: &[&str] = &[
    "systemd",
    "init",
    "launchd",
    "sshd",
    "login",
    "su",
    "sudo",
    "doas",
    "agetty",
    "tmux",
    "tmux: server",
    "screen",
    "cron",
    "crond",
    "dbus-daemon",
    "containerd-shim",
    "containerd-shim-runc-v2",
    "conmon",
    "runc",
    "docker-init",
    "tini",
    "dumb-init",
];

/// What is known of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ancestor {
    pub(super) pid: u32,
    /// Real user.
    pub(super) uid: u32,
    /// Its program's file; none if that may not be looked at.
    pub(super) exe: Option<Text>,
    pub(super) argv: Vec<Text>,
}

/// Why no process is the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unbound {
    /// The hook has no parent of this user any more.
    #[error("who asked has no ancestor of the same user")]
    Orphan,
    /// Somebody typed the command.
    #[error("it was asked from a shell that runs no script")]
    ByHand,
    /// It is the child of a service.
    #[error("who asked is the child of a service, not of an agent")]
    Service,
}

/// The agent, as an index into `chain`: the ancestors of the hook, its parent first. `user` is who asked.
pub(super) fn agent(chain: &[Ancestor], connector: Connector, user: u32) -> Result<usize, Unbound> {
    // Root may speak for everybody, all others for themselves.
    let n_own = chain.iter().take_while(|one| one.pid > 1 && (user == 0 || one.uid == user)).count();
    let own = chain.get(..n_own).unwrap_or_default();
    let first =
        own.iter().position(|one| !one.only_starts() && !one.only_asks(connector)).ok_or(Unbound::Orphan)?;
    let mut found = first;
    for (at, one) in own.iter().enumerate().skip(first) {
        if one.is_called(connectors::programs(connector)) {
            found = at;
        } else if at > first && !one.only_starts() && one.shell() != Some(Shell::Command) {
            break;
        }
    }
    match own.get(found) {
        Some(one) if one.is_called(connectors::programs(connector)) => Ok(found),
        Some(one) if one.shell() == Some(Shell::Typed) => Err(Unbound::ByHand),
        Some(one) if SERVICES.contains(&one.name().as_str()) => Err(Unbound::Service),
        Some(_) => Ok(found),
        None => Err(Unbound::Orphan),
    }
}

/// What a shell does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shell {
    /// What stands after `-c`.
    Command,
    /// What is in a file.
    Script,
    /// What comes in.
    Typed,
}

impl Ancestor {
    /// Of the file, else as it calls itself; a login shell begins with a dash.
    fn name(&self) -> String {
        let file = self.exe.as_ref().or(self.argv.first()).map(Text::lossy).unwrap_or_default();
        base(file.strip_suffix(" (deleted)").unwrap_or(&file)).trim_start_matches('-').to_owned()
    }

    fn arguments(&self) -> impl Iterator<Item = std::borrow::Cow<'_, str>> {
        self.argv.iter().skip(1).map(Text::lossy)
    }

    fn shell(&self) -> Option<Shell> {
        if !SHELLS.contains(&self.name().as_str()) {
            return None;
        }
        let mut arguments = self.arguments();
        match arguments.find(|argument| !argument.starts_with(['-', '+']) || is_command(argument)) {
            Some(argument) if is_command(&argument) => Some(Shell::Command),
            Some(_) => Some(Shell::Script),
            None => Some(Shell::Typed),
        }
    }

    fn only_starts(&self) -> bool {
        STARTERS.contains(&self.name().as_str())
    }

    /// A shell whose command is one program, which is the hook.
    fn only_asks(&self, connector: Connector) -> bool {
        let command = || self.arguments().skip_while(|argument| !is_command(argument)).nth(1);
        self.shell() == Some(Shell::Command)
            && command().is_some_and(|command| {
                command.contains(&format!("hook {connector}")) && !command.contains(['|', ';', '&', '\n'])
            })
    }

    /// By its own name, that of its script, or that of the package of either.
    fn is_called(&self, names: &[&str]) -> bool {
        let runs_scripts = INTERPRETERS.contains(&self.name().as_str())
            || self.name().starts_with("python3.")
            || self.shell() == Some(Shell::Script);
        let script = self.arguments().find(|argument| !argument.starts_with('-')).filter(|_| runs_scripts);
        let file = self.exe.as_ref().map(Text::lossy);
        // Some set their title, so that the first argument is what they call themselves.
        let title = self.argv.first().map(Text::lossy);
        [file, title, script].into_iter().flatten().any(|path| {
            let base = base(&path);
            let stem = base.rsplit_once('.').map_or(base, |(stem, _)| stem);
            names.iter().any(|name| base == *name || stem == *name || package(&path) == Some(name))
        })
    }
}

/// `-c`, alone or with other letters, as in `-lc`.
fn is_command(argument: &str) -> bool {
    argument.starts_with('-') && !argument.starts_with("--") && argument.contains('c')
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The package a file of `node_modules` belongs to, without its scope.
fn package(path: &str) -> Option<&str> {
    let (_, inner) = path.rsplit_once("/node_modules/")?;
    inner.split('/').find(|part| !part.starts_with('@'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Connector::{ClaudeCode, Codex, GeminiCli, OpenCode};

    const HOOK: &str = "/usr/bin/defenseclaw hook claude-code --socket /run/d.sock";

    /// `exe` and arguments, all of user 1000 unless it says `root:`.
    fn chain(all: &[(&str, &[&str])]) -> Vec<Ancestor> {
        let one = |(pid, (exe, argv)): (u32, &(&str, &[&str]))| {
            let (uid, exe) = exe.strip_prefix("root:").map_or((1000, *exe), |exe| (0, exe));
            let argv = argv.iter().map(|text| (*text).into()).collect();
            Ancestor { pid, uid, exe: Some(exe.into()).filter(|_| !exe.is_empty()), argv }
        };
        (100..).zip(all).map(one).collect()
    }

    #[test]
    fn the_agent_is_found_among_the_ancestors() {
        type Case<'a> = (&'a str, Connector, &'a [(&'a str, &'a [&'a str])], Result<usize, Unbound>);
        let hook: (&str, &[&str]) = ("/usr/bin/dash", &["sh", "-c", HOOK]);
        let typed: (&str, &[&str]) = ("/usr/bin/bash", &["-bash"]);
        let claude: (&str, &[&str]) = ("/usr/bin/node", &["claude"]);
        let cases: &[Case<'_>] = &[
            ("a shell for the hook", ClaudeCode, &[hook, claude, typed], Ok(1)),
            ("started directly", ClaudeCode, &[claude, typed], Ok(0)),
            ("a program nobody knows", ClaudeCode, &[hook, ("/opt/thing", &["thing"]), typed], Ok(1)),
            (
                "through starters",
                ClaudeCode,
                &[("/usr/bin/timeout", &["timeout", "2", "defenseclaw"]), hook, ("/opt/thing", &["x"])],
                Ok(2),
            ),
            (
                "a wrapper with the agent's name",
                Codex,
                &[
                    ("/opt/codex/bin/codex", &["codex", "exec"]),
                    ("/usr/bin/node", &["node", "/usr/lib/node_modules/@openai/codex/bin/codex.js"]),
                    typed,
                ],
                Ok(1),
            ),
            (
                "it starts itself again",
                GeminiCli,
                &[
                    (
                        "/usr/bin/node",
                        &["node", "--max-old-space-size=1", "/x/node_modules/@google/gemini-cli/dist/i.js"],
                    ),
                    ("/usr/bin/node", &["/usr/bin/node", "/usr/bin/gemini", "-p", "x"]),
                    typed,
                ],
                Ok(1),
            ),
            (
                "asked by something that the agent's own tool has started",
                ClaudeCode,
                &[
                    ("/usr/bin/python3.11", &["python3", "t.py"]),
                    ("/bin/bash", &["bash", "-c", "python3 t.py"]),
                    claude,
                ],
                Ok(2),
            ),
            (
                "an agent of another kind above it",
                Codex,
                &[("/opt/codex", &["codex"]), ("/bin/bash", &["bash", "-c", "codex exec x"]), claude],
                Ok(0),
            ),
            (
                "a script that plays an agent",
                ClaudeCode,
                &[("/usr/bin/bash", &["bash", "/x/agent.sh"]), ("/x/runner", &["runner"]), typed],
                Ok(0),
            ),
            (
                "a shell that does more than ask",
                ClaudeCode,
                &[
                    ("/bin/sh", &["sh", "-c", "echo | defenseclaw hook claude-code; ls"]),
                    ("/x/runner", &["runner"]),
                ],
                Ok(0),
            ),
            (
                "a native program whose file was replaced",
                ClaudeCode,
                &[("/home/u/.local/share/claude/versions/2.1 (deleted)", &["claude"]), typed],
                Ok(0),
            ),
            ("no file to see", OpenCode, &[("", &["opencode"]), typed], Ok(0)),
            (
                "typed by hand",
                ClaudeCode,
                &[typed, ("root:/usr/sbin/sshd", &["sshd: u"])],
                Err(Unbound::ByHand),
            ),
            ("typed, not a login shell", ClaudeCode, &[("/bin/zsh", &["zsh", "-i"])], Err(Unbound::ByHand)),
            (
                "left behind",
                ClaudeCode,
                &[hook, ("/usr/lib/systemd/systemd", &["systemd", "--user"])],
                Err(Unbound::Service),
            ),
            ("nobody", ClaudeCode, &[], Err(Unbound::Orphan)),
            ("others above", ClaudeCode, &[hook, ("root:/usr/bin/node", &["claude"])], Err(Unbound::Orphan)),
            (
                "others further above",
                Codex,
                &[("/opt/codex", &["codex"]), ("root:/usr/bin/codex", &["codex"])],
                Ok(0),
            ),
        ];
        for (name, connector, all, want) in cases {
            assert_eq!(agent(&chain(all), *connector, 1000), *want, "{name}");
        }
        let above = chain(&[hook, claude]);
        assert_eq!(agent(&above, ClaudeCode, 0), Ok(1), "root asks for another one");
        assert_eq!(agent(&above, ClaudeCode, 1001), Err(Unbound::Orphan), "a stranger");
        let init = [Ancestor { pid: 1, uid: 1000, ..Ancestor::default() }];
        assert_eq!(agent(&init, ClaudeCode, 1000), Err(Unbound::Orphan), "the first process");
    }
}
