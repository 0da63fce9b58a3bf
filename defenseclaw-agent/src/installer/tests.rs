//! Installations in directories of their own.

use std::{fs, os::unix::fs::PermissionsExt};

use tempfile::TempDir;

use super::*;

struct Home {
    root: TempDir,
    program: PathBuf,
}

impl Home {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        let program = root.path().join("bin/defenseclaw");
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        fs::write(&program, "").unwrap();
        Self { root, program }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn request(&self, connector: Connector, scope: Scope) -> Request {
        Request {
            connector,
            scope,
            program: self.program.clone(),
            arguments: Vec::new(),
            holds: false,
            fail: FailMode::Open,
            roots: Roots {
                home: Some(self.path("home")),
                project: Some(self.path("project")),
                etc: self.path("etc"),
            },
        }
    }

    /// Every file with its text, without the program and empty directories.
    fn files(&self) -> Vec<(PathBuf, String)> {
        fn walk(directory: &Path, out: &mut Vec<(PathBuf, String)>) {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, out);
                } else {
                    out.push((path.clone(), fs::read_to_string(&path).unwrap()));
                }
            }
        }
        let mut out = Vec::new();
        walk(self.root.path(), &mut out);
        out.retain(|(path, _)| *path != self.program);
        out.sort();
        out
    }
}

const SCOPES: [Scope; 3] = [Scope::User, Scope::Project, Scope::Managed];

fn places(home: &Home) -> Vec<Request> {
    let all = Connector::ALL.iter().flat_map(|connector| SCOPES.map(|scope| home.request(*connector, scope)));
    all.filter(|request| !matches!(inspect(request), Err(InstallError::NoPlace { .. }))).collect()
}

fn all(states: &[FileState], state: State) -> bool {
    !states.is_empty() && states.iter().all(|file| file.state == state)
}

#[test]
fn where_nothing_was_nothing_stays() {
    for request in places(&Home::new()) {
        let home = Home::new();
        let request = Request {
            roots: home.request(request.connector, request.scope).roots,
            program: home.program.clone(),
            ..request
        };
        assert!(all(&inspect(&request).unwrap(), State::Absent));
        assert!(all(&install(&request).unwrap(), State::Installed), "{request:?}");
        let installed = home.files();
        assert!(installed.iter().any(|(_, text)| text.contains(home.program.to_str().unwrap())));
        install(&request).unwrap();
        assert_eq!(home.files(), installed, "again changes nothing");
        assert!(all(&remove(&request).unwrap(), State::Absent));
        assert_eq!(home.files(), [], "{request:?}");
        remove(&request).unwrap();
    }
}

const CLAUDE: &str = r#"{
  // My settings.
  "model": "opus",
  "hooks": {
    "PreToolUse": [
      { "matcher": "Bash", "hooks": [{ "type": "command", "command": "/usr/bin/mine", "timeout": 5 }] }, // mine
    ],
    "Other": []
  },
    "permissions": {"deny": ["Read(./.env)"]},
}
"#;
const CURSOR: &str =
    "{\n\t\"hooks\": {\n\t\t\"stop\": [{\"command\": \"./mine.sh\"}]\n\t},\n\t\"version\": 1\n}";
const GEMINI: &str = "{ \"ui\": {\"theme\": \"x\"} }\r\n";
const REQUIREMENTS: &str = "# Ours since 2025.\nallow_managed_hooks_only = true   # keep\n\n[hooks]\nmanaged_dir = \"/usr/lib/guard\"\n\n[[hooks.PreToolUse]]\n[[hooks.PreToolUse.hooks]]\ntype = \"command\"\ncommand = \"/usr/bin/mine\"\n";
const CODEX_CONFIG: &str = "model = \"gpt-5.5\"  # fast\n\n[hooks.state.\"/x/hooks.json:pre_tool_use:0:0\"]\ntrusted_hash = \"sha256:00\"\n\n[projects.\"/p\"]\ntrust_level = \"trusted\"\n";

fn existing() -> [(Connector, Scope, &'static str, &'static str); 8] {
    [
        (Connector::ClaudeCode, Scope::User, "home/.claude/settings.json", CLAUDE),
        (Connector::ClaudeCode, Scope::Project, "project/.claude/settings.json", "{}"),
        (Connector::GeminiCli, Scope::Managed, "etc/gemini-cli/settings.json", GEMINI),
        (Connector::Cursor, Scope::User, "home/.cursor/hooks.json", CURSOR),
        (Connector::Codex, Scope::Managed, "etc/codex/requirements.toml", REQUIREMENTS),
        (Connector::Codex, Scope::User, "home/.codex/config.toml", CODEX_CONFIG),
        (Connector::OpenCode, Scope::Managed, "etc/opencode/opencode.json", "{\"plugin\": [\"x\"] /* c */}"),
        (
            Connector::OpenClaw,
            Scope::User,
            "home/.openclaw/openclaw.json",
            "{\"plugins\": {\"entries\": {\"a\": {}}}}\n",
        ),
    ]
}

#[test]
fn what_was_there_stays_and_comes_back_byte_for_byte() {
    for (connector, scope, path, text) in existing() {
        let home = Home::new();
        let path = home.write(path, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let before = home.files();
        let request = home.request(connector, scope);
        assert!(all(&install(&request).unwrap(), State::Installed), "{connector}");
        let installed = fs::read_to_string(&path).unwrap();
        assert_ne!(installed, text);
        for kept in [
            "// My settings.",
            "/usr/bin/mine",
            "// mine",
            "# keep",
            "./mine.sh",
            "/* c */",
            "# fast",
            "sha256:00",
        ] {
            assert_eq!(installed.contains(kept), text.contains(kept), "{connector} {kept}\n{installed}");
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        remove(&request).unwrap();
        assert_eq!(home.files(), before, "{connector}");
    }
}

#[test]
fn of_a_file_that_was_changed_since_only_our_part_goes() {
    for (connector, scope, path, text) in existing() {
        let home = Home::new();
        let path = home.write(path, text);
        let request = home.request(connector, scope);
        install(&request).unwrap();
        let installed = fs::read_to_string(&path).unwrap();
        let is_toml = path.extension().is_some_and(|ending| ending == "toml");
        let changed =
            if is_toml { format!("{installed}\n# added\n") } else { format!("{installed}\n// added\n") };
        fs::write(&path, &changed).unwrap();
        assert!(all(&remove(&request).unwrap(), State::Absent), "{connector}");
        let left = fs::read_to_string(&path).unwrap();
        assert!(
            left.contains("added") && !left.contains("hook codex") && !left.contains("bin/defenseclaw"),
            "{left}"
        );
        assert_eq!(left.contains("/usr/bin/mine"), text.contains("/usr/bin/mine"));
    }
}

#[test]
fn a_hook_that_was_tampered_with_is_seen_and_repaired() {
    for request in places(&Home::new()) {
        let home = Home::new();
        let request = home.request(request.connector, request.scope);
        install(&request).unwrap();
        let installed = home.files();
        for (path, text) in &installed {
            for damaged in [text.replacen("defenseclaw", "defenseclav", 1), text.replacen("30", "1", 1)] {
                if damaged == *text {
                    continue;
                }
                fs::write(path, &damaged).unwrap();
                assert!(!all(&inspect(&request).unwrap(), State::Installed), "{} {damaged}", path.display());
                install(&request).unwrap();
                assert!(all(&inspect(&request).unwrap(), State::Installed), "{}", path.display());
                fs::write(path, text).unwrap();
            }
        }
    }
}

#[test]
fn our_hook_in_a_group_of_somebody_elses_leaves_it_alone() {
    let home = Home::new();
    let request = home.request(Connector::ClaudeCode, Scope::User);
    let theirs = format!(
        r#"{{"hooks":{{"Stop":[{{"hooks":[{{"type":"command","command":"theirs"}},{{"type":"command","command":"{} hook claude-code"}}]}}]}}}}"#,
        home.program.display()
    );
    let path = home.write("home/.claude/settings.json", &theirs);
    assert_eq!(inspect(&request).unwrap()[0].state, State::Changed);
    remove(&request).unwrap();
    let left = fs::read_to_string(path).unwrap();
    assert!(left.contains("theirs") && !left.contains("hook claude-code"), "{left}");
}

#[test]
fn files_that_the_agent_would_not_read_are_left_alone() {
    for text in ["{", "[]", "{\"hooks\": []}", "{\"hooks\": {\"PreToolUse\": 7}}", "\u{0}"] {
        let home = Home::new();
        let path = home.write("home/.claude/settings.json", text);
        let request = home.request(Connector::ClaudeCode, Scope::User);
        assert!(matches!(install(&request), Err(InstallError::Unreadable { .. })), "{text}");
        assert_eq!(home.files(), [(path, text.to_owned())], "{text}");
    }
    for text in ["[", "hooks = 1", "[hooks]\nPreToolUse = 1", "features = []"] {
        let home = Home::new();
        let path = home.write("etc/codex/requirements.toml", text);
        let request = home.request(Connector::Codex, Scope::Managed);
        assert!(matches!(install(&request), Err(InstallError::Unreadable { .. })), "{text}");
        assert_eq!(home.files(), [(path, text.to_owned())], "{text}");
    }
}

#[test]
fn a_link_stays_a_link() {
    let home = Home::new();
    let real = home.write("dotfiles/settings.json", "{}");
    let link = home.path("home/.claude/settings.json");
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    install(&home.request(Connector::ClaudeCode, Scope::User)).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::read_to_string(real).unwrap().contains("hook claude-code"));
}

#[test]
fn the_command_is_one_word_whatever_the_programs_path() {
    let home = Home::new();
    let mut request = home.request(Connector::Codex, Scope::User);
    for (program, expected) in [
        ("/usr/bin/defenseclaw", "/usr/bin/defenseclaw hook codex"),
        ("/opt/a b/defenseclaw", "'/opt/a b/defenseclaw' hook codex"),
        ("/o'p/defenseclaw", r"'/o'\''p/defenseclaw' hook codex"),
    ] {
        request.program = program.into();
        let command = entries::command(&request);
        assert_eq!(command, expected);
        assert!(entries::is_ours(&serde_json::json!({"command": command}), Connector::Codex));
        assert!(!entries::is_ours(&serde_json::json!({"command": command}), Connector::ClaudeCode));
    }
    request.program = "/usr/bin/defenseclaw".into();
    request.arguments = ["--socket", "/run/a b/s", "--fail", "closed"].map(str::to_owned).to_vec();
    let command = entries::command(&request);
    assert_eq!(command, "/usr/bin/defenseclaw hook codex --socket '/run/a b/s' --fail closed");
    for (command, ours) in [
        (command.as_str(), true),
        ("/opt/old/defenseclaw hook codex --fail open", true),
        ("/usr/bin/defenseclaw hook codex-next", false),
        ("/usr/bin/other hook codex --fail open", false),
    ] {
        assert_eq!(
            entries::is_ours(&serde_json::json!({"command": command}), Connector::Codex),
            ours,
            "{command}"
        );
    }
    request.program = "defenseclaw".into();
    assert!(matches!(install(&request), Err(InstallError::Program { .. })));
}

#[test]
fn codex_trusts_the_hash_of_the_canonical_hook() {
    let mut request = Home::new().request(Connector::Codex, Scope::User);
    request.program = "/usr/bin/defenseclaw".into();
    // printf '%s' '{"event_name":"pre_tool_use","hooks":[{"async":false,"command":"/usr/bin/defenseclaw hook codex","timeout":30,"type":"command"}]}' | sha256sum
    assert_eq!(
        toml::hash(&request, "PreToolUse"),
        "sha256:246dab4b99723b8bc6de2fef5d80545a52af46387532270a776cf9d9f485fcac"
    );
}

#[test]
fn every_trusted_hook_is_where_its_key_says() {
    let home = Home::new();
    home.write(
        "home/.codex/hooks.json",
        r#"{"hooks":{"PreToolUse":[{"hooks":[{"type":"command","command":"theirs"}]}]}}"#,
    );
    let request = home.request(Connector::Codex, Scope::User);
    install(&request).unwrap();
    let config = fs::read_to_string(home.path("home/.codex/config.toml")).unwrap();
    let file = home.path("home/.codex/hooks.json");
    assert!(config.contains(&format!("{}:pre_tool_use:1:0", file.display())), "{config}");
    assert!(config.contains(&format!("{}:stop:0:0", file.display())), "{config}");
}

#[test]
fn a_managed_installation_pins_what_keeps_hooks_on() {
    let home = Home::new();
    install(&home.request(Connector::GeminiCli, Scope::Managed)).unwrap();
    install(&home.request(Connector::Codex, Scope::Managed)).unwrap();
    let gemini: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(home.path("etc/gemini-cli/settings.json")).unwrap())
            .unwrap();
    assert_eq!(gemini["hooksConfig"]["enabled"], true);
    assert_eq!(gemini["hooks"]["BeforeTool"][0]["hooks"][0]["timeout"], 30000);
    let codex = fs::read_to_string(home.path("etc/codex/requirements.toml")).unwrap();
    assert!(codex.contains("[features]\nhooks = true") && codex.contains("[[hooks.PreToolUse]]"), "{codex}");
}

#[test]
fn switches_that_are_off_now_are_findings() {
    for (connector, path, text) in [
        (Connector::ClaudeCode, "project/.claude/settings.local.json", "{\"disableAllHooks\": true}"),
        (
            Connector::GeminiCli,
            "home/.gemini/settings.json",
            "{\"hooksConfig\": {\"disabled\": [\"defenseclaw\"]}}",
        ),
        (Connector::GeminiCli, "project/.gemini/settings.json", "{\"hooksConfig\": {\"enabled\": false}}"),
        (Connector::Codex, "home/.codex/config.toml", "[features]\nhooks = false\n"),
    ] {
        let home = Home::new();
        let request = home.request(connector, Scope::User);
        assert!(findings(&request).unwrap().iter().all(|finding| !finding.active));
        let path = home.write(path, text);
        let found = findings(&request).unwrap();
        let active: Vec<_> = found.iter().filter(|finding| finding.active).collect();
        assert!(matches!(active.as_slice(), [one] if one.way.contains(path.to_str().unwrap())), "{found:?}");
    }
}
