//! tfo-fleet: every node of a fleet shares one TCP Fast Open cookie key, and rotates it without one client noticing.
//!
//! The safety property that everything here serves (PROTOCOL.md section 1):
//!
//! > For any two serving hosts a and b: `primary(a)` is in `accepted(b) = {primary(b), backup(b)}`.
//!
//! Modules in the order in which data flows.  `model` and `engine` are pure; `kernel`, `config`, `crypto` and `runtime`
//! are the edges, `store` keeps pools, `wire` is what goes over the network, `tls` who is at its other
//! end; `agent`, `coordinator`, `ctl` and `demo` put them together.  `tests/tidy` holds the walls.

pub mod agent;
pub mod config;
pub mod coordinator;
pub mod crypto;
pub mod ctl;
pub mod demo;
pub mod engine;
pub mod kernel;
pub mod manual;
pub mod model;
pub mod runtime;
pub mod store;
pub mod tls;
pub mod wire;
