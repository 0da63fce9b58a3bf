//! Processes to attack: one holds a secret in its environment, in its memory, in open files; it says at its end whether
//! anybody has written to it.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// How to reach one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Victim {
    pub(crate) pid: u32,
    /// Where its secret is in its memory, and how long it is.
    pub(crate) address: u64,
    pub(crate) length: usize,
    /// Its descriptors of a file with the secret, of one that has no name any more, and of a pipe.
    pub(crate) file: i32,
    pub(crate) deleted: i32,
}

/// One that we started.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    secret: String,
    pub(crate) victim: Victim,
}

/// Starts one beside the objects of an attempt, as their owner.
pub(crate) fn start(program: &Path, objects: &Path, uid: u32) -> Result<Running> {
    let secret = fs::read_to_string(objects.join("secret"))?;
    let mut command = Command::new(program);
    command.arg("victim").arg(objects).env_clear().env("SECRET", &secret);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).current_dir(objects);
    if nix::unistd::geteuid().is_root() && uid != 0 {
        command.uid(uid).gid(uid);
    }
    let mut child = command.spawn().context("a victim")?;
    let mut output = BufReader::new(child.stdout.take().context("stdout")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    let mut victim: Victim =
        serde_json::from_str(&line).with_context(|| format!("a victim said {line:?}"))?;
    victim.pid = child.id();
    Ok(Running { child, output, secret, victim })
}

impl Running {
    /// Ends it. Whether somebody had killed it before, or changed its memory.
    pub(crate) fn was_changed(mut self) -> bool {
        drop(self.child.stdin.take());
        let mut said = String::new();
        let read = self.output.read_to_string(&mut said);
        let status = self.child.wait();
        read.is_err() || !status.is_ok_and(|status| status.success()) || said != self.secret
    }
}

pub(crate) fn main(objects: &Path) -> ExitCode {
    match wait(objects) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("victim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn wait(objects: &Path) -> Result<()> {
    // Another process of the same user may attach, whatever yama says.
    // SAFETY: always sound.
    ensure!(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) } == 0);
    // SAFETY: always sound; it fails without yama.
    let _ = unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY, 0, 0, 0) };
    let secret = std::env::var("SECRET")?;
    // On the heap, where nobody but an attacker writes.
    let memory = secret.clone().into_bytes().into_boxed_slice();
    let file = File::open(objects.join("secret"))?;
    let gone = objects.join("gone");
    fs::write(&gone, &secret)?;
    let deleted = File::open(&gone)?;
    fs::remove_file(&gone)?;
    let victim = Victim {
        pid: 0,
        address: memory.as_ptr() as u64,
        length: memory.len(),
        file: file.as_raw_fd(),
        deleted: deleted.as_raw_fd(),
    };
    println!("{}", serde_json::to_string(&victim)?);
    std::io::stdin().read_to_end(&mut Vec::new())?;
    // SAFETY: the memory is ours; others may have written to it behind the compiler's back.
    let now: Vec<u8> = memory.iter().map(|byte| unsafe { std::ptr::read_volatile(byte) }).collect();
    std::io::stdout().write_all(&now)?;
    Ok(())
}
