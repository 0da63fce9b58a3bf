//! A policy compiled for one session: what the layers below are made from. Rows, not hashes: `enforce` turns them into
//! maps of the kernel, `launcher` into Landlock rules, and `evaluate` must agree with both.

use std::net::IpAddr;

use crate::model::{Effects, PolicyAction, Privilege, Severity};

/// Everything the kernel has to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Rules, by the number that entries and verdicts carry. Defaults and the unresolved case are rules, too.
    pub rules: Vec<RuleInfo>,
    /// Rules about paths.
    pub paths: Vec<PathRow>,
    /// Rules about addresses.
    pub addresses: Vec<AddressRow>,
    /// Rules about abstract names of unix sockets.
    pub abstract_names: Vec<AbstractRow>,
    /// Rules about host names; the resolver asks them.
    pub hosts: Vec<HostRow>,
    /// Rules about privileged operations, in order of precedence.
    pub privileges: Vec<(Privilege, Entry)>,
    /// Effects that no rule speaks of.
    pub defaults: Vec<Entry>,
    /// Objects that cannot be resolved.
    pub unresolved: Option<Entry>,
    /// `confirm` asks somebody, and this is what becomes of a question that nobody answers; none: nobody is asked.
    pub asks: Option<PolicyAction>,
    /// Sets of executables that [`Unless`] names.
    pub owners: Vec<Vec<PathPattern>>,
    /// Absolute paths, without wildcards, whose files are protected by inode as well: whole trees and single files.
    pub identities: Vec<Vec<u8>>,
}

/// What the audit says of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleInfo {
    /// Id, as in the file; `default:EFFECT`, `unresolved`.
    pub id: String,
    /// How bad it is.
    pub severity: Severity,
    /// Why, and what to do instead.
    pub reason: String,
}

/// What a rule says about one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// About which effects; empty for [`Image::privileges`].
    pub effects: Effects,
    /// Index into [`Image::rules`].
    pub rule: u16,
    /// After mode.
    pub action: PolicyAction,
    /// Before mode.
    pub raw_action: PolicyAction,
    /// Another mode would block it.
    pub would_block: bool,
    /// End the process, too.
    pub kill: bool,
    /// Whom it spares.
    pub unless: Option<Unless>,
}

/// Whom a rule spares: index into [`Image::owners`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unless {
    /// The process runs one of these.
    Executable(u8),
    /// Its parent does.
    Parent(u8),
}

/// Where an entry applies, seen from its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// The path itself.
    Exact,
    /// What lies directly below.
    Children,
    /// The path itself and everything below.
    Subtree,
    /// The path itself, because rules protect something below it.
    Ancestor,
}

/// A pattern that a lookup can answer. Components hold no wildcard and no slash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathPattern {
    /// What is looked up.
    pub key: PathKey,
    /// What follows in the object's path. Extensions: always exact.
    pub reach: Reach,
}

/// What is looked up of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathKey {
    /// From the root; empty: the root itself.
    Anchored(Vec<Vec<u8>>),
    /// `**/name`.
    Name(Vec<u8>),
    /// `**/directory/name`.
    Pair(Vec<u8>, Vec<u8>),
    /// `**/*.extension`, without the dot, at most seven bytes, itself without a dot.
    Extension(Vec<u8>),
}

/// Entries of one path pattern, the decisive first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRow {
    /// Of which paths.
    pub pattern: PathPattern,
    /// What is said of them.
    pub entries: Vec<Entry>,
}

/// Ports, inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    /// First.
    pub first: u16,
    /// Last.
    pub last: u16,
}

impl Ports {
    /// All of them.
    pub const ANY: Ports = Ports { first: 0, last: u16::MAX };
}

/// Entries of one network. Narrower ports stand first, stricter ones before others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressRow {
    /// With host bits zero. IPv4-mapped addresses stand here as IPv4.
    pub network: IpAddr,
    /// Prefix length in that family.
    pub length: u8,
    /// What is said of it.
    pub entries: Vec<(Ports, Entry)>,
}

/// Entries of one abstract name, without the leading NUL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbstractRow {
    /// Exactly this name.
    pub name: Vec<u8>,
    /// What is said of it.
    pub entries: Vec<Entry>,
}

/// Entries of one host pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRow {
    /// Labels in lower case, the top level last.
    pub labels: Vec<String>,
    /// `*.example.com`: every name below, not the name itself.
    pub below: bool,
    /// What is said of it; for `net.connect` with ports, for `dns` with all.
    pub entries: Vec<(Ports, Entry)>,
}
