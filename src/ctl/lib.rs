//! `tfoctl`: commands of the operator, and TFO diagnostics for one host.
//!
//! Sees the network types and the kernel, never the coordinator or the agent.  Each command is a module with its clap
//! arguments and a function that runs it.

pub mod cli;
mod completions;
mod fleet;
pub mod host;
mod pki;
