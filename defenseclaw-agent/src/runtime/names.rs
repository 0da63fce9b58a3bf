//! Names of one session: the resolver in the network namespace of its command, and both halves of the kernel that it works
//! with. Questions are led to it as soon as a policy speaks of names, and stay so. It judges nothing itself.

use std::{
    fs::{self, File},
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::Arc,
};

use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::policy::Compiled;
use crate::{
    enforce::{Coming, RESOLVER, Resolutions, SESSION_PROFILE, Said},
    launcher::{Placement, Prepared},
    model::{
        Asker, BootTime, Capability, CapabilityState, Effects, Event, Loss, LossReason, Mode, PolicyAction,
        SessionId, Transport,
    },
    policy::image::Image,
    resolver::{
        Answered, Kernel, Listening, Permit, Ports, Resolver, ResolverError, ResolverStats, Rules, System,
    },
    sensor::{Otherwise, Questions, Redirects, ResolverPorts, Sensor, SensorError},
};

/// Name servers of the system, as they are when the session begins: what changes them later may be the session.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Answers that wait to be stored; more than can be on their way at once, so that a short pause of the loop holds up
/// nobody.
const REPORTS: usize = 4096;

/// Whether a policy says anything of names.
fn concern(image: &Image) -> bool {
    let by_default = image
        .defaults
        .iter()
        .any(|entry| entry.effects.contains(Effects::DNS) && entry.raw_action > PolicyAction::Allow);
    by_default || !image.hosts.is_empty()
}

/// The kernel's two halves: whose a question is, and what is said of addresses.
struct Halves {
    questions: Questions,
    resolutions: Resolutions,
}

impl Kernel for Halves {
    fn asker(&self, netns: u64, transport: Transport, from: SocketAddr, lane: u16) -> Option<Asker> {
        self.questions.find(netns, transport, from, lane)
    }

    fn permit(&self, profile: u32, address: IpAddr, permit: &Permit, rules: &Rules) -> Result<(), String> {
        let said = Said {
            entries: &permit.entries,
            expires: permit.expires,
            image: &rules.image,
            generation: rules.generation,
            sets: &rules.sets,
        };
        self.resolutions.say(profile, address, &said).map_err(|error| error.to_string())
    }

    fn forget(&self, profile: u32, address: IpAddr, generation: u64) {
        if let Err(error) = self.resolutions.forget(profile, address, generation) {
            // It is read under no policy that is in force, or has expired; it only takes up room.
            debug!(%address, %error, "a resolved address is not forgotten");
        }
    }
}

/// Names, where they can be resolved.
pub(super) struct Names {
    /// None: it has ended, with these totals.
    resolver: Option<Resolver>,
    last: ResolverStats,
    redirects: Redirects,
    namespace: OwnedFd,
    reports: mpsc::Receiver<Answered>,
    listening: Option<Listening>,
    led: bool,
    /// Unreported answers that were told as losses, and until when.
    told: (u64, BootTime),
}

impl Names {
    /// What it takes, or why names cannot be resolved for this command. Nobody listens yet.
    pub(super) fn of(sensor: &Sensor, prepared: &Prepared) -> Result<Self, String> {
        Self::new(sensor, prepared.placement(), &prepared.pid().to_string())
    }

    /// The same for a session that somebody else began: in the network namespace of whoever is left of it. Questions lead
    /// to a resolver that is gone, and are refused until this one listens.
    pub(super) fn adopt(sensor: &Sensor, placement: &Placement) -> Result<Self, String> {
        let members = placement.cgroup().map(|cgroup| cgroup.path().join("cgroup.procs"));
        let members = members.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        let member = members.lines().next().ok_or("no process of the session is left in its cgroup")?;
        Ok(Self { led: true, ..Self::new(sensor, placement, member)? })
    }

    fn new(sensor: &Sensor, placement: &Placement, pid: &str) -> Result<Self, String> {
        if let Placement::Shared { reason } = placement {
            return Err(format!("the command has no cgroup of its own: {reason}"));
        }
        let missing = sensor.missing_for_names();
        if !missing.is_empty() {
            return Err(format!("not attached: {}", missing.join(", ")));
        }
        let (redirects, questions) = sensor.names().map_err(|error| error.to_string())?;
        let resolutions = Resolutions::open(|name| sensor.map(name)).map_err(|error| error.to_string())?;
        let namespace = format!("/proc/{pid}/ns/net");
        let namespace =
            File::open(&namespace).map_err(|error| format!("cannot open {namespace}: {error}"))?;
        let (report, reports) = mpsc::channel(REPORTS);
        Ok(Self {
            resolver: Some(Resolver::new(Arc::new(Halves { questions, resolutions }), report)),
            last: ResolverStats::default(),
            redirects,
            namespace: namespace.into(),
            reports,
            listening: None,
            led: false,
            told: (0, super::clock::boot_now()),
        })
    }

    /// Listens, if nobody does yet.
    pub(super) fn serve(&mut self) -> Result<(), ResolverError> {
        let (None, Some(resolver)) = (self.listening, &self.resolver) else { return Ok(()) };
        let text = fs::read(RESOLV_CONF)
            .inspect_err(|error| warn!(file = RESOLV_CONF, %error, "no name server is the system's"))
            .unwrap_or_default();
        let system = System::from_resolv_conf(&text);
        let namespace = self.namespace.try_clone().map_err(ResolverError::Namespace)?;
        let servers = system.servers.clone();
        let listening = resolver.serve(namespace, system)?;
        info!(?servers, netns = listening.netns, "names are resolved");
        self.listening = Some(listening);
        Ok(())
    }

    /// A policy comes into force: what it says of resolved addresses is made ready, and questions go to the resolver.
    /// [`Names::commit`] or [`Names::discard`] has to follow.
    pub(super) fn stage(&mut self, compiled: &Compiled, coming: &Coming) -> Result<(), String> {
        let (Some(listening), Some(resolver)) = (self.listening, &self.resolver) else { return Ok(()) };
        let rules = Rules {
            image: Arc::new(compiled.image.clone()),
            generation: coming.generation,
            sets: coming.sets.clone(),
            rebinding: if compiled.mode == Mode::Observe { PolicyAction::Alert } else { PolicyAction::Block },
        };
        resolver.stage(SESSION_PROFILE, &rules).map_err(|error| error.to_string())?;
        if !self.led {
            // The resolver answers by this policy already, because there was none before.
            self.lead(listening, compiled.mode).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn lead(&mut self, listening: Listening, mode: Mode) -> Result<(), SensorError> {
        let otherwise = if mode == Mode::Observe { Otherwise::Passed } else { Otherwise::Refused };
        let Ports { udp4, udp6, tcp4, tcp6 } = listening.ports;
        let ports = ResolverPorts { udp4, udp6, tcp4, tcp6 };
        self.redirects.lead(SESSION_PROFILE, listening.netns, &ports, otherwise)?;
        self.redirects.elsewhere(SESSION_PROFILE, otherwise)
    }

    /// The policy is in force in the kernel.
    pub(super) fn commit(&mut self, mode: Mode) {
        let (Some(listening), Some(resolver)) = (self.listening, &self.resolver) else { return };
        resolver.commit(SESSION_PROFILE);
        self.led = true;
        // Its mode may be another one.
        if let Err(error) = self.lead(listening, mode) {
            warn!(%error, "questions that cannot be resolved are treated as under the policy before");
        }
    }

    /// The policy does not come into force.
    pub(super) fn discard(&mut self) {
        let (Some(listening), Some(resolver)) = (self.listening, &self.resolver) else { return };
        resolver.discard(SESSION_PROFILE);
        if !self.led {
            let (there, elsewhere) = (
                self.redirects.forget(SESSION_PROFILE, listening.netns),
                self.redirects.forget(SESSION_PROFILE, 0),
            );
            if let Err(error) = there.and(elsewhere) {
                warn!(%error, "questions for names go to a resolver that has no policy");
            }
        }
    }

    /// What was answered since the last call, each with what policy said of it.
    pub(super) fn answered(&mut self) -> Vec<Event> {
        let reports = std::iter::from_fn(|| self.reports.try_recv().ok());
        reports
            .take(REPORTS)
            .map(|Answered { event, decision }| Event { decision: decision.map(Box::new), ..event })
            .collect()
    }

    /// Answers of which nobody was told since the last call.
    pub(super) fn loss(&mut self, session: SessionId, now: BootTime) -> Option<Loss> {
        let unreported = self.stats().unreported;
        let (before, first) = std::mem::replace(&mut self.told, (unreported, now));
        let count = unreported.saturating_sub(before);
        (count > 0).then(|| Loss {
            kind: "dns_answer".to_owned(),
            reason: LossReason::QueueFull,
            count,
            first,
            last: now,
            session: Some(session),
        })
    }

    pub(super) fn stats(&self) -> ResolverStats {
        self.resolver.as_ref().map_or(self.last, Resolver::stats)
    }

    /// Ends it: who asks now is answered by nobody. What was answered before is to be asked for after this.
    pub(super) fn end(&mut self) {
        let Some(resolver) = self.resolver.take() else { return };
        if let Some(listening) = self.listening {
            // What still waits for room is counted when its thread has ended.
            resolver.leave(listening.netns);
        }
        self.last = resolver.stats();
    }
}

/// Listens if this policy speaks of names, and says what came of it; none if it does not.
pub(super) fn serve(names: &mut Result<Names, String>, image: &Image) -> Option<Capability> {
    if !concern(image) {
        return None;
    }
    let serving = match names {
        Ok(names) => names.serve().map_err(|error| error.to_string()),
        Err(reason) => Err(reason.clone()),
    };
    let (state, reason) = match serving {
        Ok(()) => (CapabilityState::Available, String::new()),
        Err(reason) => (CapabilityState::Missing, reason),
    };
    Some(Capability { name: RESOLVER.to_owned(), state, reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{self, Bindings};

    #[test]
    fn only_policies_that_speak_of_names_need_a_resolver() {
        let rule = |text: &str| format!("rules:\n  - {{id: a, {text}, severity: high, reason: x}}\n");
        let cases = [
            (rule("effect: net.connect, match: {addresses: [192.0.2.0/24]}"), false),
            (rule("effect: net.connect, match: {hosts: [a.example]}"), true),
            (rule("effect: dns, match: {hosts: [\"*.a.example\"]}"), true),
            ("defaults: {net.connect: block}\n".to_owned(), false),
            ("defaults: {dns: allow}\n".to_owned(), false),
            ("defaults: {dns: block}\n".to_owned(), true),
        ];
        for (text, expected) in cases {
            for mode in [Mode::Observe, Mode::Action] {
                let loaded = policy::load("p", &format!("version: 1\n{text}"), &|_| None).unwrap();
                let bindings = Bindings {
                    home: b"/h".to_vec(),
                    project: b"/h/p".to_vec(),
                    profile: "default".to_owned(),
                    mode: Some(mode),
                };
                let image = policy::Session::new(&loaded, &bindings).unwrap().image().unwrap();
                assert_eq!(concern(&image), expected, "{text}");
            }
        }
    }

    #[test]
    fn what_cannot_be_resolved_is_said_only_where_it_matters() {
        let mut names: Result<Names, String> = Err("no cgroup".to_owned());
        assert_eq!(serve(&mut names, &Image::default()), None);
        let entry = policy::image::Entry {
            effects: Effects::DNS,
            rule: 0,
            action: PolicyAction::Block,
            raw_action: PolicyAction::Block,
            would_block: false,
            kill: false,
            unless: None,
        };
        let image = Image { defaults: vec![entry], ..Image::default() };
        let missing = serve(&mut names, &image).unwrap();
        assert_eq!((missing.name.as_str(), missing.state), (RESOLVER, CapabilityState::Missing));
        assert_eq!(missing.reason, "no cgroup");
    }
}
