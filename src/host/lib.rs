//! The host's edge: the kernel's key file and counters, the process and its files, and where secrets lie.
//!
//! Must not know: pools, rotations, the network protocol.

pub mod examine;
pub mod kernel;
pub mod runtime;
pub mod secret;
