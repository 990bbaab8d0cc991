//! API v1: [`sync`] between nodes and coordinators, [`enrol`] for their certificates, [`fleet`] between operators and
//! coordinators, [`coordinators`] about themselves, [`notify`] to what an operator is told by, and [`secret`], the type of a field that holds key bytes.

pub mod chain;
pub mod coordinators;
pub mod enrol;
pub mod fleet;
pub mod notify;
pub mod orders;
pub mod secret;
pub mod sync;
pub mod tokens;
