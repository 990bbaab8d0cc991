//! API v1: [`sync`] between nodes and coordinator, [`fleet`] between operators and coordinator, [`secret`] for the two
//! places where a key travels.

pub mod fleet;
pub mod secret;
pub mod sync;
