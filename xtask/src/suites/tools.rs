//! Programs the suites in guests provoke events with and compare with: strace, git, Python, a C compiler, modules of
//! the guest's kernel, and installed agents.
//!
//! Names host paths only; `vm` finds the libraries. What a compiler needs is asked of the compiler itself.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::{process, vm, workspace};

/// Headers a C program needs without any library but libc. All of `/usr/include` is too much for a guest.
const HEADERS: [&str; 6] = ["asm", "asm-generic", "bits", "gnu", "linux", "sys"];
/// Parts of a compiler that `gcc` starts.
const COMPILER_PROGRAMS: [&str; 5] = ["cc1", "collect2", "as", "ld", "lto-wrapper"];
/// What every executable is linked with.
const COMPILER_FILES: [&str; 13] = [
    "crt1.o",
    "Scrt1.o",
    "crti.o",
    "crtn.o",
    "crtbegin.o",
    "crtbeginS.o",
    "crtend.o",
    "crtendS.o",
    "libgcc.a",
    "libgcc_s.so",
    "libc.so",
    "libc_nonshared.a",
    "liblto_plugin.so",
];

/// Modules that a guest can load: file systems and sockets of cloud kernels, and two that do nothing by themselves.
const MODULES: [&str; 6] = [
    "fs/overlayfs/overlay.ko",
    "net/vmw_vsock/vsock.ko",
    "crypto/af_alg.ko",
    "net/netfilter/nfnetlink.ko",
    "drivers/net/dummy.ko",
    "drivers/net/ifb.ko",
];

/// Those of them that this kernel has as modules, with their file names, compressed or not.
pub(super) fn modules(kernel: &str) -> Vec<(PathBuf, String)> {
    let releases = vm::kernel::directory(kernel).join("lib/modules");
    let Some(release) = releases.read_dir().into_iter().flatten().flatten().next() else { return Vec::new() };
    let candidates = MODULES.iter().flat_map(|module| ["", ".xz"].map(|suffix| format!("{module}{suffix}")));
    candidates
        .filter_map(|module| {
            let path = release.path().join("kernel").join(module);
            let name = path.file_name()?.to_str()?.to_owned();
            path.is_file().then_some((path, name))
        })
        .collect()
}

/// Installed agents of one native executable, which need nothing else of the host.
pub(super) fn agents() -> Result<Vec<PathBuf>> {
    let directory = workspace::target().join("agents");
    let entries =
        directory.read_dir().with_context(|| format!("no agent is installed in {}", directory.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let is_native = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        ["claude-code-", "codex-"].iter().any(|prefix| name.starts_with(prefix))
    };
    Ok(paths.into_iter().filter(is_native).collect())
}

/// Everything to copy.
pub(super) fn paths() -> Result<Vec<PathBuf>> {
    let mut paths = vec![program("strace")?, program("git")?, program("bash")?, program("timeout")?];
    paths.push(PathBuf::from(process::read(program("git")?, &["--exec-path"])?.trim()));
    // A local clone works without templates, but warns.
    paths.extend(["/usr/share/git-core", "/usr/local/share/git-core"].map(PathBuf::from));
    paths.extend(workspace::find_program("make"));
    python(&mut paths)?;
    compiler(&mut paths)?;
    paths.retain(|path| path.exists());
    paths.sort();
    paths.dedup();
    Ok(paths)
}

pub(super) fn program(name: &str) -> Result<PathBuf> {
    // A packaged program before one on PATH, which may be the shim of a version manager.
    let packaged = Path::new("/usr/bin").join(name);
    if packaged.is_file() {
        return Ok(packaged);
    }
    workspace::find_program(name).with_context(|| format!("no {name}: run `cargo xtask setup --for vm`"))
}

fn python(paths: &mut Vec<PathBuf>) -> Result<()> {
    let ask = "import sys, sysconfig; print(sys.executable); print(sysconfig.get_path('stdlib')); \
               print(sysconfig.get_path('platstdlib'))";
    let python = program("python3")?;
    paths.extend(process::read(&python, &["-c", ask])?.lines().map(PathBuf::from));
    paths.push(python);
    Ok(())
}

fn compiler(paths: &mut Vec<PathBuf>) -> Result<()> {
    let gcc = program("gcc")?;
    let ask = |question: String| -> Result<PathBuf> {
        Ok(PathBuf::from(process::read(&gcc, &[&question])?.trim()))
    };
    for name in COMPILER_PROGRAMS {
        let answer = ask(format!("-print-prog-name={name}"))?;
        // A bare name means that gcc looks on PATH.
        paths.push(if answer.is_absolute() { answer } else { program(name)? });
    }
    for name in COMPILER_FILES {
        paths.push(ask(format!("-print-file-name={name}"))?);
    }
    paths.push(ask("-print-file-name=include".to_owned())?);
    let general = Path::new("/usr/include");
    let machine = general.join(ask("-dumpmachine".to_owned())?);
    for directory in [general, &machine] {
        paths.extend(HEADERS.map(|name| directory.join(name)));
        let entries = directory.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
        paths.extend(entries.filter(|path| path.is_file()));
    }
    paths.push(gcc);
    Ok(())
}
