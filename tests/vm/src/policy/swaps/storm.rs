//! A thousand swaps in the running kernel, under threads that never pause.

use std::{
    fs,
    os::unix::ffi::OsStrExt,
    process::{Command, Stdio},
};

use anyhow::{Result, anyhow, ensure};
use defenseclaw::policy::{self, Bindings, image::Image};

use super::{Which, check, load::Outcomes, policy as text, prepare};
use crate::{
    check::{
        Setting,
        session::{Companion, run_dir},
    },
    policy::kernel,
    sys,
};

const SWAPS: usize = 1000;
const THREADS: &str = "3";

pub(super) fn swaps(setting: &Setting) -> Result<()> {
    let dir = run_dir()?;
    let base = fs::canonicalize(dir.path())?;
    prepare(&base)?;
    let outcomes = Outcomes::make(&base)?;
    let images = [Which::A, Which::B].map(|which| compile(&text(which, &base, setting.level), &base));
    let [a, b] = images;
    let images = [a?, b?];
    kernel::with(setting.level, |kernel| {
        kernel.install(&images[0])?;
        let mut load = Companion(
            Command::new(base.join("bin/load"))
                .args(["policy", "load"])
                .arg(&base)
                .args([THREADS, setting.level.as_str()])
                .stdin(Stdio::null())
                .spawn()?,
        );
        kernel.enrol(load.0.id())?;
        // Once more, because a policy knows of programs that run when it comes.
        kernel.install(&images[1])?;
        let working = sys::wait_until(60, || outcomes.rounds() > 0);
        ensure!(working, "the load does not work");
        for swap in 0..SWAPS {
            kernel.install(&images[swap % 2])?;
            if swap % 16 == 0 {
                kernel.drain();
            }
        }
        outcomes.stop();
        let mut ended = None;
        sys::wait_until(60, || {
            ended = load.0.try_wait().ok().flatten();
            ended.is_some()
        });
        ensure!(ended.is_some_and(|status| status.success()), "the load ended with {ended:?}");
        kernel.withdraw()?;
        kernel.drain();
        Ok(())
    })?;
    println!("{} operations during {SWAPS} swaps", outcomes.total());
    check(&outcomes, setting.level)
}

fn compile(text: &str, base: &std::path::Path) -> Result<Image> {
    let directory: Vec<u8> = base.as_os_str().as_bytes().into();
    let bindings =
        Bindings { home: directory.clone(), project: directory, profile: "default".to_owned(), mode: None };
    policy::load("swap", text, &|_| None)
        .and_then(|policy| policy::compile(&policy, &bindings))
        .map_err(|problems| anyhow!("{problems:?}"))
}
