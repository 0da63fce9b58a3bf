//! Strings and their flags: paths, argument vectors, environments, names.

use super::*;

fn unlinked(raw: &Raw) -> KernelPath {
    let Action::FileUnlink { file } = raw.action() else { panic!("{raw:?}") };
    file.path
}

fn exec(raw: &Raw) -> Exec {
    let Action::ProcessExec(exec) = raw.action() else { panic!("{raw:?}") };
    *exec
}

#[test]
fn a_flag_belongs_to_its_string_alone() {
    type Flag = (u32, fn(&KernelPath) -> bool);
    let all: [Flag; 4] = [
        (flags::TRUNCATED, |path| path.truncated),
        (flags::UNRESOLVED, |path| path.unresolved),
        (flags::DELETED, |path| path.deleted),
        (flags::AS_GIVEN, |path| path.as_given),
    ];
    for slot in 0..6 {
        for (flag, read) in all {
            let raw = Raw::of(Kind::FileRename).string(0, "/a").string(1, "/b").flag(slot, flag);
            let Action::FileRename { file, to, .. } = raw.action() else { panic!("{raw:?}") };
            assert_eq!((read(&file.path), read(&to)), (slot == 0, slot == 1), "slot {slot}, flag {flag}");
            let one = |path: &KernelPath| all.iter().filter(|(_, read)| read(path)).count();
            assert_eq!(one(&file.path) + one(&to), usize::from(slot < 2));
        }
    }
}

#[test]
fn flags_of_the_record_are_not_those_of_a_string() {
    let event = decode_record(&Raw::of(Kind::FileUnlink).string(0, "/a").at_exit(-2).bytes()).unwrap();
    assert_eq!((event.result, event.vantage), (Some(-2), Vantage::SyscallExit));
    assert_eq!(event.action.path(), Some(&"/a".into()));
    let last = Raw::of(Kind::ProcessExec).string(5, "A=1\0").flag(5, 0xf);
    let event = decode_record(&last.bytes()).unwrap();
    assert_eq!((event.result, event.vantage), (None, Vantage::Kernel));
}

#[test]
fn a_given_path_starts_from_its_base() {
    for (text, base, expected) in [
        ("a", "/home/u", "/home/u/a"),
        ("a", "/", "/a"),
        ("../a", "/home/u", "/home/u/../a"),
        ("/a", "/home/u", "/a"),
        ("a", "", "a"),
        // AT_EMPTY_PATH: the descriptor itself.
        ("", "/home/u/f", "/home/u/f"),
        ("", "", ""),
    ] {
        let raw = Raw::of(Kind::FileUnlink).given(0, text, 2, base);
        assert_eq!(unlinked(&raw), given(expected), "{text} from {base}");
    }
}

#[test]
fn a_joined_path_is_as_uncertain_as_its_base() {
    let raw = Raw::of(Kind::FileUnlink).given(0, "a", 2, "b/c");
    let joined = unlinked(&raw.clone().flag(2, flags::TRUNCATED));
    assert_eq!(joined, KernelPath { truncated: true, ..given("b/c/a") });
    let joined = unlinked(&raw.flag(2, flags::UNRESOLVED));
    assert_eq!(joined, KernelPath { unresolved: true, ..given("b/c/a") });
}

#[test]
fn a_path_that_could_not_be_read_does_not_name_its_directory() {
    let raw = Raw::of(Kind::FileUnlink).given(0, "", 2, "/home/u").flag(0, flags::UNRESOLVED);
    assert_eq!(unlinked(&raw), KernelPath { unresolved: true, ..given("") });
}

#[test]
fn a_path_of_the_kernel_is_never_joined() {
    let raw = Raw::of(Kind::FileUnlink).string(0, "pipe:[1]").flag(0, flags::UNRESOLVED).string(2, "/home/u");
    assert_eq!(unlinked(&raw).text, "pipe:[1]".into());
}

#[test]
fn arguments_are_those_of_execve() {
    let texts = |all: &[&str]| all.iter().copied().map(Text::from).collect::<Vec<_>>();
    for (bytes, expected) in [
        ("", &[] as &[&str]),
        ("\0", &[""]),
        ("\0\0", &["", ""]),
        ("ls\0", &["ls"]),
        ("ls\0-l\0\0", &["ls", "-l", ""]),
        // Cut in the middle of an argument.
        ("ls\0--al", &["ls", "--al"]),
    ] {
        let exec = exec(&Raw::of(Kind::ProcessExec).string(4, bytes));
        assert_eq!((exec.argv, exec.argv_truncated), (texts(expected), false), "{bytes:?}");
    }
}

#[test]
fn arguments_that_are_missing_are_said_to_be() {
    for flag in [flags::TRUNCATED, flags::UNRESOLVED] {
        assert!(exec(&Raw::of(Kind::ProcessExec).flag(4, flag)).argv_truncated);
    }
    for other in [0, 1, 2, 3, 5] {
        assert!(!exec(&Raw::of(Kind::ProcessExec).flag(other, 0xf)).argv_truncated, "slot {other}");
    }
}

#[test]
fn a_program_that_is_no_script_has_no_interpreter() {
    assert_eq!(exec(&Raw::of(Kind::ProcessExec)).interpreter, None);
}

#[test]
fn only_names_of_the_list_leave_the_environment() {
    let environment = "CLAUDE_CODE_OAUTH_TOKEN=secret\0CODEX_THREAD_ID=t=1\0CODEX_SECRET=x\0GEMINI_SESSION_ID=\0\
                       CODEX_THREAD_ID\0=x\0\0DEFENSECLAW_TOOL_CALL_ID=9\0claude_code_session_id=x\0\
                       CLAUDE_CODE_SESSION_ID_X=x\0";
    let exec = exec(&Raw::of(Kind::ProcessExec).string(5, environment));
    let kept = [("CODEX_THREAD_ID", "t=1"), ("GEMINI_SESSION_ID", ""), ("DEFENSECLAW_TOOL_CALL_ID", "9")];
    assert_eq!(exec.session_env, kept.map(|(name, value)| (name.into(), value.into())));
    assert!(!format!("{exec:?}").contains("secret"));
}

#[test]
fn every_allowed_name_passes_the_kernels_first_filter() {
    // `PREFIXES` of the exec program; it compares eight bytes.
    for name in SESSION_ENV {
        let kernel = ["CLAUDE_C", "CODEX_TH", "CODEX_TO", "CODEX_SE", "GEMINI_S", "DEFENSEC"];
        assert!(kernel.iter().any(|prefix| name.starts_with(prefix.as_bytes())), "{}", name.escape_ascii());
    }
}

#[test]
fn names_of_unix_sockets_keep_their_form() {
    let name = |raw: Raw| {
        let Action::UnixConnect { name, .. } = raw.action() else { panic!("{raw:?}") };
        name
    };
    let unix = || Raw::of(Kind::UnixConnect);
    assert_eq!(name(unix()), UnixName::Unnamed);
    assert_eq!(name(unix().string(0, b"\0")), UnixName::Abstract(Text::default()));
    assert_eq!(name(unix().string(0, b"\0a\0")), UnixName::Abstract(b"a\0".as_slice().into()));
    let gone = KernelPath { deleted: true, ..KernelPath::from("/run/s") };
    assert_eq!(name(unix().string(0, "/run/s").flag(0, flags::DELETED)), UnixName::Path(gone));
    assert_eq!(name(unix().given(0, "/run/s\0/x", 2, "")), UnixName::Path(given("/run/s")));
}

#[test]
fn bytes_that_are_not_utf8_are_kept() {
    let path = unlinked(&Raw::of(Kind::FileUnlink).string(0, b"/\xff\x1b[31m"));
    assert_eq!(path.text.0, b"/\xff\x1b[31m");
}
