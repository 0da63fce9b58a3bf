//! Which level a command gets if nobody says: a command with a sandbox of its own, made with bubblewrap, must be able
//! to mount inside, which a domain about files forbids.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    path::Path,
};

use super::plan::LandlockLevel;

/// What the user says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LandlockChoice {
    /// Nothing: it depends on the command.
    #[default]
    Auto,
    /// This.
    Level(LandlockLevel),
}

/// The level, and why it was chosen; empty if it was asked for, or is the whole of it.
pub fn choose_level(
    choice: LandlockChoice,
    command: &[OsString],
    home: &Path,
    project: &Path,
) -> (LandlockLevel, String) {
    match choice {
        LandlockChoice::Level(level) => (level, String::new()),
        LandlockChoice::Auto => match own_sandbox(command, home, project) {
            Some(reason) => (LandlockLevel::ScopesAndNet, reason),
            None => (LandlockLevel::Full, String::new()),
        },
    }
}

/// Names under which agents start whose sandbox is bubblewrap.
const BUBBLEWRAP: [&str; 4] = ["bwrap", "srt", "sandbox-runtime", "codex"];
/// Programs whose first plain argument is the program.
const STARTERS: [&str; 7] = ["node", "npx", "bun", "bunx", "pnpx", "deno", "env"];
/// Codex, without its sandbox.
const CODEX_OPEN: [&str; 3] =
    ["--dangerously-bypass-approvals-and-sandbox", "--yolo", "--sandbox=danger-full-access"];

/// Why the command is thought to make a sandbox of its own.
fn own_sandbox(command: &[OsString], home: &Path, project: &Path) -> Option<String> {
    let (program, arguments) = program(command)?;
    if program == "claude" || program == "claude-code" {
        return claude(home, project);
    }
    if !BUBBLEWRAP.contains(&program.as_str()) {
        return None;
    }
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let full_access = arguments.windows(2).any(|pair| {
        matches!(pair, [flag, value] if (flag == "--sandbox" || flag == "-s") && value == "danger-full-access")
    });
    if program == "codex" && (full_access || CODEX_OPEN.iter().any(|flag| has(flag))) {
        return None;
    }
    Some(format!("{program} makes a sandbox of its own with bubblewrap"))
}

/// Name of the program that decides, without directory and ending, and its arguments.
fn program(command: &[OsString]) -> Option<(String, &[OsString])> {
    let (first, rest) = command.split_first()?;
    let name = name(first)?;
    if !STARTERS.contains(&name.as_str()) {
        return Some((name, rest));
    }
    let is_plain = |argument: &&OsString| {
        let text = argument.to_string_lossy();
        !text.starts_with('-') && !text.contains('=')
    };
    let at = rest.iter().position(|argument| is_plain(&argument))?;
    let inner = rest.get(at..)?;
    program(inner)
}

fn name(program: &OsStr) -> Option<String> {
    // `@openai/codex` of npx, `codex@1.2`, `codex.js`.
    let text = Path::new(program).file_name()?.to_str()?;
    let text = text.split('@').find(|part| !part.is_empty())?;
    Some(
        [".js", ".mjs", ".cjs", ".ts"]
            .iter()
            .find_map(|ending| text.strip_suffix(ending))
            .unwrap_or(text)
            .to_owned(),
    )
}

/// Claude Code has one if a settings file switches it on. One that cannot be read may.
fn claude(home: &Path, project: &Path) -> Option<String> {
    let files = [
        Path::new("/etc/claude-code/managed-settings.json").to_owned(),
        home.join(".claude/settings.json"),
        project.join(".claude/settings.json"),
        project.join(".claude/settings.local.json"),
    ];
    files.into_iter().find_map(|file| {
        let shown = file.display();
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return Some(format!("{shown} cannot be read ({error}), so its sandbox may be on")),
        };
        match serde_json::from_slice::<serde_json::Value>(&text) {
            Ok(settings) => (settings.pointer("/sandbox/enabled") == Some(&serde_json::Value::Bool(true)))
                .then(|| format!("{shown} switches on a sandbox of its own")),
            Err(error) => Some(format!("{shown} is not JSON ({error}), so its sandbox may be on")),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(command: &str, home: &Path) -> LandlockLevel {
        let command: Vec<OsString> = command.split(' ').map(Into::into).collect();
        choose_level(LandlockChoice::Auto, &command, home, Path::new("/nowhere")).0
    }

    #[test]
    fn commands_with_a_sandbox_of_their_own_keep_it() {
        use LandlockLevel::{Full, ScopesAndNet};
        let home = tempfile::tempdir().unwrap();
        for (command, expected) in [
            ("bwrap --ro-bind / / true", ScopesAndNet),
            ("/usr/local/bin/codex exec x", ScopesAndNet),
            ("codex --sandbox danger-full-access", Full),
            ("codex --sandbox workspace-write", ScopesAndNet),
            ("codex exec --dangerously-bypass-approvals-and-sandbox x", Full),
            ("node --no-warnings /x/node_modules/@openai/codex/bin/codex.js exec", ScopesAndNet),
            ("npx -y @openai/codex@0.169.0", ScopesAndNet),
            ("env A=1 srt ls", ScopesAndNet),
            ("claude -p x", Full),
            ("make codex", Full),
            ("bash", Full),
        ] {
            assert_eq!(level(command, home.path()), expected, "{command}");
        }
    }

    #[test]
    fn claude_is_asked_by_its_settings() {
        use LandlockLevel::{Full, ScopesAndNet};
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join(".claude/settings.json");
        fs::create_dir(home.path().join(".claude")).unwrap();
        for (text, expected) in [
            (r#"{"sandbox":{"enabled":true}}"#, ScopesAndNet),
            (r#"{"sandbox":{"enabled":false}}"#, Full),
            ("{}", Full),
            ("{", ScopesAndNet),
        ] {
            fs::write(&file, text).unwrap();
            assert_eq!(level("claude", home.path()), expected, "{text}");
        }
    }
}
