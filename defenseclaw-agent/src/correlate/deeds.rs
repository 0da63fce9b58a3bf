//! What an event comes to for joining: which files it reads, writes and removes, where it connects to, and whether a
//! rule has something to say of what it read.

use std::net::IpAddr;

use crate::model::{
    Access, Action, Event, EventKind, EvidenceRef, KernelPath, NetEndpoint, PolicyAction, Text,
};

/// Bytes kept of a path or command in evidence.
const WHAT_MAX: usize = 256;
const EINPROGRESS: i64 = -115;
/// Questions for names go there.
const DNS: u16 = 53;

/// What is done to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Read,
    Write,
    Delete,
}

/// Everything that an action does to paths.
pub(super) fn to_paths(action: &Action) -> impl Iterator<Item = (Deed, &KernelPath)> {
    use Deed::{Delete, Read, Write};
    let pair = |deed, path| [Some((deed, path)), None];
    #[expect(clippy::wildcard_enum_match_arm, reason = "nothing else is done to a path that a tool declares")]
    let found = match action {
        Action::FileOpen { file, access } | Action::FileCreate { file, access } => {
            let writes = Access::WRITE | Access::CREATE | Access::TRUNCATE | Access::APPEND;
            let reads =
                access.contains(Access::READ) && !access.intersects(Access::EXECUTE | Access::MAP_EXECUTE);
            let read = reads.then_some((Read, &file.path));
            let writes = access.intersects(writes) || matches!(action, Action::FileCreate { .. });
            [read, writes.then_some((Write, &file.path))]
        }
        Action::FileUnlink { file } | Action::DirRemove { file } => pair(Delete, &file.path),
        Action::FileRename { file, to, .. } => [Some((Write, to)), Some((Delete, &file.path))],
        Action::FileLink { file, to } => [Some((Read, &file.path)), Some((Write, to))],
        Action::FileSymlink { path, .. } | Action::DirMake { path, .. } => pair(Write, path),
        Action::FileChmod { file, .. }
        | Action::FileChown { file, .. }
        | Action::FileTruncate { file, .. } => pair(Write, &file.path),
        _ => [None, None],
    };
    found.into_iter().flatten()
}

pub(super) fn endpoint(action: &Action) -> Option<&NetEndpoint> {
    let (Action::NetConnect { endpoint } | Action::NetSend { endpoint, .. }) = action else { return None };
    endpoint.address.is_some().then_some(endpoint)
}

/// An address that data may have left this machine to.
pub(super) fn egress(event: &Event) -> Option<IpAddr> {
    let endpoint = endpoint(&event.action).filter(|endpoint| endpoint.port != DNS)?;
    let address = endpoint.address.filter(|address| !address.is_loopback() && !address.is_unspecified())?;
    let went = event.result.is_none_or(|result| result >= 0 || result == EINPROGRESS);
    (went && event.policy_action() != Some(PolicyAction::Block)).then_some(address)
}

/// A read that a rule has something to say of.
pub(super) fn secret(event: &Event) -> Option<&KernelPath> {
    let decision = event.decision.as_deref()?;
    if decision.verdict.raw_action < PolicyAction::Alert {
        return None;
    }
    to_paths(&event.action).find(|(deed, _)| *deed == Deed::Read).map(|(_, path)| path)
}

/// It happened, as far as is known.
pub(super) fn succeeded(event: &Event) -> bool {
    event.result.is_none_or(|result| result >= 0) && event.policy_action() != Some(PolicyAction::Block)
}

/// A pipe, a device, `/proc`: nothing that lasts.
pub(super) fn is_passing(path: &KernelPath) -> bool {
    let text = path.text.0.as_slice();
    path.unresolved || [b"/dev/".as_slice(), b"/proc/"].iter().any(|place| text.starts_with(place))
}

pub(super) fn is_file(kind: EventKind) -> bool {
    use EventKind::{
        DirMake, DirRemove, FileChmod, FileChown, FileCreate, FileLink, FileOpen, FileRename, FileSymlink,
        FileTruncate, FileUnlink,
    };
    matches!(
        kind,
        FileOpen
            | FileCreate
            | FileUnlink
            | FileRename
            | FileLink
            | FileSymlink
            | FileChmod
            | FileChown
            | FileTruncate
            | DirMake
            | DirRemove
    )
}

/// How a finding names an event.
pub(super) fn reference(event: &Event) -> EvidenceRef {
    let what = match (&event.action, endpoint(&event.action)) {
        (Action::ProcessExec(exec), _) => command(&exec.argv),
        (_, Some(NetEndpoint { address: Some(address), port, .. })) => {
            Text(std::net::SocketAddr::new(*address, *port).to_string().into_bytes())
        }
        (action, _) => action.path().map(|path| cut(&path.text.0)).unwrap_or_default(),
    };
    EvidenceRef { time: event.time, process: event.process, kind: event.kind(), what }
}

/// A command line, cut.
pub(super) fn command(argv: &[Text]) -> Text {
    let mut text = Vec::new();
    for word in argv {
        if !text.is_empty() {
            text.push(b' ');
        }
        text.extend(word.0.iter().take(WHAT_MAX));
        if text.len() >= WHAT_MAX {
            break;
        }
    }
    cut(&text)
}

pub(super) fn cut(bytes: &[u8]) -> Text {
    Text(bytes.get(..WHAT_MAX).unwrap_or(bytes).to_vec())
}
