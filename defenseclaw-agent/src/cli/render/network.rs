//! The network section as lines: one per service, then bound sockets, unix sockets and names that led nowhere.

use super::{
    RenderOptions,
    command::{self, Commands},
    escape,
    line::{Line, Role, cut, shorten, width, wrap},
    words,
};
use crate::{
    model::{NetEndpoint, ProcessKey, Text, Transport, UnixName},
    report::{Endpoint, Lookup, Network, Outcomes},
};

/// Entries listed of each kind.
const ENTRIES_MAX: usize = 20;
const NAME_WIDTH: usize = 10;
/// Below this there is no room for who did it.
const NAMES_FROM: usize = 60;

/// Lines of the section, without its heading.
pub(super) fn lines(
    network: &Network,
    home: &[(&Text, &'static str)],
    commands: &Commands,
    options: &RenderOptions,
) -> Vec<Line> {
    let limit = if options.full { usize::MAX } else { ENTRIES_MAX };
    let mut lines = Vec::new();
    for service in services(&network.endpoints).iter().take(limit) {
        lines.extend(service_lines(service, commands, options));
    }
    lines.extend(more(services(&network.endpoints).len(), limit, "endpoint"));

    for bind in network.binds.iter().take(limit) {
        let what = format!("{:<5}bound to {}", transport(&bind.endpoint), address(&bind.endpoint));
        lines.push(entry(&what, &bind.outcomes, bind.connects, &bind.processes, commands, options));
    }
    lines.extend(more(network.binds.len(), limit, "bound socket"));

    for peer in network.unix.iter().take(limit) {
        let name = match &peer.name {
            UnixName::Path(path) => command::path(path, home),
            UnixName::Abstract(name) => format!("@{}", escape(&name.0)),
            UnixName::Unnamed => "(unnamed)".to_owned(),
        };
        let (total, what) = (peer.outcomes.total(), format!("unix {name}"));
        lines.push(entry(&what, &peer.outcomes, total, &peer.processes, commands, options));
    }
    lines.extend(more(network.unix.len(), limit, "unix socket"));

    lines.extend(lookups(network, limit, options));
    if network.unlisted > 0 {
        let words = format!("  {} beyond what a report lists", words::count(network.unlisted, "event"));
        lines.push(Line::new().with(Role::Warning, words));
    }
    lines
}

/// Endpoints with the same name and port: what one program takes for one service.
struct Service<'a> {
    first: &'a Endpoint,
    others: Vec<&'a Endpoint>,
}

fn services(endpoints: &[Endpoint]) -> Vec<Service<'_>> {
    let mut services: Vec<Service<'_>> = Vec::new();
    let mut known = std::collections::HashMap::new();
    for endpoint in endpoints {
        let key = endpoint
            .names
            .first()
            .map(|name| (&name.name, endpoint.endpoint.transport, endpoint.endpoint.port));
        let service = key.as_ref().and_then(|key| known.get(key)).and_then(|n: &usize| services.get_mut(*n));
        if let Some(service) = service {
            service.others.push(endpoint);
        } else {
            if let Some(key) = key {
                known.insert(key, services.len());
            }
            services.push(Service { first: endpoint, others: Vec::new() });
        }
    }
    services
}

fn service_lines(service: &Service<'_>, commands: &Commands, options: &RenderOptions) -> Vec<Line> {
    let first = service.first;
    let all = || std::iter::once(first).chain(service.others.iter().copied());
    let mut outcomes = Outcomes::default();
    for endpoint in all() {
        outcomes.succeeded += endpoint.outcomes.succeeded;
        outcomes.not_known += endpoint.outcomes.not_known;
        for (errno, count) in &endpoint.outcomes.failed {
            *outcomes.failed.entry(*errno).or_insert(0) += count;
        }
    }
    let endpoint = &first.endpoint;
    let protocol = transport(endpoint);
    let Some(name) = first.names.first() else {
        let what = format!("{protocol:<5}{}", address(endpoint));
        return vec![entry(&what, &outcomes, outcomes.total(), &first.processes, commands, options)];
    };
    let what = format!("{protocol:<5}{}:{}", escape(&name.name.0), endpoint.port);
    let line = entry(&what, &outcomes, outcomes.total(), &first.processes, commands, options);
    let addresses: Vec<_> =
        all().filter_map(|endpoint| endpoint.endpoint.address).map(|address| address.to_string()).collect();
    let mut detail = addresses.join(", ");
    if !name.aliases.is_empty() {
        let aliases: Vec<_> = name.aliases.iter().map(|alias| escape(&alias.0)).collect();
        detail.extend([" via ", &aliases.join(", ")]);
    }
    let others: Vec<_> = first.names.iter().skip(1).map(|name| escape(&name.name.0)).collect();
    if !others.is_empty() {
        detail.extend([", also known as ", &others.join(", ")]);
    }
    let detail = shorten(&detail, options.width - 7);
    vec![line, Line::new().dim(format!("       {detail}"))]
}

fn entry(
    what: &str,
    outcomes: &Outcomes,
    times: u64,
    processes: &[ProcessKey],
    commands: &Commands,
    options: &RenderOptions,
) -> Line {
    let mut right = Line::new().dim(words::times(times));
    if options.width >= NAMES_FROM {
        let name = processes.first().map(|process| commands.name(*process)).unwrap_or_default();
        let name = cut(name, NAME_WIDTH);
        let pad = " ".repeat(NAME_WIDTH - width(&name));
        right = right.dim(format!("  {name}{pad}"));
    }
    let remark = words::failures(outcomes).map(|words| format!("  [{words}]")).unwrap_or_default();
    let room = options.width.saturating_sub(right.width() + 3);
    let remark = cut(&remark, room / 2);
    let what = shorten(what, room.saturating_sub(width(&remark)));
    Line::new()
        .plain(format!("  {what}"))
        .with(Role::Bad, remark)
        .flush_right(right, options.width)
        .fit(options.width)
}

/// Names that were asked for, but led to none of the endpoints above.
fn lookups(network: &Network, limit: usize, options: &RenderOptions) -> Vec<Line> {
    let led_somewhere = |lookup: &Lookup| {
        let mut names = network.endpoints.iter().flat_map(|endpoint| &endpoint.names);
        names.any(|name| name.name == lookup.name)
    };
    let described =
        network.lookups.iter().filter(|lookup| lookup.code != 0 || !led_somewhere(lookup)).map(|lookup| {
            let name = escape(&lookup.name.0);
            let name = shorten(&name, options.width / 2);
            let times = words::times(lookup.count);
            match lookup.code {
                0 => format!("{name} {times}"),
                3 => format!("{name} (no such name) {times}"),
                code => format!("{name} (response code {code}) {times}"),
            }
        });
    let mut described: Vec<_> = described.map(|text| text.trim_end().to_owned()).collect();
    if described.is_empty() {
        return Vec::new();
    }
    let n_more = described.len().saturating_sub(limit);
    described.truncate(limit);
    let mut text = format!("  looked up only: {}", described.join(", "));
    if n_more > 0 {
        let more = words::number(u64::try_from(n_more).unwrap_or(u64::MAX));
        text.extend([" … ", &more, " more"]);
    }
    let wrapped = wrap(&text, options.width - 2, 2);
    wrapped.into_iter().map(|text| Line::new().plain(format!("  {text}"))).collect()
}

fn more(total: usize, limit: usize, what: &str) -> Option<Line> {
    let more = u64::try_from(total.checked_sub(limit)?).ok().filter(|more| *more > 0)?;
    Some(Line::new().dim(format!("  … {} more", words::count(more, what))))
}

fn transport(endpoint: &NetEndpoint) -> String {
    match endpoint.transport {
        Transport::Tcp => "tcp".to_owned(),
        Transport::Udp => "udp".to_owned(),
        Transport::Other(protocol) => format!("ip/{protocol}"),
    }
}

fn address(endpoint: &NetEndpoint) -> String {
    match endpoint.address {
        Some(address) => std::net::SocketAddr::new(address, endpoint.port).to_string(),
        // AF_UNSPEC: a connect to it undoes an earlier one.
        None if endpoint.family == 0 => "(disconnected)".to_owned(),
        None => format!("address family {}", endpoint.family),
    }
}
