//! The simulated fleet.

pub(crate) mod fake;
pub(crate) mod fleet;
pub(crate) mod operators;

pub(crate) fn began() -> std::time::Instant {
    std::time::Instant::now()
}
