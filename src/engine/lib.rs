//! Pure decisions over `model`: `now` and everything observed are arguments, what to do is the result.

pub mod backoff;
pub mod fence;
pub mod reconcile;
pub mod rollout;
pub mod schedule;
