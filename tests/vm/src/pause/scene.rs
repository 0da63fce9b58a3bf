//! A run of the real binary in mode `hitl` that trials share, because loading its programs takes a guest most of a minute. Trials
//! let its tree do things, and ask and answer at its socket. What should become of that they know themselves.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::{fs::DirBuilderExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use defenseclaw::{
    config,
    model::{ApprovalId, Ruling, Text, Via},
    runtime::{Client, Pending, Question, Said, Since},
};
use tempfile::TempDir;

use super::stage::{self, Order};
use crate::{
    check::{
        Setting,
        session::{own_program, run_dir, watched},
    },
    policy::kernel::place_program,
    runs::{
        Ended, RUN_SECONDS,
        kill::{Traces, traces},
        to_its_end,
    },
    sys::{self, c},
};

/// Seconds that a question is open.
pub(super) const OPEN_SECONDS: u64 = 15;
/// Everything that should happen soon.
const SOON: u64 = 60;

/// The run.
pub(super) struct Scene {
    pub(super) setting: Setting,
    pub(super) base: PathBuf,
    pub(super) db: PathBuf,
    pub(super) client: Client,
    pub(super) watcher: Child,
    /// The watched command.
    pub(super) stage: u32,
    /// What the kernel had before.
    pub(super) before: Traces,
    /// Asks at the start, and gets no answer: its time passes while others are tried.
    pub(super) late: Option<(Job, ApprovalId)>,
    orders: File,
    orders_given: u64,
    _dir: TempDir,
}

/// Something that the tree was told to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub(super) id: u64,
    pub(super) pid: u32,
}

static RUNNING: Mutex<Option<Scene>> = Mutex::new(None);

/// Hands out the run, which is started for the first that wants it.
pub(super) fn with<T>(setting: &Setting, act: impl FnOnce(&mut Scene) -> Result<T>) -> Result<T> {
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    if running.is_none() {
        *running = Some(Scene::start(setting).context("the run that is asked")?);
    }
    act(running.as_mut().context("just started")?)
}

/// Hands it over for good.
pub(super) fn last<T>(setting: &Setting, act: impl FnOnce(Scene) -> Result<T>) -> Result<T> {
    with(setting, |_| Ok(()))?;
    let scene = RUNNING.lock().unwrap_or_else(PoisonError::into_inner).take();
    act(scene.context("just started")?)
}

/// Ends it.
pub(crate) fn finish() {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner).take();
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.order(Vec::new(), None).ok();
        if !sys::wait_until(SOON, || !matches!(self.watcher.try_wait(), Ok(None))) {
            self.watcher.kill().ok();
            self.watcher.wait().ok();
        }
    }
}

impl Scene {
    fn start(setting: &Setting) -> Result<Self> {
        let dir = run_dir()?;
        let base = fs::canonicalize(dir.path())?;
        for name in ["ask", "too", "bin"] {
            fs::create_dir(base.join(name))?;
        }
        place_program(&base.join("bin/held"))?;
        fs::write(base.join("policy.yaml"), policy(&base, true, 0))?;
        let path = c(base.join("orders").as_os_str().as_encoded_bytes());
        // SAFETY: the path outlives the call.
        let failed = unsafe { libc::mkfifo(path.as_ptr(), 0o600) };
        ensure!(failed == 0, "mkfifo: {}", std::io::Error::last_os_error());
        // For reading, too: it must not wait for who reads, nor end with who does.
        let orders = File::options().read(true).write(true).open(base.join("orders"))?;
        // It stays, once there was a session that may outlive its watcher.
        let all_pins = fs::DirBuilder::new().mode(0o700).create("/sys/fs/bpf/defenseclaw");
        ensure!(all_pins.is_ok() || fs::exists("/sys/fs/bpf/defenseclaw")?, "{all_pins:?}");
        let (db, program, before) = (base.join("audit.db"), own_program()?, traces()?);
        let file = base.join("policy.yaml");
        let timeout = OPEN_SECONDS.to_string();
        let options = ["--policy".as_ref(), file.as_os_str(), "--mode".as_ref(), "hitl".as_ref()];
        let options = [&options[..], &["--approval-timeout".as_ref(), timeout.as_ref()]].concat();
        let words = [program.as_os_str(), "pause".as_ref(), "stage".as_ref(), base.as_os_str()];
        let mut watcher = watched(setting, &db, &options, &words)
            .stdout(Stdio::null())
            .stderr(File::create(base.join("said"))?)
            .spawn()?;
        let mut ended = false;
        let there = sys::wait_until(RUN_SECONDS, || {
            ended = !matches!(watcher.try_wait(), Ok(None));
            ended || base.join("stage.pid").exists()
        });
        if !there || ended {
            watcher.kill().ok();
            watcher.wait().ok();
            bail!("it did not start: {}", fs::read_to_string(base.join("said"))?);
        }
        let client = config::run_sockets().iter().find_map(|socket| Client::connect(socket).ok());
        let mut scene = Self {
            setting: setting.clone(),
            db,
            client: client.context("nobody answers at any socket of a run")?,
            watcher,
            stage: fs::read_to_string(base.join("stage.pid"))?.parse()?,
            before,
            late: None,
            orders,
            orders_given: 0,
            base,
            _dir: dir,
        };
        let path = scene.file("ask/late")?;
        let job = scene.start_job(&["cat", &path])?;
        scene.late = Some((job, scene.asked(&path)?.approval.id));
        Ok(scene)
    }

    /// Puts another policy in force. Without `too`, nothing is asked about what is there.
    pub(super) fn load(&self, too: bool, number: u32) -> Result<()> {
        fs::write(self.base.join("policy.new"), policy(&self.base, too, number))?;
        Ok(fs::rename(self.base.join("policy.new"), self.base.join("policy.yaml"))?)
    }

    /// Makes a file that is asked about.
    pub(super) fn file(&self, name: &str) -> Result<String> {
        let path = self.base.join(name);
        fs::write(&path, "content")?;
        Ok(path.to_str().context("a name of ours")?.to_owned())
    }

    fn order(&mut self, words: Vec<String>, terminal: Option<PathBuf>) -> Result<u64> {
        self.orders_given += 1;
        let id = self.orders_given;
        let mut line = serde_json::to_string(&Order { id, words, terminal })?;
        line.push('\n');
        self.orders.write_all(line.as_bytes())?;
        Ok(id)
    }

    /// Lets the tree start something.
    pub(super) fn start_job(&mut self, words: &[&str]) -> Result<Job> {
        self.job(words, None)
    }

    /// The same, at a terminal.
    pub(super) fn start_at(&mut self, words: &[&str], terminal: &Path) -> Result<Job> {
        self.job(words, Some(terminal.to_owned()))
    }

    fn job(&mut self, words: &[&str], terminal: Option<PathBuf>) -> Result<Job> {
        let id = self.order(words.iter().map(ToString::to_string).collect(), terminal)?;
        let (pid, end) = (stage::file(&self.base, id, "pid"), stage::file(&self.base, id, "end"));
        let there = sys::wait_until(SOON, || pid.exists() || end.exists());
        ensure!(there, "{words:?} does not start");
        if let Ok(why) = fs::read_to_string(&end)
            && !pid.exists()
        {
            bail!("{words:?}: {why}");
        }
        Ok(Job { id, pid: fs::read_to_string(pid)?.parse()? })
    }

    /// How it ended, if it has.
    pub(super) fn ended(&self, job: Job) -> Result<Option<Ended>> {
        let text = |what| {
            let bytes = fs::read(stage::file(&self.base, job.id, what)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        if !stage::file(&self.base, job.id, "end").exists() {
            return Ok(None);
        }
        let status = ExitStatus::from_raw(text("end").parse().with_context(|| text("end"))?);
        Ok(Some(Ended { status, stdout: text("out"), stderr: text("err") }))
    }

    /// Waits until it ends.
    pub(super) fn end(&self, job: Job) -> Result<Ended> {
        self.end_within(job, SOON)
    }

    /// The same, not longer than that.
    pub(super) fn end_within(&self, job: Job, seconds: u64) -> Result<Ended> {
        let mut ended = None;
        sys::wait_until(seconds, || {
            ended = self.ended(job).transpose();
            ended.is_some()
        });
        let open =
            || self.open().map(|open| open.into_iter().map(|one| one.approval.subject).collect::<Vec<_>>());
        ended.with_context(|| format!("{job:?} does not end in {seconds} s; open: {:?}", open()))?
    }

    /// What is open.
    pub(super) fn open(&self) -> Result<Vec<Pending>> {
        Ok(self.client.open(Since::default())?.approvals)
    }

    /// Waits for an open question about an object that is none of these.
    pub(super) fn asked_anew(&self, object: &str, known: &[ApprovalId]) -> Result<Pending> {
        let mut since = Since { after: None, wait: Duration::from_secs(1) };
        let end = sys::boottime() + SOON * 1_000_000_000;
        while sys::boottime() < end {
            let open = self.client.open(since)?;
            since.after = Some(open.version);
            let found = open.approvals.into_iter().find(|one| {
                is_about(&one.approval.subject.object, object) && !known.contains(&one.approval.id)
            });
            if let Some(found) = found {
                return Ok(found);
            }
        }
        let said = fs::read_to_string(self.base.join("said"))?;
        bail!("nobody asks about {object}; open: {:?}; the run said: {said}", self.open()?)
    }

    /// Waits for an open question about an object.
    pub(super) fn asked(&self, object: &str) -> Result<Pending> {
        self.asked_anew(object, &[])
    }

    /// Waits until a question is settled.
    pub(super) fn settled(&self, id: ApprovalId) -> Result<Question> {
        let mut found = None;
        sys::wait_until(SOON, || {
            found = self.client.question(id).ok().filter(|question| question.settled.is_some());
            found.is_some()
        });
        found.with_context(|| format!("{id} is not settled"))
    }

    /// Answers through the socket.
    pub(super) fn rule(&self, id: ApprovalId, ruling: Ruling) -> Result<()> {
        Ok(self.client.rule(id, &said(ruling))?)
    }

    /// Allows whatever is asked about an object until the job has ended; how often.
    pub(super) fn allow_all(&self, job: Job, object: &str) -> Result<(Ended, usize)> {
        let (end, mut answers) = (sys::boottime() + SOON * 1_000_000_000, 0);
        loop {
            if let Some(ended) = self.ended(job)? {
                return Ok((ended, answers));
            }
            ensure!(sys::boottime() < end, "{job:?} does not end; open: {:?}", self.open()?);
            for one in self.open()?.iter().filter(|one| is_about(&one.approval.subject.object, object)) {
                self.rule(one.approval.id, Ruling::Once)?;
                answers += 1;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// The binary under test, from outside of the tree.
    pub(super) fn command(&self, words: &[&str]) -> Result<Ended> {
        to_its_end(Command::new(&self.setting.binary).args(words))
    }
}

pub(super) fn said(ruling: Ruling) -> Said {
    Said { ruling, message: None, expires_s: None, via: Via::Api }
}

fn is_about(object: &Text, name: &str) -> bool {
    object.0.windows(name.len()).any(|part| part == name.as_bytes())
}

fn policy(base: &Path, too: bool, number: u32) -> String {
    let base = base.display();
    let also = if too {
        format!(
            "  - {{id: too, effect: file.read, severity: high, reason: r, match: {{paths: ['{base}/too/**']}}}}\n"
        )
    } else {
        String::new()
    };
    format!(
        "version: 1
settings: {{unresolved: allow}}
rules:
  - {{id: ask, effect: file.read, severity: high, reason: ask first, match: {{paths: ['{base}/ask/**']}}}}
  - {{id: held, effect: exec, severity: high, reason: r, match: {{paths: ['{base}/bin/held']}}}}
  - {{id: number-{number}, effect: file.read, severity: high, reason: r, match: {{paths: ['{base}/none']}}}}
{also}"
    )
}
