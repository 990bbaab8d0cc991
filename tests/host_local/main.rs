//! `tfoctl` for one host: against the real kernel, and against servers and clients that nobody here wrote.

#[path = "../support/mod.rs"]
mod support;

#[expect(clippy::unwrap_used, reason = "a test ends where its host is not what it made")]
mod bench;
#[expect(clippy::unwrap_used, reason = "a test ends where its host is not what it made")]
mod get;
#[expect(clippy::unwrap_used, reason = "a test ends where its host is not what it made")]
mod keys;
mod stats;
#[expect(clippy::unwrap_used, reason = "a test ends where its host is not what it made")]
mod status;
