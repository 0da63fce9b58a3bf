//! The work: what an agent's tools do to a machine, with everything it works on generated.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde::Serialize;

/// Directories of the repository, and files in each.
const DIRECTORIES: usize = 400;
const FILES: usize = 25;
/// C files of the build.
const SOURCES: usize = 100;
/// Programs that `exec` starts, one after the other.
const EXECS: usize = 1000;
/// `git status` is short; it is done this often.
const STATUS: usize = 15;

/// Kinds of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Workload {
    /// Start `/bin/true` again and again
    Exec,
    /// `find` all files of the repository and read them
    Files,
    /// `git status` in the repository
    Git,
    /// `make` of small C files, on all processors
    Build,
}

/// Do one kind of work and say how many nanoseconds it took.
#[derive(Debug, clap::Args)]
pub(crate) struct Work {
    workload: Workload,
    directory: PathBuf,
}

impl Workload {
    pub(crate) const ALL: [Self; 4] = [Self::Exec, Self::Files, Self::Git, Self::Build];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Files => "files",
            Self::Git => "git",
            Self::Build => "build",
        }
    }

    /// Arguments of this program that do it.
    pub(crate) fn command(self, directory: &Path) -> Vec<OsString> {
        vec!["work".into(), self.name().into(), directory.into()]
    }
}

/// Makes the repository and the sources.
pub(crate) fn lay_out(root: &Path) -> Result<()> {
    let repository = root.join("repository");
    for directory in 0..DIRECTORIES {
        let directory = repository.join(format!("package-{:02}/module-{directory:03}", directory / 20));
        fs::create_dir_all(&directory)?;
        for file in 0..FILES {
            let text = format!("line of {file}\n").repeat(10 + file * 4);
            fs::write(directory.join(format!("source_{file:02}.txt")), text)?;
        }
    }
    git(&repository, &["init", "--quiet", "."])?;
    git(&repository, &["add", "."])?;
    git(
        &repository,
        &["-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "--quiet", "-m", "all"],
    )?;

    let build = root.join("build");
    fs::create_dir_all(&build)?;
    let mut makefile = String::from("CFLAGS = -O1\nall: program\n");
    let names: Vec<String> = (0..SOURCES).map(|index| format!("part_{index:03}")).collect();
    let objects = names.iter().map(|name| format!("{name}.o")).collect::<Vec<_>>().join(" ");
    write!(makefile, "program: main.o {objects}\n\tcc -o $@ $^\nclean:\n\trm -f *.o program\n")?;
    fs::write(build.join("Makefile"), makefile)?;
    let mut main = String::new();
    for name in &names {
        writeln!(main, "int {name}(int);")?;
        let mut source = String::from("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n");
        for function in 0..10 {
            writeln!(
                source,
                "static int f{function}(int x) {{ char b[64]; snprintf(b, sizeof b, \"%d\", x); return (int)strlen(b) * {function} + atoi(b); }}"
            )?;
        }
        let calls: Vec<String> = (0..10).map(|function| format!("f{function}(x)")).collect();
        writeln!(source, "int {name}(int x) {{ return {}; }}", calls.join(" + "))?;
        fs::write(build.join(format!("{name}.c")), source)?;
    }
    let calls: Vec<String> = names.iter().map(|name| format!("{name}(1)")).collect();
    writeln!(main, "int main(void) {{ return ({}) == 0; }}", calls.join(" + "))?;
    fs::write(build.join("main.c"), main)?;
    Ok(())
}

/// Git without the user's settings.
fn git(repository: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("git");
    command
        .current_dir(repository)
        .envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_NOSYSTEM", "1")])
        .args(arguments);
    run(&mut command)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {command:?}"))?;
    if status.success() { Ok(()) } else { bail!("{command:?}: {status}") }
}

/// Does the work.
pub(crate) fn work(arguments: &Work) -> Result<ExitCode> {
    let repository = arguments.directory.join("repository");
    let build = arguments.directory.join("build");
    if arguments.workload == Workload::Build {
        run(Command::new("make").arg("clean").current_dir(&build))?;
    }
    let start = Instant::now();
    match arguments.workload {
        Workload::Exec => {
            for _ in 0..EXECS {
                run(&mut Command::new("/bin/true"))?;
            }
        }
        Workload::Files => {
            let mut find = Command::new("find")
                .arg(&repository)
                .args(["-type", "f", "-print0"])
                .stdout(Stdio::piped())
                .spawn()
                .context("cannot start find")?;
            let names = find.stdout.take().context("no pipe")?;
            let read = Command::new("xargs")
                .args(["-0", "-n", "500", "cat"])
                .stdin(names)
                .stdout(Stdio::null())
                .status()?;
            if !(find.wait()?.success() && read.success()) {
                bail!("find or xargs failed");
            }
        }
        Workload::Git => {
            for _ in 0..STATUS {
                git(&repository, &["status", "--porcelain"])?;
            }
        }
        Workload::Build => {
            let jobs = std::thread::available_parallelism()?;
            run(Command::new("make").arg(format!("-j{jobs}")).current_dir(&build))?;
        }
    }
    println!("{}", start.elapsed().as_nanos());
    Ok(ExitCode::SUCCESS)
}
