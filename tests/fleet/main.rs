//! A fleet under fire: rotations with live traffic, and everything that can happen to a node, an agent or a coordinator.
//!
//! The fleet is the demo's (`tfo-demo --driven`): real kernels, real agents, a real coordinator, live TCP Fast Open clients on v4 and v6.
//! What happens, when, and what it may cost is written here.  A scenario ends only when every client has come round several times.

#[path = "../support/mod.rs"]
mod support;

mod broken;
mod fire;
mod harness;
mod import;
mod joint;
