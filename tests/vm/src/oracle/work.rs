//! Real work: a clone, a build, a script with subprocesses. Prepared unwatched, done watched.

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail, ensure};

pub(crate) const WORKS: [&str; 3] = ["git", "build", "python"];

/// `work NAME DIR`: does it.
pub(crate) fn main(name: &Path, dir: &Path) -> ExitCode {
    let done = match name.to_str() {
        Some("git") => git(dir),
        Some("build") => run(Command::new("make").arg("-C").arg(dir)),
        Some("python") => run(Command::new("python3").arg(dir.join("script.py")).current_dir(dir)),
        other => Err(anyhow::anyhow!("there is no work {other:?}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// What must be there before the work begins.
pub(crate) fn prepare(name: &str, dir: &Path) -> Result<()> {
    match name {
        "git" => {
            let source = dir.join("source");
            fs::create_dir(&source)?;
            let git = |arguments: &[&str]| {
                run(Command::new("git")
                    .args(["-c", "user.name=suite", "-c", "user.email=suite@example.test"])
                    .args(arguments)
                    .current_dir(&source))
            };
            git(&["init", "-q"])?;
            for number in 0..20 {
                fs::write(source.join(format!("file {number}")), format!("content {number}\n").repeat(50))?;
            }
            git(&["add", "."])?;
            git(&["commit", "-qm", "first"])
        }
        "build" => {
            for part in ["a", "b", "main"] {
                let body = if part == "main" {
                    "#include \"all.h\"\nint main(void) { return a() - b(); }\n".to_owned()
                } else {
                    format!("#include \"all.h\"\nint {part}(void) {{ return 7; }}\n")
                };
                fs::write(dir.join(format!("{part}.c")), body)?;
            }
            fs::write(dir.join("all.h"), "int a(void);\nint b(void);\n")?;
            let compiler = ["gcc", "tcc", "cc"]
                .into_iter()
                .find(|name| Command::new(name).arg("-v").output().is_ok())
                .context("no C compiler")?;
            let makefile = format!(
                "CC = {compiler}\nall: program\n\t./program\nprogram: a.o b.o main.o\n\t$(CC) -o $@ $^\n%.o: %.c all.h\n\t$(CC) -c -o $@ $<\n"
            );
            fs::write(dir.join("Makefile"), makefile)?;
            Ok(())
        }
        "python" => {
            let script = "import json, os, socket, subprocess, sys, tempfile, threading\n\
                server = socket.create_server(('127.0.0.1', 0))\n\
                threading.Thread(target=lambda: server.accept()[0].close(), daemon=True).start()\n\
                socket.create_connection(server.getsockname()).close()\n\
                for n in range(5):\n\
                \x20   subprocess.run([sys.executable, '-c', 'open(\"out%d\" % {0}, \"w\").write(\"x\")'.format(n)], check=True)\n\
                subprocess.run('cat out0 out1 > both', shell=True, check=True)\n\
                with tempfile.TemporaryDirectory() as place:\n\
                \x20   json.dump(dict(os.environ), open(os.path.join(place, 'e'), 'w'))\n";
            fs::write(dir.join("script.py"), script)?;
            Ok(())
        }
        other => bail!("there is no work `{other}`"),
    }
}

fn git(dir: &Path) -> Result<()> {
    run(Command::new("git").args(["clone", "-q", "--no-hardlinks", "source", "copy"]).current_dir(dir))?;
    let copy = dir.join("copy");
    run(Command::new("git").args(["log", "--stat"]).stdout(std::process::Stdio::null()).current_dir(&copy))?;
    run(Command::new("git").args(["status", "--short"]).current_dir(&copy))?;
    run(Command::new("git").args(["gc", "-q"]).current_dir(&copy))
}
