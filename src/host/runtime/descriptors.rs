//! File descriptors when there are none: some are kept back for the work on keys, and their lack has a name of its own.
//!
//! Whatever uses them up (a leak, a low limit, strangers at a listener), a pass still reads and writes the kernel's key file,
//! the sysctl.d file and status.json, and the service manager hears that the process is alive.

use std::error::Error;
use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use tfo_model::problem::Problem;

/// More than any step of a pass has open at once: two namespaces, a file and its directory, the notify socket.
const RESERVED: usize = 8;

/// Kind of the problem that there are no descriptors.
pub const EXHAUSTED: &str = "descriptors";

/// Descriptors that nothing else can take: given back for a step that needs them, and taken again after it.
#[derive(Debug, Default)]
pub struct Reserve(Vec<OwnedFd>);

impl Reserve {
    /// Makes room for the step that follows, which must not wait: another task of this process could take the room.
    pub fn release(&mut self) {
        self.0.clear();
    }

    /// Takes what is missing, as far as it is there.
    pub fn refill(&mut self) {
        while self.0.len() < RESERVED
            && let Ok(descriptor) = eventfd(0, EventfdFlags::CLOEXEC)
        {
            self.0.push(descriptor);
        }
    }

    /// Runs a step with room for it.
    pub fn lend<R>(&mut self, step: impl FnOnce() -> R) -> R {
        self.release();
        let done = step();
        self.refill();
        done
    }
}

/// Whether the cause of an error is that this process (EMFILE) or the system (ENFILE) has no descriptors left.
#[must_use]
pub fn is_exhausted(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let errno = error.downcast_ref::<io::Error>().and_then(Errno::from_io_error);
        if matches!(errno, Some(Errno::MFILE | Errno::NFILE)) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The problem that `error` led to; if there are no descriptors, that is its kind and its remedy, wherever it showed.
#[must_use]
pub fn problem_of(error: &(dyn Error + 'static), problem: Problem) -> Problem {
    if !is_exhausted(error) {
        return problem;
    }
    let remedy = "find what holds them (`ls -l /proc/PID/fd`; for the whole system, /proc/sys/fs/file-nr), or raise \
                  LimitNOFILE= in the unit; the agent tries again";
    Problem { kind: EXHAUSTED, remedy: remedy.to_owned(), ..problem }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::procfs::KernelError;

    #[test]
    fn the_lack_of_descriptors_is_seen_through_every_error_around_it() {
        let made = |errno: Errno| KernelError::Read { path: "/x".into(), source: errno.into() };
        let problem = || Problem::error("kernel_read", "m", "r").in_file("/x");
        for errno in [Errno::MFILE, Errno::NFILE] {
            let named = problem_of(&made(errno), problem());
            assert_eq!((named.kind, &*named.message, &named.file), (EXHAUSTED, "m", &Some("/x".into())));
            assert!(named.remedy.contains("LimitNOFILE"), "{named}");
        }
        assert_eq!(problem_of(&made(Errno::IO), problem()), problem());
        assert!(!is_exhausted(&KernelError::NoFile("/x".into())));
    }

    #[test]
    fn what_is_lent_is_taken_again() {
        let mut reserve = Reserve::default();
        reserve.refill();
        assert_eq!(reserve.0.len(), RESERVED);
        assert_eq!(reserve.lend(|| 7), 7);
        assert_eq!(reserve.0.len(), RESERVED);
        reserve.release();
        assert_eq!(reserve.0.len(), 0);
    }
}
