//! Cases about files and programs.

use std::{fs, io, os::unix::ffi::OsStrExt, path::Path};

use anyhow::Result;
use defenseclaw::model::EventKind;

use super::place::{Case, Object, Place, Rule, a_file, make, nothing, open};
use crate::{
    policy::kernel::PROGRAM,
    sys::{c, sys},
};

const fn paths(effect: &'static str, patterns: &'static [&'static str]) -> Rule {
    Rule::Paths { effect, patterns }
}

const FILE: &[&str] = &["file"];
const BELOW: &[&str] = &["**"];

fn the_file(place: &Place) -> Object {
    Object::Path(place.file())
}

fn new(place: &Place) -> Object {
    Object::Path(place.path("new"))
}

pub(super) const CASES: &[Case] = &[
    Case::new(
        "read",
        paths("file.read", FILE),
        a_file,
        |place| open(&place.file(), libc::O_RDONLY),
        EventKind::FileOpen,
        the_file,
    ),
    Case::new(
        "read by a symbolic link",
        paths("file.read", FILE),
        |place| {
            a_file(place)?;
            Ok(std::os::unix::fs::symlink(place.file(), place.beside("link"))?)
        },
        |place| open(&place.beside("link"), libc::O_RDONLY),
        EventKind::FileOpen,
        the_file,
    ),
    Case::new(
        "read by a hard link",
        paths("file.read", FILE),
        |place| {
            a_file(place)?;
            Ok(fs::hard_link(place.file(), place.beside("link"))?)
        },
        |place| open(&place.beside("link"), libc::O_RDONLY),
        EventKind::FileOpen,
        |place| Object::Path(place.beside("link")),
    ),
    Case::new(
        "open for both, of which one is allowed",
        paths("file.read", FILE),
        a_file,
        |place| open(&place.file(), libc::O_RDWR),
        EventKind::FileOpen,
        the_file,
    ),
    Case::new(
        "write",
        paths("file.write", FILE),
        a_file,
        |place| open(&place.file(), libc::O_WRONLY),
        EventKind::FileOpen,
        the_file,
    ),
    Case::new(
        "truncate by open",
        paths("file.write", FILE),
        a_file,
        |place| open(&place.file(), libc::O_RDONLY | libc::O_TRUNC),
        EventKind::FileOpen,
        the_file,
    ),
    Case::new(
        "truncate",
        paths("file.write", FILE),
        a_file,
        |place| {
            let path = c(place.file().as_os_str().as_bytes());
            sys!(libc::SYS_truncate, path.as_ptr(), 0)
        },
        EventKind::FileTruncate,
        the_file,
    ),
    Case::new(
        "create",
        paths("file.create", BELOW),
        nothing,
        |place| open(&place.path("new"), libc::O_WRONLY | libc::O_CREAT),
        EventKind::FileCreate,
        new,
    ),
    Case::new(
        "create of a name",
        paths("file.create", &["new"]),
        nothing,
        |place| open(&place.path("new"), libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL),
        EventKind::FileCreate,
        new,
    ),
    Case::new(
        "create by a symbolic link",
        paths("file.create", &["new"]),
        |place| Ok(std::os::unix::fs::symlink(place.path("new"), place.beside("link"))?),
        |place| open(&place.beside("link"), libc::O_WRONLY | libc::O_CREAT),
        EventKind::FileCreate,
        new,
    ),
    Case::new(
        "create without a name",
        paths("file.create", BELOW),
        nothing,
        |place| open(&place.dir(), libc::O_WRONLY | libc::O_TMPFILE),
        EventKind::FileCreate,
        |place| Object::Below(place.dir()),
    ),
    Case::new(
        "directory",
        paths("file.create", BELOW),
        nothing,
        |place| {
            let path = c(place.path("new").as_os_str().as_bytes());
            sys!(libc::SYS_mkdirat, libc::AT_FDCWD, path.as_ptr(), 0o755)
        },
        EventKind::DirMake,
        new,
    ),
    Case::new(
        "symbolic link",
        paths("file.create", BELOW),
        nothing,
        |place| {
            let path = c(place.path("new").as_os_str().as_bytes());
            sys!(libc::SYS_symlinkat, c"target".as_ptr(), libc::AT_FDCWD, path.as_ptr())
        },
        EventKind::FileSymlink,
        new,
    ),
    Case::new(
        "fifo",
        paths("file.create", BELOW),
        nothing,
        |place| {
            let path = c(place.path("new").as_os_str().as_bytes());
            sys!(libc::SYS_mknodat, libc::AT_FDCWD, path.as_ptr(), libc::S_IFIFO | 0o600, 0)
        },
        EventKind::FileCreate,
        new,
    ),
    Case::new(
        "delete",
        paths("file.delete", FILE),
        a_file,
        |place| {
            let path = c(place.file().as_os_str().as_bytes());
            sys!(libc::SYS_unlinkat, libc::AT_FDCWD, path.as_ptr(), 0)
        },
        EventKind::FileUnlink,
        the_file,
    ),
    Case::new(
        "delete of a directory",
        paths("file.delete", &["dir"]),
        |place| Ok(fs::create_dir(place.path("dir"))?),
        |place| {
            let path = c(place.path("dir").as_os_str().as_bytes());
            sys!(libc::SYS_unlinkat, libc::AT_FDCWD, path.as_ptr(), libc::AT_REMOVEDIR)
        },
        EventKind::DirRemove,
        |place| Object::Path(place.path("dir")),
    ),
    Case::new(
        "rename away",
        paths("file.delete", FILE),
        a_file,
        |place| rename(&place.file(), &place.beside("new"), 0),
        EventKind::FileRename,
        the_file,
    ),
    Case::new(
        "rename of a directory above",
        paths("file.delete", &["above/below/file"]),
        |place| {
            fs::create_dir_all(place.path("above/below"))?;
            make(&place.path("above/below/file"), b"content\n")
        },
        |place| rename(&place.path("above"), &place.path("elsewhere"), 0),
        EventKind::FileRename,
        |place| Object::Path(place.path("above")),
    ),
    Case::new(
        "rename into place",
        paths("file.create", &["new"]),
        |place| make(&place.beside("file"), b"content\n"),
        |place| rename(&place.beside("file"), &place.path("new"), 0),
        EventKind::FileRename,
        |place| Object::To(place.path("new")),
    ),
    Case::new(
        "rename over",
        paths("file.write", FILE),
        |place| {
            a_file(place)?;
            make(&place.beside("file"), b"content\n")
        },
        |place| rename(&place.beside("file"), &place.file(), 0),
        EventKind::FileRename,
        |place| Object::To(place.file()),
    ),
    Case::new(
        "exchange",
        paths("file.delete", FILE),
        |place| {
            a_file(place)?;
            make(&place.beside("file"), b"content\n")
        },
        |place| rename(&place.beside("file"), &place.file(), libc::RENAME_EXCHANGE),
        EventKind::FileRename,
        |place| Object::To(place.file()),
    ),
    Case::new(
        "exchange of a directory above",
        paths("file.delete", &["above/file"]),
        |place| {
            fs::create_dir(place.path("above"))?;
            fs::create_dir(place.beside("dir"))?;
            make(&place.path("above/file"), b"content\n")
        },
        |place| rename(&place.beside("dir"), &place.path("above"), libc::RENAME_EXCHANGE),
        EventKind::FileRename,
        |place| Object::To(place.path("above")),
    ),
    Case::new(
        "link",
        paths("file.link", FILE),
        a_file,
        |place| link(&place.file(), &place.beside("new")),
        EventKind::FileLink,
        the_file,
    ),
    Case::new(
        "link of what must not be read",
        paths("file.read", FILE),
        a_file,
        |place| link(&place.file(), &place.beside("new")),
        EventKind::FileLink,
        the_file,
    ),
    Case::new(
        "link of another name of it",
        paths("file.link", FILE),
        |place| {
            a_file(place)?;
            Ok(fs::hard_link(place.file(), place.beside("file"))?)
        },
        |place| link(&place.beside("file"), &place.beside("new")),
        EventKind::FileLink,
        |place| Object::Path(place.beside("file")),
    ),
    Case::new(
        "link into place",
        paths("file.create", &["new"]),
        |place| make(&place.beside("file"), b"content\n"),
        |place| link(&place.beside("file"), &place.path("new")),
        EventKind::FileLink,
        |place| Object::To(place.path("new")),
    ),
    Case::new(
        "mode",
        paths("file.attr", FILE),
        a_file,
        |place| {
            let path = c(place.file().as_os_str().as_bytes());
            sys!(libc::SYS_fchmodat, libc::AT_FDCWD, path.as_ptr(), 0o700)
        },
        EventKind::FileChmod,
        the_file,
    ),
    Case::new(
        "mode by descriptor",
        paths("file.attr", FILE),
        a_file,
        |place| {
            let fd = open(&place.file(), libc::O_RDONLY)?;
            sys!(libc::SYS_fchmod, fd, 0o700)
        },
        EventKind::FileChmod,
        the_file,
    ),
    Case::new(
        "owner",
        paths("file.attr", FILE),
        a_file,
        |place| {
            let path = c(place.file().as_os_str().as_bytes());
            sys!(libc::SYS_fchownat, libc::AT_FDCWD, path.as_ptr(), 7, 7, 0)
        },
        EventKind::FileChown,
        the_file,
    ),
    Case::new(
        "exec",
        paths("exec", FILE),
        |place| make(&place.file(), PROGRAM),
        |place| exec(&place.file(), &[]),
        EventKind::FileOpen,
        the_file,
    ),
    Case::new(
        "exec by descriptor",
        paths("exec", FILE),
        |place| make(&place.file(), PROGRAM),
        |place| {
            let fd = open(&place.file(), libc::O_RDONLY)?;
            let nothing = [std::ptr::null::<libc::c_char>()];
            let argv = [c"program".as_ptr(), std::ptr::null()];
            let flags = libc::AT_EMPTY_PATH;
            sys!(libc::SYS_execveat, fd, c"".as_ptr(), argv.as_ptr(), nothing.as_ptr(), flags)
        },
        EventKind::FileOpen,
        the_file,
    ),
    Case::new(
        "exec of a script",
        paths("exec", FILE),
        script,
        |place| exec(&place.file(), &[]),
        EventKind::FileOpen,
        the_file,
    ),
    Case::new(
        "interpreter of a script",
        paths("exec", &["interpreter"]),
        script,
        |place| exec(&place.file(), &[]),
        EventKind::FileOpen,
        |place| Object::Path(place.path("interpreter")),
    ),
    Case::new(
        "code that is mapped",
        paths("exec", FILE),
        a_file,
        |place| {
            let fd = open(&place.file(), libc::O_RDONLY)?;
            let protection = libc::PROT_READ | libc::PROT_EXEC;
            sys!(libc::SYS_mmap, 0, 4096, protection, libc::MAP_PRIVATE, fd, 0)
        },
        EventKind::FileOpen,
        the_file,
    ),
    // The program of a script is its interpreter: a rule that spares the script's own path spares nobody.
    Case::new(
        "owner that is a script",
        Rule::Shared("proof.script"),
        a_file,
        |place| read_by_script(place, "script"),
        EventKind::FileOpen,
        the_file,
    ),
    Case::new(
        "owner that is an interpreter",
        Rule::Shared("proof.interpreter"),
        a_file,
        |place| match place.side {
            super::Side::Protected => open(&place.file(), libc::O_RDONLY),
            super::Side::Allowed => read_by_script(place, "spared-script"),
        },
        EventKind::FileOpen,
        the_file,
    ),
];

fn script(place: &Place) -> Result<()> {
    make(&place.path("interpreter"), PROGRAM)?;
    make(&place.file(), format!("#!{}\n", place.path("interpreter").display()).as_bytes())
}

fn rename(from: &Path, to: &Path, flags: u32) -> io::Result<i64> {
    let (from, to) = (c(from.as_os_str().as_bytes()), c(to.as_os_str().as_bytes()));
    let here = libc::AT_FDCWD;
    sys!(libc::SYS_renameat2, here, from.as_ptr(), here, to.as_ptr(), flags)
}

fn link(from: &Path, to: &Path) -> io::Result<i64> {
    let (from, to) = (c(from.as_os_str().as_bytes()), c(to.as_os_str().as_bytes()));
    sys!(libc::SYS_linkat, libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), 0)
}

/// Becomes another program; comes back only if that is refused.
pub(in crate::policy) fn exec(program: &Path, arguments: &[&str]) -> io::Result<i64> {
    let path = c(program.as_os_str().as_bytes());
    let words: Vec<_> = arguments.iter().map(c).collect();
    let argv: Vec<_> =
        [path.as_ptr()].into_iter().chain(words.iter().map(|word| word.as_ptr())).collect::<Vec<_>>();
    let argv: Vec<_> = argv.into_iter().chain([std::ptr::null()]).collect();
    let nothing = [std::ptr::null::<libc::c_char>()];
    sys!(libc::SYS_execve, path.as_ptr(), argv.as_ptr(), nothing.as_ptr())
}

/// Has a script read the file: its interpreter does, under the name of the script.
fn read_by_script(place: &Place, script: &str) -> io::Result<i64> {
    exec(&place.run.join("bin").join(script), &[&place.file().to_string_lossy()])
}
