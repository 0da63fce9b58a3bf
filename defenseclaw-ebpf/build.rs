//! Compiles the C shim to LLVM bitcode and hands it to bpf-linker. Does nothing when the target is not BPF.
//!
//! rustc emits no CO-RE relocations; the accessors in `shim/` do, and are inlined into the programs at link time.
#![expect(clippy::disallowed_methods, reason = "the shim is compiled by clang")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=shim");
    println!("cargo:rerun-if-env-changed=DEFENSECLAW_CLANG");
    if env::var("CARGO_CFG_TARGET_ARCH")? != "bpf" {
        return Ok(());
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let clang = env::var("DEFENSECLAW_CLANG").unwrap_or_else(|_| "clang".to_owned());
    for source in sources(Path::new("shim"))? {
        let name = source.file_stem().ok_or("a shim without a name")?;
        let bitcode = out.join(name).with_extension("o");
        let status = Command::new(&clang)
            .args(["-O2", "-g", "-emit-llvm", "-target", "bpf", "-Wall", "-Werror", "-c"])
            .arg(&source)
            .arg("-o")
            .arg(&bitcode)
            .status()
            .map_err(|error| format!("cannot start {clang}: {error}; build with `cargo xtask build-ebpf`"))?;
        if !status.success() {
            return Err(format!("{clang} {}: {status}", source.display()).into());
        }
        println!("cargo:rustc-link-arg={}", bitcode.display());
    }
    Ok(())
}

/// Every `.c` file, in the order of their names, so that two builds link alike.
fn sources(directory: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "c") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
