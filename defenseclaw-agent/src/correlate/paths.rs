//! Announced paths and addresses as the kernel would name them, and whether a kernel path is one of them. Links are not
//! followed: nobody knows where they led.

use std::net::IpAddr;

/// Longest path that is compared.
const PATH_MAX: usize = 4096;

/// Where relative paths begin, and what `~` stands for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) cwd: &'a [u8],
    pub(super) home: &'a [u8],
}

impl Place<'_> {
    /// Absolute, without `.` and `..`.
    pub(super) fn resolve(self, text: &str) -> Option<Vec<u8>> {
        let text = text.strip_prefix("file://").unwrap_or(text).as_bytes();
        let start = match text.strip_prefix(b"~") {
            Some(rest) if rest.is_empty() || rest.starts_with(b"/") => [self.home, rest].concat(),
            // Another user's home.
            Some(_) => return None,
            None if text.starts_with(b"/") => text.to_vec(),
            None => [self.cwd, b"/", text].concat(),
        };
        if !start.starts_with(b"/") || start.len() > PATH_MAX || text.is_empty() || text.contains(&0) {
            return None;
        }
        let mut names: Vec<&[u8]> = Vec::new();
        for name in start.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => drop(names.pop()),
                _ => names.push(name),
            }
        }
        Some([b"/".as_slice(), &names.join(&b'/')].concat())
    }
}

/// The path itself, or something below it.
pub(super) fn within(path: &[u8], directory: &[u8]) -> bool {
    let directory = directory.strip_suffix(b"/").unwrap_or(directory);
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// What a program writes on its way to a file: the file, one beside it with its name in the name, a directory above.
pub(super) fn leads_to(path: &[u8], file: &[u8]) -> bool {
    if path == file || within(file, path) {
        return true;
    }
    let split = |path: &[u8]| {
        let at = path.iter().rposition(|byte| *byte == b'/')?;
        Some((path.get(..at)?.to_vec(), path.get(at + 1..)?.to_vec()))
    };
    let (Some((directory, name)), Some((its_directory, its_name))) = (split(file), split(path)) else {
        return false;
    };
    directory == its_directory && super::text::contains(&its_name, &name)
}

/// Where a URL leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Address(IpAddr),
    Name(String),
}

impl Target {
    pub(super) fn parse(url: &str) -> Option<Self> {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next()?;
        let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
        let host = match place.strip_prefix('[') {
            Some(bracketed) => bracketed.split(']').next()?,
            None => place.split(':').next()?,
        };
        match host.parse() {
            Ok(address) => Some(Self::Address(address)),
            Err(_) if host.is_empty() => None,
            Err(_) => Some(Self::Name(host.to_ascii_lowercase())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute() {
        let at = Place { cwd: b"/p", home: b"/home/u" };
        for (text, expected) in [
            ("a/../b", Some("/p/b")),
            ("~/x", Some("/home/u/x")),
            ("~root/x", None),
            ("/a//b/./c", Some("/a/b/c")),
            ("file:///a", Some("/a")),
            (".", Some("/p")),
            ("", None),
            ("a\0b", None),
        ] {
            assert_eq!(at.resolve(text), expected.map(|path| path.as_bytes().to_vec()), "{text}");
        }
    }

    #[test]
    fn a_file_is_reached_by_names_like_its_own() {
        for (path, leads) in [
            ("/p/a.txt", true),
            ("/p/a.txt.tmp.12.7", true),
            ("/p/.a.txt.swp", true),
            ("/p", true),
            ("/p/b.txt", false),
            ("/q/a.txt", false),
            ("/p/a.txt/x", false),
        ] {
            assert_eq!(leads_to(path.as_bytes(), b"/p/a.txt"), leads, "{path}");
        }
        assert!(within(b"/p/x", b"/p/") && !within(b"/px", b"/p"));
    }

    #[test]
    fn urls_name_hosts() {
        for (url, expected) in [
            ("https://u:p@Example.org:8443/x", Some(Target::Name("example.org".to_owned()))),
            ("http://10.0.0.1", Some(Target::Address("10.0.0.1".parse().unwrap()))),
            ("http://[::1]:80/", Some(Target::Address("::1".parse().unwrap()))),
            ("http://", None),
        ] {
            assert_eq!(Target::parse(url), expected, "{url}");
        }
    }
}
