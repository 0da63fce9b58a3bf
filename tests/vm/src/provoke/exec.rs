//! Program starts, each field of them: file, arguments, directory, ids, interpreter, session variables.

use std::{
    ffi::{CString, OsString},
    fs,
    os::{
        fd::RawFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::Path,
};

use anyhow::{Result, ensure};
use defenseclaw::model::{Action, CredChange, Exec, ExitStatus, FileRef, Text};

use super::Stage;
use crate::{
    sys::{c, sys},
    truth::{Claim, kernel_path},
};

/// What is handed to execve.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    /// Directory descriptor and flags, for execveat.
    pub(crate) at: Option<(RawFd, i32)>,
    pub(crate) file: Vec<u8>,
    pub(crate) argv: Vec<Vec<u8>>,
    pub(crate) env: Vec<Vec<u8>>,
}

impl Start {
    pub(crate) fn new(file: impl AsRef<[u8]>, argv: &[&[u8]]) -> Self {
        Self {
            at: None,
            file: file.as_ref().to_vec(),
            argv: argv.iter().map(|argument| argument.to_vec()).collect(),
            env: vec![b"PATH=/bin".to_vec()],
        }
    }

    /// Replaces this process; returns only if that failed.
    pub(crate) fn exec(&self) -> i32 {
        let file = c(&self.file);
        let argv: Vec<CString> = self.argv.iter().map(c).collect();
        let env: Vec<CString> = self.env.iter().map(c).collect();
        let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
            strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (argv_list, env_list) = (pointers(&argv), pointers(&env));
        let failed = match self.at {
            Some((dir, flags)) => {
                sys!(libc::SYS_execveat, dir, file.as_ptr(), argv_list.as_ptr(), env_list.as_ptr(), flags)
            }
            None => sys!(libc::SYS_execve, file.as_ptr(), argv_list.as_ptr(), env_list.as_ptr()),
        };
        eprintln!("exec of {} failed: {failed:?}", self.file.escape_ascii());
        126
    }

    pub(crate) fn call(&self) -> &'static str {
        if self.at.is_some() { "execveat" } else { "execve" }
    }
}

/// The exec that `start` must be seen as, when nothing else was done to the child.
pub(crate) fn expected(stage: &Stage, start: &Start, exe: FileRef) -> Result<Exec> {
    Ok(Exec {
        exe,
        filename: Text(start.file.clone()),
        interpreter: None,
        cwd: kernel_path(std::env::current_dir()?.as_os_str().as_bytes()),
        argv: start.argv.iter().cloned().map(Text).collect(),
        argv_truncated: false,
        session_env: Vec::new(),
        euid: 0,
        gid: 0,
        egid: 0,
        parent: stage.key(stage.pid()),
    })
}

/// Runs `start` in a child, and claims what `adjust` made of the expected exec.
pub(crate) fn run(
    stage: &mut Stage,
    step: &str,
    start: &Start,
    adjust: impl FnOnce(&mut Exec),
) -> Result<u32> {
    let exe = Stage::file_at(&stage.program())?;
    let mut exec = expected(stage, start, exe)?;
    adjust(&mut exec);
    let pid = stage.spawn(step, || start.exec())?;
    let status = stage.reap(step, pid)?;
    ensure!(status == ExitStatus::Code(0), "{step}: the program ended with {status:?}");
    claim(stage, step, start.call(), pid, exec);
    Ok(pid)
}

pub(crate) fn claim<'a>(stage: &'a mut Stage, step: &str, call: &str, pid: u32, exec: Exec) -> &'a mut Claim {
    // Right after exec the thread that called it has the id of the process.
    stage.claim(step, call, Action::ProcessExec(Box::new(exec))).tgid(pid).tid(pid)
}

pub(crate) fn identity(stage: &mut Stage) -> Result<()> {
    let program = stage.program().into_os_string().into_vec();
    run(stage, "absolute path", &Start::new(&program, &[b"prog", b"exit", b"0"]), |_| ())?;
    run(stage, "relative path", &Start::new("../prog", &[b"prog", b"exit", b"0"]), |_| ())?;
    run(stage, "dots and slashes", &Start::new(".././/.//prog", &[b"prog", b"exit", b"0"]), |_| ())?;

    std::os::unix::fs::symlink(stage.program(), stage.path("link"))?;
    run(stage, "through a symlink", &Start::new("./link", &[b"link", b"exit", b"0"]), |_| ())?;

    // argv[0] is whatever the caller says.
    run(stage, "another argv[0]", &Start::new(&program, &[b"/bin/true", b"exit", b"0"]), |_| ())?;

    let dir = stage.path(b"d e\ni\xffr");
    fs::create_dir(&dir)?;
    let before = std::env::current_dir()?;
    std::env::set_current_dir(&dir)?;
    let result = run(stage, "working directory", &Start::new(&program, &[b"prog", b"exit", b"0"]), |_| ());
    std::env::set_current_dir(before)?;
    result?;
    Ok(())
}

pub(crate) fn argv(stage: &mut Stage) -> Result<()> {
    let program = stage.program().into_os_string().into_vec();
    run(stage, "empty arguments", &Start::new(&program, &[b"prog", b"exit", b"", b"", b"x", b""]), |_| ())?;
    run(
        stage,
        "bytes",
        &Start::new(&program, &[b"prog", b"exit", b"0", b"\xff\xfe\n\t\x1b[31m", "ü€".as_bytes()]),
        |_| (),
    )?;
    // Since Linux 5.18 the kernel puts in an empty argv[0].
    run(stage, "no arguments at all", &Start::new(&program, &[]), |exec| exec.argv = vec![Text::default()])?;

    let sized = |total: usize| -> Vec<Vec<u8>> {
        // `prog`, `exit`, `0` and their NULs are 12 bytes; the last argument and its NUL are the rest.
        vec![b"prog".to_vec(), b"exit".to_vec(), b"0".to_vec(), vec![b'a'; total - 13]]
    };
    for (total, truncated) in [(4000, false), (4090, false), (4200, true), (100_000, true)] {
        let start = Start { argv: sized(total), ..Start::new(&program, &[]) };
        run(stage, &format!("{total} bytes"), &start, |exec| exec.argv_truncated = truncated)?;
    }
    let many: Vec<Vec<u8>> = [&b"prog"[..], b"exit", b"0"]
        .map(<[u8]>::to_vec)
        .into_iter()
        .chain((0..1000).map(|n| format!("{n}").into_bytes()))
        .collect();
    run(stage, "1,000 arguments", &Start { argv: many, ..Start::new(&program, &[]) }, |_| ())?;
    Ok(())
}

pub(crate) fn ids(stage: &mut Stage) -> Result<()> {
    let program = stage.program().into_os_string().into_vec();
    let start = Start::new(&program, &[b"prog", b"exit", b"0"]);
    let mut exec = expected(stage, &start, Stage::file_at(&stage.program())?)?;
    (exec.euid, exec.gid, exec.egid) = (1001, 2000, 2001);
    let started = start.clone();
    let pid = stage.spawn("other ids", move || {
        if sys!(libc::SYS_setresgid, 2000, 2001, 2002).is_err()
            || sys!(libc::SYS_setresuid, 1000, 1001, 1002).is_err()
        {
            return 97;
        }
        started.exec()
    })?;
    ensure!(
        stage.reap("other ids", pid)? == ExitStatus::Code(0),
        "the program must be executable for all users"
    );
    claim(stage, "other ids", "execve", pid, exec).uid(1000);
    let change = |group, new| Action::CredChange(CredChange { group, old: [0; 3], new });
    stage.claim("setresgid before exec", "setresgid", change(true, [2000, 2001, 2002])).tgid(pid).result(0);
    let claim = stage.claim("setresuid before exec", "setresuid", change(false, [1000, 1001, 1002]));
    // Seen before the change or after it.
    claim.tgid(pid).result(0).uid = None;
    Ok(())
}

pub(crate) fn script(stage: &mut Stage) -> Result<()> {
    let program = stage.program();
    let script = stage.path("script");
    // The kernel reads 255 bytes of the line; the link keeps it short wherever the run is.
    let first_line = format!("#!{} script\n", program.display());
    ensure!(first_line.len() < 250, "the directory of the run is too deep for a script: {first_line}");
    write_executable(&script, first_line.as_bytes())?;
    let line = program.as_os_str().as_bytes().to_vec();
    let text = script.as_os_str().as_bytes().to_vec();
    let as_seen = |argv: Vec<Vec<u8>>| argv.into_iter().map(Text).collect::<Vec<_>>();

    let start = Start::new(&text, &[b"ignored", b"one", b"", b"two"]);
    let argv =
        vec![line.clone(), b"script".to_vec(), text.clone(), b"one".to_vec(), Vec::new(), b"two".to_vec()];
    run(stage, "script", &start, |exec| {
        exec.interpreter = Some(Text(line.clone()));
        exec.argv = as_seen(argv);
    })?;

    let start = Start::new("./script", &[b"x"]);
    let argv = vec![line.clone(), b"script".to_vec(), b"./script".to_vec()];
    run(stage, "script by relative path", &start, |exec| {
        exec.interpreter = Some(Text(line.clone()));
        exec.argv = as_seen(argv);
    })?;

    // The script's interpreter is a script: the kernel goes on to the real one.
    let outer = stage.path("outer");
    write_executable(&outer, format!("#!{}\n", script.display()).as_bytes())?;
    let start = Start::new("./outer", &[b"x"]);
    let argv = vec![line.clone(), b"script".to_vec(), text, b"./outer".to_vec()];
    run(stage, "script of a script", &start, |exec| {
        exec.interpreter = Some(Text(line.clone()));
        exec.argv = as_seen(argv);
    })?;
    Ok(())
}

fn write_executable(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content)?;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(())
}

/// Value that must not be anywhere in the database. Its variable is in the environment of several execs.
pub(crate) fn secret() -> OsString {
    // Put together, so that the provoker's own file does not hold it as one string.
    OsString::from(["SECRET_", "TOKEN=", "do-not-", "keep-7d1f9c"].concat())
}

pub(crate) fn environment(stage: &mut Stage) -> Result<()> {
    let program = stage.program().into_os_string().into_vec();
    let names = [
        "CLAUDE_CODE_SESSION_ID",
        "CODEX_THREAD_ID",
        "CODEX_TOOL_CALL_ID",
        "CODEX_SESSION_ID",
        "GEMINI_SESSION_ID",
    ];
    let session: Vec<(Text, Text)> = names
        .iter()
        .enumerate()
        .map(|(at, name)| (Text::from(*name), Text::from(format!("8a4f-{at}-value").as_str())))
        .collect();
    let pairs = |list: &[(Text, Text)]| -> Vec<Vec<u8>> {
        list.iter().map(|(name, value)| [&name.0[..], b"=", &value.0[..]].concat()).collect()
    };
    let around = |list: &[(Text, Text)]| -> Vec<Vec<u8>> {
        let mut env = vec![
            b"PATH=/bin".to_vec(),
            secret().into_vec(),
            b"CODEX_API_KEY=no".to_vec(),
            b"CODEX_HOME=/x".to_vec(),
        ];
        env.extend(pairs(list));
        env.push(b"XCODEX_SESSION_ID=no".to_vec());
        env.push(b"TERM=dumb".to_vec());
        env
    };
    let base = Start::new(&program, &[b"prog", b"exit", b"0"]);
    let start = Start { env: around(&session), ..base.clone() };
    run(stage, "all session variables", &start, |exec| exec.session_env.clone_from(&session))?;

    let start = Start { env: vec![secret().into_vec()], ..base.clone() };
    run(stage, "no session variable", &start, |_| ())?;

    // Where an agent's own environment ends up: behind a few kilobytes of others.
    let mut env: Vec<Vec<u8>> =
        (0..40).map(|n| format!("NOISE_{n}={}", "x".repeat(50)).into_bytes()).collect();
    env.extend(pairs(&session[..1]));
    run(stage, "behind other variables", &Start { env, ..base }, |exec| {
        exec.session_env = session[..1].to_vec();
    })?;
    Ok(())
}
