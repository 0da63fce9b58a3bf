//! What every case needs: a cgroup, the programs on it, a client in namespaces of its own, the scripted server and a
//! resolver there. All of it goes when the scene does.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, ensure};
use defenseclaw::{
    model::{Asker, BootTime, Effects, Event, PolicyAction, SessionId, Severity, Transport},
    policy::image::{Entry, HostRow, Image, Ports, RuleInfo},
    resolver::{Answered, Kernel, Listening, Permit, Resolver, ResolverStats, Rules, System},
    sensor::{Otherwise, Questions, Redirects, ResolverPorts, Sensor, SensorOptions},
};
use tokio::sync::mpsc;

use super::server::Server;
use crate::{runs, sys};

pub(super) const SESSION: SessionId = SessionId(0x0197_0000_0000_0053);
pub(super) const GENERATION: u64 = 3;
/// The scripted server, and an address where nobody listens.
pub(super) const SERVER4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
pub(super) const DEAD4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 54);
pub(super) const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53);
/// Addresses of `www.example.com`.
pub(super) const WWW: [&str; 2] = ["192.0.2.10", "2001:db8::10"];
/// Id of the rule that blocks `blocked.example.com`.
pub(super) const RULE_BLOCKED: &str = "test:blocked";
const PROFILE: u32 = 0;

/// The kernel's half, with a note of what it was told.
pub(super) struct Gate {
    questions: Arc<Questions>,
    permits: Mutex<Vec<Told>>,
}

/// An address the kernel was told about.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) profile: u32,
    pub(super) address: IpAddr,
    pub(super) generation: u64,
    pub(super) time: u64,
}

impl Gate {
    pub(super) fn permits(&self) -> Vec<Told> {
        self.permits.lock().unwrap().clone()
    }
}

impl Kernel for Gate {
    fn asker(&self, netns: u64, transport: Transport, from: SocketAddr, lane: u16) -> Option<Asker> {
        self.questions.find(netns, transport, from, lane)
    }

    fn permit(&self, profile: u32, address: IpAddr, _: &Permit, rules: &Rules) -> Result<(), String> {
        let generation = rules.generation;
        self.permits.lock().unwrap().push(Told { profile, address, generation, time: sys::boottime() });
        Ok(())
    }

    fn forget(&self, _: u32, _: IpAddr, _: u64) {}
}

/// A cgroup of this suite. It goes when it is empty.
struct Cgroup(PathBuf);

impl Drop for Cgroup {
    fn drop(&mut self) {
        sys::wait_until(10, || fs::remove_dir(&self.0).is_ok() || !self.0.exists());
    }
}

/// The programs: loaded once, because that takes a guest most of a minute. Each scene attaches them to a cgroup of its own.
pub(super) struct Loaded {
    pub(super) sensor: Sensor,
    redirects: Redirects,
    questions: Arc<Questions>,
}

static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

fn loaded() -> Result<MutexGuard<'static, Option<Loaded>>> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if loaded.is_none() {
        let sensor = Sensor::load(&SensorOptions::default())?;
        let (redirects, questions) = sensor.names()?;
        *loaded = Some(Loaded { sensor, redirects, questions: Arc::new(questions) });
    }
    Ok(loaded)
}

/// What ends with a scene, in the order it has to.
pub(super) struct Scene {
    pub(super) gate: Arc<Gate>,
    pub(super) server: Server,
    resolver: Option<Resolver>,
    stats: ResolverStats,
    answered: mpsc::Receiver<Answered>,
    listening: Listening,
    client: Option<Child>,
    output: BufReader<ChildStdout>,
    said: String,
    pid: u32,
    /// No other scene plays meanwhile.
    loaded: MutexGuard<'static, Option<Loaded>>,
    _cgroup: Cgroup,
}

impl Scene {
    /// With a watched client that will play `case`.
    pub(super) fn new(case: &str) -> Result<Self> {
        Self::set(case, true, true)
    }

    /// With a client in the same cgroup that nobody watches.
    pub(super) fn unwatched(case: &str) -> Result<Self> {
        Self::set(case, false, true)
    }

    /// With a watched client for whose profile nothing is resolved.
    pub(super) fn without_redirect(case: &str) -> Result<Self> {
        Self::set(case, true, false)
    }

    fn set(case: &str, watched: bool, redirected: bool) -> Result<Self> {
        let directory = sys::cgroup_mount()
            .context("no cgroup v2 hierarchy")?
            .join(format!("defenseclaw-suite-{}", std::process::id()));
        fs::create_dir(&directory).with_context(|| directory.display().to_string())?;
        let cgroup = Cgroup(directory);
        let mut loaded = loaded()?;
        let Loaded { sensor, redirects, questions } = loaded.as_mut().context("nothing is loaded")?;
        sensor.hold_cgroup(&cgroup.0);
        // What earlier scenes left.
        while sensor.read(&mut Vec::new(), 4096) > 0 {}

        let mut client = Command::new("/proc/self/exe")
            .args(["network-client", case])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut output = BufReader::new(client.stdout.take().context("no pipe")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        ensure!(line == "ready\n", "the client says {line:?}");
        fs::write(cgroup.0.join("cgroup.procs"), client.id().to_string())?;
        let namespace = OwnedFd::from(File::open(format!("/proc/{}/ns/net", client.id()))?);

        let server = Server::start(namespace.as_fd())?;
        let gate = Arc::new(Gate { questions: Arc::clone(questions), permits: Mutex::default() });
        let (report, answered) = mpsc::channel(4096);
        let resolver = Resolver::new(Arc::clone(&gate) as Arc<dyn Kernel>, report);
        resolver.set_rules(PROFILE, &rules())?;
        let servers = vec![SERVER4.into(), DEAD4.into(), SERVER6.into()];
        let listening = resolver.serve(namespace, System { servers, searched: Vec::new() })?;
        if redirected {
            let defenseclaw::resolver::Ports { udp4, udp6, tcp4, tcp6 } = listening.ports;
            redirects.lead(
                PROFILE,
                listening.netns,
                &ResolverPorts { udp4, udp6, tcp4, tcp6 },
                Otherwise::Refused,
            )?;
            redirects.elsewhere(PROFILE, Otherwise::Refused)?;
        } else {
            redirects.forget(PROFILE, 0)?;
        }
        if watched {
            sensor.enrol(client.id(), SESSION)?;
        }
        Ok(Self {
            gate,
            server,
            resolver: Some(resolver),
            stats: ResolverStats::default(),
            answered,
            listening,
            pid: client.id(),
            client: Some(client),
            output,
            said: String::new(),
            loaded,
            _cgroup: cgroup,
        })
    }

    /// Tells the client where the resolver listens.
    pub(super) fn tell_ports(&mut self) -> Result<()> {
        let ports = self.listening.ports;
        let line = format!("{} {}\n", ports.udp4[1], ports.tcp4);
        self.client
            .as_mut()
            .and_then(|client| client.stdin.as_mut())
            .context("no pipe")?
            .write_all(line.as_bytes())?;
        Ok(())
    }

    /// As if the daemon had died: nobody listens, the kernel still leads questions there.
    pub(super) fn end_resolver(&mut self) {
        self.stats = self.stats();
        self.resolver = None;
    }

    /// Lets the client play its case to the end, and returns its pid.
    pub(super) fn finish(&mut self) -> Result<u32> {
        let mut client = self.client.take().context("played already")?;
        client.stdin.take().context("no pipe")?.write_all(b"go\n")?;
        let pid = client.id();
        self.output.read_to_string(&mut self.said)?;
        let status = runs::wait(client)?;
        ensure!(status.success(), "the client failed ({status}): {}", self.said);
        Ok(pid)
    }

    /// What the client said on its standard output.
    pub(super) fn output(&self) -> &str {
        &self.said
    }

    pub(super) fn stats(&self) -> ResolverStats {
        self.resolver.as_ref().map_or(self.stats, Resolver::stats)
    }

    /// What the resolver reported.
    pub(super) fn answered(&mut self) -> Vec<Answered> {
        std::iter::from_fn(|| self.answered.try_recv().ok()).collect()
    }

    pub(super) fn sensor(&mut self) -> Result<&mut Sensor> {
        Ok(&mut self.loaded.as_mut().context("nothing is loaded")?.sensor)
    }

    /// What the kernel recorded of the client.
    pub(super) fn events(&mut self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let sensor = self.sensor()?;
        while !sensor.is_drained()? {
            sensor.read(&mut events, 4096);
        }
        let losses = sensor.losses(BootTime(1))?;
        ensure!(losses.is_empty(), "{losses:?}");
        events.retain(|event| event.process.tgid == self.pid);
        Ok(events)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(mut client) = self.client.take() {
            client.kill().ok();
            client.wait().ok();
        }
    }
}

fn rules() -> Rules {
    let entry = |effects, rule, action| {
        let entry = Entry {
            effects,
            rule,
            action,
            raw_action: action,
            would_block: false,
            kill: false,
            unless: None,
        };
        vec![(Ports::ANY, entry)]
    };
    let host = |name: &str, below, entries| HostRow {
        labels: name.split('.').map(str::to_owned).collect(),
        below,
        entries,
    };
    let info =
        |id: &str| RuleInfo { id: id.to_owned(), severity: Severity::High, reason: format!("{id} says so") };
    let image = Image {
        rules: vec![info("test:allowed"), info(RULE_BLOCKED)],
        hosts: vec![
            host("example.com", true, entry(Effects::NET_CONNECT, 0, PolicyAction::Allow)),
            host("blocked.example.com", false, entry(Effects::DNS, 1, PolicyAction::Block)),
        ],
        ..Image::default()
    };
    Rules { image: Arc::new(image), generation: GENERATION, sets: Vec::new(), rebinding: PolicyAction::Block }
}
