//! Path patterns: what a policy writes, what it means in a session, and which paths it pins how deep.
//!
//! Absolute patterns (`/a/b`, `/a/b/*`, `/a/b/**`, with `~` and `${project}` in front) and floating ones (`**/name`,
//! `**/name/**`, `**/dir/name`, `**/dir/name/**`, `**/*.ext`) are held by the kernel. Everything else is *wild*:
//! only user space can judge it, so it can never block.

use super::image::{PathKey, PathPattern, Reach};

/// Components of a path that are judged; deeper paths are unresolved. As in the kernel.
pub const DEPTH_MAX: usize = 64;
/// Bytes of an extension that the kernel looks up.
const EXTENSION_MAX: usize = 7;
/// Longest name a file can have.
const NAME_MAX: usize = 255;
/// Bytes of a pattern.
const PATTERN_MAX: usize = 4096;

/// A message and a hint.
type Wrong = (String, &'static str);

/// A pattern as written, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    root: Root,
    parts: Vec<Part>,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Root {
    Slash,
    Home,
    Project,
    Anywhere,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Vec<u8>),
    /// Has `*` or `?`, within one component.
    Glob(Vec<u8>),
    /// `**`: any number of components.
    Any,
}

/// A pattern in a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Held(PathPattern),
    Wild(Wild),
}

/// A pattern that no lookup can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wild(Vec<Part>);

/// Which of two patterns that pin a path equally deep decides. Later ones decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Wild,
    Children,
    Extension,
    Name,
    Pair,
    Subtree,
    Exact,
}

/// How precisely a pattern speaks of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pin {
    /// Components of the path up to the last one that the pattern names.
    pub(super) depth: usize,
    pub(super) rank: Rank,
}

impl Template {
    /// Reads a pattern.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = |message: &str, hint| Err((format!("pattern {text:?} {message}"), hint));
        if text.len() > PATTERN_MAX {
            return Err((format!("a pattern has {} bytes, more than {PATTERN_MAX}", text.len()), ""));
        }
        if text.contains('\0') {
            return wrong("has a NUL, which no path has", "");
        }
        let (root, rest) = if let Some(rest) = text.strip_prefix("${project}") {
            (Root::Project, rest)
        } else if let Some(rest) = text.strip_prefix('~') {
            (Root::Home, rest)
        } else if let Some(rest) = text.strip_prefix("**") {
            if rest.is_empty() {
                return wrong("means every path", "write /**");
            }
            (Root::Anywhere, rest)
        } else {
            (Root::Slash, text)
        };
        if let Some(found) = rest.chars().find(|c| "[]{}\\".contains(*c)) {
            return wrong(
                &format!("has {found}, which is no wildcard here"),
                "use * ? or **, or write a list",
            );
        }
        let parts = match rest.strip_prefix('/') {
            Some("") if root == Root::Slash => Vec::new(),
            Some(rest) => {
                parts(rest).map_err(|(message, hint)| (format!("pattern {text:?} {message}"), hint))?
            }
            None if rest.is_empty() && root != Root::Slash => Vec::new(),
            None => return wrong("is not absolute", "start it with /, ~/, ${project}/ or **/"),
        };
        if parts.len() > DEPTH_MAX {
            return wrong("has more than 64 components; deeper paths count as unresolved", "");
        }
        if root == Root::Anywhere && parts.iter().all(|part| *part == Part::Any) {
            return wrong("means every path", "write /**");
        }
        Ok(Self { root, parts, text: text.to_owned() })
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Why the kernel cannot hold it.
    pub fn wild(&self) -> Option<&'static str> {
        match self.bind_to(&[]) {
            Ok(Bound::Wild(_)) => {}
            Ok(Bound::Held(_)) | Err(_) => return None,
        }
        let inner = self.parts.split_last().map_or(&[][..], |(_, inner)| inner);
        Some(if self.parts.iter().any(|part| matches!(part, Part::Glob(text) if text.contains(&b'?'))) {
            "it has a ?"
        } else if inner.contains(&Part::Any) {
            "it has a ** in the middle"
        } else if matches!(self.parts.as_slice(), [Part::Glob(text)] if text.starts_with(b"*.") && self.root == Root::Anywhere)
        {
            "its extension has more than 7 bytes or a dot"
        } else if self.parts.iter().any(|part| matches!(part, Part::Glob(_))) {
            "it has a * that is not all of the last component of an absolute path"
        } else {
            "it names more than two components after **/"
        })
    }

    /// What it means in a session.
    pub(super) fn bind(&self, home: &[Vec<u8>], project: &[Vec<u8>]) -> Result<Bound, String> {
        self.bind_to(match self.root {
            Root::Home => home,
            Root::Project => project,
            Root::Slash | Root::Anywhere => &[],
        })
    }

    fn bind_to(&self, front: &[Vec<u8>]) -> Result<Bound, String> {
        if front.len() + self.parts.len() > DEPTH_MAX {
            return Err(format!("pattern {:?} has more than {DEPTH_MAX} components here", self.text));
        }
        let held =
            if self.root == Root::Anywhere { floating(&self.parts) } else { absolute(front, &self.parts) };
        Ok(held.map_or_else(
            || {
                let any = (self.root == Root::Anywhere).then_some(Part::Any);
                let front = front.iter().cloned().map(Part::Literal);
                Bound::Wild(Wild(any.into_iter().chain(front).chain(self.parts.iter().cloned()).collect()))
            },
            Bound::Held,
        ))
    }
}

fn parts(text: &str) -> Result<Vec<Part>, Wrong> {
    text.split('/')
        .map(|part| match part {
            "" => Err((
                "has an empty component".to_owned(),
                "a directory and what is in it is /a/b/**, without / at the end",
            )),
            "." | ".." => Err((format!("has a component {part:?}"), "write the path it leads to")),
            "**" => Ok(Part::Any),
            _ if part.contains("**") => Err((
                "has ** inside a component".to_owned(),
                "** stands alone between slashes; use * within a name",
            )),
            _ if part.len() > NAME_MAX => Err((format!("has a name of more than {NAME_MAX} bytes"), "")),
            _ if part.contains(['*', '?']) => Ok(Part::Glob(part.into())),
            _ => Ok(Part::Literal(part.into())),
        })
        .collect()
}

fn absolute(front: &[Vec<u8>], parts: &[Part]) -> Option<PathPattern> {
    let (parts, reach) = match parts {
        [inner @ .., Part::Any] => (inner, Reach::Subtree),
        [inner @ .., Part::Glob(text)] if text == b"*" => (inner, Reach::Children),
        _ => (parts, Reach::Exact),
    };
    let mut components = front.to_vec();
    for part in parts {
        let Part::Literal(name) = part else { return None };
        components.push(name.clone());
    }
    Some(PathPattern { key: PathKey::Anchored(components), reach })
}

fn floating(parts: &[Part]) -> Option<PathPattern> {
    let (parts, reach) = match parts {
        [inner @ .., Part::Any] => (inner, Reach::Subtree),
        _ => (parts, Reach::Exact),
    };
    let key = match parts {
        [Part::Literal(name)] => PathKey::Name(name.clone()),
        [Part::Literal(directory), Part::Literal(name)] => PathKey::Pair(directory.clone(), name.clone()),
        [Part::Glob(text)] if reach == Reach::Exact => {
            let extension = text.strip_prefix(b"*.")?;
            let plain = !extension.iter().any(|byte| b"*?.".contains(byte));
            if !plain || extension.is_empty() || extension.len() > EXTENSION_MAX {
                return None;
            }
            PathKey::Extension(extension.to_vec())
        }
        _ => return None,
    };
    Some(PathPattern { key, reach })
}

/// Components of an absolute path; none if it cannot be judged: relative, with `..`, or too deep.
pub fn components(path: &[u8]) -> Option<Vec<&[u8]>> {
    let rest = path.strip_prefix(b"/")?;
    let mut found = Vec::with_capacity(16);
    for part in rest.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return None,
            _ => found.push(part),
        }
    }
    (found.len() <= DEPTH_MAX && !path.contains(&0)).then_some(found)
}

/// What follows the last dot of the last component, wherever that dot is.
pub(super) fn extension<'a>(path: &[&'a [u8]]) -> Option<&'a [u8]> {
    let name = path.last()?;
    let dot = name.iter().rposition(|byte| *byte == b'.')?;
    name.get(dot + 1..).filter(|extension| !extension.is_empty())
}

/// How the pattern speaks of the path, if it does.
pub(super) fn pin(pattern: &PathPattern, path: &[&[u8]]) -> Option<Pin> {
    // The end of what the key names, as a number of components; the deepest that fits counts.
    let reach = |end: usize, rank| match pattern.reach {
        Reach::Exact if end == path.len() => Some(Pin { depth: end, rank }),
        Reach::Subtree => Some(Pin { depth: end, rank }),
        Reach::Children if end + 1 == path.len() => Some(Pin { depth: end + 1, rank: Rank::Children }),
        Reach::Exact | Reach::Children | Reach::Ancestor => None,
    };
    match &pattern.key {
        PathKey::Anchored(key) => {
            let fits = key.len() <= path.len() && key.iter().zip(path).all(|(key, part)| key == part);
            let rank = if pattern.reach == Reach::Exact { Rank::Exact } else { Rank::Subtree };
            if fits { reach(key.len(), rank) } else { None }
        }
        PathKey::Name(name) => {
            let ends = path.iter().enumerate().rev().filter(|(_, part)| name == *part);
            ends.map(|(at, _)| at + 1).find_map(|end| reach(end, Rank::Name))
        }
        PathKey::Pair(directory, name) => {
            let fits = |pair: &[&[u8]]| matches!(pair, [a, b] if directory == a && name == b);
            let ends = path.windows(2).enumerate().rev().filter(|(_, pair)| fits(pair));
            ends.map(|(at, _)| at + 2).find_map(|end| reach(end, Rank::Pair))
        }
        PathKey::Extension(key) => {
            let fits = extension(path).is_some_and(|found| found == key);
            if fits { reach(path.len(), Rank::Extension) } else { None }
        }
    }
}

impl Wild {
    /// How it speaks of the path, if it does.
    pub(super) fn pin(&self, path: &[&[u8]]) -> Option<Pin> {
        // deepest[i] is the depth pinned when the parts looked at so far have consumed i components. `**` at the end
        // names nothing, so it keeps the depth of what stands before it.
        let mut deepest: Vec<Option<usize>> = vec![None; path.len() + 1];
        if let Some(start) = deepest.first_mut() {
            *start = Some(0);
        }
        for part in &self.0 {
            let before = std::mem::replace(&mut deepest, vec![None; path.len() + 1]);
            match part {
                Part::Any => {
                    let mut best = None;
                    for (after, before) in deepest.iter_mut().zip(before) {
                        best = best.max(before);
                        *after = best;
                    }
                }
                Part::Literal(_) | Part::Glob(_) => {
                    let steps = deepest.iter_mut().skip(1).zip(before.iter().zip(path)).enumerate();
                    for (at, (after, (before, name))) in steps {
                        *after = before.filter(|_| part.fits(name)).map(|_| at + 1);
                    }
                }
            }
        }
        deepest.last().copied().flatten().map(|depth| Pin { depth, rank: Rank::Wild })
    }
}

impl Part {
    fn fits(&self, name: &[u8]) -> bool {
        match self {
            Self::Literal(text) => text == name,
            Self::Glob(text) => glob(text, name),
            Self::Any => true,
        }
    }
}

/// `*` and `?` within one name, or one id. Linear but for one place to go back to, so no input is slow.
pub(super) fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while let Some(byte) = name.get(n) {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, n + 1));
                p += 1;
            }
            Some(found) if *found == b'?' || found == byte => {
                p += 1;
                n += 1;
            }
            _ => match retry {
                Some((back, from)) => {
                    (p, n) = (back, from);
                    retry = Some((back, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(text: &str) -> Bound {
        let home = [b"home".to_vec(), b"u".to_vec()];
        let project = [b"home".to_vec(), b"u".to_vec(), b"proj".to_vec()];
        Template::parse(text).unwrap().bind(&home, &project).unwrap()
    }

    fn pinned(text: &str, path: &str) -> Option<(usize, Rank)> {
        let path = components(path.as_bytes()).unwrap();
        let pin = match bound(text) {
            Bound::Held(pattern) => pin(&pattern, &path),
            Bound::Wild(wild) => wild.pin(&path),
        };
        pin.map(|pin| (pin.depth, pin.rank))
    }

    #[test]
    fn patterns_pin_paths_where_they_say() {
        use Rank::{Children, Exact, Extension, Name, Pair, Subtree, Wild};
        for (pattern, path, want) in [
            ("/", "/", Some((0, Exact))),
            ("/**", "/a/b", Some((0, Subtree))),
            ("/**", "/", Some((0, Subtree))),
            ("/*", "/a", Some((1, Children))),
            ("/*", "/", None),
            ("/*", "/a/b", None),
            ("/a/b", "/a/b", Some((2, Exact))),
            ("/a/b", "/a/b/c", None),
            ("/a/b", "/a", None),
            ("/a/b/**", "/a/b", Some((2, Subtree))),
            ("/a/b/**", "/a/b/c/d", Some((2, Subtree))),
            ("/a/b/**", "/a/bc", None),
            ("/a/b/*", "/a/b/c", Some((3, Children))),
            ("/a/b/*", "/a/b", None),
            ("~", "/home/u", Some((2, Exact))),
            ("~/.ssh/**", "/home/u/.ssh/id", Some((3, Subtree))),
            ("~/.ssh/**", "/home/u/.SSH/id", None),
            ("${project}/**", "/home/u/proj/x", Some((3, Subtree))),
            ("${project}/**", "/home/u/proj2/x", None),
            ("**/.env", "/a/.env", Some((2, Name))),
            ("**/.env", "/.env", Some((1, Name))),
            ("**/.env", "/a/.env/b", None),
            ("**/x/**", "/x/a/x/b", Some((3, Name))),
            ("**/.git/hooks", "/a/.git/hooks", Some((3, Pair))),
            ("**/.git/hooks", "/hooks", None),
            ("**/.git/hooks/**", "/a/.git/hooks/.git/hooks/p", Some((5, Pair))),
            ("**/*.pem", "/a/b.pem", Some((2, Extension))),
            ("**/*.pem", "/a/.pem", Some((2, Extension))),
            ("**/*.pem", "/a/b.pem/c", None),
            ("**/*.pem", "/a/pem", None),
            ("**/*.gz", "/a/b.tar.gz", Some((2, Extension))),
            ("**/*.tar.gz", "/a/b.tar.gz", Some((2, Wild))),
            ("**/a/b/c", "/x/a/b/c", Some((4, Wild))),
            ("**/a/*", "/x/a/b", Some((3, Wild))),
            ("/a/*/c/**", "/a/b/c/d/e", Some((3, Wild))),
            ("/a/**/c", "/a/c", Some((2, Wild))),
            ("/a/**/c", "/a/x/c/y/c", Some((5, Wild))),
            ("/a/**/c", "/a/x/c/y", None),
            ("/a/**/c/**", "/a/c/c/y", Some((3, Wild))),
            ("~/.x/id_?", "/home/u/.x/id_a", Some((4, Wild))),
            ("~/.x/id_?", "/home/u/.x/id_", None),
        ] {
            assert_eq!(pinned(pattern, path), want, "{pattern} on {path}");
        }
    }

    #[test]
    fn the_kernel_holds_what_it_can_look_up() {
        for (pattern, held) in [
            ("/", true),
            ("/a/*", true),
            ("~/**", true),
            ("**/a/b/**", true),
            ("**/*.pem", true),
            ("**/*.1234567", true),
            ("**/*.12345678", false),
            ("**/*.tar.gz", false),
            ("**/*.p?m", false),
            ("**/a/*", false),
            ("**/a/b/c", false),
            ("**/*", false),
            ("/a/*/b", false),
            ("/a/**/b", false),
            ("/a/b*", false),
            ("/a/?", false),
            ("~/a/*/**", false),
        ] {
            assert_eq!(Template::parse(pattern).unwrap().wild().is_none(), held, "{pattern}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for pattern in [
            "",
            "a/b",
            "./a",
            "../a",
            "**",
            "**/**",
            "/a//b",
            "/a/",
            "/a/../b",
            "/a/.",
            "/a**/b",
            "/a/{b,c}",
            "/a/[bc]",
            "/a\\b",
            "~user/a",
            "${home}/a",
            "${project}x",
            "${project}/{a}",
            "/a/${project}",
            "/\0",
        ] {
            assert!(Template::parse(pattern).is_err(), "{pattern:?}");
        }
        assert!(Template::parse(&"/a".repeat(65)).is_err());
        assert!(Template::parse(&format!("/{}", "a".repeat(256))).is_err());
    }

    #[test]
    fn paths_that_cannot_be_judged_have_no_components() {
        assert_eq!(components(b"/a/./b//c/").unwrap().len(), 3);
        for path in [&b""[..], b"a", b"/a/../b", b"/a\0b", "/a".repeat(65).as_bytes()] {
            assert_eq!(components(path), None);
        }
    }

    #[test]
    fn globs_match_within_a_name() {
        for (pattern, name, want) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abcd", false),
            ("*.a*", "x.b.a1", true),
            ("?", "", false),
            ("**a", "a", true),
            ("a*b*c", "a-b-b-c", true),
        ] {
            assert_eq!(glob(pattern.as_bytes(), name.as_bytes()), want, "{pattern} {name}");
        }
        let slow = "*a".repeat(100);
        assert!(!glob(slow.as_bytes(), &vec![b'a'; 10_000][..99]));
    }
}
