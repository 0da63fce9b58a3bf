//! Sandboxes that agents bring along, inside ours: real bubblewrap, `srt` and `codex sandbox`. A Landlock domain about
//! scopes and ports leaves them working; one about files cannot, which is why `run` chooses by the command.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use tempfile::TempDir;

use crate::{
    install::{self, Package},
    network, prerequisites,
    process::{self, Ended},
    run,
};

const DEADLINE: Duration = Duration::from_mins(2);
/// What bubblewrap says when it may not mount.
const NO_MOUNT: &str = "Failed to make / slave: Operation not permitted";
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One of them.
struct Sandbox {
    name: &'static str,
    /// None: a program of the distribution.
    package: Option<Package>,
    /// Arguments before the command; `@` stands for the scene.
    arguments: &'static [&'static str],
}

pub(crate) const CODEX: Package = Package {
    name: "codex",
    version: "0.169.0",
    manifest: include_str!("../clients/codex/package.json"),
    lock: include_str!("../clients/codex/package-lock.json"),
    executable: |installed| of_bin(installed, "codex"),
    interpreter: None,
};

static ALL: [Sandbox; 3] = [
    Sandbox {
        name: "bwrap",
        package: None,
        arguments: &["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"],
    },
    Sandbox {
        name: "srt",
        package: Some(Package {
            name: "srt",
            version: "0.0.83",
            manifest: include_str!("../clients/srt/package.json"),
            lock: include_str!("../clients/srt/package-lock.json"),
            executable: |installed| of_bin(installed, "srt"),
            interpreter: None,
        }),
        arguments: &["--settings", "@/srt.json", "--"],
    },
    Sandbox { name: "codex", package: Some(CODEX), arguments: &["sandbox", "--"] },
];

/// How the sandbox is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Around {
    Nothing,
    /// `run` with this level.
    Level(&'static str),
}

/// All of them, alone and at every level.
pub(crate) fn trials() -> Vec<Trial> {
    let ways = [
        ("alone", Around::Nothing, true),
        ("auto", Around::Level("auto"), true),
        ("scopes", Around::Level("scopes"), true),
        ("full", Around::Level("full"), false),
    ];
    let every = ALL.iter().flat_map(|sandbox| ways.map(|way| (sandbox, way)));
    every
        .map(|(sandbox, (word, around, works))| {
            let outcome = if works { "works" } else { "cannot_mount" };
            Trial::ignorable_test(format!("sandbox::{}::{word}::{outcome}", sandbox.name), move || {
                crate::unless_missing(prerequisites::of_sandboxes, || check(sandbox, word, around, works))
            })
        })
        .collect()
}

fn of_bin(installed: &Path, name: &str) -> Result<PathBuf> {
    let path = installed.join("node_modules/.bin").join(name);
    ensure!(path.exists(), "{} is missing", path.display());
    Ok(path)
}

fn check(sandbox: &Sandbox, word: &str, around: Around, works: bool) -> Result<()> {
    let scene = tempfile::Builder::new().prefix("dc-").tempdir()?;
    let ended = start(sandbox, word, around, &scene)?;
    let (said, complained) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    let told = || format!("{}\nstdout: {said}\nstderr: {complained}", ended.status);
    ensure!(ended.left.is_empty(), "these were left running: {:?}", ended.left);
    let outside = scene.path().join("outside");
    ensure!(!outside.exists(), "the sandbox did not hold: {}", told());
    if !works {
        ensure!(complained.contains(NO_MOUNT) && !ended.status.success(), "it did not fail so: {}", told());
        return Ok(());
    }
    ensure!(said.trim_end() == "inside" && ended.status.code() == Some(5), "it did not work: {}", told());
    if around == Around::Level("auto") {
        ensure!(complained.contains("scopes+net"), "nothing is said of the level: {}", told());
    }
    if around != Around::Nothing {
        let report: serde_json::Value = serde_json::from_slice(&fs::read(scene.path().join("report.json"))?)?;
        let table = report.pointer("/session/protection/table").and_then(|table| table.as_array());
        let signal = table.into_iter().flatten().find(|row| row["name"] == "landlock/signal");
        let signal = signal.context("the session has no protection table")?;
        ensure!(signal["state"] == "enforced" && signal["verified"] == true, "signals are open: {signal}");
    }
    Ok(())
}

/// The command writes to its scene, which each of the sandboxes forbids: its failure is 5 to us.
fn start(sandbox: &Sandbox, word: &str, around: Around, scene: &TempDir) -> Result<Ended> {
    let root = scene.path().canonicalize()?;
    let root_text = root.to_str().context("odd temporary name")?;
    for name in ["home", "project", "tmp"] {
        fs::create_dir(root.join(name))?;
    }
    fs::write(
        root.join("srt.json"),
        r#"{"network":{"allowedDomains":[],"deniedDomains":[]},"filesystem":{"denyRead":[],"allowWrite":["."],"denyWrite":[]}}"#,
    )?;
    fs::write(
        root.join("policy.yaml"),
        format!(
            "version: 1
defaults: {{file.write: block, net.connect: block, priv.signal: block}}
rules:
  - {{id: here, effect: file.write, match: {{paths: ['{root_text}/**', '/dev/**', '/proc/**']}}, severity: info, action: allow}}
  - {{id: web, effect: net.connect, match: {{addresses: 0.0.0.0/0, ports: 443}}, severity: info, action: allow}}
"
        ),
    )?;
    let inner: OsString = match &sandbox.package {
        Some(package) => install::package(package)?.into(),
        None => sandbox.name.into(),
    };
    let mut line: Vec<OsString> = Vec::new();
    if let Around::Level(level) = around {
        line.push(run::program_under_test()?.into());
        line.extend(["--db".into(), root.join("audit.db").into_os_string(), "run".into()]);
        line.extend(["--policy".into(), root.join("policy.yaml").into_os_string()]);
        line.extend(["--mode", "action", "--allow-degraded", "--landlock", level].map(OsString::from));
        line.extend(["--report", "json", "--report-file"].map(OsString::from));
        line.extend([root.join("report.json").into_os_string(), "--".into()]);
    }
    line.push(inner);
    line.extend(sandbox.arguments.iter().map(|argument| argument.replace('@', root_text).into()));
    line.extend(["sh", "-c"].map(OsString::from));
    line.push(format!("echo inside; echo x > {root_text}/outside || exit 5").into());
    let [program, arguments @ ..] = line.as_slice() else { bail!("nothing to run") };
    let logs = install::directory()?.join("logs").join(format!("{}-{word}", sandbox.name));
    network::of_its_own(|| {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("HOME", root.join("home"))
            .env("PATH", SEARCH_PATH)
            .env("TMPDIR", root.join("tmp"))
            .env("LANG", "C.UTF-8")
            .current_dir(root.join("project"));
        process::run(&mut command, &logs, "sandbox", DEADLINE)
    })
}
