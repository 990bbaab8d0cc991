//! `tfo-coordinator` as a process: real TLS, SQLite on disk, nodes and operators that speak API v1 through reqwest.

#![allow(clippy::unwrap_used, reason = "a test ends where its world is not what it made")]

#[path = "../support/mod.rs"]
mod support;

mod config;
mod crash;
mod fleet;
mod process;
mod refusals;
mod rotation;
mod world;
