//! Reads what `strace -f -y -xx -o FILE` writes. With `-xx` every string is hexadecimal, so no quoting has to be undone.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};

use super::Seen;

/// Successful calls, and what is needed to explain differences.
#[derive(Debug, Default)]
pub(crate) struct Traced {
    pub(crate) seen: BTreeSet<Seen>,
    /// Opens with `O_PATH`, which are references and no opens.
    pub(crate) references: BTreeSet<Seen>,
    /// Every process or thread that made a call.
    pub(crate) tids: BTreeSet<u32>,
}

/// Decodes `\x41\x42`.
fn unhex(text: &str) -> Option<Vec<u8>> {
    text.split("\\x").skip(1).map(|digits| u8::from_str_radix(digits.get(..2)?, 16).ok()).collect()
}

/// The content of the string that begins at the first quote of `text`.
fn string(text: &str) -> Option<Vec<u8>> {
    let begin = text.find('"')? + 1;
    let end = begin + text[begin..].find('"')?;
    unhex(&text[begin..end])
}

/// The path in `3<path>` or `3<path>(deleted)`, as `-y` adds it to a descriptor.
fn descriptor_path(result: &str) -> Option<Vec<u8>> {
    let (_, rest) = result.split_once('<')?;
    let (text, after) = rest.rsplit_once('>')?;
    let mut path = if text.starts_with("\\x") { unhex(text)? } else { text.as_bytes().to_vec() };
    if after.contains("(deleted)") {
        path.extend_from_slice(b" (deleted)");
    }
    Some(path)
}

pub(crate) fn parse(log: &[u8]) -> Result<Traced> {
    let mut traced = Traced::default();
    let mut unfinished: BTreeMap<u32, String> = BTreeMap::new();
    for line in String::from_utf8_lossy(log).lines() {
        let (pid, rest) = line.split_once(' ').with_context(|| format!("no pid in: {line}"))?;
        let pid: u32 = pid.parse().with_context(|| format!("no pid in: {line}"))?;
        let rest = rest.trim_start();
        traced.tids.insert(pid);
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        if let Some(begin) = rest.strip_suffix("<unfinished ...>") {
            unfinished.insert(pid, begin.to_owned());
            continue;
        }
        let call = if let Some(resumed) = rest.strip_prefix("<... ") {
            let (_, end) =
                resumed.split_once(" resumed>").with_context(|| format!("not understood: {line}"))?;
            // After an exec from a thread the call is resumed under the id of the leader.
            let Some(begin) = unfinished.remove(&pid) else { continue };
            format!("{begin}{end}")
        } else {
            rest.to_owned()
        };
        take(&mut traced, pid, &call).with_context(|| format!("not understood: {line}"))?;
    }
    Ok(traced)
}

fn take(traced: &mut Traced, pid: u32, call: &str) -> Result<()> {
    let (name, rest) = call.split_once('(').context("no call")?;
    let (arguments, result) = rest
        .rsplit_once(") = ")
        .or_else(|| rest.rsplit_once(")= "))
        .or_else(|| {
            // Results are aligned: any number of spaces may stand before `=`.
            let at = rest.rfind(" = ")?;
            Some((rest[..at].trim_end().trim_end_matches(')'), &rest[at + 3..]))
        })
        .context("no result")?;
    let result = result.trim();
    let failed = result.starts_with('-') || result.starts_with('?');
    match name {
        "execve" | "execveat" if !failed => {
            let filename = string(arguments).context("no file name")?;
            traced.seen.insert(Seen::Exec { pid, filename });
        }
        "open" | "openat" | "openat2" | "creat" | "open_by_handle_at" if !failed => {
            let path = descriptor_path(result).context("no path behind the descriptor")?;
            let seen = Seen::Open { pid, path };
            if arguments.contains("O_PATH") {
                traced.references.insert(seen);
            } else {
                traced.seen.insert(seen);
            }
        }
        // A connect is an attempt: it counts whether it succeeds or not.
        "connect" => {
            if let Some(to) = endpoint(arguments) {
                traced.seen.insert(Seen::Connect { pid, to });
            }
        }
        "execve" | "execveat" | "open" | "openat" | "openat2" | "creat" | "open_by_handle_at" => {}
        other => bail!("a call that was not asked for: {other}"),
    }
    Ok(())
}

/// `127.0.0.1:53` of `{sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("127.0.0.1")}`.
fn endpoint(arguments: &str) -> Option<String> {
    let after = |key: &str| arguments.split_once(key).map(|(_, rest)| rest);
    let port = after("port=htons(")?.split_once(')')?.0;
    let text = after("inet_addr(").or_else(|| after("inet_pton(AF_INET6, "))?;
    let text = text.strip_prefix('"')?.split_once('"')?.0;
    let address =
        if text.starts_with("\\x") { String::from_utf8(unhex(text)?).ok()? } else { text.to_owned() };
    Some(format!("{address} {port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(pid: u32, path: &str) -> Seen {
        Seen::Open { pid, path: path.into() }
    }

    #[test]
    fn calls_are_read_back_whole_or_in_two_halves() {
        let log = concat!(
            r#"7  execve("\x2f\x61", ["\x73\x68"], 0x7ffe /* 35 vars */) = 0"#,
            "\n",
            r#"7  openat(AT_FDCWD<\x2f\x74>, "\x62", O_RDONLY|O_CLOEXEC) = 3<\x2f\x74\x2f\x62>"#,
            "\n",
            r#"7  openat(AT_FDCWD<\x2f\x74>, "\x63", O_RDONLY) = -1 ENOENT (No such file or directory)"#,
            "\n",
            r#"7  openat(AT_FDCWD<\x2f\x74>, "\x64", O_RDONLY <unfinished ...>"#,
            "\n",
            r#"8  connect(3<\x73>, {sa_family=AF_INET, sin_port=htons(9), sin_addr=inet_addr("\x31\x2e\x32")}, 16) = -1 EINPROGRESS (x)"#,
            "\n",
            r#"7  <... openat resumed>)             = 4<\x2f\x65>(deleted)"#,
            "\n",
            r#"7  open("\x66", O_PATH)       = 5<\x2f\x66>"#,
            "\n",
            "8  +++ exited with 0 +++\n",
        );
        let traced = parse(log.as_bytes()).unwrap();
        let expected = [
            Seen::Exec { pid: 7, filename: b"/a".to_vec() },
            open(7, "/t/b"),
            open(7, "/e (deleted)"),
            Seen::Connect { pid: 8, to: "1.2 9".into() },
        ];
        assert_eq!(traced.seen, expected.into_iter().collect());
        assert_eq!(traced.references, [open(7, "/f")].into_iter().collect());
        assert_eq!(traced.tids, [7, 8].into_iter().collect());
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for bad in ["x y", "7 no call", "7 read(3) = 1", "7 openat(AT_FDCWD, \"\") = 3"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
