//! Starting programs: read their output, or let them talk to the terminal. Long steps with a spinner are `progress`.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::workspace;

/// Standard output of a program that must succeed.
pub(crate) fn read(program: impl AsRef<OsStr>, arguments: &[&str]) -> Result<String> {
    let program = program.as_ref();
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!("{} {}: {}: {}", program.display(), arguments.join(" "), output.status, message.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command on our terminal; it must succeed.
pub(crate) fn execute(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", describe(command)))?;
    if !status.success() {
        bail!("{}: {status}", describe(command));
    }
    Ok(())
}

/// A command as a person would type it, for messages only.
pub(crate) fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
    words.join(" ")
}

/// A cargo command in the workspace, free of settings that belong to the cargo that started us.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(workspace::cargo());
    command.args(arguments).current_dir(workspace::root());
    command
}

/// Whether we are root: the owner of our own `/proc` entry is the effective user.
pub(crate) fn is_root() -> bool {
    Path::new("/proc/self").metadata().is_ok_and(|metadata| metadata.uid() == 0)
}

/// `program` as root, with these variables: directly when we are root, else through sudo.
pub(crate) fn as_root(program: impl AsRef<OsStr>, environment: &[(&str, OsString)]) -> Result<Command> {
    if is_root() {
        let mut command = Command::new(program);
        command.envs(environment.iter().cloned());
        return Ok(command);
    }
    let program = program.as_ref();
    let Some(sudo) = workspace::find_program("sudo") else {
        bail!(
            "{} needs root, and there is no sudo: run the same cargo xtask command as root",
            Path::new(program).display()
        );
    };
    let mut command = Command::new(sudo);
    if !environment.is_empty() {
        // -E keeps the environment where sudoers allow it, but never PATH, which sudo sets itself.
        command.args(["-E", "env"]);
        for (name, value) in environment {
            let mut assignment = OsString::from(name);
            assignment.push("=");
            assignment.push(value);
            command.arg(assignment);
        }
    }
    command.arg(program);
    Ok(command)
}
