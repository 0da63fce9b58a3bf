//! One QEMU process and its four serial ports, read through pipes until the guest has said how its command ended.
//!
//! Serial ports, because every kernel has their driver built in; virtio is a module in some.

use std::io::{self, PipeReader, Read as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::emulator;
use super::protocol::Control;

/// What QEMU is started with.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    pub(super) append: &'a str,
    pub(super) memory_mib: u64,
    pub(super) cpus: u32,
    pub(super) icount: bool,
    pub(super) timeout: Duration,
}

/// A stream of the command in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Output,
    Error,
}

/// How a guest ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) control: Control,
    /// Everything the kernel printed.
    pub(super) console: Vec<u8>,
    /// From the start of QEMU to the start of the command.
    pub(super) boot: Option<Duration>,
    /// Why there is no exit code, if there is none.
    pub(super) failure: Option<String>,
}

#[derive(Clone, Copy, Debug)]
enum Port {
    Console,
    Output,
    Error,
    Control,
}

/// Everything that can be emulated, but for string instructions that are fast on real processors only: the kernel clears
/// pages with them, byte by byte.
const CPU: &str = "max,-erms,-fsrm";

const PORTS: [Port; 4] = [Port::Console, Port::Output, Port::Error, Port::Control];

/// QEMU, ended when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing left to do about any other error.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Runs a guest to its end; hands its output to `sink` as it comes.
pub(super) fn run(
    machine: &Machine<'_>,
    sink: &mut dyn FnMut(Stream, &[u8]),
    ready: &dyn Fn(),
) -> Result<Ended> {
    let started = Instant::now();
    let (sender, receiver) = mpsc::sync_channel(64);
    let mut command = command(machine)?;
    let mut writers = Vec::new();
    for port in PORTS {
        let (reader, writer) = io::pipe()?;
        // QEMU opens the pipe by its path, which only needs us to keep it open until then.
        let path = format!("/proc/{}/fd/{}", std::process::id(), writer.as_raw_fd());
        command.args([
            "-chardev",
            &format!("file,id={port:?},path={path}"),
            "-serial",
            &format!("chardev:{port:?}"),
        ]);
        writers.push(writer);
        forward(port, reader, sender.clone());
    }
    drop(sender);
    let mut process = Process(command.spawn().context("cannot start the emulator under setpriv")?);

    let mut ended = Ended { control: Control::default(), console: Vec::new(), boot: None, failure: None };
    let mut writers = Some(writers);
    loop {
        match next(&receiver) {
            Next::Bytes(Port::Console, bytes) => ended.console.extend_from_slice(&bytes),
            Next::Bytes(Port::Output, bytes) => sink(Stream::Output, &bytes),
            Next::Bytes(Port::Error, bytes) => sink(Stream::Error, &bytes),
            Next::Bytes(Port::Control, bytes) => {
                ended.control.receive(&bytes);
                if ended.control.ready && ended.boot.is_none() {
                    ended.boot = Some(started.elapsed());
                    ready();
                }
            }
            Next::Nothing => {}
            Next::End => break,
        }
        if writers.is_none() {
            continue;
        }
        let over = ended.control.exit.is_some();
        let late = !over && started.elapsed() > machine.timeout;
        if late {
            ended.failure = Some(format!("not finished after {} s", machine.timeout.as_secs()));
        }
        if over || late {
            process.0.kill()?;
        }
        if let Some(status) = process.0.try_wait()? {
            if !over && !late {
                ended.failure = Some(reason(&ended.console, &status.to_string()));
            }
            // With our write ends closed as well, the readers come to their end.
            writers = None;
        }
    }
    if ended.control.exit.is_none() && ended.failure.is_none() {
        bail!("the guest's ports were closed while it ran");
    }
    Ok(ended)
}

fn command(machine: &Machine<'_>) -> Result<Command> {
    let emulator = emulator::find().with_context(|| {
        format!("there is no {}: install it with `cargo xtask setup --for vm`", emulator::PROGRAM)
    })?;
    // A task runner that is killed must not leave a guest behind. setpriv is part of every Debian.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(&emulator.program);
    if !emulator.libraries.is_empty() {
        command.env("LD_LIBRARY_PATH", std::env::join_paths(&emulator.libraries)?);
    }
    command.args(["-M", "q35", "-nodefaults", "-display", "none", "-no-reboot"]);
    if machine.icount {
        // One instruction is one nanosecond of the guest, which makes costs repeatable.
        command.args([
            "-cpu",
            "max",
            "-accel",
            "tcg,thread=single",
            "-icount",
            "shift=0,sleep=off",
            "-smp",
            "1",
        ]);
    } else {
        // Processors take turns. At the same time they would see each other's half-made changes of the kernel's code (an
        // oops at boot, now and then), and spin while the one that they wait for has no processor of the host.
        command.args(["-cpu", CPU, "-accel", "tcg,thread=single", "-smp", &machine.cpus.to_string()]);
    }
    command
        .args(["-m", &machine.memory_mib.to_string(), "-append", machine.append])
        .arg("-kernel")
        .arg(machine.kernel)
        .arg("-initrd")
        .arg(machine.initramfs)
        .stdin(Stdio::null());
    Ok(command)
}

enum Next {
    Bytes(Port, Vec<u8>),
    Nothing,
    End,
}

fn next(receiver: &Receiver<(Port, Vec<u8>)>) -> Next {
    match receiver.recv_timeout(Duration::from_millis(100)) {
        Ok((port, bytes)) => Next::Bytes(port, bytes),
        Err(RecvTimeoutError::Timeout) => Next::Nothing,
        Err(RecvTimeoutError::Disconnected) => Next::End,
    }
}

fn forward(port: Port, mut reader: PipeReader, sender: SyncSender<(Port, Vec<u8>)>) {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = reader.read(&mut buffer) {
            let bytes = buffer.get(..length).unwrap_or_default().to_vec();
            if sender.send((port, bytes)).is_err() {
                return;
            }
        }
    });
}

/// Why a machine went away before its command ended.
fn reason(console: &[u8], status: &str) -> String {
    let console = String::from_utf8_lossy(console);
    let signs = ["Kernel panic", "Oops", "BUG:", "Out of memory"];
    match console.lines().find(|line| signs.iter().any(|sign| line.contains(sign))) {
        Some(line) => format!("the guest's kernel stopped: {}", line.trim()),
        None => format!("the machine stopped before the command did (QEMU: {status})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_named() {
        let console =
            b"[ 1.0] hello\r\n[ 2.0] Kernel panic - not syncing: sysrq triggered crash\r\n[ 2.1] x\r\n";
        assert_eq!(
            reason(console, "exit status: 0"),
            "the guest's kernel stopped: [ 2.0] Kernel panic - not syncing: sysrq triggered crash"
        );
        assert!(reason(b"", "exit status: 0").contains("exit status: 0"));
    }
}
