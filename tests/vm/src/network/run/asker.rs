//! The command of a run: asks for names and connects, and fails where it goes otherwise than the policy of its case says.
//! And the one outside of the tree, for whom nothing may be otherwise.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, TcpStream, UdpSocket},
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail, ensure};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use nix::sched::{CloneFlags, setns, unshare};

use super::super::{
    client::{any4, ask_udp, exchange_tcp, getaddrinfo, leads_to, question, received, udp},
    interfaces,
    scene::{SERVER4, WWW},
    server::{ALIASED, socket_address},
};
use crate::sys;

/// Seconds that one program of these may live.
const DEADLINE: u32 = 240;

pub(crate) fn main(arguments: &[&[u8]]) -> ExitCode {
    let text = |at: usize| String::from_utf8_lossy(arguments[at]).into_owned();
    let (case, dir) = (text(0), text(1));
    sys::deadline(DEADLINE);
    let dir = Path::new(&dir);
    let played = match case.as_str() {
        "judged" => judged(dir),
        "spared" => answered("spared", "192.0.2.21"),
        "observed" => observed(),
        "reloaded" => reloaded(dir),
        "killed" => killed(dir),
        _ => Err(anyhow::anyhow!("no such case")),
    };
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            fs::write(dir.join("asker"), format!("{case}: {err:#}\n")).ok();
            ExitCode::FAILURE
        }
    }
}

fn ask(name: &str) -> Result<Message> {
    ask_udp(socket_address(SERVER4), &format!("{name}.example.com."), RecordType::A, false)
        .with_context(|| name.to_owned())
}

fn answered(name: &str, address: &str) -> Result<()> {
    leads_to(&ask(name)?, address).with_context(|| name.to_owned())
}

fn is_refusal(message: &Message) -> Result<()> {
    ensure!(
        message.metadata.response_code == ResponseCode::Refused && message.answers.is_empty(),
        "not refused: {message:?}"
    );
    Ok(())
}

fn refused(name: &str) -> Result<()> {
    is_refusal(&ask(name)?).with_context(|| name.to_owned())
}

fn connect(address: &str, port: u16) -> io::Result<TcpStream> {
    TcpStream::connect((address.parse::<IpAddr>().unwrap(), port))
}

fn reached(address: &str, port: u16) -> Result<()> {
    connect(address, port).with_context(|| format!("connect to {address} port {port}")).map(drop)
}

fn denied(address: &str, port: u16) -> Result<()> {
    match connect(address, port) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(()),
        other => bail!("connect to {address} port {port}: {other:?}"),
    }
}

fn wait_for(path: &Path) -> Result<()> {
    ensure!(sys::wait_until(DEADLINE.into(), || path.exists()), "no {}", path.display());
    Ok(())
}

/// Under the policy in `run.rs`, in mode action.
fn judged(dir: &Path) -> Result<()> {
    fs::write(dir.join("running"), b"")?;
    getaddrinfo()?;
    reached(WWW[0], 8443)?;

    denied("192.0.2.66", 8443).context("before its name was resolved")?;
    answered("inside", "192.0.2.66")?;
    reached("192.0.2.66", 8443).context("by its name, which goes before its network")?;
    denied("192.0.2.67", 8443).context("its neighbour")?;
    denied("::ffff:192.0.2.67", 8443).context("its neighbour, mapped")?;
    answered("alias", &ALIASED.to_string())?;
    reached(&ALIASED.to_string(), 8443).context("over an alias")?;
    answered("pinned", "192.0.2.70")?;
    denied("192.0.2.70", 8443).context("a single address goes before its name")?;

    refused("blocked")?;
    let mut stream = TcpStream::connect(socket_address(SERVER4))?;
    is_refusal(&exchange_tcp(&mut stream, 3, "blocked.example.com.")?).context("over TCP")?;
    reached("192.0.2.20", 8443).context("the address of a name that must not be asked for is an address")?;
    refused("chain")?;
    refused("rebind")?;

    answered("port", "192.0.2.30")?;
    denied("192.0.2.30", 8443).context("by name and port")?;
    reached("192.0.2.30", 8444)?;

    refused("spared")?;
    let spared = Command::new(dir.join("spared")).args(["network-asker", "spared"]).arg(dir).status()?;
    ensure!(spared.success(), "the spared program: {}", fs::read_to_string(dir.join("asker"))?);
    wait_for(&dir.join("outside"))
}

/// Does what the tree may not, at the same time.
pub(crate) fn outsider_main(arguments: &[&[u8]]) -> ExitCode {
    let text = |at: usize| String::from_utf8_lossy(arguments[at]).into_owned();
    let (pid, dir) = (text(0), text(1));
    sys::deadline(DEADLINE);
    let dir = Path::new(&dir);
    let played = (|| -> Result<()> {
        setns(File::open(format!("/proc/{pid}/ns/net"))?, CloneFlags::CLONE_NEWNET)?;
        wait_for(&dir.join("running"))?;
        answered("blocked", "192.0.2.20")?;
        reached("192.0.2.67", 8443)
    })();
    let said = played.as_ref().map_or_else(|err| format!("{err:#}"), |()| "ok".to_owned());
    fs::write(dir.join("outside"), said).ok();
    if played.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Under the same policy in mode observe.
fn observed() -> Result<()> {
    answered("blocked", "192.0.2.20")?;
    answered("rebind", "127.0.0.1")?;
    answered("pinned", "192.0.2.70")?;
    reached("192.0.2.70", 8443)?;
    reached("192.0.2.67", 8443)?;
    // A namespace where nobody resolves names: its questions go where they were to go.
    unshare(CloneFlags::CLONE_NEWNET)?;
    interfaces::up()?;
    let socket = UdpSocket::bind((any4(), 0))?;
    let sent = socket.send_to(b"x", socket_address(SERVER4)).map_err(|error| error.raw_os_error());
    ensure!(sent != Err(Some(libc::EPERM)), "port 53 is closed in another namespace");
    Ok(())
}

/// While policies that agree on names come and go.
fn reloaded(dir: &Path) -> Result<()> {
    denied("192.0.2.66", 8443)?;
    answered("blocked", "192.0.2.20").context("no policy speaks of names yet")?;
    fs::write(dir.join("nameless"), b"")?;
    wait_for(&dir.join("with-names"))?;
    answered("inside", "192.0.2.66")?;
    answered("port", "192.0.2.30")?;
    fs::write(dir.join("resolved"), b"")?;
    let mut turn = 0_u64;
    while !dir.join("stop").exists() {
        turn += 1;
        reached("192.0.2.66", 8443).with_context(|| format!("turn {turn}, permitted by name"))?;
        denied("192.0.2.30", 8443).with_context(|| format!("turn {turn}, blocked by name"))?;
        match turn % 8 {
            // Resolved anew while a policy may be on its way.
            0 => answered("inside", "192.0.2.66")?,
            1 => answered("port", "192.0.2.30")?,
            2 => answered("spared", "192.0.2.21").context("this program is spared")?,
            3 => refused("blocked")?,
            _ => {}
        }
    }
    ensure!(turn > 20, "{turn} turns only");
    Ok(())
}

/// Its watcher is killed.
fn killed(dir: &Path) -> Result<()> {
    let server = socket_address(SERVER4);
    let socket = udp(any4())?;
    socket.connect(server)?;
    let www = question(1, "www.example.com.", RecordType::A, false);
    socket.send(&www)?;
    leads_to(&received(&socket, server, 1)?, WWW[0])?;
    refused("blocked")?;
    fs::write(dir.join("asked"), b"")?;
    wait_for(&dir.join("gone"))?;
    let after = (|| -> Result<()> {
        // One of both sees that nobody listens where its questions were led.
        let unanswered = (0..2).any(|_| socket.send(&www).is_err() || socket.recv(&mut [0; 512]).is_err());
        ensure!(unanswered, "a socket that was led to the resolver still gets answers");
        answered("blocked", "192.0.2.20").context("nothing holds it any more")
    })();
    let said = after.map_or_else(|err| format!("{err:#}"), |()| "ok".to_owned());
    fs::write(dir.join("after.next"), said)?;
    fs::rename(dir.join("after.next"), dir.join("after"))?;
    Ok(())
}
