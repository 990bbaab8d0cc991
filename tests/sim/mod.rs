//! The simulated fleet.

pub(crate) mod clients;
pub(crate) mod fake;
pub(crate) mod fleet;
pub(crate) mod operators;
pub(crate) mod shelf;
pub(crate) mod summary;

pub(crate) fn began() -> std::time::Instant {
    std::time::Instant::now()
}
