//! The daemon as systemd runs it: `tfo-agent run` in a network namespace, with a notify socket of the test's.

#[path = "../support/mod.rs"]
mod support;

mod drift;
mod notify;
#[expect(clippy::unwrap_used, reason = "a test ends where its host is not what it made")]
mod sources;
#[expect(clippy::unwrap_used, reason = "a test ends where its host is not what it made")]
mod status;
