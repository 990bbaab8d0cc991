//! Pure decisions over `model`: no clock, no file, no socket, no randomness, no logging; all of that is passed in.

pub mod convergence;
pub mod fence;
pub mod rollout;
