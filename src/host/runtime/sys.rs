//! The only `unsafe` of the package: system calls that rustix lacks.

#![expect(unsafe_code, reason = "the one exception: what rustix does not wrap")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::thread::UnshareFlags;

// The unwinder from the archive, in front of std's libgcc_s: a library less to load at every start of `once`.
#[link(name = "gcc_eh")]
unsafe extern "C" {}

// Set by the linker: where this program starts, and where its code ends.
unsafe extern "C" {
    static __executable_start: u8;
    static etext: u8;
}

/// Gives the pages of this program's code back; those that are still used are mapped again when they are touched.
///
/// For daemons that have started: most of the code was for that.  It is on disk, so no key is in it, and it need not be
/// locked.
pub fn release_code() {
    let (start, length) = code();
    // SAFETY: the range is this program's own mapping, and munlock changes no byte of it.
    let unlocked = unsafe { libc::munlock(start, length) };
    if unlocked != 0 {
        tracing::debug!("the program's code stays locked");
    }
    // SAFETY: the range is read-only and mapped from this program's file, so dropping its pages loses nothing.
    if unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) } != 0 {
        tracing::debug!("the kernel takes no advice about the program's code");
    }
}

/// Makes the allocator take large blocks from the kernel one by one, and so give each back when it is freed.
///
/// By itself glibc stops doing that for sizes that were freed once (mallopt(3), `M_MMAP_THRESHOLD`).
pub fn keep_large_blocks_apart(bytes_min: i32) {
    // SAFETY: sets one number of the allocator, under its own lock.
    let set = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, bytes_min) };
    if set != 1 {
        tracing::debug!("the allocator keeps its own threshold for large blocks");
    }
}

/// Gives the allocator's free pages back to the kernel, as far as they are not locked.
pub fn give_back_free_pages() {
    // SAFETY: touches only memory that is free, under the allocator's own locks.
    unsafe { libc::malloc_trim(0) };
}

/// Read-only pages from the program's file: where they start, and how long they are.
fn code() -> (*mut libc::c_void, usize) {
    let page = rustix::param::page_size();
    let start = (&raw const __executable_start).addr() & !(page - 1);
    // Whole pages only: after the last one data may follow.
    let end = (&raw const etext).addr() & !(page - 1);
    (std::ptr::without_provenance_mut(start), end - start)
}

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

/// Moves the calling thread (for a user namespace: the process, which must have one thread) into new namespaces: `unshare(2)`.
///
/// # Errors
/// Fails as `unshare(2)` does: EPERM without CAP_SYS_ADMIN or where user namespaces are forbidden, EINVAL for what a process with threads
/// cannot do, ENOSPC beyond `user.max_*_namespaces`.
pub fn unshare(namespaces: UnshareFlags) -> Result<(), rustix::io::Errno> {
    assert!(!namespaces.contains(UnshareFlags::FILES), "descriptors would mean other files on other threads");
    // SAFETY: the one flag that breaks I/O safety, FILES, is excluded above.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
}

/// Switches TCP Fast Open on for a listener, with this many connections that may wait: `TCP_FASTOPEN`, `tcp(7)`.
///
/// # Errors
/// Fails if the descriptor is not a TCP socket that may listen.
pub fn set_tcp_fastopen_queue(socket: BorrowedFd<'_>, connections_max: libc::c_int) -> io::Result<()> {
    set_tcp_option(socket, libc::TCP_FASTOPEN, connections_max)
}

/// Makes connect(2) wait for data where a cookie is known, and ask for one where none is: `TCP_FASTOPEN_CONNECT`, `tcp(7)`.
///
/// # Errors
/// Fails with EOPNOTSUPP if the client side of TFO is off here.
pub fn set_tcp_fastopen_connect(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_tcp_option(socket, libc::TCP_FASTOPEN_CONNECT, 1)
}

fn set_tcp_option(socket: BorrowedFd<'_>, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let size = libc_len(size_of_val(&value));
    // SAFETY: the pointer is to a live int of this frame, and `size` is its size.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, name, (&raw const value).cast(), size) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Packets that a packet socket lost because they were not read in time, since the last call: `PACKET_STATISTICS`, `packet(7)`.
///
/// # Errors
/// Fails if the descriptor is not a packet socket.
pub fn packets_dropped(socket: BorrowedFd<'_>) -> io::Result<u32> {
    // Packets, then drops: the kernel's `struct tpacket_stats`.
    let mut counts = [0_u32; 2];
    let mut size = libc_len(size_of_val(&counts));
    let (level, name, place) = (libc::SOL_PACKET, libc::PACKET_STATISTICS, (&raw mut counts).cast());
    // SAFETY: `place` points to `size` live, writable bytes of this frame; the kernel writes at most `size` of them.
    let done = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, place, &raw mut size) };
    if done == 0 { Ok(counts[1]) } else { Err(io::Error::last_os_error()) }
}

/// The first 8 bytes of a connection's `struct tcp_info` (Linux `include/uapi/linux/tcp.h`), a part that never changes.
///
/// # Errors
/// Fails if the descriptor is not a TCP socket.
pub fn tcp_info_head(socket: BorrowedFd<'_>) -> io::Result<[u8; 8]> {
    let mut head = [0_u8; 8];
    let mut size = libc_len(head.len());
    let place = head.as_mut_ptr().cast();
    // SAFETY: `place` points to `size` live, writable bytes of this frame; the kernel writes at most `size` of them.
    let done = unsafe { libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, place, &raw mut size) };
    if done == 0 { Ok(head) } else { Err(io::Error::last_os_error()) }
}

fn libc_len(bytes: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(bytes).expect("a few bytes")
}
