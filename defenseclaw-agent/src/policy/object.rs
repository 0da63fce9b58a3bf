//! What is judged: who does what to which object. Also as text, as people write it.

use std::net::{IpAddr, Ipv4Addr};

use super::rule::Subject;
use crate::model::{Content, Effect, Privilege};

/// Who acts: paths of programs, as the kernel names them. Unknown ones are spared by no rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Actor<'a> {
    /// What the process runs.
    pub executable: Option<&'a [u8]>,
    /// What its parent runs.
    pub parent: Option<&'a [u8]>,
}

/// What it does, to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object<'a> {
    /// `file.*`, `exec`, or `unix` on a socket with a path. Of an open for reading and writing, ask twice and take the
    /// stricter; a rename is a delete and a create.
    Path(Effect, &'a [u8]),
    /// One of those, on something that has no path that could be judged.
    Unresolved(Effect),
    /// `unix` on an abstract socket, without the leading NUL.
    Abstract(&'a [u8]),
    /// `net.connect` or `net.bind`.
    Address {
        /// Which of them.
        effect: Effect,
        /// IPv4-mapped ones are IPv4.
        address: IpAddr,
        /// Its port.
        port: u16,
        /// The name that was resolved to it, if one was.
        name: Option<&'a str>,
    },
    /// `dns`.
    Name(&'a str),
    /// `priv.*`.
    Privilege(Privilege),
    /// A text of a conversation.
    Content(Content, &'a str),
}

/// An address that no rule has, for names whose address is not known: TEST-NET-1.
const SOMEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

impl<'a> Object<'a> {
    /// Reads `file.read /etc/passwd`, `net.connect 192.0.2.1:443`, `net.connect example.com:443`,
    /// `net.connect example.com=192.0.2.1:443`, `dns example.com`, `unix @name`, `priv.mount`. `?` is an unresolved path.
    pub fn parse(subject: Subject, text: &'a str) -> Result<Self, String> {
        let effect = match subject {
            Subject::Privilege(privilege) => return Ok(Self::Privilege(privilege)),
            Subject::Content(content) => return Ok(Self::Content(content, text)),
            Subject::Effect(effect) => effect,
        };
        match effect {
            Effect::Unix if text.starts_with('@') => {
                Ok(Self::Abstract(text.trim_start_matches('@').as_bytes()))
            }
            Effect::FileRead
            | Effect::FileWrite
            | Effect::FileCreate
            | Effect::FileDelete
            | Effect::FileLink
            | Effect::FileAttr
            | Effect::Exec
            | Effect::Unix => {
                if text == "?" {
                    return Ok(Self::Unresolved(effect));
                }
                if !text.starts_with('/') {
                    return Err(format!("{effect} is about absolute paths, not {text:?}"));
                }
                Ok(Self::Path(effect, text.as_bytes()))
            }
            Effect::Dns => {
                super::network::labels(text).ok_or_else(|| format!("{text:?} is no host name"))?;
                Ok(Self::Name(text))
            }
            Effect::NetConnect | Effect::NetBind => address(effect, text),
        }
    }

    /// What it is about.
    pub fn subject(&self) -> Subject {
        match self {
            Self::Path(effect, _) | Self::Unresolved(effect) | Self::Address { effect, .. } => {
                Subject::Effect(*effect)
            }
            Self::Abstract(_) => Subject::Effect(Effect::Unix),
            Self::Name(_) => Subject::Effect(Effect::Dns),
            Self::Privilege(privilege) => Subject::Privilege(*privilege),
            Self::Content(content, _) => Subject::Content(*content),
        }
    }
}

fn address(effect: Effect, text: &str) -> Result<Object<'_>, String> {
    let wrong = || format!("{text:?} is no ADDRESS:PORT, NAME:PORT or NAME=ADDRESS:PORT");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let Ok(port) = port.parse() else { return Err(wrong()) };
    let (name, place) = host.split_once('=').map_or((None, host), |(name, place)| (Some(name), place));
    let bare = place.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(place);
    let (name, address) = match bare.parse::<IpAddr>() {
        Ok(address) if address.is_ipv4() || bare != place => (name, address),
        Ok(_) => return Err(format!("put brackets around the address in {text:?}")),
        Err(_) if name.is_none() => (Some(host), SOMEWHERE),
        Err(_) => return Err(wrong()),
    };
    if name.is_some_and(|name| super::network::labels(name).is_none()) {
        return Err(wrong());
    }
    Ok(Object::Address { effect, address, port, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_read_as_people_write_them() {
        for (subject, text, want) in [
            ("file.read", "/a", Some(Object::Path(Effect::FileRead, b"/a"))),
            ("file.read", "a", None),
            ("exec", "?", Some(Object::Unresolved(Effect::Exec))),
            ("unix", "@x", Some(Object::Abstract(b"x"))),
            ("dns", "a.b", Some(Object::Name("a.b"))),
            ("dns", "a b", None),
            ("priv.mount", "", Some(Object::Privilege(Privilege::Mount))),
            ("net.connect", "a.b", None),
            ("net.connect", "::1:80", None),
            ("net.connect", "a b:80", None),
            ("net.connect", "a.b=c.d:80", None),
            ("net.connect", "1.2.3.4:x", None),
        ] {
            let found = Object::parse(Subject::from_name(subject).unwrap(), text).ok();
            assert_eq!(found, want, "{subject} {text}");
        }
        for (text, want_address, want_name) in [
            ("1.2.3.4:80", "1.2.3.4", None),
            ("[::1]:80", "::1", None),
            ("a.b:80", "192.0.2.1", Some("a.b")),
            ("a.b=[::2]:80", "::2", Some("a.b")),
        ] {
            let found = Object::parse(Subject::Effect(Effect::NetConnect), text).unwrap();
            let Object::Address { address, port, name, .. } = found else { panic!("{found:?}") };
            assert_eq!((address, port, name), (want_address.parse().unwrap(), 80, want_name), "{text}");
        }
    }
}
