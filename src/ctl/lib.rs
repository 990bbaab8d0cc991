//! `tfoctl`: commands of the operator, and TFO diagnostics for one host.
//!
//! Sees the network types and the kernel, never the coordinator or the agent.  Each command is a module with its clap
//! arguments and a `run` that writes to [`report::Report`] and says how it ended.

pub mod cli;
pub mod completions;
pub mod fleet;
pub mod host;
pub mod pki;
pub mod plain;
pub mod report;
pub mod table;
