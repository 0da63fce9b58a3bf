//! What user space takes for granted of the ABI beyond its types.

use super::*;

#[test]
fn numbers_of_kinds_are_unique_and_fit_the_counter_map() {
    for (index, kind) in Kind::ALL.iter().enumerate() {
        assert_eq!(Kind::from_u16(*kind as u16), Some(*kind));
        assert!((*kind as usize) < defenseclaw_ebpf::KINDS);
        assert!(Kind::ALL[..index].iter().all(|before| (*before as u16) < *kind as u16), "{kind:?}");
    }
}

#[test]
fn bits_of_the_model_are_those_of_the_kernel() {
    use defenseclaw_ebpf::access;
    for (bit, flag) in [
        (access::READ, Access::READ),
        (access::WRITE, Access::WRITE),
        (access::CREATE, Access::CREATE),
        (access::TRUNCATE, Access::TRUNCATE),
        (access::APPEND, Access::APPEND),
        (access::EXECUTE, Access::EXECUTE),
        (access::MAP_EXECUTE, Access::MAP_EXECUTE),
        (access::REFERENCE, Access::REFERENCE),
    ] {
        assert_eq!(bit, u64::from(flag.bits()));
    }
    for (bit, flag) in [
        (libc::CLONE_NEWNS, Namespaces::MOUNT),
        (libc::CLONE_NEWCGROUP, Namespaces::CGROUP),
        (libc::CLONE_NEWUTS, Namespaces::UTS),
        (libc::CLONE_NEWIPC, Namespaces::IPC),
        (libc::CLONE_NEWUSER, Namespaces::USER),
        (libc::CLONE_NEWPID, Namespaces::PID),
        (libc::CLONE_NEWNET, Namespaces::NET),
    ] {
        assert_eq!(u64::try_from(bit).unwrap(), flag.bits());
    }
}

#[test]
fn no_string_shares_a_bit_with_the_record() {
    let strings = (0..STRINGS).fold(0u32, |all, slot| {
        let bits = 0xf << (flags::PER_STRING * u32::try_from(slot).unwrap());
        assert_eq!(all & bits, 0);
        all | bits
    });
    assert_eq!(strings & (flags::HAS_RESULT | flags::AT_SYSCALL_EXIT), 0);
}
