//! The programs on a session's cgroup: attaching them, telling them where the resolver is, and asking them whose
//! question it was. Judges nothing.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use aya::{
    maps::{HashMap, Map, MapData},
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, ProgramError,
        links::{FdLink, LinkError},
    },
};
use defenseclaw_ebpf::redirect::{Flow, FlowKey, Redirect, RedirectKey};

use super::{Sensor, SensorError, hooks, map_error, refusal, removed};
use crate::model::{
    Asker, BootTime, Capability, CapabilityState, ProcessKey, SessionId, ToolCallId, Transport,
};

macro_rules! pods {
    ($($pod:ident of $of:ident,)*) => {$(
        #[derive(Clone, Copy, Debug)]
        #[repr(transparent)]
        struct $pod($of);

        // SAFETY: the type is repr(C), has no padding (its size is asserted in the ABI) and is valid for every bit pattern.
        unsafe impl aya::Pod for $pod {}
    )*};
}
pods! { RedirectKeyPod of RedirectKey, RedirectPod of Redirect, FlowKeyPod of FlowKey, FlowPod of Flow, }

/// Where a resolver listens on loopback; port 0: nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResolverPorts {
    /// Datagrams on 127.0.0.1.
    pub udp4: [u16; 4],
    /// Datagrams on ::1.
    pub udp6: [u16; 4],
    /// Connections on 127.0.0.1.
    pub tcp4: u16,
    /// Connections on ::1.
    pub tcp6: u16,
}

/// What becomes of a question that cannot be led to the resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// EPERM.
    Refused,
    /// It goes where it was to go, as to any other address.
    Passed,
}

/// Where questions for names go. Where nothing is said of a profile, port 53 is a port like any other.
#[derive(Debug)]
pub struct Redirects {
    map: HashMap<MapData, RedirectKeyPod, RedirectPod>,
}

impl Redirects {
    /// Questions of `profile` in the network namespace with this cookie go to these ports.
    pub fn lead(
        &mut self,
        profile: u32,
        netns: u64,
        to: &ResolverPorts,
        otherwise: Otherwise,
    ) -> Result<(), SensorError> {
        let ResolverPorts { udp4, udp6, tcp4, tcp6 } = *to;
        self.put(profile, netns, Redirect { udp4, udp6, tcp4, tcp6, lenient: lenient(otherwise) })
    }

    /// What becomes of questions of `profile` in namespaces where no resolver listens.
    pub fn elsewhere(&mut self, profile: u32, otherwise: Otherwise) -> Result<(), SensorError> {
        self.put(profile, 0, Redirect { lenient: lenient(otherwise), ..Redirect::default() })
    }

    fn put(&mut self, profile: u32, netns: u64, value: Redirect) -> Result<(), SensorError> {
        self.map
            .insert(key(profile, netns), RedirectPod(value), 0)
            .map_err(map_error("lead questions for names to the resolver"))
    }

    /// Takes back what was said of `profile` in a namespace; `netns` 0: elsewhere.
    pub fn forget(&mut self, profile: u32, netns: u64) -> Result<(), SensorError> {
        removed(self.map.remove(&key(profile, netns))).map_err(map_error("stop leading questions for names"))
    }
}

fn lenient(otherwise: Otherwise) -> u32 {
    u32::from(otherwise == Otherwise::Passed)
}

fn key(profile: u32, netns: u64) -> RedirectKeyPod {
    RedirectKeyPod(RedirectKey { netns, profile, reserved: 0 })
}

/// Questions of the last moments.
#[derive(Debug)]
pub struct Questions {
    map: HashMap<MapData, FlowKeyPod, FlowPod>,
}

impl Questions {
    /// Whose question it is that came from `from` to this port of the resolver in the namespace with this cookie. None
    /// if it came from no task that is watched.
    pub fn find(&self, netns: u64, transport: Transport, from: SocketAddr, lane: u16) -> Option<Asker> {
        let protocol = match transport {
            Transport::Tcp => 6,
            Transport::Udp => 17,
            Transport::Other(other) => u32::from(other),
        };
        let key = FlowKey { netns, address: words(from.ip()), port: from.port(), lane, protocol };
        let FlowPod(Flow { server, asker, time_ns }) = self.map.get(&FlowKeyPod(key), 0).ok()?;
        Some(Asker {
            server: SocketAddr::new(address(server.address), server.port),
            time: BootTime(time_ns),
            session: SessionId(asker.session),
            tool_call: (asker.tool_call != 0).then_some(ToolCallId(asker.tool_call)),
            process: ProcessKey { tgid: asker.tgid, start_ns: asker.start_ns },
            tid: asker.tid,
            uid: asker.uid,
            cgroup: asker.cgroup,
            profile: asker.profile,
            owner: asker.owner,
            parent_owner: asker.parent_owner,
        })
    }
}

/// An address as it lies in memory, IPv4 mapped.
fn words(address: IpAddr) -> [u64; 2] {
    let bytes = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
    .octets();
    let [high, low] = [0, 8].map(|at| {
        let mut word = [0; 8];
        word.copy_from_slice(bytes.get(at..at + 8).unwrap_or(&[0; 8]));
        u64::from_ne_bytes(word)
    });
    [high, low]
}

fn address(words: [u64; 2]) -> IpAddr {
    let [high, low] = words.map(u64::to_ne_bytes);
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(high.into_iter().chain(low)) {
        *to = from;
    }
    IpAddr::from(bytes).to_canonical()
}

impl Sensor {
    /// Attaches the programs that hold connections and names of the sockets in a cgroup. What could not be attached is in
    /// [`Sensor::protection`]: without it nothing of that kind is held.
    pub fn hold_cgroup(&mut self, directory: &Path) {
        for &name in hooks::CGROUP {
            let state = self.attach_cgroup(name, directory);
            self.protection.capabilities.push(capability(name, state.err()));
        }
    }

    /// States that connections are not held, and why.
    pub fn without_hold(&mut self, reason: &str) {
        for &name in hooks::CGROUP {
            self.protection.capabilities.push(capability(name, Some(reason.to_owned())));
        }
    }

    fn attach_cgroup(&mut self, name: &str, directory: &Path) -> Result<(), String> {
        let program =
            self.programs.program(name).ok_or_else(|| format!("the object has no program {name}"))?;
        let directory = std::fs::File::open(directory).map_err(|error| error.to_string())?;
        // A link never displaces another program, and takes no flags that would say so.
        let mode = CgroupAttachMode::Single;
        let loaded = program.fd().is_ok();
        let link: Result<Result<FdLink, LinkError>, ProgramError> =
            if let Ok(program) = <&mut CgroupSockAddr>::try_from(&mut *program) {
                (if loaded { Ok(()) } else { program.load() })
                    .and_then(|()| program.attach(directory, mode))
                    .and_then(|id| program.take_link(id))
                    .map(FdLink::try_from)
            } else if let Ok(program) = <&mut CgroupSock>::try_from(&mut *program) {
                (if loaded { Ok(()) } else { program.load() })
                    .and_then(|()| program.attach(directory, mode))
                    .and_then(|id| program.take_link(id))
                    .map(FdLink::try_from)
            } else {
                <&mut CgroupSkb>::try_from(program).and_then(|program| {
                    if !loaded {
                        program.load()?;
                    }
                    let id = program.attach(directory, CgroupSkbAttachType::Egress, mode)?;
                    program.take_link(id).map(FdLink::try_from)
                })
            };
        let link = link.map_err(|error| refusal::reason(&error))?.map_err(|error| error.to_string())?;
        self.links.add(name, link);
        Ok(())
    }

    /// The maps of names: where questions go, and whose they are.
    pub fn names(&self) -> Result<(Redirects, Questions), SensorError> {
        let open = |name: &'static str| self.map(name).ok_or_else(|| refusal::no_map(name));
        let failed = map_error("open the maps of names");
        let redirects = Map::from_map_data(open("DNS_REDIRECT")?).and_then(HashMap::try_from);
        let questions = Map::from_map_data(open("DNS_FLOWS")?).and_then(HashMap::try_from);
        Ok((Redirects { map: redirects.map_err(&failed)? }, Questions { map: questions.map_err(&failed)? }))
    }

    /// Programs on a session's cgroup that could not be attached, for names to be resolved: all of them are needed.
    pub fn missing_for_names(&self) -> Vec<&str> {
        let needed: Vec<_> = hooks::CGROUP.iter().map(|program| hooks::cgroup_name(program)).collect();
        let missing = |found: &&Capability| found.state == CapabilityState::Missing;
        let found = self.protection.capabilities.iter().filter(missing).map(|found| found.name.as_str());
        found.filter(|name| needed.iter().any(|needed| needed == name)).collect()
    }
}

fn capability(name: &str, missing: Option<String>) -> Capability {
    refusal::capability(&hooks::cgroup_name(name), missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn addresses_survive_the_kernel(bytes: [u8; 16]) {
            let given = IpAddr::from(bytes).to_canonical();
            prop_assert_eq!(address(words(given)), given);
        }
    }

    #[test]
    fn ipv4_lies_mapped_in_network_order() {
        let [high, low] = words([192, 0, 2, 1].into());
        assert_eq!(high, 0);
        assert_eq!(low.to_ne_bytes(), [0, 0, 255, 255, 192, 0, 2, 1]);
    }
}
