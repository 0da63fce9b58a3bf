//! Where a session's policy comes from: a preset or a file, read, bound to the session and compiled. Puts nothing in
//! force.

use std::{
    fmt, fs,
    io::{self, Read},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};

use super::asking::Local;
use crate::{
    enforce::{self, Identities, PathEntries},
    launcher::landlock::{LandlockChoice, Siblings},
    model::{Held, Level, LoadedRule, Mode, PolicyAction, PolicyLoaded, RuleHold, SessionId, best_holds},
    policy::{
        self, Bindings, Policy,
        image::{Image, RuleInfo},
    },
    sensor,
};

/// Longest policy that is read, in bytes.
const LENGTH_MAX: u64 = 16 << 20;

/// Which policy judges a session, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyOptions {
    /// Preset or file.
    pub source: PolicySource,
    /// Instead of the policy's own.
    pub mode: Option<Mode>,
    /// Name of the profile in the policy.
    pub profile: String,
    /// Instead of the policy's own: what happens to objects that cannot be resolved.
    pub unresolved: Option<PolicyAction>,
    /// How much Landlock may do.
    pub landlock: LandlockChoice,
    /// Whether Landlock holds rules where it takes away what the command makes there later.
    pub siblings: Siblings,
    /// Go on although rules that block are not held.
    pub allow_degraded: bool,
    /// Somebody can be asked, and this is the audit beside which lies what was allowed for good. Decided where the session
    /// begins, whatever is said here.
    pub asks: Option<PathBuf>,
}

/// Where the text is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicySource {
    /// In this program.
    Preset(String),
    /// In a file.
    File(PathBuf),
}

impl PolicySource {
    /// What a user means: a preset's name, or else a file.
    pub fn named(name: &Path) -> Self {
        match name.to_str().filter(|name| policy::preset(name).is_some()) {
            Some(name) => Self::Preset(name.to_owned()),
            None => Self::File(name.to_owned()),
        }
    }

    /// The policy with its presets, not bound to anything yet, and the digest of its text.
    pub(super) fn load(&self) -> Result<(Policy, String), PolicyRejected> {
        let text = self.text().map_err(|problem| PolicyRejected::new(self, vec![problem]))?;
        let preset = |name: &str| policy::preset(name).map(str::to_owned);
        match policy::load(&self.to_string(), &text, &preset) {
            Ok(policy) => Ok((policy, hash(&text))),
            Err(problems) => Err(PolicyRejected::new(self, problems)),
        }
    }

    fn text(&self) -> Result<String, String> {
        match self {
            Self::Preset(name) => policy::preset(name).map(str::to_owned).ok_or_else(|| self.unknown()),
            Self::File(path) => read(path).map_err(|error| {
                if error.kind() == io::ErrorKind::NotFound {
                    self.unknown()
                } else {
                    format!("cannot read {}: {error}", path.display())
                }
            }),
        }
    }

    fn unknown(&self) -> String {
        let presets = policy::PRESETS.join(", ");
        format!("there is no preset and no file {self}; presets are {presets}, files are named by path")
    }
}

impl fmt::Display for PolicySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preset(name) => f.write_str(name),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    // A pipe in its place must not hold us up.
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    file.take(LENGTH_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LENGTH_MAX {
        return Err(io::Error::other(format!("longer than {LENGTH_MAX} bytes")));
    }
    Ok(text)
}

/// Directories that patterns are bound to.
#[derive(Clone, Debug)]
pub(super) struct Directories {
    pub(super) home: Vec<u8>,
    pub(super) project: Vec<u8>,
}

impl Directories {
    /// As the kernel names them: without symbolic links.
    pub(super) fn new(home: &[u8], project: &[u8]) -> Self {
        let real = |path: &[u8]| {
            let path = Path::new(std::ffi::OsStr::from_bytes(path));
            // What does not exist is taken at its word.
            fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).into_os_string().into_vec()
        };
        Self { home: real(home), project: real(project) }
    }
}

/// A policy, ready to be put in force.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) name: String,
    pub(super) mode: Mode,
    pub(super) digest: String,
    pub(super) image: Image,
    /// What judges in user space, if the text is known.
    pub(super) judge: Option<Arc<policy::Session>>,
    pub(super) identities: Identities,
}

impl Compiled {
    /// Name of a rule, by the number that entries carry.
    pub(super) fn rule_id(&self, number: u16) -> String {
        self.image.rules.get(usize::from(number)).map(|rule| rule.id.clone()).unwrap_or_default()
    }
}

/// A policy that cannot be used, and everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRejected {
    /// Preset or file.
    pub name: String,
    /// One line each.
    pub problems: Vec<String>,
}

impl PolicyRejected {
    pub(super) fn new<P: fmt::Display>(source: &PolicySource, problems: impl IntoIterator<Item = P>) -> Self {
        let problems = problems.into_iter().map(|problem| problem.to_string()).collect();
        Self { name: source.to_string(), problems }
    }
}

impl fmt::Display for PolicyRejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy {} cannot be used: {}", self.name, self.problems.join("; "))
    }
}

impl std::error::Error for PolicyRejected {}

/// Digest of the text as it is now; none if it cannot be read.
pub(super) fn digest(source: &PolicySource) -> Option<String> {
    source.text().ok().map(|text| hash(&text))
}

fn hash(text: &str) -> String {
    use std::fmt::Write;
    Sha256::digest(text).iter().fold(String::new(), |mut hash, byte| {
        // Writing to a String cannot fail.
        write!(hash, "{byte:02x}").ok();
        hash
    })
}

/// Whether a person can be asked about what is launched here: who asks can be stopped before the operation has happened,
/// and the socket where answers come in can be served.
pub(super) fn asks() -> bool {
    nix::unistd::geteuid().is_root() && sensor::detect_level().0 == Level::Lsm
}

/// Reads, binds and compiles, and looks for the files to protect by inode.
pub(super) fn compile(
    options: &PolicyOptions,
    directories: &Directories,
) -> Result<Compiled, PolicyRejected> {
    let (mut loaded, digest) = options.source.load()?;
    let said = |problems: Vec<policy::Problem>| PolicyRejected::new(&options.source, problems);
    if let Some(action) = options.unresolved {
        loaded.settings.unresolved = action;
    }
    let bindings = Bindings {
        home: directories.home.clone(),
        project: directories.project.clone(),
        profile: options.profile.clone(),
        mode: options.mode,
    };
    let bind = if options.asks.is_some() { policy::Session::asking } else { policy::Session::new };
    let session = bind(&loaded, &bindings).map_err(said)?;
    let image = session.image().map_err(said)?;
    let identities = identities(&image);
    let session = match &options.asks {
        Some(audit) => Local::beside(audit).bind(session, &directories.home, &directories.project),
        None => session,
    };
    let (mode, judge) = (session.mode(), Some(Arc::new(session)));
    Ok(Compiled { name: loaded.name, mode, digest, image, judge, identities })
}

/// Files to protect by inode, as they are now.
pub(super) fn identities(image: &Image) -> Identities {
    let entries = PathEntries::new(image);
    enforce::find_identities(&image.identities, enforce::Bounds::default(), &|path| entries.of(path))
}

/// What holds most of each rule, where that is not all of it.
pub(super) fn unheld(rules: &[RuleHold]) -> Vec<RuleHold> {
    best_holds(rules).into_iter().filter(|hold| hold.held != Held::Whole).collect()
}

impl Compiled {
    /// As much as the audit knows of one that is in force.
    pub(super) fn known(loaded: &PolicyLoaded) -> Self {
        let rules = loaded.rules.iter().map(|rule| RuleInfo {
            id: rule.id.clone(),
            severity: rule.severity,
            reason: rule.reason.clone(),
        });
        Self {
            name: loaded.name.clone(),
            mode: loaded.mode,
            digest: loaded.digest.clone(),
            image: Image { rules: rules.collect(), ..Image::default() },
            judge: None,
            identities: Identities::default(),
        }
    }

    /// For the audit.
    pub(super) fn loaded(&self, session: SessionId, profile: u32, generation: u64) -> PolicyLoaded {
        let rules = self.image.rules.iter().map(|rule| LoadedRule {
            id: rule.id.clone(),
            severity: rule.severity,
            reason: rule.reason.clone(),
        });
        PolicyLoaded {
            session,
            boot: super::clock::boot_now(),
            profile,
            name: self.name.clone(),
            mode: self.mode,
            generation,
            digest: self.digest.clone(),
            rules: rules.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(source: PolicySource) -> PolicyOptions {
        PolicyOptions {
            source,
            mode: Some(Mode::Action),
            profile: "default".to_owned(),
            unresolved: None,
            landlock: LandlockChoice::Auto,
            siblings: Siblings::Stable,
            allow_degraded: false,
            asks: None,
        }
    }

    fn directories() -> Directories {
        Directories { home: b"/home/u".to_vec(), project: b"/home/u/p".to_vec() }
    }

    #[test]
    fn presets_compile() {
        for name in policy::PRESETS {
            let source = PolicySource::named(Path::new(name));
            assert_eq!(source, PolicySource::Preset((*name).to_owned()));
            let compiled = compile(&options(source), &directories()).unwrap();
            assert_eq!((compiled.digest.len(), compiled.mode), (64, Mode::Action));
            let loaded = compiled.loaded(SessionId(1), 0, 4);
            assert_eq!((loaded.rules.len(), loaded.generation), (compiled.image.rules.len(), 4));
        }
    }

    #[test]
    fn a_policy_asks_where_somebody_can_be_asked() {
        for (asks, mode, want) in [
            (true, Mode::Hitl, Some(PolicyAction::Block)),
            (false, Mode::Hitl, None),
            (true, Mode::Action, None),
        ] {
            let source = PolicySource::named(Path::new("default"));
            let asks_here = asks.then(|| PathBuf::from("/nonexistent/audit.db"));
            let options = PolicyOptions { mode: Some(mode), asks: asks_here, ..options(source) };
            assert_eq!(compile(&options, &directories()).unwrap().image.asks, want, "{asks} {mode}");
        }
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let place = tempfile::TempDir::new().unwrap();
        let bad = place.path().join("bad.yaml");
        fs::write(&bad, "version: 1\nrules: 7\nnonsense: true\n").unwrap();
        let binary = place.path().join("binary");
        fs::write(&binary, [0xff, 0xfe]).unwrap();
        for (name, problems, part) in [
            (Path::new("no-such-preset"), 1, "presets are"),
            (place.path(), 1, "not a regular file"),
            (&place.path().join("absent.yaml"), 1, "presets are"),
            (&binary, 1, "UTF-8"),
            (&bad, 2, "nonsense"),
        ] {
            let rejected = compile(&options(PolicySource::named(name)), &directories()).unwrap_err();
            assert_eq!(rejected.problems.len(), problems, "{rejected}");
            assert!(rejected.to_string().contains(part), "{rejected}");
        }
    }
}
