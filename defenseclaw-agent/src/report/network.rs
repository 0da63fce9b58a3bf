//! The network section: endpoints with the names that led to them, sockets bound, unix sockets, names asked for.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    hash::Hash,
    net::IpAddr,
};

use serde::Serialize;

use super::Outcomes;
use crate::model::{Action, Event, NetEndpoint, ProcessKey, Text, UnixName};

/// Entries that are listed, of each kind.
const ENTRIES_MAX: usize = 50_000;
/// Processes, addresses and the like that are listed per entry.
const PER_ENTRY_MAX: usize = 32;

/// Endpoints, names and sockets, each in the order of its first use.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Network {
    /// Events of this section.
    pub events: u64,
    /// Where sockets were connected or data was sent to.
    pub endpoints: Vec<Endpoint>,
    /// Where sockets were bound.
    pub binds: Vec<Endpoint>,
    /// Unix sockets connected or written to.
    pub unix: Vec<UnixPeer>,
    /// Names that were asked for.
    pub lookups: Vec<Lookup>,
    /// Events beyond the bound of the lists.
    pub unlisted: u64,
}

/// An endpoint.
#[derive(Clone, Debug, Serialize)]
pub struct Endpoint {
    /// Transport, address and port.
    #[serde(flatten)]
    pub endpoint: NetEndpoint,
    /// Names whose answers held this address before it was last used, oldest answer first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<ResolvedName>,
    /// Connects or binds.
    pub connects: u64,
    /// Datagrams and fast-open sends.
    pub sends: u64,
    /// Bytes of those sends.
    pub bytes: u64,
    /// With what results.
    pub outcomes: Outcomes,
    /// When first.
    pub first_ns: u64,
    /// When last.
    pub last_ns: u64,
    /// By whom, first user first.
    pub processes: Vec<ProcessKey>,
}

/// A name that stood for an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ResolvedName {
    /// As asked.
    pub name: Text,
    /// The CNAME chain between it and the address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<Text>,
    /// First such answer.
    pub answered_ns: u64,
}

/// A unix socket.
#[derive(Clone, Debug, Serialize)]
pub struct UnixPeer {
    /// Its name.
    pub name: UnixName,
    /// Datagram rather than stream.
    pub datagram: bool,
    /// With what results.
    pub outcomes: Outcomes,
    /// When first.
    pub first_ns: u64,
    /// By whom, first user first.
    pub processes: Vec<ProcessKey>,
}

/// A name that was asked for, and what came back.
#[derive(Clone, Debug, Serialize)]
pub struct Lookup {
    /// The name.
    pub name: Text,
    /// Response code; 0: no error, 3: no such name.
    pub code: u16,
    /// Answers.
    pub count: u64,
    /// When first.
    pub first_ns: u64,
    /// Name servers.
    pub servers: Vec<NetEndpoint>,
    /// CNAME chain of the last answer.
    pub aliases: Vec<Text>,
    /// Addresses of all answers.
    pub addresses: Vec<IpAddr>,
    /// An answer was longer than what was copied: there may be more addresses.
    pub truncated: bool,
}

/// Names of an address, with the time of their first answer.
type Names = BTreeMap<(Text, Vec<Text>), u64>;

#[derive(Debug, Default)]
pub(super) struct Builder {
    events: u64,
    endpoints: HashMap<NetEndpoint, Endpoint>,
    binds: HashMap<NetEndpoint, Endpoint>,
    unix: HashMap<(UnixName, bool), UnixPeer>,
    lookups: HashMap<(Text, u16), Lookup>,
    names: HashMap<IpAddr, Names>,
    unlisted: u64,
}

impl Builder {
    pub(super) fn push(&mut self, event: &Event, at_ns: u64) {
        self.events += 1;
        #[expect(clippy::wildcard_enum_match_arm, reason = "only network events get here")]
        let listed = match &event.action {
            Action::NetConnect { endpoint } => self.endpoint(false, endpoint, event, at_ns, None),
            Action::NetBind { endpoint } => self.endpoint(true, endpoint, event, at_ns, None),
            Action::NetSend { endpoint, bytes } => self.endpoint(false, endpoint, event, at_ns, Some(*bytes)),
            Action::UnixConnect { name, datagram } => self.unix(name, *datagram, event, at_ns),
            Action::DnsAnswer { .. } => self.answer(&event.action, at_ns),
            _ => None,
        };
        if listed.is_none() {
            self.unlisted += 1;
        }
    }

    fn endpoint(
        &mut self,
        bind: bool,
        endpoint: &NetEndpoint,
        event: &Event,
        at_ns: u64,
        sent: Option<u64>,
    ) -> Option<()> {
        let map = if bind { &mut self.binds } else { &mut self.endpoints };
        let entry = bounded(map, endpoint.clone(), || Endpoint {
            endpoint: endpoint.clone(),
            names: Vec::new(),
            connects: 0,
            sends: 0,
            bytes: 0,
            outcomes: Outcomes::default(),
            first_ns: at_ns,
            last_ns: at_ns,
            processes: Vec::new(),
        })?;
        match sent {
            Some(bytes) => {
                entry.sends += 1;
                entry.bytes = entry.bytes.saturating_add(bytes);
            }
            None => entry.connects += 1,
        }
        entry.outcomes.add(event.result);
        entry.first_ns = entry.first_ns.min(at_ns);
        entry.last_ns = entry.last_ns.max(at_ns);
        add_new(&mut entry.processes, &event.process);
        Some(())
    }

    fn unix(&mut self, name: &UnixName, datagram: bool, event: &Event, at_ns: u64) -> Option<()> {
        let entry = bounded(&mut self.unix, (name.clone(), datagram), || UnixPeer {
            name: name.clone(),
            datagram,
            outcomes: Outcomes::default(),
            first_ns: at_ns,
            processes: Vec::new(),
        })?;
        entry.outcomes.add(event.result);
        entry.first_ns = entry.first_ns.min(at_ns);
        add_new(&mut entry.processes, &event.process);
        Some(())
    }

    fn answer(&mut self, action: &Action, at_ns: u64) -> Option<()> {
        let Action::DnsAnswer { server, name, code, aliases, addresses, truncated } = action else {
            return None;
        };
        let entry = bounded(&mut self.lookups, (name.clone(), *code), || Lookup {
            name: name.clone(),
            code: *code,
            count: 0,
            first_ns: at_ns,
            servers: Vec::new(),
            aliases: Vec::new(),
            addresses: Vec::new(),
            truncated: false,
        })?;
        entry.count += 1;
        entry.first_ns = entry.first_ns.min(at_ns);
        entry.truncated |= truncated;
        if !aliases.is_empty() {
            entry.aliases.clone_from(aliases);
        }
        add_new(&mut entry.servers, server);
        for address in addresses {
            add_new(&mut entry.addresses, address);
            let Some(names) = bounded(&mut self.names, *address, Names::new) else { continue };
            let answered = names.entry((name.clone(), aliases.clone())).or_insert(at_ns);
            *answered = at_ns.min(*answered);
            if names.len() > PER_ENTRY_MAX {
                names.pop_last();
            }
        }
        Some(())
    }

    pub(super) fn finish(self) -> Network {
        let names = &self.names;
        let mut endpoints: Vec<_> = self.endpoints.into_values().collect();
        for endpoint in &mut endpoints {
            let known = endpoint.endpoint.address.and_then(|address| names.get(&address));
            // An answer that came later did not lead here.
            let before = known.into_iter().flatten().filter(|(_, answered)| **answered <= endpoint.last_ns);
            endpoint.names = before
                .map(|((name, aliases), answered)| ResolvedName {
                    name: name.clone(),
                    aliases: aliases.clone(),
                    answered_ns: *answered,
                })
                .collect();
            endpoint.names.sort_by_key(|name| name.answered_ns);
        }
        let mut binds: Vec<_> = self.binds.into_values().collect();
        let mut unix: Vec<_> = self.unix.into_values().collect();
        let mut lookups: Vec<_> = self.lookups.into_values().collect();
        endpoints.sort_by(|a, b| (a.first_ns, &a.endpoint).cmp(&(b.first_ns, &b.endpoint)));
        binds.sort_by(|a, b| (a.first_ns, &a.endpoint).cmp(&(b.first_ns, &b.endpoint)));
        unix.sort_by(|a, b| (a.first_ns, &a.name).cmp(&(b.first_ns, &b.name)));
        lookups.sort_by(|a, b| (a.first_ns, &a.name).cmp(&(b.first_ns, &b.name)));
        Network { events: self.events, endpoints, binds, unix, lookups, unlisted: self.unlisted }
    }
}

/// The entry of a key, made if there is room.
fn bounded<K: Hash + Eq, V>(map: &mut HashMap<K, V>, key: K, make: impl FnOnce() -> V) -> Option<&mut V> {
    let room = map.len() < ENTRIES_MAX;
    match map.entry(key) {
        Entry::Occupied(known) => Some(known.into_mut()),
        Entry::Vacant(vacant) if room => Some(vacant.insert(make())),
        Entry::Vacant(_) => None,
    }
}

fn add_new<T: PartialEq + Clone>(list: &mut Vec<T>, item: &T) {
    if list.len() < PER_ENTRY_MAX && !list.contains(item) {
        list.push(item.clone());
    }
}
