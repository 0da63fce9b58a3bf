//! Cases about privileged operations. They are about no object: the twin is the same operation by the program that the
//! rule spares.

use std::os::unix::ffi::OsStrExt;

use defenseclaw::model::EventKind;

use super::place::{Case, Object, Place, Rule, nothing, open};
use crate::sys::{c, sys};

fn any(_: &Place) -> Object {
    Object::Any
}

fn the_target(place: &Place) -> Object {
    Object::Target(place.target())
}

const fn privilege(name: &'static str) -> Rule {
    Rule::Privilege(name)
}

pub(super) const CASES: &[Case] = &[
    Case::new(
        "ptrace",
        privilege("priv.ptrace"),
        nothing,
        |place| sys!(libc::SYS_ptrace, libc::PTRACE_SEIZE, place.target(), 0, 0),
        EventKind::Ptrace,
        the_target,
    ),
    Case::new(
        "memory of a process",
        privilege("priv.ptrace"),
        nothing,
        |place| {
            let mut byte = 0_u8;
            let local = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
            // Where nothing is mapped: whether it may be asked at all is what counts.
            let remote = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 1 };
            let (from, to) = (&raw const remote, &raw const local);
            sys!(libc::SYS_process_vm_readv, place.target(), to, 1, from, 1, 0)
        },
        EventKind::Ptrace,
        the_target,
    )
    .naturally(&[libc::EFAULT]),
    Case::new(
        "environment of a process",
        privilege("priv.inspect"),
        nothing,
        |place| open(format!("/proc/{}/environ", place.target()).as_ref(), libc::O_RDONLY),
        EventKind::Ptrace,
        the_target,
    )
    .refused_as(libc::EACCES),
    Case::new(
        "signal",
        privilege("priv.signal"),
        nothing,
        |place| sys!(libc::SYS_kill, place.target(), libc::SIGUSR1),
        EventKind::Signal,
        the_target,
    ),
    Case::new(
        "mount",
        privilege("priv.mount"),
        nothing,
        |place| {
            sys!(libc::SYS_unshare, libc::CLONE_NEWNS)?;
            let path = c(place.dir().as_os_str().as_bytes());
            sys!(libc::SYS_mount, c"none".as_ptr(), path.as_ptr(), c"tmpfs".as_ptr(), 0, 0)
        },
        EventKind::Mount,
        |place| Object::Path(place.dir()),
    ),
    Case::new(
        "root directory",
        privilege("priv.chroot"),
        nothing,
        |place| {
            let path = c(place.dir().as_os_str().as_bytes());
            sys!(libc::SYS_chroot, path.as_ptr())
        },
        EventKind::Mount,
        |place| Object::Path(place.dir()),
    ),
    Case::new(
        "user namespace",
        privilege("priv.userns"),
        nothing,
        |_| sys!(libc::SYS_unshare, libc::CLONE_NEWUSER),
        EventKind::Namespace,
        any,
    ),
    Case::new(
        "bpf",
        privilege("priv.bpf"),
        nothing,
        |_| {
            // BPF_MAP_CREATE of an array: type, key size, value size, entries.
            let mut attribute = [0_u32; 32];
            attribute[..4].copy_from_slice(&[2, 4, 8, 1]);
            sys!(libc::SYS_bpf, 0, attribute.as_ptr(), 128)
        },
        EventKind::Bpf,
        any,
    ),
    Case::new(
        "module",
        privilege("priv.module"),
        nothing,
        |_| {
            // Larger than an ELF header: smaller ones are refused before anybody is asked.
            let junk = vec![0x55_u8; 4096];
            sys!(libc::SYS_init_module, junk.as_ptr(), junk.len(), c"".as_ptr())
        },
        EventKind::ModuleLoad,
        any,
    )
    .naturally(&[libc::ENOEXEC, libc::ENOSYS]),
    Case::new(
        "user id",
        privilege("priv.setid"),
        nothing,
        |_| sys!(libc::SYS_setuid, 1007),
        EventKind::CredChange,
        any,
    ),
    Case::new(
        "raw socket",
        privilege("priv.raw_socket"),
        nothing,
        |_| sys!(libc::SYS_socket, libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        EventKind::SocketCreate,
        any,
    ),
    Case::new(
        "packet socket",
        privilege("priv.raw_socket"),
        nothing,
        |_| sys!(libc::SYS_socket, libc::AF_PACKET, libc::SOCK_DGRAM, 0),
        EventKind::SocketCreate,
        any,
    )
    .naturally(&[0, libc::EAFNOSUPPORT]),
    Case::new(
        "socket of another family",
        privilege("priv.other_socket"),
        nothing,
        |_| sys!(libc::SYS_socket, libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
        EventKind::SocketCreate,
        any,
    )
    .naturally(&[0, libc::EAFNOSUPPORT]),
    Case::new(
        "character device",
        privilege("priv.device"),
        nothing,
        |place| node(place, libc::S_IFCHR),
        EventKind::FileCreate,
        |place| Object::Path(place.path("node")),
    ),
    Case::new(
        "block device",
        privilege("priv.device"),
        nothing,
        |place| node(place, libc::S_IFBLK),
        EventKind::FileCreate,
        |place| Object::Path(place.path("node")),
    ),
];

fn node(place: &Place, kind: u32) -> std::io::Result<i64> {
    let path = c(place.path("node").as_os_str().as_bytes());
    sys!(libc::SYS_mknodat, libc::AT_FDCWD, path.as_ptr(), kind | 0o600, libc::makedev(1, 3))
}

impl Case {
    const fn naturally(mut self, natural: &'static [i32]) -> Self {
        self.natural = natural;
        self
    }

    const fn refused_as(mut self, errno: i32) -> Self {
        self.refused = errno;
        self
    }
}
