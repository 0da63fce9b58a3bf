//! What this program does when a test starts it: the child that is watched, its own child, and a user without rights.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::{
        fd::{AsRawFd, FromRawFd as _, OwnedFd},
        unix::{
            fs::symlink,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    process::{Command, ExitCode},
};

use defenseclaw::sensor::{Sensor, SensorError, SensorOptions};
use nix::{
    sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr},
    unistd::{self, Gid, Uid},
};

/// The role this process was started in, played; none if it is the test itself.
pub(crate) fn play() -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let texts: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match texts[..] {
        ["--leaf", "", code] => Some(ExitCode::from(code.parse::<u8>().unwrap())),
        ["--nobody"] => Some(nobody()),
        ["--child", scenario, directory] => {
            let _ = io::stdin().read(&mut [0]).unwrap();
            std::env::set_current_dir(directory).unwrap();
            match scenario {
                "files" => files(),
                "names" => names(),
                "detached" => detached(Path::new(directory)),
                "sockets" => sockets(),
                "signals" => signals(),
                other => panic!("no scenario {other}"),
            }
            .unwrap();
            Some(ExitCode::SUCCESS)
        }
        _ => None,
    }
}

/// Gives up all rights, then tries to load.
fn nobody() -> ExitCode {
    unistd::setgroups(&[]).unwrap();
    unistd::setresgid(Gid::from_raw(65534), Gid::from_raw(65534), Gid::from_raw(65534)).unwrap();
    unistd::setresuid(Uid::from_raw(65534), Uid::from_raw(65534), Uid::from_raw(65534)).unwrap();
    match Sensor::load(&SensorOptions::default()) {
        Err(error @ SensorError::Privileges(_)) => {
            println!("{error}; {}", error.hint().unwrap());
            ExitCode::SUCCESS
        }
        other => {
            println!("{other:?}");
            ExitCode::FAILURE
        }
    }
}

fn files() -> io::Result<()> {
    fs::write("marker", b"x")?;
    fs::read("marker")?;
    let status = Command::new(std::env::current_exe()?).args(["--leaf", "", "7"]).status()?;
    assert_eq!(status.code(), Some(7));
    Ok(())
}

fn names() -> io::Result<()> {
    fs::create_dir("directory")?;
    symlink("nowhere", "link")?;
    fs::write("file", b"")?;
    fs::hard_link("file", "hard")?;
    fs::rename("file", "renamed")
}

/// Opens a file through a mount that was cloned and never attached.
fn detached(directory: &Path) -> io::Result<()> {
    fs::write("secret", b"x")?;
    let path = std::ffi::CString::new(directory.as_os_str().as_encoded_bytes())?;
    // SAFETY: `path` ends with a NUL; OPEN_TREE_CLONE is 1.
    let tree = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), 1) };
    if tree < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above made it, and nobody else owns it.
    let tree = unsafe { OwnedFd::from_raw_fd(i32::try_from(tree).unwrap()) };
    // SAFETY: the name ends with a NUL.
    let file = unsafe { libc::openat(tree.as_raw_fd(), c"secret".as_ptr(), libc::O_RDONLY) };
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    drop(unsafe { File::from_raw_fd(file) });
    Ok(())
}

fn sockets() -> io::Result<()> {
    let listener = UnixListener::bind("socket")?;
    UnixStream::connect("socket")?;
    drop(listener);
    // Its name remains, nobody listens: refused. The address ends without a NUL, as the kernel allows.
    let name = UnixAddr::new("socket").unwrap();
    let stream = socket::socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::empty(), None)?;
    let exact = u32::try_from(2 + "socket".len()).unwrap();
    // SAFETY: the address is at least that long.
    let refused = unsafe { libc::connect(stream.as_raw_fd(), name.as_ptr().cast(), exact) };
    assert_eq!(refused, -1);

    let netlink = socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::empty(), None)?;
    let kernel = socket::NetlinkAddr::new(0, 0);
    socket::connect(netlink.as_raw_fd(), &kernel)?;
    Ok(())
}

/// SIGURG, which is ignored, in every way: to itself as process and as thread, and once to its parent, the test.
fn signals() -> io::Result<()> {
    let (pid, parent) = (unistd::getpid().as_raw(), unistd::getppid().as_raw());
    let calls = [
        (libc::SYS_kill, [pid, libc::SIGURG, 0]),
        (libc::SYS_tkill, [pid, libc::SIGURG, 0]),
        (libc::SYS_tgkill, [pid, pid, libc::SIGURG]),
        (libc::SYS_kill, [parent, 0, 0]),
        (libc::SYS_kill, [parent, libc::SIGURG, 0]),
    ];
    for (call, [first, second, third]) in calls {
        // SAFETY: these calls take numbers only.
        if unsafe { libc::syscall(call, first, second, third) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let own = std::thread::spawn(|| {
        let thread = unistd::gettid().as_raw();
        // SAFETY: as above.
        unsafe { libc::syscall(libc::SYS_tkill, thread, libc::SIGURG) }
    });
    assert_eq!(own.join().unwrap(), 0);
    Ok(())
}
