//! Where a case acts: its directory, its claims, its child processes. Holds what every provocation needs and no
//! provocation itself.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use defenseclaw::model::{Access, Action, EventKind, ExitStatus, FileRef, KernelPath, Level, ProcessKey};
use nix::{
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    unistd::{ForkResult, Pid, fork},
};

use crate::{
    sys::{self, c, sys},
    truth::{Claim, ExpectedLoss, Never, PathRule, Skip, Times, Truth, kernel_path, key},
};

/// Seconds a case may take under emulation before SIGALRM ends it.
const CASE_SECONDS: u32 = 600;

pub(crate) struct Stage {
    /// Directory of this case: canonical, empty at the start, and its working directory.
    pub(crate) dir: PathBuf,
    /// Directory of the run: the program to execute and the fifos are there.
    pub(crate) run: PathBuf,
    pub(crate) truth: Truth,
}

impl Stage {
    /// Forks, runs the case in the child, and leaves its truth in `RUN/truth/CASE.json`.
    pub(crate) fn case(run: &Path, case: &str, act: fn(&mut Stage) -> Result<()>) -> Result<()> {
        let dir = run.join(case);
        fs::create_dir(&dir).with_context(|| format!("{} must not exist yet", dir.display()))?;
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let mut stage =
            Self { dir, run: run.to_owned(), truth: Truth { case: case.to_owned(), ..Truth::default() } };
        // Opened before the fork: the case may end in another root or as another user.
        let mut file = File::create(run.join("truth").join(format!("{case}.json")))?;
        // SAFETY: this process has one thread.
        match unsafe { fork() }? {
            ForkResult::Child => {
                sys::deadline(CASE_SECONDS);
                let result = stage.begin().and_then(|()| act(&mut stage));
                stage.truth.failure = result.err().map(|err| format!("{err:#}"));
                stage.truth.ended = sys::boottime();
                let written =
                    serde_json::to_vec(&stage.truth).is_ok_and(|json| file.write_all(&json).is_ok());
                sys::exit_now(i32::from(!written));
            }
            ForkResult::Parent { child } => {
                let ticks = sys::start_ticks(child.as_raw() as u32)?;
                let status = waitpid(child, None)?;
                if status != WaitStatus::Exited(child, 0) {
                    stage.truth.pid = child.as_raw() as u32;
                    stage.truth.started.push((stage.truth.pid, ticks));
                    stage.truth.failure = Some(format!("the case died: {status:?}"));
                    file.set_len(0)?;
                    file.seek(SeekFrom::Start(0))?;
                    file.write_all(&serde_json::to_vec(&stage.truth)?)?;
                }
                file.sync_all()?;
                Ok(())
            }
        }
    }

    fn begin(&mut self) -> Result<()> {
        // What is asked for is what is set, so that the mode of a mkdir is the same at both levels.
        nix::sys::stat::umask(nix::sys::stat::Mode::empty());
        env::set_current_dir(&self.dir)?;
        self.truth.pid = sys::pid();
        self.truth.parent = nix::unistd::getppid().as_raw() as u32;
        self.truth.cgroup = sys::own_cgroup().unwrap_or(0);
        self.truth.began = sys::boottime();
        let ticks = sys::start_ticks(self.truth.pid)?;
        self.truth.started.push((self.truth.pid, ticks));
        Ok(())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.truth.pid
    }

    /// Absolute path of a name in the directory of the case.
    pub(crate) fn path(&self, name: impl AsRef<[u8]>) -> PathBuf {
        self.dir.join(OsStr::from_bytes(name.as_ref()))
    }

    /// The program that exec steps start: a copy of this one, which every user may run.
    pub(crate) fn program(&self) -> PathBuf {
        self.run.join("prog")
    }

    pub(crate) fn key(&self, pid: u32) -> ProcessKey {
        let ticks =
            self.truth.started.iter().rev().find(|(known, _)| *known == pid).map_or(0, |(_, ticks)| *ticks);
        key(pid, ticks)
    }

    /// Notes the start of a process while it still exists.
    pub(crate) fn know(&mut self, pid: u32) -> Result<ProcessKey> {
        let ticks = sys::start_ticks(pid)?;
        self.truth.started.push((pid, ticks));
        Ok(key(pid, ticks))
    }

    /// From here on, every file event below the directory of the case must be claimed.
    pub(crate) fn close(&mut self, tolerated: &[EventKind]) {
        self.truth.closed = Some(self.dir.as_os_str().as_bytes().into());
        self.truth.tolerated = tolerated.to_vec();
    }

    /// Claims something that this process has just done.
    pub(crate) fn claim(&mut self, step: &str, call: &str, action: Action) -> &mut Claim {
        self.truth.claims.push(Claim {
            step: step.to_owned(),
            call: call.to_owned(),
            actions: vec![action],
            tgid: self.truth.pid,
            tid: Some(sys::tid()).filter(|_| self.truth.pid == sys::pid()),
            uid: Some(nix::unistd::getuid().as_raw()),
            cgroup: None,
            result: None,
            by: Some(sys::boottime()),
            only: None,
            given: None,
            given_to: None,
            path: PathRule::Exact,
            times: Times::Once,
            blind: None,
        });
        self.truth.claims.last_mut().expect("just pushed")
    }

    pub(crate) fn never(&mut self, step: &str, kind: EventKind, containing: &str) -> &mut Never {
        self.truth.nevers.push(Never {
            step: step.to_owned(),
            tgid: self.truth.pid,
            kind,
            containing: containing.to_owned(),
            only: None,
        });
        self.truth.nevers.last_mut().expect("just pushed")
    }

    pub(crate) fn loss(
        &mut self,
        step: &str,
        kind: &str,
        at_least: u64,
        only: Option<Level>,
    ) -> &mut ExpectedLoss {
        self.truth.losses.push(ExpectedLoss {
            step: step.to_owned(),
            kind: kind.to_owned(),
            reason: None,
            at_least,
            only,
        });
        self.truth.losses.last_mut().expect("just pushed")
    }

    pub(crate) fn skip(&mut self, step: &str, needs: &str, reason: impl Into<String>) {
        self.truth.skips.push(Skip { step: step.to_owned(), needs: needs.to_owned(), reason: reason.into() });
    }

    /// The file behind a path, by its own path and identity.
    pub(crate) fn file_at(path: &Path) -> Result<FileRef> {
        let (dev, ino) = sys::identity(path).with_context(|| format!("{}", path.display()))?;
        Ok(FileRef { path: kernel_path(path.as_os_str().as_bytes()), dev, ino })
    }

    /// The file behind a descriptor, under the name `path`.
    pub(crate) fn file_behind(fd: &impl AsRawFd, path: KernelPath) -> Result<FileRef> {
        let (dev, ino) = sys::fd_identity(fd)?;
        Ok(FileRef { path, dev, ino })
    }

    /// Makes a file in the directory of the case, and claims that.
    pub(crate) fn make(&mut self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_EXCL;
        let fd = sys::owned(sys!(
            libc::SYS_openat,
            libc::AT_FDCWD,
            c(path.as_os_str().as_bytes()).as_ptr(),
            flags,
            0o644
        )?);
        let file = Self::file_behind(&fd, kernel_path(path.as_os_str().as_bytes()))?;
        let access = Access::WRITE | Access::CREATE;
        self.claim(&format!("make {name}"), "openat", Action::FileCreate { file, access });
        sys!(libc::SYS_write, fd.as_raw_fd(), c"content\n".as_ptr(), 8)?;
        Ok(path)
    }

    /// Makes a directory in the directory of the case, and claims that.
    pub(crate) fn make_dir(&mut self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        let text = path.as_os_str().as_bytes();
        sys!(libc::SYS_mkdirat, libc::AT_FDCWD, c(text).as_ptr(), 0o755)?;
        self.claim(
            &format!("mkdir {name}"),
            "mkdirat",
            Action::DirMake { path: kernel_path(text), mode: 0o755 },
        )
        .given(text)
        .result(0);
        Ok(path)
    }

    /// Opens `given` for reading and claims it as the file whose real path is `real`.
    pub(crate) fn reads(
        &mut self,
        step: &str,
        given: impl AsRef<[u8]>,
        real: impl AsRef<[u8]>,
    ) -> Result<&mut Claim> {
        let fd = sys::owned(
            sys!(
                libc::SYS_openat,
                libc::AT_FDCWD,
                c(given.as_ref()).as_ptr(),
                libc::O_RDONLY | libc::O_CLOEXEC,
                0
            )
            .with_context(|| format!("open for step {step}"))?,
        );
        let file = Self::file_behind(&fd, kernel_path(real))?;
        Ok(self.claim(step, "openat", Action::FileOpen { file, access: Access::READ }))
    }

    /// Forks a child, which runs `act` and exits with its answer. Claims the fork; [`Stage::reap`] claims the exit.
    pub(crate) fn spawn(&mut self, step: &str, act: impl FnOnce() -> i32) -> Result<u32> {
        // SAFETY: cases fork while they have one thread, unless they say why not.
        match unsafe { fork() }? {
            ForkResult::Child => {
                sys::deadline(CASE_SECONDS);
                let code = act();
                sys::exit_now(code)
            }
            ForkResult::Parent { child } => {
                self.forked(step, child.as_raw() as u32)?;
                Ok(child.as_raw() as u32)
            }
        }
    }

    /// Claims that this process has just forked `child`.
    pub(crate) fn forked(&mut self, step: &str, child: u32) -> Result<()> {
        let child = self.know(child)?;
        let namespaces = defenseclaw::model::Namespaces::empty();
        self.claim(&format!("{step}: fork"), "fork", Action::ProcessFork { child, namespaces });
        Ok(())
    }

    /// Waits for a child and claims its exit, as `wait(2)` told it.
    pub(crate) fn reap(&mut self, step: &str, pid: u32) -> Result<ExitStatus> {
        let status = match waitpid(Pid::from_raw(pid as i32), Some(WaitPidFlag::__WALL))? {
            WaitStatus::Exited(_, code) => ExitStatus::Code(code as u8),
            WaitStatus::Signaled(_, signal, _) => ExitStatus::Signal(signal as i32 as u8),
            other => bail!("{step}: child {pid} has not ended: {other:?}"),
        };
        let claim = self.claim(&format!("{step}: exit"), "exit", Action::ProcessExit { status });
        claim.tgid(pid);
        claim.uid = None;
        Ok(status)
    }

    /// A child that acts on a stage of its own; what it claims is claimed here. Waits for it.
    pub(crate) fn in_child(&mut self, step: &str, act: impl FnOnce(&mut Stage) -> Result<()>) -> Result<u32> {
        let pid = self.start_child(step, act)?;
        self.finish_child(step, pid)
    }

    /// As [`Stage::in_child`], without the wait.
    pub(crate) fn start_child(
        &mut self,
        step: &str,
        act: impl FnOnce(&mut Stage) -> Result<()>,
    ) -> Result<(u32, OwnedFd)> {
        let report = sys::owned(sys!(libc::SYS_memfd_create, c"claims".as_ptr(), libc::MFD_CLOEXEC)?);
        let fd = report.as_raw_fd();
        let mut own = Stage {
            dir: self.dir.clone(),
            run: self.run.clone(),
            truth: Truth {
                case: self.truth.case.clone(),
                started: self.truth.started.clone(),
                ..Truth::default()
            },
        };
        let pid = self.spawn(step, move || {
            own.truth.pid = sys::pid();
            own.truth.parent = nix::unistd::getppid().as_raw() as u32;
            let result = act(&mut own);
            own.truth.failure = result.err().map(|err| format!("{err:#}"));
            // SAFETY: the descriptor was inherited for this and nothing else uses it here.
            let mut file = unsafe { File::from_raw_fd(fd) };
            let json = serde_json::to_vec(&own.truth).unwrap();
            i32::from(file.write_all(&json).is_err())
        })?;
        Ok((pid, report))
    }

    pub(crate) fn finish_child(&mut self, step: &str, (pid, report): (u32, OwnedFd)) -> Result<u32> {
        let status = self.reap(step, pid)?;
        let mut file = File::from(report);
        let mut json = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut json)?;
        ensure!(status == ExitStatus::Code(0), "{step}: the child ended with {status:?}");
        let told: Truth = serde_json::from_slice(&json).context("report of a child")?;
        if let Some(failure) = told.failure {
            bail!("{step}: {failure}");
        }
        // In a pid namespace of its own the child has another pid than it believes.
        let rename = |claimed: u32| if claimed == told.pid { pid } else { claimed };
        for mut claim in told.claims {
            claim.tgid = rename(claim.tgid);
            claim.tid = claim.tid.map(rename);
            self.truth.claims.push(claim);
        }
        self.truth
            .nevers
            .extend(told.nevers.into_iter().map(|never| Never { tgid: rename(never.tgid), ..never }));
        for known in told.started {
            if !self.truth.started.contains(&known) {
                self.truth.started.push(known);
            }
        }
        self.truth.losses.extend(told.losses);
        self.truth.skips.extend(told.skips);
        self.truth.storms.extend(told.storms);
        Ok(pid)
    }
}
