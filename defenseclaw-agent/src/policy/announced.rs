//! What a policy says of an announced tool call: the same answer that it gives of the operation itself, as far as the
//! announcement says what that will be. What it does not say is left to who sees the operation: a word that only the
//! shell knows, a path through a symbolic link, text that does not parse. Where several things can be meant, the most
//! lenient counts, so that nothing is blocked by a guess.

use std::borrow::Cow;

use super::{Actor, Object, Session, Subject, image::Entry, stricter};
use crate::model::{Effect, Intent, PolicyAction, Target, ToolCall};

/// Where a program may be that is called by its name.
const PROGRAMS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Longest path that is judged.
const PATH_MAX: usize = 4096;

/// Where relative paths of a tool call begin.
#[derive(Clone, Copy, Debug)]
pub struct Whereabouts<'a> {
    /// The agent's directory, if it is known.
    pub cwd: Option<&'a str>,
    /// What `~` stands for.
    pub home: &'a str,
}

/// What was said of one thing that a tool call announces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// What.
    pub entry: Entry,
    /// Of what would be done.
    pub effect: Effect,
    /// To what it would be done: an absolute path, a host with its port, a program as it is called.
    pub object: String,
}

/// What was said of a tool call, the decisive first. Nothing if no rule and no default had anything to say.
pub fn announced(session: &Session, at: Whereabouts<'_>, call: &ToolCall) -> Vec<Announced> {
    let mut said: Vec<Announced> = Vec::new();
    // What a command does is done by its program, which a rule may spare.
    let mut programs: Vec<String> = Vec::new();
    for intent in &call.intents {
        let about = |(entry, effect), object: &str| Announced { entry, effect, object: object.to_owned() };
        let found = match intent {
            Intent::Exec(words) => {
                let program = words.first().and_then(Target::value);
                programs = program.map(|program| at.programs(program)).unwrap_or_default();
                let judged = |path: &String| session.judge(Actor::default(), &object(Effect::Exec, path));
                let name = match programs.as_slice() {
                    [path] => Some(path.as_str()),
                    _ => program,
                };
                lenient(programs.iter().map(judged))
                    .zip(name)
                    .map(|(entry, name)| about((entry, Effect::Exec), name))
            }
            Intent::Read(path) => judge(session, at, &programs, path, &[Effect::FileRead]),
            // Whether it is there already nobody said.
            Intent::Write(path) => {
                judge(session, at, &programs, path, &[Effect::FileWrite, Effect::FileCreate])
            }
            Intent::Delete(path) => judge(session, at, &programs, path, &[Effect::FileDelete]),
            Intent::Connect(to) => to.value().and_then(|url| connect(session, &programs, url)),
            Intent::Unparsed(_) => {
                programs.clear();
                None
            }
        };
        if let Some(found) = found.filter(|found| found.entry.raw_action > PolicyAction::Allow)
            && !said.contains(&found)
        {
            said.push(found);
        }
    }
    // Stable: of equally strict ones the first announced decides.
    said.sort_by_key(|said| std::cmp::Reverse((said.entry.action, said.entry.raw_action)));
    said
}

impl Whereabouts<'_> {
    /// Every path that a program's name can mean.
    fn programs(self, name: &str) -> Vec<String> {
        if name.contains('/') {
            return self.path(name).into_iter().collect();
        }
        PROGRAMS.iter().map(|directory| format!("{directory}/{name}")).collect()
    }

    /// The path as text says it: absolute, without `.` and `..`. Links are not followed.
    fn path(self, text: &str) -> Option<String> {
        let start: Cow<'_, str> = match text.strip_prefix('~') {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{}/{rest}", self.home).into(),
            // Another user's home.
            Some(_) => return None,
            None if text.starts_with('/') => text.into(),
            None => format!("{}/{text}", self.cwd.filter(|cwd| cwd.starts_with('/'))?).into(),
        };
        if start.len() > PATH_MAX || text.is_empty() || text.contains('\0') {
            return None;
        }
        let mut names: Vec<&str> = Vec::new();
        for name in start.split('/') {
            match name {
                "" | "." => {}
                ".." => drop(names.pop()),
                _ => names.push(name),
            }
        }
        Some(format!("/{}", names.join("/")))
    }
}

fn object(effect: Effect, path: &str) -> Object<'_> {
    Object::Path(effect, path.as_bytes())
}

fn judge(
    session: &Session,
    at: Whereabouts<'_>,
    programs: &[String],
    path: &Target,
    effects: &[Effect],
) -> Option<Announced> {
    let path = at.path(path.value()?)?;
    let mut least: Option<(Entry, Effect)> = None;
    for effect in effects {
        let entry = by_any(session, programs, &object(*effect, &path))?;
        if least.is_none_or(|(known, _)| strictness(&entry) < strictness(&known)) {
            least = Some((entry, *effect));
        }
    }
    least.map(|(entry, effect)| Announced { entry, effect, object: path })
}

/// What is said if the most spared of these programs does it; if none is known, somebody whom no rule spares.
fn by_any(session: &Session, programs: &[String], object: &Object<'_>) -> Option<Entry> {
    if programs.is_empty() {
        return session.judge(Actor::default(), object);
    }
    let actors = programs.iter().map(|path| Actor { executable: Some(path.as_bytes()), parent: None });
    lenient(actors.map(|actor| session.judge(actor, object)))
}

/// A URL, as far as it names a host: the question for the name, and the connection.
fn connect(session: &Session, programs: &[String], url: &str) -> Option<Announced> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit()) => {
            (host, port.parse().ok()?)
        }
        _ => (place, port(scheme)?),
    };
    let text = format!("{host}:{port}");
    let connection = Object::parse(Subject::Effect(Effect::NetConnect), &text).ok()?;
    let name = Object::parse(Subject::Effect(Effect::Dns), host).ok();
    // An address is connected to without a question.
    let name = name.filter(|_| matches!(connection, Object::Address { name: Some(_), .. }));
    let asked = name.and_then(|name| by_any(session, programs, &name));
    let connected = by_any(session, programs, &connection);
    let entry = stricter(connected, asked)?;
    // Of equally strict ones the connection counts.
    let about =
        if Some(entry) == connected { (Effect::NetConnect, text) } else { (Effect::Dns, host.to_owned()) };
    Some(Announced { entry, effect: about.0, object: about.1 })
}

fn port(scheme: &str) -> Option<u16> {
    Some(match scheme {
        "https" | "wss" => 443,
        "http" | "ws" => 80,
        "ssh" | "sftp" => 22,
        "ftp" => 21,
        "ftps" => 990,
        "git" => 9418,
        _ => return None,
    })
}

/// The most lenient answer; none, which allows, if there is none at all.
fn lenient(mut answers: impl Iterator<Item = Option<Entry>>) -> Option<Entry> {
    let mut least = answers.next()??;
    for answer in answers {
        let answer = answer?;
        if strictness(&answer) < strictness(&least) {
            least = answer;
        }
    }
    Some(least)
}

fn strictness(entry: &Entry) -> (PolicyAction, PolicyAction) {
    (entry.action, entry.raw_action)
}

#[cfg(test)]
mod tests;
