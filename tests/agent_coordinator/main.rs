//! The agent with a coordinator: real TLS, real long polls, real keys in a kernel, against a coordinator that the test
//! scripts.

#[path = "../support/mod.rs"]
mod support;

mod install;
mod once;
mod refused;
mod report;
mod start;
