//! A person decides: the thread is stopped before the operation has happened, and the system call starts again when there is
//! an answer. A program is stopped after it was executed and before its first instruction, so that a parent in vfork goes on.
//!
//! `-ERESTARTNOINTR` is returned only together with a signal, in system calls that are known to start again as if nothing had
//! happened. Elsewhere the fallback applies, and user space may ask so that the next try passes. Nobody is asked here, and
//! nothing is remembered but what the maps hold.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    helpers::generated::{
        bpf_ktime_get_boot_ns, bpf_loop, bpf_probe_read_kernel, bpf_send_signal, bpf_send_signal_thread,
        bpf_task_pt_regs,
    },
    macros::map,
    maps::{Array, HashMap},
};
use defenseclaw_ebpf::{
    KINDS, Kind, access,
    asking::{
        GRANTS_MAX, GrantKey, Granted, HELD_RULE, PAUSES_MAX, Pause, STOPS_MAX, SYSCALLS, pause_flags, state,
        what,
    },
    image::{self, action, effect},
    namespace,
};

use crate::{
    emit::{Record, Ring},
    scope::{self, Actor},
    shim::*,
    sockaddr::{AF_INET, mapped},
    verdict::{self, Judged},
};

/// Threads that are stopped, by `tgid << 32 | tid`. Rows that user space replaces stay as they were until no program can be
/// reading them, so they are not taken from a pool.
#[map]
pub static PAUSES: HashMap<u64, Pause> = HashMap::with_max_entries(PAUSES_MAX as u32, BPF_F_NO_PREALLOC);
/// Answers that hold for more than once.
#[map]
pub static GRANTS: HashMap<GrantKey, Granted> = HashMap::with_max_entries(GRANTS_MAX as u32, 0);
/// For each system call, in which kinds of operations it may be stopped.
#[map]
pub static PAUSABLE: Array<u64> = Array::with_max_entries(SYSCALLS as u32, 0);
/// Not 0: somebody is there who asks.
#[map]
pub static ASKING: Array<u32> = Array::with_max_entries(1, 0);

const SIGSTOP: u32 = 19;
const SIGKILL: u32 = 9;
const EPERM: i32 = 1;
const ERESTARTNOINTR: i32 = 513;
/// Exiting, workers of io_uring and of the kernel.
const NOT_STOPPED: u32 = 0x4 | 0x10 | 0x4000 | 0x20_0000;
/// `TS_COMPAT` and `__X32_SYSCALL_BIT`: other numbers.
const TS_COMPAT: u32 = 2;
const X32: u64 = 0x4000_0000;
const KILL: u64 = 62;
const O_EXCL: u64 = 0o200;

/// Hooks of one system call that ask about the same object, as bits of [`Pause::used`].
mod hook {
    pub const MAKE: u32 = 1;
    pub const OPEN: u32 = 1 << 1;
    pub const TRUNCATE: u32 = 1 << 2;
    pub const CGROUP: u32 = 1 << 3;
    pub const OTHER: u32 = 1 << 4;
}

/// What a question needs to be kept in: too much for a stack of 512 bytes, and what lies in a map the verifier does not follow.
#[repr(C)]
pub struct Asked {
    pause: Pause,
    grant: GrantKey,
    text: Text,
}

/// What a hook asks about.
struct Question {
    /// In the record's buffer.
    asked: *mut Asked,
    key: u64,
    hook: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// It may happen.
    Allow,
    /// A program that is about to start may be mapped.
    Starting,
    /// It may not.
    Block,
    /// Woken by somebody else.
    Wait,
    /// There is none.
    None,
}

impl Question {
    #[inline(always)]
    fn new(asked: *mut Asked, actor: &Actor, judged: &Judged, kind: u32, object: u64) -> Self {
        // SAFETY: the label stays in the map as long as its task, which is the current one, runs this program.
        let (session, mut start_ns) = unsafe { ((*actor.label).session, (*actor.label).start_ns) };
        if start_ns == 0 {
            start_ns = scope::start_ns_direct(actor.task);
        }
        let flags = if judged.falls_back_to_allow() { pause_flags::FALLBACK_ALLOW } else { 0 };
        // SAFETY: the caller has the place to itself; the helper has no preconditions.
        unsafe {
            let pause = &raw mut (*asked).pause;
            (*pause).object = object;
            (*pause).start_ns = start_ns;
            (*pause).since_ns = bpf_ktime_get_boot_ns();
            (*pause).session = session;
            (*pause).generation = judged.generation();
            (*pause).what = what::KIND | about(kind);
            (*pause).rule = judged.rule();
            (*pause).used = core::hint::black_box(0);
            (*pause).stops = core::hint::black_box(0);
            (*pause).flags = flags;
        }
        let key = key(actor.tgid, shim_task_struct_pid_direct(actor.task));
        Self { asked, key, hook: hook::OTHER }
    }

    #[inline(always)]
    fn pause(&mut self) -> &mut Pause {
        // SAFETY: the place is ours as long as the record.
        unsafe { &mut (*self.asked).pause }
    }

    #[inline(always)]
    fn is_about_held(&mut self) -> bool {
        self.pause().rule == u32::from(HELD_RULE)
    }

    /// What was answered already.
    #[inline(always)]
    fn answer(&mut self) -> Answer {
        if self.is_about_held() {
            return Answer::Wait;
        }
        let (key, hook) = (self.key, self.hook);
        let question = self.pause();
        if let Some(pause) = PAUSES.get_ptr_mut(&key) {
            // SAFETY: the row lies in the map; user space replaces it as a whole while the thread is stopped.
            let pause = unsafe { &mut *pause };
            let effects = pause.what | question.what;
            let covered = pause.what == question.what || effects & what::KIND == 0 && effects == pause.what;
            if pause.object == question.object && pause.start_ns == question.start_ns && covered {
                if pause.state == state::STARTING {
                    return Answer::Starting;
                }
                if pause.state == state::BLOCK {
                    PAUSES.remove(&key).ok();
                    return Answer::Block;
                }
                if pause.state == state::ALLOW {
                    if pause.used & hook == 0 {
                        pause.used |= hook;
                        return Answer::Allow;
                    }
                    // Once was enough; this is the next one.
                    PAUSES.remove(&key).ok();
                } else if pause.state != state::WAITING {
                    // Refused before; there may be a grant now.
                } else if pause.stops >= STOPS_MAX {
                    PAUSES.remove(&key).ok();
                    return Answer::Block;
                } else {
                    pause.stops += 1;
                    return Answer::Wait;
                }
            }
        }
        // SAFETY: the place is ours as long as the record.
        let granted = unsafe {
            let grant = &raw mut (*self.asked).grant;
            let pause = &raw const (*self.asked).pause;
            (*grant).session = (*pause).session;
            (*grant).object = (*pause).object;
            (*grant).generation = (*pause).generation;
            (*grant).what = (*pause).what;
            (*grant).rule = (*pause).rule;
            GRANTS.get_ptr(&*grant)
        };
        let Some(granted) = granted else { return Answer::None };
        // SAFETY: the row lies in the map; the helper has no preconditions.
        unsafe {
            if (*granted).expires_ns < bpf_ktime_get_boot_ns() {
                Answer::None
            } else if (*granted).allow != 0 {
                Answer::Allow
            } else {
                Answer::Block
            }
        }
    }

    /// Whether there is room to wait.
    #[inline(always)]
    fn begin(&mut self, state: u32, flags: u32) -> bool {
        let key = self.key;
        let pause = self.pause();
        pause.state = state;
        pause.flags |= flags;
        PAUSES.insert(&key, &*pause, 0).is_ok()
    }

    /// Of one that could not be asked: whether somebody may be asked now, so that the next try passes.
    #[inline(always)]
    fn refuse(&mut self) -> bool {
        !self.is_about_held() && asking() && !is_starting(self.key) && self.begin(state::REFUSED, 0)
    }

    #[inline(always)]
    fn end(&self) {
        PAUSES.remove(&self.key).ok();
    }
}

#[inline(always)]
const fn key(tgid: u32, tid: u32) -> u64 {
    (tgid as u64) << 32 | tid as u64
}

/// Whether somebody is there who asks.
#[inline(always)]
pub fn asking() -> bool {
    ASKING.get(0).is_some_and(|asking| *asking != 0)
}

/// Whether the current task can be stopped in this system call, for an operation of this kind.
#[inline(always)]
fn may_stop(task: Ptr, kind: u32) -> bool {
    if !asking()
        || shim_task_struct_flags_direct(task) & NOT_STOPPED != 0
        // A tracer would see the stop, and could take it away.
        || shim_task_struct_ptrace_direct(task) != 0
        || shim_task_struct_thread_status_exists(task)
            && shim_task_struct_thread_status_direct(task) & TS_COMPAT != 0
        // Its parent waits for it, and would be stopped as well.
        || kind != Kind::ProcessExec as u32 && !shim_task_struct_vfork_done_direct(task).is_null()
    {
        return false;
    }
    // SAFETY: the task is the current one, known to the verifier.
    let registers = unsafe { bpf_task_pt_regs(task.cast()) } as Ptr;
    let number = shim_pt_regs_nr_direct(registers);
    if number & X32 != 0 || number >= SYSCALLS as u64 {
        return false;
    }
    // Of several processes some have the signal already.
    if number == KILL && shim_pt_regs_arg0_direct(registers) as i32 <= 0 {
        return false;
    }
    PAUSABLE.get(number as u32).is_some_and(|kinds| kinds >> (kind & 63) & 1 != 0)
}

/// Stops the current process when this system call is left, which is what `-ERESTARTNOINTR` is then for. The signal goes to
/// the thread, although it stops all: one to the process may find another thread's pending and be dropped, and then this thread
/// would not look for signals on its way out, and the error would get there.
#[inline(always)]
fn stop() -> i32 {
    // SAFETY: takes a number.
    if unsafe { bpf_send_signal_thread(SIGSTOP) } == 0 { -ERESTARTNOINTR } else { -EPERM }
}

/// Ends the current process, which runs already what it may not.
#[inline(always)]
pub fn kill() {
    // SAFETY: takes a number.
    unsafe { bpf_send_signal(SIGKILL) };
}

/// Asks about the operation that a parked record describes, and is what the LSM program returns. A function of its own for the
/// verifier, too: it goes through it once for each program and not for each way that leads here.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn pause_operation(slot: u32) -> i32 {
    let Some(actor) = &scope::current() else { return -EPERM };
    let Some((mut record, judged)) = Record::unpark(slot) else { return -EPERM };
    let (record, judged) = (&mut record, &judged);
    let kind = record.kind();
    let arguments = record.arguments();
    let asked = record.asked();
    let object = object(record, kind, &arguments);
    let mut question = Question::new(asked, actor, judged, kind, object);
    let mut restarts = true;
    if kind == Kind::FileOpen as u32 {
        let opened_for = arguments[0];
        question.pause().what = effects_of(opened_for);
        question.hook = if arguments[2] == 0 { hook::MAKE } else { hook::OPEN };
        if arguments[2] == 0 {
            // What a new file is opened for besides is not asked again.
            question.pause().what |= u32::from(effect::READ | effect::WRITE);
        }
        // The file is there now, so the call would fail.
        restarts = opened_for & access::CREATE == 0 || arguments[2] == 0 || arguments[3] & O_EXCL == 0;
    } else if kind == Kind::FileTruncate as u32 {
        (question.pause().what, question.hook) = (u32::from(effect::WRITE), hook::TRUNCATE);
    } else if kind == Kind::Namespace as u32 {
        // Other hooks of that kind are asked for a capability, and what they return is lost.
        restarts = arguments[0] == namespace::USER_CREATE;
    }
    let known = question.answer();
    if known == Answer::Starting {
        record.let_go();
        return 0;
    }
    if known == Answer::Allow || known == Answer::Block {
        return answered(record, judged, known);
    }
    if restarts && may_stop(actor.task, kind) {
        if known == Answer::Wait {
            record.let_go();
            return stop();
        }
        if question.begin(state::WAITING, 0) {
            record.verdict(judged);
            if record.hand_over(Ring::Priority) {
                judged.count();
                let answer = stop();
                if answer == -EPERM {
                    question.end();
                }
                return answer;
            }
            question.end();
            // What cannot be written down cannot be asked.
            return judged.carry_out();
        }
    }
    fall_back(record, judged, &mut question)
}

/// There is an answer.
#[inline(always)]
fn answered(record: &mut Record, judged: &Judged, known: Answer) -> i32 {
    let allowed = known == Answer::Allow;
    let done = judged.with_action(if allowed { action::ALLOW } else { action::BLOCK });
    record.verdict(&done);
    record.hand_over(Ring::of(&done));
    done.count();
    if allowed { 0 } else { -EPERM }
}

/// There is none, and nobody can wait for it here.
#[inline(always)]
fn fall_back(record: &mut Record, judged: &Judged, question: &mut Question) -> i32 {
    if judged.falls_back_to_allow() {
        record.verdict(&judged.with_action(action::ALLOW));
        record.hand_over(Ring::Bulk);
        return 0;
    }
    let done = judged.with_action(action::BLOCK).asking(question.refuse());
    record.verdict(&done);
    record.hand_over(Ring::of(&done));
    done.count();
    -EPERM
}

/// What was said of an address, to a program of the cgroup, which cannot stop anybody: an action, and 8 besides if somebody
/// may be asked so that the next try passes.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn pause_address(entry: u64, generation: u64, object: u64, kind: u32) -> u32 {
    let judged = Judged::from_words(entry, generation);
    let Some(actor) = &scope::current() else { return u32::from(action::BLOCK) };
    let mut asked = core::mem::MaybeUninit::<Asked>::uninit();
    let mut question = Question::new(asked.as_mut_ptr(), actor, &judged, kind, object);
    question.hook = hook::CGROUP;
    match question.answer() {
        Answer::Allow => u32::from(action::ALLOW),
        Answer::Block => u32::from(action::BLOCK),
        Answer::None | Answer::Wait | Answer::Starting if judged.falls_back_to_allow() => {
            u32::from(action::ALLOW)
        }
        Answer::None | Answer::Wait | Answer::Starting => {
            u32::from(action::BLOCK) | if question.refuse() { 8 } else { 0 }
        }
    }
}

/// The same, of what was judged.
#[inline(always)]
pub fn settled_address(kind: Kind, judged: &Judged, object: u64) -> Judged {
    let (entry, generation) = judged.words();
    let found = pause_address(entry, generation, object, kind as u32);
    judged.with_action(found as u8 & 7).asking(found & 8 != 0)
}

/// The object of a question about an address: the one that is reached.
#[inline(always)]
pub fn address_object(high: u64, low: u64, port: u64) -> u64 {
    let low = match (high, low) {
        (0, 0) => 1,
        (0, 0xffff_0000_0000) => 0xffff_7f00_0001,
        _ => low,
    };
    image::mix(image::address(verdict::seed(), high, low, 128), port)
}

/// A program that may start only if somebody says so: it starts, and is stopped then. What the LSM program returns.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn pause_start(slot: u32) -> i32 {
    let Some(actor) = &scope::current() else { return -EPERM };
    let Some((mut record, judged)) = Record::unpark(slot) else { return -EPERM };
    let (record, judged) = (&mut record, &judged);
    const EXEC: u32 = Kind::ProcessExec as u32;
    let asked = record.asked();
    let object = object(record, EXEC, &[0; 4]);
    let mut question = Question::new(asked, actor, judged, EXEC, object);
    // Whoever executes becomes the leader.
    question.key = key(actor.tgid, actor.tgid);
    question.pause().what = u32::from(effect::EXEC);
    let known = question.answer();
    if known == Answer::Starting {
        record.let_go();
        return 0;
    }
    if known == Answer::Allow || known == Answer::Block {
        return answered(record, judged, known);
    }
    // A script whose interpreter is asked about as well: there is one question at a time.
    let first = !is_starting(question.key);
    if first && may_stop(actor.task, EXEC) && question.begin(state::STARTING, pause_flags::HELD) {
        record.let_go();
        return 0;
    }
    fall_back(record, judged, &mut question)
}

#[inline(always)]
fn is_starting(key: u64) -> bool {
    // SAFETY: the row lies in the map.
    PAUSES.get_ptr(&key).is_some_and(|pause| unsafe { (*pause).state } == state::STARTING)
}

/// A program is about to be looked at: what is left of one that did not start goes. A function of its own, because the stack of
/// who calls it is nearly full.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn pause_forget_start() -> u32 {
    let Some(actor) = &scope::current() else { return 0 };
    let key = key(actor.tgid, actor.tgid);
    if is_starting(key) {
        PAUSES.remove(&key).ok();
    }
    0
}

/// A program has started. Says whether it is to be stopped, and writes into its record why.
#[inline(never)]
pub fn started(record: &mut Record, actor: &Actor) -> bool {
    let Some(pause) = PAUSES.get_ptr_mut(&key(actor.tgid, actor.tgid)) else { return false };
    // SAFETY: the row lies in the map, and its thread is the current one.
    let pause = unsafe { &mut *pause };
    if pause.state != state::STARTING {
        return false;
    }
    pause.state = state::WAITING;
    record.verdict(&Judged::of_rule(pause.rule, pause.generation, action::CONFIRM));
    true
}

/// Stops the program whose record was handed over, before its first instruction; or what the fallback says if it was not.
#[inline(always)]
pub fn hold(actor: &Actor, handed_over: bool) {
    let key = key(actor.tgid, actor.tgid);
    // SAFETY: the row lies in the map.
    let allow = PAUSES
        .get_ptr(&key)
        .is_some_and(|pause| unsafe { (*pause).flags } & pause_flags::FALLBACK_ALLOW != 0);
    if handed_over {
        // SAFETY: the label is that of the current task. Looked at by `verdict::policy`.
        unsafe { (*actor.label.cast_mut()).held = 1 };
        // SAFETY: takes a number.
        if unsafe { bpf_send_signal_thread(SIGSTOP) } == 0 {
            return;
        }
    }
    PAUSES.remove(&key).ok();
    if !allow {
        kill();
    }
}

/// Whether a program that was held is still to be; once it is not, nobody asks again.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn pause_is_held() -> u32 {
    let Some(actor) = &scope::current() else { return 0 };
    let held = PAUSES.get_ptr(&key(actor.tgid, actor.tgid)).is_some_and(|pause| {
        // SAFETY: the row lies in the map.
        let pause = unsafe { &*pause };
        pause.flags & pause_flags::HELD != 0 && pause.state == state::WAITING
    });
    if !held {
        // SAFETY: the label is that of the current task.
        unsafe { (*actor.label.cast_mut()).held = 0 };
    }
    u32::from(held)
}

/// Several ways to reach for an address.
#[inline(always)]
fn about(kind: u32) -> u32 {
    if kind == Kind::NetSend as u32 { Kind::NetConnect as u32 } else { kind }
}

/// Effects of an open, as what is asked about.
#[inline(always)]
fn effects_of(opened_for: u64) -> u32 {
    let mut effects = 0;
    if opened_for & access::READ != 0 {
        effects |= effect::READ;
    }
    if opened_for & (access::WRITE | access::TRUNCATE | access::APPEND) != 0 {
        effects |= effect::WRITE;
    }
    if opened_for & access::CREATE != 0 {
        effects |= effect::CREATE;
    }
    if opened_for & (access::EXECUTE | access::MAP_EXECUTE) != 0 {
        effects |= effect::EXEC;
    }
    u32::from(effects)
}

/// Which arguments tell one object from another, by kind: bits.
static TELLING: [u8; KINDS] = {
    let mut telling = [0; KINDS];
    telling[Kind::FileChmod as usize] = 1;
    telling[Kind::FileChown as usize] = 1;
    telling[Kind::FileRename as usize] = 1;
    telling[Kind::FileMknod as usize] = 0b1001;
    telling[Kind::Mount as usize] = 1;
    telling[Kind::Bpf as usize] = 1;
    telling[Kind::ModuleLoad as usize] = 1;
    telling[Kind::SocketCreate as usize] = 1;
    telling[Kind::Ptrace as usize] = 0b111;
    telling[Kind::Signal as usize] = 0b111;
    telling[Kind::Namespace as usize] = 0b11;
    telling[Kind::PerfOpen as usize] = 0b11;
    telling[Kind::CredChange as usize] = 0b101;
    telling
};

/// Hash of what a record is about: its strings and the arguments that tell one object from another.
#[inline(always)]
fn object(record: &Record, kind: u32, arguments: &[u64; 4]) -> u64 {
    if kind == Kind::NetConnect as u32 || kind == Kind::NetSend as u32 || kind == Kind::NetBind as u32 {
        let (high, low) = if arguments[0] as u16 == AF_INET {
            (0, mapped(arguments[2] as u32))
        } else {
            (u64::from_be(arguments[2]), u64::from_be(arguments[3]))
        };
        return address_object(high, low, arguments[1]);
    }
    let (strings, len) = record.strings(kind == Kind::ProcessExec as u32);
    // SAFETY: the place is ours as long as the record; `word` has the signature the helper calls.
    let mut hash = unsafe {
        let text = &raw mut (*record.asked()).text;
        (*text).hash = verdict::seed();
        (*text).at = strings as u64;
        (*text).left = len;
        let mut context = text;
        bpf_loop(1 << 11, word as *mut c_void, (&raw mut context).cast(), 0);
        image::finish((*text).hash, len)
    };
    // SAFETY: the masked index lies in the array. Volatile, or it would be a chain of comparisons.
    let telling =
        unsafe { (&raw const TELLING).cast::<u8>().add(kind as usize & (KINDS - 1)).read_volatile() };
    let mut at = 0;
    while at < 4 {
        if telling >> at & 1 != 0 {
            hash = image::mix(hash, arguments[at]);
        }
        at += 1;
    }
    hash
}

#[repr(C)]
struct Text {
    hash: u64,
    /// A number: the helper below checks it, not the verifier.
    at: u64,
    left: u32,
}

unsafe extern "C" fn word(_index: u64, context: *mut c_void) -> i64 {
    // SAFETY: the helper passes the pointer to a `Text` that `object` gave it.
    let text = unsafe { &mut **context.cast::<*mut Text>() };
    if text.left == 0 {
        return 1;
    }
    let mut word = 0_u64;
    let len = if text.left < 8 { text.left & 7 } else { 8 };
    // SAFETY: the word is ours and as long; the helper checks the source.
    unsafe { bpf_probe_read_kernel((&raw mut word).cast(), len, text.at as *const c_void) };
    text.hash = image::mix(text.hash, word);
    text.at += 8;
    text.left -= len;
    0
}
