//! Names and connections of watched tasks, with the real programs on a cgroup of this suite's own: questions are led to
//! the resolver and answers back, in a network namespace with a scripted server. No expectations about the resolver's
//! judgement beyond what reaches the task; that is tested where it is made.

mod client;
mod interfaces;
pub(crate) mod run;
mod scene;
mod server;

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::{Result, ensure};
pub(crate) use client::main as client_main;
use defenseclaw::model::{Action, CapabilityState, Transport};
use libtest_mimic::{Completion, Failed, Trial};
use scene::{RULE_BLOCKED, Scene};

use crate::check::{Setting, trial};

type Case = fn() -> Result<()>;

const CASES: &[(&str, Case)] = &[
    ("network/every program is attached", attached),
    ("network/getaddrinfo of the C library", getaddrinfo),
    ("network/one socket, two servers", two_servers),
    ("network/TCP and the peer's name", tcp),
    ("network/IPv6 and mapped addresses", ipv6),
    ("network/truncated answers are asked for again over TCP", truncated),
    ("network/the kernel knows an address before the task does", known_before),
    ("network/a blocked name is refused and never forwarded", blocked),
    ("network/a private answer to a public name is refused", rebinding),
    ("network/fast open and multipath TCP to port 53", other_tcp),
    ("network/many questions at once", many),
    ("network/a namespace without a resolver", elsewhere),
    ("network/the resolver is gone", gone),
    ("network/nobody takes the resolver's ports", ports_taken),
    ("network/a server that does not answer", silent),
    ("network/who is not watched asks the server itself", unwatched),
    ("network/who is not watched gets nothing from the resolver", stranger),
    ("network/profiles without a resolver are left alone", without_resolver),
];

pub(crate) fn trials(setting: &Setting) -> Vec<Trial> {
    let setting = setting.clone();
    let possible = crate::sys::cgroup_mount().is_some();
    let mut trials: Vec<_> = CASES
        .iter()
        .map(|(name, case)| {
            let setting = setting.clone();
            trial(*name, move || {
                if !possible {
                    return setting.skip(name, "root", "no cgroup v2 hierarchy is mounted");
                }
                match case() {
                    Ok(()) => Ok(Completion::Completed),
                    Err(err) => Err(Failed::from(format!("{err:#}"))),
                }
            })
        })
        .collect();
    trials.extend(run::trials(&setting));
    trials
}

fn attached() -> Result<()> {
    let mut scene = Scene::new("none")?;
    let missing: Vec<_> = scene
        .sensor()?
        .protection()
        .capabilities
        .iter()
        .filter(|found| found.name.starts_with("cgroup") && found.state != CapabilityState::Available)
        .collect();
    ensure!(missing.is_empty(), "{missing:#?}");
    Ok(())
}

fn getaddrinfo() -> Result<()> {
    let mut scene = Scene::new("getaddrinfo")?;
    let child = scene.finish()?;
    let answered = scene.answered();
    let www: Vec<_> = answered
        .iter()
        .filter_map(|answered| match &answered.event.action {
            Action::DnsAnswer { name, server, addresses, code: 0, .. }
                if name.lossy() == "www.example.com" =>
            {
                Some((answered, server, addresses))
            }
            _ => None,
        })
        .collect();
    ensure!(www.len() == 2, "one answer for each family, not {answered:#?}");
    for (answered, server, _) in &www {
        ensure!(answered.event.process.tgid == child, "another process asked: {answered:?}");
        ensure!(answered.event.process.start_ns != 0 && answered.event.session == scene::SESSION);
        ensure!(server.address == Some(scene::SERVER4.into()) && server.port == 53, "{server:?}");
        ensure!(server.transport == Transport::Udp, "{server:?}");
    }
    let addresses: BTreeSet<IpAddr> = www.iter().flat_map(|(_, _, addresses)| (*addresses).clone()).collect();
    ensure!(addresses == scene::WWW.map(|text| text.parse().unwrap()).into(), "{addresses:?}");
    ensure!(scene.stats().failed == 0, "{:?}", scene.stats());
    Ok(())
}

fn two_servers() -> Result<()> {
    let mut scene = Scene::new("two servers")?;
    scene.finish()?;
    // The second server is dead: the resolver says so in its name, and the socket is told which one said what.
    let asked: BTreeSet<_> = scene.server.asked().into_iter().map(|asked| asked.name).collect();
    ensure!(asked.contains("www.example.com."), "{asked:?}");
    Ok(())
}

fn tcp() -> Result<()> {
    let mut scene = Scene::new("tcp")?;
    scene.finish()?;
    let asked = scene.server.asked();
    ensure!(asked.iter().filter(|asked| asked.tcp).count() == 3, "TCP stays TCP: {asked:?}");
    Ok(())
}

fn ipv6() -> Result<()> {
    let mut scene = Scene::new("ipv6")?;
    scene.finish()?;
    let asked = scene.server.asked();
    let at =
        |address: IpAddr, tcp| asked.iter().filter(|asked| asked.at == address && asked.tcp == tcp).count();
    ensure!(at(scene::SERVER6.into(), false) == 2, "two datagrams to the IPv6 server: {asked:?}");
    ensure!(at(scene::SERVER6.into(), true) == 1, "a connection to the IPv6 server: {asked:?}");
    ensure!(at(scene::SERVER4.into(), false) == 2, "two datagrams to the mapped server: {asked:?}");
    ensure!(at(scene::SERVER4.into(), true) == 1, "a connection to the mapped server: {asked:?}");
    Ok(())
}

fn truncated() -> Result<()> {
    let mut scene = Scene::new("truncated")?;
    scene.finish()?;
    let permitted = scene.gate.permits().into_iter().map(|permit| permit.address).collect::<BTreeSet<_>>();
    ensure!(permitted.len() == server::LONG, "{} addresses are known", permitted.len());
    Ok(())
}

fn known_before() -> Result<()> {
    let mut scene = Scene::new("known before")?;
    scene.finish()?;
    let arrived: u64 = scene.output().trim().parse()?;
    let permits = scene.gate.permits();
    let alias: Vec<_> = permits.iter().filter(|permit| permit.address == server::ALIASED).collect();
    ensure!(alias.len() == 1 && alias[0].time < arrived, "{permits:?}, and the answer arrived at {arrived}");
    ensure!(alias[0].generation == scene::GENERATION && alias[0].profile == 0);
    Ok(())
}

fn blocked() -> Result<()> {
    let mut scene = Scene::new("blocked")?;
    scene.finish()?;
    let asked = scene.server.asked();
    ensure!(asked.is_empty(), "the server heard {asked:?}");
    let decided: Vec<_> = scene.answered().into_iter().filter_map(|answered| answered.decision).collect();
    ensure!(decided.iter().all(|decision| decision.verdict.rule_ids == [RULE_BLOCKED]), "{decided:?}");
    ensure!(decided.len() >= 3, "{decided:?}");
    Ok(())
}

fn rebinding() -> Result<()> {
    let mut scene = Scene::new("rebinding")?;
    scene.finish()?;
    ensure!(scene.gate.permits().is_empty(), "{:?}", scene.gate.permits());
    Ok(())
}

fn other_tcp() -> Result<()> {
    let mut scene = Scene::new("other tcp")?;
    scene.finish().map(drop)
}

fn many() -> Result<()> {
    let mut scene = Scene::new("many")?;
    scene.finish()?;
    ensure!(scene.stats().asked >= client::MANY as u64, "{:?}", scene.stats());
    Ok(())
}

fn elsewhere() -> Result<()> {
    let mut scene = Scene::new("elsewhere")?;
    let child = scene.finish()?;
    let events = scene.events()?;
    let denied = |wanted: fn(&Action) -> bool| {
        events
            .iter()
            .any(|event| event.process.tgid == child && event.result.is_none() && wanted(&event.action))
    };
    // The records of denials; those of level `tracepoint` have a result.
    ensure!(
        denied(|action| matches!(action, Action::NetSend { endpoint, .. } if endpoint.port == 53)),
        "no record of the refused datagram"
    );
    ensure!(
        denied(|action| matches!(action, Action::NetConnect { endpoint } if endpoint.port == 53)),
        "no record of the refused connect"
    );
    Ok(())
}

fn gone() -> Result<()> {
    let mut scene = Scene::new("gone")?;
    scene.end_resolver();
    scene.finish()?;
    ensure!(scene.server.asked().is_empty(), "a question went past the resolver: {:?}", scene.server.asked());
    Ok(())
}

fn ports_taken() -> Result<()> {
    let mut scene = Scene::new("ports taken")?;
    scene.tell_ports()?;
    scene.end_resolver();
    scene.finish().map(drop)
}

fn silent() -> Result<()> {
    let mut scene = Scene::new("silent")?;
    scene.finish()?;
    ensure!(scene.stats().failed == 1, "{:?}", scene.stats());
    // Sent again once.
    ensure!(scene.server.asked().len() == 2, "{:?}", scene.server.asked());
    Ok(())
}

fn unwatched() -> Result<()> {
    let mut scene = Scene::unwatched("unwatched")?;
    scene.finish()?;
    ensure!(scene.stats().asked == 0, "{:?}", scene.stats());
    ensure!(scene.events()?.is_empty(), "{:?}", scene.events()?);
    Ok(())
}

fn stranger() -> Result<()> {
    let mut scene = Scene::unwatched("stranger")?;
    scene.tell_ports()?;
    scene.finish()?;
    ensure!(scene.stats().refused == 2, "{:?}", scene.stats());
    ensure!(scene.server.asked().is_empty(), "{:?}", scene.server.asked());
    Ok(())
}

fn without_resolver() -> Result<()> {
    let mut scene = Scene::without_redirect("unwatched")?;
    scene.finish()?;
    ensure!(scene.stats().asked == 0, "{:?}", scene.stats());
    Ok(())
}
