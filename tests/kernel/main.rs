//! The agent's edges against the real kernel and the real sysctl programs, in network namespaces of the tests' own.

#[path = "../support/mod.rs"]
mod support;

#[expect(clippy::unwrap_used, reason = "a test ends where its host is not what it made")]
mod boot_order;
#[expect(clippy::unwrap_used, reason = "a test ends where its host is not what it made")]
mod cookies;
#[expect(clippy::unwrap_used, reason = "a test ends where its host is not what it made")]
mod keys;
mod namespaces;
#[expect(clippy::unwrap_used, reason = "a test ends where its host is not what it made")]
mod text;
