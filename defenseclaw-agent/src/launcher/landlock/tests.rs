//! Plans for policies written by hand: what is granted, what is left, and what is said of it. `properties` has the
//! general rules.

mod properties;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{
    model::{Effect, Effects, Held, PolicyAction, Privilege, ProtectionState, Severity},
    policy::image::{
        AbstractRow, AddressRow, Entry, Image, PathKey, PathPattern, PathRow, Ports, Reach, RuleInfo, Unless,
    },
};

/// A file system: `dir/` and `file`; `!` before a name: the command can write to the directory.
#[derive(Debug, Default)]
pub(super) struct Fake {
    kinds: BTreeMap<Path, Kind>,
    writable: BTreeSet<Path>,
}

impl Fake {
    fn new(lines: &[&str]) -> Self {
        let mut fake = Self::default();
        for line in lines {
            let name = line.trim_start_matches('!');
            let path = Path::new(name);
            if line.starts_with('!') {
                fake.writable.insert(path.clone());
            }
            fake.kinds.insert(path, if name.ends_with('/') { Kind::Directory } else { Kind::File });
        }
        fake
    }
}

impl Places for Fake {
    fn kind(&self, path: &Path) -> Kind {
        if path.0.is_empty() {
            Kind::Directory
        } else {
            self.kinds.get(path).copied().unwrap_or(Kind::Missing)
        }
    }

    fn entries(&self, path: &Path, at_most: usize) -> Option<BTreeMap<Vec<u8>, Kind>> {
        let below = self.kinds.iter().filter(|(other, _)| !other.0.is_empty() && other.parent() == *path);
        let found: BTreeMap<_, _> =
            below.map(|(path, kind)| (path.0.last().unwrap().clone(), *kind)).collect();
        (found.len() <= at_most).then_some(found)
    }

    fn stable(&self, path: &Path) -> bool {
        !self.writable.contains(path)
    }
}

/// A policy, written rule by rule.
#[derive(Debug, Default)]
pub(super) struct Written(Image);

impl Written {
    fn rule(&mut self, id: &str) -> u16 {
        let info = RuleInfo { id: id.to_owned(), severity: Severity::High, reason: String::new() };
        self.0.rules.push(info);
        u16::try_from(self.0.rules.len() - 1).unwrap()
    }

    fn entry(&mut self, id: &str, effects: Effects, action: PolicyAction) -> Entry {
        let rule = self.rule(id);
        Entry { effects, rule, action, raw_action: action, would_block: false, kill: false, unless: None }
    }

    pub(super) fn by_default(mut self, effects: Effects, action: PolicyAction) -> Self {
        let entry = self.entry("default", effects, action);
        self.0.defaults.push(entry);
        self
    }

    pub(super) fn path(mut self, id: &str, pattern: &str, effects: Effects, action: PolicyAction) -> Self {
        let entry = self.entry(id, effects, action);
        self.row(pattern, entry);
        self
    }

    pub(super) fn row(&mut self, pattern: &str, entry: Entry) {
        self.0.paths.push(PathRow { pattern: parse(pattern), entries: vec![entry] });
    }

    fn spared(mut self) -> Self {
        self.0.paths.last_mut().unwrap().entries[0].unless = Some(Unless::Executable(0));
        self
    }

    fn privilege(mut self, privilege: Privilege) -> Self {
        let entry = self.entry(privilege.as_str(), Effects::empty(), PolicyAction::Block);
        self.0.privileges.push((privilege, entry));
        self
    }

    fn address(
        mut self,
        network: &str,
        length: u8,
        ports: Ports,
        effects: Effects,
        action: PolicyAction,
    ) -> Self {
        let entry = self.entry(network, effects, action);
        let network = network.parse().unwrap();
        self.0.addresses.push(AddressRow { network, length, entries: vec![(ports, entry)] });
        self
    }

    pub(super) fn plan(&self, places: &Fake) -> LandlockPlan {
        self.plan_for(places, LandlockLevel::Full, Abi(7))
    }

    fn plan_for(&self, places: &Fake, level: LandlockLevel, abi: Abi) -> LandlockPlan {
        LandlockPlan::new(
            &self.0,
            &PlanOptions { level, abi, places, siblings: Siblings::Stable, home: &Path::root() },
        )
    }
}

fn parse(pattern: &str) -> PathPattern {
    let (text, reach) = if let Some(text) = pattern.strip_suffix("/**") {
        (text, Reach::Subtree)
    } else if let Some(text) = pattern.strip_suffix("/*") {
        (text, Reach::Children)
    } else {
        (pattern, Reach::Exact)
    };
    let key = match text.strip_prefix("**/") {
        Some(name) => match name.strip_prefix("*.") {
            Some(extension) => PathKey::Extension(extension.into()),
            None => match name.split_once('/') {
                Some((directory, name)) => PathKey::Pair(directory.into(), name.into()),
                None => PathKey::Name(name.into()),
            },
        },
        None => PathKey::Anchored(Path::new(text).0),
    };
    PathPattern { key, reach }
}

const ALLOW: PolicyAction = PolicyAction::Allow;
const BLOCK: PolicyAction = PolicyAction::Block;
const CHANGE: Effects = Effects::FILE_WRITE.union(Effects::FILE_CREATE).union(Effects::FILE_DELETE);

fn machine() -> Fake {
    Fake::new(&[
        "etc/",
        "etc/passwd",
        "etc/shadow",
        "home/",
        "!home/u/",
        "home/u/.bashrc",
        "!home/u/.ssh/",
        "home/u/.ssh/id",
        "!home/u/p/",
        "!home/u/p/src/",
        "home/u/p/src/a.rs",
        "home/v/",
        "srv/",
        "srv/secret/",
        "srv/secret/key",
        "srv/public/",
        "srv/public/page",
        "!tmp/",
        "usr/",
        "usr/bin/",
        "usr/bin/cc",
    ])
}

fn granted(plan: &LandlockPlan, class: Class) -> Vec<String> {
    let grants = plan.files.grants.iter().filter(|(_, classes)| classes.contains(&class));
    grants.map(|(path, _)| path.to_string()).collect()
}

fn hold<'a>(plan: &'a LandlockPlan, rule: &str) -> &'a crate::model::RuleHold {
    plan.rules.iter().find(|hold| hold.rule == rule).unwrap()
}

fn state(plan: &LandlockPlan, name: &str) -> ProtectionState {
    plan.table.iter().find(|row| row.name == format!("landlock/{name}")).unwrap().state
}

#[test]
fn nothing_blocked_makes_no_domain() {
    let observe = Written::default().path("x", "/srv/**", Effects::all(), PolicyAction::Alert);
    let plan = observe.plan(&machine());
    assert!(plan.is_empty() && plan.rules.is_empty());
    assert!(
        plan.table.iter().all(|row| row.state == ProtectionState::Off && !row.verified),
        "{:?}",
        plan.table
    );
}

#[test]
fn an_allow_list_is_exact() {
    let plan = Written::default()
        .by_default(CHANGE, BLOCK)
        .path("project", "/home/u/p/**", CHANGE, ALLOW)
        .path("tmp", "/tmp/**", CHANGE, ALLOW)
        .path("cache", "/home/u/.cache/**", CHANGE, ALLOW)
        .path("keys", "/home/u/.ssh/**", CHANGE, BLOCK)
        .plan(&machine());
    for class in [Class::Write, Class::Create, Class::Delete] {
        assert_eq!(granted(&plan, class), ["/home/u/p", "/tmp"], "{class:?}");
    }
    assert!(!plan.files.handled.contains(&Class::ReadFile));
    assert_eq!((hold(&plan, "default").held, hold(&plan, "keys").held), (Held::Whole, Held::Whole));
    assert_eq!(state(&plan, "file_write"), ProtectionState::Enforced);
    // What is not there cannot be granted, and is said.
    let skipped: Vec<_> = plan.files.skipped.iter().map(|skipped| skipped.path.to_string()).collect();
    assert_eq!(skipped, ["/home/u/.cache"]);
}

#[test]
fn a_single_file_that_comes_and_goes_opens_its_directory() {
    let policy = |pattern: &str| {
        Written::default().by_default(CHANGE, BLOCK).path("state", pattern, CHANGE, ALLOW).plan(&machine())
    };
    // Made anew by renaming: a rule for today's file would not hold for tomorrow's.
    for pattern in ["/home/u/.bashrc", "/home/u/.agent.json"] {
        let plan = policy(pattern);
        assert_eq!(granted(&plan, Class::Write), ["/home/u"], "{pattern}");
        let held = hold(&plan, "default");
        assert_eq!(held.held, Held::Part);
        assert!(held.reasons.iter().any(|reason| reason.contains("/home/u is open")), "{:?}", held.reasons);
        assert_eq!(state(&plan, "file_write"), ProtectionState::Degraded);
    }
    // The command cannot replace this one.
    assert_eq!(granted(&policy("/etc/passwd"), Class::Write), ["/etc/passwd"]);
}

#[test]
fn a_closed_place_in_an_open_one_is_carved_out_where_nothing_new_can_stand_beside_it() {
    let plan =
        Written::default().path("secret", "/srv/secret/**", Effects::FILE_READ, BLOCK).plan(&machine());
    assert_eq!(granted(&plan, Class::ReadFile), ["/etc", "/home", "/srv/public", "/tmp", "/usr"]);
    // Listing `/` and `/srv` is allowed, and with it listing everything.
    assert!(!plan.files.handled.contains(&Class::ReadDirectory));
    let held = hold(&plan, "secret");
    assert_eq!(
        (held.held, held.reasons.as_slice()),
        (Held::Part, &["names there can be listed, contents cannot be read".to_owned()][..])
    );
    let file = Written::default().path("shadow", "/etc/shadow", Effects::FILE_READ, BLOCK).plan(&machine());
    assert_eq!(granted(&file, Class::ReadFile), ["/etc/passwd", "/home", "/srv", "/tmp", "/usr"]);
    assert_eq!(hold(&file, "shadow").held, Held::Whole);
}

#[test]
fn elsewhere_it_is_left_open_and_said() {
    let policy = Written::default().path("keys", "/home/u/.ssh/**", Effects::FILE_READ, BLOCK);
    let plan = policy.plan(&machine());
    assert!(plan.is_empty(), "{:?}", plan.files);
    let held = hold(&plan, "keys");
    assert_eq!(held.held, Held::Nothing);
    assert!(held.reasons[0].starts_with("/home/u is open"), "{:?}", held.reasons);
    // Unless asked for, at the price of what comes later.
    let places = machine();
    let options = PlanOptions {
        level: LandlockLevel::Full,
        abi: Abi(7),
        places: &places,
        siblings: Siblings::Any,
        home: &Path::root(),
    };
    let any = LandlockPlan::new(&policy.0, &options);
    assert!(!any.files.grants(Class::ReadFile, &Path::new("/home/u/.ssh/id")));
    assert!(any.files.grants(Class::ReadFile, &Path::new("/home/u/p/new")));
    assert!(!any.files.grants(Class::ReadFile, &Path::new("/home/u/new")));
}

#[test]
fn rules_with_owners_confirmations_and_floating_names_are_left_out() {
    let both = Effects::FILE_READ;
    let plan = Written::default()
        .path("owned", "/srv/secret/**", both, BLOCK)
        .spared()
        .path("floating", "**/key", both, BLOCK)
        .path("pair", "**/.git/hooks/**", CHANGE, BLOCK)
        .plan(&machine());
    assert!(plan.is_empty(), "{:?}", plan.files);
    for rule in ["owned", "floating", "pair"] {
        assert_eq!(hold(&plan, rule).held, Held::Nothing, "{rule}");
    }
    let mut asked = Written::default().path("asked", "/srv/secret/**", both, BLOCK);
    asked.0.paths[0].entries[0].raw_action = PolicyAction::Confirm;
    let plan = asked.plan(&machine());
    assert!(plan.is_empty());
    assert!(hold(&plan, "asked").reasons[0].contains("person"), "{:?}", plan.rules);
}

#[test]
fn a_name_allowed_everywhere_opens_what_has_it() {
    let policy = |name: &str| {
        Written::default()
            .path("secret", "/srv/secret/**", Effects::FILE_READ, BLOCK)
            .path("sample", name, Effects::FILE_READ, ALLOW)
            .plan(&machine())
    };
    assert!(policy("**/key").is_empty());
    assert!(!policy("**/.env.example").is_empty());
    // A default cannot be searched.
    let default =
        Written::default().by_default(CHANGE, BLOCK).path("logs", "**/*.log", CHANGE, ALLOW).plan(&machine());
    assert!(default.is_empty());
    assert_eq!(hold(&default, "default").held, Held::Nothing);
}

#[test]
fn ports_are_closed_only_if_few_are_open() {
    let https = Ports { first: 443, last: 443 };
    let net = Effects::NET_CONNECT;
    let web = Written::default().by_default(net, BLOCK).address("0.0.0.0", 0, https, net, ALLOW).address(
        "10.0.0.1",
        32,
        Ports { first: 25, last: 25 },
        net,
        BLOCK,
    );
    let plan = web.plan(&machine());
    // Names are still asked for.
    assert_eq!(plan.connect, Some(BTreeSet::from([53, 443])));
    assert_eq!(plan.bind, None);
    assert!(!plan.handles_files());
    assert_eq!((hold(&plan, "default").held, hold(&plan, "10.0.0.1").held), (Held::Part, Held::Part));
    let open = Written::default()
        .by_default(net, BLOCK)
        .address("127.0.0.0", 8, Ports::ANY, net, ALLOW)
        .plan(&machine());
    assert_eq!((open.connect, open.wanted.connect), (None, false));
    let listed = Written::default().address("169.254.169.254", 32, Ports::ANY, net, BLOCK).plan(&machine());
    assert!(listed.is_empty());
    assert_eq!(hold(&listed, "169.254.169.254").held, Held::Nothing);
    let old = web.plan_for(&machine(), LandlockLevel::Full, Abi(3));
    assert!(old.connect.is_none() && old.wanted.connect);
    assert!(hold(&old, "default").reasons[0].contains("ABI 4"), "{:?}", old.rules);
    let bind = Written::default().by_default(Effects::NET_BIND, BLOCK).plan(&machine());
    assert_eq!(bind.bind, Some(BTreeSet::new()));
}

#[test]
fn scopes_follow_policy_and_version() {
    let policy = Written::default()
        .by_default(Effects::UNIX, BLOCK)
        .privilege(Privilege::Signal)
        .privilege(Privilege::Ptrace)
        .privilege(Privilege::Bpf);
    let plan = policy.plan_for(&machine(), LandlockLevel::ScopesAndNet, Abi(7));
    assert!(plan.scope_abstract && plan.scope_signal && !plan.handles_files());
    for (rule, held) in [
        ("priv.signal", Held::Whole),
        ("priv.ptrace", Held::Whole),
        ("priv.bpf", Held::Nothing),
        ("default", Held::Part),
    ] {
        assert_eq!(hold(&plan, rule).held, held, "{rule}");
    }
    let old = policy.plan_for(&machine(), LandlockLevel::Full, Abi(5));
    assert!(old.is_empty() && old.wanted.scope_signal);
    assert_eq!(state(&old, "signal"), ProtectionState::Off);
    let mut named = Written::default().by_default(Effects::UNIX, BLOCK);
    let entry = named.entry("x11", Effects::UNIX, ALLOW);
    named.0.abstract_names.push(AbstractRow { name: b"/tmp/.X11-unix/X0".to_vec(), entries: vec![entry] });
    assert!(named.plan(&machine()).is_empty());
}

#[test]
fn levels_and_versions_leave_files_out() {
    let policy =
        Written::default().by_default(CHANGE, BLOCK).privilege(Privilege::Signal).privilege(Privilege::Mount);
    for (level, abi, files, scopes) in [
        (LandlockLevel::Full, Abi(7), true, true),
        (LandlockLevel::Full, Abi(2), true, false),
        // It would forbid every rename between directories.
        (LandlockLevel::Full, Abi(1), false, false),
        (LandlockLevel::Full, Abi::NONE, false, false),
        (LandlockLevel::ScopesAndNet, Abi(7), false, true),
        (LandlockLevel::Off, Abi(7), false, false),
    ] {
        let plan = policy.plan_for(&machine(), level, abi);
        assert_eq!((plan.handles_files(), plan.scope_signal), (files, scopes), "{level:?} {abi}");
        assert_eq!(plan.is_empty(), !files && !scopes);
        assert_eq!(hold(&plan, "priv.mount").held == Held::Whole, files);
        assert_eq!(hold(&plan, "default").held != Held::Nothing, files, "{level:?} {abi}");
        // Version 2 cannot keep a file from being cut.
        assert_eq!(state(&plan, "file_write") == ProtectionState::Degraded, files && abi == Abi(2));
        assert!(
            plan.rules.iter().all(|hold| hold.held == Held::Whole || !hold.reasons.is_empty()),
            "{:?}",
            plan.rules
        );
    }
}

#[test]
fn execution_is_never_claimed_wholly() {
    let plan = Written::default().path("tools", "/usr/bin/cc", Effects::EXEC, BLOCK).plan(&machine());
    assert!(!plan.files.grants(Class::Execute, &Path::new("/usr/bin/cc")));
    assert_eq!(hold(&plan, "tools").held, Held::Part);
    assert_eq!(hold(&plan, "tools").reasons.len(), 1);
}

#[test]
fn attributes_and_links_are_not_covered() {
    let plan = Written::default()
        .path("mode", "/srv/secret/**", Effects::FILE_ATTR | Effects::FILE_LINK, BLOCK)
        .plan(&machine());
    assert_eq!(hold(&plan, "mode").held, Held::Nothing);
    assert!(Effect::ALL.contains(&Effect::FileAttr));
}

#[test]
fn a_large_directory_is_left_to_others() {
    let mut places = machine();
    for number in 0..2000 {
        places.kinds.insert(Path::new(format!("/srv/{number}")), Kind::File);
    }
    let plan = Written::default().path("secret", "/srv/secret/**", Effects::FILE_READ, BLOCK).plan(&places);
    assert!(plan.is_empty());
    assert!(hold(&plan, "secret").reasons[0].contains("too many entries"), "{:?}", plan.rules);
}
