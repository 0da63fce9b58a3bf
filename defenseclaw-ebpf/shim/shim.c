/*
 * Accessors for kernel struct fields. rustc emits no CO-RE relocations, clang does: each struct below names only the
 * fields we read, and the loader patches their offsets from the BTF of the running kernel. A field that this kernel
 * lacks fails the load of the programs that read it, unless it is asked for with `_exists` first.
 *
 * No logic here, and no anonymous or typedef'd structs (bpf-linker cannot merge them): nested types carry a `dc_` name,
 * which CO-RE does not compare.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define AI __attribute__((preserve_access_index))
#define INLINE __attribute__((always_inline))

static long (*bpf_probe_read_kernel)(void *dst, u32 size, const void *src) = (void *)113;

struct dc_counter { int counter; } AI;
struct dc_id { u32 val; } AI;

struct super_block { u32 s_dev; } AI;
struct inode { unsigned long i_ino; struct super_block *i_sb; u16 i_mode; } AI;
struct qstr { u32 len; const u8 *name; } AI;
struct hlist_bl_node { struct hlist_bl_node **pprev; } AI;
union dc_short { u8 string[32]; } AI;
struct dentry {
	struct hlist_bl_node d_hash;
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
	u8 d_iname[32];
	union dc_short d_shortname;
} AI;
struct vfsmount { struct dentry *mnt_root; } AI;
struct ns_common { u64 ns_id; } AI;
struct mount;
struct mnt_namespace { struct ns_common ns; struct mount *root; u64 seq, event; } AI;
struct mount { struct mount *mnt_parent; struct dentry *mnt_mountpoint; struct vfsmount mnt; void *mnt_ns; } AI;
struct path { struct vfsmount *mnt; struct dentry *dentry; } AI;
struct file { struct path f_path; struct inode *f_inode; u32 f_flags; u32 f_mode; void *private_data; } AI;

struct fdtable { u32 max_fds; struct file **fd; } AI;
struct files_struct { struct fdtable *fdt; } AI;
struct fs_struct { struct path pwd; } AI;
struct mm_struct { unsigned long arg_start, arg_end, env_start, env_end; struct file *exe_file; } AI;
struct signal_struct { struct dc_counter live; int group_exit_code; u32 flags; } AI;
struct nsproxy {
	void *uts_ns, *ipc_ns;
	struct mnt_namespace *mnt_ns;
	void *pid_ns_for_children, *net_ns, *time_ns, *time_ns_for_children, *cgroup_ns;
} AI;
struct cred { struct dc_id uid, gid, suid, sgid, euid, egid; void *user_ns; } AI;
struct thread_info { u32 status; } AI;
struct pid { u32 level; } AI;
struct kernfs_node { u64 id; } AI;
struct cgroup { struct kernfs_node *kn; } AI;
struct css_set { struct cgroup *dfl_cgrp; } AI;
struct task_struct {
	struct css_set *cgroups;
	struct thread_info thread_info;
	int pid, tgid, exit_code;
	u32 flags, ptrace;
	struct completion *vfork_done;
	struct task_struct *real_parent, *group_leader;
	u64 start_boottime;
	struct mm_struct *mm;
	struct fs_struct *fs;
	struct files_struct *files;
	struct signal_struct *signal;
	struct nsproxy *nsproxy;
	const struct cred *cred;
	struct pid *thread_pid;
	u32 in_execve : 1;
} AI;
struct linux_binprm { struct file *file; const char *filename, *interp; } AI;

struct sock { u16 sk_protocol, sk_type; } AI;
struct socket { struct sock *sk; } AI;
struct sockaddr_un { u16 sun_family; char sun_path[108]; } AI;
struct unix_address { int len; struct sockaddr_un name[]; } AI;
struct unix_sock { struct unix_address *addr; struct path path; struct sock *peer; } AI;
struct msghdr { void *msg_name; int msg_namelen; } AI;

/* Since Linux 6.19 hooks get this type instead of struct sockaddr, and of it the verifier knows the family only. */
struct sockaddr_unsized { u16 sa_family; } AI;
struct sockaddr { u16 sa_family; } AI;

struct perf_event_attr { u32 type; u64 config; } AI;

/* x86-64; `orig_ax` and the argument registers keep their values until the system call returns. */
struct pt_regs { unsigned long di, si, dx, r10, r8, r9, orig_ax; } AI;

/* Reads through a pointer the verifier does not know. */
#define GET(type, of, name, field) \
	INLINE type shim_##of##_##name(struct of *p) \
	{ \
		type v = 0; \
		bpf_probe_read_kernel(&v, sizeof(v), __builtin_preserve_access_index(&p->field)); \
		return v; \
	}
/* Address of an embedded field. */
#define ADDRESS(of, name, field) \
	INLINE void *shim_##of##_##name(struct of *p) { return (void *)__builtin_preserve_access_index(&p->field); }
/* Plain load, a tenth of the cost: only on arguments of a program and what was loaded from them in this way. */
#define LOAD(type, of, name, field) \
	INLINE type shim_##of##_##name##_direct(struct of *p) { return (type)p->field; }
#define EXISTS(of, name, field) \
	INLINE _Bool shim_##of##_##name##_exists(struct of *p) { return __builtin_preserve_field_info(p->field, 2); }

GET(u32, super_block, dev, s_dev)
GET(u64, inode, ino, i_ino)
GET(void *, inode, sb, i_sb)
GET(u16, inode, mode, i_mode)
LOAD(u64, inode, ino, i_ino)
LOAD(void *, inode, sb, i_sb)
LOAD(u16, inode, mode, i_mode)
LOAD(u32, super_block, dev, s_dev)

LOAD(u32, qstr, len, len)
LOAD(void *, qstr, name, name)
GET(void *, dentry, hashed, d_hash.pprev)
GET(void *, dentry, inode, d_inode)
LOAD(void *, dentry, parent, d_parent)
LOAD(u32, dentry, name_len, d_name.len)
LOAD(void *, dentry, name, d_name.name)
LOAD(void *, dentry, inode, d_inode)
LOAD(void *, dentry, hashed, d_hash.pprev)
GET(void *, vfsmount, root, mnt_root)
LOAD(void *, vfsmount, root, mnt_root)
LOAD(void *, mount, root, mnt.mnt_root)
GET(void *, mount, ns, mnt_ns)

#define OFFSET(of, field) __builtin_preserve_field_info(((struct of *)0)->field, 0)

/* Three fields at once: they stand together in every kernel we know, and a read costs by the call, not by the byte. */
struct dc_entry { void *parent; u32 hash, len; const void *name; };
INLINE void shim_dentry_entry(struct dentry *p, struct dc_entry *to)
{
	if (OFFSET(dentry, d_name.len) == OFFSET(dentry, d_parent) + 12
	    && OFFSET(dentry, d_name.name) == OFFSET(dentry, d_parent) + 16) {
		bpf_probe_read_kernel(to, sizeof(*to), __builtin_preserve_access_index(&p->d_parent));
	} else {
		bpf_probe_read_kernel(&to->parent, 8, __builtin_preserve_access_index(&p->d_parent));
		bpf_probe_read_kernel(&to->len, 4, __builtin_preserve_access_index(&p->d_name.len));
		bpf_probe_read_kernel(&to->name, 8, __builtin_preserve_access_index(&p->d_name.name));
	}
}
/* Where a dentry keeps a short name, 32 bytes at least. Since Linux 6.13 the field has another name. */
INLINE _Bool shim_dentry_short_exists(void)
{
	return __builtin_preserve_field_info(((struct dentry *)0)->d_iname, 2)
	       || __builtin_preserve_field_info(((struct dentry *)0)->d_shortname, 2);
}
INLINE u64 short_offset(void)
{
	if (__builtin_preserve_field_info(((struct dentry *)0)->d_iname, 2))
		return OFFSET(dentry, d_iname);
	return OFFSET(dentry, d_shortname);
}
/* Its first 16 bytes, if the name at `name` is that one. The offset goes through a register: as part of a load, whose width is
 * not that of the field, the loader would refuse it. */
INLINE _Bool shim_dentry_short_direct(void *p, const void *name, u64 *first, u64 *second)
{
	u64 offset = short_offset();
	asm volatile("" : "+r"(offset));
	p += offset;
	if (name != p)
		return 0;
	*first = *(volatile u64 *)p;
	*second = *(volatile u64 *)(p + 8);
	return 1;
}
struct dc_place { void *parent, *mountpoint, *root; };
INLINE void shim_mount_place(struct mount *p, struct dc_place *to)
{
	if (OFFSET(mount, mnt_mountpoint) == OFFSET(mount, mnt_parent) + 8
	    && OFFSET(mount, mnt.mnt_root) == OFFSET(mount, mnt_parent) + 16) {
		bpf_probe_read_kernel(to, sizeof(*to), __builtin_preserve_access_index(&p->mnt_parent));
	} else {
		bpf_probe_read_kernel(&to->parent, 8, __builtin_preserve_access_index(&p->mnt_parent));
		bpf_probe_read_kernel(&to->mountpoint, 8, __builtin_preserve_access_index(&p->mnt_mountpoint));
		bpf_probe_read_kernel(&to->root, 8, __builtin_preserve_access_index(&p->mnt.mnt_root));
	}
}
/* Number of a mount namespace, 0 for an anonymous one; it moved in Linux 6.18. */
GET(u64, mnt_namespace, seq, seq)
EXISTS(mnt_namespace, seq, seq)
GET(u64, mnt_namespace, id, ns.ns_id)
EXISTS(mnt_namespace, id, ns.ns_id)
/* container_of(mnt, struct mount, mnt) */
INLINE void *shim_vfsmount_mount(void *mnt)
{
	return (char *)mnt - __builtin_preserve_field_info(((struct mount *)0)->mnt, 0);
}
GET(void *, path, mnt, mnt)
GET(void *, path, dentry, dentry)
LOAD(void *, path, mnt, mnt)
LOAD(void *, path, dentry, dentry)

ADDRESS(file, path, f_path)
GET(void *, file, inode, f_inode)
GET(u32, file, flags, f_flags)
GET(u32, file, mode, f_mode)
GET(void *, file, private_data, private_data)
LOAD(void *, file, mnt, f_path.mnt)
LOAD(void *, file, dentry, f_path.dentry)
LOAD(void *, file, inode, f_inode)
LOAD(u32, file, flags, f_flags)
LOAD(u32, file, mode, f_mode)

GET(u32, fdtable, max_fds, max_fds)
GET(void *, fdtable, fd, fd)
GET(void *, files_struct, fdt, fdt)
ADDRESS(fs_struct, pwd, pwd)
LOAD(void *, fs_struct, pwd_mnt, pwd.mnt)
LOAD(void *, fs_struct, pwd_dentry, pwd.dentry)
LOAD(u64, mm_struct, arg_start, arg_start)
LOAD(u64, mm_struct, arg_end, arg_end)
LOAD(u64, mm_struct, env_start, env_start)
LOAD(u64, mm_struct, env_end, env_end)
LOAD(int, signal_struct, live, live.counter)
LOAD(int, signal_struct, group_exit_code, group_exit_code)
LOAD(u32, signal_struct, flags, flags)
GET(void *, nsproxy, uts, uts_ns)
GET(void *, nsproxy, ipc, ipc_ns)
GET(void *, nsproxy, mnt, mnt_ns)
GET(void *, nsproxy, pid, pid_ns_for_children)
GET(void *, nsproxy, net, net_ns)
GET(void *, nsproxy, time, time_ns)
GET(void *, nsproxy, time_for_children, time_ns_for_children)
GET(void *, nsproxy, cgroup, cgroup_ns)
GET(u32, cred, uid, uid.val)
GET(u32, cred, gid, gid.val)
GET(u32, cred, suid, suid.val)
GET(u32, cred, sgid, sgid.val)
GET(u32, cred, euid, euid.val)
GET(u32, cred, egid, egid.val)

GET(u32, task_struct, tgid, tgid)
GET(void *, task_struct, real_parent, real_parent)
GET(void *, task_struct, group_leader, group_leader)
GET(u64, task_struct, start_boottime, start_boottime)
GET(void *, task_struct, fs, fs)
GET(void *, task_struct, files, files)
GET(void *, task_struct, nsproxy, nsproxy)
GET(void *, task_struct, cred, cred)
GET(void *, task_struct, thread_pid, thread_pid)
GET(u32, pid, level, level)
LOAD(u32, task_struct, thread_status, thread_info.status)
EXISTS(task_struct, thread_status, thread_info.status)
LOAD(u32, task_struct, tgid, tgid)
LOAD(u64, task_struct, cgroup, cgroups->dfl_cgrp->kn->id)
EXISTS(task_struct, in_execve, in_execve)
/* A bit field: where it lies, how wide the word is, and where in it, is for the loader to say. */
INLINE _Bool shim_task_struct_in_execve_direct(struct task_struct *p)
{
	const void *at = (const void *)p + __builtin_preserve_field_info(p->in_execve, 0);
	u64 v = 0;

	switch (__builtin_preserve_field_info(p->in_execve, 1)) {
	case 1: v = *(const u8 *)at; break;
	case 2: v = *(const u16 *)at; break;
	case 4: v = *(const u32 *)at; break;
	case 8: v = *(const u64 *)at; break;
	}
	v <<= __builtin_preserve_field_info(p->in_execve, 4);
	return v >> __builtin_preserve_field_info(p->in_execve, 5);
}
LOAD(u32, task_struct, pid, pid)
LOAD(u32, task_struct, flags, flags)
LOAD(u32, task_struct, ptrace, ptrace)
LOAD(void *, task_struct, vfork_done, vfork_done)
LOAD(int, task_struct, exit_code, exit_code)
LOAD(void *, task_struct, real_parent, real_parent)
LOAD(void *, task_struct, group_leader, group_leader)
LOAD(u64, task_struct, start_boottime, start_boottime)
LOAD(void *, task_struct, mm, mm)
LOAD(void *, task_struct, fs, fs)
LOAD(void *, task_struct, signal, signal)
LOAD(void *, task_struct, nsproxy, nsproxy)
LOAD(void *, task_struct, cred, cred)
LOAD(u32, cred, uid, uid.val)
LOAD(u32, cred, gid, gid.val)
LOAD(u32, cred, euid, euid.val)
LOAD(u32, cred, egid, egid.val)
LOAD(void *, cred, user_ns, user_ns)
LOAD(void *, nsproxy, mnt, mnt_ns)
LOAD(void *, mnt_namespace, root, root)
LOAD(u64, mnt_namespace, event, event)
EXISTS(mnt_namespace, event, event)
LOAD(void *, linux_binprm, file, file)
LOAD(void *, linux_binprm, filename, filename)
LOAD(void *, linux_binprm, interp, interp)

GET(u16, sock, protocol, sk_protocol)
GET(u16, sock, type, sk_type)
LOAD(u16, sock, protocol, sk_protocol)
LOAD(u16, sock, type, sk_type)
GET(void *, socket, sk, sk)
LOAD(void *, socket, sk, sk)
GET(void *, unix_sock, addr, addr)
GET(void *, unix_sock, peer, peer)
ADDRESS(unix_sock, path, path)
GET(int, unix_address, len, len)
ADDRESS(unix_address, name, name)
INLINE _Bool shim_sockaddr_is_known(void)
{
	return !__builtin_preserve_type_info(*(struct sockaddr_unsized *)0, 0);
}
LOAD(u16, sockaddr, family, sa_family)
/* The rest is an array of bytes to the kernel: two of the port and four of an IPv4 address, then two without meaning. */
INLINE u64 shim_sockaddr_rest_direct(void *p) { return *(volatile u64 *)(p + 2); }
LOAD(void *, msghdr, name, msg_name)
LOAD(int, msghdr, namelen, msg_namelen)

GET(u32, perf_event_attr, type, type)
GET(u64, perf_event_attr, config, config)

LOAD(u64, pt_regs, nr, orig_ax)
LOAD(u64, pt_regs, arg0, di)
LOAD(u64, pt_regs, arg1, si)
LOAD(u64, pt_regs, arg2, dx)
LOAD(u64, pt_regs, arg3, r10)
LOAD(u64, pt_regs, arg4, r8)
LOAD(u64, pt_regs, arg5, r9)

/* Unaligned, which this target allows and Rust does not assume. */
INLINE u64 shim_word(const u8 *at) { return *(const volatile u64 *)at; }
INLINE void shim_put_word(u8 *at, u64 word) { *(volatile u64 *)at = word; }

/* Atomics, which Rust's BPF target does not offer. */
INLINE void shim_atomic_increment(u64 *cell) { __sync_fetch_and_add(cell, 1); }
INLINE u64 shim_atomic_exchange(u64 *cell, u64 value) { return __atomic_exchange_n(cell, value, __ATOMIC_RELAXED); }
