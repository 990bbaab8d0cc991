//! Hardening of a process that holds keys: no core dump, no ptrace by its own user, no key in the swap.

use rustix::mm::{MlockAllFlags, mlockall, munlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use super::sys;

/// From this size on a block of memory is the kernel's again as soon as it is freed, in bytes: glibc's own first value.
const LARGE_BLOCK_BYTES: i32 = 128 << 10;
/// Below this limit a locked process would soon be refused memory (EAGAIN from mmap), in bytes.
const LOCK_LIMIT_MIN: u64 = 64 << 20;

/// Sets RLIMIT_CORE to 0 and makes the process not dumpable, so that keys reach no core file and no debugger of its user.
///
/// A refusal of the host is ignored: a key that could be dumped is better than no key.
pub fn forbid_dumps() {
    let no_core = Rlimit { current: Some(0), maximum: Some(0) };
    log_refusal("RLIMIT_CORE", setrlimit(Resource::Core, no_core).err());
    log_refusal("PR_SET_DUMPABLE", set_dumpable_behavior(DumpableBehavior::NotDumpable).err());
}

/// Raises the limit of open files to the allowed maximum, and returns it: a server has one for each connection.
pub fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    log_refusal("RLIMIT_NOFILE", setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).err());
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Keeps keys out of the swap, where that is allowed.
///
/// For daemons: mlockall waits for every processor to drain its page lists, which takes longer than a `once` has keys
/// in memory, and nothing is swapped out in that millisecond.
pub fn lock_memory() {
    lock_memory_within(LOCK_LIMIT_MIN);
}

/// The same for a server, which grows with its connections: only if no limit would refuse it memory later.
pub fn lock_growing_memory() {
    lock_memory_within(u64::MAX);
}

/// Gives memory back that a burst of connections has left free.
///
/// The kernel takes no locked page (madvise(2)), so all are unlocked for the milliseconds that this takes.
pub fn give_back_free_memory() {
    let locked = memory_may_be_locked(u64::MAX);
    if locked {
        log_refusal("munlockall", munlockall().err());
    }
    sys::give_back_free_pages();
    if locked {
        lock_growing_memory();
    }
}

/// Prepares the allocator of a server: large answers must leave nothing behind.
pub fn keep_large_blocks_apart() {
    sys::keep_large_blocks_apart(LARGE_BLOCK_BYTES);
}

fn lock_memory_within(limit_min: u64) {
    if memory_may_be_locked(limit_min) {
        // ONFAULT: lock pages as they are touched, instead of bringing in every page of the program.
        let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
        log_refusal("mlockall", mlockall(flags).err());
    }
}

fn memory_may_be_locked(limit_min: u64) -> bool {
    getrlimit(Resource::Memlock).current.is_none_or(|limit| limit >= limit_min)
        || capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK))
}

fn log_refusal(what: &str, refused: Option<rustix::io::Errno>) {
    if let Some(error) = refused {
        tracing::debug!(what, %error, "hardening step refused by the host");
    }
}
