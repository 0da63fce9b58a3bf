//! The programs this binary is when a test starts it with one of their names: a watcher built on the launcher, as the
//! runtime is, and commands that say what they see.

use std::{
    ffi::{OsStr, OsString},
    io::{Write, stdin, stdout},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use defenseclaw::{
    launcher::{
        CgroupEnd, LaunchError, LaunchOptions, Placement, RunAs, Running, Signals, Step, UserChoice,
        choose_user, finish_like,
        landlock::{self, Abi, Disk, Domain, LandlockLevel, LandlockPlan, PlanOptions, Siblings},
        prepare, prepare_in,
    },
    model::{ExitStatus, Mode, SessionId},
    policy::{self, Bindings},
};
use nix::sys::{
    signal::{SigSet, Signal, kill},
    wait::waitpid,
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::attempts;

/// None if `name` is no program of ours.
pub(crate) fn run(name: &OsStr, args: &[OsString]) -> Option<ExitCode> {
    match name.to_str()? {
        "watch" => Some(watch(args)),
        "report" => Some(report(args)),
        "many" => Some(many(args)),
        "try" => Some(attempts::run(args)),
        _ => None,
    }
}

/// What the watcher is asked for, before `--`.
#[derive(Default)]
struct WatchOptions {
    /// Says the pid, and waits for a line before it releases.
    hold: bool,
    /// Goes on after the command has ended, until it is asked to end.
    linger: bool,
    /// Says why there is no cgroup, if so.
    placement: bool,
    session: Option<SessionId>,
    user: Option<String>,
    /// A policy to hold the command with.
    policy: Option<PathBuf>,
    level: LandlockLevel,
    /// Plan as if the kernel had this version only.
    abi: Option<Abi>,
    /// Where to write what holds it.
    held: Option<PathBuf>,
}

fn parse(args: &[OsString]) -> (WatchOptions, Vec<OsString>) {
    let mut options = WatchOptions::default();
    let mut args = args.iter();
    loop {
        match args.next().expect("-- before the command").to_str().unwrap() {
            "--" => return (options, args.cloned().collect()),
            "--hold" => options.hold = true,
            "--linger" => options.linger = true,
            "--placement" => options.placement = true,
            "--session" => options.session = Some(args.next().unwrap().to_str().unwrap().parse().unwrap()),
            "--user" => options.user = Some(args.next().unwrap().to_str().unwrap().to_owned()),
            "--policy" => options.policy = args.next().map(PathBuf::from),
            "--scopes" => options.level = LandlockLevel::ScopesAndNet,
            "--abi" => options.abi = args.next().map(|abi| Abi(abi.to_str().unwrap().parse().unwrap())),
            "--held" => options.held = args.next().map(PathBuf::from),
            other => panic!("unknown option {other}"),
        }
    }
}

/// The watcher: what `defenseclaw run` does with this room.
fn watch(args: &[OsString]) -> ExitCode {
    let (options, command) = parse(args);
    let signals = Signals::block().unwrap();
    // As the store's thread: signals must not reach it, and the fork must cope with it.
    std::thread::spawn(|| {
        loop {
            std::thread::park();
        }
    });
    match attend(&options, command, signals) {
        Ok(status) => finish_like(status),
        Err(err) => {
            eprintln!("{err}");
            ExitCode::from(err.exit_code())
        }
    }
}

fn attend(
    options: &WatchOptions,
    command: Vec<OsString>,
    signals: Signals,
) -> Result<ExitStatus, LaunchError> {
    let user = options.user.clone().map(UserChoice::Named).unwrap_or_default();
    let user = choose_user(&user, nix::unistd::geteuid().is_root(), |name| std::env::var_os(name))?;
    let session = options.session.unwrap_or(SessionId(u64::from(std::process::id()) << 32));
    let plan = options.policy.as_ref().map(|policy| plan(options, policy, user.as_ref()));
    let domain = plan.as_ref().map(Domain::open).transpose()?.flatten();
    let prepared = prepare_in(&LaunchOptions { command, session, user }, domain.as_ref())?;
    if let (Some(path), Some(plan)) = (&options.held, &plan) {
        let table = if domain.is_some() { prepared.protections() } else { &plan.table };
        let skipped: Vec<String> = domain
            .iter()
            .flat_map(|domain| &domain.skipped)
            .map(|skipped| skipped.path.to_string())
            .collect();
        let held = serde_json::json!({ "table": table, "rules": plan.rules, "skipped": skipped });
        std::fs::write(path, held.to_string()).unwrap();
    }
    if options.hold {
        println!("{}", prepared.pid());
        stdin().read_line(&mut String::new()).unwrap();
    }
    if options.placement
        && let Placement::Shared { reason } = prepared.placement()
    {
        eprintln!("shared: {reason}");
    }
    let mut running = prepared.release()?;
    if options.hold {
        println!("released");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let status = runtime.block_on(async {
        // SAFETY: the descriptor of `Signals` is the same, and open, as long as it lives.
        let signals = unsafe { AsyncFd::register_with_interest(signals, Interest::READABLE) }.unwrap();
        let status = until(&signals, &mut running, |step| matches!(step, Step::Ended(_))).await?;
        if options.linger {
            eprintln!("lingering");
            until(&signals, &mut running, |step| matches!(step, Step::Asked(_))).await?;
        }
        Ok::<_, LaunchError>(status)
    })?;
    if let CgroupEnd::Left(path) = running.finish() {
        eprintln!("left {}", path.display());
    }
    let Step::Ended(status) = status else { unreachable!("what was waited for") };
    Ok(status)
}

/// What `defenseclaw run` plans for a policy: the project is the working directory, and there is no home.
fn plan(options: &WatchOptions, policy: &Path, user: Option<&RunAs>) -> LandlockPlan {
    let text = std::fs::read_to_string(policy).unwrap();
    let policy = policy::load("policy.yaml", &text, &|_| None).unwrap();
    let project = std::env::current_dir().unwrap().canonicalize().unwrap();
    let bindings = Bindings {
        home: b"/nonexistent".to_vec(),
        project: project.as_os_str().as_bytes().to_vec(),
        profile: "default".to_owned(),
        mode: Some(Mode::Action),
    };
    let image = policy::compile(&policy, &bindings).unwrap();
    let places = Disk { uid: user.map_or_else(|| nix::unistd::geteuid().as_raw(), |user| user.uid) };
    let abi = options.abi.unwrap_or_else(Abi::of_this_kernel);
    let siblings = Siblings::Stable;
    LandlockPlan::new(
        &image,
        &PlanOptions { level: options.level, abi, places: &places, siblings, home: &landlock::Path::root() },
    )
}

async fn until(
    signals: &AsyncFd<Signals>,
    running: &mut Running,
    wanted: impl Fn(Step) -> bool,
) -> Result<Step, LaunchError> {
    loop {
        match running.step(signals.get_ref())? {
            step if wanted(step) => return Ok(step),
            Step::Stop => running.stop_along(),
            Step::Idle => signals.readable().await.unwrap().clear_ready(),
            Step::Ended(_) | Step::Asked(_) | Step::Hangup => {}
        }
    }
}

/// Says which signals it gets, one a line, until SIGUSR2. `--to-group`: answers SIGALRM with a SIGTERM to its own
/// process group.
fn report(args: &[OsString]) -> ExitCode {
    let mut all = SigSet::all();
    all.remove(Signal::SIGTSTP);
    all.thread_block().unwrap();
    let mut out = stdout().lock();
    writeln!(out, "ready").unwrap();
    let to_group = args.iter().any(|arg| arg == "--to-group");
    loop {
        let signal = all.wait().unwrap();
        if signal == Signal::SIGUSR2 {
            return ExitCode::SUCCESS;
        }
        writeln!(out, "got {signal}").unwrap();
        if to_group && signal == Signal::SIGALRM {
            kill(nix::unistd::Pid::from_raw(0), Signal::SIGTERM).unwrap();
        }
    }
}

/// Starts a command this often, in every way a start can end, and says whether anything was left of it.
fn many(args: &[OsString]) -> ExitCode {
    let count: u64 = args[0].to_str().unwrap().parse().unwrap();
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    let signals = Signals::block().unwrap();
    for n in 0..count {
        let command = if n % 4 == 0 { "/nonexistent" } else { "true" };
        let session = SessionId(u64::from(std::process::id()) << 32 | n);
        let prepared =
            prepare(&LaunchOptions { command: vec![command.into()], session, user: None }).unwrap();
        if let Placement::Cgroup(cgroup) = prepared.placement() {
            assert!(cgroup.path().exists());
        }
        if n % 4 == 1 {
            continue;
        }
        match prepared.release() {
            Err(err) => assert_eq!((n % 4, err.exit_code()), (0, 127), "{err}"),
            Ok(mut running) => {
                let mut fds =
                    [nix::poll::PollFd::new(running.wait_fd().unwrap(), nix::poll::PollFlags::POLLIN)];
                nix::poll::poll(&mut fds, nix::poll::PollTimeout::NONE).unwrap();
                assert_eq!(running.try_wait().unwrap(), Some(ExitStatus::Code(0)));
                assert!(matches!(running.finish(), CgroupEnd::Removed | CgroupEnd::None));
            }
        }
    }
    drop(signals);
    assert_eq!(waitpid(None, None), Err(nix::errno::Errno::ECHILD), "a child is left");
    assert_eq!(descriptors(), before, "descriptors are left");
    ExitCode::SUCCESS
}
