//! The sensor on the kernel at hand: real programs, a real child, nothing pretended. Needs root and a BPF object; without
//! them each test is counted as ignored, and why is printed.
//!
//! This program is also its own test subject: called with a role, it does what that role says and ends.
#![expect(clippy::disallowed_methods, reason = "these tests start processes")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it talks to whoever started it")]
#![expect(clippy::unwrap_used, reason = "a role says where it failed by panicking there")]

#[path = "sensor_host/label.rs"]
mod label;
#[path = "sensor_host/observe.rs"]
mod observe;
#[path = "sensor_host/roles.rs"]
mod roles;

use std::{os::unix::fs::MetadataExt, process::Command, process::ExitCode};

use defenseclaw::{
    model::{Access, Action, CapabilityState, Exec, ExitStatus, KernelPath, Level, UnixName},
    sensor::{Sensor, SensorError, SensorOptions},
};
use libtest_mimic::{Arguments, Failed, Trial};
use observe::{Observed, SESSION, observe};

type Test = fn() -> Result<(), Failed>;

const TESTS: &[(&str, Test)] = &[
    ("an_enrolled_child_is_seen_whole_and_its_sibling_not_at_all", whole),
    ("every_counter_equation_holds_and_nothing_is_lost", balanced),
    ("nothing_stays_in_the_kernel", gone),
    ("every_hook_of_the_level_is_there", hooks),
    ("names_that_are_made_are_not_called_deleted", made),
    ("a_path_of_a_detached_mount_is_unresolved", detached),
    ("sockets_of_every_family_are_named", sockets),
    ("signals_inside_the_tree_are_its_own_business", signals),
    ("children_are_born_with_the_label_of_their_moment", label::labels),
    ("who_runs_already_is_enrolled_once_and_named_once", label::running),
    ("without_privileges_the_error_says_so", nobody),
];

fn main() -> ExitCode {
    if let Some(code) = roles::play() {
        return code;
    }
    let mut arguments = Arguments::from_args();
    // Each test loads its own programs: side by side they would only wait for each other.
    arguments.test_threads = Some(1);
    let skip = reason_to_skip();
    if let Some(reason) = &skip {
        eprintln!("skipping {} tests: {reason}", TESTS.len());
    }
    let trials = TESTS
        .iter()
        .map(|(name, test)| Trial::test(*name, *test).with_ignored_flag(skip.is_some()))
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn reason_to_skip() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("loading BPF programs needs root".to_owned());
    }
    let options = SensorOptions { bulk_ring: 4096, priority_ring: 4096, processes: 1, judge: false };
    match Sensor::load(&options) {
        // Whoever promised the object wants to know that it is missing.
        Err(SensorError::NoObject) if expected("bpf_object") => None,
        Err(error @ SensorError::NoObject) => Some(error.to_string()),
        // Any other error is for the tests to find.
        _ => None,
    }
}

fn expected(feature: &str) -> bool {
    std::env::var("DEFENSECLAW_EXPECT").is_ok_and(|list| list.split(',').any(|name| name == feature))
}

fn check(what: &str, holds: bool, seen: &Observed) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(format!("{what}; seen:\n{seen:#?}").into()) }
}

fn whole() -> Result<(), Failed> {
    let seen = observe("files")?;
    let own = |process: u32| seen.events.iter().filter(move |event| event.process.tgid == process);
    check("an event of another session", seen.events.iter().all(|event| event.session == SESSION), &seen)?;
    check("an event of the sibling", own(seen.sibling).count() == 0, &seen)?;
    let elsewhere =
        |path: Option<&KernelPath>| path.is_some_and(|path| path.text.lossy().contains("sibling"));
    check("a file of the sibling", !seen.events.iter().any(|event| elsewhere(event.action.path())), &seen)?;
    let starts = own(seen.child).all(|event| event.process.start_ns / 10_000_000 == seen.start_ticks);
    check("the child's start is not that of /proc", starts, &seen)?;

    let file = seen.directory.join("marker");
    let metadata = file.metadata()?;
    let opened = |wanted: fn(&Action) -> Option<(&defenseclaw::model::FileRef, Access)>| {
        own(seen.child).filter_map(|event| wanted(&event.action)).any(|(found, access)| {
            found.ino == metadata.ino()
                && found.dev == kernel_device(metadata.dev())
                && found.path.text.lossy().ends_with(&*file.to_string_lossy())
                && !found.path.unresolved
                && access.intersects(Access::READ | Access::WRITE)
        })
    };
    let created =
        opened(
            |action| {
                if let Action::FileCreate { file, access } = action { Some((file, *access)) } else { None }
            },
        );
    check("the file was not created", created, &seen)?;
    let read =
        opened(
            |action| {
                if let Action::FileOpen { file, access } = action { Some((file, *access)) } else { None }
            },
        );
    check("the file was not opened", read, &seen)?;

    let forked = own(seen.child).find_map(|event| {
        if let Action::ProcessFork { child, .. } = &event.action { Some(*child) } else { None }
    });
    let Some(grandchild) = forked else { return Err(format!("no fork; seen:\n{seen:#?}").into()) };
    let binary = std::env::current_exe()?;
    let ino = binary.metadata()?.ino();
    let right = |exec: &Exec| {
        exec.exe.ino == ino
            && exec.argv.iter().skip(1).map(|text| text.lossy()).eq(["--leaf", "", "7"])
            && exec.parent.tgid == seen.child
            && exec.session_env == [("CODEX_THREAD_ID".into(), "t1".into())]
    };
    let execs = own(grandchild.tgid).any(|event| {
        event.process == grandchild && matches!(&event.action, Action::ProcessExec(exec) if right(exec))
    });
    check("no right exec of the grandchild", execs, &seen)?;
    let ends = |process, status| {
        own(process).any(|event| event.action == Action::ProcessExit { status: ExitStatus::Code(status) })
    };
    check("no end of the grandchild", ends(grandchild.tgid, 7), &seen)?;
    check("no end of the child", ends(seen.child, 0), &seen)
}

/// `st_dev` in the kernel's own encoding.
fn kernel_device(device: u64) -> u64 {
    nix::sys::stat::major(device) << 20 | nix::sys::stat::minor(device)
}

fn balanced() -> Result<(), Failed> {
    let seen = observe("files")?;
    check("losses", seen.losses.is_empty(), &seen)?;
    check("undecodable records", seen.stats.decode_error == 0, &seen)?;
    check("no counters", seen.stats.kernel.contains_key("process_exec"), &seen)?;
    for (kind, counts) in &seen.stats.kernel {
        let all: u64 = counts.iter().filter(|(name, _)| *name != "seen").map(|(_, count)| count).sum();
        check(&format!("{kind}: seen is not the sum"), counts["seen"] == all, &seen)?;
        let received = seen.stats.received.get(kind).copied().unwrap_or(0);
        check(&format!("{kind}: submitted is not received"), counts["submitted"] == received, &seen)?;
        // Scripts and libraries of the child make more than one.
        check(&format!("{kind}: nothing was submitted"), received > 0, &seen)?;
    }
    let received: u64 = seen.stats.received.values().sum();
    check("received is not what was handed over", received == seen.events.len() as u64, &seen)
}

fn gone() -> Result<(), Failed> {
    let before = observe::own_programs()?;
    check_ids("before", &before, 0)?;
    let sensor = Sensor::load(&SensorOptions::default())?;
    let loaded = observe::own_programs()?;
    check_ids("while loaded", &loaded, 3)?;
    drop(sensor);
    check_ids("after", &observe::own_programs()?, 0)?;
    // The kernel frees a program a little after its last user.
    let deadline = observe::Deadline::new();
    loop {
        let all: Vec<u32> =
            aya::programs::loaded_programs().filter_map(Result::ok).map(|program| program.id()).collect();
        let left: Vec<_> = loaded.iter().filter(|id| all.contains(id)).collect();
        if left.is_empty() {
            return Ok(());
        }
        deadline.wait(|| format!("still loaded: {left:?}"))?;
    }
}

/// A program that this kernel's verifier refuses is a line of the capability table, and easily overlooked.
fn hooks() -> Result<(), Failed> {
    let sensor = Sensor::load(&SensorOptions::default())?;
    let missing: Vec<_> = sensor
        .protection()
        .capabilities
        .iter()
        .filter(|found| found.state == CapabilityState::Missing && !found.name.starts_with("blind/"))
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("{missing:#?}").into()) }
}

fn check_ids(when: &str, ids: &[u32], least: usize) -> Result<(), Failed> {
    let right = if least == 0 { ids.is_empty() } else { ids.len() >= least };
    if right { Ok(()) } else { Err(format!("{when}: programs {ids:?}").into()) }
}

fn made() -> Result<(), Failed> {
    let seen = observe("names")?;
    let named = |name: &str| {
        let all = seen.events.iter().flat_map(|event| [event.action.path(), event.action.other_path()]);
        all.flatten().filter(|path| path.text.lossy().ends_with(name)).cloned().collect::<Vec<_>>()
    };
    for name in ["directory", "link", "renamed", "hard"] {
        let paths = named(name);
        check(&format!("no event names {name}"), !paths.is_empty(), &seen)?;
        check(&format!("{name} is called deleted"), paths.iter().all(|path| !path.deleted), &seen)?;
        let whole = seen.directory.join(name);
        let right = paths.iter().all(|path| path.text.lossy().ends_with(&*whole.to_string_lossy()));
        check(&format!("{name} is not the whole path"), right, &seen)?;
    }
    Ok(())
}

fn detached() -> Result<(), Failed> {
    let seen = observe("detached")?;
    let paths: Vec<_> = seen
        .events
        .iter()
        .filter_map(|event| event.action.path())
        .filter(|path| path.text.lossy() == "/secret")
        .collect();
    check("the open through the detached mount was not seen", !paths.is_empty(), &seen)?;
    check("its path looks like one of the root", paths.iter().all(|path| path.unresolved), &seen)
}

fn sockets() -> Result<(), Failed> {
    let seen = observe("sockets")?;
    let own = || seen.events.iter().filter(|event| event.process.tgid == seen.child);
    let families: Vec<u16> = own()
        .filter_map(|event| {
            if let Action::NetConnect { endpoint } = &event.action { Some(endpoint.family) } else { None }
        })
        .collect();
    check("no connect of AF_NETLINK", families.contains(&16), &seen)?;
    let unix: Vec<_> = own()
        .filter_map(|event| {
            let Action::UnixConnect { name: UnixName::Path(path), datagram } = &event.action else {
                return None;
            };
            Some((path, *datagram, event.result))
        })
        .collect();
    let socket = seen.directory.join("socket").to_string_lossy().into_owned();
    let right = unix.iter().all(|(path, datagram, _)| path.text.lossy().ends_with(&*socket) && !datagram);
    check("a unix socket is not named by its whole path", right, &seen)?;
    check(
        "no accepted connect",
        unix.iter().any(|(_, _, result)| result.is_none_or(|result| result == 0)),
        &seen,
    )?;
    let refused = unix.iter().any(|(path, _, result)| *result == Some(-111) && path.as_given);
    // The refusal comes before the LSM hook: level `lsm` does not see it.
    check("no refused connect", refused || seen.level == Level::Lsm, &seen)
}

fn signals() -> Result<(), Failed> {
    let seen = observe("signals")?;
    let signals: Vec<_> = seen
        .events
        .iter()
        .filter_map(|event| {
            if let Action::Signal { signal, target } = &event.action {
                Some((*signal, *target))
            } else {
                None
            }
        })
        .collect();
    let [(signal, Some(target))] = signals[..] else {
        return Err(format!("not one signal but {signals:?}").into());
    };
    check("not the signal to the test itself", signal == 23 && target.tgid == std::process::id(), &seen)
}

fn nobody() -> Result<(), Failed> {
    let output = Command::new(std::env::current_exe()?).arg("--nobody").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && text.contains("not allowed to load BPF programs") && text.contains("root") {
        return Ok(());
    }
    Err(format!("{}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}
