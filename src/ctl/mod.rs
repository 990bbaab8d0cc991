//! `tfoctl`: commands of the operator, and TFO diagnostics for one host.
//!
//! Sees the network types and the kernel, never the coordinator or the agent.

pub mod host;
