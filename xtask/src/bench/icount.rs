//! The instruction counts: one guest for each kernel, then the comparison.

use std::ffi::OsString;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::Arguments;
use crate::vm::{Kernel, Stream, Vm, kernel};
use crate::workspace;

/// Where the program is in the guest.
const GUEST: &str = "/usr/local/bin/suite-bench";
const TIMEOUT: Duration = Duration::from_mins(5);

/// Whether everything was within its bounds.
pub(super) fn perform(arguments: &Arguments) -> Result<bool> {
    let kernels = if arguments.kernel.is_empty() {
        kernel::VERSIONS.map(|version| Kernel::Version(version.to_owned())).to_vec()
    } else {
        arguments.kernel.clone()
    };
    let directory = workspace::target().join("bench");
    fs::create_dir_all(&directory)?;
    let mut judge = Command::new(super::binary());
    judge.arg("judge").arg("--table").arg(workspace::root().join("tests/bench/icount.json"));
    if arguments.check {
        judge.arg("--check");
    }
    if arguments.update {
        judge.arg("--update");
    }
    for kernel in kernels {
        let name = match &kernel {
            Kernel::Version(version) => version.clone(),
            Kernel::Image(path) => path.file_name().unwrap_or_default().display().to_string(),
        };
        let result = directory.join(format!("icount-{name}.json"));
        fs::write(&result, measure(kernel).with_context(|| format!("no result on Linux {name}"))?)?;
        let mut argument = OsString::from(format!("{name}="));
        argument.push(result);
        judge.arg(argument);
    }
    Ok(judge.status().context("cannot start suite-bench")?.success())
}

fn measure(kernel: Kernel) -> Result<Vec<u8>> {
    let vm = Vm::new(kernel).icount(true).timeout(TIMEOUT).copy_to(super::binary(), GUEST);
    let mut result = Vec::new();
    let finished = vm.run(&[GUEST.into(), "icount".into()], &mut |stream, bytes| match stream {
        Stream::Output => result.extend_from_slice(bytes),
        Stream::Error => crate::vm::print(stream, bytes),
    })?;
    if finished.code != 0 {
        bail!("suite-bench ended with {} in the guest", finished.code);
    }
    Ok(result)
}
