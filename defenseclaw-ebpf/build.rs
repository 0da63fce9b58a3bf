//! Compiles the C shim to LLVM bitcode and hands it to bpf-linker. Does nothing for the host.
use std::{env, error::Error, process::Command};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=shim/shim.c");
    if env::var("CARGO_CFG_TARGET_ARCH")? == "bpf" {
        let out = env::var("OUT_DIR")?;
        let status = Command::new("clang-22").args(["-O2","-g","-emit-llvm","-target","bpf","-Wall","-Werror","-c","shim/shim.c","-o"]).arg(format!("{out}/shim.o")).status()?;
        if !status.success() { return Err("clang failed".into()); }
        println!("cargo:rustc-link-arg={out}/shim.o");
    }
    Ok(())
}
