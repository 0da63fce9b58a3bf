//! The guest's own files: a busybox user space, its accounts, and the scripts that prepare the machine and run the
//! command. `protocol` is the other end of what they say on the control port.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::{process, workspace};

use super::image::Image;

/// First program of the guest. It makes the root a mount of its own, as after a real boot: on the kernel's first file
/// system itself, `pivot_root` and whatever builds a sandbox with it would fail.
const INIT: &str = r"#!/.vm/busybox sh
/.vm/busybox mount --rbind / /.vm/root
cd /.vm/root
/.vm/busybox mount --move . /
exec /.vm/busybox chroot . /.vm/busybox sh /.vm/start
";

/// Ports: 0 console of the kernel, 1 standard output, 2 standard error, 3 control.
const START: &str = r#"
b=/.vm/busybox
cd /
# The kernel makes its first directory writable to everyone.
$b chmod 755 /
$b mount -t proc -o nosuid,nodev,noexec proc /proc
$b mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
$b mount -t devtmpfs -o nosuid devtmpfs /dev
$b mkdir -p /dev/pts /dev/shm
$b mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
$b mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /dev/shm
$b ln -sf /proc/self/fd /dev/fd
$b ln -sf /proc/self/fd/0 /dev/stdin
$b ln -sf /proc/self/fd/1 /dev/stdout
$b ln -sf /proc/self/fd/2 /dev/stderr
$b mount -t securityfs securityfs /sys/kernel/security
$b mount -t tracefs tracefs /sys/kernel/tracing
$b mount -t debugfs debugfs /sys/kernel/debug
$b mount -t bpf -o mode=700 bpf /sys/fs/bpf
$b mount -t cgroup2 cgroup2 /sys/fs/cgroup
$b mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs /run
# A file that was put to /tmp must not be hidden.
[ -n "$($b ls -A /tmp)" ] || $b mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /tmp
$b ip link set lo up
$b hostname defenseclaw-vm
for port in 1 2 3; do $b stty -F /dev/ttyS$port raw -echo 115200; done
exec 3>/dev/ttyS3
$b mkfifo /.vm/out /.vm/err
$b cat /.vm/out >/dev/ttyS1 3>&- & out=$!
$b cat /.vm/err >/dev/ttyS2 3>&- & err=$!
echo ready >&3
cd /root
$b setsid $b sh /.vm/command </dev/null >/.vm/out 2>/.vm/err 3>&- &
wait $!
status=$?
# Whatever the command left running would hold the output open for ever.
for entry in /proc/[0-9]*; do
    process=${entry#/proc/}
    case $process in 1 | $out | $err) ;; *) kill -9 $process 2>/dev/null ;; esac
done
wait $out $err
. /.vm/collect
echo "exit $status" >&3
$b sync
exec 3>&-
while :; do $b sleep 60; done
"#;

const BUSYBOX: &str = "/.vm/busybox";
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
const GROUP: &str = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n";
const HOSTS: &str = "127.0.0.1 localhost defenseclaw-vm\n::1 localhost\n";
const NSSWITCH: &str = "passwd: files\ngroup: files\nhosts: files dns\n";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Directories every image has; the mount points among them.
const DIRECTORIES: [(&str, u32); 14] = [
    ("/.vm/root", 0o755),
    ("/dev", 0o755),
    ("/etc", 0o755),
    ("/proc", 0o555),
    ("/root", 0o700),
    ("/run", 0o755),
    ("/sys", 0o555),
    ("/tmp", 0o1777),
    ("/usr/bin", 0o755),
    ("/usr/lib", 0o755),
    ("/usr/local/bin", 0o755),
    ("/usr/sbin", 0o755),
    ("/var/lib", 0o755),
    ("/var/tmp", 0o1777),
];

/// Adds the directories and the symlinks between them, as the host has them: paths of copied files depend on both.
pub(super) fn lay_out(image: &mut Image) -> Result<()> {
    for (path, permissions) in DIRECTORIES {
        image.directory(Path::new(path), permissions)?;
    }
    for name in ["/bin", "/sbin", "/lib", "/lib64"] {
        let path = Path::new(name);
        match path.read_link() {
            Ok(target) => {
                image.symlink(path, &target)?;
                image.directory(path, 0o755)?;
            }
            Err(_) => image.directory(path, 0o755)?,
        }
    }
    Ok(())
}

/// Adds the host's shell, and busybox at a place of its own, which nothing that is copied can take.
pub(super) fn add_programs(image: &mut Image) -> Result<()> {
    let shell = Path::new("/bin/sh");
    if !image.contains(shell) {
        image.copy(shell)?;
    }
    image.copy_to(&busybox()?, Path::new(BUSYBOX))
}

fn busybox() -> Result<PathBuf> {
    let found = workspace::find_program("busybox")
        .context("no busybox: run `cargo xtask setup --for vm`, which installs busybox-static")?;
    Ok(found.canonicalize()?)
}

/// Adds user space and scripts. Comes last: what was copied goes before busybox's programs of the same name.
pub(super) fn furnish(image: &mut Image, command: &[u8], collect: &[u8]) -> Result<()> {
    for applet in process::read(busybox()?, &["--list-full"])?.lines() {
        image.symlink(&Path::new("/").join(applet), Path::new(BUSYBOX))?;
    }
    for (path, content) in [
        ("/etc/passwd", PASSWD),
        ("/etc/group", GROUP),
        ("/etc/hosts", HOSTS),
        ("/etc/nsswitch.conf", NSSWITCH),
    ] {
        if !image.contains(Path::new(path)) {
            image.bytes(Path::new(path), 0o644, content.as_bytes())?;
        }
    }
    image.bytes(Path::new("/init"), 0o755, INIT.as_bytes())?;
    image.bytes(Path::new("/.vm/start"), 0o644, START.as_bytes())?;
    image.bytes(Path::new("/.vm/command"), 0o644, command)?;
    image.bytes(Path::new("/.vm/collect"), 0o644, collect)
}

/// The script that becomes the command. Every word is quoted, so no shell reads anything into it.
pub(super) fn command_script(command: &[OsString], environment: &[(OsString, OsString)]) -> Result<Vec<u8>> {
    if command.is_empty() {
        bail!("there is no command to run in the guest");
    }
    let mut script = b"exec /.vm/busybox env -i".to_vec();
    let defaults =
        [("PATH", PATH), ("HOME", "/root"), ("USER", "root"), ("SHELL", "/bin/sh"), ("LANG", "C.UTF-8")];
    let defaults = defaults.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    for (name, value) in defaults.iter().chain(environment) {
        let mut assignment = name.clone();
        assignment.push("=");
        assignment.push(value);
        quote(&mut script, &assignment);
    }
    // env would take a command with `=` in its name for one more assignment. The shell is the host's: busybox's own
    // runs its applets without looking at PATH, and some of them without executing anything.
    script.extend_from_slice(b" /bin/sh -c 'exec \"$@\"' sh");
    for word in command {
        quote(&mut script, word);
    }
    script.push(b'\n');
    Ok(script)
}

/// The script that says which wanted paths exist, and sends them as one compressed archive.
pub(super) fn collect_script(paths: &[PathBuf]) -> Vec<u8> {
    let mut script = b"set --\n".to_vec();
    for (index, path) in paths.iter().enumerate() {
        script.extend_from_slice(b"if [ -e");
        quote(&mut script, path.as_os_str());
        script.extend_from_slice(b" ]; then set -- \"$@\"");
        quote(&mut script, path.strip_prefix("/").unwrap_or(path).as_os_str());
        script.extend_from_slice(format!("; else echo 'missing {index}' >&3; fi\n").as_bytes());
    }
    script.extend_from_slice(
        b"if [ $# -gt 0 ]; then\n\
          $b tar -czf /.vm/files -C / \"$@\"\n\
          echo \"files $($b stat -c %s /.vm/files)\" >&3\n\
          $b cat /.vm/files >&3\n\
          fi\n",
    );
    script
}

/// Appends a space and the word in single quotes.
fn quote(script: &mut Vec<u8>, word: &OsStr) {
    script.extend_from_slice(b" '");
    for &byte in word.as_bytes() {
        if byte == b'\'' {
            script.extend_from_slice(br"'\''");
        } else {
            script.push(byte);
        }
    }
    script.push(b'\'');
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn every_word_survives_the_shell() {
        let words = ["a b", "it's", "$(id)", "`x`", "\\", "", "new\nline", "A=B", "-n", "\u{1b}[0m"]
            .map(OsString::from);
        let mut script = b"printf '%s\\0'".to_vec();
        for word in &words {
            quote(&mut script, word);
        }
        let output = Command::new("sh").arg("-c").arg(OsStr::from_bytes(&script)).output().unwrap();
        let mut expected = Vec::new();
        for word in &words {
            expected.extend_from_slice(word.as_bytes());
            expected.push(0);
        }
        assert_eq!(output.stdout, expected);
    }

    #[test]
    fn an_empty_command_is_an_error() {
        assert!(command_script(&[], &[]).is_err());
    }
}
