//! Facts about this machine and user that a session starts with.

use std::{env, ffi::OsString, fs, os::unix::ffi::OsStringExt};

use nix::sys::utsname::uname;

use crate::model::Text;

/// Inode of the initial pid namespace, `PROC_PID_INIT_INO` of include/linux/proc_ns.h.
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

pub(super) struct Host {
    pub(super) name: String,
    pub(super) kernel: String,
}

pub(super) fn host() -> Host {
    let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
    uname().map_or_else(
        |_| Host { name: String::new(), kernel: String::new() },
        |names| Host { name: text(names.nodename()), kernel: text(names.release()) },
    )
}

/// Working directory: what the session calls its project.
pub(super) fn project() -> Text {
    Text(env::current_dir().map(|path| path.into_os_string().into_vec()).unwrap_or_default())
}

pub(super) fn text(value: OsString) -> Text {
    Text(value.into_vec())
}

/// Whether pids here are those of the kernel's events.
pub(super) fn in_initial_pid_namespace() -> bool {
    // Without /proc nothing else works either; its absence is reported by what needs it.
    fs::read_link("/proc/self/ns/pid").map_or(true, |link| link.as_os_str() == INITIAL_PID_NAMESPACE)
}
