//! Processes outside of the tree that act for whoever asks: reached by unix socket, they would read the secret for us. The
//! services of the arena listen on the sockets' usual names.

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::{
        fd::AsRawFd,
        linux::net::SocketAddrExt,
        unix::{
            fs::symlink,
            net::{SocketAddr, UnixDatagram, UnixStream},
        },
    },
    path::Path,
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};

use super::{
    Case, Proof, Target, case,
    descriptors::passed,
    steps::{bytes, mount, own_mounts},
};
use crate::{arena::Class::Files, sys};

/// Where brokers listen, below the directory of sockets.
pub(crate) const SOCKETS: &[&str] = &[
    "run/docker.sock",
    "run/containerd/containerd.sock",
    "run/podman/podman.sock",
    "run/crio/crio.sock",
    "run/dbus/system_bus_socket",
    "run/user/bus",
    "run/systemd/private",
    "run/user/systemd/private",
    "run/systemd/io.systemd.Machine",
    "tmp/tmux-1000/default",
    "run/screen/S-user/1.pts",
    "tmp/ssh-agent/agent.1",
    "home/.ssh/control",
    "run/user/gnupg/S.gpg-agent",
    "run/user/emacs/server",
    "run/user/vscode-ipc.sock",
    "run/user/wayland-0",
    "tmp/X11-unix/X0",
    "run/snapd.socket",
    "nix/daemon-socket/socket",
];

macro_rules! brokers {
    ($($id:literal => $socket:literal),* $(,)?) => {
        &[$(case($id, Files, Proof::Secret, |target| through(target, &target.sockets().join($socket))),)*]
    };
}

pub(super) const ON_SOCKETS: &[Case] = brokers! {
    "broker-docker" => "run/docker.sock",
    "broker-containerd" => "run/containerd/containerd.sock",
    "broker-podman" => "run/podman/podman.sock",
    "broker-crio" => "run/crio/crio.sock",
    "broker-dbus-system" => "run/dbus/system_bus_socket",
    "broker-dbus-session" => "run/user/bus",
    "broker-systemd" => "run/systemd/private",
    "broker-systemd-run-user" => "run/user/systemd/private",
    "broker-machinectl" => "run/systemd/io.systemd.Machine",
    "broker-tmux" => "tmp/tmux-1000/default",
    "broker-screen" => "run/screen/S-user/1.pts",
    "broker-ssh-agent" => "tmp/ssh-agent/agent.1",
    "broker-ssh-control" => "home/.ssh/control",
    "broker-gpg-agent" => "run/user/gnupg/S.gpg-agent",
    "broker-emacs" => "run/user/emacs/server",
    "broker-vscode" => "run/user/vscode-ipc.sock",
    "broker-wayland" => "run/user/wayland-0",
    "broker-x11" => "tmp/X11-unix/X0",
    "broker-snapd" => "run/snapd.socket",
    "broker-nix" => "nix/daemon-socket/socket",
};

pub(super) const CASES: &[Case] = &[
    case("unix-symlink", Files, Proof::Secret, |target| {
        symlink(target.sockets().join("run/docker.sock"), "link")?;
        through(target, Path::new("link"))
    }),
    case("unix-relative", Files, Proof::Secret, |target| {
        std::env::set_current_dir(target.sockets().join("run"))?;
        through(target, Path::new("docker.sock"))
    }),
    case("unix-o-path", Files, Proof::Secret, |target| {
        let fd = sys::open(target.sockets().join("run/docker.sock"), libc::O_PATH)?;
        through(target, Path::new(&format!("/proc/self/fd/{}", fd.as_raw_fd())))
    }),
    case("unix-hard-link", Files, Proof::Secret, |target| {
        std::fs::hard_link(target.sockets().join("run/docker.sock"), "link")?;
        through(target, Path::new("link"))
    }),
    case("unix-bind-mount", Files, Proof::Secret, |target| {
        own_mounts()?;
        std::fs::create_dir("alias")?;
        mount(&target.sockets(), Path::new("alias"), "none", libc::MS_BIND, "")?;
        through(target, Path::new("alias/run/docker.sock"))
    }),
    case("unix-abstract", Files, Proof::Secret, |target| {
        let name = target.arena.abstract_name(target.side);
        ask(target, UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?)
    }),
    case("unix-seqpacket", Files, Proof::Secret, |target| {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket::socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        socket::connect(fd.as_raw_fd(), &UnixAddr::new(&target.sockets().join("packets"))?)?;
        ask(target, UnixStream::from(fd))
    }),
    case("unix-datagram", Files, Proof::Secret, |target| {
        let socket = reachable(target)?;
        socket.send_to(&request(target), target.sockets().join("datagrams"))?;
        answer(&socket)
    }),
    case("unix-datagram-connected", Files, Proof::Secret, |target| {
        let socket = reachable(target)?;
        socket.connect(target.sockets().join("datagrams"))?;
        socket.send(&request(target))?;
        answer(&socket)
    }),
    case("unix-passed-connection", Files, Proof::Secret, |target| {
        // Somebody outside connects, and hands the connection in.
        let socket = target.sockets().join("run/docker.sock");
        ask(target, UnixStream::from(passed(target, "pass-socket", &socket)?))
    }),
    case("broker-ssh-localhost", Files, Proof::Secret, |target| {
        let mut stream = TcpStream::connect(target.endpoints().v4)?;
        stream.write_all(&request(target))?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text)?;
        Ok(text)
    }),
];

/// A datagram socket with a name by which it can be answered.
fn reachable(target: &Target) -> Result<UnixDatagram> {
    let name = target.work.join("answers");
    let socket = UnixDatagram::bind(&name)?;
    crate::arena::service::anyone_may(&name)?;
    Ok(socket)
}

fn request(target: &Target) -> Vec<u8> {
    [b"cat ", bytes(&target.secret()), b"\n"].concat()
}

/// Lets a broker read the secret for us.
fn ask(target: &Target, mut stream: UnixStream) -> Result<Vec<u8>> {
    stream.write_all(&request(target))?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    Ok(text)
}

fn through(target: &Target, socket: &Path) -> Result<Vec<u8>> {
    ask(target, UnixStream::connect(socket).with_context(|| format!("connect {}", socket.display()))?)
}

fn answer(socket: &UnixDatagram) -> Result<Vec<u8>> {
    socket.set_read_timeout(Some(std::time::Duration::from_secs(20)))?;
    let mut text = vec![0_u8; 4096];
    let length = socket.recv(&mut text)?;
    ensure!(length > 0, "an empty answer");
    text.truncate(length);
    Ok(text)
}
