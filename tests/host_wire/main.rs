//! `tfoctl probe`, `verify` and `sniff` against the real kernel, nginx and haproxy, in network namespaces of the tests' own; tshark is the
//! judge of what there was to see.

#[path = "../support/mod.rs"]
mod support;

#[expect(clippy::unwrap_used, reason = "a test ends where its host is not what it made")]
mod probe;
#[expect(clippy::unwrap_used, reason = "a test ends where its host is not what it made")]
mod refusals;
#[expect(clippy::unwrap_used, reason = "a test ends where its host is not what it made")]
mod sniff;
#[expect(clippy::unwrap_used, reason = "a test ends where its host is not what it made")]
mod verify;
#[expect(clippy::unwrap_used, reason = "a test ends where its host is not what it made")]
mod world;
