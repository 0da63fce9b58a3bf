//! Commands in Landlock domains, on this kernel: what the policy closes is closed, what it leaves open is open, and
//! what is said of it is true.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    path::{Path, PathBuf},
    process::Output,
};

use defenseclaw::{
    launcher::landlock::Abi,
    model::{Held, ProtectionRow, ProtectionState, RuleHold},
};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use serde::Deserialize;
use tempfile::TempDir;

use crate::{
    harness::{is_root, program, trial_if, watched_with},
    terminal::Terminal,
};

pub(crate) fn trials() -> Vec<Trial> {
    // Files came with version 2, which every kernel has that this program runs on; some switch it off.
    let here = Abi::of_this_kernel() >= Abi(7);
    vec![
        trial_if(here, "landlock_files", files),
        trial_if(here, "landlock_reading", reading),
        trial_if(here, "landlock_execution", execution),
        trial_if(here, "landlock_links_and_renames_give_no_rights", links_and_renames_give_no_rights),
        trial_if(here, "landlock_ports", ports),
        trial_if(here, "landlock_scopes", scopes),
        trial_if(here, "landlock_older_versions_are_not_claimed", older_versions_are_not_claimed),
        trial_if(here, "landlock_missing_paths_are_skipped_and_said", missing_paths_are_skipped_and_said),
        trial_if(here, "landlock_nothing_blocked_nothing_changed", nothing_blocked_nothing_changed),
        trial_if(here, "landlock_terminal_and_signals", terminal_and_signals),
        trial_if(here, "landlock_program_that_may_not_run", program_that_may_not_run),
        trial_if(here && is_root(), "landlock_then_another_user", then_another_user),
    ]
}

/// A project, something beside it, and a policy.
struct Scene {
    place: TempDir,
}

#[derive(Debug, Deserialize)]
struct HeldBack {
    table: Vec<ProtectionRow>,
    rules: Vec<RuleHold>,
    skipped: Vec<String>,
}

impl HeldBack {
    fn row(&self, name: &str) -> &ProtectionRow {
        self.table.iter().find(|row| row.name == format!("landlock/{name}")).unwrap()
    }

    fn state(&self, name: &str) -> (ProtectionState, bool) {
        (self.row(name).state, self.row(name).verified)
    }

    fn rule(&self, name: &str) -> Held {
        self.rules.iter().find(|hold| hold.rule == name).unwrap_or_else(|| panic!("no {name}: {self:?}")).held
    }
}

impl Scene {
    /// `{scene}` in the policy stands for the directory of it all.
    fn new(policy: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().canonicalize().unwrap();
        for (name, content) in [("project/own", "own"), ("beside/other", "other"), ("keys/key", "key")] {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), content).unwrap();
        }
        let text = format!("version: 1\nsettings: {{unresolved: alert}}\n{policy}")
            .replace("{scene}", root.to_str().unwrap());
        fs::write(root.join("policy.yaml"), text).unwrap();
        Self { place }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().canonicalize().unwrap().join(name)
    }

    fn watched(&self, options: &[&str], command: &[String]) -> (Output, HeldBack) {
        let held = self.path("held.json");
        let policy = self.path("policy.yaml");
        let mut all = vec!["--policy", policy.to_str().unwrap(), "--held", held.to_str().unwrap()];
        all.extend(options);
        let mut watcher = watched_with(all, command);
        let output = watcher.current_dir(self.path("project")).output().unwrap();
        let text = fs::read(&held).unwrap_or_else(|err| panic!("{err}: {output:?}"));
        (output, serde_json::from_slice(&text).unwrap())
    }

    /// Tries these in a child of a child, and compares; paths begin at the scene.
    fn tries(&self, options: &[&str], expected: &[(&str, &str)]) -> HeldBack {
        let mut command: Vec<String> = vec![own_name(), "try".into(), "sub".into()];
        let root = self.path("");
        let whole = |text: &str| text.replace('@', root.to_str().unwrap());
        command.extend(expected.iter().map(|(attempt, _)| whole(attempt)));
        let (output, held) = self.watched(options, &command);
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        let found = String::from_utf8(output.stdout).unwrap();
        let expected: Vec<_> =
            expected.iter().map(|(attempt, result)| format!("{} {result}", whole(attempt))).collect();
        assert_eq!(
            found.lines().collect::<Vec<_>>(),
            expected,
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        held
    }
}

fn own_name() -> String {
    std::env::current_exe().unwrap().to_str().unwrap().to_owned()
}

const CHANGES: &str = "defaults: {file.write: block, file.create: block, file.delete: block}
rules:
  - {id: project, effect: [file.write, file.create, file.delete], match: {paths: ['${project}/**', '/dev/**', '{scene}/absent/**']}, severity: info, action: allow}
";

fn files() {
    let scene = Scene::new(CHANGES);
    let held = scene.tries(
        &[],
        &[
            ("no-new-privs", "ok"),
            ("write:@project/own", "ok"),
            ("truncate:@project/own", "ok"),
            ("create:@project/new", "ok"),
            ("write:@project/new", "ok"),
            ("make:@project/dir", "ok"),
            ("rename:@project/new,@project/dir/moved", "ok"),
            ("remove:@project/dir/moved", "ok"),
            ("write:/dev/null", "ok"),
            ("read:@beside/other", "ok"),
            ("list:@beside", "ok"),
            ("write:@beside/other", "EACCES"),
            ("truncate:@beside/other", "EACCES"),
            ("create:@beside/new", "EACCES"),
            ("make:@beside/dir", "EACCES"),
            ("remove:@beside/other", "EACCES"),
            ("rename:@beside/other,@beside/elsewhere", "EACCES"),
            ("rename:@project/own,@beside/other", "EACCES"),
        ],
    );
    assert_eq!(held.state("file_write"), (ProtectionState::Enforced, true));
    assert_eq!(held.state("file_create"), (ProtectionState::Enforced, true));
    // Not tried: a failed attempt would remove something.
    assert_eq!(held.state("file_delete"), (ProtectionState::Enforced, false));
    assert_eq!(held.state("no_new_privs"), (ProtectionState::Enforced, true));
    assert_eq!(held.rule("default:file.write"), Held::Whole);
}

fn reading() {
    let own = std::env::current_exe().unwrap().canonicalize().unwrap();
    let own = own.parent().unwrap().display();
    let scene = Scene::new(&format!(
        "defaults: {{file.read: block}}
rules:
  - {{id: open, effect: file.read, match: {{paths: ['${{project}}/**', '/usr/**', '/etc/**', '/proc/**', '/dev/**', '/lib/**', '/lib64/**', '{own}/**']}}, severity: info, action: allow}}
  - {{id: keys, effect: file.read, match: {{paths: ['{{scene}}/keys/**']}}, severity: high, reason: r}}
"
    ));
    let held = scene.tries(
        &[],
        &[
            ("read:@project/own", "ok"),
            ("list:@project", "ok"),
            ("read:/etc/passwd", "ok"),
            ("read:@beside/other", "EACCES"),
            ("list:@beside", "EACCES"),
            ("read:@keys/key", "EACCES"),
            // Policy does not speak of writing.
            ("write:@beside/other", "ok"),
            ("create:@beside/new", "ok"),
        ],
    );
    assert_eq!(held.state("file_read"), (ProtectionState::Enforced, true));
    assert_eq!((held.rule("keys"), held.rule("default:file.read")), (Held::Whole, Held::Whole));
}

fn execution() {
    let own = std::env::current_exe().unwrap().canonicalize().unwrap();
    let own = own.parent().unwrap().display();
    let scene = Scene::new(&format!(
        "defaults: {{exec: block}}
rules:
  - {{id: tools, effect: exec, match: {{paths: ['/usr/**', '/lib/**', '/lib64/**', '{own}/**']}}, severity: info, action: allow}}
"
    ));
    let copy = scene.path("project/true");
    fs::copy("/usr/bin/true", &copy).unwrap();
    let held = scene.tries(&[], &[("execute:/usr/bin/true", "ok"), ("execute:@project/true", "EACCES")]);
    assert_eq!(held.row("exec").state, ProtectionState::Enforced);
    assert_eq!(held.rule("default:exec"), Held::Part);
}

fn links_and_renames_give_no_rights() {
    let own = std::env::current_exe().unwrap().canonicalize().unwrap();
    let own = own.parent().unwrap().display();
    let scene = Scene::new(&format!(
        "defaults: {{file.read: block}}
rules:
  - {{id: open, effect: file.read, match: {{paths: ['${{project}}/**', '/usr/**', '/etc/**', '/proc/**', '/dev/**', '/lib/**', '/lib64/**', '{own}/**']}}, severity: info, action: allow}}
"
    ));
    // Creating and removing are open everywhere: only the right to read would be gained.
    scene.tries(
        &[],
        &[
            ("link:@keys/key,@project/key", "EXDEV"),
            ("rename:@keys/key,@project/key", "EXDEV"),
            ("rename:@keys,@project/keys", "EXDEV"),
            ("rename:@keys,@renamed", "ok"),
            ("read:@renamed/key", "EACCES"),
            ("rename:@renamed,@keys", "ok"),
        ],
    );
}

fn ports() {
    let [open, closed] = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let [open_port, closed_port] = [&open, &closed].map(|listener| listener.local_addr().unwrap().port());
    // A port nobody has, and which may be had.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let free_port = free.local_addr().unwrap().port();
    drop(free);
    let scene = Scene::new(&format!(
        "defaults: {{net.connect: block, net.bind: block}}
rules:
  - {{id: out, effect: net.connect, match: {{addresses: 127.0.0.1, ports: {open_port}}}, severity: info, action: allow}}
  - {{id: in, effect: net.bind, match: {{addresses: 127.0.0.1, ports: {free_port}}}, severity: info, action: allow}}
"
    ));
    for options in [&[][..], &["--scopes"]] {
        let held = scene.tries(
            options,
            &[
                (&format!("connect:{open_port}"), "ok"),
                (&format!("connect:{closed_port}"), "EACCES"),
                (&format!("bind:{free_port}"), "ok"),
                ("bind:0", "EACCES"),
                // Said to be so.
                (&format!("udp:{closed_port}"), "ok"),
            ],
        );
        assert_eq!(held.state("connect_tcp"), (ProtectionState::Degraded, true));
        assert_eq!(held.state("bind_tcp"), (ProtectionState::Degraded, true));
        assert_eq!(held.rule("default:net.connect"), Held::Part);
    }
}

const SCOPES: &str = "defaults: {unix: block, priv.signal: block, priv.ptrace: block}\n";

fn abstract_listener() -> (UnixListener, String) {
    let name = format!("defenseclaw-test-{}-{:?}", std::process::id(), std::thread::current().id());
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    (listener, name)
}

fn scopes() {
    let (_listener, name) = abstract_listener();
    let scene = Scene::new(SCOPES);
    for options in [&[][..], &["--scopes"]] {
        let held = scene.tries(
            options,
            &[
                (&format!("abstract:{name}"), "EPERM"),
                (&format!("signal:{}", std::process::id()), "EPERM"),
                ("own-signal", "ok"),
                ("no-new-privs", "ok"),
                ("write:@beside/other", "ok"),
            ],
        );
        assert_eq!(held.state("abstract_unix"), (ProtectionState::Enforced, true));
        assert_eq!(held.state("signal"), (ProtectionState::Enforced, true));
        assert_eq!(
            (held.rule("default:priv.signal"), held.rule("default:priv.ptrace")),
            (Held::Whole, Held::Whole)
        );
        assert_eq!(held.state("file_write").0, ProtectionState::Off);
    }
}

fn older_versions_are_not_claimed() {
    let (_listener, name) = abstract_listener();
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = closed.local_addr().unwrap().port();
    let scene = Scene::new(
        "defaults: {file.write: block, net.connect: block, unix: block, priv.signal: block}
rules:
  - {id: project, effect: file.write, match: {paths: ['${project}/**', '/dev/**']}, severity: info, action: allow}
",
    );
    let held = scene.tries(
        &["--abi", "2"],
        &[
            (&format!("connect:{port}"), "ok"),
            (&format!("abstract:{name}"), "ok"),
            (&format!("signal:{}", std::process::id()), "ok"),
            ("write:@beside/other", "EACCES"),
        ],
    );
    // The self-test tried them all the same, and found them open.
    for name in ["connect_tcp", "abstract_unix", "signal"] {
        assert_eq!(held.state(name), (ProtectionState::Off, false), "{name}");
        assert!(held.row(name).reason.contains("needs Landlock ABI"), "{:?}", held.row(name));
    }
    assert_eq!(held.state("file_write"), (ProtectionState::Degraded, true));
    assert_eq!(held.rule("default:file.write"), Held::Part);
    assert_eq!(held.rule("default:net.connect"), Held::Nothing);
    let none = scene.tries(&["--abi", "0"], &[("no-new-privs", "EPERM"), ("write:@beside/other", "ok")]);
    assert!(none.table.iter().all(|row| row.state == ProtectionState::Off && !row.verified), "{none:?}");
    assert!(none.rules.iter().all(|hold| hold.held == Held::Nothing), "{none:?}");
}

fn missing_paths_are_skipped_and_said() {
    let scene = Scene::new(CHANGES);
    let held = scene.tries(&[], &[("write:@project/own", "ok"), ("write:@beside/other", "EACCES")]);
    assert_eq!(held.skipped, [scene.path("absent").to_str().unwrap()]);
}

fn nothing_blocked_nothing_changed() {
    let scene = Scene::new(
        "rules:\n  - {id: note, effect: file.write, match: {paths: '{scene}/**'}, severity: low, action: alert}\n",
    );
    let held = scene.tries(&[], &[("no-new-privs", "EPERM"), ("write:@beside/other", "ok")]);
    assert!(held.rules.is_empty());
}

fn terminal_and_signals() {
    let scene = Scene::new(CHANGES);
    let policy = scene.path("policy.yaml");
    let mut watcher = program("watch");
    watcher.args(["--policy", policy.to_str().unwrap(), "--", "sh", "-c"]);
    watcher.arg("tty; stty size; trap 'echo interrupted; exit 9' INT; echo ready; while :; do read -r line; echo \"<$line>\"; done");
    crate::harness::in_new_session(&mut watcher);
    watcher.current_dir(scene.path("project"));
    let mut terminal = Terminal::start(&mut watcher);
    terminal.expect("/dev/pts/");
    terminal.expect("ready");
    terminal.send("hello\n");
    terminal.expect("<hello>");
    terminal.send("\x03");
    terminal.expect("interrupted");
    assert_eq!(terminal.end().code(), Some(9));
    // Deaths by signal look the same, too, and signals from outside reach it.
    let (output, _) = scene.watched(&[], &["sh".into(), "-c".into(), "kill -TERM $$".into()]);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(Signal::SIGTERM as i32));
}

fn program_that_may_not_run() {
    let scene = Scene::new(
        "defaults: {exec: block}
rules:
  - {id: tools, effect: exec, match: {paths: ['/usr/**', '/lib/**', '/lib64/**']}, severity: info, action: allow}
",
    );
    fs::copy("/usr/bin/true", scene.path("project/true")).unwrap();
    let (output, _) = scene.watched(&[], &[scene.path("project/true").to_str().unwrap().to_owned()]);
    assert_eq!(output.status.code(), Some(126), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("permission denied"), "{output:?}");
}

/// The paths are opened by root, the self-test is made as root, and the command is the user's.
fn then_another_user() {
    let scene = Scene::new(CHANGES);
    let open = |path: &Path| std::os::unix::fs::chown(path, Some(65534), None).unwrap();
    open(&scene.path("project"));
    fs::set_permissions(scene.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let command = ["sh", "-c", "id -u; echo x > new && cat new; echo y > ../beside/other"].map(str::to_owned);
    let (output, held) = scene.watched(&["--user", "nobody"], &command);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "65534\nx\n", "{output:?}");
    assert_ne!(output.status.code(), Some(0));
    assert_eq!(held.state("file_write"), (ProtectionState::Enforced, true));
}
