//! Puts the BPF object where `sensor` includes it: `OUT_DIR/defenseclaw.bpf.o`.
//!
//! Taken from `DEFENSECLAW_BPF_OBJECT`, else from `target/bpf/` where `cargo xtask build-ebpf` leaves it. Without
//! either the file is empty, so that the agent can be checked without a BPF compiler; loading then fails at run time.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed=DEFENSECLAW_BPF_OBJECT");
    println!("cargo:rerun-if-env-changed=CARGO_TARGET_DIR");
    let target = PathBuf::from(env::var("OUT_DIR")?).join("defenseclaw.bpf.o");
    let given = env::var_os("DEFENSECLAW_BPF_OBJECT").filter(|value| !value.is_empty()).map(PathBuf::from);
    let object = match &given {
        Some(path) => path.clone(),
        None => built_object()?,
    };
    if given.is_some() && !object.is_file() {
        return Err(format!("DEFENSECLAW_BPF_OBJECT names {}, which is no file", object.display()).into());
    }
    if !object.exists() {
        // cargo runs this script, and so builds the agent, every time while a watched path is missing.
        fs::create_dir_all(object.parent().ok_or("the object has no directory")?)?;
        fs::write(&object, [])?;
    }
    println!("cargo:rerun-if-changed={}", object.display());
    let length =
        fs::copy(&object, &target).map_err(|error| format!("cannot copy {}: {error}", object.display()))?;
    if length == 0 {
        println!(
            "cargo:warning=built without BPF programs, so it cannot watch: run `cargo xtask build-ebpf` first"
        );
    }
    Ok(())
}

fn built_object() -> Result<PathBuf, Box<dyn Error>> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let workspace = manifest.parent().ok_or("the package has no parent directory")?;
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), |path| workspace.join(path));
    Ok(target.join("bpf/defenseclaw.bpf.o"))
}
