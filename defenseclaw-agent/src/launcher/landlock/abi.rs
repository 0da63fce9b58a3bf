//! What each version of Landlock can say. The version is a number here, so that plans can be made and tested for any.

use std::fmt;

/// Version of the kernel's Landlock; 0 if it has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Abi(pub u32);

impl Abi {
    /// No Landlock.
    pub const NONE: Abi = Abi(0);
    /// The newest whose rights this program uses or names.
    pub const NEWEST: Abi = Abi(10);

    /// That of this kernel, no newer than [`Abi::NEWEST`].
    pub fn of_this_kernel() -> Self {
        const VERSION: libc::c_uint = 1;
        // SAFETY: with a null attribute and this flag the call only returns the version.
        let abi = unsafe {
            libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION)
        };
        Self(u32::try_from(abi).unwrap_or(0)).min(Self::NEWEST)
    }

    /// Files. Version 1 has rights for them, too, but forbids every rename and link between directories.
    pub(super) fn has_files(self) -> bool {
        self.0 >= 2
    }

    /// Cutting files, which is writing, too.
    pub(super) fn has_truncate(self) -> bool {
        self.0 >= 3
    }

    /// TCP, by port.
    pub(super) fn has_tcp(self) -> bool {
        self.0 >= 4
    }

    /// Scopes: abstract unix sockets and signals.
    pub(super) fn has_scopes(self) -> bool {
        self.0 >= 6
    }

    /// Records in the kernel's audit.
    pub(super) fn has_audit(self) -> bool {
        self.0 >= 7
    }

    /// Why something that came with `abi` is not there.
    pub(super) fn lacks(self, abi: u32, linux: &str) -> String {
        if self == Self::NONE {
            "this kernel has no Landlock, or does not enable it (boot with lsm=landlock,…)".to_owned()
        } else {
            format!("needs Landlock ABI {abi} (Linux {linux}); this kernel has {self}")
        }
    }
}

impl fmt::Display for Abi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ABI {}", self.0)
    }
}
