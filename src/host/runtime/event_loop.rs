//! The event loop of a program that has one thread.

use std::io;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

/// An event loop on the calling thread, with sockets and timers.
///
/// Not `Builder::build`, which can also make one on many threads: a program that calls it has all code of that, and needs libm for one
/// function, a library more at every start of `once` (docs/explanation/one-shot.md).
///
/// # Errors
/// Fails if no descriptor is left.
pub fn new() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_io().enable_time().build_local(LocalOptions::default())
}
