//! A plan made real: every path opened, while we still may, and the ruleset filled. What the child then does with it
//! allocates nothing and opens nothing but what the self-test tries.

use std::{
    ffi::CString,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
};

use landlock::{
    AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, Scope,
};
use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::{SFlag, fstat},
};

use super::{
    files::{Class, Skipped},
    path::Path,
    plan::LandlockPlan,
    selftest::{Attempts, SelfTest},
};
use crate::model::{ProtectionRow, ProtectionState};

/// `LANDLOCK_RESTRICT_SELF_LOG_NEW_EXEC_ON`: without it, nothing the command is refused would be logged.
const LOG_NEW_EXEC_ON: u32 = 1 << 1;
/// `LANDLOCK_RESTRICT_SELF_LOG_SUBDOMAINS_OFF`: what the command's own sandboxes refuse is not ours to log.
const LOG_SUBDOMAINS_OFF: u32 = 1 << 2;

/// The ruleset could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LandlockError {
    /// The kernel does not take what the plan says.
    #[error("the kernel refuses the Landlock ruleset: {0}; run with --landlock off to do without it")]
    Ruleset(#[from] landlock::RulesetError),
    /// It made none, and did not say why.
    #[error("the kernel has made no Landlock ruleset; run with --landlock off to do without it")]
    NoRuleset,
}

/// A domain that the command will be born in.
#[derive(Debug)]
pub struct Domain {
    ruleset: OwnedFd,
    flags: u32,
    test: SelfTest,
    table: Vec<ProtectionRow>,
    /// What policy allows and the domain does not, because it is not there.
    pub skipped: Vec<Skipped>,
}

impl Domain {
    /// Opens everything the plan names. None if the plan forbids nothing.
    pub fn open(plan: &LandlockPlan) -> Result<Option<Self>, LandlockError> {
        if plan.is_empty() {
            return Ok(None);
        }
        let mut skipped: Vec<Skipped> = plan.files.skipped.iter().cloned().collect();
        let mut ruleset = create(plan)?;
        if plan.handles_files() {
            // Renaming and linking between directories is forbidden unless allowed, even if not handled. Policy judges
            // both by the names that go and come; the kernel still refuses to give a file more rights that way.
            ruleset = add(ruleset, &Path::root(), AccessFs::Refer.into(), &mut skipped)?;
        }
        for (path, classes) in &plan.files.grants {
            let access =
                classes.iter().fold(BitFlags::empty(), |access, class| access | rights(*class, plan));
            ruleset = add(ruleset, path, access, &mut skipped)?;
        }
        for (ports, access) in [(&plan.connect, AccessNet::ConnectTcp), (&plan.bind, AccessNet::BindTcp)] {
            for port in ports.iter().flatten() {
                ruleset = ruleset.add_rule(NetPort::new(*port, access))?;
            }
        }
        let ruleset: Option<OwnedFd> = ruleset.into();
        let ruleset = ruleset.ok_or(LandlockError::NoRuleset)?;
        let flags = if plan.abi.has_audit() { LOG_NEW_EXEC_ON | LOG_SUBDOMAINS_OFF } else { 0 };
        Ok(Some(Self { ruleset, flags, test: SelfTest::new(plan), table: plan.table.clone(), skipped }))
    }

    /// What the child needs; borrowed from here.
    pub(in super::super) fn for_child(&self) -> ChildDomain<'_> {
        ChildDomain { ruleset: self.ruleset.as_raw_fd(), flags: self.flags, attempts: self.test.attempts() }
    }

    /// How many attempts the child reports on.
    pub(in super::super) fn n_attempts(&self) -> usize {
        self.test.attempts().0.len()
    }

    /// The table of protections, with what the self-test found. `refused` says of each attempt whether it was refused,
    /// or allowed, as it should be.
    pub(in super::super) fn table(&self, as_expected: &[bool]) -> Vec<ProtectionRow> {
        let mut table = self.table.clone();
        for row in &mut table {
            let mut tried = self.test.of_row(&row.name, as_expected).peekable();
            row.verified = tried.peek().is_some();
            for (attempt, as_expected) in tried {
                if !as_expected {
                    row.verified = false;
                    if row.state != ProtectionState::Off {
                        row.state = ProtectionState::Off;
                        row.reason = format!("self-test: {attempt}");
                    }
                }
            }
        }
        table
    }
}

fn create(plan: &LandlockPlan) -> Result<RulesetCreated, LandlockError> {
    // The plan is for this kernel's version; what it does not have was left out there, and said.
    let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    if plan.handles_files() {
        let handled = plan.files.handled.iter();
        let access = handled
            .fold(AccessFs::Refer.into(), |access: BitFlags<AccessFs>, class| access | rights(*class, plan));
        ruleset = ruleset.handle_access(access)?;
    }
    if plan.connect.is_some() {
        ruleset = ruleset.handle_access(AccessNet::ConnectTcp)?;
    }
    if plan.bind.is_some() {
        ruleset = ruleset.handle_access(AccessNet::BindTcp)?;
    }
    if plan.scope_abstract {
        ruleset = ruleset.scope(Scope::AbstractUnixSocket)?;
    }
    if plan.scope_signal {
        ruleset = ruleset.scope(Scope::Signal)?;
    }
    Ok(ruleset.create()?)
}

fn rights(class: Class, plan: &LandlockPlan) -> BitFlags<AccessFs> {
    match class {
        Class::ReadFile => AccessFs::ReadFile.into(),
        Class::ReadDirectory => AccessFs::ReadDir.into(),
        Class::Write if plan.abi.has_truncate() => AccessFs::WriteFile | AccessFs::Truncate,
        Class::Write => AccessFs::WriteFile.into(),
        Class::Execute => AccessFs::Execute.into(),
        Class::Create => {
            AccessFs::MakeReg
                | AccessFs::MakeDir
                | AccessFs::MakeSym
                | AccessFs::MakeSock
                | AccessFs::MakeFifo
                | AccessFs::MakeChar
                | AccessFs::MakeBlock
        }
        Class::Delete => AccessFs::RemoveFile | AccessFs::RemoveDir,
    }
}

/// Rights of a single file; the kernel refuses others for it.
fn of_files() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::Execute
}

/// A path that cannot be opened is no reason to have no ruleset: it is left out and reported.
fn add(
    ruleset: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
    skipped: &mut Vec<Skipped>,
) -> Result<RulesetCreated, LandlockError> {
    let (opened, is_directory) = match open(path) {
        Ok(opened) => opened,
        Err(errno) => {
            skipped
                .push(Skipped { path: path.clone(), reason: format!("cannot be opened: {}", errno.desc()) });
            return Ok(ruleset);
        }
    };
    let access = if is_directory { access } else { access & of_files() };
    if access.is_empty() {
        return Ok(ruleset);
    }
    Ok(ruleset.add_rule(PathBeneath::new(opened.as_fd(), access))?)
}

fn open(path: &Path) -> Result<(OwnedFd, bool), Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    let opened = openat2(nix::fcntl::AT_FDCWD, &path.to_os(), how)?;
    let kind = SFlag::from_bits_truncate(fstat(opened.as_fd())?.st_mode) & SFlag::S_IFMT;
    Ok((opened, kind == SFlag::S_IFDIR))
}

/// What the child needs, between fork and exec.
pub(in super::super) struct ChildDomain<'a> {
    ruleset: RawFd,
    flags: u32,
    attempts: Attempts<'a>,
}

impl ChildDomain<'_> {
    /// Takes the domain on, with `no_new_privs`: from here on, for this process and everything it starts. Does not
    /// allocate.
    pub(in super::super) fn enter(&self) -> Result<(), Errno> {
        // SAFETY: both calls take numbers only.
        unsafe {
            Errno::result(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            Errno::result(libc::syscall(libc::SYS_landlock_restrict_self, self.ruleset, self.flags))?;
        }
        Ok(())
    }

    /// Tries what is forbidden and what is not; tells `report` of each attempt whether it went as it should. Does not
    /// allocate.
    pub(in super::super) fn try_out(&self, mut report: impl FnMut(usize, bool)) {
        for (index, attempt) in self.attempts.0.iter().enumerate() {
            report(index, attempt.goes_as_expected());
        }
    }
}

/// A path for a system call; none if it cannot be one.
pub(super) fn c_path(path: &Path) -> Option<CString> {
    CString::new(path.to_os().as_os_str().as_bytes()).ok()
}
