//! The only `unsafe` of the package: system calls that rustix lacks.

#![expect(unsafe_code, reason = "the one exception: what rustix does not wrap")]

/// Whether the kernel's clock is synchronised: `adjtimex(2)` does not answer TIME_ERROR / STA_UNSYNC.
///
/// None if the call is not allowed (`ProtectClock=` without an exception for @clock).
#[must_use]
pub fn clock_synchronised() -> Option<bool> {
    // SAFETY: `timex` is a plain C struct for which all zeros is a valid value; modes = 0 asks and sets nothing.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live, writable timex of this frame.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    (state >= 0).then_some(state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0)
}

/// Registers a file descriptor that we own with the running event loop.
///
/// # Errors
/// Fails if the kernel cannot poll it.
pub fn watch(fd: std::os::fd::OwnedFd) -> std::io::Result<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>> {
    // SAFETY: an `OwnedFd` is valid until it is dropped, and `AsyncFd` never gives it away to be replaced.
    unsafe { tokio::io::unix::AsyncFd::register(fd) }.map_err(|error| error.into_parts().1)
}
