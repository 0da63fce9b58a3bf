//! Which layer would hold a decision, given what this machine has. Says what could hold it, not that it does: that is
//! what a session's own table of protections is for.

use serde::Serialize;

use super::{
    image::Entry,
    lookup::lets_through,
    object::{Actor, Object},
    pattern,
    rule::{NET, Subject},
    session::Session,
};
use crate::model::{Effect, Effects, Mechanism, PolicyAction, Privilege};

/// What a machine has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Layers {
    /// BPF LSM is active.
    pub lsm: bool,
    /// BPF programs can be attached to the agents' cgroup.
    pub cgroup: bool,
    /// Queries of enrolled tasks reach our name server.
    pub resolver: bool,
    /// Landlock, for what is launched.
    pub landlock: Option<Landlock>,
}

/// What Landlock does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Landlock {
    /// Version of its interface.
    pub abi: u32,
    /// File rights are used, too: not beside an agent's own sandbox.
    pub files: bool,
}

impl Layers {
    /// Everything there is.
    pub const ALL: Self = Self {
        lsm: true,
        cgroup: true,
        resolver: true,
        landlock: Some(Landlock { abi: u32::MAX, files: true }),
    };
}

/// Who holds a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    /// Nothing is withheld, so nobody has to.
    NotNeeded,
    /// Any of these does it.
    By(Vec<Mechanism>),
    /// It is not held, because.
    Not(String),
}

/// Who would hold what a session says about an operation.
pub fn held(layers: &Layers, session: &Session, actor: Actor<'_>, object: &Object<'_>) -> Held {
    let answer = session.judge(actor, object);
    let Some(entry) = answer.filter(|_| !lets_through(answer)) else { return Held::NotNeeded };
    if matches!(object, Object::Content(..)) {
        // Whose hook can is a matter of the agent, not of the machine.
        return Held::By(vec![Mechanism::HookReply]);
    }
    let by: Vec<_> = [
        (Mechanism::Lsm, layers.lsm && lsm(object)),
        (Mechanism::Cgroup, layers.cgroup && cgroup(layers, session, object)),
        (Mechanism::Resolver, layers.resolver && matches!(object, Object::Name(_))),
        (Mechanism::Landlock, landlock(layers.landlock, session, &entry, object)),
    ]
    .into_iter()
    .filter_map(|(mechanism, holds)| holds.then_some(mechanism))
    .collect();
    if by.is_empty() { Held::Not(missing(object)) } else { Held::By(by) }
}

fn lsm(object: &Object<'_>) -> bool {
    !matches!(object, Object::Address { .. } | Object::Name(_))
}

/// The cgroup knows names only through the resolver.
fn cgroup(layers: &Layers, session: &Session, object: &Object<'_>) -> bool {
    let Object::Address { effect, address, port, .. } = *object else { return false };
    let bare = Object::Address { effect, address, port, name: None };
    layers.resolver || !lets_through(session.judge(Actor::default(), &bare))
}

fn missing(object: &Object<'_>) -> String {
    match object {
        Object::Path(..) | Object::Unresolved(_) | Object::Abstract(_) | Object::Privilege(_) => {
            "needs BPF LSM: `bpf` in the kernel's list of active LSMs".to_owned()
        }
        Object::Address { .. } => {
            "needs BPF on the agents' cgroup, and our name server for rules about hosts".to_owned()
        }
        Object::Name(_) => "needs our name server".to_owned(),
        Object::Content(..) => "needs the agent's hook".to_owned(),
    }
}

/// Landlock grants: it withholds only what no grant above covers, from everybody alike.
fn landlock(landlock: Option<Landlock>, session: &Session, entry: &Entry, object: &Object<'_>) -> bool {
    let Some(Landlock { abi, files }) = landlock.filter(|_| entry.unless.is_none()) else { return false };
    match *object {
        Object::Path(effect, path) => {
            let known = effect != Effect::FileAttr && (effect != Effect::Unix || abi >= 9);
            files && known && nothing_above_allows(session, effect, path)
        }
        Object::Address { effect, port, .. } => abi >= 4 && port_is_closed(session, effect, port),
        Object::Abstract(_) => abi >= 6 && no_abstract_name_is_open(session),
        Object::Privilege(Privilege::Ptrace | Privilege::Inspect) => true,
        Object::Privilege(Privilege::Signal) => abi >= 6,
        Object::Privilege(Privilege::Mount) => files,
        Object::Privilege(_) | Object::Unresolved(_) | Object::Name(_) | Object::Content(..) => false,
    }
}

fn nothing_above_allows(session: &Session, effect: Effect, path: &[u8]) -> bool {
    let Some(parts) = pattern::components(path) else { return false };
    (0..parts.len()).all(|depth| {
        // A name that no pattern has: what a grant on this directory would cover.
        let mut any = parts
            .get(..depth)
            .unwrap_or_default()
            .iter()
            .fold(Vec::new(), |path: Vec<u8>, part| [&path[..], b"/", part].concat());
        any.extend_from_slice(b"/\x01");
        !lets_through(session.judge(Actor::default(), &Object::Path(effect, &any)))
    })
}

fn port_is_closed(session: &Session, effect: Effect, port: u16) -> bool {
    let about = NET & Effects::from(effect);
    let open = session.rules.iter().any(|rule| {
        rule.entry.effects.intersects(about)
            && rule.entry.action < PolicyAction::Confirm
            && rule.ports.iter().any(|ports| ports.contains(port))
    });
    let default = session.defaults.get(&Subject::Effect(effect)).copied();
    !open && !lets_through(default)
}

fn no_abstract_name_is_open(session: &Session) -> bool {
    let open = session
        .rules
        .iter()
        .any(|rule| !rule.abstract_names.is_empty() && rule.entry.action < PolicyAction::Confirm);
    let default = session.defaults.get(&Subject::Effect(Effect::Unix)).copied();
    !open && !lets_through(default)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Mode,
        policy::{Bindings, load},
    };

    fn by(text: &str, layers: Layers, asked: &str) -> Held {
        let policy = load("p", &format!("version: 1\n{text}"), &|_| None).unwrap();
        let bindings = Bindings {
            home: b"/home/u".to_vec(),
            project: b"/home/u/p".to_vec(),
            profile: "default".into(),
            mode: Some(Mode::Action),
        };
        let session = Session::new(&policy, &bindings).unwrap();
        let (effect, object) = asked.split_once(' ').unwrap_or((asked, ""));
        let object = Object::parse(Subject::from_name(effect).unwrap(), object).unwrap();
        held(&layers, &session, Actor::default(), &object)
    }

    #[test]
    fn each_layer_holds_what_it_can() {
        use Mechanism::{Cgroup, Landlock, Lsm, Resolver};
        let deny_list = "rules:
  - {id: a, effect: 'file.*', match: {paths: '~/.ssh/**'}, severity: high, reason: x}
  - {id: b, effect: [dns, net.connect], match: {hosts: a.b, addresses: 10.0.0.1}, severity: high, reason: x}
  - {id: c, effect: priv.*, severity: high, reason: x}
";
        let allow_list = "defaults: {'file.*': block, 'net.*': block, unix: block}
rules:
  - {id: a, effect: 'file.*', match: {paths: '${project}/**'}, severity: low}
  - {id: b, effect: 'file.*', match: {paths: '${project}/.git/hooks/**'}, severity: high, reason: x}
  - {id: c, effect: net.connect, match: {addresses: 10.0.0.0/8, ports: 443}, severity: low}
";
        for (text, asked, want) in [
            (deny_list, "file.read /home/u/.ssh/id", vec![Lsm]),
            (deny_list, "net.connect 10.0.0.1:1", vec![Cgroup]),
            (deny_list, "dns a.b", vec![Resolver]),
            (deny_list, "priv.signal", vec![Lsm, Landlock]),
            (deny_list, "priv.bpf", vec![Lsm]),
            (allow_list, "file.write /home/u/x", vec![Lsm, Landlock]),
            (allow_list, "file.attr /home/u/x", vec![Lsm]),
            (allow_list, "file.write /home/u/p/.git/hooks/x", vec![Lsm]),
            (allow_list, "net.connect 9.9.9.9:443", vec![Cgroup]),
            (allow_list, "net.connect 9.9.9.9:80", vec![Cgroup, Landlock]),
            (allow_list, "unix @x", vec![Lsm, Landlock]),
        ] {
            assert_eq!(by(text, Layers::ALL, asked), Held::By(want), "{asked}");
            assert!(matches!(by(text, Layers::default(), asked), Held::Not(_)), "{asked}");
        }
        assert_eq!(by(deny_list, Layers::ALL, "file.read /x"), Held::NotNeeded);
        // Without the name server, the cgroup does not know that an address has that name.
        let alone = Layers { cgroup: true, ..Layers::default() };
        assert!(matches!(by(deny_list, alone, "net.connect a.b:443"), Held::Not(_)));
        assert_eq!(by(deny_list, alone, "net.connect 10.0.0.1:443"), Held::By(vec![Cgroup]));
    }

    #[test]
    fn whom_a_rule_spares_landlock_cannot_know() {
        let text = "defaults: {file.write: block}
rules:
  - {id: a, effect: file.write, match: {paths: '/a/**'}, severity: high, reason: x, unless: {executables: /b}}
";
        assert_eq!(by(text, Layers::ALL, "file.write /a/x"), Held::By(vec![Mechanism::Lsm]));
    }
}
