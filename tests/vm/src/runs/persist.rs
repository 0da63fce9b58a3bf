//! `run --persist`: what the kernel goes on doing when the watcher is killed, and what another one makes of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    io::Write,
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use defenseclaw::model::{
    Action, AuditRecord, EventKind, ExitStatus, HandoverStep, Level, LossReason, MainExit, Posture,
    ProcessKey, SessionEnd, SessionId,
};
use nix::{
    sys::signal::{Signal, kill as send},
    unistd::Pid,
};
use serde::Deserialize;

use super::{
    RUN_SECONDS,
    kill::{pins, programs, verify},
    to_its_end, wait,
};
use crate::{
    check::{
        Setting, records,
        session::{own_program, run_dir, watched},
    },
    sys::{self, c},
};

const OPENS: &str = "30000";
const RUN: &str = "/run/defenseclaw/sessions";

/// One run in a directory of its own. Nothing of it outlives this, whatever happens.
struct Scene<'a> {
    setting: &'a Setting,
    base: PathBuf,
    db: PathBuf,
    _dir: tempfile::TempDir,
    /// Kept open, so that the tree never finds its end.
    ask: Option<fs::File>,
    asked: u32,
    watcher: Option<Child>,
    session: Option<SessionId>,
    programs: BTreeSet<u32>,
    pins: BTreeSet<PathBuf>,
    checks: BTreeSet<PathBuf>,
}

/// What `adopt --list --json` says.
#[derive(Debug, Deserialize)]
struct Listed {
    session: SessionId,
    watched: bool,
    adoptable: bool,
}

/// What `--stats-json` says, as far as it is needed.
#[derive(Debug, Deserialize)]
struct Stats {
    kernel: BTreeMap<String, BTreeMap<String, u64>>,
    #[serde(default)]
    filtered: u64,
}

/// What the audit has.
#[derive(Debug, Default)]
struct Audit {
    handovers: Vec<HandoverStep>,
    postures: Vec<Posture>,
    /// Types of rows that are no events, in their order.
    marks: Vec<&'static str>,
    events: u64,
    losses: BTreeMap<(String, LossReason), u64>,
    children: BTreeSet<u32>,
    ended: BTreeSet<ProcessKey>,
    ends: Vec<SessionEnd>,
}

impl<'a> Scene<'a> {
    fn new(setting: &'a Setting) -> Result<Self> {
        let dir = run_dir()?;
        let base = fs::canonicalize(dir.path())?;
        let (programs, pins) = (programs()?, pins());
        fs::write(base.join("protected"), b"x")?;
        fs::write(base.join("file"), b"x")?;
        for fifo in ["ask", "hold"] {
            // SAFETY: the path outlives the call.
            let made = unsafe { libc::mkfifo(c(base.join(fifo).as_os_str().as_bytes()).as_ptr(), 0o600) };
            ensure!(made == 0, "mkfifo: {}", std::io::Error::last_os_error());
        }
        let policy = format!(
            "version: 1\nrules:\n  - id: suite.file\n    effect: file.read\n    match: {{paths: [{}/protected]}}\n    \
             severity: critical\n    reason: It is the suite's.\n  - id: suite.address\n    effect: net.connect\n    \
             match: {{addresses: [127.203.113.9/32]}}\n    severity: critical\n    reason: It is the suite's.\n",
            base.display()
        );
        fs::write(base.join("policy.yaml"), policy)?;
        let db = base.join("audit.db");
        Ok(Self {
            setting,
            base,
            db,
            _dir: dir,
            ask: None,
            asked: 0,
            watcher: None,
            session: None,
            programs,
            pins,
            checks: checks(),
        })
    }

    /// Starts `run --persist` with this program of ours, in action mode if `judged`.
    fn run(&mut self, judged: bool, options: &[&str], program: &[&str]) -> Result<()> {
        let policy = self.base.join("policy.yaml");
        let mut all: Vec<&OsStr> = vec![OsStr::new("--persist")];
        all.extend(options.iter().map(OsStr::new));
        if judged {
            all.extend([OsStr::new("--policy"), policy.as_os_str()]);
            // The kernel's programs are to refuse, not what stays with the processes anyway.
            all.extend(["--mode", "action", "--landlock", "off", "--allow-degraded"].map(OsStr::new));
        }
        let own = own_program()?;
        let mut command = vec![own.as_os_str(), OsStr::new(program[0]), self.base.as_os_str()];
        command.extend(program[1..].iter().map(OsStr::new));
        let said = fs::File::create(self.base.join("said"))?;
        let run =
            watched(self.setting, &self.db, &all, &command).stdout(Stdio::null()).stderr(said).spawn()?;
        self.watcher = Some(run);
        Ok(())
    }

    /// Likewise, with the program that does as it is told, as soon as it does.
    fn obedient(&mut self) -> Result<()> {
        self.run(true, &[], &["obey"])?;
        let mut options = fs::OpenOptions::new();
        self.ask =
            Some(options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(self.base.join("ask"))?);
        self.until(|| self.base.join("started").exists(), "the command starts")?;
        self.session = Some(self.listed()?.context("no persistent session is listed")?.session);
        Ok(())
    }

    fn until(&self, mut done: impl FnMut() -> bool, what: &str) -> Result<()> {
        let said = || fs::read_to_string(self.base.join("said")).unwrap_or_default();
        // A watcher that has ended changes nothing any more.
        let pid = self.watcher.as_ref().map(Child::id);
        let mut reached = false;
        sys::wait_until(RUN_SECONDS, || {
            let over = pid.is_some_and(|pid| !sys::alive(pid));
            reached = done();
            reached || over
        });
        ensure!(reached, "in vain until {what}:\n{}", said());
        Ok(())
    }

    /// What it says about the session of this scene.
    fn listed(&self) -> Result<Option<Listed>> {
        let ended = to_its_end(Command::new(&self.setting.binary).args(["adopt", "--list", "--json"]))?;
        let all: Vec<Listed> = serde_json::from_str(&ended.stdout).context(ended.stdout)?;
        Ok(all.into_iter().find(|one| match self.session {
            Some(session) => one.session == session,
            None => fs::read_to_string(format!("{RUN}/{}.json", one.session))
                .is_ok_and(|text| text.contains(&self.base.display().to_string())),
        }))
    }

    /// Has the tree do something, and returns what it came to.
    fn asks(&mut self, word: &str) -> Result<i32> {
        self.asked += 1;
        let answer = self.base.join(format!("answer.{}", self.asked));
        writeln!(self.ask.as_ref().context("nobody obeys")?, "{word} {}", self.asked)?;
        ensure!(sys::wait_until(60, || answer.exists()), "the tree does not answer to `{word}`");
        Ok(fs::read_to_string(answer)?.parse()?)
    }

    fn end_tree(&self) -> Result<()> {
        Ok(writeln!(self.ask.as_ref().context("nobody obeys")?, "end")?)
    }

    /// What must hold whoever watches. Returns the child that was made meanwhile.
    fn holds(&mut self, when: &str) -> Result<u32> {
        let eperm = libc::EPERM;
        if self.setting.level == Level::Lsm {
            let open = self.asks("open")?;
            ensure!(open == eperm, "{when}: open of the protected file came to errno {open}");
        }
        let connect = self.asks("connect")?;
        ensure!(connect == eperm, "{when}: connect to the forbidden address came to errno {connect}");
        Ok(self.asks("fork")? as u32)
    }

    /// Ends the watcher as nobody wants to be ended.
    fn kill(&mut self) -> Result<()> {
        let watcher = self.watcher.take().context("no watcher")?;
        send(Pid::from_raw(watcher.id() as i32), Signal::SIGKILL)?;
        wait(watcher)?;
        Ok(())
    }

    fn adopt(&self) -> Command {
        let mut adopt = Command::new(&self.setting.binary);
        adopt.args(["adopt", "--report", "none", "--stats-json"]).arg(self.base.join("stats.json"));
        adopt.args(self.session.iter().map(ToString::to_string)).stdin(Stdio::null()).stdout(Stdio::null());
        adopt
    }

    fn start_adopting(&mut self) -> Result<()> {
        let said = fs::File::create(self.base.join("said"))?;
        self.watcher = Some(self.adopt().stderr(said).spawn()?);
        Ok(())
    }

    /// So many watchers have said that they go on.
    fn until_adopted(&self, times: usize) -> Result<()> {
        self.until(
            || {
                self.audit().is_ok_and(|audit| {
                    audit.marks.iter().filter(|mark| **mark == "handover").count() >= times
                })
            },
            "the session is adopted",
        )
    }

    fn finish(&mut self) -> Result<()> {
        let status = wait(self.watcher.take().context("no watcher")?)?;
        let said = fs::read_to_string(self.base.join("said")).unwrap_or_default();
        ensure!(status.success(), "the watcher ended with {status}:\n{said}");
        Ok(())
    }

    fn audit(&self) -> Result<Audit> {
        let mut audit = Audit::default();
        records(self.setting, &self.db, &["--session", "last"], |row| {
            audit.take(row.record);
            Ok(())
        })?;
        Ok(audit)
    }

    /// Nothing of ours is in the kernel or in the files any more.
    fn nothing_is_left(&self) -> Result<()> {
        ensure!(self.listed()?.is_none(), "the session is still listed: {:?}", self.listed()?);
        let mut left = BTreeSet::new();
        let clean = sys::wait_until(60, || {
            left = programs().map_or_else(|_| BTreeSet::new(), |now| &now - &self.programs);
            left.is_empty()
        });
        ensure!(clean, "BPF programs are left behind: {left:?}");
        let pinned: Vec<PathBuf> =
            pins().difference(&self.pins).filter(|path| is_of_a_session(path)).cloned().collect();
        ensure!(pinned.is_empty(), "pins are left behind: {pinned:?}");
        let files: Vec<_> = fs::read_dir(RUN)?.flatten().map(|entry| entry.file_name()).collect();
        let session = self.session.map(|session| session.to_string()).unwrap_or_default();
        let ours = |name: &&std::ffi::OsString| name.to_string_lossy().contains(&session);
        let checks: Vec<_> = checks().difference(&self.checks).cloned().collect();
        ensure!(checks.is_empty(), "files of the enforcement check are left behind: {checks:?}");
        ensure!(
            session.is_empty() || !files.iter().any(|name| ours(&name)),
            "files are left behind: {files:?}"
        );
        Ok(())
    }
}

/// Directories of enforcement checks.
fn checks() -> BTreeSet<PathBuf> {
    let is_one = |path: &PathBuf| path.to_string_lossy().starts_with("/run/defenseclaw-check-");
    fs::read_dir("/run").into_iter().flatten().flatten().map(|entry| entry.path()).filter(is_one).collect()
}

/// Not the directory that all of them share.
fn is_of_a_session(path: &Path) -> bool {
    path.components().count() > Path::new("/sys/fs/bpf/defenseclaw").components().count()
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        if let Some(watcher) = &mut self.watcher {
            let _ = watcher.kill();
            let _ = watcher.wait();
        }
        if let Ok(Some(listed)) = self.listed() {
            let _ =
                Command::new(&self.setting.binary).arg("release").arg(listed.session.to_string()).output();
        }
        for name in ["started", "background"] {
            let pid = fs::read_to_string(self.base.join(name)).ok().and_then(|text| text.parse::<u32>().ok());
            let Some(pid) = pid else { continue };
            // It is ours only as long as it is this program.
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if sys::alive(pid) && (comm.starts_with("suite-vm") || comm.starts_with("exe")) {
                let _ = send(Pid::from_raw(pid as i32), Signal::SIGKILL);
            }
        }
    }
}

impl Audit {
    fn take(&mut self, record: AuditRecord) {
        let mark = match record {
            AuditRecord::Event(event) => {
                self.events += 1;
                match (&event.action, event.kind()) {
                    (Action::ProcessFork { child, .. }, _) => drop(self.children.insert(child.tgid)),
                    (_, EventKind::ProcessExit) => drop(self.ended.insert(event.process)),
                    _ => {}
                }
                return;
            }
            AuditRecord::Loss(loss) => {
                *self.losses.entry((loss.kind, loss.reason)).or_default() += loss.count;
                "loss"
            }
            AuditRecord::Hook(_)
            | AuditRecord::Correlated(_)
            | AuditRecord::Asked(_)
            | AuditRecord::Settled(_)
            | AuditRecord::Granted(_)
            | AuditRecord::GrantEnded(_)
            | AuditRecord::Finding(_) => return,
            AuditRecord::Handover(change) => {
                self.handovers.push(change.step);
                "handover"
            }
            AuditRecord::Posture(change) => {
                self.postures.push(change.posture);
                "posture"
            }
            AuditRecord::SessionEnd(end) => {
                self.ends.push(end);
                "session_end"
            }
            AuditRecord::SessionStart(_) => "session_start",
            AuditRecord::PolicyLoaded(_) => "policy_loaded",
            AuditRecord::PolicyRefused(_) => "policy_refused",
        };
        self.marks.push(mark);
    }

    fn adopted_after_a_death(&self) -> usize {
        let died = |step: &&HandoverStep| matches!(step, HandoverStep::Adopted { died: true, missing, .. } if missing.is_empty());
        self.handovers.iter().filter(died).count()
    }

    /// One end, and it is known how the main process ended.
    fn has_ended_well(&self) -> Result<()> {
        let [end] = &self.ends[..] else { bail!("{} ends", self.ends.len()) };
        let well = end.main == MainExit::Ended(ExitStatus::Code(0)) && end.left_running == 0;
        ensure!(well && end.events == self.events, "{end:?}, {} events", self.events);
        Ok(())
    }
}

/// Everything that the kernel has put into a ring is an event, was left out, or is said to be missing.
fn balanced(scene: &Scene<'_>, audit: &Audit) -> Result<u64> {
    let stats: Stats = serde_json::from_slice(&fs::read(scene.base.join("stats.json"))?)?;
    let counted = |name: &str| -> u64 { stats.kernel.values().filter_map(|row| row.get(name)).sum() };
    let told = |wanted: LossReason| -> u64 {
        let of = |((kind, reason), count): (&(String, LossReason), &u64)| {
            (*reason == wanted && kind != "all").then_some(*count)
        };
        audit.losses.iter().filter_map(of).sum()
    };
    let missed = told(LossReason::Unclean);
    let (submitted, events, filtered) = (counted("submitted"), audit.events, stats.filtered);
    ensure!(
        submitted == events + filtered + missed,
        "{submitted} submitted, but {events} stored, {filtered} left out and {missed} missed"
    );
    for (name, reason) in [("ring_full", LossReason::RingFull), ("map_full", LossReason::MapFull)] {
        ensure!(counted(name) == told(reason), "{name}: {} counted, {} told", counted(name), told(reason));
    }
    Ok(missed + counted("ring_full"))
}

pub(super) fn kill_and_adopt(setting: &Setting) -> Result<()> {
    let mut scene = Scene::new(setting)?;
    scene.obedient()?;
    scene.holds("watched")?;
    // One watcher is enough.
    let refused = to_its_end(&mut scene.adopt())?;
    ensure!(refused.status.code() == Some(2) && refused.stderr.contains("is being watched"), "{refused:?}");

    scene.kill()?;
    let mut children = vec![scene.holds("after the kill")?];
    let listed = scene.listed()?.context("it is not listed")?;
    ensure!(!listed.watched && listed.adoptable, "{listed:?}");
    // Programs of another ABI are left alone.
    let manifest = PathBuf::from(format!("{RUN}/{}.json", listed.session));
    let known = fs::read_to_string(&manifest)?;
    fs::write(&manifest, known.replacen("\"abi\":", "\"abi\":9", 1))?;
    let refused = to_its_end(&mut scene.adopt())?;
    fs::write(&manifest, known)?;
    ensure!(refused.status.code() == Some(2) && refused.stderr.contains("ABI 9"), "{refused:?}");
    // Another run in the same audit says that the watcher is gone, and nothing more.
    verify(setting, &scene.db)?;
    children.push(scene.holds("after refused adoptions")?);

    scene.start_adopting()?;
    scene.until_adopted(1)?;
    children.push(scene.holds("adopted")?);
    scene.end_tree()?;
    scene.finish()?;
    verify(setting, &scene.db)?;
    let audit = scene.audit()?;
    ensure!(audit.adopted_after_a_death() == 1 && audit.handovers.len() == 1, "{:?}", audit.handovers);
    for child in children {
        ensure!(audit.children.contains(&child), "{child} is not in the audit: {:?}", audit.children);
    }
    let adopted = audit.marks.iter().position(|mark| *mark == "handover");
    let proven = audit.marks.iter().rposition(|mark| *mark == "posture");
    ensure!(proven > adopted, "not proven again: {:?}", audit.marks);
    ensure!(
        setting.level != Level::Lsm || audit.postures.last() == Some(&Posture::Enforced),
        "{:?}",
        audit.postures
    );
    let reloads = audit.marks.iter().filter(|mark| **mark == "policy_loaded").count();
    ensure!(reloads == 2, "{reloads} policies: {:?}", audit.marks);
    audit.has_ended_well()?;
    balanced(&scene, &audit)?;
    scene.nothing_is_left()
}

pub(super) fn mid_flood(setting: &Setting) -> Result<()> {
    let mut scene = Scene::new(setting)?;
    scene.run(false, &["--ring-bytes", "65536"], &["flood", OPENS])?;
    scene.until(|| scene.base.join("half").exists(), "half of the flood is over")?;
    scene.session = scene.listed()?.map(|listed| listed.session);
    scene.kill()?;
    // Nobody reads: the rings fill, and the kernel counts.
    scene.until(|| scene.base.join("done").exists(), "the flood is over")?;
    scene.start_adopting()?;
    scene.finish()?;
    verify(setting, &scene.db)?;
    let audit = scene.audit()?;
    ensure!(audit.adopted_after_a_death() == 1, "{:?}", audit.handovers);
    audit.has_ended_well().or_else(|err| {
        // The record of the end may be lost with the rest.
        let unseen = audit.ends.len() == 1 && audit.ends[0].main == MainExit::Unknown;
        if unseen { Ok(()) } else { Err(err) }
    })?;
    let lost = balanced(&scene, &audit)?;
    ensure!(lost > 0, "nothing was lost, so nothing is proven: {:?}", audit.losses);
    scene.nothing_is_left()
}

pub(super) fn kill_the_adopter(setting: &Setting) -> Result<()> {
    let mut scene = Scene::new(setting)?;
    scene.obedient()?;
    scene.kill()?;
    let mut expected = 0;
    // As soon as it has the lock, somewhere on its way, and when it watches.
    for moment in 0..3 {
        scene.start_adopting()?;
        match moment {
            0 => scene.until(
                || scene.listed().is_ok_and(|listed| listed.is_some_and(|one| one.watched)),
                "it is locked",
            )?,
            1 => std::thread::park_timeout(std::time::Duration::from_millis(u64::from(
                std::process::id() % 97,
            ))),
            _ => scene.until_adopted(expected + 1)?,
        }
        scene.kill()?;
        expected = scene.audit()?.handovers.len();
        scene.holds("after the death of an adopter")?;
    }
    scene.start_adopting()?;
    scene.until_adopted(expected + 1)?;
    let child = scene.holds("adopted at last")?;
    scene.end_tree()?;
    scene.finish()?;
    verify(setting, &scene.db)?;
    let audit = scene.audit()?;
    ensure!(audit.adopted_after_a_death() == audit.handovers.len(), "{:?}", audit.handovers);
    ensure!(audit.children.contains(&child), "{child} is not in the audit");
    audit.has_ended_well()?;
    balanced(&scene, &audit)?;
    scene.nothing_is_left()
}

pub(super) fn leave_and_release(setting: &Setting) -> Result<()> {
    let mut scene = Scene::new(setting)?;
    let held = fs::OpenOptions::new().read(true).write(true).open(scene.base.join("hold"))?;
    scene.run(true, &["--detach-after-main"], &["background"])?;
    scene.finish()?;
    let listed = scene.listed()?.context("it is not listed")?;
    scene.session = Some(listed.session);
    ensure!(listed.adoptable, "{listed:?}");
    // Who writes into the same audit does not take it for one that was cut off.
    let own = own_program()?;
    let other = [own.as_os_str(), OsStr::new("exit"), OsStr::new("0")];
    let other = to_its_end(&mut watched(setting, &scene.db, &[], &other))?;
    ensure!(other.status.success(), "{other:?}");
    let sessions = to_its_end(Command::new(&setting.binary).arg("--db").arg(&scene.db).arg("sessions"))?;
    ensure!(sessions.stdout.contains(" left "), "{}", sessions.stdout);

    let mut release = Command::new(&setting.binary);
    let released = to_its_end(release.arg("release").arg(listed.session.to_string()))?;
    ensure!(released.status.success() && released.stderr.contains("is released"), "{released:?}");
    let child: u32 = fs::read_to_string(scene.base.join("background"))?.parse()?;
    ensure!(sys::alive(child), "the process that was let go has ended");
    scene.nothing_is_left()?;
    drop(held);
    verify(setting, &scene.db)?;
    let mut audit = Audit::default();
    records(setting, &scene.db, &["--session", &listed.session.to_string()], |row| {
        audit.take(row.record);
        Ok(())
    })?;
    let steps = &audit.handovers[..];
    let expected = matches!(
        steps,
        [HandoverStep::Left, HandoverStep::Adopted { died: false, .. }, HandoverStep::Released]
    );
    ensure!(expected, "{steps:?}");
    let unclean = audit.losses.keys().any(|(_, reason)| *reason == LossReason::Unclean);
    ensure!(!unclean, "{:?}", audit.losses);
    let [end] = &audit.ends[..] else { bail!("{:?}", audit.ends) };
    ensure!(end.main == MainExit::Ended(ExitStatus::Code(0)) && end.left_running == 1, "{end:?}");
    Ok(())
}

/// Wherever it is killed, the command either never runs or can be taken over, and nothing is left in the end.
pub(super) fn random_moments(setting: &Setting) -> Result<()> {
    for turn in 0..3_u64 {
        let mut scene = Scene::new(setting)?;
        scene.run(true, &[], &["flood", "200"])?;
        // From when it has a place on: before that, it is a run like any other.
        scene.until(
            || scene.listed().is_ok_and(|listed| listed.is_some()) || scene.base.join("done").exists(),
            "it is pinned",
        )?;
        let wait = sys::boottime() % (1 + 40 * turn);
        std::thread::park_timeout(std::time::Duration::from_millis(wait));
        scene.session = scene.listed()?.map(|listed| listed.session);
        scene.kill()?;
        let when = format!("killed {wait} ms after its manifest");
        if scene.listed()?.is_some() {
            scene.start_adopting()?;
            scene.finish().context(when.clone())?;
        }
        scene.nothing_is_left().context(when.clone())?;
        verify(setting, &scene.db).context(when.clone())?;
        let started = scene.base.join("started").exists();
        let ended = scene.audit().is_ok_and(|audit| audit.ends.len() == 1);
        ensure!(ended || !started, "{when}: it ran, and the audit has no end of it");
    }
    Ok(())
}
