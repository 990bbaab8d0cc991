//! The agent with a coordinator: real TLS, real long polls, real keys in a kernel, against a coordinator that the test
//! scripts.

#[path = "../support/mod.rs"]
mod support;

mod install;
#[expect(clippy::unwrap_used, reason = "a test ends where its host is not what it made")]
mod once;
#[expect(clippy::unwrap_used, reason = "a test ends where its fleet is not what it made")]
mod real;
#[expect(clippy::unwrap_used, reason = "a test ends where its host is not what it made")]
mod refused;
mod report;
mod sandbox;
mod start;
