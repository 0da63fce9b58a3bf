//! What the executables of an image need beside themselves: shared libraries, the loader, interpreters of scripts.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::image::Image;

/// Files given to one `ldd`.
const BATCH: usize = 200;

#[derive(Debug, PartialEq, Eq)]
enum Content {
    Elf,
    Script(PathBuf),
    Other,
}

/// Adds libraries and interpreters until nothing is missing.
pub(super) fn complete(image: &mut Image) -> Result<()> {
    let mut executables = Vec::new();
    for file in image.host_files() {
        match content(&file) {
            Content::Elf => executables.push(file),
            Content::Script(interpreter) if interpreter.is_file() && !image.contains(&interpreter) => {
                image.copy(&interpreter)?;
                executables.push(interpreter);
            }
            Content::Script(_) | Content::Other => {}
        }
    }
    for batch in executables.chunks(BATCH) {
        // Static files make ldd fail; what it printed about the others still counts.
        let output =
            Command::new("ldd").args(batch).stdin(Stdio::null()).output().context("cannot start ldd")?;
        let found = parse(&String::from_utf8_lossy(&output.stdout));
        for name in found.missing {
            eprintln!("warning: the host has no {name}, which a file for the guest needs");
        }
        for library in found.libraries {
            if !image.contains(&library) {
                image.copy(&library)?;
            }
            // Before glibc 2.34, names of users and hosts were read by plug-ins that no executable names.
            if library.file_name().is_some_and(|name| name == "libc.so.6") {
                for plugin in ["libnss_files.so.2", "libnss_dns.so.2"] {
                    let plugin = library.with_file_name(plugin);
                    if plugin.exists() && !image.contains(&plugin) {
                        image.copy(&plugin)?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn content(file: &Path) -> Content {
    let mut head = Vec::new();
    let read = File::open(file).and_then(|file| file.take(256).read_to_end(&mut head));
    if read.is_err() {
        return Content::Other;
    }
    classify(&head)
}

fn classify(head: &[u8]) -> Content {
    if head.starts_with(b"\x7fELF") {
        return Content::Elf;
    }
    let Some(line) = head.strip_prefix(b"#!") else { return Content::Other };
    let line =
        String::from_utf8_lossy(line.split(|&byte| byte == b'\n').next().unwrap_or_default()).into_owned();
    match line.split_whitespace().next() {
        Some(interpreter) => Content::Script(PathBuf::from(interpreter)),
        None => Content::Other,
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Needed {
    libraries: Vec<PathBuf>,
    missing: Vec<String>,
}

/// Reads `name => /path (address)`, `/path (address)` and `name => not found`.
fn parse(output: &str) -> Needed {
    let mut needed = Needed::default();
    for line in output.lines().filter(|line| line.starts_with('\t')) {
        let line = line.trim();
        let (name, path) = match line.split_once(" => ") {
            Some((name, path)) => (name, path),
            None => (line, line),
        };
        if path == "not found" {
            needed.missing.push(name.to_owned());
        } else if let Some(path) = path.split(" (").next().filter(|path| path.starts_with('/')) {
            let path = PathBuf::from(path);
            if !needed.libraries.contains(&path) {
                needed.libraries.push(path);
            }
        }
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_output_of_several_files() {
        let output = "/usr/bin/a:\n\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n/usr/bin/b:\n\tnot a dynamic executable\n\
                      /usr/bin/c:\n\tlibc.so.6 => /lib/x/libc.so.6 (0x1)\n\tlibodd.so => not found\n";
        let needed = parse(output);
        let expected = ["/lib/x/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(needed.libraries, expected);
        assert_eq!(needed.missing, ["libodd.so"]);
    }

    #[test]
    fn scripts_name_their_interpreter() {
        assert_eq!(classify(b"#!/bin/bash -e\necho"), Content::Script("/bin/bash".into()));
        assert_eq!(classify(b"#! /usr/bin/env python3\n"), Content::Script("/usr/bin/env".into()));
        assert_eq!(classify(b"#!\n"), Content::Other);
        assert_eq!(classify(b"\x7fELF\x02"), Content::Elf);
        assert_eq!(classify(b""), Content::Other);
    }
}
