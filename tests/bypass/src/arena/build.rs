//! Builds an arena: objects with their secrets, services, victims, a kernel map that is not the trees' own.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{
    Arena, Endpoints, Prepared, Side, Tree, directory, give, nonce,
    service::{Service, anyone_may},
    snapshot::{self, Snapshot},
    victim::{self, Running},
    zone::Zone,
};
use crate::cases::{Case, Proof, Target, Unsupported};

/// Attempts that this arena is prepared for.
pub(crate) const ATTEMPTS: [(Tree, Side); 3] =
    [(Tree::Inside, Side::Protected), (Tree::Inside, Side::Open), (Tree::Outside, Side::Protected)];

/// An arena, and what only the suite knows of it.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) arena: Arena,
    /// What shows that an attempt obtained its goal.
    pub(crate) secrets: BTreeMap<(String, Tree, Side), String>,
    /// What the objects looked like.
    pub(crate) before: BTreeMap<(String, Tree, Side), Snapshot>,
    pub(crate) victims: Vec<(String, Tree, Running)>,
    /// Why a case cannot be tried here.
    pub(crate) impossible: BTreeMap<String, String>,
    /// What is opened before policy comes, and what is in it.
    inherited: BTreeMap<Tree, (PathBuf, String)>,
    /// A kernel map that is not the trees' own.
    _map: Option<std::os::fd::OwnedFd>,
    _dir: TempDir,
}

impl Drop for Built {
    fn drop(&mut self) {
        // What a set-up has mounted holds the directory.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let places = mounts.lines().filter_map(|line| line.split(' ').nth(4).map(Path::new));
        for place in places.filter(|place| place.starts_with(&self.arena.root)) {
            let place = crate::sys::cpath(place);
            let _ = crate::sys::sys!(libc::SYS_umount2, place.as_ptr(), libc::MNT_DETACH);
        }
    }
}

/// What an arena is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) uid: u32,
    pub(crate) enrolled: bool,
    pub(crate) privileged: bool,
    pub(crate) own_machine: bool,
}

pub(crate) fn build(plan: Plan, cases: &[&'static Case]) -> Result<Built> {
    let base = std::env::var_os("SUITE_TMP").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let mut dir = TempDir::with_prefix_in("bypass-", base)?;
    if std::env::var_os("SUITE_KEEP").is_some() {
        dir.disable_cleanup(true);
        eprintln!("kept: {}", dir.path().display());
    }
    let root = fs::canonicalize(dir.path())?;
    directory(&root, 0o755, 0)?;
    for (name, mode) in
        [("bin", 0o755), ("state", 0o755), ("work", 0o755), ("sockets", 0o755), ("results", 0o777)]
    {
        directory(&root.join(name), mode, 0)?;
    }
    directory(&root.join("sockets-open"), 0o755, 0)?;
    let own = fs::read_link("/proc/self/exe")?;
    // Two files: what protects one must not mean the other.
    for name in ["suite", "owner"] {
        fs::copy(&own, root.join("bin").join(name))?;
    }
    let (protected, open) = (nonce::new()?, nonce::new()?);
    let (protected_at, proxy) = serve(&root, &protected, [127, 77, 0, 1].into(), "")?;
    let (open_at, _) = serve(&root, &open, Ipv4Addr::LOCALHOST.into(), "-open")?;
    let zone = Zone { blocked: protected.clone(), open: open.clone() };
    let dns_elsewhere = zone.serve((Ipv4Addr::LOCALHOST, 0).into())?;
    // Each arena has one of its own: what an earlier one serves goes on.
    let dns = (1..=16).find_map(|host| zone.serve(SocketAddr::from(([127, 99, 0, host], 53))).ok());
    if let (Some(dns), true) = (dns, plan.own_machine && plan.enrolled) {
        fs::write("/etc/resolv.conf", format!("nameserver {}\n", dns.ip()))?;
    }
    let map = crate::cases::kernel::make_map(1);
    let mut built = Built {
        arena: Arena {
            root,
            uid: plan.uid,
            enrolled: plan.enrolled,
            privileged: plan.privileged,
            own_machine: plan.own_machine,
            cases: Vec::new(),
            protected: protected_at,
            open: open_at,
            proxy,
            dns,
            dns_elsewhere,
            bind_ports: (free_port()?, free_port()?),
            map: map.as_ref().and_then(crate::cases::kernel::map_id),
        },
        secrets: BTreeMap::new(),
        before: BTreeMap::new(),
        victims: Vec::new(),
        impossible: BTreeMap::new(),
        inherited: BTreeMap::new(),
        _map: map,
        _dir: dir,
    };
    for side in [Side::Protected, Side::Open] {
        let service = Service {
            root: built.arena.root.clone(),
            nonce: if side == Side::Protected { protected.clone() } else { open.clone() },
        };
        service.listen_abstract(&built.arena.abstract_name(side))?;
    }
    for name in ["sockets", "sockets-open"] {
        give(&built.arena.root.join(name), plan.uid)?;
    }
    for case in cases {
        built.prepare(case, (&protected, &open)).with_context(|| format!("set-up of case {}", case.id))?;
    }
    built.arena.save()?;
    fs::write(built.arena.root.join("state/policy.yaml"), built.arena.policy())?;
    Ok(built)
}

/// Starts the services of one side.
fn serve(root: &Path, nonce: &str, v4: IpAddr, suffix: &str) -> Result<(Endpoints, SocketAddr)> {
    let sockets = root.join(format!("sockets{suffix}"));
    let service = Service { root: root.to_owned(), nonce: nonce.to_owned() };
    let at = service.listen_tcp((v4, 0).into())?;
    service.listen_udp(at)?;
    let v6 = service.listen_tcp((Ipv6Addr::LOCALHOST, 0).into()).ok();
    if let Some(v6) = v6 {
        service.listen_udp(v6)?;
    }
    let proxy = service.listen_tcp((Ipv4Addr::LOCALHOST, 0).into())?;
    for name in crate::cases::brokers::SOCKETS {
        let path = sockets.join(name);
        fs::create_dir_all(path.parent().context("a socket without directory")?)?;
        service.listen_path(&path)?;
    }
    service.listen_packets(&sockets.join("packets"))?;
    let datagrams = sockets.join("datagrams");
    service.listen_datagrams(UnixDatagram::bind(&datagrams)?);
    anyone_may(&datagrams)?;
    Ok((Endpoints { v4: at, v6 }, proxy))
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?.local_addr()?.port())
}

impl Built {
    fn prepare(&mut self, case: &'static Case, services: (&str, &str)) -> Result<()> {
        let mut prepared = Prepared { id: case.id.to_owned(), victims: Vec::new() };
        for (tree, side) in ATTEMPTS {
            let objects = self.arena.objects(case.class, case.id, tree, side);
            let secret = nonce::new()?;
            directory(&objects, 0o755, 0)?;
            fs::write(objects.join("secret"), &secret)?;
            let work = self.arena.work(case.id, tree, side);
            directory(&work, 0o755, 0)?;
            let target = Target::new(&self.arena, case, tree, side, None);
            match case.set_up.map_or(Ok(()), |set_up| set_up(&target)) {
                Ok(()) => {}
                Err(error) => {
                    let reason = error.downcast::<Unsupported>()?;
                    self.impossible.insert(case.id.to_owned(), reason.0);
                    return Ok(());
                }
            }
            // Set-ups write as root, cases act as a user.
            give(objects.parent().context("parent")?, self.arena.uid)?;
            give(work.parent().context("parent")?, self.arena.uid)?;
            let secret = match (case.proof, side) {
                // Every one of these reads the same descriptor: the standard input of the whole tree.
                _ if case.inherits && side == Side::Protected => {
                    self.inherited.entry(tree).or_insert_with(|| (objects.join("secret"), secret)).1.clone()
                }
                (Proof::Service, Side::Protected) => services.0.to_owned(),
                (Proof::Service, Side::Open) => services.1.to_owned(),
                _ => secret,
            };
            if case.victim && side == Side::Protected {
                let victim = victim::start(&self.arena.program(), &objects, self.arena.uid)?;
                prepared.victims.push((tree, victim.victim.clone()));
                self.victims.push((case.id.to_owned(), tree, victim));
            }
            let key = (case.id.to_owned(), tree, side);
            self.before.insert(key.clone(), snapshot::take(&case.subject(&objects, side)));
            self.secrets.insert(key, secret);
        }
        self.arena.cases.push(prepared);
        Ok(())
    }

    /// What a tree is handed: a file that was opened before policy came.
    pub(crate) fn handed(&self, tree: Tree) -> Result<Option<fs::File>> {
        let Some((path, _)) = self.inherited.get(&tree) else { return Ok(None) };
        Ok(Some(fs::OpenOptions::new().read(true).write(true).open(path)?))
    }
}
