//! Where a run happens and what is asked of it: an empty home, a project, and three tool calls with names and
//! contents that occur nowhere else.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{
    clients::{Answer, Client},
    script::{Script, ToolResult, Turn},
};

/// Read by the shell command: a file that every host has and no agent needs.
pub(crate) const HOST_FILE: &str = "/etc/hostname";

/// Folders and names of one run; the folders go when this does.
#[derive(Debug)]
pub(crate) struct Scene {
    directory: TempDir,
    root: PathBuf,
    marker: String,
}

/// What a run was to do, kept after its folders are gone.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Occurs in every name and content of this run.
    pub(crate) marker: String,
    /// For the shell: a redirection, a builtin-free command, and one program that starts another.
    pub(crate) command: String,
    /// Made by the shell command.
    pub(crate) output: PathBuf,
    /// Made by the write tool.
    pub(crate) written: PathBuf,
    /// Read by the read tool.
    pub(crate) read: PathBuf,
}

impl Plan {
    pub(crate) fn content_written(&self) -> String {
        format!("written {}\n", self.marker)
    }

    fn content_read(&self) -> String {
        format!("to be read {}", self.marker)
    }

    /// The model's last words.
    pub(crate) fn last_words(&self) -> String {
        format!("done {}", self.marker)
    }

    fn script(&self, client: &Client) -> Script {
        Script(vec![
            Turn::Call((client.shell)(&self.command)),
            Turn::Call((client.write)(&self.written, &self.content_written())),
            Turn::Call((client.read)(&self.read)),
            Turn::Text(self.last_words()),
        ])
    }

    /// The model must have been given what only tools that really ran can have found.
    pub(crate) fn check_results(&self, results: &[ToolResult]) -> Result<()> {
        let [shell, write, read] = results else {
            anyhow::bail!("the model was given {} tool results instead of 3: {results:?}", results.len())
        };
        for (turn, result) in results.iter().enumerate() {
            ensure!(!result.is_error, "tool call {turn} failed: {}", result.text);
            ensure!(result.id == Script::call_id(turn), "tool call {turn} came back as {}", result.id);
        }
        let expected = format!("{}\n{}", nix::unistd::geteuid(), self.marker);
        ensure!(shell.text.trim_end() == expected, "the shell said {:?}, not {expected:?}", shell.text);
        ensure!(
            write.text.contains(&self.written.display().to_string()),
            "the write tool said {:?}",
            write.text
        );
        ensure!(read.text.contains(&self.content_read()), "the read tool said {:?}", read.text);
        Ok(())
    }

    /// Both files that the tools made must be there with what they were given.
    pub(crate) fn check_files(&self) -> Result<()> {
        let same = |path: &Path, expected: &str| {
            let found =
                fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            ensure!(found == expected, "{} holds {found:?}, not {expected:?}", path.display());
            Ok(())
        };
        same(&self.output, &fs::read_to_string(HOST_FILE)?)?;
        same(&self.written, &self.content_written())
    }

    pub(crate) fn check_answer(&self, answer: &Answer) -> Result<()> {
        ensure!(answer.text == self.last_words(), "the client's last words were {:?}", answer.text);
        Ok(())
    }
}

impl Scene {
    /// Makes the folders and the file to be read.
    pub(crate) fn set(client: &Client) -> Result<(Self, Plan, Script)> {
        let directory = tempfile::Builder::new().prefix("dc-").tempdir()?;
        // The kernel names files by their real paths.
        let root = directory.path().canonicalize()?;
        let marker =
            root.file_name().and_then(|name| name.to_str()).context("odd temporary name")?.to_owned();
        let scene = Self { directory, root, marker: marker.clone() };
        for folder in [scene.home(), scene.project(), scene.scratch()] {
            fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let name = |what: &str| scene.project().join(format!("{what}-{marker}.txt"));
        let plan = Plan {
            command: format!(
                "cat {HOST_FILE} > output-{marker}.txt; id -u; /usr/bin/env printf '%s\\n' {marker}"
            ),
            output: name("output"),
            written: name("written"),
            read: name("read"),
            marker,
        };
        fs::write(&plan.read, plan.content_read())?;
        let script = plan.script(client);
        Ok((scene, plan, script))
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    pub(crate) fn project(&self) -> PathBuf {
        self.root.join("project")
    }

    /// For temporary files.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Beside the folders of the agent, for the program under test.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Removes the folders, and says so when that fails.
    pub(crate) fn strike(self) -> Result<()> {
        let Self { directory, root, marker } = self;
        directory.close().with_context(|| format!("cannot remove {} of run {marker}", root.display()))
    }
}
