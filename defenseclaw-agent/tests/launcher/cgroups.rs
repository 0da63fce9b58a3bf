//! The cgroup of a session: used, removed, and cleaned up after a run that could not.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use defenseclaw::{
    launcher::{LaunchOptions, Prepared, prepare},
    model::SessionId,
};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use crate::harness::{Talking, child_of, end, eventually, is_root, state, trial_if, watched_with};

pub(crate) fn trials() -> Vec<Trial> {
    let possible = is_root() && parent().is_some();
    vec![
        trial_if(possible, "made_used_and_removed", made_used_and_removed),
        trial_if(possible, "left_while_it_is_used", left_while_it_is_used),
        trial_if(possible, "stale_ones_are_removed", stale_ones_are_removed),
        trial_if(possible, "entered_without_clone3", entered_without_clone3),
        trial_if(possible, "without_cgroup_v2_it_runs_all_the_same", without_cgroup_v2_it_runs_all_the_same),
    ]
}

/// Directory that sessions' cgroups are made in here.
fn parent() -> Option<&'static Path> {
    static PARENT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || Some(next_run().placement().cgroup()?.path().parent()?.to_owned());
    PARENT.get_or_init(find).as_deref()
}

fn next_run() -> Prepared {
    prepare(&LaunchOptions { command: vec!["true".into()], session: session(), user: None }).unwrap()
}

/// One that no other test of this machine uses.
fn session() -> SessionId {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    SessionId(0xf << 60 | u64::from(std::process::id()) << 16 | NEXT.fetch_add(1, Ordering::Relaxed))
}

fn directory(session: SessionId) -> PathBuf {
    parent().unwrap().join(format!("defenseclaw-{session}"))
}

fn made_used_and_removed() {
    let session = session();
    let mut watcher = watched_with(["--session", &session.to_string()], ["cat", "/proc/self/cgroup"]);
    let output = watcher.output().unwrap();
    let seen = String::from_utf8(output.stdout).unwrap();
    assert!(
        seen.lines()
            .any(|line| line.starts_with("0::") && line.ends_with(&format!("/defenseclaw-{session}")))
    );
    assert!(!directory(session).exists());

    let prepared = prepare(&LaunchOptions { command: vec!["true".into()], session, user: None }).unwrap();
    let cgroup = prepared.placement().cgroup().unwrap();
    let inside = fs::read_to_string(cgroup.path().join("cgroup.procs")).unwrap();
    assert_eq!(inside.trim(), prepared.pid().to_string());
    assert_eq!(cgroup.path(), directory(session));
    assert!(cgroup.id() > 0);
    drop(prepared);
    assert!(!directory(session).exists());
}

fn left_while_it_is_used() {
    let session = session();
    // The background process lives until its standard input, ours, ends.
    let mut command =
        watched_with(["--session", &session.to_string()], ["sh", "-c", "cat <&3 >/dev/null 2>&1 & exit 2"]);
    let (input, hold) = std::io::pipe().unwrap();
    // SAFETY: dup2 and fcntl are async-signal-safe.
    unsafe {
        use std::os::fd::AsRawFd;
        let input = input.as_raw_fd();
        command.pre_exec(move || match (libc::dup2(input, 3), libc::fcntl(3, libc::F_SETFD, 0)) {
            (3, 0) => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let output = child.wait_with_output();
    drop(hold);
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains(&format!("left {}", directory(session).display()))
    );
    // Both ends are close-on-exec here: nobody but the background process holds what it reads from.
    drop(input);
    eventually("the next run removes it", || {
        next_run();
        !directory(session).exists()
    });
}

fn stale_ones_are_removed() {
    // What a killed run leaves: a directory that nobody has locked.
    let (stale, foreign, alive) = (
        directory(session()),
        parent().unwrap().join(format!("defenseclaw-x{}", std::process::id())),
        session(),
    );
    fs::create_dir(&stale).unwrap();
    fs::create_dir(&foreign).unwrap();
    let start = |session: SessionId| {
        let command = ["sh", "-c", "echo ready; exec cat"];
        let mut watcher = Talking::start(&mut watched_with(["--session", &session.to_string()], command));
        assert_eq!(watcher.line(), "ready");
        watcher
    };
    let mut living = start(alive);
    // A run that is killed while its command goes on leaves a cgroup that is in use.
    let used = session();
    let mut killed = start(used);
    let orphan = child_of(killed.pid());
    killed.signal(Signal::SIGKILL);

    let next =
        prepare(&LaunchOptions { command: vec!["true".into()], session: session(), user: None }).unwrap();
    assert!(!stale.exists(), "an empty one is removed");
    assert!(foreign.exists(), "one that is not ours stays");
    assert!(directory(alive).exists(), "one of a living run stays");
    assert!(directory(used).exists(), "one that is used stays");
    drop(next);
    fs::remove_dir(&foreign).unwrap();

    // With its standard input, the orphan ends; then the next run removes its cgroup.
    drop(killed.child.stdin.take());
    assert_eq!(killed.line(), "");
    eventually("the orphan is gone", || state(orphan) == '-');
    end(killed.child);
    drop(next_run());
    assert!(!directory(used).exists());
    drop(living.child.stdin.take());
    assert_eq!(living.line(), "");
    assert!(end(living.child).success());
}

/// Container filters answer clone3 with ENOSYS.
fn entered_without_clone3() {
    // Load the number of the system call; if it is clone3, fail with ENOSYS; otherwise allow.
    let clone3 = u32::try_from(libc::SYS_clone3).unwrap();
    let filter = [
        libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 },
        libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: clone3 },
        libc::sock_filter {
            code: 0x06,
            jt: 0,
            jf: 0,
            k: libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned(),
        },
        libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ];
    let session = session();
    let mut watcher = watched_with(["--session", &session.to_string()], ["cat", "/proc/self/cgroup"]);
    // SAFETY: prctl is async-signal-safe; the program points to `filter`, which the closure owns.
    unsafe {
        watcher.pre_exec(move || {
            let mut filter = filter;
            let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
            match libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let output = watcher.output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), b"".as_slice()), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains(&format!("/defenseclaw-{session}\n")),
        "{output:?}"
    );
    assert!(!directory(session).exists());
}

fn without_cgroup_v2_it_runs_all_the_same() {
    let mut hidden = Command::new("unshare");
    hidden.args(["--mount", "sh", "-c", r#"umount -l -a -t cgroup2 && exec "$0" "$@""#]);
    hidden.arg(std::env::current_exe().unwrap()).args(["watch", "--", "sh", "-c", "exit 8"]);
    let output = hidden.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(8), "{said}");
    assert!(said.starts_with("shared: cgroup v2 is not mounted"), "{said}");
}
