//! The agent with a coordinator: real TLS, real long polls, real keys in a kernel, against a coordinator that the test
//! scripts.

mod bears;
mod detached;
mod hostile;
pub(crate) mod install;
mod moved;
mod once;
mod real;
mod refused;
mod renewal;
mod report;
mod sandbox;
mod start;
