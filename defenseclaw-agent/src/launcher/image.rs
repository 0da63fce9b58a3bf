//! Everything execve needs, made before the fork: after it nothing may allocate.

use std::{
    ffi::{CString, OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    ptr,
};

use libc::c_char;

use super::{LaunchError, LaunchOptions};

/// Where the C library looks when there is no `PATH`.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// A command in the kernel's terms.
pub(super) struct Image {
    /// Files to try, in order: one for a name with a slash, otherwise one for each component of `PATH`.
    pub(super) candidates: Vec<CString>,
    /// Null-terminated; points into `_argv`.
    pub(super) argv: Vec<*const c_char>,
    /// Null-terminated; points into `_envp`.
    pub(super) envp: Vec<*const c_char>,
    _argv: Vec<CString>,
    _envp: Vec<CString>,
}

impl Image {
    /// The command of `options` in the environment `environment`, adapted to the chosen user.
    pub(super) fn new(
        options: &LaunchOptions,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, LaunchError> {
        let program = options.command.first().ok_or(LaunchError::EmptyCommand)?;
        let mut environment: Vec<_> = environment.collect();
        if let Some(user) = &options.user {
            user.adapt(&mut environment);
        }
        let path = environment.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_bytes());
        let candidates = candidates(program, path.unwrap_or(DEFAULT_PATH))?;
        let strings = |values: Vec<Vec<u8>>, what| -> Result<Vec<CString>, LaunchError> {
            values.into_iter().map(|value| c_string(value, what)).collect()
        };
        let argv = options.command.iter().map(|value| value.as_bytes().to_vec()).collect();
        let argv = strings(argv, "an argument")?;
        let envp = environment.into_iter().map(|(name, value)| assignment(name, &value)).collect();
        let envp = strings(envp, "an environment variable")?;
        Ok(Self { candidates, argv: pointers(&argv), envp: pointers(&envp), _argv: argv, _envp: envp })
    }
}

fn assignment(name: OsString, value: &OsStr) -> Vec<u8> {
    let mut text = name.into_vec();
    text.push(b'=');
    text.extend_from_slice(value.as_bytes());
    text
}

fn c_string(bytes: Vec<u8>, what: &'static str) -> Result<CString, LaunchError> {
    CString::new(bytes).ok().ok_or(LaunchError::NulByte { what })
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// An empty component of `PATH` is the current directory.
fn candidates(program: &OsStr, path: &[u8]) -> Result<Vec<CString>, LaunchError> {
    let program = program.as_bytes();
    if program.is_empty() || program.contains(&b'/') {
        return Ok(vec![c_string(program.to_vec(), "the command")?]);
    }
    path.split(|byte| *byte == b':')
        .map(|directory| {
            let directory = if directory.is_empty() { b".".as_slice() } else { directory };
            c_string([directory, b"/", program].concat(), "the command")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(program: &str, path: &str) -> Vec<String> {
        let found = candidates(OsStr::new(program), path.as_bytes()).unwrap();
        found.into_iter().map(|file| file.into_string().unwrap()).collect()
    }

    #[test]
    fn path_is_searched_as_a_shell_does() {
        assert_eq!(tried("x", "/a:/b"), ["/a/x", "/b/x"]);
        assert_eq!(tried("x", ":/a::b:"), ["./x", "/a/x", "./x", "b/x", "./x"]);
        assert_eq!(tried("x", ""), ["./x"]);
        assert_eq!(tried("d/x", "/a"), ["d/x"]);
        assert_eq!(tried("", "/a"), [""]);
    }
}
