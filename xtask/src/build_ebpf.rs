//! Builds the programs for the BPF target and puts the object where the agent's build script looks for it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::bpf_toolchain::{self, Compiler, Source, TARGET};
use crate::{process, workspace};

/// LSM, fentry and tp_btf programs load only with BTF, which the linker makes from debug info.
const RUSTFLAGS: &str = "-C debuginfo=2 -C link-arg=--btf";
/// Lints that fail `--lint`; clippy-driver splits its arguments at this mark.
const CLIPPY_ARGUMENTS: &str = "-Dwarnings__CLIPPY_HACKERY__";

#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct Arguments {
    /// Compiler to use; the default is rustc-web, then nightly
    #[arg(long, value_name = "SOURCE")]
    pub(crate) bpf_toolchain: Option<Source>,
    /// Check with clippy instead of building
    #[arg(long)]
    pub(crate) lint: bool,
}

pub(crate) fn perform(arguments: Arguments) -> Result<ExitCode> {
    if arguments.lint {
        lint(arguments.bpf_toolchain)?;
    } else {
        let object = build(arguments.bpf_toolchain)?;
        eprintln!("built {}", object.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the object and returns its path.
pub(crate) fn build(wanted: Option<Source>) -> Result<PathBuf> {
    let compiler = compiler(wanted)?;
    process::execute(&mut cargo(&compiler, "build")?).context("the kernel side does not build")?;

    let built = directory().join(TARGET).join("release/defenseclaw-ebpf");
    let object = object();
    // Unchanged bytes keep their time stamp, so that the agent is not built again for nothing.
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    if fs::read(&object).ok().as_ref() != Some(&bytes) {
        fs::write(&object, bytes).with_context(|| format!("cannot write {}", object.display()))?;
    }
    Ok(object)
}

/// Where the object is for the agent's build script.
pub(crate) fn object() -> PathBuf {
    directory().join("defenseclaw.bpf.o")
}

fn lint(wanted: Option<Source>) -> Result<()> {
    let compiler = compiler(wanted)?;
    let driver = compiler.clippy_driver();
    if !driver.is_file() {
        bail!("no clippy beside {}: run `cargo xtask setup --for build,lint`", compiler.rustc.display());
    }
    // What cargo-clippy does, without its choice of compiler. An own directory keeps the build's cache.
    let mut command = cargo(&compiler, "check")?;
    command
        .env("RUSTC_WORKSPACE_WRAPPER", driver)
        .env("CLIPPY_ARGS", CLIPPY_ARGUMENTS)
        .env("CARGO_TARGET_DIR", directory().join("lint"));
    process::execute(&mut command).context("clippy found something in the kernel side")
}

fn compiler(wanted: Option<Source>) -> Result<Compiler> {
    bpf_toolchain::find(wanted).with_context(|| match wanted {
        Some(source) => format!(
            "no {source} compiler for BPF: run `cargo xtask setup --for build --bpf-toolchain {source}`, or leave out --bpf-toolchain"
        ),
        None => "no compiler for BPF: run `cargo xtask setup --for build`".to_owned(),
    })
}

/// An own directory: other flags and another compiler must not throw away the host's build.
fn directory() -> PathBuf {
    workspace::target().join("bpf")
}

fn cargo(compiler: &Compiler, subcommand: &str) -> Result<Command> {
    let clang = bpf_toolchain::find_clang(compiler.llvm)
        .context("no clang for the C shim: run `cargo xtask setup --for build`")?;
    let linker = bpf_toolchain::find_linker(compiler.llvm)
        .context("no suitable bpf-linker: run `cargo xtask setup --for build`")?;
    let mut command = match compiler.source {
        Source::RustcWeb => Command::new(workspace::cargo()),
        // build-std needs the nightly cargo as well.
        Source::Nightly => Command::new(compiler.rustc.with_file_name("cargo")),
    };
    command.current_dir(workspace::root()).arg(subcommand).args([
        "--package=defenseclaw-ebpf",
        "--bin=defenseclaw-ebpf",
        "--features=bpf",
        "--release",
        "--target",
        TARGET,
    ]);
    if compiler.source == Source::Nightly {
        command.args(["-Z", "build-std=core"]);
    }
    for name in ["RUSTUP_TOOLCHAIN", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "CARGO_BUILD_TARGET"] {
        command.env_remove(name);
    }
    command
        .env("RUSTC", &compiler.rustc)
        .env("RUSTFLAGS", RUSTFLAGS)
        // aya-ebpf uses unstable features.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", directory())
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .env("DEFENSECLAW_CLANG", clang);
    Ok(command)
}
