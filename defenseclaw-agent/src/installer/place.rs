//! Which files of which agent hold hooks, for one user, one project or the whole machine.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    InstallError, Request,
    entries::Shape,
    findings::Switch,
    part::{Kind, Part},
};
use crate::model::Connector;

/// For whom a hook is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// This user's own configuration.
    User,
    /// One project's configuration, shared with everybody who works on it.
    Project,
    /// The machine's configuration, which users cannot change.
    Managed,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Project => "project",
            Self::Managed => "managed",
        })
    }
}

/// Where the directories are that scopes speak of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roots {
    /// The user's home.
    pub home: Option<PathBuf>,
    /// The project.
    pub project: Option<PathBuf>,
    /// `/etc`.
    pub etc: PathBuf,
}

impl Roots {
    fn home(&self) -> Result<PathBuf, InstallError> {
        self.home.clone().ok_or(InstallError::NoDirectory { what: "home" })
    }

    fn project(&self) -> Result<PathBuf, InstallError> {
        self.project.clone().ok_or(InstallError::NoDirectory { what: "project" })
    }
}

/// The files of an installation, in the order in which they are written.
pub(super) fn parts(request: &Request) -> Result<Vec<Part>, InstallError> {
    let roots = &request.roots;
    let part = |path: PathBuf, kind: Kind| Part { request: request.clone(), path, kind };
    let hooks = |path: PathBuf, shape: Shape| vec![part(path, Kind::Json(shape))];
    let no_place = || InstallError::NoPlace { connector: request.connector, scope: request.scope };
    Ok(match (request.connector, request.scope) {
        (Connector::ClaudeCode, Scope::User) => {
            hooks(roots.home()?.join(".claude/settings.json"), Shape::Groups)
        }
        (Connector::ClaudeCode, Scope::Project) => {
            hooks(roots.project()?.join(".claude/settings.json"), Shape::Groups)
        }
        (Connector::ClaudeCode, Scope::Managed) => {
            hooks(roots.etc.join("claude-code/managed-settings.d/50-defenseclaw.json"), Shape::Groups)
        }
        (Connector::Codex, Scope::User) => {
            let directory = roots.home()?.join(".codex");
            let file = directory.join("hooks.json");
            vec![
                part(file.clone(), Kind::Json(Shape::Groups)),
                part(directory.join("config.toml"), Kind::CodexTrust { hooks: file }),
            ]
        }
        // Hooks of a project count only once each of its users trusts them.
        (Connector::Codex, Scope::Project) => {
            hooks(roots.project()?.join(".codex/hooks.json"), Shape::Groups)
        }
        (Connector::Codex, Scope::Managed) => {
            vec![part(roots.etc.join("codex/requirements.toml"), Kind::CodexRequirements)]
        }
        (Connector::GeminiCli, Scope::User) => {
            hooks(roots.home()?.join(".gemini/settings.json"), Shape::Named)
        }
        (Connector::GeminiCli, Scope::Project) => {
            hooks(roots.project()?.join(".gemini/settings.json"), Shape::Named)
        }
        (Connector::GeminiCli, Scope::Managed) => {
            hooks(roots.etc.join("gemini-cli/settings.json"), Shape::Named)
        }
        (Connector::Cursor, Scope::User) => hooks(roots.home()?.join(".cursor/hooks.json"), Shape::Flat),
        (Connector::Cursor, Scope::Project) => {
            hooks(roots.project()?.join(".cursor/hooks.json"), Shape::Flat)
        }
        (Connector::Cursor, Scope::Managed) => hooks(roots.etc.join("cursor/hooks.json"), Shape::Flat),
        (Connector::Windsurf, Scope::User) => {
            hooks(roots.home()?.join(".codeium/windsurf/hooks.json"), Shape::Plain)
        }
        (Connector::Windsurf, Scope::Project) => {
            hooks(roots.project()?.join(".windsurf/hooks.json"), Shape::Plain)
        }
        (Connector::Windsurf, Scope::Managed) => hooks(roots.etc.join("windsurf/hooks.json"), Shape::Plain),
        (Connector::CopilotCli, Scope::Project) => {
            hooks(roots.project()?.join(".github/hooks/defenseclaw.json"), Shape::Bash)
        }
        (Connector::OpenCode, Scope::User) => {
            vec![part(roots.home()?.join(".config/opencode/plugin/defenseclaw.js"), Kind::OpenCodePlugin)]
        }
        (Connector::OpenCode, Scope::Project) => {
            vec![part(roots.project()?.join(".opencode/plugin/defenseclaw.js"), Kind::OpenCodePlugin)]
        }
        (Connector::OpenCode, Scope::Managed) => {
            let file = roots.etc.join("opencode/defenseclaw/plugin.js");
            vec![
                part(file.clone(), Kind::OpenCodePlugin),
                part(roots.etc.join("opencode/opencode.json"), Kind::OpenCodeConfig { plugin: file }),
            ]
        }
        (Connector::OpenClaw, Scope::User) => {
            let directory = roots.home()?.join(".openclaw/defenseclaw");
            vec![
                part(directory.join("package.json"), Kind::OpenClawPackage),
                part(directory.join("openclaw.plugin.json"), Kind::OpenClawManifest),
                part(directory.join("index.mjs"), Kind::OpenClawPlugin),
                part(
                    roots.home()?.join(".openclaw/openclaw.json"),
                    Kind::OpenClawConfig { plugin: directory },
                ),
            ]
        }
        (Connector::CopilotCli, Scope::User | Scope::Managed)
        | (Connector::OpenClaw, Scope::Project | Scope::Managed) => return Err(no_place()),
    })
}

/// Files in which a user or project can switch hooks off, with the switch.
pub(super) fn switches(request: &Request) -> Vec<(PathBuf, Switch)> {
    let roots = &request.roots;
    let mut found = Vec::new();
    for directory in [&roots.home, &roots.project].into_iter().flatten() {
        match request.connector {
            Connector::ClaudeCode => {
                for name in [".claude/settings.json", ".claude/settings.local.json"] {
                    found.push((directory.join(name), Switch::DisableAllHooks));
                }
            }
            Connector::GeminiCli => {
                found.push((directory.join(".gemini/settings.json"), Switch::HooksConfig));
            }
            Connector::Codex => found.push((directory.join(".codex/config.toml"), Switch::CodexFeature)),
            Connector::Cursor
            | Connector::OpenClaw
            | Connector::OpenCode
            | Connector::CopilotCli
            | Connector::Windsurf => {}
        }
    }
    if request.connector == Connector::ClaudeCode {
        found.push((roots.etc.join("claude-code/managed-settings.json"), Switch::DisableAllHooks));
    }
    found
}
