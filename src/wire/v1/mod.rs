//! API v1: [`sync`] between nodes and coordinators, [`fleet`] between operators and coordinators, and [`secret`], the
//! type of a field that holds key bytes.

pub mod fleet;
pub mod orders;
pub mod secret;
pub mod sync;
