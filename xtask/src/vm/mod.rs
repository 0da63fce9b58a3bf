//! `cargo xtask vm`: runs a command in a QEMU guest without KVM, streams its output and returns its exit code.
//!
//! [`Vm`] is the same for other tasks: they name what goes in and take what comes out. `image`, `libraries`, `guest`
//! and `cpio` make the guest's file tree, `qemu` and `protocol` run it, `kernel` knows the kernels.

mod cpio;
pub(crate) mod emulator;
mod guest;
mod image;
pub(crate) mod kernel;
mod libraries;
mod protocol;
mod qemu;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::setup::{self, Purpose};
use crate::{process, progress, run, workspace};
use image::Image;
pub(crate) use kernel::Kernel;
pub(crate) use qemu::Stream;

/// A guest needs this much beside its files, in MiB.
const BASE_MEMORY: u64 = 1024;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// 6.1, 6.12, or the path of a kernel image
    #[arg(long, default_value = "6.12")]
    kernel: Kernel,
    /// Whether the kernel starts with an active BPF LSM
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// File or directory to have in the guest, at the same path or at DEST; libraries come along
    #[arg(long, value_name = "PATH[:DEST]")]
    copy: Vec<OsString>,
    /// File or directory to fetch from the guest when the command has ended
    #[arg(long, value_name = "GUEST_PATH:HOST_PATH")]
    out: Vec<OsString>,
    /// Variable for the command
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<OsString>,
    /// Memory in MiB [default: 1024 and three times the files]
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,
    /// Processors
    #[arg(long, default_value_t = 2, value_name = "N")]
    cpus: u32,
    /// Make guest time count instructions, on one processor
    #[arg(long)]
    icount: bool,
    /// Give up after this many seconds
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    timeout: u64,
    /// Take `defenseclaw` as it was built last, or go without
    #[arg(long)]
    no_build: bool,
    /// Command to run, with its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Security modules of the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// As Debian builds it: BPF is among the active security modules
    #[default]
    Lsm,
    /// BPF is not, as on stock Ubuntu
    NoLsm,
}

/// A path pair, as in `--copy` and `--out`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair {
    from: PathBuf,
    to: Option<PathBuf>,
}

/// A guest to be.
#[derive(Clone, Debug)]
pub(crate) struct Vm {
    kernel: Kernel,
    profile: Profile,
    copies: Vec<Pair>,
    outs: Vec<(PathBuf, PathBuf)>,
    environment: Vec<(OsString, OsString)>,
    memory_mib: Option<u64>,
    cpus: u32,
    icount: bool,
    timeout: Duration,
}

/// How a command in a guest ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finished {
    /// Exit code; 128 and the number of the signal, if one ended it.
    pub(crate) code: u8,
    /// From the start of the emulator to the start of the command.
    pub(crate) boot: Duration,
}

pub(crate) fn perform(arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure(&[Purpose::Vm])?;
    if !arguments.no_build {
        setup::ensure(&[Purpose::Build])?;
        run::build_binary()?;
    }
    let mut vm = Vm::new(arguments.kernel.clone())
        .profile(arguments.profile)
        .cpus(arguments.cpus)
        .icount(arguments.icount)
        .timeout(Duration::from_secs(arguments.timeout));
    if let Some(memory) = arguments.memory {
        vm = vm.memory_mib(memory);
    }
    let binary = workspace::release_binary("defenseclaw");
    if binary.is_file() {
        vm = vm.copy_to(binary, "/usr/local/bin/defenseclaw");
    }
    for copy in &arguments.copy {
        let pair = pair(copy);
        vm = match pair.to {
            Some(to) => vm.copy_to(pair.from, to),
            None => vm.copy(pair.from),
        };
    }
    for out in &arguments.out {
        let pair = pair(out);
        let to =
            pair.to.with_context(|| format!("--out {}: expected GUEST_PATH:HOST_PATH", out.display()))?;
        vm = vm.out(pair.from, to);
    }
    for assignment in &arguments.env {
        let (name, value) = split(assignment, b'=');
        vm = vm.env(
            name,
            value.with_context(|| format!("--env {}: expected NAME=VALUE", assignment.display()))?,
        );
    }
    let finished = vm.run(&arguments.command, &mut print)?;
    eprintln!("guest: exit code {}, booted in {:.1} s", finished.code, finished.boot.as_secs_f64());
    Ok(ExitCode::from(finished.code))
}

/// Passes what a command in a guest prints to our own streams. A closed pipe of ours is no reason to stop it.
pub(crate) fn print(stream: Stream, bytes: &[u8]) {
    drop(match stream {
        Stream::Output => io::stdout().write_all(bytes).and_then(|()| io::stdout().flush()),
        Stream::Error => io::stderr().write_all(bytes),
    });
}

impl Vm {
    /// A guest with this kernel, two processors and nothing but busybox.
    pub(crate) fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            profile: Profile::Lsm,
            copies: Vec::new(),
            outs: Vec::new(),
            environment: Vec::new(),
            memory_mib: None,
            cpus: 2,
            icount: false,
            timeout: Duration::from_mins(5),
        }
    }

    pub(crate) fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// Puts a host's file or directory to the same path of the guest.
    pub(crate) fn copy(mut self, path: impl Into<PathBuf>) -> Self {
        self.copies.push(Pair { from: path.into(), to: None });
        self
    }

    /// Puts a host's file or directory to another path of the guest.
    pub(crate) fn copy_to(mut self, from: impl Into<PathBuf>, to: impl Into<PathBuf>) -> Self {
        self.copies.push(Pair { from: from.into(), to: Some(to.into()) });
        self
    }

    /// Fetches a file or directory of the guest when the command has ended.
    pub(crate) fn out(mut self, guest: impl Into<PathBuf>, host: impl Into<PathBuf>) -> Self {
        self.outs.push((guest.into(), host.into()));
        self
    }

    pub(crate) fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    pub(crate) fn memory_mib(mut self, memory: u64) -> Self {
        self.memory_mib = Some(memory);
        self
    }

    pub(crate) fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Makes guest time count instructions, for costs that repeat to the digit.
    pub(crate) fn icount(mut self, icount: bool) -> Self {
        self.icount = icount;
        self
    }

    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Boots, runs the command and hands its output to `sink` as it comes. A guest that does not come to the
    /// command's end is an error.
    pub(crate) fn run(&self, command: &[OsString], sink: &mut dyn FnMut(Stream, &[u8])) -> Result<Finished> {
        let scratch = tempfile::tempdir()?;
        let initramfs = scratch.path().join("initramfs");
        let size = self.image(command)?.write(&initramfs)?;
        let kernel = self.kernel.image()?;
        let machine = qemu::Machine {
            kernel: &kernel,
            initramfs: &initramfs,
            append: &self.append(),
            // The archive, its unpacked copy, and the half of memory that the file system may take.
            memory_mib: self.memory_mib.unwrap_or(BASE_MEMORY + size * 3 / (1 << 20)),
            cpus: self.cpus,
            icount: self.icount,
            timeout: self.timeout,
        };
        let spinner = progress::spinner(&format!("booting {}", kernel.display()));
        let ended = qemu::run(&machine, sink, &|| spinner.finish_and_clear())?;
        spinner.finish_and_clear();

        let log = self.keep_console(&ended.console)?;
        if let Some(failure) = ended.failure {
            bail!(
                "{failure}; the end of its console:\n{}(all of it is in {})",
                tail(&ended.console),
                log.display()
            );
        }
        if let Some(nonsense) = ended.control.nonsense {
            bail!("the guest said {nonsense:?} on its control port; did the command write to /dev/ttyS3?");
        }
        if String::from_utf8_lossy(&ended.console).contains("------------[ cut here ]------------") {
            eprintln!("warning: the guest's kernel printed a warning; see {}", log.display());
        }
        self.fetch(&ended.control, scratch.path())?;
        let code = ended.control.exit.context("the guest gave no exit code")?;
        Ok(Finished { code, boot: ended.boot.unwrap_or_default() })
    }

    fn image(&self, command: &[OsString]) -> Result<Image> {
        let mut image = Image::default();
        guest::lay_out(&mut image)?;
        for copy in &self.copies {
            match &copy.to {
                Some(to) => image.copy_to(&copy.from, to)?,
                None => image.copy(&copy.from)?,
            }
        }
        guest::add_programs(&mut image)?;
        libraries::complete(&mut image)?;
        let wanted: Vec<PathBuf> = self.outs.iter().map(|(guest, _)| guest.clone()).collect();
        let script = guest::command_script(command, &self.environment)?;
        guest::furnish(&mut image, &script, &guest::collect_script(&wanted))?;
        Ok(image)
    }

    fn append(&self) -> String {
        // An oops ends the guest: a kernel that goes on after one proves nothing.
        // Nobody to protect in it from speculation, and what does that is slow where it is emulated.
        let mut append = "console=ttyS0 loglevel=5 panic=-1 oops=panic mitigations=off".to_owned();
        if self.profile == Profile::NoLsm {
            append.push_str(" lsm=landlock,lockdown,yama,apparmor");
        }
        append
    }

    fn keep_console(&self, console: &[u8]) -> Result<PathBuf> {
        let logs = workspace::private().join("logs");
        fs::create_dir_all(&logs)?;
        let name = match &self.kernel {
            Kernel::Version(version) => version.clone(),
            Kernel::Image(_) => "image".to_owned(),
        };
        let log = logs.join(format!("vm-{name}-{}.log", self.profile.name()));
        fs::write(&log, console).with_context(|| format!("cannot write {}", log.display()))?;
        Ok(log)
    }

    /// Unpacks what the guest sent and puts each path to its place.
    fn fetch(&self, control: &protocol::Control, scratch: &Path) -> Result<()> {
        let absent: Vec<String> = control
            .missing
            .iter()
            .filter_map(|&index| self.outs.get(index))
            .map(|(guest, _)| guest.display().to_string())
            .collect();
        if !control.files.is_empty() {
            let archive = scratch.join("files");
            fs::write(&archive, &control.files)?;
            let unpacked = scratch.join("unpacked");
            fs::create_dir(&unpacked)?;
            process::execute(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(&unpacked))?;
            for (index, (guest, host)) in self.outs.iter().enumerate() {
                if control.missing.contains(&index) {
                    continue;
                }
                let from = unpacked.join(guest.strip_prefix("/").unwrap_or(guest));
                process::execute(Command::new("cp").arg("-a").arg("--").arg(from).arg(host))?;
            }
        }
        if !absent.is_empty() {
            bail!("the guest has no {}, which --out names", absent.join(", "));
        }
        Ok(())
    }
}

impl Profile {
    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lsm => "lsm",
            Self::NoLsm => "no-lsm",
        }
    }
}

/// Last lines of a console, for an error message.
fn tail(console: &[u8]) -> String {
    let console = String::from_utf8_lossy(console);
    let lines: Vec<&str> = console.lines().collect();
    let from = lines.len().saturating_sub(30);
    let mut text = String::new();
    for line in lines.iter().skip(from) {
        text.push_str("  ");
        text.extend(line.chars().filter(|character| !character.is_control()));
        text.push('\n');
    }
    text
}

/// `PATH:DEST`, or `PATH` alone; a name that contains a colon and exists is a path.
fn pair(text: &OsStr) -> Pair {
    if Path::new(text).exists() {
        return Pair { from: PathBuf::from(text), to: None };
    }
    let (from, to) = split(text, b':');
    Pair { from: PathBuf::from(from), to: to.map(PathBuf::from) }
}

fn split(text: &OsStr, separator: u8) -> (OsString, Option<OsString>) {
    let bytes = text.as_bytes();
    match bytes.iter().position(|&byte| byte == separator) {
        Some(at) => {
            let (left, right) = bytes.split_at(at);
            let right = right.get(1..).unwrap_or_default();
            (OsString::from_vec(left.to_vec()), Some(OsString::from_vec(right.to_vec())))
        }
        None => (text.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_split_at_the_first_colon() {
        let parsed = pair(OsStr::new("/no such/file:/b:c"));
        assert_eq!(parsed, Pair { from: "/no such/file".into(), to: Some("/b:c".into()) });
        assert_eq!(pair(OsStr::new("/no such/file")).to, None);
    }

    #[test]
    fn console_text_is_cleaned_for_the_terminal() {
        assert_eq!(tail(b"a\r\n\x1b[2Jb\r\n"), "  a\n  [2Jb\n");
    }
}
