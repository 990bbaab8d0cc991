//! Notices that stdout has no reader any more: a closed pipe, a terminal that was hung up.
//!
//! A command that follows something must end then.  A failed write is not enough to notice it: such a command writes
//! only when something changes, and the screen ([`super::screen`]) does not report failed writes.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::report::Failure;

/// How often stdout is checked.
const CHECK_EVERY: Duration = Duration::from_millis(250);

/// Runs a command that follows something, and ends it as soon as stdout has no reader any more.
///
/// # Errors
/// Fails as `command` does, or with [`Failure::undelivered`].
pub async fn while_read<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        ended = command => ended,
        () = unread() => Err(Failure::undelivered(ErrorKind::BrokenPipe.into())),
    }
}

/// Returns once stdout has no reader any more.
async fn unread() {
    while !is_unread() {
        tokio::time::sleep(CHECK_EVERY).await;
    }
}

/// poll(2) reports `POLLERR` for a pipe without readers, and `POLLHUP` for a terminal that was hung up.
fn is_unread() -> bool {
    let stdout = io::stdout();
    // Errors and hang-ups are reported although no event is asked for.
    let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
    let polled = poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    polled.is_ok() && watched[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}
