//! One run: objects, a policy, the watched tree and the other one at the same time, and what became of both.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fmt::Write as _,
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use defenseclaw::model::{AuditRecord, Event, Level};
use tempfile::TempDir;

use super::{
    place::{Case, Place, Rule, Shared, Side, Tree, make},
    program::{self, Outcome},
};
use crate::{
    check::{
        Setting, records,
        session::{Companion, own_program, run_dir, watched},
    },
    policy::kernel::place_program,
    runs, sys,
};

/// What the rules are applied in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Action,
    Observe,
}

impl Mode {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Action => "action",
            Self::Observe => "observe",
        }
    }
}

/// What became of a run.
pub(super) struct Facts {
    dir: TempDir,
    shared: Shared,
    pub(super) level: Level,
    outcomes: Vec<(Tree, Outcome)>,
    /// What `events` printed: only what was blocked in mode action, everything in mode observe.
    pub(super) events: Vec<Event>,
}

impl Facts {
    pub(super) fn outcome(&self, case: &Case, tree: Tree, side: Side) -> Result<&Outcome> {
        let of = |(whose, outcome): &&(Tree, Outcome)| {
            *whose == tree && outcome.case == case.name && outcome.side == side
        };
        let found = self.outcomes.iter().filter(of).map(|(_, outcome)| outcome);
        super::only(found.collect(), &format!("attempt {} on the {} object", tree.word(), side.word()))
    }

    /// Attempts of the watched tree on protected objects.
    pub(super) fn protected(&self) -> impl Iterator<Item = &Outcome> {
        let protected =
            |(tree, outcome): &&(Tree, Outcome)| *tree == Tree::Inside && outcome.side == Side::Protected;
        self.outcomes.iter().filter(protected).map(|(_, outcome)| outcome)
    }

    /// Where the watched tree acted on the protected object of a case.
    pub(super) fn place(&self, case: &Case) -> Place {
        Place {
            run: self.dir.path().to_owned(),
            case: case.name,
            tree: Tree::Inside,
            side: Side::Protected,
            shared: self.shared.clone(),
        }
    }
}

pub(super) fn run(setting: &Setting, mode: Mode) -> Result<Facts> {
    let dir = run_dir()?;
    let base = fs::canonicalize(dir.path())?;
    let cases: Vec<&'static Case> =
        super::cases().filter(|case| setting.level == Level::Lsm || case.is_held_by_cgroup()).collect();
    let program = own_program()?;
    fs::create_dir(base.join("bin"))?;
    for name in ["spared", "reader", "plain"] {
        place_program(&base.join("bin").join(name))?;
    }
    for (name, interpreter) in [("script", "plain"), ("spared-script", "reader")] {
        let line = format!("#!{}/bin/{interpreter} policy-read\n", base.display());
        make(&base.join("bin").join(name), line.as_bytes())?;
    }

    // Nobody takes what comes in; that it comes in is enough.
    let listeners = ["127.66.0.1:0", "127.67.0.1:0", "[::1]:0", "[::1]:0"].map(TcpListener::bind);
    let [a, b, c, d] = &listeners;
    let at = |listener: &std::io::Result<TcpListener>| -> Result<SocketAddr> {
        let listener = listener.as_ref().map_err(|err| anyhow::anyhow!("cannot listen: {err}"))?;
        Ok(listener.local_addr()?)
    };
    let targets = [target(&program)?, target(&program)?];
    let shared = Shared {
        v4: [at(a)?, at(b)?],
        v6: [at(c)?, at(d)?],
        free: free_ports()?,
        targets: [targets[0].0.id(), targets[1].0.id()],
        prefix: base.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    };
    fs::write(base.join("shared.json"), serde_json::to_vec(&shared)?)?;
    for case in &cases {
        for tree in Tree::ALL {
            for side in Side::ALL {
                let place = Place { run: base.clone(), case: case.name, tree, side, shared: shared.clone() };
                fs::create_dir_all(place.dir())?;
                (case.prepare)(&place).with_context(|| format!("prepare {}", case.name))?;
            }
        }
    }
    let policy = base.join("policy.yaml");
    fs::write(&policy, text(setting.level, &base, &shared, &cases))?;

    let words = |tree: Tree| {
        let mut words: Vec<OsString> = ["policy", "effects"].map(OsString::from).into();
        words.push(base.clone().into());
        words.push(tree.word().into());
        words.extend(cases.iter().map(|case| OsString::from(case.name)));
        words
    };
    let plain = base.join("bin/plain");
    let mut outside =
        Companion(Command::new(&plain).args(words(Tree::Outside)).stdin(Stdio::null()).spawn()?);
    let (db, log) = (base.join("audit.db"), base.join("stderr"));
    let inside = words(Tree::Inside);
    let command: Vec<&OsStr> =
        [plain.as_os_str()].into_iter().chain(inside.iter().map(OsString::as_os_str)).collect();
    let options = ["--policy", &policy.to_string_lossy(), "--mode", mode.word(), "--landlock", "off"]
        .map(OsString::from);
    let options: Vec<&OsStr> = options.iter().map(OsString::as_os_str).collect();
    let child = watched(setting, &db, &options, &command)
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log)?)
        .spawn()?;
    let said = || String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
    let status = runs::wait(child)?;
    ensure!(status.success(), "it ended with {status}, and said:\n{}", said());
    let mut ended = None;
    sys::wait_until(runs::RUN_SECONDS, || {
        ended = outside.0.try_wait().ok().flatten();
        ended.is_some()
    });
    ensure!(ended.is_some_and(|status| status.success()), "the tree outside ended with {ended:?}");

    let mut outcomes = Vec::new();
    for tree in Tree::ALL {
        for line in fs::read_to_string(program::results(&base, tree))?.lines() {
            outcomes.push((tree, serde_json::from_str(line).context("an outcome")?));
        }
    }
    let blocked: &[&str] = match mode {
        Mode::Action => &["--session", "last", "--blocked"],
        Mode::Observe => &["--session", "last"],
    };
    let mut events = Vec::new();
    records(setting, &db, blocked, |row| {
        if let AuditRecord::Event(event) = row.record {
            events.push(*event);
        }
        Ok(())
    })?;
    Ok(Facts { dir, shared, level: setting.level, outcomes, events })
}

/// A process outside, to be signalled and looked into. It must not be a child of who looks.
fn target(program: &Path) -> Result<Companion> {
    let mut command = Command::new(program);
    command.arg("wait-for-input").stdin(Stdio::piped()).process_group(0);
    Ok(Companion(command.spawn()?))
}

/// Two ports where nobody listens.
fn free_ports() -> Result<[u16; 2]> {
    let held = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    Ok([held[0].local_addr()?.port(), held[1].local_addr()?.port()])
}

/// The policy: a rule for each case, and the shared ones. It names the objects of both trees.
fn text(level: Level, base: &Path, shared: &Shared, cases: &[&Case]) -> String {
    // Nothing holds what cannot be named below level lsm, and a policy that promises it is refused.
    let unresolved = if level == Level::Lsm { "block" } else { "allow" };
    let mut text = format!("version: 1\nname: proof\nsettings: {{unresolved: {unresolved}}}\nrules:\n");
    let mut rule = |id: &str, effect: &str, about: &str| {
        let _ = write!(text, "  - {{id: {id:?}, effect: {effect}, ");
        let _ = writeln!(text, "severity: high, reason: {:?}{about}}}", reason(id));
    };
    let places = |name: &'static str| {
        Tree::ALL.map(|tree| Place {
            run: base.to_owned(),
            case: name,
            tree,
            side: Side::Protected,
            shared: shared.clone(),
        })
    };
    let list = |case: &Case, patterns: &[&str]| {
        let all = places(case.name)
            .into_iter()
            .flat_map(|place| patterns.iter().map(move |pattern| quoted(&place.path(pattern))));
        all.collect::<Vec<_>>().join(", ")
    };
    for case in cases {
        let id = case.rule_id();
        match case.rule {
            Rule::Paths { effect, patterns } => {
                rule(&id, effect, &format!(", match: {{paths: [{}]}}", list(case, patterns)));
            }
            Rule::Unix(patterns) => {
                rule(&id, "unix", &format!(", match: {{unix: [{}]}}", list(case, patterns)));
            }
            Rule::Abstract => {
                let names = places(case.name).map(|place| format!("{:?}", place.abstract_name()));
                rule(&id, "unix", &format!(", match: {{abstract: [{}]}}", names.join(", ")));
            }
            Rule::Privilege(_) | Rule::Shared(_) => {}
        }
    }
    let spared = |name: &str| format!("unless: {{executables: [{}]}}", quoted(&base.join("bin").join(name)));
    let has = |id: &str| cases.iter().any(|case| matches!(case.rule, Rule::Shared(own) if own == id));
    // One rule for each operation, whatever it is tried by.
    let privileges: BTreeSet<&str> = cases.iter().filter_map(|case| case.privilege()).collect();
    for effect in privileges {
        rule(&format!("proof.{effect}"), effect, &format!(", {}", spared("spared")));
    }
    for (id, program) in [("proof.script", "script"), ("proof.interpreter", "reader")] {
        let sharing = cases.iter().filter(|case| matches!(case.rule, Rule::Shared(own) if own == id));
        for case in sharing {
            let sides = places(case.name).into_iter().flat_map(|place| {
                let allowed = Place { side: Side::Allowed, ..place.clone() };
                let both = [Some(place), Some(allowed).filter(|_| id == "proof.interpreter")];
                both.into_iter().flatten().map(|place| quoted(&place.file()))
            });
            let paths = sides.collect::<Vec<_>>().join(", ");
            rule(id, "file.read", &format!(", match: {{paths: [{paths}]}}, {}", spared(program)));
        }
    }
    if has(super::network::RULE_V4) {
        rule(super::network::RULE_V4, "net.connect", ", match: {addresses: [127.66.0.0/16]}");
        let port = shared.v6[0].port();
        rule(
            super::network::RULE_V6,
            "net.connect",
            &format!(", match: {{addresses: [\"::1/128\"], ports: [{port}]}}"),
        );
        let port = shared.free[0];
        rule(super::network::RULE_BIND, "net.bind", &format!(", match: {{ports: [{port}]}}"));
    }
    text
}

/// As YAML text.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display())
}

pub(super) fn reason(id: &str) -> String {
    format!("{id} is protected")
}
