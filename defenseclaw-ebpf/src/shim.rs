//! Rust declarations of the accessors in `shim/shim.c`. No logic.
//!
//! Every function takes a kernel pointer and cannot fault: reads go through `bpf_probe_read_kernel` (0 on failure) or,
//! those named `_direct`, through a load that the verifier allows only on the program's own typed arguments. So they
//! are declared safe here, and what they return is data to be checked like any other.

use core::ffi::c_void;

/// A kernel pointer. Never dereferenced in Rust.
pub type Ptr = *mut c_void;

/// What a path takes from a dentry.
#[repr(C)]
pub struct Entry {
    pub parent: Ptr,
    hash: u32,
    pub len: u32,
    pub name: Ptr,
}

/// What a path takes from a mount.
#[repr(C)]
pub struct Place {
    pub parent: Ptr,
    pub mountpoint: Ptr,
    pub root: Ptr,
}

macro_rules! accessors {
    ($($name:ident -> $type:ty;)*) => {
        unsafe extern "C" { $(pub(crate) safe fn $name(pointer: Ptr) -> $type;)* }
    };
}

accessors! {
    shim_cred_egid -> u32;
    shim_cred_egid_direct -> u32;
    shim_cred_euid -> u32;
    shim_cred_euid_direct -> u32;
    shim_cred_gid -> u32;
    shim_cred_gid_direct -> u32;
    shim_cred_sgid -> u32;
    shim_cred_suid -> u32;
    shim_cred_uid -> u32;
    shim_cred_uid_direct -> u32;
    shim_cred_user_ns_direct -> Ptr;
    shim_dentry_hashed -> Ptr;
    shim_dentry_hashed_direct -> Ptr;
    shim_dentry_inode -> Ptr;
    shim_dentry_inode_direct -> Ptr;
    shim_dentry_name_direct -> Ptr;
    shim_dentry_name_len_direct -> u32;
    shim_dentry_parent_direct -> Ptr;
    shim_fdtable_fd -> Ptr;
    shim_fdtable_max_fds -> u32;
    shim_file_dentry_direct -> Ptr;
    shim_file_flags -> u32;
    shim_file_flags_direct -> u32;
    shim_file_inode -> Ptr;
    shim_file_inode_direct -> Ptr;
    shim_file_mnt_direct -> Ptr;
    shim_file_mode -> u32;
    shim_file_mode_direct -> u32;
    shim_file_path -> Ptr;
    shim_file_private_data -> Ptr;
    shim_files_struct_fdt -> Ptr;
    shim_fs_struct_pwd -> Ptr;
    shim_fs_struct_pwd_dentry_direct -> Ptr;
    shim_fs_struct_pwd_mnt_direct -> Ptr;
    shim_inode_ino -> u64;
    shim_inode_ino_direct -> u64;
    shim_inode_mode -> u16;
    shim_inode_mode_direct -> u16;
    shim_inode_sb -> Ptr;
    shim_inode_sb_direct -> Ptr;
    shim_linux_binprm_file_direct -> Ptr;
    shim_linux_binprm_filename_direct -> Ptr;
    shim_linux_binprm_interp_direct -> Ptr;
    shim_mm_struct_arg_end_direct -> u64;
    shim_mm_struct_arg_start_direct -> u64;
    shim_mm_struct_env_end_direct -> u64;
    shim_mm_struct_env_start_direct -> u64;
    shim_mnt_namespace_event_direct -> u64;
    shim_mnt_namespace_event_exists -> bool;
    shim_mnt_namespace_id -> u64;
    shim_mnt_namespace_id_exists -> bool;
    shim_mnt_namespace_root_direct -> Ptr;
    shim_mnt_namespace_seq -> u64;
    shim_mnt_namespace_seq_exists -> bool;
    shim_mount_ns -> Ptr;
    shim_mount_root_direct -> Ptr;
    shim_msghdr_name_direct -> Ptr;
    shim_msghdr_namelen_direct -> i32;
    shim_nsproxy_cgroup -> Ptr;
    shim_nsproxy_ipc -> Ptr;
    shim_nsproxy_mnt -> Ptr;
    shim_nsproxy_mnt_direct -> Ptr;
    shim_nsproxy_net -> Ptr;
    shim_nsproxy_pid -> Ptr;
    shim_nsproxy_time -> Ptr;
    shim_nsproxy_time_for_children -> Ptr;
    shim_nsproxy_uts -> Ptr;
    shim_path_dentry -> Ptr;
    shim_path_dentry_direct -> Ptr;
    shim_path_mnt -> Ptr;
    shim_pid_level -> u32;
    shim_path_mnt_direct -> Ptr;
    shim_perf_event_attr_config -> u64;
    shim_perf_event_attr_type -> u32;
    shim_pt_regs_arg0_direct -> u64;
    shim_pt_regs_arg1_direct -> u64;
    shim_pt_regs_arg2_direct -> u64;
    shim_pt_regs_arg3_direct -> u64;
    shim_pt_regs_arg4_direct -> u64;
    shim_pt_regs_arg5_direct -> u64;
    shim_pt_regs_nr_direct -> u64;
    shim_task_struct_flags_direct -> u32;
    shim_task_struct_ptrace_direct -> u32;
    shim_task_struct_vfork_done_direct -> Ptr;
    shim_qstr_len_direct -> u32;
    shim_qstr_name_direct -> Ptr;
    shim_signal_struct_flags_direct -> u32;
    shim_signal_struct_group_exit_code_direct -> i32;
    shim_signal_struct_live_direct -> i32;
    shim_sock_protocol -> u16;
    shim_sock_protocol_direct -> u16;
    shim_sock_type -> u16;
    shim_sock_type_direct -> u16;
    shim_socket_sk -> Ptr;
    shim_socket_sk_direct -> Ptr;
    shim_super_block_dev -> u32;
    shim_super_block_dev_direct -> u32;
    shim_sockaddr_rest_direct -> u64;
    shim_sockaddr_family_direct -> u16;
    shim_task_struct_cgroup_direct -> u64;
    shim_task_struct_cred -> Ptr;
    shim_task_struct_cred_direct -> Ptr;
    shim_task_struct_exit_code_direct -> i32;
    shim_task_struct_files -> Ptr;
    shim_task_struct_fs -> Ptr;
    shim_task_struct_fs_direct -> Ptr;
    shim_task_struct_group_leader -> Ptr;
    shim_task_struct_group_leader_direct -> Ptr;
    shim_task_struct_mm_direct -> Ptr;
    shim_task_struct_nsproxy -> Ptr;
    shim_task_struct_nsproxy_direct -> Ptr;
    shim_task_struct_pid_direct -> u32;
    shim_task_struct_real_parent -> Ptr;
    shim_task_struct_real_parent_direct -> Ptr;
    shim_task_struct_signal_direct -> Ptr;
    shim_task_struct_start_boottime -> u64;
    shim_task_struct_start_boottime_direct -> u64;
    shim_task_struct_tgid -> u32;
    shim_task_struct_tgid_direct -> u32;
    shim_task_struct_thread_pid -> Ptr;
    shim_task_struct_thread_status_direct -> u32;
    shim_task_struct_thread_status_exists -> bool;
    shim_task_struct_in_execve_direct -> bool;
    shim_task_struct_in_execve_exists -> bool;
    shim_unix_address_len -> i32;
    shim_unix_address_name -> Ptr;
    shim_unix_sock_addr -> Ptr;
    shim_unix_sock_path -> Ptr;
    shim_unix_sock_peer -> Ptr;
    shim_vfsmount_mount -> Ptr;
    shim_vfsmount_root -> Ptr;
    shim_vfsmount_root_direct -> Ptr;
}

unsafe extern "C" {
    /// Whether hooks get addresses as a type of which the verifier knows the first 16 bytes.
    pub(crate) safe fn shim_sockaddr_is_known() -> bool;
    /// Whether this kernel keeps short names where we know.
    pub(crate) safe fn shim_dentry_short_exists() -> bool;
    /// Whether `name` is the short name of the dentry; then its first 16 bytes.
    pub(crate) fn shim_dentry_short_direct(dentry: Ptr, name: Ptr, first: *mut u64, second: *mut u64)
    -> bool;
    /// Reads the fields of `to` from a dentry; all zero on failure.
    pub(crate) fn shim_dentry_entry(dentry: Ptr, to: *mut Entry);
    /// Reads the fields of `to` from a `struct mount`; all zero on failure.
    pub(crate) fn shim_mount_place(mount: Ptr, to: *mut Place);
    /// Eight bytes of a map, at any address. Rust would put them together byte by byte.
    pub(crate) fn shim_word(at: *const u8) -> u64;
    /// The same way back.
    pub(crate) fn shim_put_word(at: *mut u8, word: u64);
    /// Adds 1 to a word of a map.
    pub(crate) fn shim_atomic_increment(cell: *mut u64);
    /// Stores `value` into a word of a map and returns what was there.
    pub(crate) fn shim_atomic_exchange(cell: *mut u64, value: u64) -> u64;
}
