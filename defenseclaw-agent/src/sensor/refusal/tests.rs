//! Refusals that cannot be had on the machine at hand, as the data the kernel and the loader would report.

use aya::{Endianness, maps::MapError};

use super::*;

fn refused(text: &str) -> Refusal {
    Refusal::from(text.to_owned())
}

fn hook(program: &str) -> &'static Hook {
    hooks::COMMON
        .iter()
        .chain(hooks::LSM)
        .chain([&hooks::SYSCALL_EXIT])
        .find(|hook| hook.program == program)
        .unwrap()
}

fn call(errno: i32) -> ProgramError {
    let io_error = io::Error::from_raw_os_error(errno);
    ProgramError::SyscallError(aya::sys::SyscallError { call: "bpf_raw_tracepoint_open", io_error })
}

#[test]
fn an_optional_hook_that_is_refused_costs_what_it_sees_and_no_more() {
    let found = of_hook(hook("path_chmod"), Err(refused("no such hook"))).unwrap();
    let expected = capability("lsm/path_chmod", Some("no such hook".to_owned()));
    assert_eq!((&found, found.state), (&expected, CapabilityState::Missing));
    let found = of_hook(hook("path_chmod"), Ok(())).unwrap();
    assert_eq!((found.state, found.reason.as_str()), (CapabilityState::Available, ""));
}

#[test]
fn a_hook_whose_work_is_done_elsewhere_is_degraded_and_says_where() {
    let found = of_hook(hook("file_truncate"), Err(refused("not in BTF"))).unwrap();
    assert_eq!(found.state, CapabilityState::Degraded);
    assert!(
        found.reason.contains("path_truncate") && found.reason.contains("not in BTF"),
        "{}",
        found.reason
    );
}

#[test]
fn an_old_kernel_without_a_required_hook_is_an_error_with_a_way_out() {
    for program in ["process_fork", "process_exec", "process_exit", "sys_exit"] {
        let text = "the BTF of this kernel has no such tracepoint";
        let missing = of_hook(hook(program), Err(refused(text))).unwrap_err();
        let name = missing.hook.clone();
        let error = SensorError::from(missing);
        assert!(matches!(&error, SensorError::Required { hook, .. } if *hook == name), "{error:?}");
        assert!(error.to_string().contains(&name) && error.to_string().contains(text), "{error}");
        assert!(error.hint().unwrap().contains("Linux 6.1"), "{error}");
    }
}

#[test]
fn without_the_lsm_hook_the_tracepoint_level_is_left() {
    let missing = of_hook(hook("file_open"), Err(refused("Operation not permitted"))).unwrap_err();
    let (level, reason) = missing.below_lsm();
    assert_eq!(level, Level::Tracepoint);
    assert_eq!(reason, "`lsm/file_open` could not be attached: Operation not permitted");
}

#[test]
fn only_eperm_is_a_matter_of_privileges() {
    for (errno, privileges) in [(libc::EPERM, true), (libc::EACCES, false), (libc::EINVAL, false)] {
        let refusal = Refusal::from(&call(errno));
        assert_eq!(refusal.denied, privileges, "{refusal:?}");
        let error = SensorError::from(of_hook(hook("process_fork"), Err(refusal)).unwrap_err());
        assert_eq!(matches!(error, SensorError::Privileges(_)), privileges, "{error}");
        assert!(error.to_string().contains("tp_btf/sched_process_fork"), "{error}");
        assert!(error.hint().is_some());
    }
}

#[test]
fn an_object_that_may_not_be_loaded_is_a_matter_of_privileges() {
    for (errno, privileges) in [(libc::EPERM, true), (libc::EACCES, true), (libc::ENOMEM, false)] {
        let io_error = io::Error::from_raw_os_error(errno);
        let map = MapError::CreateError { name: "SCOPE".to_owned(), io_error };
        let error = of_object(&EbpfError::MapError(map));
        assert_eq!(matches!(error, SensorError::Privileges(_)), privileges, "{error}");
        assert!(error.to_string().contains("SCOPE"), "{error}");
        let hint = error.hint().unwrap();
        assert_eq!(hint.contains("root"), privileges, "{hint}");
    }
}

#[test]
fn unreadable_type_information_is_its_own_error() {
    let directory = tempfile::tempdir().unwrap();
    let garbage = directory.path().join("vmlinux");
    std::fs::write(&garbage, b"no BTF").unwrap();
    for path in [directory.path().join("absent"), directory.path().to_owned(), garbage] {
        let error = of_btf(&aya::Btf::parse_file(&path, Endianness::default()).unwrap_err());
        assert!(error.to_string().contains("/sys/kernel/btf/vmlinux"), "{error}");
        assert!(error.hint().unwrap().contains("CONFIG_DEBUG_INFO_BTF"), "{error}");
    }
}

#[test]
fn a_binary_without_its_object_says_how_to_build_it() {
    let error = object(b"").unwrap_err();
    assert!(matches!(error, SensorError::NoObject));
    assert!(error.hint().unwrap().contains("cargo xtask build-ebpf"));
    assert_eq!(object(b"\x7fELF").unwrap(), b"\x7fELF");
    assert!(no_map("SCOPE").to_string().contains("SCOPE"));
}

#[test]
fn of_a_verifier_log_the_verdict_is_shown() {
    let log = "0: R1=ctx()\n17: (bf) r1 = r6\nR1 invalid mem access 'scalar'\nprocessed 18 insns (limit 1000000)\n\
               verification time 91 usec\nstack depth 64\n\n";
    assert_eq!(verdict(log), Some("R1 invalid mem access 'scalar'"));
    for nothing in ["", "\n\n", "processed 0 insns\n"] {
        assert_eq!(verdict(nothing), None);
    }
}

#[test]
fn no_cause_is_told_twice() {
    assert_eq!(chain(&call(libc::EPERM)).matches("os error 1").count(), 1);
}

#[test]
fn every_level_states_what_it_cannot_see() {
    for level in [Level::Lsm, Level::Tracepoint] {
        let all: Vec<_> = blind_spots(level).collect();
        let mut names: Vec<_> = all.iter().map(|spot| &spot.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
        for spot in all {
            assert!(spot.name.starts_with("blind/") && spot.state == CapabilityState::Missing, "{spot:?}");
            assert!(!spot.reason.is_empty());
        }
    }
}
