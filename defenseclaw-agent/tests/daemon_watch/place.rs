//! A daemon of its own, and programs with the shape of agents: a script that is told line by line what to do, and runs the
//! hook as agents do, through a shell.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use defenseclaw::{
    model::{AuditRecord, SessionId},
    store::{Filter, Reader, StoreError, verify},
};
use nix::{
    poll::poll,
    sys::signal::{Signal, kill},
    unistd::{Pid, chown},
};
use serde_json::Value;

/// Long enough for a busy machine; nothing that works waits for it.
const PATIENCE: Duration = Duration::from_mins(1);
/// A user who owns nothing here.
pub(crate) const NOBODY: u32 = 65534;

pub(crate) struct Place {
    dir: tempfile::TempDir,
    program: PathBuf,
    daemon: Option<Child>,
}

pub(crate) struct Agent {
    pub(crate) child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // Where everybody can run it. By another process: a file that this one has open for writing could not be run.
        let program = dir.path().join("defenseclaw");
        let copied =
            Command::new("cp").arg(env!("CARGO_BIN_EXE_defenseclaw")).arg(&program).status().unwrap();
        assert!(copied.success());
        let place = Self { dir, program, daemon: None };
        place.write(
            "policy.yaml",
            &format!(
                "version: 1\nrules:\n  - {{id: secret, effect: file.read, match: {{paths: ['{}/**']}}, severity: critical, reason: keep out}}\n",
                place.path("secret").display()
            ),
        );
        fs::create_dir(place.path("secret")).unwrap();
        place.write("secret/key", "k");
        place.write(
            "agent.sh",
            "while read -r line; do eval \"$line\" > out-$UID 2> err-$UID; echo \"done $?\"; done; exit 3\n",
        );
        let [socket, audit, policy] = ["d.sock", "audit.db", "policy.yaml"].map(|name| place.path(name));
        let (socket, audit, policy) = (socket.display(), audit.display(), policy.display());
        place.write(
            "config.yaml",
            &format!("version: 1\nsocket: {socket}\naudit: {audit}\npolicy: {policy}\nmode: action\n"),
        );
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// A daemon that is ready, and a directory that is its user's.
    pub(crate) fn started(user: Option<u32>) -> Self {
        Self::new().start(user)
    }

    /// A daemon that asks a person what Claude Code may do with what is secret.
    pub(crate) fn asking() -> Self {
        let place = Self::new();
        let text = |name: &str| fs::read_to_string(place.path(name)).unwrap();
        place.write("policy.yaml", &text("policy.yaml").replace("severity: critical", "severity: high"));
        let config = text("config.yaml").replace("mode: action", "mode: hitl");
        place.write("config.yaml", &format!("{config}connectors: {{claude-code: {{ask: hold}}}}\n"));
        place.start(None)
    }

    fn start(self, user: Option<u32>) -> Self {
        let mut place = self;
        let mut command = place.defenseclaw();
        command.arg("daemon").arg("--config").arg(place.path("config.yaml"));
        if let Some(user) = user {
            chown(place.dir.path(), Some(user.into()), None).unwrap();
            command.uid(user).gid(user);
        }
        place.daemon = Some(command.spawn().unwrap());
        place.wait("the daemon is not ready", |place| {
            UnixStream::connect(place.path("d.sock")).is_ok()
                && !place.status()["watch"]["unwatched"].as_str().is_some_and(|why| why.contains("still"))
        });
        place
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.program.clone()
    }

    pub(crate) fn defenseclaw(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().env("HOME", "/nonexistent").stdin(Stdio::null());
        command
    }

    /// A shell command that runs the hook with what is in a file.
    pub(crate) fn hook(&self, payload: &str) -> String {
        let (program, socket) = (self.program.display(), self.path("d.sock"));
        let socket = socket.display();
        format!(
            "sh -c '{program} hook claude-code --socket {socket} --timeout-ms 60000' < {}",
            self.path(payload).display()
        )
    }

    /// The same; it waits for a person.
    pub(crate) fn held_hook(&self, payload: &str) -> String {
        self.hook(payload).replace("--timeout-ms", "--hold-ms 60000 --timeout-ms")
    }

    /// What Claude Code wrote before a tool, once, with another session and command.
    pub(crate) fn payload(&self, name: &str, session: &str, command: &str) {
        let recorded =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/hooks/claude-code/PreToolUse.Bash.json");
        let mut payload: Value = serde_json::from_str(&fs::read_to_string(recorded).unwrap()).unwrap();
        payload["session_id"] = session.into();
        payload["cwd"] = self.dir.path().to_str().into();
        payload["tool_input"]["command"] = command.into();
        self.write(name, &payload.to_string());
    }

    pub(crate) fn agent(&self) -> Agent {
        let mut command = Command::new("bash");
        command.arg(self.path("agent.sh"));
        self.agent_in(command)
    }

    pub(crate) fn agent_of(&self, user: u32) -> Agent {
        for name in ["out", "err"] {
            let name = format!("{name}-{user}");
            self.write(&name, "");
            chown(&self.path(&name), Some(user.into()), None).unwrap();
        }
        let mut command = Command::new("bash");
        command.arg(self.path("agent.sh")).uid(user).gid(user);
        self.agent_in(command)
    }

    /// Makes `home`, whose configuration names the daemon.
    pub(crate) fn home_of(&self, user: u32) {
        let directory = self.path("home/.defenseclaw");
        fs::create_dir_all(&directory).unwrap();
        fs::copy(self.path("config.yaml"), directory.join("config.yaml")).unwrap();
        chown(&self.path("home"), Some(user.into()), None).unwrap();
    }

    /// The status of what another user hears.
    pub(crate) fn get_as(&self, user: u32, target: &str) -> u16 {
        let own = self.path("test");
        if !own.exists() {
            let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&own).status().unwrap();
            assert!(copied.success());
        }
        let output = Command::new(own)
            .arg("--get")
            .arg(self.path("d.sock"))
            .arg(target)
            .uid(user)
            .gid(user)
            .output()
            .unwrap();
        u16::from(output.status.code().map(u8::try_from).unwrap().unwrap()) + 200
    }

    /// Likewise, the command that starts it being given.
    pub(crate) fn agent_in(&self, mut command: Command) -> Agent {
        command.current_dir(self.dir.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        Agent { child, input, output }
    }

    pub(crate) fn get(&self, target: &str) -> (u16, String) {
        get(&self.path("d.sock"), target)
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.get("/v1/status").1).unwrap()
    }

    pub(crate) fn n_sessions(&self) -> u64 {
        self.status()["watch"]["watched_sessions"].as_u64().unwrap()
    }

    pub(crate) fn wait(&self, why: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "{why}");
            poll(&mut [], 5u8).unwrap();
        }
    }

    /// Ends the daemon; what the audit holds then, which is whole.
    pub(crate) fn stop(&mut self) -> Vec<AuditRecord> {
        let mut daemon = self.daemon.take().unwrap();
        kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGTERM).unwrap();
        assert!(daemon.wait().unwrap().success());
        assert!(verify(&self.path("audit.db"), None).unwrap().first_break.is_none());
        self.rows()
    }

    pub(crate) fn rows(&self) -> Vec<AuditRecord> {
        let mut rows = Vec::new();
        Reader::open(&self.path("audit.db"))
            .unwrap()
            .records(&Filter::default(), 0, None, |stored| {
                rows.push(stored.record);
                Ok::<_, StoreError>(std::ops::ControlFlow::Continue(()))
            })
            .unwrap();
        rows
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            daemon.kill().ok();
            daemon.wait().ok();
        }
    }
}

impl Agent {
    /// Does it, and says how it ended.
    pub(crate) fn run(&mut self, line: &str) -> i32 {
        writeln!(self.input.as_ref().unwrap(), "{line}").unwrap();
        let mut reply = String::new();
        self.output.read_line(&mut reply).unwrap();
        reply.trim().strip_prefix("done ").unwrap_or_else(|| panic!("{line}: {reply:?}")).parse().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it end, with code 3.
    pub(crate) fn end(&mut self) {
        drop(self.input.take());
        assert_eq!(self.child.wait().unwrap().code(), Some(3));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.input.take());
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn get(socket: &Path, target: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nhost: d\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// What this program does when it is started as another user: its exit code is the status, from 200.
pub(crate) fn get_as_somebody(socket: &str, target: &str) -> ExitCode {
    let (status, _) = get(Path::new(socket), target);
    ExitCode::from(u8::try_from(status - 200).unwrap())
}

/// Sessions in the order they began.
pub(crate) fn sessions(rows: &[AuditRecord]) -> Vec<SessionId> {
    let start = |row: &AuditRecord| {
        if let AuditRecord::SessionStart(start) = row { Some(start.session) } else { None }
    };
    rows.iter().filter_map(start).collect()
}
