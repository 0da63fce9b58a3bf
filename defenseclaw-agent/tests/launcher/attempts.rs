//! A program that tries what it is told, one thing per argument, and says of each how it went: `ok` or the errno.

use std::{
    ffi::OsString,
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{linux::net::SocketAddrExt, unix::net::UnixStream},
    process::{Command, ExitCode, Stdio},
};

use nix::{errno::Errno, sys::signal::kill, unistd::Pid};

/// `verb:object`, separate arguments. A `sub` before all others does the rest in a grandchild.
pub(crate) fn run(args: &[OsString]) -> ExitCode {
    if args.first().is_some_and(|first| first == "sub") {
        let mut shell = Command::new("sh");
        shell.args(["-c", "\"$0\" \"$@\" & wait $!"]).arg(std::env::current_exe().unwrap()).arg("try");
        let status = shell.args(&args[1..]).status().unwrap();
        return ExitCode::from(u8::try_from(status.code().unwrap()).unwrap());
    }
    for arg in args {
        let text = arg.to_str().unwrap();
        let (verb, object) = text.split_once(':').unwrap_or((text, ""));
        match attempt(verb, object) {
            Ok(()) => println!("{text} ok"),
            Err(err) => {
                println!(
                    "{text} {:?}",
                    Errno::from_raw(err.raw_os_error().unwrap_or_else(|| panic!("{text}: {err}")))
                );
            }
        }
    }
    ExitCode::from(7)
}

fn attempt(verb: &str, object: &str) -> io::Result<()> {
    let address = || SocketAddr::from((Ipv4Addr::LOCALHOST, object.parse().unwrap()));
    let two = || object.split_once(',').unwrap();
    match verb {
        "read" => fs::File::open(object).map(drop),
        "list" => fs::read_dir(object).map(drop),
        "write" => fs::OpenOptions::new().append(true).open(object).map(drop),
        "truncate" => fs::OpenOptions::new().write(true).truncate(true).open(object).map(drop),
        "create" => fs::OpenOptions::new().write(true).create_new(true).open(object).map(drop),
        "make" => fs::create_dir(object),
        "remove" => fs::remove_file(object),
        "rename" => fs::rename(two().0, two().1),
        "link" => fs::hard_link(two().0, two().1),
        "execute" => Command::new(object).stdout(Stdio::null()).status().map(drop),
        "connect" => TcpStream::connect(address()).map(drop),
        "bind" => TcpListener::bind(address()).map(drop),
        "udp" => UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|socket| socket.send_to(b"x", address()))
            .map(drop),
        "abstract" => {
            let name = std::os::unix::net::SocketAddr::from_abstract_name(object)?;
            UnixStream::connect_addr(&name).map(drop)
        }
        "signal" => Ok(kill(Pid::from_raw(object.parse().unwrap()), None)?),
        "own-signal" => Ok(kill(Pid::this(), None)?),
        "no-new-privs" => {
            if nix::sys::prctl::get_no_new_privs()? {
                Ok(())
            } else {
                Err(Errno::EPERM.into())
            }
        }
        other => panic!("no attempt {other}"),
    }
}
