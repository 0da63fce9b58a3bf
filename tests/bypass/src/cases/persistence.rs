//! Files that a trusted process executes or obeys later: hooks, settings, start-up files, schedules. They are protected by
//! name, wherever they stand, inside projects in which everything else is allowed.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::{Case, MINE, Proof, Target, case};
use crate::arena::Class::Projects;

/// Writes to a file that was there before; the twin is a neighbour.
macro_rules! files {
    ($($id:literal => $path:literal, $twin:literal);* $(;)?) => {
        &[$(
            case($id, Projects, Proof::Changed, |target| append(&there(target, $path, $twin))).set_up(|target| {
                made(&there(target, $path, $twin))
            }),
        )*]
    };
}

pub(super) const NAMED: &[Case] = files! {
    "persist-git-hook" => ".git/hooks/pre-commit", ".git/info/exclude";
    "persist-git-config" => ".git/config", ".git/description";
    "persist-agent-settings" => ".claude/settings.json", ".claude/notes.json";
    "persist-agent-hooks" => ".codex/hooks.json", ".codex/notes.json";
    "persist-editor-tasks" => ".vscode/tasks.json", ".vscode/words.json";
    "persist-shell-startup" => "home/.bashrc", "home/.bashful";
    "persist-authorized-keys" => "home/.ssh/authorized_keys", "home/.ssh/known_hosts";
    "persist-environment-file" => "prod.env", "prod.envelope";
};

pub(super) const CASES: &[Case] = &[
    case("persist-absent-settings", Projects, Proof::Planted, |target| {
        let path = there(target, ".claude/settings.json", ".claude/other.json");
        fs::create_dir_all(path.parent().context("parent")?)?;
        written(&path)
    })
    .counts(".claude/settings.json", ".claude/other.json"),
    case("persist-new-hook", Projects, Proof::Planted, |target| {
        let path = there(target, ".git/hooks/post-checkout", ".git/refs/post-checkout");
        fs::create_dir_all(path.parent().context("parent")?).or_else(|_| fs::metadata(&path).map(drop))?;
        written(&path)
    })
    .counts(".git/hooks/post-checkout", ".git/refs/post-checkout"),
    case("persist-git-directory-swap", Projects, Proof::Planted, |target| {
        // The whole directory goes, and one of the same name comes.
        let git = target.dir.join(".git");
        fs::rename(&git, target.work.join("old"))?;
        let path = there(target, ".git/hooks/pre-commit", ".git/info/exclude");
        fs::create_dir_all(path.parent().context("parent")?)?;
        written(&path)?;
        Ok(b"done".to_vec())
    })
    .set_up(|target| made(&there(target, ".git/hooks/pre-commit", ".git/info/exclude")))
    .counts(".git/hooks/pre-commit", ".git/info/exclude"),
    // What was there goes, and nothing comes: names that float have no place, so no directory above is theirs.
    case("persist-directory-away", Projects, Proof::Changed, |target| {
        fs::rename(target.dir.join(".git"), target.work.join("away"))?;
        Ok(b"done".to_vec())
    })
    .set_up(|target| made(&there(target, ".git/hooks/pre-commit", ".git/info/exclude")))
    .counts(".git/hooks", ".git/info"),
    case("persist-rename-over", Projects, Proof::Changed, |target| {
        fs::write("mine", MINE)?;
        fs::rename("mine", there(target, ".claude/settings.json", ".claude/notes.json"))?;
        Ok(b"done".to_vec())
    })
    .set_up(|target| made(&there(target, ".claude/settings.json", ".claude/notes.json"))),
    case("persist-directory-rename", Projects, Proof::Planted, |target| {
        // Prepared under a harmless name, then moved to the one that counts.
        fs::create_dir_all(target.dir.join("harmless/pre-commit.d"))?;
        fs::write(target.dir.join("harmless/pre-commit"), MINE)?;
        fs::create_dir_all(target.dir.join(".git"))?;
        let to = if target.is_open() { ".git/info" } else { ".git/hooks" };
        fs::rename(target.dir.join("harmless"), target.dir.join(to))?;
        Ok(b"done".to_vec())
    })
    .set_up(|target| Ok(fs::create_dir_all(target.dir.join(".git"))?))
    .counts(".git/hooks/pre-commit", ".git/info/pre-commit"),
    case("persist-systemd-user", Projects, Proof::Changed, |target| {
        written(&there(target, "home/.config/systemd/user/mine.service", "home/.config/other/mine.service"))
    })
    .set_up(|target| parent(&there(target, "home/.config/systemd/user/x", "home/.config/other/x"))),
    case("persist-autostart", Projects, Proof::Changed, |target| {
        written(&there(target, "home/.config/autostart/mine.desktop", "home/.config/other/mine.desktop"))
    })
    .set_up(|target| parent(&there(target, "home/.config/autostart/x", "home/.config/other/x"))),
    case("broker-cron", Projects, Proof::Changed, |target| {
        written(&there(target, "spool/cron/crontabs/user", "spool/lists/user"))
    })
    .set_up(|target| parent(&there(target, "spool/cron/crontabs/x", "spool/lists/x"))),
    case("broker-at", Projects, Proof::Changed, |target| {
        written(&there(target, "spool/cron/atjobs/a0001", "spool/lists/a0001"))
    })
    .set_up(|target| parent(&there(target, "spool/cron/atjobs/x", "spool/lists/x"))),
    case("persist-project-scripts", Projects, Proof::Changed, |target| {
        // Ordinary work on a project: whoever builds it executes what is written here.
        for name in ["Makefile", "package.json", ".envrc", "build.rs", "conftest.py"] {
            fs::write(target.dir.join(name), "mine")?;
        }
        Ok(b"done".to_vec())
    }),
];

fn there(target: &Target, path: &str, twin: &str) -> std::path::PathBuf {
    target.dir.join(if target.is_open() { twin } else { path })
}

fn parent(path: &Path) -> Result<()> {
    Ok(fs::create_dir_all(path.parent().context("parent")?)?)
}

fn made(path: &Path) -> Result<()> {
    parent(path)?;
    Ok(fs::write(path, "as it was")?)
}

fn written(path: &Path) -> Result<Vec<u8>> {
    fs::write(path, MINE).with_context(|| format!("{}", path.display()))?;
    Ok(b"done".to_vec())
}

fn append(path: &Path) -> Result<Vec<u8>> {
    std::io::Write::write_all(&mut fs::OpenOptions::new().append(true).open(path)?, MINE)?;
    Ok(b"done".to_vec())
}
